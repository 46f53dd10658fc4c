//! The options of `upload`.

use super::{RunArgs, RunConfig, list, size};
use crate::error::{Error, Result};
use crate::publish::options::{HubOptions, Options, S3Options};
use crate::publish::target::Target;
use clap::Args;
use serde::Deserialize;

/// Where the options of one target stand in the help.
const S3: &str = "S3";
const HUB: &str = "Hugging Face Hub";

/// What goes up at the same time, if nothing is said.
const CONCURRENCY: usize = 8;
/// The most that may go up at the same time.
const MAX_CONCURRENCY: usize = 256;
/// Bytes of a part, if nothing is said.
const PART_SIZE: &str = "8MiB";
/// S3's limits for a part.
const PART_SIZES: std::ops::RangeInclusive<u64> = 5 << 20..=5 << 30;

/// The options of `upload`, as given; every one may be absent.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct UploadArgs {
    /// Where the export goes (job file; on the command line it has no name).
    #[arg(skip)]
    pub target: Option<String>,

    /// Show what would be done, and do nothing
    #[arg(long, env = "COLOPHON_DRY_RUN")]
    pub dry_run: Option<bool>,

    /// Remove what the manifest at the target lists and this export does not have; nothing else is ever removed
    #[arg(long, env = "COLOPHON_DELETE")]
    pub delete: Option<bool>,

    /// Do not verify the export first; sizes and SHA-256 are compared with the manifest all the same
    #[arg(long, env = "COLOPHON_NO_VERIFY")]
    pub no_verify: Option<bool>,

    /// Files or parts that are under way at the same time [default: 8]
    #[arg(long, env = "COLOPHON_CONCURRENCY", value_name = "N")]
    pub concurrency: Option<usize>,

    /// Server, where it is not Amazon's
    #[arg(long, help_heading = S3, env = "COLOPHON_ENDPOINT_URL", value_name = "URL")]
    pub endpoint_url: Option<String>,

    /// Name the bucket in the path of URLs, not in the server's name, as many compatible stores want it
    #[arg(long, help_heading = S3, env = "COLOPHON_PATH_STYLE")]
    pub path_style: Option<bool>,

    /// Region of the bucket [default: as the AWS SDK finds it]
    #[arg(long, help_heading = S3, env = "COLOPHON_REGION", value_name = "REGION")]
    pub region: Option<String>,

    /// Send files in parts of so many bytes, 5MiB or more [default: 8MiB, and larger for files above 78 GiB]
    #[arg(long, help_heading = S3, env = "COLOPHON_PART_SIZE", value_name = "SIZE")]
    #[serde(deserialize_with = "list")]
    pub part_size: Option<String>,

    /// If the dataset has to be created, make it private (the default)
    #[arg(long, help_heading = HUB, env = "COLOPHON_PRIVATE")]
    pub private: Option<bool>,

    /// If the dataset has to be created, make it public
    #[arg(long, help_heading = HUB, env = "COLOPHON_PUBLIC")]
    pub public: Option<bool>,

    /// Message of the commit
    #[arg(long, help_heading = HUB, env = "COLOPHON_MESSAGE", value_name = "TEXT")]
    pub message: Option<String>,
}

/// A checked configuration of `upload`.
#[derive(Clone, Debug)]
pub struct UploadConfig {
    /// Where the export goes.
    pub target: Target,
    /// Whether the export is verified first.
    pub verify: bool,
    /// How.
    pub options: Options,
    /// How to verify.
    pub run: RunConfig,
}

impl UploadArgs {
    /// Takes from `file` what is not given here.
    pub fn or(self, file: UploadArgs) -> UploadArgs {
        UploadArgs {
            target: self.target.or(file.target),
            dry_run: self.dry_run.or(file.dry_run),
            delete: self.delete.or(file.delete),
            no_verify: self.no_verify.or(file.no_verify),
            concurrency: self.concurrency.or(file.concurrency),
            endpoint_url: self.endpoint_url.or(file.endpoint_url),
            path_style: self.path_style.or(file.path_style),
            region: self.region.or(file.region),
            part_size: self.part_size.or(file.part_size),
            // Of two opposites the one that is given here counts.
            private: self.private.or(file.private.filter(|_| self.public != Some(true))),
            public: self.public.or(file.public.filter(|_| self.private != Some(true))),
            message: self.message.or(file.message),
        }
    }

