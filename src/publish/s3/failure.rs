//! What a request failed with: whether another try may help, and what to do when none did.

use crate::error::{Error, show};
use crate::publish::{discreet, retry};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Characters of a server's message that are shown.
const QUOTE: usize = 300;
/// Characters of a server's name for what happened.
const CODE: usize = 60;

/// A request that failed.
#[derive(Debug)]
pub struct Failure {
    /// Status of the answer, if there was one.
    status: Option<u16>,
    /// The server's name for what happened, if it gave one.
    code: Option<String>,
    /// What happened, in words.
    message: String,
    /// Whether another try may help.
    pub is_transient: bool,
    /// What the server asks for, if it does.
    pub retry_after: Option<Duration>,
    /// Where the bucket is, if the server says so.
    pub region: Option<String>,
    /// The request went to a server of one's own by a name that begins with the bucket's.
    pub names_bucket: bool,
}

/// Names of what passes.
const TRANSIENT: [&str; 15] = [
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
];

impl Failure {
    /// Reads what the SDK says of a failed request. A server may repeat what it was sent: `secrets` are not shown.
    pub fn of<E: ProvideErrorMetadata + std::error::Error + 'static>(
        error: &SdkError<E>,
        secrets: &[String],
    ) -> Failure {
        let plain = |text: &str| discreet::text(text, secrets, QUOTE);
        let response = error.raw_response();
        let status = response.map(|response| response.status().as_u16());
        let header = |name| response.and_then(|response| response.headers().get(name));
        let code = error.code().map(|code| discreet::text(code, secrets, CODE)).filter(|code| !code.is_empty());
        let is_transient = match error {
            SdkError::TimeoutError(_) | SdkError::ResponseError(_) => true,
            SdkError::DispatchFailure(failure) => {
                // The last are connections that broke in the middle.
                failure.is_io() || failure.is_timeout() || failure.as_other().is_some()
            }
            SdkError::ServiceError(_) => {
                let is_named = code.as_deref().is_some_and(|code| TRANSIENT.contains(&code));
                is_named || matches!(status, Some(408 | 429 | 500 | 502..=504))
            }
            _ => false,
        };
        let said = error.message().map(plain).filter(|message| !message.is_empty());
        let message = said.unwrap_or_else(|| plain(&cause(error)));
        let retry_after = header("retry-after").and_then(|text| retry::retry_after(text, SystemTime::now()));
        // It becomes a part of requests.
        let is_name = |text: &&str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let region = header("x-amz-bucket-region").filter(is_name).map(str::to_owned);
        Failure { status, code, message, is_transient, retry_after, region, names_bucket: false }
    }

    /// An answer that did not come.
    pub fn late(limit: Duration) -> Failure {
        let message = format!("no answer came within {} s", limit.as_secs());
        Failure {
            status: None,
            code: None,
            message,
            is_transient: true,
            retry_after: None,
            region: None,
            names_bucket: false,
        }
    }

    /// Whether the server gave this name to what happened.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether what was asked for is not there.
    pub fn is_absent(&self) -> bool {
        self.status == Some(404) && !self.is("NoSuchBucket")
    }

    /// Whether whoever asks may not.
    pub fn is_forbidden(&self) -> bool {
        self.status == Some(403)
    }

    /// Whether a condition of the request did not hold.
    pub fn is_precondition(&self) -> bool {
        self.status == Some(412) || self.is("PreconditionFailed")
    }

    /// Whether the server does not know this kind of request.
    pub fn is_unknown_request(&self) -> bool {
        matches!(self.status, Some(405 | 501)) || self.is("NotImplemented") || self.is("MethodNotAllowed")
    }

    /// The failure for people. `doing` completes "could not …".
    pub fn error(&self, object: &str, doing: &str) -> Error {
        let answer = match (self.status, &self.code) {
            (Some(status), Some(code)) => format!("the server answers {status} {code}: {}", self.message),
            (Some(status), None) => format!("the server answers {status}: {}", self.message),
            (None, _) => self.message.clone(),
        };
        Error::Environment {
            subject: show(Path::new(object)),
            cause: format!("could not {doing}: {}", answer.trim_end_matches(['.', ' ', ':'])),
            remedy: self.remedy(doing),
        }
    }

    fn remedy(&self, doing: &str) -> String {
        if let Some(region) = &self.region
            && matches!(self.status, Some(301 | 307 | 400))
        {
            return format!("the bucket is in {region}: say --region {region}");
        }
        let remedy = match (self.code.as_deref().unwrap_or_default(), self.status) {
            ("NoSuchBucket", _) => "create the bucket, or check its name and --endpoint-url",
            ("RequestTimeTooSkewed", _) => "this machine's clock is off: set it, with NTP for instance",
            ("InvalidAccessKeyId", _) => "check AWS_ACCESS_KEY_ID or the profile, and --endpoint-url",
            ("SignatureDoesNotMatch", _) => "check AWS_SECRET_ACCESS_KEY or the profile, and --region",
            ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired", _) => EXPIRED,
            ("InvalidToken", _) => "check AWS_SESSION_TOKEN, which has to come with the keys, or the profile",
            ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException", _) => {
                "check --region and --endpoint-url: the bucket is elsewhere"
            }
            ("EntityTooLarge", _) => "choose a smaller --shard-size",
            ("QuotaExceeded" | "InsufficientStorage", _) => "free some space at the target and run again",
            ("BadDigest" | "XAmzContentSHA256Mismatch", _) => {
                "the bytes were damaged on their way each time: check the network and this machine's memory"
            }
            (_, Some(403)) => return permission(doing),
            (_, Some(404)) => "check bucket and prefix, and --endpoint-url",
            (_, Some(301 | 307 | 400)) => "check --region, --endpoint-url and --path-style",
            (_, Some(429 | 503)) => "the server is busy: run again later, or with a smaller --concurrency",
            (_, Some(412)) => "something else changed the target: run again when it is done",
            (_, None) if self.names_bucket && self.message.contains("lookup address") => {
                "say --path-style if the server's name is not to begin with the bucket's; else check --endpoint-url \
                 and the network"
            }
            (_, None) => "check the network and --endpoint-url, and run again",
            _ => "run again later",
        };
        remedy.into()
    }
}

/// What to do about credentials whose time is over.
pub const EXPIRED: &str = "the credentials have expired: renew them and run again";

/// What whoever may not do it needs.
fn permission(doing: &str) -> String {
    let right = match doing.split(' ').next() {
        Some("list") => "s3:ListBucket",
        Some("remove") => "s3:DeleteObject",
        Some("look" | "read") => "s3:GetObject",
        _ => "s3:PutObject",
    };
    format!("allow {right} on it for these credentials")
}

/// The innermost cause: what the layers around it add says nothing more.
pub fn cause(error: &dyn std::error::Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(inner) = next {
        text = inner.to_string();
        next = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_the_bucket_that_nobody_knows_needs_the_path_style() {
        let remedy = |message: &str, names_bucket| {
            let failure = Failure { message: message.into(), names_bucket, ..Failure::late(Duration::ZERO) };
            failure.error("s3://b/x", "list the target").to_string()
        };
        let lookup = "failed to lookup address information: Name or service not known";
        assert!(remedy(lookup, true).contains("--path-style"));
        assert!(!remedy(lookup, false).contains("--path-style"));
        assert!(!remedy("connection refused", true).contains("--path-style"));
    }
}
