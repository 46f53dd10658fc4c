//! Uploads to S3, and to stores that speak its language.
//!
//! Every object bears its SHA-256 as metadata, and that alone decides what is sent. The manifest goes last. Where
//! files of an earlier export have to be replaced, its manifest is taken away first, so that no reader ever sees a
//! manifest beside files that are not its own; what it listed is kept aside until the new one is there, so that a
//! killed upload forgets nothing. What is about to be sent is written down first (`intent`), so that the next upload
//! knows what a killed one may have left.

mod failure;
mod intent;
mod multipart;
mod put;
mod store;

use super::content::{self, Content, ContentFile, MANIFEST};
use super::options::Options;
use super::receipt::{Entry, Listed, Receipt};
use super::{Host, runtime};
use crate::domain::manifest::Manifest;
use crate::error::{Error, Result};
use aws_sdk_s3::error::SdkError;
use failure::Failure;
use futures_util::{StreamExt, TryStreamExt, stream};
use intent::{INTENT, Intent, Written};
use multipart::Slots;
use put::Condition;
use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;
use std::time::Instant;
use store::Store;

/// Where an earlier manifest is kept while its files are replaced.
const ASIDE: &str = ".colophon/replaced-manifest.json";
/// The name of the metadata that decides.
const SHA256: &str = "sha256";
/// Pages of a listing, each of a thousand objects, after which every file is asked for by itself.
const PAGES: usize = 20;
/// Questions that are asked at the same time.
const QUESTIONS: usize = 32;

/// Sends an export.
///
/// # Errors
/// [`Error::Environment`] with object, cause and remedy; [`Error::Usage`] if another program's manifest is there, or
/// if the environment says what cannot be; [`Error::Gate`] if there are no documents, but others would be removed;
/// [`Error::Stopped`]. No manifest stands beside half an export
/// then.
pub fn upload(content: &Content, bucket: &str, prefix: &str, options: &Options, host: Host<'_>) -> Result<Receipt> {
    if options.delete {
        content.check_not_empty()?;
    }
    runtime::run_to_end(async {
        let start = Instant::now();
        let (store, listed) = runtime::stoppable(host, connect(bucket, prefix, options, host)).await?;
        let slots = Slots::new(options);
        let upload = Upload { content, store: &store, options, slots: &slots };
        let result = runtime::stoppable(host, upload.run(listed)).await;
        if result.is_err() {
            multipart::tidy(&store, &slots).await;
        }
        let mut receipt = result?;
        receipt.retries = store.retries.load(Ordering::Relaxed);
        receipt.seconds = start.elapsed().as_secs_f64();
        Ok(receipt)
    })
}

/// Finds the credentials and the region as an upload does, and asks the target nothing: what is missing is better said
/// before an export is made and verified than after.
///
/// # Errors
/// As those of [`upload`].
pub fn check_credentials(bucket: &str, prefix: &str, options: &Options, host: Host<'_>) -> Result<()> {
    runtime::run(host, async { Store::open(bucket, prefix, options, host).await.map(drop) })
}

/// What is known of the target before its objects are looked at one by one.
enum Listing {
    /// Names of all files there.
    Whole(HashSet<String>),
    /// There are too many to list.
    Long,
    /// Whoever asks may not list. A store then also refuses to say that an object is not there.
    Refused,
}

impl Listing {
    /// Whether something may be there under a name.
    fn may_have(&self, name: &str) -> bool {
        match self {
            Listing::Whole(names) => names.contains(name),
            Listing::Long | Listing::Refused => true,
        }
    }

    fn is_refused(&self) -> bool {
        matches!(self, Listing::Refused)
    }
}

/// Finds the bucket, with the credentials, in its region.
async fn connect<'a>(
    bucket: &'a str,
    prefix: &'a str,
    options: &Options,
    host: Host<'a>,
) -> Result<(Store<'a>, Listing)> {
    let store = Store::open(bucket, prefix, options, host).await?;
    let failure = match list(&store).await {
        Ok(listed) => return Ok((store, listed)),
        Err(failure) => failure,
    };
    match failure.region.clone() {
        Some(region) if !failure.is_forbidden() && options.s3.region.is_none() => {
            tracing::info!("The bucket {bucket} is in {region}");
            let store = store.moved(options, region).await;
            let listed = list(&store).await.map_err(|failure| failure.error(&store.shown(""), "list the target"))?;
            Ok((store, listed))
        }
        _ => Err(failure.error(&store.shown(""), "list the target")),
    }
}

