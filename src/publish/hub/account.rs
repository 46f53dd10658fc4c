//! Who uploads, and where the Hub is: the variables and files that all of the Hub's clients heed.

use crate::error::{Context, Error, Result, show};
use crate::publish::address;
use reqwest::header::HeaderValue;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The Hub, if `HF_ENDPOINT` names no other.
const ENDPOINT: &str = "https://huggingface.co";

/// More bytes than any token has.
const LONGEST: u64 = 16 << 10;

/// A token. It has no way to be printed.
pub struct Token {
    header: HeaderValue,
    text: String,
}

/// What the environment says.
pub struct Account {
    /// The Hub's address, without a slash at the end.
    pub endpoint: String,
    /// Who uploads.
    pub token: Token,
}

impl Account {
    /// Reads the environment.
    ///
    /// # Errors
    /// [`Error::Usage`] if a variable cannot mean anything; [`Error::Environment`] if there is no token.
    pub fn from_environment() -> Result<Account> {
        if variable("HF_HUB_OFFLINE").is_some_and(|value| !matches!(value.to_str(), Some("0" | "false" | "no" | "off")))
        {
            return Err(Error::Usage("HF_HUB_OFFLINE is set, so nothing is sent to the Hub: unset it".into()));
        }
        let endpoint = match variable("HF_ENDPOINT") {
            None => ENDPOINT.to_owned(),
            Some(value) => {
                let text = value.to_string_lossy().trim_end_matches('/').to_owned();
                address::check("HF_ENDPOINT", &text)?;
                text
            }
        };
        Ok(Account { endpoint, token: token()? })
    }
}

impl Token {
    /// The header that says who asks. It is marked, so that no library writes it to a log.
    pub fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    /// For those who see to it that it is not printed.
    pub fn secret(&self) -> &str {
        &self.text
    }

    /// `source` says where the text is from.
    fn new(text: &str, source: &str) -> Result<Token> {
        // The text itself is not for a message, not even if it is no token.
        let wrong = |what: &str| environment(source, what, NO_TOKEN);
        if text.contains(['\n', '\r']) {
            return Err(wrong("there is more than one line, and a token has one"));
        }
        if text.contains(char::is_whitespace) {
            return Err(wrong("there is a space in it, and a token has none"));
        }
        let header = HeaderValue::from_str(&format!("Bearer {text}"));
        let mut header = header.map_err(|_| wrong("what is there is no token"))?;
        header.set_sensitive(true);
        Ok(Token { header, text: text.into() })
    }
}

/// What to do without a token.
pub const NO_TOKEN: &str = "make a token that may write at https://huggingface.co/settings/tokens and give it by HF_TOKEN, \
    by a file that HF_TOKEN_PATH names, or by `hf auth login`";

fn token() -> Result<Token> {
    let text = variable("HF_TOKEN").map(|text| text.to_string_lossy().trim().to_owned());
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        return Token::new(&text, "HF_TOKEN");
    }
    let (path, named) = match variable("HF_TOKEN_PATH") {
        Some(path) => (PathBuf::from(path), true),
        None => (home().0.join("token"), false),
    };
    let source = if named { format!("HF_TOKEN_PATH: {}", show(&path)) } else { show(&path) };
    match read(&path) {
        Ok(text) if !text.trim().is_empty() => Token::new(text.trim(), &source),
        Ok(_) => Err(environment(&source, "there is no token in it", NO_TOKEN)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !named => {
            Err(environment("the Hub", "there is no token, and nobody uploads without", NO_TOKEN))
        }
        Err(error) => Err(match Error::io(&path, "read the token", &error) {
            Error::Environment { cause, remedy, .. } => {
                let remedy = if remedy.is_empty() { NO_TOKEN.into() } else { remedy };
                Error::Environment { subject: source, cause, remedy }
            }
            error => error,
        }),
    }
}

/// The text of a token's file. What is longer than any token is not read to its end.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    if read as u64 == LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than any token"));
    }
    Ok(text)
}

/// A folder that keeps what a later run can take up. It is removed with the value if it is nobody else's.
pub struct Cache {
    /// Where it is.
    pub path: PathBuf,
    _own: Option<tempfile::TempDir>,
}

impl Cache {
    /// The cache of the Xet store's clients, or where that cannot be written, one for this run alone.
    ///
    /// # Errors
    /// If a variable names a folder that cannot be written.
    pub fn open() -> Result<Cache> {
        let (path, variable) = match variable("HF_XET_CACHE") {
            Some(path) => (PathBuf::from(path), Some("HF_XET_CACHE")),
            None => {
                let (home, variable) = home();
                (home.join("xet"), variable)
            }
        };
        let Err(error) = writable(&path) else { return Ok(Cache { path, _own: None }) };
        if let Some(variable) = variable {
            let cause = format!("{variable} puts the Hub's cache there, and it cannot be written: {error}");
            return Err(Error::environment(&path, cause, "let it name a folder that can be written"));
        }
        let (own, shown) = (tempfile::Builder::new().prefix("colophon-xet-").tempdir(), show(&path));
        let own = own.context(&std::env::temp_dir(), "make a folder for the Hub's cache")?;
        tracing::info!(
            "{shown} cannot be written ({error}): an upload that is killed will begin anew; HF_HOME names another folder"
        );
        Ok(Cache { path: own.path().into(), _own: Some(own) })
    }
}

/// Whether files can be made in a folder, which is made if need be.
fn writable(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    tempfile::Builder::new().prefix(".colophon-").tempfile_in(folder).map(|_| ())
}

/// The folder of the Hub's clients, and the variable that names it.
fn home() -> (PathBuf, Option<&'static str>) {
    if let Some(home) = variable("HF_HOME") {
        return (home.into(), Some("HF_HOME"));
    }
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    (cache.unwrap_or_else(|| PathBuf::from(".cache")).join("huggingface"), None)
}

/// A variable that says something.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn environment(subject: &str, cause: &str, remedy: &str) -> Error {
    Error::Environment { subject: subject.into(), cause: cause.into(), remedy: remedy.into() }
}
