//! The options of the selection: which documents are exported, to which split, how often.

use super::{list, nearest, size};
use crate::domain::balance::Balance;
use crate::domain::chance::Chance;
use crate::domain::decimal::Fraction;
use crate::domain::filter::{Filter, Members, Number, Rule, Subject};
use crate::domain::origin::{Origin, UNKNOWN};
use crate::domain::schema::{FieldType, Schema};
use crate::domain::selection::{NamedField, Selection, TRAIN, Take};
use crate::domain::split::Splits;
use crate::error::{Error, Result};
use clap::{Args, ValueEnum};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Where the flags for quality and domain look.
const QUALITY: &str = "metadata.quality_score";
const DOMAIN: &str = "metadata.domain";

/// The options of the selection, as given.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Selection: filter, duplicates, sample or balance, split, repeats")]
pub struct SelectArgs {
    /// Keep documents of at least this quality (metadata.quality_score)
    #[arg(long, env = "COLOPHON_MIN_QUALITY", value_name = "X", allow_negative_numbers = true)]
    #[serde(deserialize_with = "list")]
    pub min_quality: Option<String>,

    /// Keep documents of at least so many words, counted
    #[arg(long, env = "COLOPHON_MIN_WORDS", value_name = "N")]
    pub min_words: Option<u64>,

    /// Keep documents of at most so many words, counted
    #[arg(long, env = "COLOPHON_MAX_WORDS", value_name = "N")]
    pub max_words: Option<u64>,

    /// Keep documents of at least so many code points
    #[arg(long, env = "COLOPHON_MIN_CHARS", value_name = "N")]
    pub min_chars: Option<u64>,

    /// Keep documents of at most so many code points
    #[arg(long, env = "COLOPHON_MAX_CHARS", value_name = "N")]
    pub max_chars: Option<u64>,

    /// Keep documents of these domains (metadata.domain), and those without any
    #[arg(long, env = "COLOPHON_DOMAINS", value_name = "A,B", value_delimiter = ',')]
    #[serde(deserialize_with = "names")]
    pub domains: Vec<String>,

    /// Leave out documents of these domains; 'unknown' stands for those without any
    #[arg(long, env = "COLOPHON_EXCLUDE_DOMAINS", value_name = "A,B", value_delimiter = ',')]
    #[serde(deserialize_with = "names")]
    pub exclude_domains: Vec<String>,

    /// Of documents with the same text keep the first
    #[arg(long, env = "COLOPHON_DEDUP", value_name = "METHOD")]
    pub dedup: Option<Dedup>,

    /// Take each document with this probability, such as 0.1
    #[arg(long, env = "COLOPHON_SAMPLE", value_name = "RATE", allow_negative_numbers = true)]
    #[serde(deserialize_with = "list")]
    pub sample: Option<String>,

    /// Take exactly so many documents, at random
    #[arg(long, env = "COLOPHON_MAX_DOCUMENTS", value_name = "N")]
    pub max_documents: Option<u64>,

    /// Take documents by shares for the values of this field
    #[arg(long, env = "COLOPHON_BALANCE_BY", value_name = "FIELD")]
    pub balance_by: Option<String>,

    /// The shares: equal, temperature=T or weights=a:2,b:0.5,*:1 [default: equal]
    #[arg(long, env = "COLOPHON_BALANCE", value_name = "MODE")]
    pub balance: Option<String>,

    /// Let a document stand up to so many times in train, for the sake of the shares [default: 1]
    #[arg(long, env = "COLOPHON_REPEAT_UP_TO", value_name = "K")]
    pub repeat_up_to: Option<u64>,

    /// With --split-method exact: exact counts within each value of this field
    #[arg(long, env = "COLOPHON_STRATIFY_BY", value_name = "FIELD")]
    pub stratify_by: Option<String>,

    /// Split by the hash of this field instead of the text, so that its groups stay together
    #[arg(long, env = "COLOPHON_SPLIT_KEY", value_name = "FIELD")]
    pub split_key: Option<String>,

    /// Fail if a text stands in two splits
    #[arg(long, env = "COLOPHON_FORBID_LEAKAGE")]
    pub forbid_leakage: Option<bool>,

    /// Memory for planning, beyond which it goes to disk [default: a quarter of what there is]
    #[arg(long, help_heading = "How to run", env = "COLOPHON_MEMORY_LIMIT", value_name = "SIZE")]
    #[serde(deserialize_with = "list")]
    pub memory_limit: Option<String>,

