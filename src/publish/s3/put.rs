//! Objects that go in one piece.

use super::store::Store;
use super::{SHA256, head};
use crate::domain::manifest::hex;
use crate::error::{Error, Result};
use crate::publish::content::ContentFile;
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};

/// SHA-256 of what is sent, as the server is to check it.
#[derive(Clone, Debug)]
pub struct Checksum {
    /// As S3's own header has it.
    pub base64: String,
    hex: String,
}

impl Checksum {
    /// That of some bytes.
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum::from_digest(&Sha256::digest(bytes))
    }

    fn from_digest(digest: &[u8]) -> Checksum {
        Checksum { base64: BASE64_STANDARD.encode(digest), hex: hex(digest) }
    }
}

/// Signs a request with the hash that is known already, instead of computing it once more. A server that checks
/// signatures thereby checks the content, even if it does not know S3's checksums.
#[derive(Debug)]
pub struct Signed(pub Checksum);

#[dyn_dispatch_hint]
impl Intercept for Signed {
    fn name(&self) -> &'static str {
        "KnownHash"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        config.interceptor_state().store_put(PayloadSigningOverride::Precomputed(self.0.hex.clone()));
        Ok(())
    }
}

/// What has to hold at the target for an object to be written.
#[derive(Clone, Debug)]
pub enum Condition {
    /// Nothing.
    Any,
    /// Nothing is there under its name.
    Absent,
    /// What is there is the version of this name.
    Is(String),
}

/// Writes an object. `sha256` is what its metadata say; without it they say nothing.
///
/// # Errors
/// [`Error::Environment`].
pub async fn bytes(
    store: &Store<'_>,
    name: &str,
    bytes: Bytes,
    sha256: Option<&str>,
    condition: Condition,
) -> Result<()> {
    match put(store, name, bytes, sha256, &condition).await {
        Ok(()) => Ok(()),
        Err(failure) => Err(failure.error(&store.shown(name), "write it")),
    }
}

/// Writes a file in one piece, unless somebody else has written it meanwhile.
///
/// # Errors
/// [`Error::Environment`].
pub async fn file(store: &Store<'_>, file: &ContentFile, condition: Condition) -> Result<()> {
    let content = super::multipart::read(file, 0, file.bytes).await?;
    let name = &file.name;
    let mut result = put(store, name, content.clone(), Some(&file.sha256), &condition).await;
    if result.as_ref().is_err_and(super::Failure::is_unknown_request) {
        // A store that knows no conditions.
        result = put(store, name, content, Some(&file.sha256), &Condition::Any).await;
    }
    let unseen = |failure: super::Failure| super::unseen(store, name, &failure);
    match result {
        Ok(()) => Ok(()),
        // An answer that was lost looks the same as somebody else's file.
        Err(failure) if failure.is_precondition() => match head(store, name).await.map_err(unseen)? {
            Some(object) if object.is(file) => Ok(()),
            _ => Err(overtaken(store, name)),
        },
        Err(failure) => Err(failure.error(&store.shown(name), "write it")),
    }
}

/// The error for an object that another upload has written since this one looked.
pub fn overtaken(store: &Store<'_>, name: &str) -> Error {
    Error::Environment {
        subject: store.shown(name),
        cause: "another upload has written it meanwhile".into(),
        remedy: "run again when no other upload to this target is under way".into(),
    }
}

async fn put(
    store: &Store<'_>,
    name: &str,
    bytes: Bytes,
    sha256: Option<&str>,
    condition: &Condition,
) -> std::result::Result<(), super::Failure> {
    let checksum = Checksum::of(&bytes);
    let request = || {
        let put = store.client.put_object().bucket(store.bucket).key(store.key(name)).body(bytes.clone().into());
        let put = put.checksum_sha256(&checksum.base64).content_type(content_type(name));
        let put = match sha256 {
            Some(sha256) => put.metadata(SHA256, sha256),
            None => put,
        };
        let put = match condition {
            Condition::Any => put,
            Condition::Absent => put.if_none_match("*"),
            Condition::Is(etag) => put.if_match(etag),
        };
        put.customize().interceptor(Signed(checksum.clone())).send()
    };
    store.call(name, "write it", bytes.len() as u64, request).await.map(|_| ())
}

/// What a browser is told that a file is.
pub fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "json" => "application/json",
        "jsonl" | "ndjson" => "application/jsonlines",
        "md" => "text/markdown; charset=utf-8",
        "svg" => "image/svg+xml",
        "gz" => "application/gzip",
        "zst" => "application/zstd",
        _ => "application/octet-stream",
    }
}
