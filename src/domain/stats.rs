//! Statistics of an export: the seed's keys with the seed's meaning, and some more.
//!
//! Everything is counted with integers, so that any number of workers, adding in any order, comes to
//! the same figures.

use super::histogram::Histogram;
use super::ledger::{Ledger, Rejects};
use super::origin::{Origin, UNKNOWN, decoded};
use super::row::{Row, Span};
use super::schema::{METADATA, Schema};
use super::sum::ExactSum;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// The percentiles that are reported, nearest rank.
const PERCENTILES: [u64; 9] = [1, 5, 10, 25, 50, 75, 90, 95, 99];
/// From where on a quality is high, and medium.
const HIGH: f64 = 0.8;
const MEDIUM: f64 = 0.6;

/// Counts over the exported documents. They are written with all that is needed to add them to others.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    splits: Vec<SplitStats>,
    /// Documents by domain, decoded.
    #[serde(with = "by_name")]
    domains: HashMap<Box<[u8]>, u64, foldhash::fast::RandomState>,
    high: u64,
    medium: u64,
    low: u64,
    /// Documents with a quality.
    scored: u64,
}

/// Counts over one split.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct SplitStats {
    chars: Histogram,
    words: Histogram,
    /// Bytes of the split's lines.
    bytes: u64,
    /// Sum of `metadata.word_count`.
    word_count: ExactSum,
    /// Documents that have each of [`Described::columns`].
    present: Vec<u64>,
}

/// Domains as they are written: pairs in the order of their names. (A decoded domain is UTF-8.)
mod by_name {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::borrow::Cow;
    use std::collections::HashMap;

    type Counts = HashMap<Box<[u8]>, u64, foldhash::fast::RandomState>;

