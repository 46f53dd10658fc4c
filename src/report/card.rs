//! The dataset card: `README.md` with a YAML header for the Hub and `datasets`, and plots beside it.
//!
//! Every figure comes from the statistics of the same run.

use super::croissant::{self, type_of};
use super::dataset::{Column, ColumnKind, Dataset, columns, hub_names, pattern};
use super::markdown::Align::{Number, Text};
use super::markdown::{code, fenced, plain, table};
use super::plot::{self, percent};
use super::recipe::recipe;
use super::summary::thousands;
use super::yaml;
use crate::domain::about::is_day;
use crate::domain::histogram::Histogram;
use crate::domain::manifest::SplitFiles;
use crate::domain::manifest::hex;
use crate::domain::origin::UNKNOWN;
use crate::domain::schema::{Field, FieldType};
use indicatif::HumanBytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// The name of the card, as the Hub expects it.
pub const FILE: &str = "README.md";
const LENGTHS: &str = "lengths.svg";
const DOMAINS: &str = "domains.svg";
const QUALITY: &str = "quality.svg";
/// What the files that describe a dataset can be called.
pub const FILES: [&str; 5] = [FILE, croissant::FILE, LENGTHS, DOMAINS, QUALITY];
/// Domains in the card's table; the statistics have all.
const SHOWN_DOMAINS: usize = 20;
/// Percentiles in the card's table.
const PERCENTILES: [u64; 5] = [5, 25, 50, 75, 95];

/// A file that describes the dataset.
pub struct File {
    /// Its name.
    pub name: &'static str,
    /// Its contents.
    pub text: String,
}

/// The card, its plots, and the Croissant metadata.
pub fn files(dataset: &Dataset) -> Vec<File> {
    let plots = plots(dataset);
    let croissant = format!("{:#}\n", croissant::croissant(dataset));
    let mut files =
        vec![File { name: FILE, text: card(dataset, &plots) }, File { name: croissant::FILE, text: croissant }];
    files.extend(plots);
    files
}

fn plots(dataset: &Dataset) -> Vec<File> {
    let stats = dataset.stats;
    let lengths: Vec<_> =
        dataset.splits().map(|(number, split, _)| (split.name.as_str(), stats.chars(number))).collect();
    let unscored = stats.documents() - stats.scored();
    let drawn = [
        (LENGTHS, plot::lengths(&lengths)),
        (DOMAINS, plot::domains(&stats.domains())),
        (QUALITY, plot::quality(stats.quality(), unscored)),
    ];
    drawn.into_iter().filter_map(|(name, svg)| svg.map(|text| File { name, text })).collect()
}

fn card(dataset: &Dataset, plots: &[File]) -> String {
    let picture = |name: &str, alt: &str| match plots.iter().any(|plot| plot.name == name) {
        true => format!("![{alt}]({name})\n\n"),
        false => String::new(),
    };
    let sections = [
        format!("---\n{}---\n", yaml::block(&header(dataset))),
        introduction(dataset),
        splits(dataset),
        lengths(dataset, &picture(LENGTHS, "Histograms of the texts' lengths by split")),
        domains(dataset, &picture(DOMAINS, "Documents by domain")),
        quality(dataset, &picture(QUALITY, "Documents by quality")),
        fields(dataset),
        origin(dataset),
        use_and_check(dataset),
    ];
    sealed(&sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n"))
}

const SEAL: &str = "\n<!-- Written by colophon. SHA-256 of the text above: ";
const SEAL_END: &str = " -->\n";

/// Adds a comment by which a card that nobody has touched can be told from one that somebody has.
fn sealed(text: &str) -> String {
    format!("{text}{SEAL}{}{SEAL_END}", hex(&Sha256::digest(text)))
}

/// Whether a card is as colophon wrote it.
pub fn is_sealed(card: &[u8]) -> bool {
    let text = std::str::from_utf8(card).ok().and_then(|card| card.rsplit_once(SEAL));
    text.is_some_and(|(text, _)| sealed(text).as_bytes() == card)
}

/// The YAML header. What people gave comes first, then what was measured.
fn header(dataset: &Dataset) -> Map<String, Value> {
    let about = dataset.about;
    let mut header = Map::new();
    header.insert("pretty_name".into(), about.name().into());
    if !about.language.is_empty() {
        header.insert("language".into(), json!(about.language));
    }
    header.insert("license".into(), about.license().into());
    if !about.tags.is_empty() {
        header.insert("tags".into(), json!(about.tags));
    }
    header.insert("size_categories".into(), json!([size_category(dataset.stats.documents())]));
    header.extend(about.more.clone());
    let names: Vec<&str> = dataset.manifest.splits.iter().map(|split| split.name.as_str()).collect();
    let names = hub_names(&names);
    let data_files: Vec<Value> =
        loadable(dataset).map(|(number, split)| json!({ "split": names[number], "path": pattern(split) })).collect();
    header.insert("configs".into(), json!([{ "config_name": "default", "data_files": data_files }]));
    header.insert("dataset_info".into(), info(dataset, &names));
    header
}

/// The splits that have documents: `datasets` fails on others. Only where there are none at all does nothing help.
fn loadable<'a>(dataset: &'a Dataset) -> impl Iterator<Item = (usize, &'a SplitFiles)> {
    let is_empty = dataset.stats.documents() == 0;
    let splits = dataset.manifest.splits.iter().enumerate();
    splits.filter(move |(_, split)| split.documents > 0 || is_empty)
}

