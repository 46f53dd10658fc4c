//! Files: small ones in one piece, large ones in parts, each with a checksum that the server checks.
//!
//! A part is read into memory, hashed there and sent from there, so what was hashed is what arrives. An upload that
//! was interrupted is taken up again if the server lists it and every part that arrived is the file's; what else this
//! program left for the same file is removed.

use super::put::{self, Checksum, Condition, Signed, content_type};
use super::store::Store;
use super::{Failure, SHA256, head};
use crate::domain::manifest::hex;
use crate::error::{Context, Error, Result};
use crate::publish::content::ContentFile;
use crate::publish::options::Options;
use crate::publish::runtime;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, MultipartUpload, Part};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use md5::{Digest, Md5};
use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Semaphore;

/// The most parts that an upload can have.
const MAX_PARTS: u64 = 10_000;
/// How often a file is begun anew whose upload vanished from the server.
const ANEW: u32 = 3;
/// The unit in which memory is handed out.
const UNIT: u64 = 1 << 20;

/// Memory for what is under way, and the uploads that are open.
pub struct Slots {
    memory: Semaphore,
    units: u32,
    /// Uploads that nobody could find again: their names and ids.
    open: Mutex<Vec<(String, String)>>,
}

impl Slots {
    /// As much memory as the options ask for.
    pub fn new(options: &Options) -> Slots {
        let units = units(options.s3.part_size).saturating_mul(options.concurrency as u64).min(1 << 28) as u32;
        Slots { memory: Semaphore::new(units as usize), units, open: Mutex::default() }
    }

    /// Waits for room for so many bytes. A part that is larger than all the room has it to itself.
    async fn room(&self, bytes: u64) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.memory.acquire_many((units(bytes) as u32).min(self.units)).await.ok()
    }

    fn note(&self, name: &str, id: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push((name.into(), id.into()));
    }

    fn forget(&self, id: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(_, open)| open != id);
    }
}

fn units(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT).max(1)
}

/// After a failure: removes the parts that no later upload could find.
pub async fn tidy(store: &Store<'_>, slots: &Slots) {
    let open = std::mem::take(&mut *slots.open.lock().unwrap_or_else(PoisonError::into_inner));
    let aborts = stream::iter(&open).for_each_concurrent(8, |(name, id)| async move {
        abort(store, name, id).await;
    });
    // A server that does not answer must not keep a stopped run.
    let _ = tokio::time::timeout(runtime::GRACE, aborts).await;
}

/// Removes an open upload with its parts; that this fails is no reason to stop.
async fn abort(store: &Store<'_>, name: &str, id: &str) {
    let request =
        || store.client.abort_multipart_upload().bucket(store.bucket).key(store.key(name)).upload_id(id).send();
    match store.call(name, "remove its parts", 0, request).await {
        Err(failure) if !failure.is("NoSuchUpload") => {
            tracing::warn!("{}", failure.error(&store.shown(name), "remove its parts"));
        }
        _ => tracing::debug!("removed an open upload of {name}"),
    }
}

/// Removes the open uploads of this program's making for files of these names, where the server lists them.
///
/// # Errors
/// [`Error::Environment`] if the server cannot be reached.
pub async fn end(store: &Store<'_>, names: &HashSet<&str>) -> Result<()> {
    let prefix = store.key("");
    for upload in open_uploads(store, &prefix).await?.unwrap_or_default() {
        let name = upload.key().and_then(|key| key.strip_prefix(&prefix));
        let (Some(name), Some(id)) = (name.filter(|name| names.contains(name)), upload.upload_id()) else { continue };
        let has_checksum = |parts: &Vec<Part>| parts.iter().any(|part| part.checksum_sha256().is_some());
        if is_ours(&upload) || arrived(store, name, id).await?.as_ref().is_some_and(has_checksum) {
            abort(store, name, id).await;
        }
    }
    Ok(())
}

/// Open uploads whose keys begin so; `None` if the server does not list them.
async fn open_uploads(store: &Store<'_>, prefix: &str) -> Result<Option<Vec<MultipartUpload>>> {
    let (mut uploads, mut marker) = (Vec::new(), (None::<String>, None::<String>));
    loop {
        let request = || {
            let list = store.client.list_multipart_uploads().bucket(store.bucket).prefix(prefix);
            list.set_key_marker(marker.0.clone()).set_upload_id_marker(marker.1.clone()).send()
        };
        let page = match store.call("", "list the open uploads", 0, request).await {
            Ok(page) => page,
            Err(failure) if failure.is_transient => {
                return Err(failure.error(&store.shown(""), "list the open uploads"));
            }
            // Not known here, or not allowed.
            Err(_) => return Ok(None),
        };
        uploads.extend_from_slice(page.uploads());
        let next = (page.next_key_marker().map(str::to_owned), page.next_upload_id_marker().map(str::to_owned));
        if page.is_truncated() != Some(true) || next.0.is_none() || next == marker {
            return Ok(Some(uploads));
        }
        marker = next;
    }
}

