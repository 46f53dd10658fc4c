//! Addresses of servers.

use crate::error::{Error, Result};

/// Fails if a server's address cannot be used. What it has of a name or password is never repeated: errors are
/// printed and kept, and so are the addresses of requests that fail.
///
/// `source` is the option or variable that it comes from.
///
/// # Errors
/// [`Error::Usage`] without the address.
pub fn check(source: &str, text: &str) -> Result<()> {
    let wrong = |what: &str| Err(Error::Usage(format!("{source}: {what}")));
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest.filter(|rest| !rest.is_empty()) else {
        return wrong("write a URL that starts with https:// or http://");
    };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    if authority.contains('@') {
        return wrong("the address has a user name or a password in it: take it out, credentials come otherwise");
    }
    if rest.contains(['?', '#']) {
        return wrong("the address of a server has no '?' and no '#'");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return wrong("the address has characters that no URL has");
    }
    match url::Url::parse(text) {
        Ok(_) => Ok(()),
        Err(error) => wrong(&format!("this is no address of a server ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_can_be_used_is_left_alone() {
        for text in [
            "https://huggingface.co",
            "http://localhost:9000",
            "http://127.0.0.1:65535/",
            "http://[::1]:9000",
            "https://store.example.org/s3/@home",
        ] {
            check("--endpoint-url", text).expect(text);
        }
    }

    #[test]
    fn what_cannot_is_refused_without_being_repeated() {
        for (text, part) in [
            ("", "starts with https://"),
            ("http://", "starts with https://"),
            ("SECRET.example.org:9000", "starts with https://"),
            ("ftp://SECRET.example.org", "starts with https://"),
            ("http://u:SECRET@host", "a user name or a password"),
            ("http://SECRET@host:99999", "a user name or a password"),
            ("http://u:SECRET@[::1", "a user name or a password"),
            ("http://:SECRET@", "a user name or a password"),
            ("http://host/?key=SECRET", "no '?'"),
            ("http://?x", "no '?'"),
            ("http://host/#SECRET", "no '#'"),
            ("http://127.0.0.1:99999", "no address of a server"),
            ("http://[::1", "no address of a server"),
            ("http:///", "no address of a server"),
            ("http://ho st", "characters"),
            ("http://host\n", "characters"),
            ("http://h\u{f6}st", "characters"),
            ("http://host\\x", "characters"),
        ] {
            let error = check("HF_ENDPOINT", text).expect_err(text);
            let shown = error.to_string();
            assert!(error.status() == 2 && shown.contains("HF_ENDPOINT") && shown.contains(part), "{text}: {shown}");
            assert!(!shown.contains("SECRET"), "{shown}");
        }
    }
}
