//! The plan: a function from rows to decisions.

use super::exact;
use super::order::{self, Entry, Means, Ordered, entry, ordered};
use super::rows::{DocRow, Place, RowStore};
use super::spill::{Buffer, Spill};
use crate::domain::apportion::{largest_remainder, largest_total};
use crate::domain::balance::Balance;
pub use crate::domain::leakage::Leakage;
use crate::domain::planned::Findings;
use crate::domain::selection::{Fate, Selection, TRAIN, Take};
use crate::error::{Error, Result};
use bytemuck::{Pod, Zeroable};

/// How often the total is lowered to what the repeats can fill before the steps become halves.
const ROUNDS: usize = 6;
/// Values that a message names.
const SHOWN: usize = 10;

/// What was decided of a document. 4 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
struct Decision {
    repeats: u16,
    split: u8,
    fate: u8,
}

const KEPT: u8 = 0;
const DUPLICATE: u8 = 1;
const SAMPLED_OUT: u8 = 2;

/// The documents' texts, for the few that have to be looked at again.
pub trait Texts {
    /// Gets ready to compare the documents with these indices.
    ///
    /// # Errors
    /// If they cannot be read.
    fn prepare(&mut self, rows: &RowStore, wanted: &Marks) -> Result<()>;

    /// Whether two documents have the same decoded text.
    ///
    /// # Errors
    /// If they cannot be read.
    fn same(&self, a: Place, b: Place) -> Result<bool>;
}

/// A mark for some of the documents.
pub struct Marks(Buffer<u64>);

impl Marks {
    fn new(rows: &RowStore, means: &Means<'_>) -> Result<Marks> {
        Ok(Marks(means.spill.zeros(rows.len().div_ceil(64))?))
    }

    fn set(&mut self, index: usize) {
        self.0[index / 64] |= 1 << (index % 64);
    }

    /// Whether a document is marked.
    pub fn has(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    /// Whether any of these is marked.
    pub fn any(&self, mut indices: std::ops::Range<usize>) -> bool {
        indices.any(|index| self.has(index))
    }
}

/// Documents, and their lines' measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Documents, without further copies.
    pub documents: u64,
    /// Further copies.
    pub repeats: u64,
    /// Code points of all lines' texts, copies included.
    pub chars: u64,
    /// Words of all lines' texts, copies included.
    pub words: u64,
}

impl Count {
    fn add(&mut self, row: &DocRow, repeats: u16) {
        let lines = u64::from(repeats) + 1;
        self.documents += 1;
        self.repeats += u64::from(repeats);
        self.chars += u64::from(row.chars) * lines;
        self.words += u64::from(row.words) * lines;
    }

    /// Lines: documents and further copies.
    pub fn lines(&self) -> u64 {
        self.documents + self.repeats
    }
}

/// What the plan makes of one value of a field.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValueCount {
    /// The value.
    pub value: String,
    /// Documents before sampling or balancing, without duplicates.
    pub found: u64,
    /// What is exported.
    pub count: Count,
    /// Documents by split, without further copies.
    pub splits: Vec<u64>,
    /// Lines that balancing gives the value.
    pub target: Option<u64>,
    /// The value's weight over all weights.
    pub share: Option<f64>,
}

/// What keeps a balanced corpus from being larger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The value that is too small for more.
    pub value: String,
    /// Lines that it can give.
    pub capacity: u64,
    /// The largest total.
    pub total: u64,
}

/// The numbers of a plan.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Documents whose text stood before.
    pub duplicates: u64,
    /// Documents that sampling or balancing leaves out.
    pub sampled_out: u64,
    /// What is exported.
    pub all: Count,
    /// By split.
    pub splits: Vec<Count>,
    /// Documents that each split should have, where that is an exact number.
    pub due: Option<Vec<u64>>,
    /// By value of the field by which documents are balanced, else stratified; by name. Empty without such a field.
    pub values: Vec<ValueCount>,
    /// What limits the total of balancing.
    pub limit: Option<Limit>,
    /// Texts in two splits.
    pub leakage: Leakage,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// Decisions for all rows.
pub struct Plan {
    decisions: Buffer<Decision>,
    /// What comes of them.
    pub figures: Figures,
}

