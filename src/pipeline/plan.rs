//! Selection by plan: scan, decide, and (in [`export`](super::export)) write; and `plan`, which shows what would happen.

use super::collect::{Collected, collect};
use super::engine::engine;
use super::memory;
use super::scheduler::Progress;
use super::stop::Stop;
use super::texts::CorpusTexts;
use crate::config::ExportConfig;
use crate::domain::ledger::{Ledger, Rejects};
use crate::error::{Error, Result, show};
use crate::input::{Shard, Stamp};
use crate::scan::engine::Engine;
use crate::select::order::Means;
use crate::select::plan::{self, Figures, Leakage, Plan};
use crate::select::rows::{Place, RowStore};
use crate::select::spill::Spill;
use std::path::Path;
use std::sync::Arc;

/// A corpus, scanned, with decisions for all of its documents.
pub struct Planned {
    /// What the scan found.
    pub collected: Collected,
    /// What was decided.
    pub plan: Plan,
    stamps: Vec<Stamp>,
}

impl Planned {
    /// Scans and decides.
    ///
    /// # Errors
    /// If the shards cannot be read, there is no room, or the plan cannot be made.
    pub fn new(
        config: &ExportConfig,
        shards: &Arc<[Shard]>,
        engine: &Engine,
        spill: &Spill,
        progress: &Progress,
        stop: &Stop,
    ) -> Result<Planned> {
        let stamps = shards.iter().map(Stamp::of_shard).collect::<Result<_>>()?;
        let collected = collect(config, shards, engine, spill, progress, stop)?;
        if collected.rows.is_spilled() {
            tracing::info!("The plan is larger than the memory limit: it goes on in temporary files");
        }
        let check = || stop.check();
        let means = Means { spill, threads: config.run.threads, check: &check };
        let mut texts = CorpusTexts::new(config, shards, &spill.folder(), &check)?;
        let plan = plan::plan(&config.selection, &collected.rows, &mut texts, &means)?;
        Ok(Planned { collected, plan, stamps })
    }

    /// Fails if a shard is not any more what it was when it was scanned.
    ///
    /// # Errors
    /// [`Error::Environment`], naming the shard.
    pub fn check(&self, shards: &[Shard]) -> Result<()> {
        shards.iter().zip(&self.stamps).try_for_each(|(shard, stamp)| stamp.check(&shard.path))
    }

    /// The ledger of an export by this plan.
    pub fn ledger(&self) -> Ledger {
        let Figures { duplicates, sampled_out, all, .. } = self.plan.figures;
        let (exported, repeats) = (all.documents, all.repeats);
        Ledger { duplicates, sampled_out, exported, repeats, ..self.collected.ledger.clone() }
    }

    /// What a user should know.
    pub fn warnings(&self, config: &ExportConfig) -> Vec<String> {
        [self.collected.unknowns.warnings(&config.selection), self.plan.figures.warnings.clone()].concat()
    }
}

/// The error for a shard that is another one in the write than it was in the scan.
pub(super) fn changed(shard: &Shard) -> Error {
    let cause = "the shard changed between the scan and the write";
    Error::environment(&shard.path, cause, "run again when nothing writes to it")
}

/// Where the plan's arrays go.
pub fn spill(config: &ExportConfig, folder: &Path) -> Spill {
    Spill::new(folder, config.memory_limit.unwrap_or_else(memory::default_limit))
}

/// Counts the texts in two splits, for documents that were split one by one. A row's stratum is its split.
///
/// # Errors
/// If the shards cannot be read, or there is no room.
pub fn leakage(
    config: &ExportConfig,
    shards: &[Shard],
    rows: &RowStore,
    spill: &Spill,
    stop: &Stop,
) -> Result<Leakage> {
    let check = || stop.check();
    let means = Means { spill, threads: config.run.threads, check: &check };
    let mut texts = CorpusTexts::new(config, shards, &spill.folder(), &check)?;
    plan::leakage(rows, &mut texts, &means, |index| Some(rows.get(index).stratum))
}

