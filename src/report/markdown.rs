//! Markdown around text that anybody may have written.

use std::fmt::Write;
use unicode_width::UnicodeWidthChar;

/// Columns (as a terminal counts them) of a value that is shown; of a longer one the beginning.
const SHOWN: usize = 60;

/// A value on one line, cut to `columns`: what has no picture of its own is escaped, and what would turn or hide
/// the text around it too.
pub fn shown(text: &str, columns: usize) -> String {
    if text.is_empty() {
        return "(empty)".into();
    }
    let (mut line, mut width) = (String::new(), 0);
    for c in text.chars() {
        let piece = if is_hidden(c) { c.escape_default().to_string() } else { c.to_string() };
        width += piece.chars().map(|c| c.width().unwrap_or(1)).sum::<usize>();
        if width > columns {
            line.push('…');
            break;
        }
        line.push_str(&piece);
    }
    line
}

/// Control characters, line ends, marks that change the direction, and characters that are none.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fdd0}'..='\u{fdef}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
        || u32::from(c) & 0xfffe == 0xfffe
}

/// Text that means nothing to Markdown or HTML, on one line.
pub fn plain(text: &str) -> String {
    let mut escaped = String::new();
    for c in shown(text, SHOWN).chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            // Two of them make a link, one makes a mention.
            ':' | '@' => drop(write!(escaped, "&#{};", u32::from(c))),
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '#' | '+' | '!' | '|' | '~' | '$' => {
                escaped.extend(['\\', c]);
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// A name as code in a table's cell.
pub fn code(text: &str) -> String {
    let shown = shown(text, SHOWN);
    // A code span knows no escapes but the table's own; HTML's does.
    if shown.contains(['`', '|', '\\']) {
        let escaped = shown.chars().map(|c| match c {
            c if c.is_ascii_punctuation() => format!("&#{};", u32::from(c)),
            c => c.into(),
        });
        return format!("<code>{}</code>", escaped.collect::<String>());
    }
    format!("`{shown}`")
}

/// A fenced block that its contents cannot end.
pub fn fenced(language: &str, contents: &str) -> String {
    let longest = contents.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}{language}\n{}\n{fence}\n", contents.trim_end_matches('\n'))
}

/// A table. The head says of each column whether it holds numbers, which stand to the right.
pub fn table(head: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
    let rule = |align: Align| if align == Align::Number { "---:" } else { "---" };
    let (names, rules) = head.iter().map(|(name, align)| (*name, rule(*align))).unzip();
    let rows = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    line(names) + &line(rules) + &rows.collect::<String>()
}

/// What a column of a table holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text, to the left.
    Text,
    /// Numbers, to the right.
    Number,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_a_meaning() {
        for (text, markdown) in [
            ("a|b\nc", r"a\|b\\nc"),
            ("<img src=x>", "&lt;img src=x&gt;"),
            ("**x** `y` [z](u)", r"\*\*x\*\* \`y\` \[z\]\(u\)"),
            ("https://a.b", "https&#58;//a.b"),
            ("", r"\(empty\)"),
            ("\u{202e}abc\u{0}", r"\\u\{202e\}abc\\u\{0\}"),
            ("日本 😀", "日本 😀"),
        ] {
            assert_eq!(plain(text), markdown);
        }
        assert_eq!(shown(&"日".repeat(50), 10), "日日日日日…");
    }

    #[test]
    fn code_and_fences_cannot_be_ended_from_within() {
        assert_eq!(code("metadata.title"), "`metadata.title`");
        assert_eq!(code("a`|b"), "<code>a&#96;&#124;b</code>");
        assert_eq!(fenced("sh", "a ```` b"), "`````sh\na ```` b\n`````\n");
    }
}
