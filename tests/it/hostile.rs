//! Lines that are meant to break things: made from sound ones, by rules and by chance.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A source of random choices, the same for the same seed on every machine.
pub struct Dice(ChaCha8Rng);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.0.next_u64() % limit.max(1) as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Pieces of strings as they stand in JSON: scripts, escapes, white space of every kind, and what
/// must not be there.
const PIECES: [&str; 54] = [
    "a",
    "word ",
    " ",
    "  ",
    "plain ASCII text of some length, with commas. ",
    "\\n",
    "\\n\\n",
    "\\t",
    "\\\"",
    "\\\\",
    "\\/",
    "\\b\\f\\r",
    "\\u0041",
    "\\u00e9",
    "\\u00E9\\u0416",
    "\\u4e2d\\u6587\\uff0c",
    "\\u3000",
    "\\u2028",
    "\\u0085",
    "\\u00a0",
    "\\u001c\\u001F",
    "\\ud83d\\ude00",
    "\\uD83D\\uDE00",
    "é",
    "Привет мир ",
    "中文，测试。",
    "日本語のテキスト　です",
    "한국어 ",
    "مرحبا",
    "😀👩‍💻",
    "\u{85}",
    "\u{a0}",
    "\u{1680}",
    "\u{2000}",
    "\u{200a}",
    "\u{200b}",
    "\u{2028}",
    "\u{2029}",
    "\u{202f}",
    "\u{205f}",
    "\u{3000}",
    "\u{feff}",
    "\u{180e}",
    "\u{7f}",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "\\ud800\\u0041",
    "\\udc00\\ud800",
    "\\x",
    "\\u12g4",
    "\\u12",
    "\u{1}",
    "\\",
];
/// How many of the pieces are sound.
const SOUND_PIECES: usize = 44;

const VALUES: [&str; 44] = [
    "0",
    "-0",
    "1",
    "12.50",
    "1e5",
    "1E+400",
    "-1.5e-7",
    "123456789012345678901234567890",
    "01",
    "1.",
    ".5",
    "+1",
    "-",
    "1e",
    "0x1",
    "NaN",
    "Infinity",
    "-Infinity",
    "true",
    "false",
    "null",
    "nul",
    "True",
    "[]",
    "{}",
    "[ ]",
    "{ }",
    "[1,2,[3,{\"text\":\"x\"}]]",
    "{\"a\":{\"b\":[1,\"\\ud800\"]}}",
    "[1,]",
    "{\"a\":1,}",
    "{\"a\"}",
    "{a:1}",
    "[1 2]",
    "\"\"",
    "\" \"",
    "\"s\"",
    "'s'",
    "\"\\ud800\"",
    "\"open",
    "{\"text\":\"inner\",\"title\":7}",
    "// x",
    "[[[[]]]]",
    "[}",
];

const KEYS: [&str; 18] = [
    "\"text\"",
    "\"text\"",
    "\"text\"",
    "\"te\\u0078t\"",
    "\"title\"",
    "\"url\"",
    "\"domain\"",
    "\"quality_prob\"",
    "\"word_count\"",
    "\"id\"",
    "\"meta\"",
    "\"deep\"",
    "\"inner\"",
    "\"text \"",
    "\"Text\"",
    "\"\"",
    "\"\\ud800\"",
    "\"k\\\"ey\"",
];

const GAPS: [&str; 8] = ["", "", "", "", " ", "  ", "\t", "\r"];

/// A string of up to `pieces` pieces, mostly sound ones.
pub fn string(dice: &mut Dice, pieces: usize) -> String {
    let mut s = String::from("\"");
    for _ in 0..dice.below(pieces + 1) {
        let among = if dice.below(60) == 0 { &PIECES[..] } else { &PIECES[..SOUND_PIECES] };
        s.push_str(dice.pick(among));
    }
    s.push('"');
    s
}

fn value(dice: &mut Dice, key: &str, depth: usize) -> String {
    match (key, dice.below(8)) {
        (_, 0) => dice.pick(&VALUES).to_owned(),
        ("\"text\"", _) => {
            let pieces = dice.pick(&[1, 3, 10, 40, 200]);
            string(dice, pieces)
        }
        ("\"quality_prob\"" | "\"word_count\"", _) => dice.pick(&VALUES[..8]).to_owned(),
        (_, 1 | 2) if depth < 4 => object(dice, depth + 1),
        _ => string(dice, 4),
    }
}

/// An object with some of the mapped keys, sound more often than not.
pub fn object(dice: &mut Dice, depth: usize) -> String {
    let gap = |dice: &mut Dice| dice.pick(&GAPS);
    let mut s = String::from("{");
    for i in 0..dice.below(8) {
        if i > 0 {
            s.push(',');
        }
        let key = if i == 0 && depth == 0 { "\"text\"" } else { dice.pick(&KEYS) };
        s.push_str(gap(dice));
        s.push_str(key);
        s.push_str(gap(dice));
        s.push(':');
        s.push_str(gap(dice));
        let value = value(dice, key, depth);
        s.push_str(&value);
        s.push_str(gap(dice));
    }
    s.push('}');
    s
}

/// Changes a few bytes of a line.
pub fn mutate(dice: &mut Dice, line: &mut Vec<u8>) {
    const BYTES: &[u8] = b"\"\\{}[]:, \t\r\x00\x01\x1f\x20\x7f\x80\xbf\xc0\xc2\xe2\xed\xf0\xf5\xff0aeu-.";
    for _ in 0..=dice.below(3) {
        if line.is_empty() {
            return;
        }
        let at = dice.below(line.len());
        match dice.below(6) {
            0 => line[at] = dice.pick(BYTES),
            1 => line.insert(at, dice.pick(BYTES)),
            2 => drop(line.remove(at)),
            3 => line.truncate(at),
            4 => line[at] ^= 1 << dice.below(8),
            _ => {
                let end = (at + dice.below(20)).min(line.len());
                let copy = line[at..end].to_vec();
                line.splice(at..at, copy);
            }
        }
        line.retain(|b| *b != b'\n');
    }
}

/// A chunk of hostile lines; about half of them are sound JSON.
pub fn chunk(seed: u64, lines: usize) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    let mut chunk = Vec::new();
    for _ in 0..lines {
        let mut line = match dice.below(12) {
            0 => dice.pick(&["", " ", "\r", "\t \r", "\u{2028}", "\u{b}\u{c}", "\u{a0}"]).as_bytes().to_vec(),
            1 => dice.pick(&VALUES).as_bytes().to_vec(),
            _ => object(&mut dice, 0).into_bytes(),
        };
        if dice.below(3) == 0 {
            mutate(&mut dice, &mut line);
        }
        if dice.below(10) == 0 {
            line.push(b'\r');
        }
        chunk.extend(line);
        chunk.push(b'\n');
    }
    if dice.below(2) == 0 {
        chunk.pop();
    }
    chunk
}