    pub fn serialize<S: Serializer>(counts: &Counts, to: S) -> Result<S::Ok, S::Error> {
        let mut pairs: Vec<(Cow<'_, str>, u64)> =
            counts.iter().map(|(name, times)| (String::from_utf8_lossy(name), *times)).collect();
        pairs.sort();
        pairs.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Counts, D::Error> {
        let pairs = Vec::<(String, u64)>::deserialize(from)?;
        Ok(pairs.into_iter().map(|(name, times)| (name.into_bytes().into(), times)).collect())
    }
}

/// Where the described fields of a document come from.
pub struct Described {
    domain: Origin,
    quality: Origin,
    word_count: Origin,
    /// Fields at the top of an exported line that may be absent, each with its source.
    columns: Vec<(usize, usize)>,
}

impl Described {
    /// Finds `metadata.domain`, `metadata.quality_score` and `metadata.word_count` in a schema's output.
    pub fn new(schema: &Schema) -> Described {
        let origin = |path| Origin::of_output(schema, path);
        Described {
            domain: origin("metadata.domain"),
            quality: origin("metadata.quality_score"),
            word_count: origin("metadata.word_count"),
            columns: columns(schema),
        }
    }
}

/// Fields, by index, that are columns of their own and not in every document. (An object is always written.)
fn columns(schema: &Schema) -> Vec<(usize, usize)> {
    let fields = schema.fields().iter().enumerate();
    let optional = fields.filter(|(_, field)| !field.required && !field.to.contains('.') && field.to != METADATA);
    optional.map(|(index, _)| (index, schema.source_of(index))).collect()
}

impl Stats {
    /// Nothing counted yet, for so many splits.
    pub fn new(splits: usize) -> Stats {
        Stats { splits: vec![SplitStats::default(); splits], ..Stats::default() }
    }

    /// Nothing counted yet, for as many splits.
    pub fn as_empty(&self) -> Stats {
        Stats::new(self.splits.len())
    }

    /// Counts a document. `line` and `spans` are the input's; `exported_bytes` are those of its line
    /// in the split, with the line feed.
    pub fn add(&mut self, split: usize, row: &Row, line: &[u8], spans: &[Span], exported_bytes: u64, from: &Described) {
        let counts = &mut self.splits[split];
        counts.chars.add(row.chars.into());
        counts.words.add(row.words.into());
        counts.bytes += exported_bytes;
        if let Some(json) = from.word_count.value(line, spans) {
            counts.word_count.add(json);
        }
        counts.present.resize(from.columns.len(), 0);
        for (times, (_, source)) in counts.present.iter_mut().zip(&from.columns) {
            *times += u64::from(!spans[*source].is_absent());
        }
        self.add_domain(from.domain.value(line, spans));
        self.add_quality(from.quality.value(line, spans));
    }

    fn add_domain(&mut self, json: Option<&[u8]>) {
        let domain = json.map_or(UNKNOWN.as_bytes().into(), decoded);
        match self.domains.get_mut(&*domain) {
            Some(times) => *times += 1,
            None => drop(self.domains.insert((*domain).into(), 1)),
        }
    }

    fn add_quality(&mut self, json: Option<&[u8]>) {
        self.scored += u64::from(json.is_some());
        match json.map_or(Quality::Low, Quality::of) {
            Quality::High => self.high += 1,
            Quality::Medium => self.medium += 1,
            Quality::Low => self.low += 1,
        }
    }

    /// Adds another worker's counts.
    pub fn merge(&mut self, other: &Stats) {
        for (mine, theirs) in self.splits.iter_mut().zip(&other.splits) {
            mine.chars.merge(&theirs.chars);
            mine.words.merge(&theirs.words);
            mine.bytes += theirs.bytes;
            mine.word_count.merge(&theirs.word_count);
            mine.present.resize(mine.present.len().max(theirs.present.len()), 0);
            mine.present.iter_mut().zip(&theirs.present).for_each(|(mine, theirs)| *mine += theirs);
        }
        for (domain, times) in &other.domains {
            *self.domains.entry(domain.clone()).or_default() += times;
        }
        self.high += other.high;
        self.medium += other.medium;
        self.low += other.low;
        self.scored += other.scored;
    }

    /// Documents of all splits.
    pub fn documents(&self) -> u64 {
        self.splits.iter().map(|split| split.chars.count()).sum()
    }

    /// Documents of a split.
    pub fn split_documents(&self, split: usize) -> u64 {
        self.splits[split].chars.count()
    }

    /// Lengths of a split's texts in code points.
    pub fn chars(&self, split: usize) -> &Histogram {
        &self.splits[split].chars
    }

    /// Lengths of a split's texts in words.
    pub fn words(&self, split: usize) -> &Histogram {
        &self.splits[split].words
    }

    /// Bytes of a split's lines, before compression.
    pub fn bytes(&self, split: usize) -> u64 {
        self.splits[split].bytes
    }

    /// Whether any document of a split has a field that is a column of its own. Fields that every document has
    /// need not be asked for.
    pub fn has_column(&self, split: usize, field: usize, described: &Described) -> bool {
        let column = described.columns.iter().position(|(index, _)| *index == field);
        column.is_none_or(|column| self.splits[split].present.get(column).is_some_and(|times| *times > 0))
    }

    /// Documents of high, medium and low quality.
    pub fn quality(&self) -> [u64; 3] {
        [self.high, self.medium, self.low]
    }

    /// Documents that have a quality at all; the others count as low.
    pub fn scored(&self) -> u64 {
        self.scored
    }

    /// `dataset_stats.json`.
    pub fn to_json(&self, names: &[String], ledger: &Ledger, rejects: &Rejects) -> Value {
        let splits: Map<_, _> = names.iter().cloned().zip(self.splits.iter().map(SplitStats::to_json)).collect();
        let mut all = Histogram::default();
        self.splits.iter().for_each(|split| all.merge(&split.chars));
        json!({
            "total_documents": self.documents(),
            "splits": splits,
            "domain_distribution": self.domains_json(),
            "quality_distribution": { "high": self.high, "medium": self.medium, "low": self.low },
            "text_length_stats": lengths_json(&all),
            "ledger": ledger,
            "rejects": rejects.iter().map(|(reason, times)| (reason.name().into(), times.into())).collect::<Map<_, _>>(),
        })
    }

    /// Documents by domain: the most frequent first, equally frequent ones by name.
    pub fn domains(&self) -> Vec<(String, u64)> {
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut domains: Vec<_> = self.domains.iter().map(|(domain, times)| (name(domain), *times)).collect();
        domains.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        domains
    }

    fn domains_json(&self) -> Map<String, Value> {
        self.domains().into_iter().map(|(domain, times)| (domain, times.into())).collect()
    }
}

/// The classes of `quality_distribution`.
#[derive(Debug, PartialEq, Eq)]
enum Quality {
    High,
    Medium,
    Low,
}

impl Quality {
    /// The class of a quality in its JSON notation. What is no number, where the schema allows that,
    /// counts as 0, as a missing quality does.
    fn of(json: &[u8]) -> Quality {
        /// Decimals of so few digits are ordered as their nearest `f64` are.
        const EXACT_DIGITS: usize = 15;
        if let [b'0', b'.', first, rest @ ..] = json
            && rest.len() < EXACT_DIGITS
            && json[2..].iter().all(u8::is_ascii_digit)
        {
            return match first {
                b'8' | b'9' => Quality::High,
                b'6' | b'7' => Quality::Medium,
                _ => Quality::Low,
            };
        }
        let quality = std::str::from_utf8(json).ok().and_then(|json| json.parse().ok()).unwrap_or(0.0);
        if quality >= HIGH {
            Quality::High
        } else if quality >= MEDIUM {
            Quality::Medium
        } else {
            Quality::Low
        }
    }
}

impl SplitStats {
    fn to_json(&self) -> Value {
        json!({
            "count": self.chars.count(),
            "avg_text_length": mean(&self.chars),
            "total_chars": self.chars.sum() as u64,
            "total_words": self.word_count.to_json(),
            "counted_words": self.words.sum() as u64,
            "bytes": self.bytes,
            "chars": lengths_json(&self.chars),
            "words": lengths_json(&self.words),
        })
    }
}

/// The mean as Python prints it: a plain 0 for no values.
fn mean(lengths: &Histogram) -> Value {
    if lengths.count() == 0 { 0.into() } else { (lengths.sum() as f64 / lengths.count() as f64).into() }
}

/// Minimum, maximum, mean and percentiles; empty for no values.
fn lengths_json(lengths: &Histogram) -> Value {
    let (Some(min), Some(max)) = (lengths.min(), lengths.max()) else { return json!({}) };
    let mut object = Map::new();
    object.insert("min".into(), min.into());
    object.insert("max".into(), max.into());
    object.insert("mean".into(), mean(lengths));
    for percent in PERCENTILES {
        object.insert(format!("p{percent}"), lengths.percentile(percent).into());
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qualities_compare_as_python_compares_them() {
        for (json, class) in [
            ("0.8", Quality::High),
            ("0.80", Quality::High),
            ("0.799999999999999", Quality::Medium),
            // Nearer to 0.8 than to any other f64.
            ("0.79999999999999999999", Quality::High),
            ("0.6", Quality::Medium),
            ("0.59", Quality::Low),
            ("8e-1", Quality::High),
            ("1", Quality::High),
            ("-0.9", Quality::Low),
            ("0", Quality::Low),
            ("1e999", Quality::High),
            ("\"0.9\"", Quality::Low),
        ] {
            assert_eq!(Quality::of(json.as_bytes()), class, "{json}");
        }
    }

    #[test]
    fn equal_domains_count_together_however_they_are_written() {
        let mut stats = Stats::new(1);
        for json in [&b"\"ab\""[..], b"\"a\\u0062\"", b"\"unknown\""] {
            stats.add_domain(Some(json));
        }
        stats.add_domain(None);
        assert_eq!(Value::from(stats.domains_json()), json!({ "ab": 2, "unknown": 2 }));
    }
}
