//! The options that say what a dataset is.

use super::list;
use crate::domain::about::{About, is_day};
use crate::error::{Error, Result};
use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Where the options stand in the help.
const HEADING: &str = "Dataset card";
/// Keys of the card's header that are measured, or come from what is exported.
const MEASURED: [&str; 2] = ["configs", "dataset_info"];
/// Keys of the card's header that have an option.
const WITH_OPTION: [&str; 4] = ["pretty_name", "language", "license", "tags"];

/// The options of the dataset card and the Croissant metadata, as given.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct CardArgs {
    /// Name of the dataset, for people [default: Training corpus]
    #[arg(long, help_heading = HEADING, env = "COLOPHON_PRETTY_NAME", value_name = "NAME")]
    pub pretty_name: Option<String>,

    /// What the dataset is, in a few sentences of Markdown
    #[arg(long, help_heading = HEADING, env = "COLOPHON_DESCRIPTION", value_name = "TEXT")]
    pub description: Option<String>,

    /// Languages of the texts, such as en,de
    #[arg(long, help_heading = HEADING, env = "COLOPHON_LANGUAGE", value_name = "A,B")]
    #[serde(deserialize_with = "list")]
    pub language: Option<String>,

    /// Licence, as the Hub names it, such as cc-by-4.0 [default: unknown]
    #[arg(long, help_heading = HEADING, env = "COLOPHON_LICENSE", value_name = "LICENSE")]
    pub license: Option<String>,

    /// Words to find the dataset by
    #[arg(long, help_heading = HEADING, env = "COLOPHON_TAGS", value_name = "A,B")]
    #[serde(deserialize_with = "list")]
    pub tags: Option<String>,

    /// Who made the dataset
    #[arg(long, help_heading = HEADING, env = "COLOPHON_CREATOR", value_name = "NAME")]
    pub creator: Option<String>,

    /// Page of the dataset
    #[arg(long, help_heading = HEADING, env = "COLOPHON_HOMEPAGE", value_name = "URL")]
    pub homepage: Option<String>,

    /// How to cite the dataset; BibTeX is usual [default: made from name, creator and date]
    #[arg(long, help_heading = HEADING, env = "COLOPHON_CITATION", value_name = "TEXT")]
    pub citation: Option<String>,

    /// Version of the dataset [default: 1.0.0]
    #[arg(long, help_heading = HEADING, env = "COLOPHON_DATASET_VERSION", value_name = "X.Y.Z")]
    #[serde(deserialize_with = "list")]
    pub dataset_version: Option<String>,

    /// Day of the publication [default: metadata.curation_date, if that is a constant]
    #[arg(long, help_heading = HEADING, env = "COLOPHON_DATE_PUBLISHED", value_name = "YYYY-MM-DD")]
    #[serde(deserialize_with = "date")]
    pub date_published: Option<String>,

    /// Write no dataset card, no plots and no Croissant metadata
    #[arg(long, help_heading = HEADING, env = "COLOPHON_NO_CARD")]
    pub no_card: Option<bool>,

    /// Further keys of the card's header, such as `size_categories` (job file only).
    #[arg(skip)]
    #[serde(rename = "card", deserialize_with = "super::constants")]
    pub more: Option<Map<String, Value>>,
}

impl CardArgs {
    /// Takes from `file` what is not given here.
    pub fn or(self, file: CardArgs) -> CardArgs {
        CardArgs {
            pretty_name: self.pretty_name.or(file.pretty_name),
            description: self.description.or(file.description),
            language: self.language.or(file.language),
            license: self.license.or(file.license),
            tags: self.tags.or(file.tags),
            creator: self.creator.or(file.creator),
            homepage: self.homepage.or(file.homepage),
            citation: self.citation.or(file.citation),
            dataset_version: self.dataset_version.or(file.dataset_version),
            date_published: self.date_published.or(file.date_published),
            no_card: self.no_card.or(file.no_card),
            more: self.more.or(file.more),
        }
    }