/// Lists what is at the target. It is the first request, so it also shows whether anything can be done there.
async fn list(store: &Store<'_>) -> std::result::Result<Listing, Failure> {
    let (mut found, mut token) = (HashSet::new(), None);
    let prefix = store.key("");
    for _ in 0..PAGES {
        let request = || {
            let list = store.client.list_objects_v2().bucket(store.bucket).prefix(&prefix);
            list.set_continuation_token(token.clone()).send()
        };
        let page = match store.call("", "list the target", 0, request).await {
            Err(failure) if failure.is("AccessDenied") => {
                tracing::warn!("{}", failure.error(&store.shown(""), "list the target"));
                return Ok(Listing::Refused);
            }
            page => page?,
        };
        for object in page.contents() {
            if let Some(name) = object.key().and_then(|key| key.strip_prefix(&prefix)) {
                found.insert(name.to_owned());
            }
        }
        token = page.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            return Ok(Listing::Whole(found));
        }
    }
    Ok(Listing::Long)
}

/// What is at the target under a file's name.
struct Object {
    bytes: u64,
    /// As this program wrote it there; another's objects have none.
    sha256: Option<String>,
    modified: Option<i64>,
    /// The server's name for this version of it.
    etag: Option<String>,
}

impl Object {
    fn is(&self, file: &ContentFile) -> bool {
        self.bytes == file.bytes && self.sha256.as_deref() == Some(&file.sha256)
    }
}

