//! What an upload is about to send, written down at the target before it begins.
//!
//! An upload that is killed leaves files that no manifest lists yet, and parts of others. The next one reads here what
//! may be there, and clears it away; what no upload of this program meant to send is none of its concern. An upload that
//! finds somebody else's list in place of its own knows that it is not alone.

use super::multipart;
use super::put::{self, Condition};
use super::store::Store;
use super::{Entry, Listing, Upload, fetch, head, is_own_name, remove, unseen};
use crate::domain::manifest::{GENERATOR, is_own};
use crate::error::{Error, Result};
use crate::publish::content::Content;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Its name at the target.
pub const INTENT: &str = ".colophon/intent.json";

/// Files that uploads meant to send, this one's first.
#[derive(Debug, Deserialize, Serialize)]
pub struct Intent {
    generator: String,
    files: Vec<Meant>,
}

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
    /// [`Error::Environment`].
    pub async fn read(store: &Store<'_>, listed: &Listing) -> Result<Option<Intent>> {
        if !listed.may_have(INTENT) {
            return Ok(None);
        }
        let bytes = match fetch(store, INTENT).await {
            Err(failure) if failure.is_forbidden() => None,
            bytes => bytes.map_err(|failure| failure.error(&store.shown(INTENT), "read it"))?,
        };
        let intent = bytes.and_then(|bytes| serde_json::from_slice::<Intent>(&bytes).ok());
        Ok(intent.filter(|intent| is_own(&intent.generator)))
    }

    /// Writes down what this upload is about to send, beside what earlier ones may have left.
    ///
    /// # Errors
    /// [`Error::Environment`].
    pub async fn write(store: &Store<'_>, content: &Content, former: Option<&Intent>) -> Result<Bytes> {
        let meant = content.data_files().iter().map(|file| Meant {
            path: file.name.clone(),
            sha256: file.sha256.clone(),
            bytes: file.bytes,
        });
        let earlier = former.into_iter().flat_map(|intent| &intent.files).cloned();
        let files: BTreeSet<Meant> = meant.chain(earlier).collect();
        let intent = Intent { generator: GENERATOR.into(), files: files.into_iter().collect() };
        let text = serde_json::to_vec(&intent).map_err(|error| Error::Environment {
            subject: store.shown(INTENT),
            cause: format!("could not put it into JSON: {error}"),
            remedy: String::new(),
        })?;
        let text = Bytes::from(text);
        put::bytes(store, INTENT, text.clone(), None, Condition::Any).await?;
        Ok(text)
    }

    /// Fails if another upload has begun since this one wrote what it means to send: they would remove each other's
    /// files.
    ///
    /// # Errors
    /// [`Error::Environment`].
    pub async fn check(store: &Store<'_>, written: &Bytes) -> Result<()> {
        match fetch(store, INTENT).await {
            Ok(Some(there)) if there == *written => Ok(()),
            // Whoever may only write cannot look.
            Err(failure) if failure.is_forbidden() => Ok(()),
            Err(failure) => Err(failure.error(&store.shown(INTENT), "read it")),
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

    /// Whether it lists files that an export does not have.
    pub fn is_beyond(&self, content: &Content) -> bool {
        let kept: HashSet<&str> = content.files.iter().map(|file| file.name.as_str()).collect();
        self.files.iter().any(|file| !kept.contains(file.path.as_str()))
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
