//! The Hub's endpoints that an upload needs.
//!
//! These few calls are made here and not by the crate `hf-hub`, whose `create_commit` asks for all files at once, sends
//! what the server does not take by Xet inline however large it is, does not heed `Retry-After`, and repeats a commit of
//! which it does not know whether it was made. The content goes through the crate below it (see [`super::xet`]).

use super::account::{Account, NO_TOKEN};
use crate::error::{self, Error};
use crate::publish::discreet;
use crate::publish::retry::{self, Policy};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LINK, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(20);
/// How long the Hub may be silent. It checks every large file of a commit before it says a word.
const SILENCE: Duration = Duration::from_secs(180);
/// Files that are asked for at once, as the Hub's own clients do.
pub const BATCH: usize = 256;
/// Bytes of a file's beginning by which the Hub decides what it is.
pub const SAMPLE: usize = 512;
/// Characters of an answer that an error message may quote.
const QUOTE: usize = 300;
/// Bytes of a refusal that are read.
const REFUSAL: usize = 64 << 10;

/// The endpoints for one repository.
pub struct Api {
    http: Client,
    /// The Hub's address.
    pub endpoint: String,
    /// `OWNER/NAME`.
    pub id: String,
    /// Requests that were made again.
    pub retries: AtomicU64,
    policy: Policy,
    /// What no message may have in it.
    secrets: Vec<String>,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// The Hub's answer.
    Refused {
        /// What it says by number.
        status: StatusCode,
        /// What it says by a word of its own; may be empty.
        code: String,
        /// What it says in words; may be empty.
        message: String,
    },
    /// There was none.
    Lost(String),
}

/// A commit at the end of a branch.
pub struct Head {
    /// Its id.
    pub commit: String,
    /// Whether the repository is private.
    pub private: bool,
}

/// A file in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Bytes of its content.
    pub bytes: u64,
    /// Id of its blob in git: of the content, or for a large file of the pointer to it.
    pub oid: String,
    /// SHA-256 of the content, for a large file.
    pub sha256: Option<String>,
}

/// What the Hub wants to do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In git itself: the content goes into the commit.
    Inline,
    /// In the Xet store.
    Large,
}

/// A file that the Hub is asked about.
pub struct Candidate {
    /// Its path in the repository.
    pub path: String,
    /// Bytes of it.
    pub bytes: u64,
    /// Its first bytes, at most [`SAMPLE`].
    pub sample: Vec<u8>,
}

/// The key to the Xet store.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct XetKey {
    /// Where the store is.
    pub cas_url: String,
    /// What it wants to see.
    pub access_token: String,
    /// Until when it does, in seconds since 1970.
    pub exp: u64,
}

/// A step of a commit.
pub enum Operation {
    /// A file whose content goes with the commit: read only when it is sent.
    Inline {
        /// Its path in the repository.
        path: String,
        /// Bytes of it.
        bytes: u64,
        /// Gives its content.
        read: Arc<dyn Fn() -> std::io::Result<Vec<u8>> + Send + Sync>,
    },
    /// A file whose content is in the Xet store.
    Large {
        /// Its path in the repository.
        path: String,
        /// Bytes of it.
        bytes: u64,
        /// SHA-256 of it.
        sha256: String,
    },
    /// A file that goes.
    Delete {
        /// Its path in the repository.
        path: String,
    },
}