fn info(dataset: &Dataset, names: &[String]) -> Value {
    let split = |(number, split): (usize, &SplitFiles)| json!({ "name": names[number], "num_bytes": dataset.stats.bytes(number), "num_examples": split.documents });
    json!({
        "features": columns(dataset.schema).iter().map(feature).collect::<Vec<_>>(),
        "splits": loadable(dataset).map(split).collect::<Vec<_>>(),
        "download_size": dataset.splits().flat_map(|(_, _, files)| files).map(|file| file.bytes).sum::<u64>(),
        "dataset_size": dataset.splits().map(|(number, _, _)| dataset.stats.bytes(number)).sum::<u64>(),
    })
}

/// A feature as `datasets` writes it in YAML.
fn feature(column: &Column) -> Value {
    match &column.kind {
        ColumnKind::Object(members) => {
            json!({ "name": column.name, "struct": members.iter().map(feature).collect::<Vec<_>>() })
        }
        ColumnKind::Field(kind, _) => json!({ "name": column.name, "dtype": dtype(*kind) }),
        // `datasets` takes a text that is a day everywhere for a day, and would make a time of it.
        ColumnKind::Constant(Value::String(text)) if is_day(text) => json!({ "name": column.name, "dtype": "date32" }),
        ColumnKind::Constant(value) => json!({ "name": column.name, "dtype": dtype(type_of(value)) }),
    }
}

fn dtype(kind: FieldType) -> &'static str {
    match kind {
        FieldType::String => "string",
        FieldType::Number => "float64",
        FieldType::Integer => "int64",
        FieldType::Boolean => "bool",
        FieldType::Any => "json",
    }
}

/// The Hub's words for how many documents there are.
fn size_category(documents: u64) -> String {
    const NAMES: [&str; 11] = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T", ""];
    let limits = (0..NAMES.len() as u32 - 1).map(|power| 1_000 * 10u64.pow(power));
    match limits.filter(|limit| documents >= *limit).count() {
        0 => "n<1K".into(),
        10 => "n>1T".into(),
        reached => format!("{}<n<{}", NAMES[reached - 1], NAMES[reached]),
    }
}

fn introduction(dataset: &Dataset) -> String {
    let stats = dataset.stats;
    let sum = |lengths: fn(&Dataset, usize) -> u128| -> u128 {
        (0..dataset.manifest.splits.len()).map(|split| lengths(dataset, split)).sum()
    };
    let chars = sum(|dataset, split| dataset.stats.chars(split).sum());
    let words = sum(|dataset, split| dataset.stats.words(split).sum());
    let mut text = format!("# {}\n\n", plain(dataset.about.name()));
    match &dataset.about.description {
        Some(description) => {
            let _ = writeln!(text, "{description}\n");
        }
        None => text.push_str("Documents for training language models.\n\n"),
    }
    let _ = writeln!(
        text,
        "**{}** documents, **{}** words, **{}** characters in {} splits.",
        thousands(stats.documents()),
        thousands(words as u64),
        thousands(chars as u64),
        dataset.manifest.splits.len()
    );
    text
}

fn splits(dataset: &Dataset) -> String {
    let all = dataset.stats.documents();
    let rows: Vec<Vec<String>> = dataset
        .splits()
        .map(|(number, split, files)| {
            let stats = dataset.stats;
            let bytes: u64 = files.iter().map(|file| file.bytes).sum();
            vec![
                code(&split.name),
                thousands(split.documents),
                percent(split.documents, all),
                thousands(stats.words(number).sum() as u64),
                thousands(stats.chars(number).sum() as u64),
                HumanBytes(bytes).to_string(),
                code(&pattern(split)),
            ]
        })
        .collect();
    let head = [
        ("Split", Text),
        ("Documents", Number),
        ("Share", Number),
        ("Words", Number),
        ("Characters", Number),
        ("Size", Number),
        ("Files", Text),
    ];
    let is_empty = |split: &&SplitFiles| split.documents == 0;
    let empty: Vec<_> = dataset.manifest.splits.iter().filter(is_empty).map(|split| code(&split.name)).collect();
    let note = match empty.len() {
        0 => String::new(),
        _ if dataset.stats.documents() == 0 => String::new(),
        _ => format!("\nWithout documents, and therefore not among the splits that load: {}.\n", empty.join(", ")),
    };
    format!("## Splits\n\n{}{note}", table(&head, &rows))
}