impl Plan {
    /// A plan for so many documents whose fates are known: see [`Plan::decide`].
    ///
    /// # Errors
    /// If there is no room.
    pub fn of_findings(documents: usize, findings: Findings, spill: &Spill) -> Result<Plan> {
        let Findings { leakage, warnings } = findings;
        Ok(Plan { decisions: spill.zeros(documents)?, figures: Figures { leakage, warnings, ..Figures::default() } })
    }

    /// Says what becomes of a document.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn decide(&mut self, index: usize, fate: Fate) {
        self.decisions[index] = match fate {
            Fate::Duplicate => Decision { fate: DUPLICATE, ..Decision::default() },
            Fate::Filtered | Fate::SampledOut => Decision { fate: SAMPLED_OUT, ..Decision::default() },
            Fate::Exported { split, repeats } => Decision { fate: KEPT, split: split as u8, repeats },
        };
    }

    /// What an export by this plan has to say.
    pub fn findings(&self) -> Findings {
        let Figures { leakage, warnings, .. } = self.figures.clone();
        Findings { leakage, warnings }
    }

    /// What becomes of the document with this index.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn fate(&self, index: usize) -> Fate {
        let Decision { repeats, split, fate } = self.decisions[index];
        match fate {
            DUPLICATE => Fate::Duplicate,
            SAMPLED_OUT => Fate::SampledOut,
            _ => Fate::Exported { split: split.into(), repeats },
        }
    }
}

/// Makes the plan.
///
/// # Errors
/// [`Error::Gate`] if the values are not those that the weights are for; else if there is no room, texts
/// cannot be read, or the work is to end.
pub fn plan(selection: &Selection, rows: &RowStore, texts: &mut dyn Texts, means: &Means<'_>) -> Result<Plan> {
    let decisions = means.spill.zeros(rows.len())?;
    let mut planner = Planner { selection, rows, means, decisions, figures: Figures::default(), shares: None };
    if selection.dedup {
        planner.drop_duplicates(texts)?;
    }
    let field = if selection.balance_by().is_some() {
        Some(Field { names: rows.values.shown(), of: |row| row.value })
    } else {
        selection.strata.is_some().then(|| Field { names: rows.strata.shown(), of: |row| row.stratum })
    };
    let found = field.as_ref().map(|field| planner.kept_by(field.names.len(), field.of));
    match &selection.take {
        Take::All => {}
        Take::Sample(rate) => planner.drop_where(|row| !selection.is_sampled(*rate, row.hash)),
        Take::AtMost(most) => planner.take_at_most(*most)?,
        Take::Balance { mode, at_most, .. } => planner.balance(mode, *at_most)?,
    }
    if selection.balance_by().is_none() {
        planner.split()?;
    }
    if let (Some(field), Some(found)) = (field, found) {
        planner.count_values(&field, &found);
    }
    planner.count();
    planner.due();
    if selection.may_leak() {
        let split_of = |index: usize| {
            let decision = planner.decisions[index];
            (decision.fate == KEPT).then_some(decision.split.into())
        };
        planner.figures.leakage = leakage(rows, texts, means, split_of)?;
    }
    let Planner { decisions, figures, .. } = planner;
    Ok(Plan { decisions, figures })
}

/// A field whose values are counted.
struct Field {
    names: Vec<String>,
    of: fn(&DocRow) -> u32,
}

struct Planner<'a> {
    selection: &'a Selection,
    rows: &'a RowStore,
    means: &'a Means<'a>,
    decisions: Buffer<Decision>,
    figures: Figures,
    /// How balancing divided what there is, with the lines of each value by number.
    shares: Option<(Shares, Vec<u64>)>,
}

