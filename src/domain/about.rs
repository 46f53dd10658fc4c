//! What people say of a dataset: all that cannot be measured.

use serde::Serialize;
use serde_json::{Map, Value};

/// The name of a dataset that was given none.
const NAMELESS: &str = "Training corpus";
/// The licence of a dataset that was given none, as the Hub calls it.
const NO_LICENSE: &str = "unknown";
/// The version of a dataset that was given none.
const FIRST_VERSION: &str = "1.0.0";

/// What stands in the card and in the Croissant metadata beside the figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct About {
    /// The name that people read.
    pub pretty_name: Option<String>,
    /// A few sentences, as Markdown.
    pub description: Option<String>,
    /// Languages, as the Hub writes them: `en`, `de`.
    pub language: Vec<String>,
    /// The licence, as the Hub writes it: `cc-by-4.0`.
    pub license: Option<String>,
    /// Words to find the dataset by.
    pub tags: Vec<String>,
    /// Who made it.
    pub creator: Option<String>,
    /// Its page.
    pub homepage: Option<String>,
    /// How to cite it.
    pub citation: Option<String>,
    /// `MAJOR.MINOR.PATCH`.
    pub dataset_version: Option<String>,
    /// The day of the publication, `YYYY-MM-DD`.
    pub date_published: Option<String>,
    /// More keys for the card's header.
    #[serde(rename = "header")]
    pub more: Map<String, Value>,
}

impl About {
    /// The dataset's name.
    pub fn name(&self) -> &str {
        self.pretty_name.as_deref().unwrap_or(NAMELESS)
    }

    /// The dataset's licence.
    pub fn license(&self) -> &str {
        self.license.as_deref().unwrap_or(NO_LICENSE)
    }

    /// The dataset's version.
    pub fn version(&self) -> &str {
        self.dataset_version.as_deref().unwrap_or(FIRST_VERSION)
    }
}

/// Whether a text is a day as `YYYY-MM-DD`.
pub fn is_day(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}
