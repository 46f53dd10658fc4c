//! What came of an upload, as text.

use super::summary::thousands;
use crate::publish::receipt::{Entry, Listed, Receipt};
use indicatif::HumanBytes;
use std::fmt::Write;

/// What was done, and what lies at the target now.
pub fn text(receipt: &Receipt) -> String {
    let mut text = String::new();
    let would = if receipt.dry_run { "would be " } else { "" };
    let mut row = |what: &str, entries: &[Entry]| {
        let bytes = entries.iter().map(|entry| entry.bytes).sum();
        let _ = writeln!(text, "{what:<22}  {:>8} files  {}", thousands(entries.len() as u64), HumanBytes(bytes));
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
        receipt.listing.iter().for_each(|listed| line(&mut text, listed));
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

/// A line in the layout of `aws s3 ls --human-readable`: time (local, as there), size, name.
fn line(text: &mut String, listed: &Listed) {
    let modified = listed.modified.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let modified =
        modified.map(|at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string());
    let _ = writeln!(text, "{:19} {:>10} {}", modified.unwrap_or_default(), human(listed.bytes), listed.path);
}

/// A size as awscli writes it: `1 Byte`, `12 Bytes`, `1.5 KiB`.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} {}", if bytes == 1 { "Byte" } else { "Bytes" });
    }
    let mut unit = 1024.0;
    for name in UNITS {
        // What would be rounded to 1024.0 is written in the next unit.
        if (bytes as f64 / unit * 10.0).round() < 10_240.0 {
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
    fn sizes_are_written_as_awscli_does() {
        for (bytes, text) in [
            (0, "0 Bytes"),
            (1, "1 Byte"),
            (1023, "1023 Bytes"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (8 << 30, "8.0 GiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
