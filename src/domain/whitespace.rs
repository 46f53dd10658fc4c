//! White space as the contract defines it: exactly the characters at which Python's `str.split()`
//! splits. (Rust's `char::is_whitespace` lacks U+001C to U+001F.)

/// Whether `c` is white space.
pub fn is_whitespace(c: char) -> bool {
    matches!(c,
        '\u{9}'..='\u{d}' | '\u{1c}'..='\u{20}' | '\u{85}' | '\u{a0}' | '\u{1680}'
        | '\u{2000}'..='\u{200a}' | '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{3000}')
}

/// Whether a line is blank: nothing in it, or white space alone. Bytes that are not UTF-8 make it
/// not blank (they are to be rejected, not ignored).
pub fn is_blank(line: &[u8]) -> bool {
    std::str::from_utf8(line).is_ok_and(|s| s.chars().all(is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_python_over_the_whole_of_unicode() {
        // [c for c in range(0x110000) if chr(c).isspace()] in CPython 3.11.
        let python = [
            0x9, 0xa, 0xb, 0xc, 0xd, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x85, 0xa0, 0x1680, 0x2000, 0x2001, 0x2002, 0x2003,
            0x2004, 0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200a, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000,
        ];
        let ours: Vec<u32> = ('\0'..=char::MAX).filter(|&c| is_whitespace(c)).map(u32::from).collect();
        assert_eq!(ours, python);
    }

    #[test]
    fn blank_lines() {
        for blank in ["", " ", "\t\r", "\u{2028}\u{3000}\u{1c}"] {
            assert!(is_blank(blank.as_bytes()), "{blank:?}");
        }
        for not in [&b"\xc2"[..], b" \xff", b"x", "\u{200b}".as_bytes(), b"\0"] {
            assert!(!is_blank(not), "{not:?}");
        }
    }
}
