//! A stand-in of the Hugging Face Hub: its own endpoints, in front of Hugging Face's own Xet store
//! (the `simulation` part of their client), in this process, on loopback.
//!
//! It keeps every commit of every branch, so that a test can look at what a reader could have seen at any
//! moment. It is strict where the Hub is: who may write, which parent a commit names, whether the content
//! of a large file is there before a commit points at it. `hub_client.rs` proves it with the Python client.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, LINK, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use xet_client::cas_client::{DeletionControlableClient, DirectAccessClient, LocalServer, MemoryClient};
use xet_runtime::core::XetContext;

/// A token that may write to what `owner` has.
pub const WRITER: &str = "hf_WRITERwriterWRITERwriterWRITERwr";
/// A token that may only read.
pub const READER: &str = "hf_READERreaderREADERreaderREADERre";
/// A fine-grained token that nobody gave the right to write.
pub const NARROW: &str = "hf_NARROWnarrowNARROWnarrowNARROWna";
/// What the Xet store wants to see; the Hub gives it out.
pub const XET_TOKEN: &str = "xet_STOREstoreSTOREstoreSTOREstoreST";
/// The user whom the tokens belong to.
pub const OWNER: &str = "owner";

/// The Hub takes text below this size into git itself.
const REGULAR: u64 = 4096;
/// Entries of a listing on one page; the Hub has a thousand.
const PAGE: usize = 5;
/// The Hub's clients ask for at most so many files at once.
const PREUPLOAD: usize = 256;

/// A file in a commit.
#[derive(Clone, PartialEq, Eq)]
pub enum Stored {
    /// In git itself.
    Regular(Bytes),
    /// In the Xet store.
    Large { sha256: String, bytes: u64, xet: String },
}

/// A commit with everything that a reader sees at it.
#[derive(Clone)]
pub struct Commit {
    pub oid: String,
    pub message: String,
    pub files: BTreeMap<String, Stored>,
}

/// A repository.
struct Repo {
    private: bool,
    /// The commits of each branch, the newest last.
    branches: BTreeMap<String, Vec<Commit>>,
}

/// What the Hub does wrong.
#[derive(Clone)]
pub enum Trouble {
    /// Answers with this status, these headers and this body.
    Status(u16, &'static [(&'static str, &'static str)], &'static str),
    /// Hangs up without a word.
    HangUp,
    /// Does what was asked and hangs up before it says so.
    DoAndHangUp,
    /// Answers, but only after this time.
    Late(Duration),
    /// Somebody else commits this file first.
    Overtaken(&'static str, &'static str),
}

/// Some of the requests to come go wrong.
struct Fault {
    method: Method,
    path: String,
    skip: usize,
    times: usize,
    trouble: Trouble,
}

/// A request that came in.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub bytes: usize,
}

#[derive(Default)]
struct State {
    repos: HashMap<String, Repo>,
    faults: Vec<Fault>,
    asked: Vec<Asked>,
    /// Whether text of any size counts as regular, as the server decides by the repository's attributes.
    no_large_files: bool,
}

struct Shared {
    endpoint: String,
    /// Where the Xet store listens.
    store: String,
    content: Arc<MemoryClient>,
    state: Mutex<State>,
    http: reqwest::Client,
}

/// The stand-in at work. It ends with the value.
pub struct Hub {
    shared: Arc<Shared>,
    _runtime: Runtime,
}

impl Hub {
    pub fn start() -> Hub {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let shared = runtime.block_on(async {
            let content = MemoryClient::new(XetContext::default().expect("a context"));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let server = LocalServer::from_client(
                content.clone(),
                Some(content.clone() as Arc<dyn DeletionControlableClient>),
                "127.0.0.1".into(),
                port,
            );
            tokio::spawn(async move {
                let (_never, stopped) = tokio::sync::oneshot::channel();
                let _ = server.serve_until_stopped(listener, stopped).await;
            });
            let hub = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let shared = Arc::new(Shared {
                endpoint: format!("http://{}", hub.local_addr().expect("an address")),
                store: format!("http://127.0.0.1:{port}"),
                content,
                state: Mutex::default(),
                http: reqwest::Client::builder().no_proxy().build().expect("a client"),
            });
            tokio::spawn(serve(hub, Arc::clone(&shared)));
            shared
        });
        Hub { shared, _runtime: runtime }
    }

