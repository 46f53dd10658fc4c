//! `upload`: an export is verified, and put where others can read it.

use super::scheduler::Progress;
use super::stop::Stop;
use super::verify;
use crate::config::upload::UploadConfig;
use crate::error::{Error, Result, show};
use crate::publish::Host;
use crate::publish::content::Content;
use crate::publish::receipt::Receipt;
use crate::publish::target::Target;
use crate::scan::engine::Engine;
use crate::write::stage;
use std::path::Path;
use std::sync::atomic::Ordering;

/// Fails if the program was built without what the target needs.
///
/// # Errors
/// [`Error::Usage`], naming the feature.
pub fn check_feature(target: &Target) -> Result<()> {
    let is_built = match target {
        Target::S3 { .. } => cfg!(feature = "s3"),
        Target::Hub { .. } => cfg!(feature = "hub"),
    };
    if is_built {
        return Ok(());
    }
    let feature = target.feature();
    Err(Error::Usage(format!("{target}: this colophon was built without the feature '{feature}'; build it with that")))
}

/// Looks at what there is to upload. What is verified after this and unchanged then is what goes up.
///
/// # Errors
/// If the folder holds no finished export.
pub fn content(folder: &Path) -> Result<Content> {
    if !std::fs::metadata(folder).is_ok_and(|meta| meta.is_dir()) {
        let shown = show(folder);
        return Err(Error::Usage(format!("{shown}: upload takes the folder of an export, and this is none")));
    }
    stage::refuse_interrupted(folder)?;
    Content::of(folder)
}

/// Verifies what is to go up, if that is wanted; else only reads it and compares sizes and SHA-256.
/// Gives the verification where there was one.
///
/// # Errors
/// If something cannot be read, or has changed since `content` was made, or, without a verification, is not what the
/// manifest says.
pub fn verify(
    folder: &Path,
    content: &Content,
    engine: Option<&Engine>,
    config: &UploadConfig,
    progress: &Progress,
    stop: &Stop,
) -> Result<Option<verify::Report>> {
    let report = match engine {
        Some(engine) => Some(verify::verify(folder, engine, &config.run, progress, stop)?),
        None => {
            let read = |bytes| progress.add(bytes, 0, 0);
            content.hash(config.run.threads, &read, &|| stop.check())?;
            None
        }
    };
    content.check()?;
    Ok(report)
}

/// Fails if what an upload needs to be let in is not there at all, or cannot be what it should be.
///
/// # Errors
/// [`Error::Environment`] or [`Error::Usage`] with what is missing.
pub fn check_credentials(config: &UploadConfig, stop: &Stop) -> Result<()> {
    check_feature(&config.target)?;
    match &config.target {
        #[cfg(feature = "s3")]
        Target::S3 { bucket, prefix } => {
            let host = Host { sent: &|_| {}, done: &|| {}, stop: &|| stop.check() };
            crate::publish::s3::check_credentials(bucket, prefix, &config.options, host)
        }
        #[cfg(feature = "hub")]
        Target::Hub { .. } => stop.check().and_then(|()| crate::publish::hub::check_credentials()),
        #[cfg(not(all(feature = "s3", feature = "hub")))]
        _ => stop.check(),
    }
}

/// Sends a verified export to its target.
///
/// # Errors
/// [`Error::Environment`] with object, cause and remedy; nothing half-published is visible then.
pub fn send(content: &Content, config: &UploadConfig, progress: &Progress, stop: &Stop) -> Result<Receipt> {
    check_feature(&config.target)?;
    let host = Host {
        sent: &|bytes| progress.add(bytes, 0, 0),
        done: &|| {
            progress.documents.fetch_add(1, Ordering::Relaxed);
        },
        stop: &|| stop.check(),
    };
    match &config.target {
        #[cfg(feature = "s3")]
        Target::S3 { bucket, prefix } => crate::publish::s3::upload(content, bucket, prefix, &config.options, host),
        #[cfg(feature = "hub")]
        Target::Hub { owner, name, revision } => {
            crate::publish::hub::upload(content, (owner, name, revision.as_deref()), &config.options, host)
        }
        #[cfg(not(all(feature = "s3", feature = "hub")))]
        target => {
            let _ = (content, host);
            Err(Error::Usage(format!("{target}: uploads to this target are not there yet")))
        }
    }
}
