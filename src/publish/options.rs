//! What can be said of an upload.

/// What can be said of an upload.
#[derive(Clone, Debug)]
pub struct Options {
    /// Show what would be done, and do nothing.
    pub dry_run: bool,
    /// Remove what an earlier export put there and this one does not have.
    pub delete: bool,
    /// Files, or parts of files, that are under way at the same time.
    pub concurrency: usize,
    /// For S3.
    pub s3: S3Options,
    /// For the Hub.
    pub hub: HubOptions,
}

impl Options {
    /// What is to be removed of that which an earlier export put there and this one does not have. Without `delete`
    /// that is nothing; but the manifest that lists it is about to be replaced, so the user learns of it now.
    pub fn removed<T>(&self, beyond: Vec<T>) -> Vec<T> {
        if self.delete || beyond.is_empty() {
            return beyond;
        }
        let (count, files) = (beyond.len(), if beyond.len() == 1 { "file" } else { "files" });
        let would = if self.dry_run { "would stay" } else { "stay" };
        tracing::warn!("{count} {files} of the earlier export {would}; a later --delete will not know of them");
        Vec::new()
    }
}

/// What can be said of an upload to S3.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// The server, where it is not Amazon's.
    pub endpoint_url: Option<String>,
    /// The bucket stands in the path of a URL, not in the server's name.
    pub path_style: bool,
    /// The region, where it is not as the environment says.
    pub region: Option<String>,
    /// Bytes of a part; a file of no more bytes goes in one piece.
    pub part_size: u64,
}

/// What can be said of an upload to the Hub.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// A repository that has to be created is for everybody to see.
    pub public: bool,
    /// What the commit says.
    pub message: Option<String>,
}