    /// Checks the options; `None` if no card is wanted.
    ///
    /// # Errors
    /// [`Error::Usage`] with what to change.
    pub fn check(self) -> Result<Option<About>> {
        let more = self.more.unwrap_or_default();
        check_more(&more)?;
        let about = About {
            pretty_name: text("--pretty-name", self.pretty_name)?,
            description: text("--description", self.description)?,
            language: words("--language", self.language)?,
            license: text("--license", self.license)?,
            tags: words("--tags", self.tags)?,
            creator: text("--creator", self.creator)?,
            homepage: text("--homepage", self.homepage)?,
            citation: text("--citation", self.citation)?,
            dataset_version: text("--dataset-version", self.dataset_version)?,
            date_published: text("--date-published", self.date_published)?,
            more,
        };
        if let Some(date) = about.date_published.as_deref().filter(|date| !is_day(date)) {
            return Err(Error::Usage(format!("--date-published {date}: write a day, such as 2024-01-15")));
        }
        if !about.homepage.as_deref().is_none_or(is_url) {
            return Err(Error::Usage("--homepage: write a URL that starts with https:// or http://".into()));
        }
        if !is_version(about.version()) {
            let version = about.version();
            return Err(Error::Usage(format!("--dataset-version {version}: write three numbers, such as 1.0.0")));
        }
        Ok((self.no_card != Some(true)).then_some(about))
    }
}

/// A date in a job file may be written as TOML's or as text.
fn date<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Option<String>, D::Error> {
    Ok(Some(match toml::Value::deserialize(from)? {
        toml::Value::String(text) => text,
        value => value.to_string(),
    }))
}

/// What is given must say something.
fn text(flag: &str, value: Option<String>) -> Result<Option<String>> {
    match value {
        Some(value) if value.trim().is_empty() => Err(Error::Usage(format!("{flag} is empty: leave it out instead"))),
        value => Ok(value.map(|value| value.trim().to_owned())),
    }
}

fn words(flag: &str, value: Option<String>) -> Result<Vec<String>> {
    let Some(value) = text(flag, value)? else { return Ok(Vec::new()) };
    let words: Vec<String> = value.split(',').map(|word| word.trim().to_owned()).collect();
    match words.iter().any(String::is_empty) {
        true => Err(Error::Usage(format!("{flag} {value}: write words with commas between them"))),
        false => Ok(words),
    }
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty()) && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn is_version(text: &str) -> bool {
    let is_number = |part: &str| part.parse::<u32>().is_ok_and(|number| number.to_string() == part);
    text.split('.').count() == 3 && text.split('.').all(is_number)
}

fn check_more(more: &Map<String, Value>) -> Result<()> {
    for key in more.keys() {
        if MEASURED.contains(&key.as_str()) {
            return Err(Error::Usage(format!("[card] {key}: colophon writes this key itself, from what it exports")));
        }
        if WITH_OPTION.contains(&key.as_str()) {
            let option = key.replace('_', "-");
            return Err(Error::Usage(format!("[card] {key}: write '{option}' at the top of the job file instead")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named() {
        let args = |change: fn(&mut CardArgs)| {
            let mut args = CardArgs::default();
            change(&mut args);
            args.check().expect_err("a mistake").to_string()
        };
        for (message, part) in [
            (args(|a| a.license = Some(" ".into())), "--license is empty"),
            (args(|a| a.tags = Some("a,,b".into())), "--tags a,,b"),
            (args(|a| a.homepage = Some("example.org".into())), "https://"),
            (args(|a| a.dataset_version = Some("1.02.3".into())), "--dataset-version 1.02.3"),
            (args(|a| a.date_published = Some("today".into())), "--date-published today"),
            (args(|a| a.more = Some([("configs".into(), Value::Null)].into_iter().collect())), "[card] configs"),
            (args(|a| a.more = Some([("pretty_name".into(), "x".into())].into_iter().collect())), "'pretty-name'"),
        ] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn without_options_there_is_a_card_with_defaults() {
        let about = CardArgs::default().check().expect("valid").expect("a card");
        assert_eq!((about.name(), about.license(), about.version()), ("Training corpus", "unknown", "1.0.0"));
        assert_eq!(CardArgs { no_card: Some(true), ..CardArgs::default() }.check().expect("valid"), None);
    }
}
