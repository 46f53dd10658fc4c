//! Large files: their content, through Hugging Face's own client of the Xet store.
//!
//! It cuts content into chunks, sends only those that the store does not have, and keeps a record of what has arrived,
//! by which an upload that was killed is taken up. What is in the store is seen by nobody until a commit names it.

use super::account::Cache;
use super::api::{Api, Failure};
use crate::error::{self, Context, Error};
use crate::publish::Host;
use crate::publish::content::ContentFile;
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use std::fs::File;
use std::io::{self, Read};
use std::pin::pin;
use std::time::Duration;
use xet::XetError;
use xet::xet_session::{Sha256Policy, XetConfig, XetSession, XetSessionBuilder, XetUploadCommit};

/// Bytes that are read at a time.
const BLOCK: usize = 1 << 20;
/// Bytes of files whose arrival is recorded together: an upload that is taken up reads at most so much anew.
const GROUP: u64 = 4 << 30;
/// Blocks of the store, of 64 MiB, that are under way at the same time. With one on its way, the next is being packed,
/// for which it is in memory twice.
const UNDER_WAY: usize = 1;
/// The variable by which somebody with more memory lets more be under way.
const MORE_UNDER_WAY: &str = "HF_XET_CLIENT_AC_MAX_UPLOAD_CONCURRENCY";
/// How often progress is looked at.
const GLANCE: Duration = Duration::from_millis(200);

/// Sends files.
pub struct Sender<'a> {
    /// The repository.
    pub api: &'a Api,
    /// Who uploads, for a new key when one has run out.
    pub authorization: reqwest::header::HeaderValue,
    /// The branch.
    pub revision: &'a str,
    /// `hf://…`, for messages.
    pub target: &'a str,
    /// Who is told.
    pub host: Host<'a>,
}

/// Why a group did not arrive.
enum Trouble {
    /// Something here: there is no sense in trying again.
    Here(Error),
    /// The store, or the way to it, while this file was sent.
    There(Option<String>, XetError),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Here(error)
    }
}

impl Sender<'_> {
    /// Sends files; bytes that went over the network.
    ///
    /// # Errors
    /// [`Error::Environment`], naming the file where one is to blame.
    pub async fn send(&self, files: &[&ContentFile]) -> error::Result<u64> {
        if files.is_empty() {
            return Ok(0);
        }
        let cache = Cache::open()?;
        let session = XetSessionBuilder::new_with_config(config()).with_cache_dir(&cache.path);
        let session = session.with_tokio_handle(tokio::runtime::Handle::current()).build();
        let session = session.map_err(|error| self.error(None, &error))?;
        let mut sent = 0;
        for group in groups(files) {
            sent += self.send_persistently(&session, group).await?;
        }
        Ok(sent)
    }

    /// Sends a group; if the store fails for longer than its client endures, again.
    async fn send_persistently(&self, session: &XetSession, group: &[&ContentFile]) -> error::Result<u64> {
        let (mut failures, mut told) = (0, 0);
        loop {
            let (file, error) = match self.send_group(session, group, &mut told).await {
                Ok(sent) => {
                    (self.host.sent)(group.iter().map(|file| file.bytes).sum::<u64>().saturating_sub(told));
                    group.iter().for_each(|_| (self.host.done)());
                    return Ok(sent);
                }
                Err(Trouble::Here(error)) => return Err(error),
                Err(Trouble::There(file, error)) => (file, error),
            };
            failures += 1;
            let may_pass = !matches!(
                error,
                XetError::Authentication(_)
                    | XetError::Configuration(_)
                    | XetError::DataIntegrity(_)
                    | XetError::Io(_)
                    | XetError::NotFound(_)
            );
            let failure = Failure::Lost(self.api.quote(&error.to_string()));
            if failures >= 3 || !may_pass || self.api.wait(failures, failure, None).await.is_err() {
                return Err(self.error(file.as_deref(), &error));
            }
        }
    }

    /// Sends a group once. `told` is the progress that has been told.
    async fn send_group(&self, session: &XetSession, group: &[&ContentFile], told: &mut u64) -> Result<u64, Trouble> {
        let there = |error| Trouble::There(None, error);
        // The first key is asked for here, so that a refusal is the Hub's own words.
        let key = self.api.xet_key(self.revision).await;
        let key = key.map_err(|failure| failure.error(self.target, "get the key to the store for large files"))?;
        let renewal = self.api.xet_key_url(self.revision);
        let renewal = renewal.map_err(|failure| failure.error(self.target, "name the store for large files"))?;
        let headers = HeaderMap::from_iter([(AUTHORIZATION, self.authorization.clone())]);
        let commit = session.new_upload_commit().map_err(there)?;
        let commit = commit.with_endpoint(key.cas_url).with_token_info(key.access_token, key.exp);
        let commit = commit.with_token_refresh_url(renewal, headers).build().await.map_err(there)?;
        let mut work = pin!(async {
            for file in group {
                send_file(&commit, file).await?;
            }
            commit.commit().await.map_err(there)
        });
        loop {
            if let Ok(report) = tokio::time::timeout(GLANCE, work.as_mut()).await {
                return report.map(|report| report.dedup_metrics.total_bytes_uploaded);
            }
            // What is read is soon packed, and then waits for its turn on the network.
            let report = commit.progress();
            let waiting = report.total_transfer_bytes.saturating_sub(report.total_transfer_bytes_completed);
            let arrived = report.total_bytes_completed.saturating_sub(waiting);
            (self.host.sent)(arrived.saturating_sub(*told));
            *told = arrived.max(*told);
        }
    }

    fn error(&self, file: Option<&str>, error: &XetError) -> Error {
        let subject = file.map_or_else(|| self.target.to_owned(), |file| format!("{}: {file}", self.target));
        let remedy = match error {
            XetError::Io(_) => "check the space in the Hub's cache, which HF_HOME names",
            XetError::Authentication(_) => "check what the token may do, and run again",
            _ => "run again: what has arrived is not sent again",
        };
        Error::Environment {
            subject,
            cause: format!("the Hub's store for large files: {}", self.api.quote(&error.to_string())),
            remedy: remedy.into(),
        }
    }
}

