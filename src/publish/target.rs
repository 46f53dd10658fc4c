//! Where an export goes.

use super::discreet;
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Where an export goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A bucket of S3, or of a store that speaks its language.
    S3 {
        /// The bucket.
        bucket: String,
        /// What the names of all objects begin with, without a slash at the end; empty for the bucket's top.
        prefix: String,
    },
    /// A dataset on the Hugging Face Hub.
    Hub {
        /// The user or organisation.
        owner: String,
        /// The dataset.
        name: String,
        /// The branch; the Hub's default branch where it is not given.
        revision: Option<String>,
    },
}

/// How a target is written.
const FORMS: &str = "s3://BUCKET/PREFIX or hf://datasets/OWNER/NAME";

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Target> {
        let wrong = |remedy: String| Error::Usage(format!("target {text}: {remedy}"));
        if let Some(c) = text.chars().find(|c| c.is_control()) {
            return Err(Error::Usage(format!("target: it has the control character U+{:04X}", u32::from(c))));
        }
        let shown = discreet::address(text);
        if shown != text {
            return Err(Error::Usage(format!(
                "target {shown}: there is a user name, a password or a signature in it, as *** stands for: take it out, \
                 credentials come otherwise; write {FORMS}"
            )));
        }
        match text.split_once("://") {
            Some(("s3", rest)) => s3(rest).map_err(wrong),
            Some(("hf", rest)) => hub(rest).map_err(wrong),
            Some(("https" | "http", rest)) => Err(wrong(match rest.split_once("/datasets/") {
                Some((_, dataset)) => format!("write hf://datasets/{}", dataset.trim_end_matches('/')),
                None => format!("write {FORMS}; another server is named by --endpoint-url"),
            })),
            Some((scheme, _)) => Err(wrong(format!("'{scheme}' is not known; write {FORMS}"))),
            None => Err(wrong(format!("write {FORMS}"))),
        }
    }
}

fn s3(rest: &str) -> std::result::Result<Target, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if bucket.is_empty() {
        return Err("the bucket is missing; write s3://BUCKET/PREFIX".into());
    }
    if !bucket.chars().all(is_name) {
        return Err(format!("'{bucket}' is no bucket's name: letters, digits, points and hyphens are allowed"));
    }
    let prefix = prefix.trim_end_matches('/');
    if prefix.split('/').any(|part| matches!(part, "" | "." | "..")) && !prefix.is_empty() {
        return Err("a prefix has no empty parts, no '.' and no '..'; write s3://BUCKET/PREFIX".into());
    }
    Ok(Target::S3 { bucket: bucket.into(), prefix: prefix.into() })
}

fn hub(rest: &str) -> std::result::Result<Target, String> {
    const FORM: &str = "hf://datasets/OWNER/NAME";
    let (path, revision) = match rest.split_once('@') {
        Some((path, revision)) => (path, Some(revision)),
        None => (rest, None),
    };
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let is_name = |part: &str| {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        !part.is_empty() && part.chars().all(is_allowed) && !matches!(part, "." | "..")
    };
    let (owner, name) = match parts[..] {
        ["datasets", owner, name] => (owner, name),
        ["datasets", name] => return Err(format!("whose is it? Write hf://datasets/OWNER/{name}")),
        ["models" | "spaces", ..] => return Err(format!("an export is a dataset; write {FORM}")),
        ["datasets", owner, name, ..] => {
            return Err(format!("a dataset is a repository of its own; write hf://datasets/{owner}/{name}"));
        }
        [owner, name] => return Err(format!("write hf://datasets/{owner}/{name}")),
        _ => return Err(format!("write {FORM}")),
    };
    if let Some(bad) = [owner, name].into_iter().find(|part| !is_name(part)) {
        return Err(format!("'{bad}' is no name on the Hub: letters, digits, '-', '_' and '.' are allowed"));
    }
    match revision {
        Some("") => return Err(format!("there is nothing after '@'; write {FORM}@BRANCH, or leave '@' out")),
        Some(bad) if bad.contains(char::is_whitespace) || bad.contains("..") => {
            return Err(format!("'{bad}' is no branch's name"));
        }
        _ => {}
    }
    Ok(Target::Hub { owner: owner.into(), name: name.into(), revision: revision.map(String::from) })
}

impl Target {
    /// The feature with which the program must be built to reach it.
    pub fn feature(&self) -> &'static str {
        match self {
            Target::S3 { .. } => "s3",
            Target::Hub { .. } => "hub",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Target::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Target::Hub { owner, name, revision: None } => write!(f, "hf://datasets/{owner}/{name}"),
            Target::Hub { owner, name, revision: Some(at) } => write!(f, "hf://datasets/{owner}/{name}@{at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_written_again() {
        for (text, shown) in [
            ("s3://bucket/a/b", "s3://bucket/a/b"),
            ("s3://bucket/a/", "s3://bucket/a"),
            ("s3://my.bucket-1", "s3://my.bucket-1"),
            ("s3://bucket/", "s3://bucket"),
            ("hf://datasets/me/set", "hf://datasets/me/set"),
            ("hf://datasets/me/set/", "hf://datasets/me/set"),
            ("hf://datasets/me/set@refs/pr/1", "hf://datasets/me/set@refs/pr/1"),
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.to_string(), shown);
            assert_eq!(shown.parse::<Target>().expect(shown), target);
        }
    }

    #[test]
    fn what_is_no_target_says_what_to_write() {
        for (text, part) in [
            ("bucket/prefix", "s3://BUCKET/PREFIX or hf://"),
            ("s3:///x", "bucket is missing"),
            ("s3://", "bucket is missing"),
            ("s3://a b/x", "'a b'"),
            ("s3://b/x//y", "no empty parts"),
            ("s3://b/../y", "no empty parts"),
            ("gs://b/x", "'gs' is not known"),
            ("https://huggingface.co/datasets/me/set", "hf://datasets/me/set"),
            ("https://s3.example.org/b", "--endpoint-url"),
            ("hf://me/set", "write hf://datasets/me/set"),
            ("hf://datasets/set", "hf://datasets/OWNER/set"),
            ("hf://datasets/me/set/data", "write hf://datasets/me/set"),
            ("hf://models/me/set", "a dataset"),
            ("hf://datasets/m e/set", "'m e'"),
            ("hf://datasets/me/..", "'..'"),
            ("hf://datasets/me/set@", "after '@'"),
            ("s3://b/\u{1b}[31m", "U+001B"),
            ("s3://AKIA:SECRET@b/x", "s3://***@b/x"),
            ("https://me:SECRET@s3.example.org/b", "https://***@s3.example.org/b"),
            ("https://b.example.org/x?X-Amz-Signature=SECRET", "https://b.example.org/x?***"),
        ] {
            let error = text.parse::<Target>().expect_err(text);
            assert_eq!(error.status(), 2);
            assert!(error.to_string().contains(part) && !error.to_string().contains("SECRET"), "{error}");
        }
    }
}
