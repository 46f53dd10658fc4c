//! The corpus that `colophon demo` starts from, made on the spot.
//!
//! It is what a curation pipeline for web pages leaves behind: one folder per stage, from the raw pages to the
//! classified documents. Every page has a fate, drawn before it is written, that says which stage drops it and
//! therefore what has to be wrong with it. The articles come from phrase books ([`languages`]); nothing is
//! copied from anywhere. Everything follows from the numbers of [`Dice`], so the bytes are the same on every
//! machine.

// The parts lie beside this file, not in a folder of their own.
#[path = "article.rs"]
mod article;
#[path = "dice.rs"]
mod dice;
#[path = "languages.rs"]
mod languages;
#[path = "languages_asian.rs"]
mod languages_asian;
#[path = "languages_european.rs"]
mod languages_european;

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};

use article::{Article, boilerplate};
use dice::Dice;
use languages::{DOMAINS, LANGUAGES};

/// One file of the demo corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoFile {
    /// Relative to the corpus, with `/` between its parts, such as `classified/part-00000.jsonl`.
    pub path: String,
    /// JSON Lines.
    pub bytes: Vec<u8>,
}

/// Every stage's shards, in the order of the stages.
pub fn files() -> Vec<DemoFile> {
    let documents = documents();
    STAGES.iter().flat_map(|stage| stage.files(&documents)).collect()
}

/// A folder of the corpus.
struct Stage {
    folder: &'static str,
    shards: usize,
    /// The documents with this fate, or a better one, are in the folder.
    from: Fate,
    fields: Fields,
}

/// The fields that a stage's documents have; each set contains the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fields {
    /// `id`, `text` as the web gave it, `title`, `url`.
    Raw,
    /// The text extracted, and its `language`.
    Extracted,
    /// `domain`, `quality_prob` and `word_count` as well.
    Classified,
}

/// What becomes of a document, from the first to be dropped to those that stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Extraction finds no text in it.
    Boilerplate,
    /// Its text is that of an earlier document, byte for byte.
    ExactCopy,
    /// Its text is that of an earlier document with small edits.
    NearCopy,
    /// Its text is too short, says the same thing over and over, or is no text.
    LowQuality,
    /// It is in the final corpus.
    Kept,
}

const STAGES: [Stage; 6] = [
    Stage { folder: "raw/wikipedia", shards: 4, from: Fate::Boilerplate, fields: Fields::Raw },
    Stage { folder: "extracted", shards: 4, from: Fate::ExactCopy, fields: Fields::Extracted },
    Stage { folder: "exact-deduped", shards: 3, from: Fate::NearCopy, fields: Fields::Extracted },
    Stage { folder: "fuzzy-deduped", shards: 3, from: Fate::LowQuality, fields: Fields::Extracted },
    Stage { folder: "filtered", shards: 2, from: Fate::Kept, fields: Fields::Extracted },
    Stage { folder: "classified", shards: 3, from: Fate::Kept, fields: Fields::Classified },
];

/// How many documents meet which fate.
const FATES: [(Fate, usize); 5] =
    [(Fate::Boilerplate, 55), (Fate::ExactCopy, 25), (Fate::NearCopy, 120), (Fate::LowQuality, 95), (Fate::Kept, 705)];

/// As many documents at the start are kept, so that there is something to copy for those that follow.
const HEAD: usize = 40;

/// Where the pages come from; names that are reserved for examples.
const SITES: [&str; 5] =
    ["techpulse.example", "wiki.example", "news.example.org", "blog.example.net", "mirror.example.com"];

/// A document with all that any stage knows of it.
struct Document {
    id: String,
    fate: Fate,
    url: String,
    title: String,
    /// The text before extraction.
    raw: String,
    /// The text after it.
    text: String,
    /// What the text was made from; boilerplate has none.
    source: Option<Source>,
    /// The classifier's trust, in thousandths.
    quality: usize,
    /// Whether its lines are written in ASCII, with `\u` escapes.
    ascii: bool,
}

/// An article and the number of its domain in [`DOMAINS`].
#[derive(Clone)]
struct Source {
    article: Article,
    domain: usize,
}