    /// Filters on any mapped field (job file only).
    #[arg(skip)]
    #[serde(rename = "filter")]
    pub filters: Vec<FilterArgs>,
}

/// A `[[filter]]` of a job file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FilterArgs {
    /// The field, by its path in the input or in the output.
    pub field: String,
    /// The smallest number that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<serde_json::Number>,
    /// The largest number that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<serde_json::Number>,
    /// The values that are kept.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub among: Option<Vec<Value>>,
    /// The values that are left out.
    #[serde(default, alias = "not-in", skip_serializing_if = "Option::is_none")]
    pub not_in: Option<Vec<Value>>,
    /// Whether documents without the field are left out.
    #[serde(default)]
    pub required: bool,
}

/// How duplicates are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dedup {
    /// Documents whose decoded texts are the same.
    Exact,
}

/// What of the selection is decided elsewhere.
pub struct Base {
    /// Names and ratios of the splits.
    pub splits: Splits,
    /// Whether the counts are exact.
    pub exact: bool,
    /// The job's seed.
    pub seed: u64,
    /// Its random numbers.
    pub chance: Chance,
}

/// Names in a job file: a list, or text with commas between them as on the command line.
fn names<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<String>, D::Error> {
    match Value::deserialize(from).map_err(D::Error::custom)? {
        Value::String(text) => Ok(text.split(',').map(String::from).collect()),
        Value::Array(values) => {
            let name =
                |value: &Value| value.as_str().map(String::from).ok_or_else(|| D::Error::custom("expected text"));
            values.iter().map(name).collect()
        }
        _ => Err(D::Error::custom("expected text or a list of texts")),
    }
}

fn usage<T>(message: String) -> Result<T> {
    Err(Error::Usage(message))
}

impl SelectArgs {
    /// Takes from `file` what is not given here.
    pub fn or(self, file: SelectArgs) -> SelectArgs {
        let or = |given: Vec<String>, file: Vec<String>| if given.is_empty() { file } else { given };
        SelectArgs {
            min_quality: self.min_quality.or(file.min_quality),
            min_words: self.min_words.or(file.min_words),
            max_words: self.max_words.or(file.max_words),
            min_chars: self.min_chars.or(file.min_chars),
            max_chars: self.max_chars.or(file.max_chars),
            domains: or(self.domains, file.domains),
            exclude_domains: or(self.exclude_domains, file.exclude_domains),
            dedup: self.dedup.or(file.dedup),
            sample: self.sample.or(file.sample),
            max_documents: self.max_documents.or(file.max_documents),
            balance_by: self.balance_by.or(file.balance_by),
            balance: self.balance.or(file.balance),
            repeat_up_to: self.repeat_up_to.or(file.repeat_up_to),
            stratify_by: self.stratify_by.or(file.stratify_by),
            split_key: self.split_key.or(file.split_key),
            forbid_leakage: self.forbid_leakage.or(file.forbid_leakage),
            memory_limit: self.memory_limit.or(file.memory_limit),
            filters: [file.filters, self.filters].concat(),
        }
    }

    /// Checks the options.
    ///
    /// # Errors
    /// [`Error::Usage`] with what to change.
    pub fn check(&self, base: Base, schema: &Schema) -> Result<Selection> {
        self.check_combinations(&base)?;
        let field = |flag: &str, name: &Option<String>| name.as_ref().map(|n| named_field(schema, flag, n)).transpose();
        let Base { splits, exact, seed, chance } = base;
        Ok(Selection {
            filters: self.filters(schema)?,
            dedup: self.dedup.is_some(),
            take: self.take(schema)?,
            exact,
            key: field("--split-key", &self.split_key)?,
            strata: field("--stratify-by", &self.stratify_by)?,
            repeat_up_to: self.repeats()?,
            forbid_leakage: self.forbid_leakage == Some(true),
            splits,
            seed,
            chance,
        })
    }

    fn check_combinations(&self, base: &Base) -> Result<()> {
        let balanced = self.balance_by.is_some();
        if self.stratify_by.is_some() && !base.exact {
            return usage(
                "--stratify-by needs --split-method exact: by hash, every split has its share of each value only about"
                    .into(),
            );
        }
        if self.sample.is_some() && (self.max_documents.is_some() || balanced) {
            let other = if balanced { "--balance-by" } else { "--max-documents" };
            return usage(format!("--sample and {other} both say how many documents are taken: give one of them"));
        }
        for (flag, is_given) in [("--balance", self.balance.is_some()), ("--repeat-up-to", self.repeat_up_to.is_some())]
        {
            if is_given && !balanced {
                return usage(format!("{flag} needs --balance-by FIELD: the field whose values have the shares"));
            }
        }
        if self.repeat_up_to.is_some_and(|k| k > 1) && !base.splits.names().iter().any(|name| name == TRAIN) {
            return usage(format!(
                "--repeat-up-to repeats documents in '{TRAIN}' alone, and --split-names has no such split"
            ));
        }
        Ok(())
    }

