//! One worker of several: looks for the documents of its share, and leaves them as a part of a plan; and what is planned
//! from all such parts.
//!
//! Nothing is decided here, and no gate is asked: that is for the whole.

use super::super::collect::{Counts, Unknowns, check_values, collect};
use super::super::found::Found;
use super::super::parts::{self, Set};
use super::super::scheduler::Progress;
use super::super::stop::Stop;
use crate::config::ExportConfig;
use crate::domain::ledger::{Ledger, Rejects};
use crate::domain::manifest::GENERATOR;
use crate::domain::part::{FORMAT, Kind, Maker, PlanPart, ProvedFile};
use crate::domain::share::Share;
use crate::error::{Context, Error, Result, show};
use crate::input::{Cutter, Piece, Shard};
use crate::scan::engine::Engine;
use crate::select::rows::{Appender, DocRow, Names, RowStore};
use crate::select::spill::Spill;
use crate::write::part::{self, NAMES, PartStage, ProvedWriter, ROWS};
use bytemuck::{Pod, Zeroable};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A document that the filters admit. 48 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
struct PlanPartRow {
    /// XXH3-64 of the text.
    hash: u64,
    /// The hash that decides the split.
    key: u64,
    /// Bytes (unpacked) of the shard before the document's line.
    offset: u64,
    /// Index of the shard.
    shard: u32,
    /// Bytes of the document's line.
    len: u32,
    /// Code points of the text.
    chars: u32,
    /// Words of the text.
    words: u32,
    /// The value by which documents are balanced: an index into the part's names.
    value: u32,
    /// The value within which splits are exact: likewise.
    stratum: u32,
}

/// The values that a part's rows have numbers of, in the order of first occurrence.
#[derive(Serialize, Deserialize)]
struct PartNames {
    values: Vec<String>,
    strata: Vec<String>,
}

/// What a worker came to.
pub struct Report {
    /// Its share.
    pub share: Share,
    /// Where its part lies.
    pub folder: PathBuf,
    /// What became of the share's lines so far: those that the filters admit count as exported.
    pub ledger: Ledger,
    /// Rejected lines by reason.
    pub rejects: Rejects,
    /// Name of the scanner that was used; none if the part was there already.
    pub scanner: Option<&'static str>,
    /// Bytes of the input that GPUs scanned.
    pub gpu_bytes: u64,
}

/// Leaves the part of a share, given with its pieces.
///
/// # Errors
/// Whatever stopped the run; what was there before is then untouched.
pub fn leave(
    config: &ExportConfig,
    shards: &Arc<[Shard]>,
    (share, pieces): (Share, Vec<Piece>),
    engine: &Engine,
    progress: &Progress,
    stop: &Stop,
) -> Result<Report> {
    part::refuse_strangers(&config.output)?;
    let found = Found::of(shards)?;
    let (list, maker) = maker(config, &found, share)?;
    let is_sound = |folder: &Path, part: &PlanPart| parts::check_files(folder, [&part.rows, &part.names], stop);
    if let Some(part) = parts::there(&config.output, &maker, &found.shards, is_sound)? {
        return Ok(report(config, part));
    }
    let stage = PartStage::open(&config.output, Kind::Plan, share, &list)?;
    let spill = super::spill(config, stage.folder());
    let cutter = Cutter::of_pieces(Arc::clone(shards), pieces, config.run.chunk_size);
    let (rows, counts) = collect(config, cutter, engine, &spill, progress, stop)?;
    let names = write_names(&rows, stage.folder())?;
    let rows = write_rows(&rows, stage.folder(), stop)?;
    // All shards, not only those that were read: they decide which share this is.
    found.check(shards)?;
    stop.check()?;
    let Counts { ledger, rejects, unknowns: Unknowns { undecided, keyless } } = counts;
    let part = PlanPart { maker, rows, names, ledger, rejects, undecided, keyless };
    if !stage.publish(&part)? {
        tracing::info!("Another process has left the plan part of worker {share} meanwhile: it stays");
    }
    Ok(Report { scanner: Some(engine.name()), gpu_bytes: engine.gpu_bytes(), ..report(config, part) })
}

/// What the part of a share is made from, and the list of the input that belongs to it.
fn maker(config: &ExportConfig, found: &Found, share: Share) -> Result<(Vec<u8>, Maker)> {
    let (list, input) = found.list(&config.output)?;
    let (generator, configuration) = (GENERATOR.into(), config.deciding());
    Ok((list, Maker { format: FORMAT, generator, share, configuration, input, plan: None }))
}

fn report(config: &ExportConfig, part: PlanPart) -> Report {
    let share = part.maker.share;
    Report {
        share,
        folder: part::of_share(&config.output, Kind::Plan, share),
        ledger: part.ledger,
        rejects: part.rejects,
        scanner: None,
        gpu_bytes: 0,
    }
}

