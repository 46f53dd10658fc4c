//! A bucket, and how it is spoken to: credentials, region, retries.

use super::failure::{self, Failure};
use crate::error::{Error, Result, show};
use crate::publish::options::{Options, S3Options};
use crate::publish::retry::{self, Policy};
use crate::publish::{Host, address, discreet};
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Credentials, ProvideCredentials, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The region of a server that is not Amazon's, where nothing says another.
const REGION: &str = "us-east-1";
/// Where the SDK finds the address of a server for S3 alone.
const S3_ENDPOINT: &str = "AWS_ENDPOINT_URL_S3";
/// Characters of a cause that are shown.
const QUOTE: usize = 300;
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take, beside what its bytes need.
const ANSWER: Duration = Duration::from_secs(60);
/// Bytes a second with which a network still counts as working.
const SLOWEST: u64 = 50_000;

/// A bucket, and what the names of its objects begin with.
pub struct Store<'a> {
    /// The SDK's client. It makes no retries of its own.
    pub client: Client,
    /// The bucket.
    pub bucket: &'a str,
    prefix: &'a str,
    /// The bucket is named in the server's name, and the server is not Amazon's.
    names_bucket: bool,
    policy: Policy,
    /// What no message may have in it.
    secrets: Vec<String>,
    /// Requests that were made again.
    pub retries: AtomicU64,
    /// What the upload needs from whoever runs it.
    pub host: Host<'a>,
}

impl<'a> Store<'a> {
    /// Finds credentials and region; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Environment`] if there are no credentials, or none to be had now; [`Error::Usage`] if what is found
    /// cannot be used.
    pub async fn open(bucket: &'a str, prefix: &'a str, options: &Options, host: Host<'a>) -> Result<Store<'a>> {
        let config = config(&options.s3).await;
        check_config(&config)?;
        let Some(credentials) = config.credentials_provider() else { return Err(no_credentials("")) };
        let found = credentials.provide_credentials().await.map_err(|error| unusable(&error))?;
        check_time(&found)?;
        check_text("the access key id", &["AWS_ACCESS_KEY_ID"], found.access_key_id())?;
        check_text("the secret access key", &["AWS_SECRET_ACCESS_KEY"], found.secret_access_key())?;
        check_text("the session token", &["AWS_SESSION_TOKEN"], found.session_token().unwrap_or_default())?;
        // The SDK's own setting, for those who want fewer or more.
        let attempts = std::env::var("AWS_MAX_ATTEMPTS").ok().and_then(|text| text.parse().ok());
        let default = Policy::default();
        let policy = Policy { attempts: attempts.unwrap_or(default.attempts).max(1), ..default };
        let client = client(&config, &options.s3, None);
        let secrets = [Some(found.secret_access_key()), found.session_token()];
        let secrets = secrets.into_iter().flatten().map(str::to_owned).collect();
        let names_bucket = config.endpoint_url().is_some() && !options.s3.path_style;
        Ok(Store { client, bucket, prefix, names_bucket, policy, secrets, retries: AtomicU64::new(0), host })
    }

    /// The same with the bucket in another region.
    pub async fn moved(self, options: &Options, region: String) -> Store<'a> {
        let client = client(&config(&options.s3).await, &options.s3, Some(region));
        Store { client, ..self }
    }

    /// The object of a file.
    pub fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.into() } else { format!("{}/{name}", self.prefix) }
    }

    /// An object's name for people.
    pub fn shown(&self, name: &str) -> String {
        format!("s3://{}/{}", self.bucket, self.key(name))
    }

    /// Makes a request until it succeeds or there is no hope. `bytes` go with it; `name` and `doing` are for people.
    ///
    /// # Errors
    /// What the last attempt failed with.
    pub async fn call<T, E, F>(
        &self,
        name: &str,
        doing: &str,
        bytes: u64,
        request: impl Fn() -> F,
    ) -> std::result::Result<T, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        F: Future<Output = std::result::Result<T, SdkError<E>>>,
    {
        let limit = ANSWER + Duration::from_secs(bytes / SLOWEST);
        let mut failures = 0;
        loop {
            let mut failure = match tokio::time::timeout(limit, request()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Failure::of(&error, &self.secrets),
                Err(_) => Failure::late(limit),
            };
            failure.names_bucket = self.names_bucket;
            failures += 1;
            let wait = self.policy.wait(failures, failure.retry_after, retry::chance());
            let (Some(wait), true) = (wait, failure.is_transient) else { return Err(failure) };
            let error = failure.error(&self.shown(name), doing);
            tracing::debug!("{error}; again in {:.1} s", wait.as_secs_f64());
            if failures == 3 {
                tracing::warn!("{error}; still trying");
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(wait).await;
        }
    }
}