impl Stage {
    /// The stage's shards: runs of documents of about the same length.
    fn files(&self, documents: &[Document]) -> Vec<DemoFile> {
        let kept: Vec<&Document> = documents.iter().filter(|document| document.fate >= self.from).collect();
        let shards = kept.chunks(kept.len().div_ceil(self.shards)).enumerate();
        shards
            .map(|(number, shard)| DemoFile {
                path: format!("{}/part-{number:05}.jsonl", self.folder),
                bytes: shard.iter().map(|document| document.line(self.fields)).collect::<String>().into_bytes(),
            })
            .collect()
    }
}

impl Document {
    /// The document as a line of JSON, line end included.
    fn line(&self, fields: Fields) -> String {
        let mut line = Line::new(self.ascii);
        line.string("id", &self.id);
        line.string("text", if fields == Fields::Raw { &self.raw } else { &self.text });
        line.string("title", &self.title);
        line.string("url", &self.url);
        if let Some(source) = &self.source {
            if fields >= Fields::Extracted {
                line.string("language", source.article.language());
            }
            if fields >= Fields::Classified {
                line.string("domain", DOMAINS[source.domain].0);
                line.value("quality_prob", thousandths(self.quality));
                line.value("word_count", word_count(&self.text));
            }
        }
        line.finish()
    }
}

/// All documents of the corpus, in order.
fn documents() -> Vec<Document> {
    let mut documents: Vec<Document> = Vec::new();
    let mut texts = BTreeSet::new();
    for (number, fate) in draw_fates().into_iter().enumerate() {
        let id = format!("tp-{:06}", number + 1);
        // Each document has a stream of its own: to change one leaves the others as they are.
        let mut dice = Dice::new(number as u64 + 1);
        let document = if fate == Fate::Boilerplate {
            write_boilerplate(id, &mut dice)
        } else {
            let source = loop {
                let source = write_source(fate, &documents, &mut dice);
                // Only an exact copy has the text of another.
                if texts.insert(source.article.text()) || fate == Fate::ExactCopy {
                    break source;
                }
            };
            write_document(id, fate, source, &mut dice)
        };
        documents.push(document);
    }
    documents
}

/// The documents' fates in the documents' order.
fn draw_fates() -> Vec<Fate> {
    let mut fates: Vec<Fate> = FATES.iter().rev().flat_map(|&(fate, count)| vec![fate; count]).collect();
    // The kept ones come first here; the head stays as it is.
    Dice::new(0).shuffle(&mut fates[HEAD..]);
    fates
}

/// An article that deserves its fate.
fn write_source(fate: Fate, earlier: &[Document], dice: &mut Dice) -> Source {
    if matches!(fate, Fate::ExactCopy | Fate::NearCopy) {
        let originals: Vec<&Source> = earlier
            .iter()
            .filter(|document| document.fate == Fate::Kept)
            .filter_map(|document| document.source.as_ref())
            .collect();
        let mut copy = dice.pick(&originals).clone();
        if fate == Fate::NearCopy {
            copy.article = copy.article.edited(dice);
        }
        return copy;
    }
    let language = LANGUAGES[dice.weighted(&LANGUAGES, |language| language.weight)];
    let domain = dice.weighted(&DOMAINS, |&(_, weight)| weight);
    let write = match (fate, dice.below(3)) {
        (Fate::LowQuality, 0) => Article::write_stub,
        (Fate::LowQuality, 1) => Article::write_repetitive,
        (Fate::LowQuality, _) => Article::write_symbol_soup,
        _ => Article::write,
    };
    Source { article: write(language, domain, dice), domain }
}

/// A page without text.
fn write_boilerplate(id: String, dice: &mut Dice) -> Document {
    let (raw, title) = boilerplate(dice);
    let url = format!("https://{}/{}?ref={}", dice.pick(&SITES), id, dice.below(100));
    Document {
        id,
        fate: Fate::Boilerplate,
        url,
        title,
        raw,
        text: String::new(),
        source: None,
        quality: 0,
        ascii: dice.chance(50),
    }
}