fn write_names(rows: &RowStore, folder: &Path) -> Result<ProvedFile> {
    let names = PartNames { values: rows.values.shown(), strata: rows.strata.shown() };
    let names = serde_json::to_vec(&names).map_err(io::Error::from).context(folder, "write the values")?;
    let mut to = ProvedWriter::create(folder, NAMES)?;
    to.write(&names)?;
    to.finish()
}

fn write_rows(rows: &RowStore, folder: &Path, stop: &Stop) -> Result<ProvedFile> {
    let mut to = ProvedWriter::create(folder, ROWS)?;
    for (index, row) in rows.iter().enumerate() {
        stop.check()?;
        let place = rows.place(index);
        let DocRow { hash, key, len, chars, words, value, stratum, .. } = *row;
        let (offset, shard) = (place.offset, place.shard as u32);
        let row = PlanPartRow { hash, key, offset, shard, len, chars, words, value, stratum };
        to.write(bytemuck::bytes_of(&row))?;
    }
    to.finish()
}

/// The documents of all parts, which have to be made from this input with this configuration.
///
/// # Errors
/// [`Error::Environment`] if parts are missing, damaged or of another input, or there is no room; [`Error::Usage`] if they
/// do not belong together or to this configuration.
pub fn gather(config: &ExportConfig, found: &Found, spill: &Spill, stop: &Stop) -> Result<(RowStore, Counts)> {
    if !config.output.is_dir() {
        return Err(Error::environment(&config.output, "there is no such folder", "check the path"));
    }
    let set: Set<PlanPart> = Set::read(&config.output, Some(&found.shards))?;
    if let Some(first) = set.parts.first() {
        let (_, ours) = maker(config, found, first.maker.share)?;
        if let Some(difference) = ours.difference(&first.maker) {
            let folder = show(&set.folder(first));
            return Err(Error::Usage(format!(
                "{folder} {difference}; give the options that the workers had, or run the workers again with these"
            )));
        }
    }
    let mut rows = RowStore::new(spill.clone());
    let mut counts = Counts::new(&config.selection);
    for part in &set.parts {
        let folder = set.folder(part);
        parts::check_files(&folder, [&part.rows, &part.names], stop)?;
        read_rows(&folder, part, found.shards.len(), &mut rows, stop)?;
        check_values(&config.selection, &rows)?;
        counts.merge(&Counts {
            ledger: part.ledger.clone(),
            rejects: part.rejects.clone(),
            unknowns: Unknowns { undecided: part.undecided.clone(), keyless: part.keyless },
        });
    }
    Ok((rows, counts))
}

/// Adds a part's rows. Values get numbers as one scan gives them: in the order of first occurrence.
fn read_rows(folder: &Path, part: &PlanPart, shards: usize, rows: &mut RowStore, stop: &Stop) -> Result<()> {
    let path = folder.join(&part.names.path);
    let text = std::fs::read(&path).context(&path, "read the part")?;
    let names: PartNames = serde_json::from_slice(&text).map_err(|_| part::damaged(&path))?;
    let numbers = |names: &[String], of: &mut Names| names.iter().map(|name| of.number(name.as_bytes())).collect();
    let values: Vec<u32> = numbers(&names.values, &mut rows.values);
    let strata: Vec<u32> = numbers(&names.strata, &mut rows.strata);
    // Without names there is but one number.
    let number = |numbers: &[u32], number: u32| match numbers {
        [] => Some(0).filter(|_| number == 0),
        numbers => numbers.get(number as usize).copied(),
    };
    let mut to = Appender::new(rows);
    let path = folder.join(&part.rows.path);
    part::read_records(&path, |row: PlanPartRow| {
        stop.check()?;
        let PlanPartRow { hash, key, offset, shard, len, chars, words, value, stratum } = row;
        let (Some(value), Some(stratum), true) =
            (number(&values, value), number(&strata, stratum), (shard as usize) < shards)
        else {
            return Err(part::damaged(&path));
        };
        to.add(shard as usize, offset, DocRow { hash, key, start: 0, len, chars, words, value, stratum })
    })?;
    to.finish()
}

impl Report {
    /// The report for machines.
    pub fn to_json(&self) -> serde_json::Value {
        let Ledger { lines, blank, rejected, filtered, exported, .. } = self.ledger;
        serde_json::json!({
            "part": show(&self.folder),
            "worker": self.share.index(),
            "workers": self.share.of(),
            "lines": lines,
            "blank": blank,
            "rejected": rejected,
            "filtered": filtered,
            "admitted": exported,
            "rejects": self.rejects,
            "scanner": self.scanner,
            "gpu_bytes": self.gpu_bytes,
        })
    }
}