fn lengths(dataset: &Dataset, plot: &str) -> String {
    if dataset.stats.documents() == 0 {
        return "## Lengths\n\nThere are no documents.\n".into();
    }
    let numbers = ["Shortest", "5 %", "25 %", "Median", "75 %", "95 %", "Longest", "Mean"];
    let head: Vec<_> = [("Split", Text)].into_iter().chain(numbers.map(|name| (name, Number))).collect();
    let rows = |of: fn(&Dataset, usize) -> Histogram| -> String {
        let splits = dataset.splits().map(|(number, split, _)| (split, of(dataset, number)));
        let rows: Vec<_> =
            splits.filter(|(_, h)| h.count() > 0).map(|(split, h)| length_row(&split.name, &h)).collect();
        table(&head, &rows)
    };
    let chars = rows(|dataset, split| dataset.stats.chars(split).clone());
    let words = rows(|dataset, split| dataset.stats.words(split).clone());
    format!(
        "## Lengths\n\n{plot}In characters (Unicode code points):\n\n{chars}\nIn words (runs without white space):\n\n{words}"
    )
}

fn length_row(name: &str, lengths: &Histogram) -> Vec<String> {
    let percentiles = PERCENTILES.map(|percent| lengths.percentile(percent));
    let ends = [lengths.min()].into_iter().chain(percentiles).chain([lengths.max()]);
    let mean = (lengths.sum() * 2 + u128::from(lengths.count())) / (2 * u128::from(lengths.count().max(1)));
    let cells = ends.map(|length| length.map(thousands).unwrap_or_default());
    [code(name)].into_iter().chain(cells).chain([thousands(mean as u64)]).collect()
}

fn domains(dataset: &Dataset, plot: &str) -> String {
    let domains = dataset.stats.domains();
    let all = dataset.stats.documents();
    match domains.as_slice() {
        [] => return String::new(),
        [(only, _)] if only == UNKNOWN => return "## Domains\n\nThe documents name no domain.\n".into(),
        _ => {}
    }
    let row = |(name, times): &(String, u64)| vec![plain(name), thousands(*times), percent(*times, all)];
    let mut rows: Vec<_> = domains.iter().take(SHOWN_DOMAINS).map(row).collect();
    if let Some(rest) = domains.get(SHOWN_DOMAINS..).filter(|rest| !rest.is_empty()) {
        let times = rest.iter().map(|(_, times)| times).sum();
        let name = format!("*{} more, all in `dataset_stats.json`*", thousands(rest.len() as u64));
        rows.push(vec![name, thousands(times), percent(times, all)]);
    }
    format!("## Domains\n\n{plot}{}", table(&[("Domain", Text), ("Documents", Number), ("Share", Number)], &rows))
}

fn quality(dataset: &Dataset, plot: &str) -> String {
    let (all, [high, medium, low]) = (dataset.stats.documents(), dataset.stats.quality());
    let unscored = all - dataset.stats.scored();
    if all == 0 {
        return String::new();
    }
    if unscored == all {
        return "## Quality\n\nThe documents have no quality score.\n".into();
    }
    let row = |name: &str, times: u64| vec![name.to_owned(), thousands(times), percent(times, all)];
    let mut rows = vec![
        row("High (0.8 and above)", high),
        row("Medium (0.6 to 0.8)", medium),
        row("Low (below 0.6)", low - unscored),
    ];
    if unscored > 0 {
        rows.push(row("Without a score (counted as low in the statistics)", unscored));
    }
    format!("## Quality\n\n{plot}{}", table(&[("Quality", Text), ("Documents", Number), ("Share", Number)], &rows))
}

