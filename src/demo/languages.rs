//! What the demo's writers know: a small phrase book per language.
//!
//! A phrase is a template. `[a|b|c]` stands for one of its alternatives, `{name}` for a slot:
//!
//! | slot | becomes |
//! | --- | --- |
//! | `{thing}` | what the article is about, from its topic |
//! | `{other}` | another thing of the same topic |
//! | `{woman}`, `{man}` | a person; the sentence agrees with the gender |
//! | `{company}`, `{rival}` | two invented companies |
//! | `{place}` | a city, in the form that follows "in" (in Greek with its preposition) |
//! | `{n}` | a number from 11 to 80 that takes the genitive plural in Russian |
//! | `{big}` | a round number from 1,200 to 98,000 |
//! | `{pct}`, `{year}`, `{ver}` | a percentage, a year, a version |
//! | `{emoji}` | a picture outside the Basic Multilingual Plane |
//!
//! Things are chosen so that sentences come out right without a dictionary: plurals with their article in
//! German, French and Spanish, neuter plurals in Greek, masculine singulars ending in a consonant in Hindi,
//! words ending in a consonant in Korean (which decides the particles), and so on.

use super::{languages_asian as asian, languages_european as european};

/// The domains, as the classifier names them, with each one's share of a hundred documents.
pub const DOMAINS: [(&str, usize); 8] = [
    ("artificial_intelligence", 26),
    ("software_engineering", 19),
    ("cloud_computing", 14),
    ("cybersecurity", 12),
    ("hardware", 10),
    ("science", 8),
    ("startups", 6),
    ("mobile", 5),
];

/// One language's phrase book.
pub struct Language {
    /// ISO 639-1 code.
    pub code: &'static str,
    /// This language's share of a hundred documents.
    pub weight: usize,
    /// Whether white space stands between words and sentences.
    pub spaced: bool,
    /// Stands between the thousands and the hundreds of a number.
    pub group: &'static str,
    /// Stands behind the number of a percentage.
    pub percent: &'static str,
    pub women: &'static [&'static str],
    pub men: &'static [&'static str],
    pub places: &'static [&'static str],
    /// In the order of [`DOMAINS`].
    pub topics: [Topic; DOMAINS.len()],
    pub titles: &'static [&'static str],
    pub openings: &'static [&'static str],
    /// Sentences that suit every topic.
    pub body: &'static [&'static str],
    pub quotes: &'static [&'static str],
    /// Lead over to a piece of code.
    pub code_leads: &'static [&'static str],
    pub closings: &'static [&'static str],
    /// What a site adds when it publishes an article again.
    pub updates: &'static [&'static str],
}

/// What a language has to say about one domain.
pub struct Topic {
    pub things: &'static [&'static str],
    pub sentences: &'static [&'static str],
}

/// Every language of the corpus.
pub const LANGUAGES: [&Language; 12] = [
    &european::ENGLISH,
    &european::GERMAN,
    &european::FRENCH,
    &european::SPANISH,
    &european::RUSSIAN,
    &european::GREEK,
    &asian::ARABIC,
    &asian::HEBREW,
    &asian::HINDI,
    &asian::CHINESE,
    &asian::JAPANESE,
    &asian::KOREAN,
];

/// Invented companies; they keep their Latin names in every script.
pub const COMPANIES: [&str; 12] = [
    "Northlamp",
    "Veltrana",
    "Ostara Systems",
    "Blue Fernway",
    "Kappaworks",
    "Lumen & Pine",
    "Tidewater Loom",
    "Quarrystone",
    "Haldenby Data",
    "Miravelle Networks",
    "Sable Compute",
    "Orchard Nine",
];

/// Pictures outside the Basic Multilingual Plane: two halves each once they are escaped.
pub const EMOJI: [&str; 12] = ["🚀", "🔒", "🤖", "📱", "🧪", "💡", "🛰️", "📦", "🧠", "👩‍💻", "🌍", "🔋"];