/// Asks what is at the target under a name.
async fn head(store: &Store<'_>, name: &str) -> std::result::Result<Option<Object>, Failure> {
    let request = || store.client.head_object().bucket(store.bucket).key(store.key(name)).send();
    match store.call(name, "look at it", 0, request).await {
        Ok(answer) => Ok(Some(Object {
            bytes: answer.content_length().unwrap_or_default().max(0).unsigned_abs(),
            sha256: answer.metadata().and_then(|metadata| metadata.get(SHA256)).cloned(),
            modified: answer.last_modified().map(aws_sdk_s3::primitives::DateTime::secs),
            etag: answer.e_tag().map(str::to_owned),
        })),
        Err(failure) if failure.is_absent() => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The error of [`head`].
fn unseen(store: &Store<'_>, name: &str, failure: &Failure) -> Error {
    failure.error(&store.shown(name), "look at it")
}

/// What is at the target as a manifest.
enum Found {
    /// One of this program's, with its bytes.
    Manifest(Box<Manifest>, Vec<u8>),
    /// Another program's.
    Foreign,
    Nothing,
}

/// Reads a manifest at the target.
async fn read_manifest(store: &Store<'_>, name: &str) -> std::result::Result<Found, Failure> {
    let Some(bytes) = fetch(store, name).await? else { return Ok(Found::Nothing) };
    Ok(content::earlier(&bytes).map_or(Found::Foreign, |manifest| Found::Manifest(Box::new(manifest), bytes)))
}

/// The bytes of an object, if it is there.
async fn fetch(store: &Store<'_>, name: &str) -> std::result::Result<Option<Vec<u8>>, Failure> {
    let request = || async {
        let answer = store.client.get_object().bucket(store.bucket).key(store.key(name)).send().await?;
        // A body that breaks off is as an answer that does not come.
        answer.body.collect().await.map_err(SdkError::timeout_error)
    };
    match store.call(name, "read it", 0, request).await {
        Err(failure) if failure.is_absent() => Ok(None),
        body => Ok(Some(body?.to_vec())),
    }
}

/// An upload under way.
#[derive(Clone, Copy)]
struct Upload<'a> {
    content: &'a Content,
    store: &'a Store<'a>,
    options: &'a Options,
    slots: &'a Slots,
}

/// What there is to do.
struct Plan<'a> {
    /// Each with what has to be there still when it is written.
    send: Vec<(&'a ContentFile, Condition)>,
    skip: Vec<&'a ContentFile>,
    delete: Vec<Entry>,
    /// What is at the target as the manifest, with its bytes.
    manifest: Option<(Object, Vec<u8>)>,
    /// The manifest at the target must not stand beside what is sent or removed.
    hides: bool,
    /// The manifest at the target is this one, and may stay.
    is_published: bool,
    /// A manifest was kept aside by an upload that did not end.
    has_aside: bool,
    /// What uploads that did not end meant to send.
    intent: Option<Intent>,
}

impl<'a> Upload<'a> {
    async fn run(self, listed: Listing) -> Result<Receipt> {
        let plan = self.plan(&listed).await?;
        let mut receipt = Receipt {
            target: self.store.shown("").trim_end_matches('/').into(),
            dry_run: self.options.dry_run,
            sent: plan.send.iter().map(|(file, _)| entry(file)).collect(),
            skipped: plan.skip.iter().map(|file| entry(file)).collect(),
            deleted: plan.delete.clone(),
            ..Receipt::default()
        };
        let manifest = self.content.manifest_file();
        let list = if plan.is_published { &mut receipt.skipped } else { &mut receipt.sent };
        list.push(entry(manifest));
        for file in &plan.skip {
            (self.store.host.sent)(file.bytes);
            (self.store.host.done)();
        }
        if self.options.dry_run {
            return Ok(receipt);
        }
        receipt.bytes_sent = self.publish(&plan).await?;
        receipt.listing = self.proof().await?;
        Ok(receipt)
    }

    /// Compares the export with what is at the target.
    async fn plan(self, listed: &Listing) -> Result<Plan<'a>> {
        let (earlier, manifest, has_aside) = self.earlier(listed).await?;
        let (mut send, mut skip, mut replaces) = (Vec::new(), Vec::new(), false);
        let mut looks = stream::iter(self.content.data_files())
            .map(|file| async move {
                Ok::<_, Error>((
                    file,
                    if listed.may_have(&file.name) { self.look(listed, &file.name).await? } else { None },
                ))
            })
            .buffered(QUESTIONS);
        while let Some((file, object)) = looks.try_next().await? {
            match object {
                Some(object) if object.is(file) => skip.push(file),
                object => {
                    replaces |= object.is_some();
                    send.push((file, self.unchanged(listed, object)));
                }
            }
        }
        drop(looks);
        // A file that the manifest at the target lists and that is not there is as one that is replaced.
        let is_listed = |(file, _): &(&ContentFile, Condition)| {
            earlier.iter().any(|manifest| manifest.files.iter().any(|listed| listed.path == file.name))
        };
        replaces |= send.iter().any(is_listed);
        let mut delete = self.options.removed(self.stale(&earlier, listed));
        let hides = manifest.is_some() && (replaces || !delete.is_empty());
        let intent = Intent::read(self.store, listed).await?;
        // What no manifest lists yet, no reader misses.
        if let (true, Some(intent)) = (self.options.delete, &intent) {
            let left = intent.left(&self, listed).await?;
            delete.extend(left);
            delete.sort_by(|a, b| a.path.cmp(&b.path));
            delete.dedup_by(|a, b| a.path == b.path);
        }
        let is_same = |(object, _): &(Object, Vec<u8>)| object.is(self.content.manifest_file());
        let is_published = !hides && manifest.as_ref().is_some_and(is_same);
        // The largest first: at the end there is then little to wait for.
        send.sort_by_key(|(file, _)| std::cmp::Reverse(file.bytes));
        Ok(Plan { send, skip, delete, manifest, hides, is_published, has_aside, intent })
    }

    /// The manifests at the target, which say what earlier uploads put there: the one that readers see, which also
    /// comes with its object and its bytes, and whether there is one that an upload that did not end has kept aside.
    /// Whoever may not look at them cannot know what must not be replaced beside them, so nothing is sent then.
    async fn earlier(self, listed: &Listing) -> Result<(Vec<Manifest>, Option<(Object, Vec<u8>)>, bool)> {
        let (mut earlier, mut manifest) = (Vec::new(), None);
        let object = match listed.may_have(MANIFEST) {
            true => head(self.store, MANIFEST).await.map_err(|failure| self.blind(listed, MANIFEST, &failure))?,
            false => None,
        };
        if let Some(object) = object {
            match read_manifest(self.store, MANIFEST).await.map_err(|failure| self.blind(listed, MANIFEST, &failure))? {
                Found::Manifest(found, bytes) => {
                    earlier.push(*found);
                    manifest = Some((object, bytes));
                }
                Found::Foreign => return Err(foreign(&self.store.shown(MANIFEST), "a manifest")),
                Found::Nothing => {}
            }
        }
        let aside = match listed.may_have(ASIDE) {
            true => read_manifest(self.store, ASIDE).await.map_err(|failure| self.blind(listed, ASIDE, &failure))?,
            false => Found::Nothing,
        };
        let has_aside = matches!(aside, Found::Manifest(..));
        if let Found::Manifest(found, _) = aside {
            earlier.push(*found);
        }
        Ok((earlier, manifest, has_aside))
    }

    /// A manifest that cannot be looked at.
    fn blind(self, listed: &Listing, name: &str, failure: &Failure) -> Error {
        let error = failure.error(&self.store.shown(name), "read it");
        match error {
            Error::Environment { subject, cause, .. } if listed.is_refused() && failure.is_forbidden() => {
                Error::Environment {
                    subject,
                    cause: format!("{cause}; whether an earlier export is there is not known, and nothing was sent"),
                    remedy: "allow s3:GetObject on it, and s3:ListBucket on the bucket (without it a store does not \
                             say that an object is not there), for these credentials"
                        .into(),
                }
            }
            error => error,
        }
    }

    /// What is there under a file's name. Who may not list is not told either that nothing is there; the manifests
    /// say what is.
    async fn look(self, listed: &Listing, name: &str) -> Result<Option<Object>> {
        match head(self.store, name).await {
            Err(failure) if listed.is_refused() && failure.is_forbidden() => Ok(None),
            object => object.map_err(|failure| unseen(self.store, name, &failure)),
        }
    }

    /// The condition that what was seen is there still.
    fn unchanged(self, listed: &Listing, object: Option<Object>) -> Condition {
        match object {
            Some(object) => object.etag.map_or(Condition::Any, Condition::Is),
            // Who may not list cannot be sure that nothing is there.
            None if listed.is_refused() => Condition::Any,
            None => Condition::Absent,
        }
    }

    /// What an earlier manifest lists and this one does not. Only paths below the target count, and only objects that
    /// are there; the manifest that is kept aside goes when the upload ends, and not before.
    fn stale(self, earlier: &[Manifest], listed: &Listing) -> Vec<Entry> {
        let kept: BTreeSet<&str> = self.content.files.iter().map(|file| file.name.as_str()).collect();
        let mut stale = std::collections::BTreeMap::new();
        for file in earlier.iter().flat_map(|manifest| &manifest.files) {
            let path = file.path.as_str();
            if listed.may_have(path) && is_own_name(path) && !kept.contains(path) {
                stale.insert(file.path.clone(), file.bytes);
            }
        }
        stale.into_iter().map(|(path, bytes)| Entry { path, bytes }).collect()
    }

    /// Sends what is to be sent, the manifest last, and removes what is to be removed. Gives the bytes that were sent.
    async fn publish(self, plan: &Plan<'a>) -> Result<u64> {
        let store = self.store;
        let written = self.announce(plan).await?;
        let written = written.as_ref();
        // Beside files that are being replaced or removed, no manifest may stand.
        if let Some((_, bytes)) = plan.manifest.as_ref().filter(|_| plan.hides) {
            put::bytes(store, ASIDE, bytes.clone().into(), None, Condition::Any).await?;
            remove_file(store, MANIFEST).await?;
        }
        let sent = stream::iter(&plan.send).map(|(file, condition)| async move {
            self.check_alone(written).await?;
            let sent = multipart::send(store, (file, condition.clone()), self.options, self.slots).await?;
            (store.host.done)();
            tracing::debug!("sent {}", file.name);
            Ok::<_, Error>(sent)
        });
        let sent: u64 =
            sent.buffer_unordered(self.options.concurrency).try_fold(0, |sum, n| async move { Ok(sum + n) }).await?;
        self.content.check()?;
        self.check_alone(written).await?;
        let removals = stream::iter(&plan.delete).map(|entry| remove_file(store, &entry.path));
        removals.buffer_unordered(self.options.concurrency).try_collect::<Vec<()>>().await?;
        self.check_alone(written).await?;
        let manifest = self.content.manifest_file();
        let mut bytes = sent;
        if !plan.is_published {
            let condition = match &plan.manifest {
                Some((object, _)) if !plan.hides => object.etag.clone().map_or(Condition::Any, Condition::Is),
                _ => Condition::Absent,
            };
            put::file(store, manifest, condition).await?;
            bytes += manifest.bytes;
        }
        (store.host.sent)(manifest.bytes);
        (store.host.done)();
        if plan.hides || plan.has_aside {
            remove_file(store, ASIDE).await?;
        }
        // Without `--delete`, what earlier uploads left stays, and so does the list of it.
        match &plan.intent {
            Some(intent) if !self.options.delete => intent.clone().leave(store, self.content).await?,
            Some(_) => Intent::remove(store).await?,
            None if written.is_some() => Intent::remove(store).await?,
            None => {}
        }
        Ok(bytes)
    }

    /// Ends what killed uploads left open, and tells others of this upload, if it has anything to change. One that ended
    /// just before that may have changed what this one saw.
    async fn announce(self, plan: &Plan<'a>) -> Result<Option<Written>> {
        if let Some(intent) = &plan.intent {
            let in_parts = plan.send.iter().filter(|(file, _)| file.bytes > self.options.s3.part_size);
            intent.end_uploads(self.store, &in_parts.map(|(file, _)| file.name.as_str()).collect()).await?;
        }
        if plan.send.is_empty() && plan.delete.is_empty() && plan.is_published {
            return Ok(None);
        }
        let written = Intent::write(self.store, self.content, plan.intent.as_ref()).await?;
        self.check_manifest(plan).await?;
        Ok(Some(written))
    }

    /// Fails if another upload has been announced since.
    async fn check_alone(self, written: Option<&Written>) -> Result<()> {
        match written {
            Some(written) => Intent::check(self.store, written).await,
            None => Ok(()),
        }
    }

    /// Fails if the manifest at the target is another one than it was when this upload was planned.
    async fn check_manifest(self, plan: &Plan<'a>) -> Result<()> {
        let planned = plan.manifest.as_ref().map(|(object, _)| object);
        match head(self.store, MANIFEST).await {
            Ok(there) if there.as_ref().map(|object| &object.etag) == planned.map(|object| &object.etag) => Ok(()),
            Err(failure) if failure.is_forbidden() => Ok(()),
            Err(failure) => Err(unseen(self.store, MANIFEST, &failure)),
            Ok(_) => Err(put::overtaken(self.store, MANIFEST)),
        }
    }

    /// Looks at every object once more: what is there is what was to be sent.
    async fn proof(self) -> Result<Vec<Listed>> {
        let looks = stream::iter(&self.content.files).map(|file| async move {
            let listed = |modified| Listed { path: file.name.clone(), bytes: file.bytes, modified };
            match head(self.store, &file.name).await {
                Ok(Some(object)) if object.is(file) => Ok(listed(object.modified)),
                // Whoever may only write cannot look.
                Err(failure) if failure.is_forbidden() => Ok(listed(None)),
                Err(failure) => Err(unseen(self.store, &file.name, &failure)),
                Ok(_) => Err(Error::Environment {
                    subject: self.store.shown(&file.name),
                    cause: "it is not what was sent".into(),
                    remedy: "something else writes to the target: run again when it is done".into(),
                }),
            }
        });
        let mut listing: Vec<Listed> = looks.buffered(QUESTIONS).try_collect().await?;
        listing.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(listing)
    }
}