impl Api {
    /// Makes no request.
    ///
    /// # Errors
    /// If there can be no client.
    pub fn new(account: &Account, owner: &str, name: &str) -> error::Result<Api> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, account.token.header());
        let http = Client::builder()
            .default_headers(headers)
            .user_agent(concat!("colophon/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .build();
        let http = http.map_err(|error| Error::Environment {
            subject: account.endpoint.clone(),
            cause: format!("no request can be made: {}", chain(&error)),
            remedy: "check the certificates and the proxies of this machine".into(),
        })?;
        Ok(Api {
            http,
            endpoint: account.endpoint.clone(),
            id: format!("{owner}/{name}"),
            retries: AtomicU64::new(0),
            policy: Policy::default(),
            secrets: vec![account.token.secret().to_owned()],
        })
    }

    /// An endpoint's address: `path` below the Hub's, percent-encoded.
    fn url(&self, path: &[&str]) -> Result<Url, Failure> {
        let lost = || Failure::Lost("its address cannot be extended".into());
        let mut url = Url::parse(&self.endpoint).map_err(|_| lost())?;
        url.path_segments_mut().map_err(|()| lost())?.pop_if_empty().extend(path);
        Ok(url)
    }

    /// An endpoint of the repository.
    fn of_repository(&self, path: &[&str]) -> Result<Url, Failure> {
        let (owner, name) = self.id.split_once('/').unwrap_or_default();
        self.url(&[&["api", "datasets", owner, name], path].concat())
    }

    /// Makes a request until it succeeds, is refused for good or has failed too often.
    async fn ask(&self, build: impl Fn(&Client) -> RequestBuilder) -> Result<Response, Failure> {
        let mut failures = 0;
        loop {
            let (failure, asked) = match self.once(build(&self.http)).await {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            failures += 1;
            self.wait(failures, failure, asked).await?;
        }
    }

    /// Waits before a request is made again.
    ///
    /// # Errors
    /// The failure, if the request is not to be made again.
    pub async fn wait(&self, failures: u32, failure: Failure, asked: Option<Duration>) -> Result<(), Failure> {
        match failure.may_pass() {
            true => self.pause(failures, &failure, asked).await.ok_or(failure),
            false => Err(failure),
        }
    }

    /// Waits after a failure, whatever it was; `None` if there were too many.
    pub async fn pause(&self, failures: u32, failure: &Failure, asked: Option<Duration>) -> Option<()> {
        let wait = self.policy.wait(failures, asked, retry::chance())?;
        self.retries.fetch_add(1, Ordering::Relaxed);
        if wait > Duration::from_secs(5) {
            tracing::info!("{failure}; waiting {} s", wait.as_secs());
        } else {
            tracing::debug!("{failure}; trying again in {:.1} s", wait.as_secs_f64());
        }
        tokio::time::sleep(wait).await;
        Some(())
    }

    async fn get(&self, url: Url) -> Result<Value, Failure> {
        let response = self.ask(|http| http.get(url.clone())).await?;
        response.json().await.map_err(|error| Failure::Lost(chain(&error)))
    }

    async fn post(&self, url: Url, body: &Value) -> Result<Value, Failure> {
        let response = self.ask(|http| http.post(url.clone()).json(body)).await?;
        let text = response.bytes().await.map_err(|error| Failure::Lost(chain(&error)))?;
        Ok(serde_json::from_slice(&text).unwrap_or_default())
    }

    /// Whether the token can only read, as far as it says.
    pub async fn may_only_read(&self) -> Result<bool, Failure> {
        let who = self.get(self.url(&["api", "whoami-v2"])?).await?;
        Ok(who["auth"]["accessToken"]["role"] == "read")
    }

    /// Makes the repository.
    pub async fn create(&self, public: bool) -> Result<(), Failure> {
        let (owner, name) = self.id.split_once('/').unwrap_or_default();
        let visibility = if public { "public" } else { "private" };
        let body = json!({
            "type": "dataset", "name": name, "organization": owner, "visibility": visibility, "private": !public,
        });
        match self.post(self.url(&["api", "repos", "create"])?, &body).await {
            // Somebody else was a moment earlier, or this program's first request arrived after all.
            Err(Failure::Refused { status: StatusCode::CONFLICT, .. }) | Ok(_) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Makes a branch where the main one ends.
    pub async fn create_branch(&self, branch: &str) -> Result<(), Failure> {
        match self.post(self.of_repository(&["branch", branch])?, &json!({})).await {
            Err(Failure::Refused { status: StatusCode::CONFLICT, .. }) | Ok(_) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// The end of a branch.
    pub async fn head(&self, revision: &str) -> Result<Head, Failure> {
        let info = self.get(self.of_repository(&["revision", revision])?).await?;
        Ok(Head { commit: commit_id(&info["sha"])?, private: info["private"] == true })
    }

    /// All files of a commit.
    pub async fn tree(&self, commit: &str) -> Result<BTreeMap<String, RemoteFile>, Failure> {
        let mut files = BTreeMap::new();
        let mut next = Some(self.of_repository(&["tree", commit])?);
        if let Some(url) = &mut next {
            url.query_pairs_mut().append_pair("recursive", "true");
        }
        while let Some(url) = next {
            let response = self.ask(|http| http.get(url.clone())).await?;
            next = next_page(response.headers(), &url);
            let page: Vec<Value> = response.json().await.map_err(|error| Failure::Lost(chain(&error)))?;
            for entry in page.iter().filter(|entry| entry["type"] == "file") {
                let (Some(path), Some(oid)) = (entry["path"].as_str(), entry["oid"].as_str()) else { continue };
                let (bytes, sha256) = (entry["size"].as_u64().unwrap_or_default(), entry["lfs"]["oid"].as_str());
                let file = RemoteFile { bytes, oid: oid.into(), sha256: sha256.map(Into::into) };
                files.insert(path.to_owned(), file);
            }
        }
        Ok(files)
    }

    /// The content of a file at a commit.
    pub async fn content(&self, commit: &str, path: &str) -> Result<Bytes, Failure> {
        let (owner, name) = self.id.split_once('/').unwrap_or_default();
        let mut segments = vec!["datasets", owner, name, "resolve", commit];
        segments.extend(path.split('/'));
        let url = self.url(&segments)?;
        let response = self.ask(|http| http.get(url.clone())).await?;
        response.bytes().await.map_err(|error| Failure::Lost(chain(&error)))
    }

    /// What the Hub wants to do with each of some files, by their paths.
    pub async fn modes(&self, revision: &str, files: &[Candidate]) -> Result<BTreeMap<String, Mode>, Failure> {
        let mut modes = BTreeMap::new();
        let url = self.of_repository(&["preupload", revision])?;
        for batch in files.chunks(BATCH) {
            let entry = |file: &Candidate| json!({ "path": file.path, "size": file.bytes, "sample": BASE64_STANDARD.encode(&file.sample) });
            let asked = json!({ "files": batch.iter().map(entry).collect::<Vec<_>>() });
            let answer = self.post(url.clone(), &asked).await?;
            for file in answer["files"].as_array().into_iter().flatten() {
                let mode = if file["uploadMode"] == "lfs" { Mode::Large } else { Mode::Inline };
                modes.insert(file["path"].as_str().unwrap_or_default().to_owned(), mode);
            }
        }
        Ok(modes)
    }

    /// Where the key to the Xet store is to be had: only for who may write.
    pub fn xet_key_url(&self, revision: &str) -> Result<Url, Failure> {
        self.of_repository(&["xet-write-token", revision])
    }

    /// The key to the Xet store.
    pub async fn xet_key(&self, revision: &str) -> Result<XetKey, Failure> {
        let key = self.get(self.xet_key_url(revision)?).await?;
        serde_json::from_value(key).map_err(|_| Failure::Lost("the Hub gives no key to the Xet store".into()))
    }

    /// Commits once, whatever comes of it; the time to wait is the Hub's, if it failed.
    pub async fn commit(
        &self,
        revision: &str,
        parent: &str,
        message: &str,
        operations: &Arc<[Operation]>,
    ) -> Result<String, (Failure, Option<Duration>)> {
        let url = self.of_repository(&["commit", revision]).map_err(|failure| (failure, None))?;
        let header = json!({ "summary": message, "description": "", "parentCommit": parent });
        let header = line("header", &header);
        let bytes = header.len() as u64 + operations.iter().map(Operation::line_bytes).sum::<u64>();
        let operations = Arc::clone(operations);
        let lines = (0..operations.len()).map(move |place| operations[place].line());
        // One file at a time is in memory.
        let body = stream::iter(std::iter::once(Ok(header)).chain(lines)).map(|line| line.map(Bytes::from));
        let request = self.http.post(url).header(CONTENT_TYPE, "application/x-ndjson").header(CONTENT_LENGTH, bytes);
        let response = self.once(request.body(reqwest::Body::wrap_stream(body))).await?;
        let answer: Value = response.json().await.map_err(|error| (Failure::Lost(chain(&error)), None))?;
        commit_id(&answer["commitOid"]).map_err(|failure| (failure, None))
    }

    /// Makes a request once. A failure comes with the time that the server asks to wait.
    async fn once(&self, request: RequestBuilder) -> Result<Response, (Failure, Option<Duration>)> {
        let response = request.send().await.map_err(|error| (Failure::Lost(chain(&error)), None))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let asked = asked_to_wait(response.headers());
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (code, message) = (header("x-error-code"), header("x-error-message"));
        let body = beginning(response).await;
        let said =
            serde_json::from_slice::<Value>(&body).ok().and_then(|json| json["error"].as_str().map(str::to_owned));
        let message = self.quote(&message.or(said).unwrap_or_default());
        Err((Failure::Refused { status, code: code.unwrap_or_default(), message }, asked))
    }

    /// What somebody else says, fit for a message.
    pub fn quote(&self, text: &str) -> String {
        discreet::text(text, &self.secrets, QUOTE)
    }
}

/// The beginning of a refusal, which may not end.
async fn beginning(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < REFUSAL {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            _ => break,
        }
    }
    body
}

/// A commit's id, which is shown and becomes a part of addresses.
fn commit_id(value: &Value) -> Result<String, Failure> {
    let is_id = |id: &&str| !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let id = value.as_str().filter(is_id);
    id.map(Into::into).ok_or_else(|| Failure::Lost("the Hub names no commit".into()))
}

impl Operation {
    /// The line of the request.
    fn line(&self) -> std::io::Result<Vec<u8>> {
        Ok(match self {
            Operation::Inline { path, bytes, read } => {
                let content = read()?;
                if content.len() as u64 != *bytes {
                    return Err(std::io::Error::other(format!("{path}: its size changed")));
                }
                line("file", &inline(path, BASE64_STANDARD.encode(content)))
            }
            Operation::Large { path, bytes, sha256 } => {
                line("lfsFile", &json!({ "path": path, "algo": "sha256", "oid": sha256, "size": bytes }))
            }
            Operation::Delete { path } => line("deletedFile", &json!({ "path": path })),
        })
    }

    /// Bytes of the line, without reading the file.
    fn line_bytes(&self) -> u64 {
        match self {
            Operation::Inline { path, bytes, .. } => {
                line("file", &inline(path, String::new())).len() as u64 + bytes.div_ceil(3) * 4
            }
            // Without a file to read, nothing can fail.
            operation => operation.line().map_or(0, |line| line.len() as u64),
        }
    }
}

fn inline(path: &str, content: String) -> Value {
    json!({ "path": path, "encoding": "base64", "content": content })
}

fn line(key: &str, value: &Value) -> Vec<u8> {
    let mut line = json!({ "key": key, "value": value }).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// What the server asks for by `Retry-After`, or by the Hub's `RateLimit`: `"api";r=0;t=55`.
fn asked_to_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let after = text(RETRY_AFTER.as_str()).and_then(|after| retry::retry_after(after, SystemTime::now()));
    let reset = || text("ratelimit")?.split(';').find_map(|part| part.trim().strip_prefix("t=")?.parse().ok());
    after.or_else(|| reset().map(Duration::from_secs))
}

/// The address of the next page, if it is the same server's: the token goes with the request.
fn next_page(headers: &HeaderMap, page: &Url) -> Option<Url> {
    let links = headers.get(LINK)?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let url = page.join(next.trim().strip_prefix('<')?.split('>').next()?).ok()?;
    (url.origin() == page.origin()).then_some(url)
}

/// An error with its causes: reqwest's own text leaves them out. Without the address, in which a secret may stand.
fn chain(error: &reqwest::Error) -> String {
    let mut text = match error {
        error if error.is_timeout() => "it took too long".to_owned(),
        error if error.is_connect() => "no connection".to_owned(),
        error if error.is_decode() => "the answer makes no sense".to_owned(),
        _ => "the connection was lost".to_owned(),
    };
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    discreet::text(&text, &[], QUOTE)
}

impl Failure {
    /// Whether the same request may succeed later.
    pub fn may_pass(&self) -> bool {
        match self {
            Failure::Refused { status, .. } => {
                matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504 | 520..=524)
            }
            Failure::Lost(_) => true,
        }
    }

    /// Whether this is the Hub's word for something that is not there.
    pub fn is_missing(&self, what: &str) -> bool {
        matches!(self, Failure::Refused { status: StatusCode::NOT_FOUND, code, .. } if code == what)
    }

    /// Whether the branch has moved on.
    pub fn is_overtaken(&self) -> bool {
        matches!(self, Failure::Refused { status: StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT, .. })
    }

    /// The error that ends the upload. `doing` completes "could not …".
    pub fn error(&self, subject: impl Into<String>, doing: &str) -> Error {
        Error::Environment {
            subject: subject.into(),
            cause: format!("could not {doing}: {self}"),
            remedy: self.remedy().into(),
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Failure::Lost(_) => "check the network, HF_ENDPOINT and the proxies, and run again",
            Failure::Refused { status, .. } => match status.as_u16() {
                401 => NO_TOKEN,
                403 => {
                    "the token needs the right to write to this repository: see https://huggingface.co/settings/tokens"
                }
                404 => "check the names in the target, and what the token may see",
                413 => "make fewer or smaller files: export with another --shard-size",
                429 => "wait a while and run again: what has arrived is not sent again",
                500.. => "see https://status.huggingface.co, and run again: what has arrived is not sent again",
                _ => "",
            },
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Lost(cause) => f.write_str(cause),
            Failure::Refused { status, message, .. } if message.is_empty() => write!(f, "the Hub says {status}"),
            Failure::Refused { status, message, .. } => write!(f, "the Hub says {}, {message}", status.as_u16()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_length_of_a_line_is_known_before_the_file_is_read() {
        for bytes in 0..10 {
            let content = vec![b'"'; bytes];
            let operation = Operation::Inline {
                path: "ä \"b\".txt".into(),
                bytes: bytes as u64,
                read: Arc::new(move || Ok(content.clone())),
            };
            assert_eq!(operation.line_bytes(), operation.line().expect("a line").len() as u64);
        }
    }

    #[test]
    fn a_next_page_is_taken_from_the_same_server_only() {
        let page = Url::parse("https://hub.example/api/tree/main").expect("an address");
        let next = |link| next_page(&headers(&[("link", link)]), &page).map(|url| url.to_string());
        let here = "https://hub.example/api/tree/main?cursor=5";
        assert_eq!(next("<https://hub.example/api/tree/main?cursor=5>; rel=\"next\"").as_deref(), Some(here));
        assert_eq!(next("</a>; rel=\"last\", </api/tree/main?cursor=5>; rel=\"next\"").as_deref(), Some(here));
        assert_eq!(next("<https://elsewhere.example/?cursor=5>; rel=\"next\""), None);
        assert_eq!(next("nonsense; rel=\"next\""), None);
    }

    #[test]
    fn both_ways_to_ask_for_patience_are_understood() {
        let asked = |pairs| asked_to_wait(&headers(pairs)).map(|wait| wait.as_secs());
        assert_eq!(asked(&[("retry-after", "7"), ("ratelimit", "\"api\";r=0;t=55")]), Some(7));
        assert_eq!(asked(&[("ratelimit", "\"api\";r=0;t=55")]), Some(55));
        assert_eq!(asked(&[("ratelimit", "nonsense")]), None);
        assert_eq!(asked(&[]), None);
    }
}