    /// The value for `HF_ENDPOINT`.
    pub fn endpoint(&self) -> &str {
        &self.shared.endpoint
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// The next `times` requests of this method whose path contains this, after the first `skip`, go wrong.
    pub fn trouble(&self, method: Method, path: &str, skip: usize, times: usize, trouble: Trouble) {
        self.state().faults.push(Fault { method, path: path.into(), skip, times, trouble });
    }

    /// Decides that no file goes to the Xet store.
    pub fn takes_no_large_files(&self) {
        self.state().no_large_files = true;
    }

    /// Makes a repository with these files, as if somebody else had.
    pub fn make(&self, name: &str, files: &[(&str, &str)]) {
        let mut state = self.state();
        state.repos.insert(format!("{OWNER}/{name}"), Repo::new(true));
        drop(state);
        self.push(name, files);
    }

    /// Commits to the main branch, as if somebody else had.
    pub fn push(&self, name: &str, files: &[(&str, &str)]) {
        let mut state = self.state();
        let repo = state.repos.get_mut(&format!("{OWNER}/{name}")).expect("a repository");
        repo.push(files);
    }

    /// Whether there is such a repository, and whether it is private.
    pub fn private(&self, name: &str) -> Option<bool> {
        self.state().repos.get(&format!("{OWNER}/{name}")).map(|repo| repo.private)
    }

    /// The commits of a branch, oldest first, without the first, which the Hub makes.
    pub fn history(&self, name: &str, branch: &str) -> Vec<Commit> {
        let state = self.state();
        let repo = state.repos.get(&format!("{OWNER}/{name}"));
        repo.and_then(|repo| repo.branches.get(branch)).map_or_else(Vec::new, |commits| commits[1..].to_vec())
    }

    /// What a reader gets of a file.
    pub fn content(&self, file: &Stored) -> Vec<u8> {
        match file {
            Stored::Regular(bytes) => bytes.to_vec(),
            Stored::Large { sha256, .. } => {
                let shared = Arc::clone(&self.shared);
                let stored = self._runtime.block_on(async move { shared.large_files().await });
                stored.get(sha256).expect("content that a commit names").1.to_vec()
            }
        }
    }

    /// The requests that came in since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }

    /// Whether a request whose path contains this came in, since [`Hub::asked`] was last called.
    pub fn has_been_asked(&self, path: &str) -> bool {
        self.state().asked.iter().any(|asked| asked.path.contains(path))
    }

    /// Bytes of content that went to the Xet store since [`Hub::asked`] was last called.
    pub fn bytes_to_store(&self) -> usize {
        let state = self.state();
        let stores = |asked: &&Asked| asked.path.contains("/xorb") && asked.method != "GET";
        state.asked.iter().filter(stores).map(|asked| asked.bytes).sum()
    }
}

impl Repo {
    fn new(private: bool) -> Repo {
        let attributes = Stored::Regular(Bytes::from_static(b"*.zst filter=lfs diff=lfs merge=lfs -text\n"));
        let first = commit("", "initial commit", BTreeMap::from([(".gitattributes".to_owned(), attributes)]));
        Repo { private, branches: BTreeMap::from([("main".to_owned(), vec![first])]) }
    }

    fn push(&mut self, files: &[(&str, &str)]) {
        let commits = self.branches.get_mut("main").expect("a main branch");
        let head = commits.last().expect("a commit");
        let mut tree = head.files.clone();
        for (path, text) in files {
            tree.insert((*path).into(), Stored::Regular(Bytes::copy_from_slice(text.as_bytes())));
        }
        let next = commit(&head.oid, "somebody else's", tree);
        commits.push(next);
    }

    /// The commit that a branch or an id names.
    fn at(&self, revision: &str) -> Option<&Commit> {
        let by_id = || self.branches.values().flatten().find(|commit| commit.oid == revision);
        self.branches.get(revision).and_then(|commits| commits.last()).or_else(by_id)
    }
}

fn commit(parent: &str, message: &str, files: BTreeMap<String, Stored>) -> Commit {
    let mut hash = Sha1::new();
    hash.update(parent);
    hash.update(message);
    for (path, file) in &files {
        hash.update(path);
        hash.update(file.oid());
    }
    Commit { oid: hex(&hash.finalize()), message: message.into(), files }
}

impl Stored {
    /// The id of the git blob: for a large file of the pointer to it.
    fn oid(&self) -> String {
        let blob = match self {
            Stored::Regular(bytes) => bytes.clone(),
            Stored::Large { sha256, bytes, .. } => pointer(sha256, *bytes).into(),
        };
        let mut hash = Sha1::new();
        hash.update(format!("blob {}\0", blob.len()));
        hash.update(&blob);
        hex(&hash.finalize())
    }