impl Planner<'_> {
    fn drop_duplicates(&mut self, texts: &mut dyn Texts) -> Result<()> {
        let by_hash = ordered(self.rows, self.means, |index, row| Some(entry(row.hash, 0, index)))?;
        let mut marks = Marks::new(self.rows, self.means)?;
        let suspects = || by_hash.groups().filter(|group| group.len() > 1);
        suspects().flatten().for_each(|suspect| marks.set(order::index(*suspect)));
        if suspects().next().is_some() {
            texts.prepare(self.rows, &marks)?;
        }
        for group in suspects() {
            (self.means.check)()?;
            // Nearly always one: more only if different texts have one hash.
            let mut firsts: Vec<Place> = Vec::new();
            for entry in group {
                let place = self.rows.place(order::index(*entry));
                if find(&firsts, place, texts)?.is_some() {
                    self.decisions[place.index as usize].fate = DUPLICATE;
                } else {
                    firsts.push(place);
                }
            }
        }
        Ok(())
    }

    /// Documents with their decisions.
    fn decided(&self) -> impl Iterator<Item = (&DocRow, &Decision)> {
        self.rows.iter().zip(self.decisions.iter())
    }

    fn kept(&self) -> impl Iterator<Item = (&DocRow, &Decision)> {
        self.decided().filter(|(_, decision)| decision.fate == KEPT)
    }

    fn kept_by(&self, values: usize, of: impl Fn(&DocRow) -> u32) -> Vec<u64> {
        let mut counts = vec![0; values.max(1)];
        self.kept().for_each(|(row, _)| counts[of(row) as usize] += 1);
        counts
    }

    fn drop_where(&mut self, is_out: impl Fn(&DocRow) -> bool) {
        for (row, decision) in self.rows.iter().zip(self.decisions.iter_mut()) {
            if decision.fate == KEPT && is_out(row) {
                decision.fate = SAMPLED_OUT;
            }
        }
    }

    /// Documents that are not duplicates in the order of their random numbers, each with its value.
    fn by_chance(&self) -> Result<Ordered> {
        let chance = |index: usize, row: &DocRow| {
            let is_kept = self.decisions[index].fate != DUPLICATE;
            is_kept.then(|| entry(self.selection.chance.of(row.hash), row.value, index))
        };
        let mut picks = ordered(self.rows, self.means, chance)?;
        picks.order_ties_by_hash(self.rows);
        Ok(picks)
    }

    fn take_at_most(&mut self, most: u64) -> Result<()> {
        let found = self.kept().count() as u64;
        if found <= most {
            if found < most {
                self.warn(format!("--max-documents {most}: there are only {found} documents; all of them are taken"));
            }
            return Ok(());
        }
        let chance = |index: usize, row: &DocRow| {
            let is_kept = self.decisions[index].fate == KEPT;
            is_kept.then(|| entry(self.selection.chance.of(row.hash), 0, index))
        };
        // There are more than `most`, so it fits.
        let out = order::all_but(most as usize, self.rows, self.means, chance)?;
        for entry in out.entries() {
            self.decisions[order::index(*entry)].fate = SAMPLED_OUT;
        }
        Ok(())
    }

    fn warn(&mut self, message: String) {
        self.figures.warnings.push(message);
    }

    /// Balances, splits and repeats: how much can be repeated is known only when the split is.
    fn balance(&mut self, mode: &Balance, at_most: Option<u64>) -> Result<()> {
        let shares = self.shares(mode)?;
        let picks = self.by_chance()?;
        let least = shares.largest_total(&shares.found).map_or(0, |(total, _)| total);
        let mut capacities = self.capacities(&shares.found);
        for round in 0.. {
            let Some((largest, limit)) = shares.largest_total(&capacities) else { break };
            // Without repeats the least can be had in any case; so this ends.
            let total = if round < ROUNDS || largest <= least { largest } else { least + (largest - least) / 2 };
            let total = at_most.map_or(total, |most| most.min(total));
            let targets = shares.targets(total);
            self.take(&picks, &targets);
            self.split()?;
            let able = self.lines_by_value();
            if targets.iter().zip(&able).all(|(target, able)| target <= able) {
                self.repeat(&picks, &targets);
                let limit = Limit { value: shares.names[limit].clone(), capacity: capacities[limit], total: largest };
                self.note_limit(limit, at_most);
                self.shares = Some((shares, targets));
                return Ok(());
            }
            // Some values cannot have so much: the total goes down.
            for (value, target) in targets.into_iter().enumerate().filter(|(_, target)| *target > 0) {
                let can = if round < ROUNDS && target <= able[value] { u64::MAX } else { target.min(able[value]) };
                capacities[value] = capacities[value].min(can);
            }
        }
        // There was nothing to balance.
        self.split()
    }

    fn note_limit(&mut self, limit: Limit, at_most: Option<u64>) {
        if let Some(most) = at_most.filter(|most| *most > limit.total) {
            let Limit { value, capacity, total } = &limit;
            let message = format!(
                "--max-documents {most}: in these shares no more than {total} can be had, as '{value}' gives no more than \
                 {capacity}; allow more with --repeat-up-to, or give '{value}' a smaller share"
            );
            self.warn(message);
        }
        if at_most.is_none_or(|most| most >= limit.total) {
            self.figures.limit = Some(limit);
        }
    }

    fn shares(&mut self, mode: &Balance) -> Result<Shares> {
        let names = self.rows.values.shown();
        let found = self.kept_by(names.len(), |row| row.value);
        // By name, so that ties do not depend on the order of the input.
        let mut order: Vec<usize> = (0..names.len()).filter(|&i| found[i] > 0).collect();
        order.sort_by(|a, b| names[*a].cmp(&names[*b]));
        let values: Vec<(&str, u64)> = order.iter().map(|&i| (names[i].as_str(), found[i])).collect();
        let weights = mode.weights(&values).map_err(|without| self.without_weights(&values, &without.0))?;
        let absent: Vec<&str> = mode.named().filter(|name| values.iter().all(|value| value.0 != *name)).collect();
        if !absent.is_empty() {
            let message = format!(
                "--balance gives a weight to {}: no document has that in {}, so it counts for nothing",
                list(absent.iter().copied()),
                self.balance_name()
            );
            self.warn(message);
        }
        Ok(Shares { order, names, found, weights })
    }

    fn balance_name(&self) -> &str {
        self.selection.balance_by().map_or("", |field| &field.name)
    }

    fn without_weights(&self, values: &[(&str, u64)], without: &[usize]) -> Error {
        let names = list(without.iter().map(|&i| values[i].0));
        Error::Gate(format!(
            "--balance: no weight for {names} in {}; give each a weight, or add *:1 for all others (*:0 leaves them out)",
            self.balance_name()
        ))
    }

    /// The lines that each value can give if all of its documents are taken: exactly so many where each
    /// hash decides the split; at most so many where it depends on what else is taken.
    fn capacities(&self, found: &[u64]) -> Vec<u64> {
        let (train, splits) = (self.train(), &self.selection.splits);
        let mut capacities = found.to_vec();
        for (row, _) in self.kept() {
            let is_candidate = self.selection.exact || Some(splits.of_hash(row.key)) == train;
            capacities[row.value as usize] += u64::from(is_candidate) * self.further_copies();
        }
        capacities
    }

    /// How many further copies of a document there may be.
    fn further_copies(&self) -> u64 {
        u64::from(self.selection.repeat_up_to - 1)
    }

    fn train(&self) -> Option<usize> {
        self.selection.splits.names().iter().position(|name| name == TRAIN)
    }

    /// Takes the first documents of each value, as many as its target says.
    fn take(&mut self, picks: &Ordered, targets: &[u64]) {
        let mut left = targets.to_vec();
        for entry in picks.entries() {
            let left = &mut left[order::value(*entry) as usize];
            let fate = if *left > 0 { KEPT } else { SAMPLED_OUT };
            *left = left.saturating_sub(1);
            self.decisions[order::index(*entry)] = Decision { fate, ..Decision::default() };
        }
    }

    fn split(&mut self) -> Result<()> {
        let splits = &self.selection.splits;
        if !self.selection.exact {
            for (row, decision) in self.rows.iter().zip(self.decisions.iter_mut()) {
                decision.split = splits.of_hash(row.key) as u8;
            }
            return Ok(());
        }
        let strata = self.kept_by(self.rows.strata.len(), |row| row.stratum);
        let key = |index: usize, row: &DocRow| {
            (self.decisions[index].fate == KEPT).then(|| entry(row.key, row.stratum, index))
        };
        let ranks = ordered(self.rows, self.means, key)?;
        let decisions = &mut self.decisions;
        exact::assign(&ranks, &strata, splits, |index, split| decisions[index].split = split as u8);
        Ok(())
    }

    fn is_train(&self, decision: &Decision) -> bool {
        decision.fate == KEPT && Some(usize::from(decision.split)) == self.train()
    }

    /// The lines that the documents taken of each value can give.
    fn lines_by_value(&self) -> Vec<u64> {
        let mut lines = vec![0; self.rows.values.len()];
        for (row, decision) in self.kept() {
            lines[row.value as usize] += 1 + u64::from(self.is_train(decision)) * self.further_copies();
        }
        lines
    }

    /// Repeats documents in train until each value has its target, which its documents can give.
    fn repeat(&mut self, picks: &Ordered, targets: &[u64]) {
        let mut missing = targets.to_vec();
        let mut in_train = vec![0; targets.len()];
        for (row, decision) in self.kept() {
            missing[row.value as usize] -= 1;
            in_train[row.value as usize] += u64::from(self.is_train(decision));
        }
        // Each gets as many copies as all the others, and the first in the order one more.
        let each: Vec<u64> = missing.iter().zip(&in_train).map(|(m, t)| m.checked_div(*t).unwrap_or(0)).collect();
        let mut more: Vec<u64> = missing.iter().zip(&in_train).map(|(m, t)| m.checked_rem(*t).unwrap_or(0)).collect();
        for entry in picks.entries() {
            let (value, index) = (order::value(*entry) as usize, order::index(*entry));
            if missing[value] > 0 && self.is_train(&self.decisions[index]) {
                let one_more = u64::from(more[value] > 0);
                more[value] -= one_more;
                self.decisions[index].repeats = (each[value] + one_more) as u16;
            }
        }
    }

    /// Counts what is decided.
    fn count(&mut self) {
        let mut figures =
            Figures { splits: vec![Count::default(); self.selection.splits.names().len()], ..Figures::default() };
        for (row, decision) in self.decided() {
            match decision.fate {
                DUPLICATE => figures.duplicates += 1,
                SAMPLED_OUT => figures.sampled_out += 1,
                _ => {
                    figures.all.add(row, decision.repeats);
                    figures.splits[usize::from(decision.split)].add(row, decision.repeats);
                }
            }
        }
        let Figures { duplicates, sampled_out, all, splits, .. } = figures;
        self.figures = Figures { duplicates, sampled_out, all, splits, ..std::mem::take(&mut self.figures) };
    }

    /// Counts by value, for the values that occur, by name.
    fn count_values(&mut self, field: &Field, found: &[u64]) {
        let splits = self.selection.splits.names().len();
        let value = |(name, found): (&String, &u64)| ValueCount {
            value: name.clone(),
            found: *found,
            splits: vec![0; splits],
            ..ValueCount::default()
        };
        let mut values: Vec<ValueCount> = field.names.iter().zip(found).map(value).collect();
        for (row, decision) in self.kept() {
            let value = &mut values[(field.of)(row) as usize];
            value.count.add(row, decision.repeats);
            value.splits[usize::from(decision.split)] += 1;
        }
        if let Some((shares, targets)) = &self.shares {
            let sum: f64 = shares.weights.iter().map(|weight| *weight as f64).sum();
            for (&number, &weight) in shares.order.iter().zip(&shares.weights) {
                values[number].target = Some(targets[number]);
                values[number].share = Some(weight as f64 / sum);
            }
        }
        values.retain(|value| value.found > 0);
        values.sort_by(|a, b| a.value.cmp(&b.value));
        self.figures.values = values;
    }

    /// The documents that each split should have, where that is an exact number.
    fn due(&mut self) {
        if !self.selection.exact {
            return;
        }
        let ratios: Vec<u64> = self.selection.splits.ratios().iter().map(|ratio| ratio.units()).collect();
        let mut due = vec![0; ratios.len()];
        for documents in self.kept_by(self.rows.strata.len(), |row| row.stratum) {
            for (due, more) in due.iter_mut().zip(largest_remainder(documents, &ratios)) {
                *due += more;
            }
        }
        for (split, due) in due.iter().enumerate() {
            let documents = self.figures.splits[split].documents;
            if documents != *due {
                let name = &self.selection.splits.names()[split];
                self.figures.warnings.push(format!(
                    "the split '{name}' gets {documents} documents where {due} are due: documents that have to stay \
                     together cannot be divided"
                ));
            }
        }
        self.figures.due = Some(due);
    }
}