/// A page with text: the article, and what is known of it.
fn write_document(id: String, fate: Fate, source: Source, dice: &mut Dice) -> Document {
    let Source { article, domain } = &source;
    let section = DOMAINS[*domain].0.replace('_', "-");
    let year = dice.between(2018, 2024);
    let query = dice.pick(&["", "", "", "?utm_source=feed&lang=", "?view=print&lang="]);
    let code = article.language();
    let query = if query.is_empty() { String::new() } else { format!("{query}{code}") };
    Document {
        fate,
        url: format!("https://{code}.{}/{section}/{year}/{id}{query}", dice.pick(&SITES)),
        id,
        title: article.title.clone(),
        raw: article.html(dice),
        text: article.text(),
        quality: draw_quality(dice),
        ascii: dice.chance(50),
        source: Some(source),
    }
}

/// The trust of a classifier that mostly likes what it is shown, in thousandths.
fn draw_quality(dice: &mut Dice) -> usize {
    match dice.below(100) {
        0..62 => dice.between(800, 990),
        62..88 => dice.between(600, 799),
        _ => dice.between(400, 599),
    }
}

/// A number of thousandths below one as Python prints it: without zeros at its end.
fn thousandths(number: usize) -> String {
    let digits = format!("{number:03}");
    format!("0.{}", digits.trim_end_matches('0'))
}

/// The number of words, as Python's `len(text.split())` counts them.
fn word_count(text: &str) -> usize {
    let is_space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    text.split(is_space).filter(|word| !word.is_empty()).count()
}

/// A JSON object on a line, laid out as Python's `json.dumps` does.
struct Line {
    out: String,
    ascii: bool,
}

impl Line {
    fn new(ascii: bool) -> Self {
        Line { out: String::from("{"), ascii }
    }

    fn string(&mut self, name: &str, value: &str) {
        let quoted = serde_json::to_string(value).expect("a string can always be written as JSON");
        if self.ascii {
            self.value(name, escape_non_ascii(&quoted));
        } else {
            self.value(name, quoted);
        }
    }

    /// A value that is JSON as it is displayed.
    fn value(&mut self, name: &str, value: impl Display) {
        let comma = if self.out.len() > 1 { ", " } else { "" };
        write!(self.out, "{comma}\"{name}\": {value}").expect("a string takes whatever is written");
    }

    fn finish(self) -> String {
        self.out + "}\n"
    }
}