    fn size(&self) -> u64 {
        match self {
            Stored::Regular(bytes) => bytes.len() as u64,
            Stored::Large { bytes, .. } => *bytes,
        }
    }

    fn to_json(&self, path: &str) -> Value {
        let mut entry = json!({ "type": "file", "path": path, "oid": self.oid(), "size": self.size() });
        if let Stored::Large { sha256, bytes, xet } = self {
            let pointer = pointer(sha256, *bytes).len();
            entry["lfs"] = json!({ "oid": sha256, "size": bytes, "pointerSize": pointer });
            entry["xetHash"] = json!(xet);
        }
        entry
    }
}

fn pointer(sha256: &str, bytes: u64) -> String {
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {bytes}\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

type Answer = Response<Full<Bytes>>;

/// The connection ends without an answer.
#[derive(Debug)]
struct HungUp;

impl std::fmt::Display for HungUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hung up")
    }
}

impl std::error::Error for HungUp {}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = hyper::service::service_fn(move |request| Arc::clone(&shared).handle(request));
        tokio::spawn(async move {
            // An error is a client or a test that hung up.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics in here")
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, HungUp> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let trouble = self.trouble(&head.method, &path);
        if let Some(Trouble::HangUp) = trouble {
            // In the middle of what the client says, where it says much.
            let mut body = body;
            let _ = body.frame().await;
            self.note(&head.method, &path, 0);
            return Err(HungUp);
        }
        let body = body.collect().await.map_err(|_| HungUp)?.to_bytes();
        self.note(&head.method, &path, body.len());
        match trouble {
            Some(Trouble::Status(status, headers, text)) => {
                let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
                *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
                for (name, value) in headers {
                    answer.headers_mut().insert(*name, HeaderValue::from_static(value));
                }
                return Ok(answer);
            }
            Some(Trouble::Late(delay)) => tokio::time::sleep(delay).await,
            Some(Trouble::Overtaken(file, text)) => {
                let name = path.split('/').nth(4).expect("a repository").to_owned();
                let mut state = self.state();
                state.repos.get_mut(&format!("{OWNER}/{name}")).expect("a repository").push(&[(file, text)]);
            }
            _ => {}
        }
        let query = head.uri.query().unwrap_or_default();
        let answer = if ["/v1/", "/v2/", "/simulation/"].iter().any(|start| path.starts_with(start)) {
            self.forward(&head.method, &path, query, &head.headers, body).await
        } else {
            self.answer(&head.method, &path, query, &head.headers, &body).await
        };
        if let Some(Trouble::DoAndHangUp) = trouble { Err(HungUp) } else { Ok(answer) }
    }

    fn note(&self, method: &Method, path: &str, bytes: usize) {
        self.state().asked.push(Asked { method: method.to_string(), path: path.into(), bytes });
    }

    fn trouble(&self, method: &Method, path: &str) -> Option<Trouble> {
        let mut state = self.state();
        let fits = |fault: &&mut Fault| fault.method == *method && fault.times > 0 && path.contains(&fault.path);
        let fault = state.faults.iter_mut().find(fits)?;
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        fault.times -= 1;
        Some(fault.trouble.clone())
    }

    /// Passes a request on to the Xet store.
    async fn forward(&self, method: &Method, path: &str, query: &str, headers: &HeaderMap, body: Bytes) -> Answer {
        let signed = path.starts_with("/simulation/") || path.ends_with("/fetch_term");
        if !signed && bearer(headers) != Some(XET_TOKEN) {
            return refusal(401, "", "the Xet store wants its own token");
        }
        let request = self.http.request(method.clone(), format!("{}{path}?{query}", self.store));
        // With the host that the client knows, so that the addresses that the store gives out lead here.
        let sent = request.headers(headers.clone()).body(body).send().await;
        let Ok(answer) = sent else { return refusal(502, "", "the Xet store is gone") };
        let (status, headers) = (answer.status(), answer.headers().clone());
        let Ok(bytes) = answer.bytes().await else { return refusal(502, "", "the Xet store is gone") };
        let mut passed = Response::new(Full::new(bytes));
        *passed.status_mut() = status;
        *passed.headers_mut() = headers;
        passed.headers_mut().remove("transfer-encoding");
        passed
    }

    async fn answer(&self, method: &Method, path: &str, query: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
        let segments: Vec<String> = path.trim_matches('/').split('/').map(decoded).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let token = bearer(headers);
        match (method.as_str(), &*segments) {
            ("GET", ["api", "whoami-v2"]) => who_am_i(token),
            ("POST", ["api", "validate-yaml"]) => json_answer(&json!({ "errors": [], "warnings": [] })),
            ("POST", ["api", "repos", "create"]) => self.create(token, body),
            (_, ["api", "datasets", owner, name, rest @ ..]) => {
                let id = format!("{owner}/{name}");
                if let Some(refused) = self.hidden(token, &id) {
                    return refused;
                }
                self.api(method, &id, rest, query, token, body).await
            }
            (_, ["datasets", owner, name, "resolve", revision, file @ ..]) => {
                let id = format!("{owner}/{name}");
                self.hidden(token, &id).unwrap_or_else(|| self.resolve(method, &id, revision, &file.join("/")))
            }
            ("GET", ["store", xet]) => self.stored(xet).await,
            _ => refusal(404, "", "no such page"),
        }
    }

    /// The content of a large file, for clients that cannot ask the Xet store.
    async fn stored(&self, xet: &str) -> Answer {
        let files = self.large_files().await;
        let file = files.into_values().find(|(name, _)| name == xet);
        file.map_or_else(|| refusal(404, "", "no such file"), |(_, bytes)| Response::new(Full::new(bytes)))
    }

    async fn api(
        &self,
        method: &Method,
        id: &str,
        rest: &[&str],
        query: &str,
        token: Option<&str>,
        body: &[u8],
    ) -> Answer {
        let writes = matches!(rest, ["preupload" | "xet-write-token" | "commit" | "branch", _]);
        if writes && token != Some(WRITER) {
            return refusal(
                403,
                "",
                "Forbidden: you must use a write token with the right permissions for this repository",
            );
        }
        if let ["branch", branch] = rest {
            return self.branch(id, branch);
        }
        if let ["commit", revision] = rest {
            return self.commit(id, revision, body).await;
        }
        let state = self.state();
        let repo = &state.repos[id];
        let revision = rest.get(1).copied().unwrap_or("main");
        let Some(head) = repo.at(revision) else {
            return refusal(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"));
        };
        match (method.as_str(), rest) {
            ("GET", [] | ["revision", _]) => {
                let siblings: Vec<Value> = head.files.keys().map(|path| json!({ "rfilename": path })).collect();
                json_answer(&json!({
                    "id": id, "author": OWNER, "sha": head.oid, "private": repo.private, "siblings": siblings,
                    "gated": false, "disabled": false, "tags": [], "downloads": 0, "likes": 0,
                    "createdAt": "2024-01-15T00:00:00.000Z", "lastModified": "2024-01-15T00:00:00.000Z",
                }))
            }
            ("GET", ["tree", _]) => self.tree(id, revision, head, query),
            ("POST", ["paths-info", _]) => {
                let form = decoded(&String::from_utf8_lossy(body).replace('+', " "));
                let wanted: Vec<&str> = form.split('&').filter_map(|pair| pair.strip_prefix("paths=")).collect();
                let files = head.files.iter().filter(|(path, _)| wanted.contains(&path.as_str()));
                json_answer(&files.map(|(path, file)| file.to_json(path)).collect())
            }
            ("POST", ["preupload", _]) => preupload(head, state.no_large_files, body),
            ("GET", ["xet-write-token" | "xet-read-token", _]) => self.xet_token(),
            _ => refusal(404, "", "no such page"),
        }
    }

    /// What is private or not there at all is not found, or needs a token.
    fn hidden(&self, token: Option<&str>, id: &str) -> Option<Answer> {
        if token.is_some_and(|token| ![WRITER, READER, NARROW].contains(&token)) {
            return Some(refusal(401, "", "Invalid credentials in Authorization header"));
        }
        match self.state().repos.get(id) {
            Some(repo) if !repo.private || token.is_some() => None,
            _ if token.is_some() => Some(refusal(404, "RepoNotFound", "Repository not found")),
            _ => Some(refusal(401, "RepoNotFound", "Repository Not Found")),
        }
    }

    fn create(&self, token: Option<&str>, body: &[u8]) -> Answer {
        let Some(asked) = serde_json::from_slice::<Value>(body).ok() else { return refusal(400, "", "no JSON") };
        if token != Some(WRITER) || asked["organization"] != OWNER {
            return refusal(403, "", "You don't have the rights to create a dataset under this namespace");
        }
        let id = format!("{OWNER}/{}", asked["name"].as_str().expect("a name"));
        let mut state = self.state();
        if state.repos.contains_key(&id) {
            return refusal(409, "", "You already created this dataset repo");
        }
        let private = asked["visibility"] == "private" || asked["private"] == true;
        state.repos.insert(id.clone(), Repo::new(private));
        json_answer(&json!({ "url": format!("{}/datasets/{id}", self.endpoint), "name": id, "id": "1" }))
    }

    fn branch(&self, id: &str, branch: &str) -> Answer {
        let mut state = self.state();
        let repo = state.repos.get_mut(id).expect("a repository");
        if repo.branches.contains_key(branch) {
            return refusal(409, "", "Reference already exists");
        }
        let commits = repo.branches["main"].clone();
        repo.branches.insert(branch.into(), commits);
        json_answer(&json!({}))
    }

    fn tree(&self, id: &str, revision: &str, head: &Commit, query: &str) -> Answer {
        let start = query.split('&').find_map(|pair| pair.strip_prefix("cursor="));
        let start: usize = start.map_or(0, |start| start.parse().expect("our own cursor"));
        let files: Vec<Value> = head.files.iter().map(|(path, file)| file.to_json(path)).collect();
        let end = files.len().min(start + PAGE);
        let mut answer = json_answer(&json!(files[start..end]));
        if end < files.len() {
            let next = format!(
                "<{}/api/datasets/{id}/tree/{revision}?recursive=true&cursor={end}>; rel=\"next\"",
                self.endpoint
            );
            answer.headers_mut().insert(LINK, HeaderValue::from_str(&next).expect("plain text"));
        }
        answer
    }

    fn xet_token(&self) -> Answer {
        let expires = 4_000_000_000_u64;
        let mut answer = json_answer(&json!({ "accessToken": XET_TOKEN, "exp": expires, "casUrl": self.endpoint }));
        let headers = answer.headers_mut();
        headers.insert("x-xet-access-token", HeaderValue::from_static(XET_TOKEN));
        headers.insert("x-xet-token-expiration", expires.into());
        headers.insert("x-xet-cas-url", HeaderValue::from_str(&self.endpoint).expect("plain text"));
        answer
    }

    /// Everything in the Xet store by its SHA-256: the store's own name of it, and the bytes.
    async fn large_files(&self) -> HashMap<String, (String, Bytes)> {
        let mut files = HashMap::new();
        for (file, _) in self.content.list_file_shard_entries().await.expect("a listing") {
            let bytes = self.content.get_file_data(&file, None).await.expect("what it lists");
            files.insert(hex(&Sha256::digest(&bytes)), (file.hex(), bytes));
        }
        files
    }

    async fn commit(&self, id: &str, revision: &str, body: &[u8]) -> Answer {
        let large = self.large_files().await;
        let mut state = self.state();
        let repo = state.repos.get_mut(id).expect("a repository");
        let Some(commits) = repo.branches.get_mut(revision) else {
            return refusal(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"));
        };
        let head = commits.last().expect("a commit");
        let mut files = head.files.clone();
        let mut message = String::new();
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Ok(line) = serde_json::from_slice::<Value>(line) else { return refusal(400, "", "no JSON") };
            let (value, path) = (&line["value"], line["value"]["path"].as_str().unwrap_or_default().to_owned());
            match line["key"].as_str() {
                Some("header") => {
                    message = value["summary"].as_str().unwrap_or_default().into();
                    let parent = value["parentCommit"].as_str();
                    if parent.is_some_and(|parent| parent != head.oid) {
                        return refusal(412, "", "A commit has happened since. Please refresh and try again.");
                    }
                }
                Some("file") => {
                    let Some(bytes) = unbase64(value["content"].as_str().unwrap_or_default()) else {
                        return refusal(400, "", "no base64");
                    };
                    files.insert(path, Stored::Regular(bytes.into()));
                }
                Some("lfsFile") => {
                    let sha256 = value["oid"].as_str().unwrap_or_default().to_owned();
                    let Some((xet, bytes)) = large.get(&sha256) else {
                        return refusal(400, "", &format!("LFS pointer pointed to a file that does not exist: {path}"));
                    };
                    files.insert(path, Stored::Large { sha256, bytes: bytes.len() as u64, xet: xet.clone() });
                }
                Some("deletedFile") => {
                    if files.remove(&path).is_none() {
                        return refusal(404, "EntryNotFound", "A file with this name doesn't exist");
                    }
                }
                _ => return refusal(400, "", "no such operation"),
            }
        }
        if message.is_empty() {
            return refusal(400, "", "a commit needs a summary");
        }
        let next = commit(&head.oid, &message, files);
        let oid = next.oid.clone();
        commits.push(next);
        json_answer(&json!({
            "success": true, "commitOid": oid, "commitUrl": format!("{}/datasets/{id}/commit/{oid}", self.endpoint),
        }))
    }

    fn resolve(&self, method: &Method, id: &str, revision: &str, path: &str) -> Answer {
        let state = self.state();
        let Some(head) = state.repos[id].at(revision) else {
            return refusal(404, "RevisionNotFound", "Invalid rev id");
        };
        let Some(file) = head.files.get(path) else { return refusal(404, "EntryNotFound", "Entry not found") };
        let mut answer = Response::new(Full::default());
        let headers = answer.headers_mut();
        let text = |text: &str| HeaderValue::from_str(text).expect("plain text");
        headers.insert("x-repo-commit", text(&head.oid));
        headers.insert("x-linked-size", file.size().into());
        match file {
            Stored::Regular(bytes) => {
                headers.insert("etag", text(&format!("\"{}\"", file.oid())));
                if method == Method::HEAD {
                    headers.insert("content-length", file.size().into());
                } else {
                    *answer.body_mut() = Full::new(bytes.clone());
                }
            }
            Stored::Large { sha256, xet, .. } => {
                headers.insert("etag", text(&format!("\"{sha256}\"")));
                headers.insert("x-linked-etag", text(&format!("\"{sha256}\"")));
                headers.insert("x-xet-hash", text(xet));
                let route = format!("{}/api/datasets/{id}/xet-read-token/{}", self.endpoint, head.oid);
                headers.insert("x-xet-refresh-route", text(&route));
                headers.insert(LINK, text(&format!("<{route}>; rel=\"xet-auth\"")));
                headers.insert(LOCATION, text(&format!("{}/store/{xet}", self.endpoint)));
                *answer.status_mut() = StatusCode::FOUND;
            }
        }
        answer
    }
}

fn who_am_i(token: Option<&str>) -> Answer {
    let access = match token {
        Some(WRITER) => json!({ "displayName": "tests", "role": "write" }),
        Some(READER) => json!({ "displayName": "tests", "role": "read" }),
        Some(NARROW) => {
            json!({ "displayName": "tests", "role": "fineGrained", "fineGrained": { "global": [], "scoped": [] } })
        }
        _ => return refusal(401, "", "Invalid credentials in Authorization header"),
    };
    let auth = json!({ "type": "access_token", "accessToken": access });
    json_answer(&json!({ "type": "user", "id": "1", "name": OWNER, "orgs": [], "auth": auth }))
}

fn preupload(head: &Commit, no_large_files: bool, body: &[u8]) -> Answer {
    let Some(asked) = serde_json::from_slice::<Value>(body).ok() else { return refusal(400, "", "no JSON") };
    let files = asked["files"].as_array().cloned().unwrap_or_default();
    if files.is_empty() || files.len() > PREUPLOAD {
        return refusal(413, "", "too many files at once");
    }
    let modes = files.iter().map(|file| {
        let (path, size) = (file["path"].as_str().unwrap_or_default(), file["size"].as_u64().unwrap_or_default());
        let sampled =
            unbase64(file["sample"].as_str().unwrap_or_default()).is_some_and(|s| s.len() as u64 == size.min(512));
        assert!(sampled, "a sample of the first 512 bytes of {path}");
        let large = !no_large_files && (size >= REGULAR || path.ends_with(".zst"));
        json!({
            "path": path, "uploadMode": if large { "lfs" } else { "regular" }, "shouldIgnore": false,
            "oid": head.files.get(path).map(Stored::oid),
        })
    });
    json_answer(&json!({ "files": modes.collect::<Vec<_>>() }))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn json_answer(value: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(value.to_string())));
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    answer
}

fn refusal(status: u16, code: &'static str, message: &str) -> Answer {
    let mut answer = json_answer(&json!({ "error": message }));
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
    if !code.is_empty() {
        answer.headers_mut().insert("x-error-code", HeaderValue::from_static(code));
    }
    answer.headers_mut().insert("x-error-message", HeaderValue::from_str(message).expect("plain text"));
    answer
}

/// Undoes percent-encoding.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}