/// How a total is divided among values.
struct Shares {
    /// The numbers of the values that occur, by name.
    order: Vec<usize>,
    /// All values, by number.
    names: Vec<String>,
    /// Documents of each value, by number.
    found: Vec<u64>,
    /// Weights, in `order`.
    weights: Vec<u64>,
}

impl Shares {
    /// The largest total for which these capacities (by number) are enough, and the number of the value
    /// that limits it.
    fn largest_total(&self, capacities: &[u64]) -> Option<(u64, usize)> {
        let capacities: Vec<u64> = self.order.iter().map(|&number| capacities[number]).collect();
        largest_total(&self.weights, &capacities).map(|(total, at)| (total, self.order[at]))
    }

    /// Lines of each value, by number.
    fn targets(&self, total: u64) -> Vec<u64> {
        let mut targets = vec![0; self.names.len()];
        for (&number, target) in self.order.iter().zip(largest_remainder(total, &self.weights)) {
            targets[number] = target;
        }
        targets
    }
}

/// Names for a message: the first of them.
fn list<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(SHOWN);
    let shown: Vec<String> = names.take(SHOWN).map(|name| format!("'{name}'")).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &more
}

/// Which of several documents has the same text as this one.
fn find(known: &[Place], place: Place, texts: &dyn Texts) -> Result<Option<usize>> {
    for (at, other) in known.iter().enumerate() {
        if texts.same(*other, place)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Counts the texts that stand in more than one split. `split_of` gives a document's split, if it is exported.
///
/// # Errors
/// If there is no room, texts cannot be read, or the work is to end.
pub fn leakage(
    rows: &RowStore,
    texts: &mut dyn Texts,
    means: &Means<'_>,
    split_of: impl Fn(usize) -> Option<u32> + Sync,
) -> Result<Leakage> {
    let by_hash = ordered(rows, means, |index, row| Some(entry(row.hash, split_of(index)?, index)))?;
    let spans = |group: &&[Entry]| order::value(group[0]) != order::value(group[group.len() - 1]);
    let suspects = || by_hash.groups().filter(spans);
    if suspects().next().is_none() {
        return Ok(Leakage::default());
    }
    let mut marks = Marks::new(rows, means)?;
    suspects().flatten().for_each(|suspect| marks.set(order::index(*suspect)));
    texts.prepare(rows, &marks)?;
    let mut leakage = Leakage::default();
    for group in suspects() {
        (means.check)()?;
        // Different texts of one hash, each with its first document and whether it leaks.
        let (mut firsts, mut splits, mut leaks) = (Vec::new(), Vec::new(), Vec::new());
        for entry in group {
            let (place, split) = (rows.place(order::index(*entry)), order::value(*entry) as usize);
            match find(&firsts, place, texts)? {
                None => {
                    firsts.push(place);
                    splits.push(split);
                    leaks.push(false);
                }
                Some(at) if splits[at] != split && !leaks[at] => {
                    leaks[at] = true;
                    leakage.texts += 1;
                    leakage.example.get_or_insert([(firsts[at], splits[at]), (place, split)]);
                }
                Some(_) => {}
            }
        }
    }
    Ok(leakage)
}

#[cfg(test)]
mod tests {
    use super::super::rows::ChunkRows;
    use super::super::spill::Spill;
    use super::*;
    use crate::domain::chance::Chance;
    use crate::domain::origin::Origin;
    use crate::domain::selection::NamedField;
    use crate::domain::split::Splits;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, HashMap};

    /// Texts of which those of one hash are the same.
    struct ByHash;

    impl Texts for ByHash {
        fn prepare(&mut self, _: &RowStore, _: &Marks) -> Result<()> {
            Ok(())
        }

        fn same(&self, _: Place, _: Place) -> Result<bool> {
            Ok(true)
        }
    }

    /// A made-up document: its hash, its key, and its value, by which it is balanced and stratified.
    type Made = (u64, u64, u32);

    const VALUES: [&str; 4] = ["a", "b", "c", "d"];

    fn store(documents: &[Made], spill: &Spill) -> RowStore {
        let mut rows = RowStore::new(spill.clone());
        let mut chunk = ChunkRows::default();
        for &(hash, key, value) in documents {
            let name = VALUES[value as usize].as_bytes();
            let (value, stratum) = (chunk.values.number(name), chunk.strata.number(name));
            chunk.rows.push(DocRow { hash, key, value, stratum, chars: 3, words: 2, ..DocRow::default() });
        }
        rows.push(chunk).expect("room");
        rows
    }

    fn planned(selection: &Selection, documents: &[Made], threads: usize) -> Plan {
        let spill = Spill::new(&std::env::temp_dir(), if threads > 1 { 100 } else { u64::MAX });
        let means = Means { spill: &spill, threads, check: &|| Ok(()) };
        plan(selection, &store(documents, &spill), &mut ByHash, &means).expect("a plan")
    }

    fn field() -> NamedField {
        NamedField { name: "field".into(), origin: Origin::Nowhere }
    }

    fn selection() -> impl Strategy<Value = Selection> {
        let modes =
            ["equal", "temperature=1", "temperature=2", "temperature=0.4", "weights=a:3,b:0.25,*:1", "weights=a:1,*:0"];
        let balance = (proptest::sample::select(modes.to_vec()), proptest::option::of(1..300u64))
            .prop_map(|(mode, at_most)| Take::Balance { by: field(), mode: mode.parse().expect(mode), at_most });
        let take = prop_oneof![
            Just(Take::All),
            (1..1000u32).prop_map(|r| Take::Sample(format!("0.{r:03}").parse().expect("a rate"))),
            (1..300u64).prop_map(Take::AtMost),
            balance.clone(),
            balance,
        ];
        let ratios = proptest::sample::select(vec!["0.95,0.03,0.02", "0.1,0.2,0.7", "0,1,0", "0.34,0.33,0.33"]);
        (take, ratios, any::<bool>(), any::<[bool; 2]>(), 1..5u16, any::<u64>()).prop_map(
            |(take, ratios, dedup, [exact, stratified], repeat_up_to, seed)| Selection {
                filters: Vec::new(),
                dedup,
                take,
                splits: Splits::parse("train,validation,test", ratios).expect("valid"),
                exact,
                key: None,
                strata: (exact && stratified).then(field),
                repeat_up_to,
                forbid_leakage: false,
                seed,
                chance: Chance::new(seed),
            },
        )
    }

    /// Documents of few and of many hashes, in four values.
    fn documents() -> impl Strategy<Value = Vec<Made>> {
        let hash = prop_oneof![any::<u64>(), (0..20u64).prop_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))];
        proptest::collection::vec((hash, 0..4u32).prop_map(|(hash, value)| (hash, hash, value)), 0..400)
    }

    proptest! {
        #[test]
        fn every_document_has_one_fate_and_every_share_its_target(selection in selection(), documents in documents()) {
            let made = planned(&selection, &documents, 1);
            let fates: Vec<Fate> = (0..documents.len()).map(|index| made.fate(index)).collect();
            let figures = &made.figures;
            let count = |is: fn(&Fate) -> bool| fates.iter().filter(|fate| is(fate)).count() as u64;
            prop_assert_eq!(count(|fate| *fate == Fate::Duplicate), figures.duplicates);
            prop_assert_eq!(count(|fate| *fate == Fate::SampledOut), figures.sampled_out);
            prop_assert_eq!(figures.duplicates + figures.sampled_out + figures.all.documents, documents.len() as u64);
            prop_assert_eq!(figures.splits.iter().map(Count::lines).sum::<u64>(), figures.all.lines());
            prop_assert_eq!((figures.all.chars, figures.all.words), (3 * figures.all.lines(), 2 * figures.all.lines()));
            let mut split_of = HashMap::new();
            let mut lines = BTreeMap::<u32, u64>::new();
            for ((hash, _, value), fate) in documents.iter().zip(&fates) {
                if let Fate::Exported { split, repeats } = fate {
                    prop_assert_eq!(split_of.entry(hash).or_insert(split), &split, "one split for a text");
                    prop_assert!(*repeats < selection.repeat_up_to && (*repeats == 0 || *split == 0));
                    *lines.entry(*value).or_default() += u64::from(*repeats) + 1;
                }
            }
            if let Take::AtMost(most) = selection.take {
                prop_assert_eq!(figures.all.documents, most.min(documents.len() as u64 - figures.duplicates));
            }
            for value in &figures.values {
                let number = VALUES.iter().position(|name| *name == value.value).expect("a value") as u32;
                let lines = lines.get(&number).copied().unwrap_or(0);
                prop_assert_eq!(value.count.lines(), lines);
                if let (Some(target), Some(share)) = (value.target, value.share) {
                    prop_assert_eq!(target, lines);
                    prop_assert!((lines as f64 - share * figures.all.lines() as f64).abs() < 1.0 + 1e-6);
                }
            }
        }

        #[test]
        fn order_threads_and_memory_change_nothing(selection in selection(), documents in documents(), turn in 0..400usize) {
            // Each hash with one value, so that it does not matter which of its documents is the first.
            let documents: Vec<Made> = documents.iter().map(|&(h, k, _)| (h, k, (h % 4) as u32)).collect();
            let mut turned = documents.clone();
            turned.rotate_left(turn % documents.len().max(1));
            let fates = |documents: &[Made], threads: usize| {
                let made = planned(&selection, documents, threads);
                let mut fates: Vec<_> =
                    documents.iter().enumerate().map(|(i, d)| (d.0, format!("{:?}", made.fate(i)))).collect();
                fates.sort();
                fates
            };
            prop_assert_eq!(fates(&documents, 1), fates(&turned, 3));
        }
    }
}
