//! Uploads to the Hugging Face Hub.
//!
//! A reader sees nothing of an upload but its end: all files change in one commit. Before that, the content of large
//! files goes to a store where nobody sees it (`xet`); the commit itself carries the small ones. It names the commit
//! that it was planned on (`plan`), so that a change by somebody else is noticed and never overwritten.

mod account;
mod api;
mod plan;
mod xet;

use self::account::Account;
use self::api::{Api, Candidate, Failure, Head, Mode, Operation, RemoteFile, SAMPLE};
use self::plan::Plan;
use super::content::{self, Content, ContentFile, MANIFEST};
use super::options::Options;
use super::receipt::{Entry, Listed, Receipt};
use super::{Host, runtime};
use crate::domain::manifest::{Manifest, hex};
use crate::error::{Context, Error, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The branch that readers get if they name none.
const MAIN: &str = "main";
/// Bytes of the largest file that may go into a commit. The Hub itself refuses larger ones in git.
const INLINE: u64 = 10 << 20;
/// How often a commit is tried on top of one more by somebody else, before that looks like a quarrel.
const OVERTAKEN: u32 = 5;

/// Sends an export to a dataset on the Hub, which is created if it is missing.
///
/// # Errors
/// [`Error::Environment`] with object, cause and remedy; readers see the dataset as it was before.
pub fn upload(
    content: &Content,
    (owner, name, revision): (&str, &str, Option<&str>),
    options: &Options,
    host: Host<'_>,
) -> Result<Receipt> {
    if options.delete {
        content.check_not_empty()?;
    }
    let account = Account::from_environment()?;
    let api = Api::new(&account, owner, name)?;
    let target = match revision {
        Some(revision) => format!("hf://datasets/{owner}/{name}@{revision}"),
        None => format!("hf://datasets/{owner}/{name}"),
    };
    let revision = revision.unwrap_or(MAIN);
    let upload = Upload { content, account: &account, api: &api, target, revision, options, host };
    runtime::run(host, upload.run())
}

/// Finds the token as an upload does, and asks nobody whether it is good: that it is missing is better said before an
/// export is made and verified than after.
///
/// # Errors
/// As those of [`upload`].
pub fn check_credentials() -> Result<()> {
    Account::from_environment().map(drop)
}

struct Upload<'a> {
    content: &'a Content,
    account: &'a Account,
    api: &'a Api,
    target: String,
    revision: &'a str,
    options: &'a Options,
    host: Host<'a>,
}

type Tree = BTreeMap<String, RemoteFile>;

