//! What an upload is about to send, written down at the target before it begins.
//!
//! An upload that is killed leaves files that no manifest lists yet, and parts of others. The next one reads here what
//! may be there, and clears it away; what no upload of this program meant to send is none of its concern. An upload that
//! finds somebody else's list in place of its own knows that it is not alone.

use super::multipart;
use super::put::{self, Condition};
use super::store::Store;
use super::{Entry, Listing, Upload, fetch, foreign, head, is_own_name, remove, unseen};
use crate::domain::manifest::{GENERATOR, hex, is_own};
use crate::error::{Error, Result};
use crate::publish::content::Content;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::BuildHasher;

/// Its name at the target.
pub const INTENT: &str = ".colophon/intent.json";

/// Files that uploads meant to send.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Intent {
    generator: String,
    /// Tells two uploads apart that mean to send the same.
    #[serde(default)]
    run: String,
    files: Vec<Meant>,
}

/// An intent that was written down, by its SHA-256.
pub struct Written(String);

/// A file that is to be sent, as its object will be known.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Meant {
    path: String,
    sha256: String,
    bytes: u64,
}

impl Intent {
    /// Reads what uploads that did not end meant to send. That it may not be read is no reason to stop: then nothing
    /// is cleared away.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is not of this program's making, or of a version's that this one does not understand;
    /// [`Error::Environment`].
    pub async fn read(store: &Store<'_>, listed: &Listing) -> Result<Option<Intent>> {
        if !listed.may_have(INTENT) {
            return Ok(None);
        }
        let bytes = match fetch(store, INTENT).await {
            Err(failure) if failure.is_forbidden() => None,
            bytes => bytes.map_err(|failure| failure.error(&store.shown(INTENT), "read it"))?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        match serde_json::from_slice::<Intent>(&bytes) {
            Ok(intent) if is_own(&intent.generator) => Ok(Some(intent)),
            _ => Err(foreign(&store.shown(INTENT), "a list")),
        }
    }

    /// Writes down what this upload is about to send, beside what earlier ones may have left.
    ///
    /// # Errors
    /// [`Error::Environment`].
    pub async fn write(store: &Store<'_>, content: &Content, former: Option<&Intent>) -> Result<Written> {
        let meant = content.data_files().iter().map(|file| Meant {
            path: file.name.clone(),
            sha256: file.sha256.clone(),
            bytes: file.bytes,
        });
        let earlier = former.into_iter().flat_map(|intent| &intent.files).cloned();
        let files: BTreeSet<Meant> = meant.chain(earlier).collect();
        let run = format!("{:016x}", RandomState::new().hash_one(0));
        Intent { generator: GENERATOR.into(), run, files: files.into_iter().collect() }.put(store).await
    }

    async fn put(&self, store: &Store<'_>) -> Result<Written> {
        let text = serde_json::to_vec(self).map_err(|error| Error::Environment {
            subject: store.shown(INTENT),
            cause: format!("could not put it into JSON: {error}"),
            remedy: String::new(),
        })?;
        let sha256 = hex(&Sha256::digest(&text));
        put::bytes(store, INTENT, Bytes::from(text), Some(&sha256), Condition::Any).await?;
        Ok(Written(sha256))
    }

    /// Fails if another upload has begun since this one wrote what it means to send: they would replace and remove
    /// each other's files.
    ///
    /// # Errors
    /// [`Error::Environment`].
    pub async fn check(store: &Store<'_>, Written(sha256): &Written) -> Result<()> {
        match head(store, INTENT).await {
            Ok(Some(there)) if there.sha256.as_ref() == Some(sha256) => Ok(()),
            // Whoever may only write cannot look.
            Err(failure) if failure.is_forbidden() => Ok(()),
            Err(failure) => Err(unseen(store, INTENT, &failure)),
            Ok(_) => Err(Error::Environment {
                subject: store.shown(INTENT),
                cause: "another upload to this target has begun meanwhile".into(),
                remedy: "run again when no other upload to this target is under way".into(),
            }),
        }
    }

    /// Forgets about it, when the upload has ended.
    ///
    /// # Errors
    /// [`Error::Environment`].
    pub async fn remove(store: &Store<'_>) -> Result<()> {
        match remove(store, INTENT).await {
            Err(failure) if failure.is_forbidden() => {
                tracing::info!("{}; it may stay there", failure.error(&store.shown(INTENT), "remove it"));
                Ok(())
            }
            removed => removed.map_err(|failure| failure.error(&store.shown(INTENT), "remove it")),
        }
    }

    /// Leaves the list to the next upload, without the files of an export that is there now; a list of nothing goes.
    ///
    /// # Errors
    /// [`Error::Environment`].
    pub async fn leave(mut self, store: &Store<'_>, content: &Content) -> Result<()> {
        let kept: HashSet<&str> = content.files.iter().map(|file| file.name.as_str()).collect();
        self.files.retain(|file| !kept.contains(file.path.as_str()));
        if self.files.is_empty() { Intent::remove(store).await } else { self.put(store).await.map(drop) }
    }

    /// Objects that earlier uploads left and this one does not have: those that bear the very SHA-256 that was to be
    /// sent. Under the same names there may be others', which these uploads never came to.
    ///
    /// # Errors
    /// [`Error::Environment`].
    pub async fn left(&self, upload: &Upload<'_>, listed: &Listing) -> Result<Vec<Entry>> {
        let kept: HashSet<&str> = upload.content.files.iter().map(|file| file.name.as_str()).collect();
        let mut meant: BTreeMap<&str, Vec<&Meant>> = BTreeMap::new();
        for file in &self.files {
            let path = file.path.as_str();
            if listed.may_have(path) && is_own_name(path) && !kept.contains(path) {
                meant.entry(path).or_default().push(file);
            }
        }
        let looks = stream::iter(meant).map(|(path, meant)| async move {
            let object = match head(upload.store, path).await {
                Err(failure) if failure.is_forbidden() => None,
                object => object.map_err(|failure| unseen(upload.store, path, &failure))?,
            };
            let is_meant = |file: &&Meant, object: &super::Object| {
                object.bytes == file.bytes && object.sha256.as_deref() == Some(&file.sha256)
            };
            let left = object.filter(|object| meant.iter().any(|file| is_meant(file, object)));
            Ok::<_, Error>(left.map(|object| Entry { path: path.into(), bytes: object.bytes }))
        });
        let left: Vec<Option<Entry>> = looks.buffered(super::QUESTIONS).try_collect().await?;
        Ok(left.into_iter().flatten().collect())
    }

    /// Removes the parts that earlier uploads left for files that do not go in parts now. (What does takes its own up.)
    ///
    /// # Errors
    /// [`Error::Environment`].
    pub async fn end_uploads(&self, store: &Store<'_>, in_parts: &HashSet<&str>) -> Result<()> {
        let meant: HashSet<&str> =
            self.files.iter().map(|file| file.path.as_str()).filter(|path| !in_parts.contains(path)).collect();
        multipart::end(store, &meant).await
    }
}
