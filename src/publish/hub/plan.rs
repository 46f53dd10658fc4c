//! What has to change on the Hub.

use super::api::RemoteFile;
use crate::domain::manifest::{Manifest, hex};
use crate::error::{Context, Result};
use crate::publish::content::{Content, ContentFile};
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// Bytes that are hashed at a time.
const BLOCK: usize = 1 << 20;

/// What has to change on the Hub so that it has an export.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Files that are sent, by their place in the content.
    pub send: Vec<usize>,
    /// Files that are there with the same content, by their place in the content.
    pub skip: Vec<usize>,
    /// Files that go: those of an earlier export.
    pub delete: Vec<String>,
}

impl Plan {
    /// Compares a content with the files of a commit. `earlier` is the manifest there: what it lists beyond the
    /// content is to go.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn new(content: &Content, tree: &BTreeMap<String, RemoteFile>, earlier: Option<&Manifest>) -> Result<Plan> {
        let mut plan = Plan::default();
        for (place, file) in content.files.iter().enumerate() {
            let is_same = tree.get(&file.name).map(|there| same(file, there)).transpose()?.unwrap_or(false);
            if is_same { plan.skip.push(place) } else { plan.send.push(place) }
        }
        let ours: BTreeSet<&str> = content.files.iter().map(|file| file.name.as_str()).collect();
        let earlier = earlier.into_iter().flat_map(|manifest| &manifest.files).map(|file| &file.path);
        let gone: BTreeSet<&String> =
            earlier.filter(|path| !ours.contains(path.as_str()) && tree.contains_key(*path)).collect();
        plan.delete = gone.into_iter().cloned().collect();
        Ok(plan)
    }

    /// Whether the Hub has everything.
    pub fn is_empty(&self) -> bool {
        self.send.is_empty() && self.delete.is_empty()
    }

    /// Whether two states of the repository differ in a file that this plan changes or keeps.
    pub fn is_touched(
        &self,
        content: &Content,
        before: &BTreeMap<String, RemoteFile>,
        after: &BTreeMap<String, RemoteFile>,
    ) -> bool {
        let ours = content.files.iter().map(|file| &file.name).chain(&self.delete);
        ours.into_iter().any(|path| before.get(path) != after.get(path))
    }
}

/// Whether a file on the Hub has the same content: by its SHA-256, or where git has the content itself, by git's hash.
fn same(file: &ContentFile, there: &RemoteFile) -> Result<bool> {
    match &there.sha256 {
        _ if there.bytes != file.bytes => Ok(false),
        Some(sha256) => Ok(*sha256 == file.sha256),
        None => Ok(blob_id(file)? == there.oid),
    }
}

/// The id that git gives to a file's content.
fn blob_id(file: &ContentFile) -> Result<String> {
    let mut sha1 = Sha1::new_with_prefix(format!("blob {}\0", file.bytes));
    let (mut open, mut block) = (file.open()?, vec![0; BLOCK.min(file.bytes as usize + 1)]);
    loop {
        match open.read(&mut block).context(&file.path, "read")? {
            0 => break,
            n => sha1.update(&block[..n]),
        }
    }
    file.check_open(&open)?;
    Ok(hex(&sha1.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ledger::Ledger;
    use crate::domain::manifest::{FORMAT, OutputFile};
    use crate::publish::content::MANIFEST;
    use sha2::Sha256;
    use std::fs;
    use std::path::Path;

    fn manifest(files: &[(&str, &str)]) -> Manifest {
        let file = |(path, text): &(&str, &str)| OutputFile {
            path: (*path).into(),
            bytes: text.len() as u64,
            documents: None,
            sha256: hex(&Sha256::digest(text)),
        };
        Manifest {
            format: FORMAT,
            generator: "colophon 0".into(),
            configuration: serde_json::Map::new(),
            inputs: Vec::new(),
            splits: Vec::new(),
            files: files.iter().map(file).collect(),
            ledger: Ledger::default(),
        }
    }

    fn content(folder: &Path, files: &[(&str, &str)]) -> Content {
        for (path, text) in files {
            fs::write(folder.join(path), text).expect("write");
        }
        let manifest = serde_json::to_string(&manifest(files)).expect("JSON");
        fs::write(folder.join(MANIFEST), manifest).expect("write");
        Content::of(folder).expect("an export")
    }

    fn regular(text: &str) -> RemoteFile {
        let oid = hex(&Sha1::digest(format!("blob {}\0{text}", text.len())));
        RemoteFile { bytes: text.len() as u64, oid, sha256: None }
    }

    fn large(text: &str) -> RemoteFile {
        RemoteFile { bytes: text.len() as u64, oid: "0".repeat(40), sha256: Some(hex(&Sha256::digest(text))) }
    }

    #[test]
    fn git_agrees_about_the_id_of_a_content() {
        // `printf 'what is up, doc?' | git hash-object --stdin`
        assert_eq!(regular("what is up, doc?").oid, "bd9dbf5aae1a3862dd1526723246b20206e5fc37");
    }

    #[test]
    fn what_is_the_same_stays_where_it_is() {
        let folder = tempfile::tempdir().expect("folder");
        let content = content(folder.path(), &[("a", "one\n"), ("b", "two\n"), ("c", "six\n"), ("d", "")]);
        let tree = [("a", regular("one\n")), ("b", large("two\n")), ("c", large("SIX\n")), ("x", regular("x"))];
        let tree = tree.into_iter().map(|(path, file)| (path.to_owned(), file)).collect();
        let plan = Plan::new(&content, &tree, None).expect("a plan");
        assert_eq!(plan, Plan { skip: vec![0, 1], send: vec![2, 3, 4], delete: vec![] });
    }

    #[test]
    fn only_what_an_earlier_manifest_lists_goes() {
        let folder = tempfile::tempdir().expect("folder");
        let content = content(folder.path(), &[("a", "one\n")]);
        let tree = ["a", "old", "somebody's", ".gitattributes", MANIFEST];
        let tree = tree.map(|path| (path.to_owned(), regular(path))).into_iter().collect();
        let earlier = manifest(&[("a", "x"), ("old", "x"), ("gone already", "x"), (MANIFEST, "x")]);
        assert_eq!(Plan::new(&content, &tree, Some(&earlier)).expect("a plan").delete, ["old"]);
        assert!(Plan::new(&content, &tree, None).expect("a plan").delete.is_empty());
    }

    #[test]
    fn a_change_elsewhere_is_no_change_here() {
        let folder = tempfile::tempdir().expect("folder");
        let content = content(folder.path(), &[("a", "one\n")]);
        let plan = Plan { delete: vec!["old".into()], ..Plan::default() };
        let tree = |files: &[(&str, &str)]| -> BTreeMap<String, RemoteFile> {
            files.iter().map(|(path, text)| ((*path).to_owned(), regular(text))).collect()
        };
        let before = tree(&[("a", "x"), ("old", "x"), ("other", "x")]);
        for (after, touched) in [
            (tree(&[("a", "x"), ("old", "x"), ("other", "y"), ("new", "y")]), false),
            (tree(&[("a", "y"), ("old", "x")]), true),
            (tree(&[("a", "x")]), true),
            (tree(&[("a", "x"), ("old", "x"), (MANIFEST, "y")]), true),
        ] {
            assert_eq!(plan.is_touched(&content, &before, &after), touched);
        }
    }
}