impl Upload<'_> {
    async fn run(&self) -> Result<Receipt> {
        let start = Instant::now();
        self.check_token().await?;
        let (head, tree) = match self.head().await? {
            None => (None, Tree::new()),
            Some(head) => {
                self.check_right_to_write().await?;
                self.warn_of_readers(&head);
                let tree = self.tree(&head.commit).await?;
                (Some(head), tree)
            }
        };
        let plan = self.plan(head.as_ref(), &tree).await?;
        let mut receipt = self.receipt(&plan, &tree);
        for place in &plan.skip {
            (self.host.sent)(self.content.files[*place].bytes);
            (self.host.done)();
        }
        match head {
            Some(head) if !self.options.dry_run => {
                let (commit, tree) = if plan.is_empty() {
                    (head.commit, tree)
                } else {
                    self.change(&plan, head, tree, &mut receipt).await?
                };
                receipt.url = Some(self.page(&commit));
                receipt.commit = Some(commit);
                let listed = |(path, file): (String, RemoteFile)| Listed { path, bytes: file.bytes, modified: None };
                receipt.listing = tree.into_iter().map(listed).collect();
            }
            _ => {}
        }
        receipt.retries = self.api.retries.load(Ordering::Relaxed);
        receipt.seconds = start.elapsed().as_secs_f64();
        Ok(receipt)
    }

    /// Sends what has to be sent and commits; the commit and what is in it.
    async fn change(&self, plan: &Plan, head: Head, tree: Tree, receipt: &mut Receipt) -> Result<(String, Tree)> {
        let (inline, large) = self.modes(plan).await?;
        let sender = xet::Sender {
            api: self.api,
            authorization: self.account.token.header(),
            revision: self.revision,
            target: &self.target,
            host: self.host,
        };
        receipt.bytes_sent = sender.send(&large).await?;
        let mut operations: Vec<Operation> = inline.iter().map(|file| inline_operation(file)).collect();
        operations.extend(large.iter().map(|file| Operation::Large {
            path: file.name.clone(),
            bytes: file.bytes,
            sha256: file.sha256.clone(),
        }));
        operations.extend(plan.delete.iter().map(|path| Operation::Delete { path: path.clone() }));
        // Nothing is published that changed while it was sent.
        self.content.check()?;
        let commit = self.commit(plan, head, tree, &operations.into()).await?;
        for file in &inline {
            receipt.bytes_sent += file.bytes;
            (self.host.sent)(file.bytes);
            (self.host.done)();
        }
        let tree = self.tree(&commit).await?;
        match self.missing(&tree, plan)? {
            None => Ok((commit, tree)),
            Some(path) => Err(Error::Environment {
                subject: format!("{}: {path}", self.target),
                cause: format!("the Hub made the commit {commit}, but the file in it is not what was sent"),
                remedy: "look at the dataset on the Hub, and run again".into(),
            }),
        }
    }

    /// A token that can only read is told at once, not when everything has been prepared.
    async fn check_token(&self) -> Result<()> {
        let only_reads = self.api.may_only_read().await;
        if only_reads.map_err(|failure| failure.error(&self.api.endpoint, "check the token"))? {
            return Err(Error::Environment {
                subject: self.target.clone(),
                cause: "the token may only read".into(),
                remedy: account::NO_TOKEN.into(),
            });
        }
        Ok(())
    }

    /// The key to the store for large files is given only to who may write.
    async fn check_right_to_write(&self) -> Result<()> {
        let key = self.api.xet_key(self.revision).await;
        key.map(|_| ()).map_err(|failure| failure.error(&self.target, "get the right to write"))
    }

    fn warn_of_readers(&self, head: &Head) {
        match (head.private, self.options.hub.public) {
            (false, false) => tracing::warn!("{} is public: everybody can read what is uploaded", self.target),
            (true, true) => {
                tracing::warn!("{} is private and stays so: its settings on the Hub change that", self.target)
            }
            _ => {}
        }
    }

    /// The end of the branch. What is missing, the dataset or the branch, is created, but not if nothing is to change.
    async fn head(&self) -> Result<Option<Head>> {
        let (mut created, mut branched) = (false, false);
        loop {
            let failure = match self.api.head(self.revision).await {
                Ok(head) => return Ok(Some(head)),
                Err(failure) => failure,
            };
            if failure.is_missing("RepoNotFound") && !created {
                if self.options.dry_run {
                    return Ok(None);
                }
                let made = self.api.create(self.options.hub.public).await;
                made.map_err(|failure| failure.error(&self.target, "create the dataset"))?;
                let kind = if self.options.hub.public { "public" } else { "private" };
                tracing::info!("Created the {kind} dataset {}", self.api.id);
                created = true;
            } else if failure.is_missing("RevisionNotFound") && self.revision != MAIN && !branched {
                if self.options.dry_run {
                    return Ok(None);
                }
                let made = self.api.create_branch(self.revision).await;
                made.map_err(|failure| failure.error(&self.target, "create the branch"))?;
                tracing::info!("Created the branch {}", self.revision);
                branched = true;
            } else {
                return Err(failure.error(&self.target, "look at the dataset"));
            }
        }
    }

    async fn tree(&self, commit: &str) -> Result<Tree> {
        self.api.tree(commit).await.map_err(|failure| failure.error(&self.target, "list its files"))
    }

    async fn plan(&self, head: Option<&Head>, tree: &Tree) -> Result<Plan> {
        let earlier = match head.filter(|_| tree.contains_key(MANIFEST)) {
            Some(head) => Some(self.earlier(&head.commit).await?),
            None => None,
        };
        let plan = Plan::new(self.content, tree, earlier.as_ref())?;
        Ok(Plan { delete: self.options.removed(plan.delete), ..plan })
    }

    /// The manifest that is there. What another program wrote is not replaced.
    async fn earlier(&self, commit: &str) -> Result<Manifest> {
        let subject = format!("{}: {MANIFEST}", self.target);
        let bytes = self.api.content(commit, MANIFEST).await;
        let bytes = bytes.map_err(|failure| failure.error(&subject, "read it"))?;
        content::earlier(&bytes).ok_or_else(|| {
            Error::Usage(format!(
                "{subject} is not a manifest of colophon's, and would be replaced: choose another dataset or branch"
            ))
        })
    }

    /// Asks the Hub what goes into the commit and what into its store for large files.
    async fn modes(&self, plan: &Plan) -> Result<(Vec<&ContentFile>, Vec<&ContentFile>)> {
        let files: Vec<&ContentFile> = plan.send.iter().map(|place| &self.content.files[*place]).collect();
        // The store takes no empty files.
        let asked: Vec<&ContentFile> = files.iter().filter(|file| file.bytes > 0).copied().collect();
        let candidates = asked.iter().map(|file| candidate(file)).collect::<Result<Vec<_>>>()?;
        let modes = self.api.modes(self.revision, &candidates).await;
        let modes = modes.map_err(|failure| failure.error(&self.target, "ask where the files go"))?;
        let is_large = |file: &&ContentFile| modes.get(&file.name) == Some(&Mode::Large);
        let (large, inline): (Vec<_>, Vec<_>) = files.into_iter().partition(is_large);
        match inline.iter().find(|file| file.bytes > INLINE) {
            None => Ok((inline, large)),
            Some(file) => Err(Error::Environment {
                subject: format!("{}: {}", self.target, file.name),
                cause: format!(
                    "the Hub does not take this file of {} bytes into its store for large files, and it is too large for \
                     git",
                    file.bytes
                ),
                remedy: "correct .gitattributes in the dataset, so that such files have filter=lfs, or export with a \
                         --shard-size below 10 MB"
                    .into(),
            }),
        }
    }

    /// Commits, on top of what others commit meanwhile as long as it is about other files.
    async fn commit(&self, plan: &Plan, head: Head, tree: Tree, operations: &Arc<[Operation]>) -> Result<String> {
        let documents: u64 = self.content.manifest.splits.iter().map(|split| split.documents).sum();
        let made = format!("Export of {documents} documents by colophon {}", env!("CARGO_PKG_VERSION"));
        let message = self.options.hub.message.as_deref().unwrap_or(&made);
        let (mut parent, mut before) = (head.commit, tree);
        let (mut failures, mut overtaken) = (0, 0);
        loop {
            let outcome = self.api.commit(self.revision, &parent, message, operations).await;
            let Err((failure, asked)) = outcome else { return outcome.map_err(|(failure, _)| self.refused(&failure)) };
            // A file that changed ends the request, too, and is the cause to name.
            self.content.check()?;
            if !failure.may_pass() && !failure.is_overtaken() {
                return Err(self.refused(&failure));
            }
            // Whatever the answer was: only the branch knows whether the commit was made.
            let head = self.api.head(self.revision).await.map_err(|failure| self.refused(&failure))?;
            if head.commit == parent {
                failures += 1;
                self.api.pause(failures, &failure, asked).await.ok_or_else(|| self.refused(&failure))?;
                continue;
            }
            let after = self.tree(&head.commit).await?;
            if self.missing(&after, plan)?.is_none() {
                return Ok(head.commit);
            }
            overtaken += 1;
            if plan.is_touched(self.content, &before, &after) || overtaken > OVERTAKEN {
                return Err(self.overtaken(&head.commit));
            }
            tracing::info!("Somebody else changed other files of {} meanwhile: committing on top", self.target);
            (parent, before) = (head.commit, after);
        }
    }

    fn refused(&self, failure: &Failure) -> Error {
        failure.error(&self.target, "commit")
    }

    fn overtaken(&self, commit: &str) -> Error {
        Error::Environment {
            subject: self.target.clone(),
            cause: format!(
                "somebody else changed the dataset during the upload (the commit {commit}); nothing was overwritten"
            ),
            remedy:
                "look at that commit, and run again if the export is to replace it: what has arrived is not sent again"
                    .into(),
        }
    }

    /// A file that a commit lacks, or has although it should be gone.
    fn missing(&self, tree: &Tree, plan: &Plan) -> Result<Option<String>> {
        if let Some(path) = plan.delete.iter().find(|path| tree.contains_key(*path)) {
            return Ok(Some(path.clone()));
        }
        let there = Plan::new(self.content, tree, None)?;
        Ok(there.send.first().map(|place| self.content.files[*place].name.clone()))
    }

    fn receipt(&self, plan: &Plan, tree: &Tree) -> Receipt {
        let entries = |places: &[usize]| {
            let files = places.iter().map(|place| &self.content.files[*place]);
            files.map(|file| Entry { path: file.name.clone(), bytes: file.bytes }).collect()
        };
        let gone = |path: &String| Entry { path: path.clone(), bytes: tree.get(path).map_or(0, |file| file.bytes) };
        Receipt {
            target: self.target.clone(),
            dry_run: self.options.dry_run,
            revision: Some(self.revision.into()),
            sent: entries(&plan.send),
            skipped: entries(&plan.skip),
            deleted: plan.delete.iter().map(gone).collect(),
            ..Receipt::default()
        }
    }

    /// The page on which people look at a commit's files.
    fn page(&self, commit: &str) -> String {
        let dataset = format!("{}/datasets/{}", self.api.endpoint, self.api.id);
        if self.revision == MAIN { dataset } else { format!("{dataset}/tree/{commit}") }
    }
}

fn candidate(file: &ContentFile) -> Result<Candidate> {
    let mut sample = Vec::with_capacity(SAMPLE);
    file.open()?.take(SAMPLE as u64).read_to_end(&mut sample).context(&file.path, "read")?;
    Ok(Candidate { path: file.name.clone(), bytes: file.bytes, sample })
}

/// A small file for a commit: read when it is sent, and only if it is what it was.
fn inline_operation(file: &ContentFile) -> Operation {
    let (name, bytes, file) = (file.name.clone(), file.bytes, file.clone());
    let read = move || {
        let mut open = file.open().map_err(io::Error::other)?;
        let mut content = Vec::with_capacity(file.bytes as usize);
        open.read_to_end(&mut content)?;
        if hex(&Sha256::digest(&content)) != file.sha256 {
            return Err(io::Error::other("the file was changed after it was verified"));
        }
        Ok(content)
    };
    Operation::Inline { path: name, bytes, read: Arc::new(read) }
}