    fn repeats(&self) -> Result<u16> {
        match u16::try_from(self.repeat_up_to.unwrap_or(1)) {
            Ok(0) => usage("--repeat-up-to 0: a document stands at least once; 1 is without repeats".into()),
            Ok(times) => Ok(times),
            Err(_) => usage(format!("--repeat-up-to: {} is the most", u16::MAX)),
        }
    }

    fn take(&self, schema: &Schema) -> Result<Take> {
        if self.max_documents == Some(0) {
            return usage("--max-documents 0 would leave nothing: give the number of documents to take".into());
        }
        if let Some(name) = &self.balance_by {
            let mode = self.balance.as_deref().unwrap_or("equal");
            return Ok(Take::Balance {
                by: named_field(schema, "--balance-by", name)?,
                mode: mode.parse().map_err(|e| Error::Usage(format!("--balance: {e}")))?,
                at_most: self.max_documents,
            });
        }
        match (&self.sample, self.max_documents) {
            (Some(rate), _) => match rate.parse::<Fraction>() {
                Ok(Fraction::ZERO) => usage("--sample 0 would leave nothing: give a rate above 0, such as 0.1".into()),
                Ok(rate) => Ok(Take::Sample(rate)),
                Err(error) => usage(format!("--sample: {error}")),
            },
            (None, Some(most)) => Ok(Take::AtMost(most)),
            (None, None) => Ok(Take::All),
        }
    }

    fn filters(&self, schema: &Schema) -> Result<Vec<Filter>> {
        let mut filters: Vec<Filter> = Vec::new();
        if let Some(text) = &self.min_quality {
            let number = || Number::of(text.trim().as_bytes());
            let min = number().ok_or_else(|| Error::Usage(format!("--min-quality: '{text}' is not a number")))?;
            filters.push(on_output(schema, "--min-quality", QUALITY, Rule { min: Some(min), ..Rule::default() })?);
        }
        for (name, subject, min, max) in [
            ("words", Subject::Words, self.min_words, self.max_words),
            ("chars", Subject::Chars, self.min_chars, self.max_chars),
        ] {
            if min.is_none() && max.is_none() {
                continue;
            }
            let rule = Rule { min: min.map(Number::from), max: max.map(Number::from), ..Rule::default() };
            check_bounds(&rule, || format!("--min-{name} and --max-{name}"))?;
            filters.push(Filter { name: format!("--min-{name}"), subject, rule });
        }
        filters.extend(self.domain_filter(schema)?);
        for args in &self.filters {
            filters.push(args.check(schema)?);
        }
        Ok(filters)
    }

    fn domain_filter(&self, schema: &Schema) -> Result<Option<Filter>> {
        let members = |names: &[String]| {
            let values: Vec<Value> = names.iter().map(|name| Value::from(name.as_str())).collect();
            (!names.is_empty()).then(|| Members::new(&values).unwrap_or_default())
        };
        let flag = if self.domains.is_empty() { "--exclude-domains" } else { "--domains" };
        let rule = Rule {
            among: members(&self.domains),
            not_among: members(&self.exclude_domains),
            required: self.exclude_domains.iter().any(|name| name == UNKNOWN),
            ..Rule::default()
        };
        if rule.among.is_none() && rule.not_among.is_none() {
            return Ok(None);
        }
        on_output(schema, flag, DOMAIN, rule).map(Some)
    }

    /// The memory limit in bytes.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is no size.
    pub fn memory_limit(&self) -> Result<Option<u64>> {
        self.memory_limit.as_deref().map(|text| size("--memory-limit", text)).transpose()
    }

