//! Uploads to S3, and to stores that speak its language.

use super::Host;
use super::content::Content;
use super::options::Options;
use super::receipt::Receipt;
use crate::error::Result;

/// Sends an export.
///
/// # Errors
/// [`crate::error::Error::Environment`] with object, cause and remedy.
pub fn upload(_: &Content, bucket: &str, _: &str, _: &Options, _: Host<'_>) -> Result<Receipt> {
    Err(crate::error::Error::Usage(format!("s3://{bucket}: uploads to S3 are not there yet")))
}
