//! S3 servers in this process: `s3s` checks signatures and hashes, `s3s-fs` keeps the files.
//!
//! The first knows no list of open uploads, as some stores don't; the second keeps one itself.

use super::proxy::{Action, Proxy};
use super::suite::{Server, Trouble};
use crate::harness::{Dir, TestCommand};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

pub const BUCKET: &str = "corpora";
pub const PREFIX: &str = "curated/v1";
pub const KEY: &str = "AKIACOLOPHONTESTKEY1";
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYSECRETKEY";

/// An upload in parts that is open, by its id.
type Open = BTreeMap<String, (String, BTreeMap<i32, Part>)>;

/// A store.
#[derive(Clone)]
struct Store {
    files: Arc<FileSystem>,
    lists_uploads: bool,
    open: Arc<Mutex<Open>>,
}

/// A server of S3 with a proxy before it.
pub struct S3Server {
    proxy: Proxy,
    root: TempDir,
    open: Arc<Mutex<Open>>,
    lists_uploads: bool,
    _runtime: tokio::runtime::Runtime,
}

impl S3Server {
    fn start(lists_uploads: bool) -> S3Server {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(root.path().join(BUCKET)).expect("a bucket");
        let files = Arc::new(FileSystem::new(root.path()).expect("a store"));
        let store = Store { files, lists_uploads, open: Arc::default() };
        let open = Arc::clone(&store.open);
        let mut builder = S3ServiceBuilder::new(store);
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let proxy = Proxy::before(listener.local_addr().expect("an address"));
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let server = Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        S3Server { proxy, root, open, lists_uploads, _runtime: runtime }
    }

    /// One that does not list open uploads.
    pub fn plain() -> S3Server {
        S3Server::start(false)
    }

    /// One that does.
    pub fn listing() -> S3Server {
        S3Server::start(true)
    }

    /// How many uploads are open.
    pub fn open(&self) -> usize {
        self.open.lock().expect("no test panics here").len()
    }

    /// Where the store keeps an object.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.path().join(BUCKET).join(PREFIX).join(name)
    }

    /// The environment in which the program finds nothing but what it is given.
    pub fn environment<'a>(&self, command: TestCommand<'a>, secret: &str) -> TestCommand<'a> {
        command
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .env("AWS_SESSION_TOKEN", "")
            .env("AWS_CONFIG_FILE", "/nonexistent")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_REGION", "us-east-1")
    }

    /// `colophon upload out` to a bucket here, without credentials.
    pub fn upload_to<'a>(&self, dir: &'a Dir, target: &str) -> TestCommand<'a> {
        let endpoint = format!("http://{}", self.proxy.address);
        dir.colophon(["upload", "out", target, "--endpoint-url", &endpoint, "--path-style", "--part-size", "5MiB"])
    }
}

impl Server for S3Server {
    fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    fn target(&self) -> String {
        format!("s3://{BUCKET}/{PREFIX}")
    }