    /// Checks the options and fills in defaults.
    ///
    /// # Errors
    /// [`Error::Usage`] with what to change.
    pub fn check(self, run: &RunArgs) -> Result<UploadConfig> {
        let usage = |message: String| Err(Error::Usage(message));
        let Some(target) = self.target else {
            return usage("the target is missing: give s3://BUCKET/PREFIX or hf://datasets/OWNER/NAME".into());
        };
        let target: Target = target.parse()?;
        let concurrency = self.concurrency.unwrap_or(CONCURRENCY);
        if !(1..=MAX_CONCURRENCY).contains(&concurrency) {
            return usage(format!("--concurrency {concurrency}: choose from 1 to {MAX_CONCURRENCY}"));
        }
        let text = self.part_size.as_deref().unwrap_or(PART_SIZE);
        let part_size = size("--part-size", text)?;
        if !PART_SIZES.contains(&part_size) {
            return usage(format!("--part-size {text}: S3 takes parts from 5MiB to 5GiB"));
        }
        let is_url = |url: &str| {
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            rest.is_some_and(|rest| !rest.is_empty()) && !url.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        if self.endpoint_url.as_deref().is_some_and(|url| !is_url(url)) {
            return usage("--endpoint-url: write a URL that starts with https:// or http://".into());
        }
        #[cfg(any(feature = "s3", feature = "hub"))]
        self.endpoint_url.iter().try_for_each(|url| crate::publish::address::check("--endpoint-url", url))?;
        if self.region.as_deref().is_some_and(|region| !region.bytes().all(|byte| byte.is_ascii_graphic())) {
            return usage("--region: there is a space or another character in it that no region has".into());
        }
        let is_public = self.public == Some(true);
        if is_public && self.private == Some(true) {
            return usage("--private and --public: one dataset cannot be both; leave one out".into());
        }
        if self.message.as_deref().is_some_and(|message| message.trim().is_empty()) {
            return usage("--message is empty: leave it out instead".into());
        }
        let (path_style, region) = (self.path_style == Some(true), self.region.filter(|region| !region.is_empty()));
        let s3 = S3Options { endpoint_url: self.endpoint_url, path_style, region, part_size };
        let hub = HubOptions { public: is_public, message: self.message };
        let (dry_run, delete) = (self.dry_run == Some(true), self.delete == Some(true));
        let options = Options { dry_run, delete, concurrency, s3, hub };
        Ok(UploadConfig { target, verify: self.no_verify != Some(true), options, run: run.check()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> UploadArgs {
        UploadArgs { target: Some("s3://bucket/x".into()), ..UploadArgs::default() }
    }

    #[test]
    fn mistakes_are_named() {
        let message = |change: fn(&mut UploadArgs)| {
            let mut args = args();
            change(&mut args);
            let error = args.check(&RunArgs::default()).expect_err("a mistake");
            assert_eq!(error.status(), 2);
            error.to_string()
        };
        for (message, part) in [
            (message(|a| a.target = None), "target is missing"),
            (message(|a| a.target = Some("x".into())), "s3://BUCKET/PREFIX"),
            (message(|a| a.concurrency = Some(0)), "--concurrency 0"),
            (message(|a| a.concurrency = Some(1000)), "--concurrency 1000"),
            (message(|a| a.part_size = Some("1MiB".into())), "--part-size 1MiB"),
            (message(|a| a.part_size = Some("6GiB".into())), "--part-size 6GiB"),
            (message(|a| a.endpoint_url = Some("localhost:9000".into())), "--endpoint-url"),
            (message(|a| (a.private, a.public) = (Some(true), Some(true))), "--private and --public"),
            (message(|a| a.message = Some(" ".into())), "--message is empty"),
        ] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn defaults_are_private_and_verified() {
        let config = args().check(&RunArgs::default()).expect("valid");
        assert!(config.verify && !config.options.hub.public && !config.options.delete && !config.options.dry_run);
        assert_eq!((config.options.concurrency, config.options.s3.part_size), (8, 8 << 20));
    }

    #[test]
    fn flags_beat_the_file() {
        let file = UploadArgs { public: Some(true), concurrency: Some(3), ..args() };
        let flags = UploadArgs { private: Some(true), ..UploadArgs::default() };
        let config = flags.or(file).check(&RunArgs::default()).expect("valid");
        assert_eq!((config.options.hub.public, config.options.concurrency), (false, 3));
    }
}