/// No reports on this run to Hugging Face, and a bound on memory.
fn config() -> XetConfig {
    let mut config = XetConfig::new();
    config.telemetry.enabled = false;
    if std::env::var_os(MORE_UNDER_WAY).is_none() {
        config.client.ac_max_upload_concurrency = UNDER_WAY;
        config.client.ac_initial_upload_concurrency = UNDER_WAY;
    }
    config
}

/// Runs of files of about [`GROUP`] bytes.
fn groups<'a, 'b>(files: &'a [&'b ContentFile]) -> impl Iterator<Item = &'a [&'b ContentFile]> {
    let mut rest = files;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut fits = |file: &&ContentFile| {
            let begins = bytes == 0;
            bytes += file.bytes;
            begins || bytes <= GROUP
        };
        let count = rest.iter().take_while(|file| fits(file)).count();
        let (group, after) = rest.split_at(count);
        rest = after;
        (count > 0).then_some(group)
    })
}

async fn send_file(commit: &XetUploadCommit, file: &ContentFile) -> Result<(), Trouble> {
    let there = |error| Trouble::There(Some(file.name.clone()), error);
    let stream = commit.upload_stream(Some(file.name.clone()), Sha256Policy::Compute).await.map_err(there)?;
    let mut open = file.open()?;
    loop {
        let (still_open, block) = read(open).await;
        open = still_open;
        let block = block.context(&file.path, "read")?;
        if block.is_empty() {
            break;
        }
        stream.write(block).await.map_err(there)?;
    }
    file.check_open(&open)?;
    let sent = stream.finish().await.map_err(there)?;
    if sent.xet_info.sha256.as_deref() != Some(&file.sha256) {
        let remedy = "run again when nothing writes to the folder";
        return Err(
            Error::environment(&file.path, "the bytes that were read are not those of the manifest", remedy).into()
        );
    }
    Ok(())
}

/// Reads a block where a slow disk holds up nothing else.
async fn read(file: File) -> (File, io::Result<Bytes>) {
    let task = tokio::task::spawn_blocking(move || {
        let mut block = Vec::with_capacity(BLOCK);
        let read = (&file).take(BLOCK as u64).read_to_end(&mut block);
        (file, read.map(|_| Bytes::from(block)))
    });
    match task.await {
        Ok(read) => read,
        // A task that nobody calls off ends by itself or by a panic.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