    /// What shapes the output, for the manifest.
    ///
    /// # Errors
    /// [`Error::Usage`] if `--balance` cannot be read.
    pub fn to_json(&self) -> Result<Map<String, Value>> {
        let number = |text: &String| text.trim().parse::<serde_json::Number>().ok();
        let filters = json!({
            "min_quality": self.min_quality.as_ref().map(number),
            "min_words": self.min_words,
            "max_words": self.max_words,
            "min_chars": self.min_chars,
            "max_chars": self.max_chars,
            "domains": (!self.domains.is_empty()).then_some(&self.domains),
            "exclude_domains": (!self.exclude_domains.is_empty()).then_some(&self.exclude_domains),
            "filters": self.filters,
        });
        let mode = self.balance.as_deref().or(self.balance_by.as_ref().map(|_| "equal"));
        let mode = mode.map(str::parse::<Balance>).transpose().map_err(|e| Error::Usage(format!("--balance: {e}")))?;
        let rate = self.sample.as_ref().and_then(|rate| rate.parse::<Fraction>().ok());
        let others = json!({
            "dedup": self.dedup,
            "sample": rate.map(|rate| rate.to_string()),
            "max_documents": self.max_documents,
            "balance_by": self.balance_by,
            "balance": mode.map(|mode| mode.to_string()),
            "repeat_up_to": self.repeat_up_to,
            "stratify_by": self.stratify_by,
            "split_key": self.split_key,
            "forbid_leakage": self.forbid_leakage == Some(true),
        });
        Ok([filters, others]
            .iter()
            .filter_map(Value::as_object)
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }
}

impl FilterArgs {
    fn check(&self, schema: &Schema) -> Result<Filter> {
        let name = format!("[[filter]] {}", self.field);
        let (origin, kind) = field(schema, "[[filter]]", &self.field)?;
        let number = |number: &Option<serde_json::Number>| {
            number.as_ref().and_then(|number| Number::of(number.to_string().as_bytes()))
        };
        let rule = Rule {
            min: number(&self.min),
            max: number(&self.max),
            among: members(&name, "in", &self.among)?,
            not_among: members(&name, "not_in", &self.not_in)?,
            required: self.required,
        };
        let compares = rule.min.is_some() || rule.max.is_some();
        if compares && matches!(kind, FieldType::String | FieldType::Boolean) {
            return usage(format!("{name}: min and max compare numbers, and the schema says that it is a {kind}"));
        }
        if !compares && rule.among.is_none() && rule.not_among.is_none() && !rule.required {
            return usage(format!("{name}: give min, max, in, not_in or required = true"));
        }
        check_bounds(&rule, || format!("{name}: min and max"))?;
        Ok(Filter { name, subject: Subject::Field(origin), rule })
    }
}

fn members(name: &str, key: &str, values: &Option<Vec<Value>>) -> Result<Option<Members>> {
    let Some(values) = values else { return Ok(None) };
    if values.is_empty() {
        return usage(format!("{name}: {key} is an empty list"));
    }
    let bad = |value| Error::Usage(format!("{name}: {key} has {value}: give texts, numbers, true or false"));
    Members::new(values).map(Some).map_err(bad)
}

fn check_bounds(rule: &Rule, names: impl Fn() -> String) -> Result<()> {
    match (rule.min, rule.max) {
        (Some(min), Some(max)) if min.is_above(max) => {
            usage(format!("{}: the smallest is above the largest, so nothing would be left", names()))
        }
        _ => Ok(()),
    }
}

/// A filter on what is written to a path of the output.
fn on_output(schema: &Schema, flag: &str, path: &str, rule: Rule) -> Result<Filter> {
    match Origin::of_output(schema, path) {
        Origin::Nowhere => {
            usage(format!("{flag} looks at {path}, and no field of the schema goes there; use a [[filter]]"))
        }
        Origin::Constant(json) => {
            let json = String::from_utf8_lossy(&json);
            usage(format!("{flag} looks at {path}, and that is {json} for every document"))
        }
        origin => Ok(Filter { name: flag.into(), subject: Subject::Field(origin), rule }),
    }
}

/// A mapped field by the name that a user gave.
fn field(schema: &Schema, flag: &str, name: &str) -> Result<(Origin, FieldType)> {
    if let Some(found) = Origin::of_field(schema, name) {
        return Ok(found);
    }
    if schema.constants().iter().any(|constant| constant.to == name) {
        return usage(format!("{flag} {name}: that is a constant, the same for every document"));
    }
    let known = schema.fields().iter().flat_map(|f| [f.from.as_str(), f.to.as_str()]);
    let hint = nearest(name, known).map(|name| format!("; did you mean '{name}'?")).unwrap_or_default();
    usage(format!(
        "{flag} {name}: the schema has no such field{hint} (fields are named by their path in the input or in the output)"
    ))
}

fn named_field(schema: &Schema, flag: &str, name: &str) -> Result<NamedField> {
    field(schema, flag, name).map(|(origin, _)| NamedField { name: name.into(), origin })
}