async fn config(options: &S3Options) -> SdkConfig {
    let found = RegionProviderChain::first_try(options.region.clone().map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new());
    // Only Amazon's machines know a region, and asking where there is none takes seconds.
    let found = match options.endpoint_url {
        Some(_) => found.or_else(REGION),
        None => found.or_else(ImdsRegionProvider::builder().build()).or_else(REGION),
    };
    let config = aws_config::defaults(BehaviorVersion::latest())
        .region(found)
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build());
    match &options.endpoint_url {
        Some(url) => config.endpoint_url(url).load().await,
        None => config.load().await,
    }
}

fn client(config: &SdkConfig, options: &S3Options, region: Option<String>) -> Client {
    let mut builder = aws_sdk_s3::config::Builder::from(config)
        .force_path_style(options.path_style)
        // Checksums go as headers of this module's making: not every store knows the SDK's trailers.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Some(region) = region {
        builder = builder.region(Region::new(region));
    }
    Client::from_conf(builder.build())
}

/// Checks what the environment and its files say of the server.
fn check_config(config: &SdkConfig) -> Result<()> {
    let region = config.region().map(Region::as_ref).unwrap_or_default();
    check_text("the region", &["AWS_REGION", "AWS_DEFAULT_REGION"], region)?;
    if let Some(url) = std::env::var(S3_ENDPOINT).ok().filter(|url| !url.is_empty()) {
        address::check(S3_ENDPOINT, &url)?;
    }
    let source = "--endpoint-url, AWS_ENDPOINT_URL or endpoint_url of the profile";
    config.endpoint_url().map_or(Ok(()), |url| address::check(source, url))
}

/// Fails on what would break the line of a request: a key that was read from a file with its line break, for instance.
/// The value is never shown. `variables` are those that it may come from.
fn check_text(what: &str, variables: &[&str], value: &str) -> Result<()> {
    if value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let is_from = |variable: &&&str| std::env::var(variable).is_ok_and(|found| found.trim() == value.trim());
    let source = match variables.iter().find(is_from) {
        Some(variable) => (*variable).to_owned(),
        None => format!("{what} of the profile or role"),
    };
    let cause = "there is a space, a line break or another character in it that cannot be sent";
    Err(Error::Usage(format!("{source}: {cause}; take it out")))
}

/// Why there are no credentials, and what to do.
fn unusable(error: &CredentialsError) -> Error {
    let cause = discreet::text(&failure::cause(error), &[], QUOTE);
    let cause = cause.trim_end_matches(['.', ' ']);
    match error {
        CredentialsError::InvalidConfiguration(_) => {
            Error::Usage(format!("the profile for AWS cannot be used: {cause}; correct {}", profile_files()))
        }
        CredentialsError::CredentialsNotLoaded(_) => {
            match std::env::var("AWS_PROFILE").ok().filter(|p| !p.is_empty()) {
                Some(profile) => Error::Usage(format!(
                    "AWS_PROFILE: there is no profile '{}' with credentials in {}; name one that is there",
                    discreet::text(&profile, &[], QUOTE),
                    profile_files()
                )),
                None => no_credentials(""),
            }
        }
        // The machine is asked last, when nothing else gave any.
        _ if cause.contains("IMDS") => no_credentials(&format!(", and the machine gives none: {cause}")),
        _ if cause.contains("external process") => Error::Environment {
            subject: "credential_process of the profile for AWS".into(),
            cause: cause.to_owned(),
            remedy: "run that command by hand to see what it needs, and run again".into(),
        },
        _ => Error::Environment {
            subject: "S3".into(),
            cause: format!("could not get credentials: {cause}"),
            remedy: "check the profile or role that they come from, and run again".into(),
        },
    }
}

/// The files that profiles come from.
fn profile_files() -> String {
    let file = |variable: &str, default: &str| match std::env::var_os(variable).filter(|path| !path.is_empty()) {
        Some(path) => format!("{} ({variable})", show(Path::new(&path))),
        None => default.to_owned(),
    };
    let (config, credentials) = ("~/.aws/config", "~/.aws/credentials");
    format!("{} or {}", file("AWS_CONFIG_FILE", config), file("AWS_SHARED_CREDENTIALS_FILE", credentials))
}

/// Fails on credentials whose time is over, if they say so.
fn check_time(found: &Credentials) -> Result<()> {
    match found.expiry() {
        Some(end) if end <= SystemTime::now() => Err(Error::Environment {
            subject: "S3".into(),
            cause: "the credentials that the profile or role gives are out of date".into(),
            remedy: failure::EXPIRED.into(),
        }),
        _ => Ok(()),
    }
}

fn no_credentials(detail: &str) -> Error {
    Error::Environment {
        subject: "S3".into(),
        cause: format!("there are no credentials{detail}"),
        remedy:
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile with AWS_PROFILE, or give the machine \
            or pod a role"
                .into(),
    }
}