/// Whether an open upload is of this program's making: only it asks for this checksum.
fn is_ours(upload: &MultipartUpload) -> bool {
    upload.checksum_algorithm() == Some(&ChecksumAlgorithm::Sha256)
}

/// Parts of an upload that have arrived; nothing if it vanished, or if the server does not say.
async fn arrived(store: &Store<'_>, name: &str, id: &str) -> Result<Option<Vec<Part>>> {
    let (mut parts, mut marker) = (Vec::new(), None::<String>);
    loop {
        let request = || {
            let list = store.client.list_parts().bucket(store.bucket).key(store.key(name)).upload_id(id);
            list.set_part_number_marker(marker.clone()).send()
        };
        let page = match store.call(name, "list its parts", 0, request).await {
            Ok(page) => page,
            Err(failure) if failure.is_transient => return Err(failure.error(&store.shown(name), "list its parts")),
            Err(_) => return Ok(None),
        };
        parts.extend_from_slice(page.parts());
        match page.next_part_number_marker() {
            Some(next) if page.is_truncated() == Some(true) && Some(next) != marker.as_deref() => {
                marker = Some(next.into());
            }
            _ => return Ok(Some(parts)),
        }
    }
}

/// Sends a file; gives the bytes that were sent.
///
/// # Errors
/// [`Error::Environment`].
pub async fn send(
    store: &Store<'_>,
    (file, condition): (&ContentFile, Condition),
    options: &Options,
    slots: &Slots,
) -> Result<u64> {
    if file.bytes <= options.s3.part_size {
        let _room = slots.room(file.bytes).await;
        put::file(store, file, condition).await?;
        (store.host.sent)(file.bytes);
        return Ok(file.bytes);
    }
    let part_size = options.s3.part_size.max(file.bytes.div_ceil(MAX_PARTS).next_multiple_of(UNIT));
    let large = Large { store, file, condition: &condition, part_size, slots };
    let mut counted = 0;
    for _ in 0..ANEW {
        if let Some(sent) = large.send(options.concurrency, &mut counted).await? {
            return Ok(sent);
        }
        tracing::debug!("{}: its parts vanished from the target; it is begun anew", file.name);
    }
    Err(Error::Environment {
        subject: store.shown(&file.name),
        cause: "its parts vanished from the target while they were sent".into(),
        remedy: "run again when no other upload to this target is under way".into(),
    })
}

/// Some bytes of a file that is as it was verified.
///
/// # Errors
/// [`Error::Environment`] if it was changed, or cannot be read.
pub async fn read(file: &ContentFile, offset: u64, bytes: u64) -> Result<Bytes> {
    let open = file.open()?;
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    let work = move || {
        let mut buffer = vec![0; length];
        open.read_exact_at(&mut buffer, offset).map(|()| (buffer, open))
    };
    let (buffer, open) = blocking(work).await?.context(&file.path, "read")?;
    file.check_open(&open)?;
    Ok(buffer.into())
}

/// Does on another thread what would keep the network waiting.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Environment {
        subject: "threads".into(),
        cause: error.to_string(),
        remedy: "run again".into(),
    })
}

/// A file that goes in parts.
#[derive(Clone, Copy)]
struct Large<'a> {
    store: &'a Store<'a>,
    file: &'a ContentFile,
    /// What has to hold at the target when the parts are put together.
    condition: &'a Condition,
    part_size: u64,
    slots: &'a Slots,
}

/// An upload that is open at the server.
struct Open {
    id: String,
    /// Parts that have arrived.
    parts: BTreeMap<i32, CompletedPart>,
}

