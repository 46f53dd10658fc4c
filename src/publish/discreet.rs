//! What others say, made fit to be printed: servers and helper programs repeat what they were sent, secrets and all, and
//! some say more than anyone wants to read.

/// What stands in a secret's place.
const HIDDEN: &str = "***";
/// What comes before a secret, when `=` or `:` is between.
const LABELS: [&str; 12] = [
    "access-token",
    "access_token",
    "authorization",
    "password",
    "secret",
    "secretaccesskey",
    "sessiontoken",
    "signature",
    "token",
    "x-amz-security-token",
    "x-amz-signature",
    "x-xet-access-token",
];
/// What comes before a secret in a header's value.
const SCHEMES: [&str; 2] = ["basic", "bearer"];
/// The shortest secret that is looked for: a shorter one would be found in every other word.
const SHORTEST: usize = 8;

/// A text of somebody else's in one line of at most so many characters, without what does something to a terminal and
/// without secrets: those that are given, and what looks like one.
pub fn text(text: &str, secrets: &[String], most: usize) -> String {
    // Nobody reads on for so long, and nobody waits for it.
    let text: String = text.chars().take(most.saturating_mul(20)).collect();
    let known = secrets.iter().filter(|secret| secret.len() >= SHORTEST);
    let text = known.fold(text, |text, secret| text.replace(secret.as_str(), HIDDEN).replace(&encoded(secret), HIDDEN));
    let text: String = text.chars().map(|c| if is_harmful(c) { ' ' } else { c }).collect();
    let mut words: Vec<String> = Vec::new();
    let mut is_secret = false;
    for word in text.split_whitespace() {
        let shown = if is_secret { HIDDEN.to_owned() } else { self::word(word) };
        is_secret = announces(word) || (is_secret && announces_scheme(word));
        words.push(shown);
    }
    cut(words.join(" "), most)
}

/// An address without the name and password in it, and without what comes behind `?`.
pub fn address(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = match authority.rsplit_once('@') {
        Some((_, host)) => format!("{HIDDEN}@{host}"),
        None => authority.to_owned(),
    };
    let path = match path.split_once('?') {
        Some((path, _)) if scheme.trim_start_matches(|c: char| !c.is_alphanumeric()).starts_with("http") => {
            format!("{path}?{HIDDEN}")
        }
        _ => path.to_owned(),
    };
    format!("{scheme}://{host}{path}")
}

/// What moves a cursor, changes a colour, or turns the direction of what is read.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn cut(mut text: String, most: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A secret as it stands in a URL.
fn encoded(secret: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let encode = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    secret.bytes().map(encode).collect()
}

/// Whether what comes next is a secret.
fn announces(word: &str) -> bool {
    let bare = bare(word);
    announces_scheme(word) || (word.ends_with([':', '=']) && LABELS.contains(&bare.as_str()))
}

fn announces_scheme(word: &str) -> bool {
    // It may be the value of something, with only `=` between.
    let last = word.rsplit(['=', ':']).next().unwrap_or_default();
    SCHEMES.contains(&bare(last).as_str())
}

/// A word in lower case, without what stands around it.
fn bare(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_ascii_lowercase()
}

/// A word without the secret in it.
fn word(word: &str) -> String {
    if word.contains("://") {
        return address(word);
    }
    // Tokens of the Hub.
    if let Some(at) = word.find("hf_") {
        let rest = &word[at + 3..];
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        if length >= SHORTEST {
            return format!("{}{HIDDEN}{}", &word[..at], self::word(&rest[length..]));
        }
    }
    let parts = word.split_inclusive(['&', ',', ';', '?']);
    parts.map(part).collect()
}

/// `name=value` without the value, if the name is that of a secret.
fn part(part: &str) -> String {
    let Some(at) = part.find(['=', ':']) else { return part.to_owned() };
    let value = &part[at + 1..];
    let is_named = LABELS.contains(&bare(&part[..at]).as_str());
    if !is_named || value.trim_matches(|c: char| !c.is_ascii_alphanumeric()).is_empty() {
        return part.to_owned();
    }
    format!("{}{HIDDEN}", &part[..=at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(said: &str) -> String {
        text(said, &["wJalrXUtn/K7MD+EXAMPLE".into(), "ab".into()], 200)
    }

    #[test]
    fn what_does_no_harm_stays() {
        for said in [
            "The specified bucket does not exist",
            "could not look up the token; check the signature, and the secret",
            "slow down: 100 requests a second = too many; see https://status.example.org/now",
            "Ünïcode ist erlaubt, 日本語も",
            "abab: a short secret is no reason to hide words",
            "hf_ and half_done",
        ] {
            assert_eq!(shown(said), said);
        }
    }

    #[test]
    fn secrets_are_hidden() {
        for (said, expected) in [
            ("key wJalrXUtn/K7MD+EXAMPLE.", "key ***."),
            ("?x=wJalrXUtn%2FK7MD%2BEXAMPLE&y", "?x=***&y"),
            ("Authorization: Bearer hf_abcdefghijkl sent", "Authorization: *** *** sent"),
            ("authorization=Basic dXNlcjpwYXNz!", "authorization=*** ***"),
            ("got 'Bearer abc.def'", "got 'Bearer ***"),
            ("the token hf_abcdefghijkl, is bad", "the token ***, is bad"),
            (
                "Credential=AKIA/1, SignedHeaders=host, Signature=0011aabb",
                "Credential=AKIA/1, SignedHeaders=host, Signature=***",
            ),
            ("https://u:SECRET@host/a?X-Amz-Signature=SECRET&b=1 failed", "https://***@host/a?*** failed"),
            ("/a?X-Amz-Security-Token=SECRET&b=1", "/a?X-Amz-Security-Token=***b=1"),
            ("{\"SecretAccessKey\": \"SECRET\", \"x\": 1}", "{\"SecretAccessKey\": *** \"x\": 1}"),
            ("{\"SessionToken\":\"SECRET\"}", "{\"SessionToken\":***"),
            ("x-amz-security-token: SECRET", "x-amz-security-token: ***"),
        ] {
            assert_eq!(shown(said), expected, "{said}");
        }
    }

    #[test]
    fn nothing_happens_to_a_terminal() {
        assert_eq!(shown("\u{1b}[31mred\u{1b}]0;title\u{7}\r\n\n\u{9b}2J a\u{202e}b"), "[31mred ]0;title 2J a b");
        assert_eq!(shown(&"x".repeat(100_000)), "x".repeat(200) + "…");
        assert_eq!(shown(&" \n".repeat(100_000)), "");
    }

    #[test]
    fn addresses_are_without_what_is_secret_in_them() {
        for (said, expected) in [
            ("s3://bucket/a@b", "s3://bucket/a@b"),
            ("s3://KEY:SECRET@bucket/x", "s3://***@bucket/x"),
            ("https://u:p@ss@host:1/x?y#z", "https://***@host:1/x?***"),
            ("https://host", "https://host"),
            ("hf://datasets/me/set@main", "hf://datasets/me/set@main"),
            ("bucket/x", "bucket/x"),
        ] {
            assert_eq!(address(said), expected);
        }
    }
}
