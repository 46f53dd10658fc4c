//! Selection by plan: scan, decide, and (in [`export`](super::export)) write; and `plan`, which shows what would happen,
//! and saves it for exports to follow.

pub mod file;
pub mod worker;

use super::collect::{Counts, collect};
use super::engine::engine;
use super::found::Found;
use super::memory;
use super::scheduler::Progress;
use super::stop::Stop;
use super::texts::CorpusTexts;
use crate::config::ExportConfig;
use crate::domain::ledger::{Ledger, Rejects};
use crate::error::{Error, Result, show};
use crate::input::{Cutter, Shard};
use crate::scan::engine::Engine;
use crate::select::order::Means;
use crate::select::plan::{self, Figures, Leakage, Plan};
use crate::select::rows::{Place, RowStore};
use crate::select::spill::Spill;
use crate::write::plan_file::Draft;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Decisions for documents, by where these stand.
pub struct Planned {
    /// A row for each document that the filters admit.
    pub rows: RowStore,
    /// What was decided of them.
    pub plan: Plan,
}

impl Planned {
    /// Scans the whole input and decides.
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
    ) -> Result<(Planned, Counts)> {
        let cutter = Cutter::new(Arc::clone(shards), config.run.chunk_size);
        let (rows, counts) = collect(config, cutter, engine, spill, progress, stop)?;
        Ok((Planned::of_rows(config, shards, rows, spill, stop)?, counts))
    }

    /// Decides from the rows of the whole input.
    ///
    /// # Errors
    /// If the shards cannot be read, there is no room, or the plan cannot be made.
    fn of_rows(config: &ExportConfig, shards: &[Shard], rows: RowStore, spill: &Spill, stop: &Stop) -> Result<Planned> {
        if rows.is_spilled() {
            tracing::info!("The plan is larger than the memory limit: it goes on in temporary files");
        }
        let check = || stop.check();
        let means = Means { spill, threads: config.run.threads, check: &check };
        let mut texts = CorpusTexts::new(config, shards, &spill.folder(), &check)?;
        let plan = plan::plan(&config.selection, &rows, &mut texts, &means)?;
        Ok(Planned { rows, plan })
    }

    /// The ledger of an export by this plan, of which the scan counted this.
    fn ledger(&self, scanned: Ledger) -> Ledger {
        let Figures { duplicates, sampled_out, all, .. } = self.plan.figures;
        let (exported, repeats) = (all.documents, all.repeats);
        Ledger { duplicates, sampled_out, exported, repeats, ..scanned }
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
    /// Where the plan is, if it was saved.
    pub saved: Option<SavedAs>,
}

/// A plan that was saved.
pub struct SavedAs {
    /// Its file.
    pub path: PathBuf,
    /// Bytes of it.
    pub bytes: u64,
}

/// Where a plan's documents come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From the input, which is scanned.
    Scan,
    /// From the parts that workers left of it.
    Parts,
}

/// Plans, and saves the plan if there is a file for it; else nothing is written.
///
/// # Errors
/// If the shards or parts cannot be read, there is no room, or no plan can be made or saved.
pub fn plan(
    config: &ExportConfig,
    shards: &Arc<[Shard]>,
    source: Source,
    save: Option<&Path>,
    progress: &Progress,
    stop: &Stop,
) -> Result<Report> {
    // Whether it can be written is better known before the work.
    let draft = save.map(Draft::open).transpose()?;
    // Where a plan can be written there is room; in a container there may be none elsewhere.
    let spill = spill(config, &draft.as_ref().map_or_else(std::env::temp_dir, |draft| draft.folder().into()));
    let found = Found::of(shards)?;
    let (planned, counts) = match source {
        Source::Scan => {
            let engine = engine(&config.run, shards.iter().map(|shard| shard.bytes).sum())?;
            Planned::new(config, shards, &engine, &spill, progress, stop)?
        }
        Source::Parts => {
            let (rows, counts) = worker::gather(config, &found, &spill, stop)?;
            (Planned::of_rows(config, shards, rows, &spill, stop)?, counts)
        }
    };
    found.check(shards)?;
    let saved = draft.map(|draft| file::save(&planned, config, found, draft, stop)).transpose()?;
    let saved = save.zip(saved).map(|(path, bytes)| SavedAs { path: path.into(), bytes });
    Ok(Report { saved, ..report(config, shards, planned, counts) })
}

fn report(config: &ExportConfig, shards: &[Shard], planned: Planned, counts: Counts) -> Report {
    let Counts { ledger, rejects, unknowns } = counts;
    let (selection, ledger, figures) = (&config.selection, planned.ledger(ledger), planned.plan.figures);
    let splits = &selection.splits;
    let failures = gates(config, shards, &ledger, &rejects, &figures.leakage);
    let lines = splits.names().iter().cloned().zip(figures.splits.iter().map(|count| count.lines()));
    let lines: Vec<(String, u64)> = lines.collect();
    Report {
        names: splits.names().to_vec(),
        ratios: splits.ratios().iter().map(|ratio| ratio.to_f64()).collect(),
        field: selection.balance_by().or(selection.strata.as_ref()).map(|field| field.name.clone()),
        warnings: [unknowns.warnings(selection), figures.warnings.clone(), empty_splits(&lines)].concat(),
        failures,
        ledger,
        rejects,
        figures,
        saved: None,
    }
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