impl Large<'_> {
    fn parts(&self) -> i32 {
        self.file.bytes.div_ceil(self.part_size) as i32
    }

    /// Where a part, numbered from 1, begins, and how many bytes it has.
    fn range(&self, number: i32) -> (u64, u64) {
        let offset = (number - 1) as u64 * self.part_size;
        (offset, self.part_size.min(self.file.bytes - offset))
    }

    fn failed(&self, failure: &Failure, doing: &str) -> Error {
        failure.error(&self.store.shown(&self.file.name), doing)
    }

    /// Sends the file; gives the bytes that were sent, or nothing if the upload vanished from the server.
    /// `counted` are the bytes that the progress knows of already.
    async fn send(self, concurrency: usize, counted: &mut u64) -> Result<Option<u64>> {
        let (mut open, is_listed) = match self.take_up().await? {
            Some(Some(open)) => (open, true),
            Some(None) => (self.create().await?, true),
            None => (self.create().await?, false),
        };
        // One without parts cannot be told from somebody else's.
        if !is_listed || open.parts.is_empty() {
            self.slots.note(&self.file.name, &open.id);
        }
        let (mut sent, id) = (0, open.id.clone());
        let arrived: u64 = open.parts.keys().map(|number| self.range(*number).1).sum();
        self.count(arrived, counted);
        let missing: Vec<i32> = (1..=self.parts()).filter(|number| !open.parts.contains_key(number)).collect();
        let mut parts = stream::iter(missing).map(|number| self.part(&id, number)).buffer_unordered(concurrency);
        let mut known = arrived;
        while let Some(part) = parts.next().await {
            let Some(part) = part? else { return Ok(None) };
            let number = part.part_number().unwrap_or_default();
            sent += self.range(number).1;
            known += self.range(number).1;
            self.count(known, counted);
            open.parts.insert(number, part);
            if is_listed {
                self.slots.forget(&open.id);
            }
        }
        drop(parts);
        self.file.check()?;
        let is_complete = self.complete(&open).await?;
        self.slots.forget(&open.id);
        Ok(is_complete.then_some(sent))
    }

    /// Tells the progress what is known to have arrived, beyond what it has been told.
    fn count(&self, arrived: u64, counted: &mut u64) {
        if arrived > *counted {
            (self.store.host.sent)(arrived - *counted);
            *counted = arrived;
        }
    }

    async fn create(self) -> Result<Open> {
        let Large { store, file, .. } = self;
        let request = |algorithm: Option<ChecksumAlgorithm>| {
            let create = store.client.create_multipart_upload().bucket(store.bucket).key(store.key(&file.name));
            let create = create.content_type(content_type(&file.name)).metadata(SHA256, &file.sha256);
            create.set_checksum_algorithm(algorithm).send()
        };
        let answer = store.call(&file.name, "begin it", 0, || request(Some(ChecksumAlgorithm::Sha256))).await;
        let answer = match answer {
            // A store that knows no checksums; what it signs it checks.
            Err(failure) if failure.is_unknown_request() => {
                store.call(&file.name, "begin it", 0, || request(None)).await
            }
            answer => answer,
        };
        let answer = answer.map_err(|failure| self.failed(&failure, "begin to write it in parts"))?;
        let id = answer.upload_id().filter(|id| !id.is_empty()).ok_or_else(|| Error::Environment {
            subject: store.shown(&file.name),
            cause: "the server began an upload in parts and gave it no id".into(),
            remedy: "choose a --part-size larger than the file".into(),
        })?;
        Ok(Open { id: id.into(), parts: BTreeMap::new() })
    }

    /// Sends a part; nothing if the upload vanished from the server.
    async fn part(self, id: &str, number: i32) -> Result<Option<CompletedPart>> {
        let Large { store, file, .. } = self;
        let (offset, bytes) = self.range(number);
        let _room = self.slots.room(bytes).await;
        let content = read(file, offset, bytes).await?;
        let hashed = content.clone();
        let checksum = blocking(move || Checksum::of(&hashed)).await?;
        let request = || {
            let part = store.client.upload_part().bucket(store.bucket).key(store.key(&file.name)).upload_id(id);
            let part = part.part_number(number).body(content.clone().into()).checksum_sha256(&checksum.base64);
            part.customize().interceptor(Signed(checksum.clone())).send()
        };
        let doing = format!("write part {number} of {}", self.parts());
        match store.call(&file.name, &doing, bytes, request).await {
            Ok(answer) => {
                let part = CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag().map(str::to_owned));
                Ok(Some(part.checksum_sha256(checksum.base64).build()))
            }
            Err(failure) if failure.is("NoSuchUpload") => Ok(None),
            Err(failure) => Err(self.failed(&failure, &doing)),
        }
    }

    /// Has the server put the parts together; `false` if the upload vanished.
    async fn complete(self, open: &Open) -> Result<bool> {
        let Large { store, file, .. } = self;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(open.parts.values().cloned().collect())).build();
        let request = |condition: &Condition| {
            let complete = store.client.complete_multipart_upload().bucket(store.bucket).key(store.key(&file.name));
            let complete = complete.upload_id(&open.id).multipart_upload(parts.clone());
            match condition {
                Condition::Any => complete,
                Condition::Absent => complete.if_none_match("*"),
                Condition::Is(etag) => complete.if_match(etag),
            }
            .send()
        };
        let doing = "put its parts together";
        let mut result = store.call(&file.name, doing, file.bytes, || request(self.condition)).await;
        if result.as_ref().is_err_and(Failure::is_unknown_request) {
            // A store that knows no conditions.
            result = store.call(&file.name, doing, file.bytes, || request(&Condition::Any)).await;
        }
        let vanished = match result {
            Ok(_) => false,
            Err(failure) if failure.is_precondition() => match head(store, &file.name).await {
                Ok(Some(object)) if object.is(file) => return Ok(true),
                _ => return Err(put::overtaken(store, &file.name)),
            },
            Err(failure) if failure.is("NoSuchUpload") || failure.is("InvalidPart") => true,
            Err(failure) => return Err(self.failed(&failure, "put its parts together")),
        };
        // The upload may have vanished because it succeeded and the answer was lost; and one that was taken up may
        // have been begun for a file that only began the same.
        Ok(match head(store, &file.name).await {
            Ok(object) => object.is_some_and(|object| object.is(file)),
            Err(_) => !vanished,
        })
    }

    /// Looks for open uploads of this file. `None` if the server lists none; else the one to take up, if there is one.
    async fn take_up(self) -> Result<Option<Option<Open>>> {
        let Some(uploads) = self.open_uploads().await? else { return Ok(None) };
        let mut best: Option<Open> = None;
        for upload in uploads {
            let Some(id) = upload.upload_id() else { continue };
            let is_ours = is_ours(&upload);
            let Some(parts) = arrived(self.store, &self.file.name, id).await? else {
                // What cannot be taken up must not stay either.
                if is_ours {
                    abort(self.store, &self.file.name, id).await;
                }
                continue;
            };
            let has_ours = is_ours || parts.iter().any(|part| part.checksum_sha256().is_some());
            match self.matching(&parts).await? {
                Some(parts) if has_ours || !parts.is_empty() => {
                    let open = Open { id: id.into(), parts };
                    let is_better = best.as_ref().is_none_or(|best| best.parts.len() < open.parts.len());
                    let other = if is_better { best.replace(open) } else { Some(open) };
                    if let Some(other) = other {
                        abort(self.store, &self.file.name, &other.id).await;
                    }
                }
                // Of this program's making, for what this file was before.
                None if has_ours => abort(self.store, &self.file.name, id).await,
                // Somebody else's.
                _ => {}
            }
        }
        if let Some(open) = &best {
            tracing::info!("Taking up {} after {} of {} parts", self.file.name, open.parts.len(), self.parts());
        }
        Ok(Some(best))
    }

    /// Open uploads of this file; `None` if the server lists none.
    async fn open_uploads(self) -> Result<Option<Vec<MultipartUpload>>> {
        let key = self.store.key(&self.file.name);
        let uploads = open_uploads(self.store, &key).await?;
        Ok(uploads.map(|uploads| uploads.into_iter().filter(|upload| upload.key() == Some(&key)).collect()))
    }

    /// The parts for completing the upload, if every one is the file's.
    async fn matching(self, parts: &[Part]) -> Result<Option<BTreeMap<i32, CompletedPart>>> {
        let mut matching = BTreeMap::new();
        for part in parts {
            let number = part.part_number().unwrap_or_default();
            if !(1..=self.parts()).contains(&number) {
                return Ok(None);
            }
            let (offset, bytes) = self.range(number);
            if part.size() != i64::try_from(bytes).ok() {
                return Ok(None);
            }
            let _room = self.slots.room(bytes).await;
            let content = read(self.file, offset, bytes).await?;
            let (said, etag) = (part.checksum_sha256().map(str::to_owned), part.e_tag().map(str::to_owned));
            let work = move || {
                let checksum = Checksum::of(&content).base64;
                let is_same = match (said, etag) {
                    (Some(said), _) => said == checksum,
                    (None, Some(etag)) => etag.trim_matches('"') == hex(&Md5::digest(&content)),
                    (None, None) => false,
                };
                is_same.then_some(checksum)
            };
            let Some(checksum) = blocking(work).await? else { return Ok(None) };
            let completed = CompletedPart::builder().part_number(number).set_e_tag(part.e_tag().map(str::to_owned));
            matching.insert(number, completed.checksum_sha256(checksum).build());
        }
        Ok(Some(matching))
    }
}