/// Replaces what is not printable ASCII in a JSON string by `\uXXXX`: two of them, a surrogate pair, for a
/// character outside the Basic Multilingual Plane.
fn escape_non_ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if matches!(c, ' '..='~') {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").expect("a string takes whatever is written");
            }
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is a failed test")]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::{BTreeMap, HashSet};

    /// The stages' documents, by folder, each with its line.
    fn stages() -> BTreeMap<String, Vec<(String, Value)>> {
        let mut stages: BTreeMap<String, Vec<(String, Value)>> = BTreeMap::new();
        for file in files() {
            let (folder, _) = file.path.rsplit_once('/').unwrap();
            let text = String::from_utf8(file.bytes).unwrap();
            assert!(text.ends_with('\n'), "{}", file.path);
            let lines = text.lines().map(|line| (line.to_owned(), serde_json::from_str(line).unwrap()));
            stages.entry(folder.to_owned()).or_default().extend(lines);
        }
        stages
    }

    fn field<'a>(document: &'a Value, name: &str) -> &'a str {
        document[name].as_str().unwrap_or_else(|| panic!("{name} in {document}"))
    }

    /// The sorted hashes of a text's runs of eight characters.
    fn shingles(text: &str) -> Vec<u64> {
        let chars: Vec<char> = text.chars().collect();
        let hash = |run: &[char]| {
            run.iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, &c| (h ^ u64::from(c)).wrapping_mul(0x100_0000_01b3))
        };
        let mut hashes: Vec<u64> = chars.windows(8).map(hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }

    /// The share of two sets' union that is in both, in percent.
    fn likeness(a: &[u64], b: &[u64]) -> usize {
        let (mut i, mut j, mut common) = (0, 0, 0);
        while i < a.len() && j < b.len() {
            match a[i].cmp(&b[j]) {
                std::cmp::Ordering::Less => i += 1,
                std::cmp::Ordering::Greater => j += 1,
                std::cmp::Ordering::Equal => (i, j, common) = (i + 1, j + 1, common + 1),
            }
        }
        100 * common / (a.len() + b.len() - common).max(1)
    }

    /// What `later` has lost of `earlier`, by `id`.
    fn dropped<'a>(earlier: &'a [(String, Value)], later: &[(String, Value)]) -> Vec<&'a Value> {
        let kept: HashSet<&str> = later.iter().map(|(_, document)| field(document, "id")).collect();
        earlier.iter().map(|(_, document)| document).filter(|document| !kept.contains(field(document, "id"))).collect()
    }

    #[test]
    fn the_bytes_are_the_same_twice() {
        assert!(files() == files());
    }

    /// A changed phrase or a changed generator shows here: the new number is right if the change was meant.
    #[test]
    fn the_bytes_are_the_same_on_every_machine() {
        let bytes = files().into_iter().flat_map(|file| [file.path.into_bytes(), file.bytes]).flatten();
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        assert_eq!(format!("{hash:016x}"), "88d0ab8bed6c7363");
    }

    #[test]
    fn the_stages_have_their_counts_and_shards() {
        let stages = stages();
        let counts = [1000, 945, 920, 800, 705, 705];
        for (stage, count) in STAGES.iter().zip(counts) {
            assert_eq!(stages[stage.folder].len(), count, "{}", stage.folder);
            let shards =
                files().iter().filter(|file| file.path.starts_with(&format!("{}/part-0", stage.folder))).count();
            assert_eq!(shards, stage.shards, "{}", stage.folder);
        }
    }

    #[test]
    fn documents_keep_their_ids_and_order() {
        let stages = stages();
        for pair in STAGES.windows(2) {
            let [earlier, later] = [&stages[pair[0].folder], &stages[pair[1].folder]];
            let mut rest = earlier.iter();
            for (_, document) in later {
                let (_, before) = rest
                    .find(|(_, before)| before["id"] == document["id"])
                    .expect("an id from the stage before, in order");
                for name in ["title", "url"] {
                    assert_eq!(before[name], document[name]);
                }
                if pair[0].fields != Fields::Raw {
                    assert_eq!(before["text"], document["text"]);
                    assert_eq!(before["language"], document["language"]);
                }
            }
        }
    }

    #[test]
    fn exact_dedup_drops_copies_of_earlier_texts() {
        let stages = stages();
        let dropped: HashSet<&str> = dropped(&stages["extracted"], &stages["exact-deduped"])
            .iter()
            .map(|document| field(document, "id"))
            .collect();
        assert_eq!(dropped.len(), 25);
        let mut seen = HashSet::new();
        for (_, document) in &stages["extracted"] {
            let is_copy = !seen.insert(field(document, "text"));
            assert_eq!(is_copy, dropped.contains(field(document, "id")), "{}", document["id"]);
        }
    }

    #[test]
    fn fuzzy_dedup_drops_near_copies_and_leaves_none() {
        let stages = stages();
        let dropped: HashSet<&str> = dropped(&stages["exact-deduped"], &stages["fuzzy-deduped"])
            .iter()
            .map(|document| field(document, "id"))
            .collect();
        assert_eq!(dropped.len(), 120);
        let mut kept: BTreeMap<&str, Vec<Vec<u64>>> = BTreeMap::new();
        for (_, document) in &stages["exact-deduped"] {
            let text = shingles(field(document, "text"));
            let earlier = kept.entry(field(document, "language")).or_default();
            let closest = earlier.iter().map(|other| likeness(&text, other)).max().unwrap_or(0);
            if dropped.contains(field(document, "id")) {
                assert!(closest >= 75, "{} is {closest} % like an earlier one", document["id"]);
            } else {
                assert!(closest <= 60, "{} is {closest} % like an earlier one", document["id"]);
                earlier.push(text);
            }
        }
    }

    #[test]
    fn the_filter_drops_poor_texts_and_keeps_good_ones() {
        let stages = stages();
        let is_poor = |document: &Value| {
            let text = field(document, "text");
            let sentences: Vec<&str> = text.split('\n').filter(|line| !line.is_empty()).collect();
            let distinct: HashSet<&&str> = sentences.iter().collect();
            let letters = text.chars().filter(|c| c.is_alphabetic()).count();
            let is_spaced = !matches!(field(document, "language"), "zh" | "ja");
            let is_short = if is_spaced { word_count(text) < 60 } else { text.chars().count() < 120 };
            is_short || distinct.len() * 2 < sentences.len() || letters * 2 < text.chars().count()
        };
        for document in dropped(&stages["fuzzy-deduped"], &stages["filtered"]) {
            assert!(is_poor(document), "{document}");
        }
        for (_, document) in &stages["filtered"] {
            assert!(!is_poor(document), "{document}");
        }
    }

    #[test]
    fn classified_documents_are_complete_distinct_and_of_fair_length() {
        let stages = stages();
        let mut texts = HashSet::new();
        let mut domains: BTreeMap<&str, usize> = BTreeMap::new();
        let mut high = 0;
        for (_, document) in &stages["classified"] {
            let text = field(document, "text");
            assert!(texts.insert(text));
            let words = text.split_whitespace().count();
            assert_eq!(document["word_count"], words);
            if matches!(field(document, "language"), "zh" | "ja") {
                assert!((120..=900).contains(&text.chars().count()), "{document}");
            } else {
                assert!((60..=400).contains(&words), "{document}");
            }
            let quality = document["quality_prob"].as_f64().unwrap();
            assert!((0.4..=0.99).contains(&quality));
            high += usize::from(quality >= 0.8);
            *domains.entry(field(document, "domain")).or_default() += 1;
        }
        assert!(high > 353, "{high}");
        assert_eq!(domains.len(), DOMAINS.len());
        assert!(domains["artificial_intelligence"] > 3 * domains["mobile"]);
    }

    #[test]
    fn fields_stand_in_order_with_pythons_spaces() {
        let stages = stages();
        let (line, _) = &stages["classified"][0];
        assert!(line.starts_with("{\"id\": \"tp-000001\", \"text\": \""), "{line}");
        let places: Vec<usize> = [
            "\", \"title\": \"",
            "\", \"url\": \"https://",
            "\", \"language\": \"",
            "\", \"domain\": \"",
            "\", \"quality_prob\": 0.",
            ", \"word_count\": ",
        ]
        .iter()
        .map(|name| line.find(name).unwrap_or_else(|| panic!("{name} in {line}")))
        .collect();
        assert!(places.is_sorted());
        let (raw, _) = &stages["raw/wikipedia"][0];
        assert!(!raw.contains("\"language\": "));
    }

    #[test]
    fn many_scripts_both_raw_and_escaped() {
        let stages = stages();
        let lines = &stages["classified"];
        let languages: HashSet<&str> = lines.iter().map(|(_, document)| field(document, "language")).collect();
        assert_eq!(languages.len(), LANGUAGES.len());
        let escaped: HashSet<&str> = lines
            .iter()
            .filter(|(line, _)| line.contains("\\u"))
            .map(|(_, document)| field(document, "language"))
            .collect();
        let raw: HashSet<&str> = lines
            .iter()
            .filter(|(line, _)| !line.is_ascii())
            .map(|(_, document)| field(document, "language"))
            .collect();
        assert_eq!(escaped.len(), LANGUAGES.len());
        assert_eq!(raw.len(), LANGUAGES.len());
        assert!(lines.iter().any(|(line, _)| line.contains("\\ud83d\\ude80")), "an escaped rocket");
        assert!(lines.iter().any(|(line, _)| line.contains('🚀')), "a rocket as it is");
        assert!(lines.iter().any(|(line, _)| line.contains("\\t")), "a tab");
    }

    #[test]
    fn escapes_are_those_of_python() {
        let quoted = serde_json::to_string("é€🚀\u{7f}\n\t\"\\/").unwrap();
        assert_eq!(escape_non_ascii(&quoted), r#""\u00e9\u20ac\ud83d\ude80\u007f\n\t\"\\/""#);
        assert_eq!(thousandths(870), "0.87");
        assert_eq!(thousandths(405), "0.405");
        assert_eq!(word_count(" a\u{1f}b\u{202f}c\u{a0}\n\u{200b}"), 4);
    }
}