fn fields(dataset: &Dataset) -> String {
    let schema = dataset.schema;
    let from = |field: &Field| {
        let required = if field.required { "yes" } else { "no" };
        vec![code(&field.to), field.kind.to_string(), required.into(), code(&field.from)]
    };
    let mut rows: Vec<_> = schema.fields().iter().map(from).collect();
    rows.extend(schema.constants().iter().map(|constant| {
        let value = match &constant.value {
            Value::String(text) => plain(text),
            value => plain(&value.to_string()),
        };
        vec![code(&constant.to), type_of(&constant.value).to_string(), "yes".into(), format!("always {value}")]
    }));
    let head = ["Field", "Type", "In every document", "From"].map(|name| (name, Text));
    let example = example(&columns(schema), 1);
    format!("## Fields\n\n{}\nA line looks like this:\n\n{}", table(&head, &rows), fenced("json", &example))
}

/// The shape of a line: constants as they are, of other values the type.
fn example(columns: &[Column], depth: usize) -> String {
    let value = |column: &Column| match &column.kind {
        ColumnKind::Object(members) => example(members, depth + 1),
        ColumnKind::Field(kind, _) => match kind {
            FieldType::String => "\"…\"".into(),
            FieldType::Number => "0.5".into(),
            FieldType::Integer => "7".into(),
            FieldType::Boolean => "true".into(),
            FieldType::Any => "…".into(),
        },
        ColumnKind::Constant(value) => value.to_string(),
    };
    if columns.is_empty() {
        return "{}".into();
    }
    let indent = "  ".repeat(depth);
    let member = |column: &Column| format!("{indent}{}: {}", Value::from(column.name.as_str()), value(column));
    let members: Vec<String> = columns.iter().map(member).collect();
    format!("{{\n{}\n{}}}", members.join(",\n"), "  ".repeat(depth - 1))
}

fn origin(dataset: &Dataset) -> String {
    let manifest = dataset.manifest;
    let recipe = recipe(&manifest.configuration);
    let mut text = format!(
        "## How it was made\n\nBy {} from {} of documents ({}), with\n\n{}",
        plain(&manifest.generator),
        shards(manifest.inputs.len()),
        HumanBytes(manifest.inputs.iter().map(|input| input.bytes).sum()),
        fenced("sh", &recipe.command)
    );
    if let Some(job) = recipe.job {
        let _ = write!(text, "\nwhere `job.toml` is\n\n{}", fenced("toml", &job));
    }
    let ledger = &manifest.ledger;
    let row = |name: &str, lines: u64| vec![name.to_owned(), thousands(lines)];
    let mut rows = vec![
        row("Lines read", ledger.lines),
        row("Blank", ledger.blank),
        row("Rejected as unsound (kept in `quarantine/`)", ledger.rejected),
        row("Left out by filters", ledger.filtered),
        row("Left out as duplicates", ledger.duplicates),
        row("Left out by sampling", ledger.sampled_out),
        row("**Exported**", ledger.exported),
    ];
    if ledger.repeats > 0 {
        rows.push(row("Further copies of exported documents", ledger.repeats));
    }
    let _ = write!(
        text,
        "\nEvery line of the input is accounted for:\n\n{}",
        table(&[("Lines", Text), ("Number", Number)], &rows)
    );
    text
}

fn shards(number: usize) -> String {
    if number == 1 { "1 shard".into() } else { format!("{} shards", thousands(number as u64)) }
}

fn use_and_check(dataset: &Dataset) -> String {
    let load = "from datasets import load_dataset\n\ndataset = load_dataset(\"PATH_OR_NAME\")";
    let check = "colophon verify FOLDER";
    let citation = croissant::citation(dataset);
    let license = plain(dataset.about.license());
    let page = dataset.about.homepage.as_ref().map(|url| format!("Page: <{url}>\n\n")).unwrap_or_default();
    format!(
        "## Use\n\n{page}{}\n`croissant.json` describes files and fields to other tools. `manifest.json` has the SHA-256 of \
         every file, and `dataset_stats.json` all counts; this checks them:\n\n{}\n\
         ## Licence and citation\n\nLicence: {license}\n\n{}",
        fenced("python", load),
        fenced("sh", check),
        fenced("bibtex", &citation)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_breaks() {
        let card = sealed("text\n");
        assert!(is_sealed(card.as_bytes()));
        assert!(!is_sealed(card.replace("text", "test").as_bytes()));
        assert!(!is_sealed((card + "more").as_bytes()));
        assert!(!is_sealed(b"text\n\xff"));
    }

    #[test]
    fn size_categories_are_the_hub_s() {
        for (documents, name) in [
            (0, "n<1K"),
            (999, "n<1K"),
            (1_000, "1K<n<10K"),
            (673_103, "100K<n<1M"),
            (999_999_999_999, "100B<n<1T"),
            (u64::MAX, "n>1T"),
        ] {
            assert_eq!(size_category(documents), name);
        }
    }
}
