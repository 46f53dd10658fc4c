//! What came of an upload, as text.

use super::summary::thousands;
use crate::publish::receipt::{Entry, Listed, Receipt};
use indicatif::HumanBytes;
use std::fmt::Write;

/// What was done, and what lies at the target now.
pub fn text(receipt: &Receipt) -> String {
    let mut text = String::new();
    let (would, width) = if receipt.dry_run { ("would be ", 27) } else { ("", 18) };
    let mut row = |what: &str, entries: &[Entry]| {
        let bytes = entries.iter().map(|entry| entry.bytes).sum();
        let files = if entries.len() == 1 { "file " } else { "files" };
        let count = thousands(entries.len() as u64);
        let _ = writeln!(text, "{what:<width$}  {count:>8} {files}  {}", HumanBytes(bytes));
    };
    row(&format!("{would}sent"), &receipt.sent);
    row(&format!("{would}skipped (the same)"), &receipt.skipped);
    row(&format!("{would}deleted"), &receipt.deleted);
    if receipt.dry_run {
        list(&mut text, "send", &receipt.sent);
        list(&mut text, "delete", &receipt.deleted);
        return text;
    }
    if !receipt.listing.is_empty() {
        text.push('\n');
        let has_times = receipt.listing.iter().any(|listed| listed.modified.is_some());
        receipt.listing.iter().for_each(|listed| line(&mut text, listed, has_times));
        text.push('\n');
    }
    let _ = match (&receipt.url, &receipt.commit) {
        (Some(url), Some(commit)) => writeln!(text, "Commit {commit} at {url}"),
        (Some(url), None) => writeln!(text, "{url}"),
        _ => Ok(()),
    };
    let retries = match receipt.retries {
        0 => String::new(),
        1 => ", 1 request made again".into(),
        n => format!(", {} requests made again", thousands(n)),
    };
    let (target, took) = (&receipt.target, format!("{:.1} s", receipt.seconds));
    let _ = writeln!(text, "Uploaded to {target} ({} in {took}{retries})", HumanBytes(receipt.bytes_sent));
    text
}

fn list(text: &mut String, what: &str, entries: &[Entry]) {
    for entry in entries {
        let _ = writeln!(text, "  {what} {} ({})", entry.path, HumanBytes(entry.bytes));
    }
}

/// A line in the layout of `aws s3 ls --human-readable`: time (local, as there), size, name. Where the target says no
/// times, there is no room for them.
fn line(text: &mut String, listed: &Listed, has_times: bool) {
    let modified = listed.modified.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let modified =
        modified.map(|at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string());
    let (size, path) = (human(listed.bytes), printable(&listed.path));
    let _ = match has_times {
        true => writeln!(text, "{:19} {size:>10} {path}", modified.unwrap_or_default()),
        false => writeln!(text, "{size:>10} {path}"),
    };
}

/// A path of somebody else's, without what does something to a terminal.
fn printable(path: &str) -> String {
    path.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A size as awscli writes it: `1 Byte`, `12 Bytes`, `1.5 KiB`.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} {}", if bytes == 1 { "Byte" } else { "Bytes" });
    }
    let mut unit = 1024.0;
    for name in UNITS {
        // As there: what would be 1,024 without its decimal is written in the next unit.
        if (bytes as f64 / unit).round() < 1024.0 {
            return format!("{:.1} {name}", bytes as f64 / unit);
        }
        unit *= 1024.0;
    }
    format!("{:.1} EiB", bytes as f64 / (unit / 1024.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_without_times_has_no_room_for_them() {
        let listed = |path: &str, modified| Listed { path: path.into(), bytes: 12, modified };
        let shown = |listing| text(&Receipt { target: "x".into(), listing, ..Receipt::default() });
        assert!(shown(vec![listed("a\u{1b}[2J", None)]).contains("\n\n  12 Bytes a\u{fffd}[2J\n\n"));
        let both = shown(vec![listed("a", None), listed("b", Some(0))]);
        assert!(both.contains(&format!("\n\n{} 12 Bytes a\n", " ".repeat(21))), "{both}");
        assert!(both.contains(" 12 Bytes b\n"), "{both}");
    }

    #[test]
    fn sizes_are_written_as_awscli_does() {
        for (bytes, text) in [
            (0, "0 Bytes"),
            (1, "1 Byte"),
            (1023, "1023 Bytes"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_063, "1023.5 KiB"),
            (1_048_064, "1.0 MiB"),
            (1_048_575, "1.0 MiB"),
            (8 << 30, "8.0 GiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