    fn upload<'a>(&self, dir: &'a Dir) -> TestCommand<'a> {
        self.environment(self.upload_to(dir, &self.target()), SECRET)
    }

    fn secrets(&self) -> Vec<&'static str> {
        vec![SECRET]
    }

    fn published(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let top = self.file("");
        let mut folders = vec![top.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let (path, name) = (entry.path(), entry.path());
                let name = name.strip_prefix(&top).expect("below").to_string_lossy().into_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if !name.starts_with(".colophon") {
                    files.insert(name, std::fs::read(path).expect("a file"));
                }
            }
        }
        files
    }

    fn content_requests(&self) -> (&'static str, String) {
        ("PUT", "train.jsonl".into())
    }

    fn last_request(&self) -> (&'static str, String) {
        ("PUT", "manifest.json".into())
    }

    fn first_request(&self) -> (&'static str, String) {
        ("GET", "list-type=2".into())
    }

    fn answer(&self, trouble: Trouble) -> Action {
        let (status, code, message) = match trouble {
            Trouble::Forbidden => (403, "AccessDenied", "Access Denied"),
            Trouble::Absent => (404, "NoSuchBucket", "The specified bucket does not exist"),
            Trouble::Conflict => (409, "OperationAborted", "A conflicting operation is in progress"),
            Trouble::Precondition => (412, "PreconditionFailed", "A precondition did not hold"),
            Trouble::TooMany => (429, "TooManyRequests", "Please slow down"),
            Trouble::Broken => (500, "InternalError", "We encountered an internal error"),
            Trouble::Busy => (503, "SlowDown", "Please reduce your request rate"),
            Trouble::Clock => (403, "RequestTimeTooSkewed", "The difference between the times is too large"),
        };
        let headers = if status == 429 { "retry-after: 1\r\n" } else { "" };
        let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
        Action::Answer { status, headers: format!("content-type: application/xml\r\n{headers}"), body }
    }

    fn takes_up(&self) -> bool {
        self.lists_uploads
    }

    fn leftovers(&self) -> usize {
        self.open()
    }
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.files.list_objects_v2(request).await
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.files.head_object(request).await
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.files.get_object(request).await
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        if request.input.checksum_sha256.is_none() {
            return Err(s3_error!(InvalidRequest, "the test's server wants a checksum"));
        }
        self.files.put_object(request).await
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.files.delete_object(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let key = request.input.key.clone();
        let answer = self.files.create_multipart_upload(request).await?;
        let id = answer.output.upload_id.clone().unwrap_or_default();
        self.open.lock().expect("no panic").insert(id, (key, BTreeMap::new()));
        Ok(answer)
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let input = &request.input;
        let (id, number, size) = (input.upload_id.clone(), input.part_number, input.content_length);
        let checksum = input.checksum_sha256.clone();
        if !self.open.lock().expect("no panic").contains_key(&id) {
            return Err(s3_error!(NoSuchUpload));
        }
        // The signed hash was compared with the body when that was read; the checksum has to be the same.
        let signed = request.headers.get("x-amz-content-sha256").and_then(|value| value.to_str().ok());
        let signed = signed.map(str::to_owned);
        let sent = checksum.as_ref().and_then(|checksum| BASE64_STANDARD.decode(checksum).ok());
        let sent = sent.map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        if sent.is_none() || sent != signed {
            return Err(s3_error!(BadDigest));
        }
        let answer = self.files.upload_part(request).await?;
        let part = Part {
            part_number: Some(number),
            size,
            checksum_sha256: checksum,
            e_tag: answer.output.e_tag.clone(),
            ..Part::default()
        };
        if let Some((_, parts)) = self.open.lock().expect("no panic").get_mut(&id) {
            parts.insert(number, part);
        }
        Ok(answer)
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        if !self.lists_uploads {
            return Err(s3_error!(NotImplemented));
        }
        let prefix = request.input.prefix.unwrap_or_default();
        let open = self.open.lock().expect("no panic");
        let uploads =
            open.iter().filter(|(_, (key, _))| key.starts_with(&prefix)).map(|(id, (key, _))| MultipartUpload {
                key: Some(key.clone()),
                upload_id: Some(id.clone()),
                checksum_algorithm: Some(ChecksumAlgorithm::from_static(ChecksumAlgorithm::SHA256)),
                ..MultipartUpload::default()
            });
        let uploads = Some(uploads.collect());
        Ok(S3Response::new(ListMultipartUploadsOutput { uploads, ..ListMultipartUploadsOutput::default() }))
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        let open = self.open.lock().expect("no panic");
        let (_, parts) = open.get(&request.input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let parts = Some(parts.values().cloned().collect());
        Ok(S3Response::new(ListPartsOutput { parts, ..ListPartsOutput::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let id = request.input.upload_id.clone();
        if !self.open.lock().expect("no panic").contains_key(&id) {
            return Err(s3_error!(NoSuchUpload));
        }
        let answer = self.files.complete_multipart_upload(request).await?;
        self.open.lock().expect("no panic").remove(&id);
        Ok(answer)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let id = request.input.upload_id.clone();
        let answer = self.files.abort_multipart_upload(request).await?;
        self.open.lock().expect("no panic").remove(&id);
        Ok(answer)
    }
}