fn entry(file: &ContentFile) -> Entry {
    Entry { path: file.name.clone(), bytes: file.bytes }
}

/// What another program wrote is not replaced.
fn foreign(name: &str, what: &str) -> Error {
    Error::Usage(format!("{name} is not {what} of colophon's, and would be replaced: choose another prefix"))
}

/// Whether a name that a manifest lists can be that of a file that an upload put below the target: the manifest, and
/// what is kept beside it, go in their own time.
fn is_own_name(path: &str) -> bool {
    let is_plain = !path.split('/').any(|part| matches!(part, "" | "." | ".."));
    is_plain && ![MANIFEST, ASIDE, INTENT].contains(&path)
}

/// Removes an object; that it is not there is no failure.
async fn remove(store: &Store<'_>, name: &str) -> std::result::Result<(), Failure> {
    let request = || store.client.delete_object().bucket(store.bucket).key(store.key(name)).send();
    match store.call(name, "remove it", 0, request).await {
        Err(failure) if !failure.is_absent() => Err(failure),
        _ => Ok(()),
    }
}

/// The same for a file, with the error for people.
async fn remove_file(store: &Store<'_>, name: &str) -> Result<()> {
    remove(store, name).await.map_err(|failure| failure.error(&store.shown(name), "remove it"))
}
