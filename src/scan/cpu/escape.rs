//! Escapes of JSON strings.

/// What a one-letter escape stands for; 0 where JSON has no such escape (`\u` is another matter).
pub const SIMPLE: [u8; 256] = {
    let mut table = [0; 256];
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table[b'/' as usize] = b'/';
    table[b'b' as usize] = 0x08;
    table[b'f' as usize] = 0x0c;
    table[b'n' as usize] = b'\n';
    table[b'r' as usize] = b'\r';
    table[b't' as usize] = b'\t';
    table
};

/// Value of a hexadecimal digit; 0xff for any other byte.
const HEX: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut i = 0;
    while i < 16 {
        table[b"0123456789abcdef"[i] as usize] = i as u8;
        table[b"0123456789ABCDEF"[i] as usize] = i as u8;
        i += 1;
    }
    table
};

/// The number that four hexadecimal digits stand for.
#[inline(always)]
pub fn hex4(digits: [u8; 4]) -> Option<u16> {
    let [a, b, c, d] = digits.map(|digit| HEX[usize::from(digit)]);
    // A digit is below 16, so any bit above says that one of them wasn't.
    if (a | b | c | d) > 0x0f {
        return None;
    }
    Some(u16::from(a) << 12 | u16::from(b) << 8 | u16::from(c) << 4 | u16::from(d))
}

/// Whether a UTF-16 code unit is half of a surrogate pair.
#[inline(always)]
pub fn is_surrogate(unit: u16) -> bool {
    unit & 0xf800 == 0xd800
}

/// Writes a character as UTF-8 and says how many bytes that took.
///
/// # Safety
/// Four bytes must be writable at `to`.
#[inline(always)]
pub unsafe fn encode_utf8(code: u32, to: *mut u8) -> usize {
    let tail = |shift: u32| 0x80 | (code >> shift & 0x3f) as u8;
    let (bytes, len) = match code {
        0..0x80 => ([code as u8, 0, 0, 0], 1),
        0x80..0x800 => ([0xc0 | (code >> 6) as u8, tail(0), 0, 0], 2),
        0x800..0x1_0000 => ([0xe0 | (code >> 12) as u8, tail(6), tail(0), 0], 3),
        _ => ([0xf0 | (code >> 18) as u8, tail(12), tail(6), tail(0)], 4),
    };
    // SAFETY: the caller vouches for four bytes.
    unsafe { to.cast::<[u8; 4]>().write_unaligned(bytes) };
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits() {
        assert_eq!(hex4(*b"00fF"), Some(0xff));
        assert_eq!(hex4(*b"DeaD"), Some(0xdead));
        for bad in [*b"00g0", *b"+123", *b" 123", *b"12\"3"] {
            assert_eq!(hex4(bad), None);
        }
    }

    #[test]
    fn every_character_encodes_as_in_std() {
        for c in '\0'..=char::MAX {
            let mut ours = [0; 4];
            // SAFETY: four bytes.
            let len = unsafe { encode_utf8(c.into(), ours.as_mut_ptr()) };
            assert_eq!(&ours[..len], c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}