/// What would happen.
pub struct Report {
    /// Names of the splits.
    pub names: Vec<String>,
    /// Their ratios.
    pub ratios: Vec<f64>,
    /// The field whose values are counted, if any.
    pub field: Option<String>,
    /// What would become of every line.
    pub ledger: Ledger,
    /// Lines that would be rejected, by reason.
    pub rejects: Rejects,
    /// The plan's numbers.
    pub figures: Figures,
    /// What a user should know.
    pub warnings: Vec<String>,
    /// Why the export would fail, if it would.
    pub failures: Vec<String>,
}

/// Scans and decides, and writes nothing.
///
/// # Errors
/// If the shards cannot be read, there is no room, or no plan can be made.
pub fn plan(config: &ExportConfig, shards: &Arc<[Shard]>, progress: &Progress, stop: &Stop) -> Result<Report> {
    let engine = engine(&config.run, shards.iter().map(|shard| shard.bytes).sum())?;
    let spill = spill(config, &std::env::temp_dir());
    let planned = Planned::new(config, shards, &engine, &spill, progress, stop)?;
    planned.check(shards)?;
    let (selection, ledger) = (&config.selection, planned.ledger());
    let splits = &selection.splits;
    let rejects = planned.collected.rejects.clone();
    let failures = gates(config, shards, &ledger, &rejects, &planned.plan.figures.leakage);
    let lines = splits.names().iter().cloned().zip(planned.plan.figures.splits.iter().map(|count| count.lines()));
    let lines: Vec<(String, u64)> = lines.collect();
    Ok(Report {
        names: splits.names().to_vec(),
        ratios: splits.ratios().iter().map(|ratio| ratio.to_f64()).collect(),
        field: selection.balance_by().or(selection.strata.as_ref()).map(|field| field.name.clone()),
        warnings: [planned.warnings(config), empty_splits(&lines)].concat(),
        failures,
        ledger,
        rejects,
        figures: planned.plan.figures,
    })
}

/// What to know of splits, given with their lines, that got nothing.
pub fn empty_splits(splits: &[(String, u64)]) -> Vec<String> {
    if splits.iter().all(|(_, lines)| *lines == 0) {
        return vec!["no document was exported: the dataset is empty".into()];
    }
    let empty = splits.iter().filter(|(_, lines)| *lines == 0);
    empty.map(|(name, _)| format!("the split '{name}' got no document")).collect()
}

/// The gates that the data fail, each in a sentence.
pub fn gates(
    config: &ExportConfig,
    shards: &[Shard],
    ledger: &Ledger,
    rejects: &Rejects,
    leakage: &Leakage,
) -> Vec<String> {
    let mut failures = Vec::new();
    if config.max_reject_ratio.is_exceeded_by(ledger.rejected, ledger.non_blank()) {
        let reasons: Vec<_> = rejects.iter().map(|(reason, times)| format!("{reason} {times}")).collect();
        failures.push(format!(
            "{} of {} lines rejected, more than --max-reject-ratio {} allows ({})",
            ledger.rejected,
            ledger.non_blank(),
            config.max_reject_ratio,
            reasons.join(", ")
        ));
    }
    if config.selection.forbid_leakage && leakage.texts > 0 {
        failures.push(format!(
            "{} texts stand in more than one split{}, which --forbid-leakage does not allow (--dedup exact leaves one of each)",
            leakage.texts,
            example(config, shards, leakage)
        ));
    }
    failures
}

/// Where one of the texts stands.
fn example(config: &ExportConfig, shards: &[Shard], leakage: &Leakage) -> String {
    let Some(example) = leakage.example else { return String::new() };
    let names = config.selection.splits.names();
    let shown = |(place, split): (Place, usize)| {
        format!("{} at byte {} ({})", show(&shards[place.shard].name), place.offset, names[split])
    };
    format!(", such as that of {} and {}", shown(example[0]), shown(example[1]))
}
