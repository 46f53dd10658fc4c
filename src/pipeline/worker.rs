//! One worker of several: exports its share of the input, and leaves that as a part for [`merge`](super::merge).
//!
//! A part is an ordinary export of a share (plain, whatever the export will be), with what was counted beside
//! it. No gate is asked: that is for the whole to decide.

use super::conclude::refuse_obstacles;
use super::export::{self, Job, Written};
use super::found::Found;
use super::parts;
use super::plan;
use super::plan::file::Saved;
use super::scheduler::Progress;
use super::stop::Stop;
use crate::config::ExportConfig;
use crate::domain::ledger::{Ledger, Rejects};
use crate::domain::manifest::GENERATOR;
use crate::domain::part::{Counted, FORMAT, Kind, Maker, Part, PartFile, ProvedFile};
use crate::domain::planned::Findings;
use crate::domain::share::Share;
use crate::error::{Result, show};
use crate::input::{Cutter, Piece, Shard};
use crate::scan::engine::Engine;
use crate::select::rows::RowStore;
use crate::write::output::{Outputs, Proof};
use crate::write::part::{self, BlockFile, PartStage, ProvedWriter, ROWS};
use bytemuck::{Pod, Zeroable};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An exported document, for counting the texts in two splits when all parts are there. 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(super) struct PartRow {
    /// XXH3-64 of the text.
    pub hash: u64,
    /// Bytes (unpacked) of the shard before the document's line.
    pub offset: u64,
    /// Bytes of the part's file of the split before the exported line.
    pub at: u64,
    /// Index of the shard.
    pub shard: u32,
    /// Bytes of the document's line.
    pub len: u32,
    /// Index of the split.
    pub split: u32,
    /// Bytes of the exported line, with its line feed.
    pub written: u32,
}

/// What a worker came to.
pub struct Report {
    /// Its share.
    pub share: Share,
    /// Where its part lies.
    pub folder: PathBuf,
    /// Names of the splits with their documents.
    pub splits: Vec<(String, u64)>,
    /// What became of the share's lines.
    pub ledger: Ledger,
    /// Rejected lines by reason.
    pub rejects: Rejects,
    /// Name of the scanner that was used; none if the part was there already.
    pub scanner: Option<&'static str>,
    /// Bytes of the input that GPUs scanned.
    pub gpu_bytes: u64,
}

/// Fails if something in the output folder is in the way of the part, or of the export that is to be made of it: the
/// merge would stumble over that when all workers are done. To be called before anything is written.
///
/// # Errors
/// [`Error::Usage`](crate::error::Error::Usage), naming it.
pub fn refuse(config: &ExportConfig) -> Result<()> {
    part::refuse_strangers(&config.output)?;
    refuse_obstacles(&config.output, config)
}

/// Leaves the part of a share, given with its pieces.
///
/// # Errors
/// Whatever stopped the run; what was there before is then untouched.
pub fn export(
    config: &ExportConfig,
    shards: &Arc<[Shard]>,
    (share, pieces): (Share, Vec<Piece>),
    engine: &Engine,
    progress: &Progress,
    stop: &Stop,
) -> Result<Report> {
    let found = Found::of(shards)?;
    let (list, input) = found.list(&config.output)?;
    let plan = config.plan.as_ref().map(|path| Saved::open(path, config, &found)).transpose()?;
    let maker = Maker {
        format: FORMAT,
        generator: GENERATOR.into(),
        share,
        configuration: config.to_json(),
        input,
        plan: plan.as_ref().map(|plan| plan.digest().into()),
    };
    let is_sound = |folder: &Path, part: &Part| check(folder, part, stop);
    if let Some(part) = parts::there(&config.output, &maker, &found.shards, is_sound)? {
        return Ok(report(config, &part));
    }
    let stage = PartStage::open(&config.output, Kind::Export, share, &list)?;
    let spill = plan::spill(config, stage.folder());
    let planned = plan.map(|plan| plan.load(config, shards, &pieces, &spill, stop)).transpose()?;
    let splits = config.selection.splits.names().len();
    let outputs = Outputs::create(stage.folder(), splits, None, None, Proof::Blocks)?;
    let job = Job { config, shards, engine, spill: &spill, progress, stop };
    let cutter = Cutter::of_pieces(Arc::clone(shards), pieces, config.run.chunk_size);
    let written = export::write(&job, cutter, outputs, stage.folder(), planned.as_ref())?;
    let rows = written.rows.as_ref().map(|rows| write_rows(rows, stage.folder())).transpose()?;
    // All shards, not only those that were read: they decide which share this is.
    found.check(shards)?;
    stop.check()?;
    let part = part(maker, written, rows, planned.map(|planned| planned.plan.findings()));
    let report = report(config, &part);
    if !stage.publish(&part)? {
        tracing::info!("Another process has left the part of worker {share} meanwhile: it stays");
    }
    Ok(Report { scanner: Some(engine.name()), gpu_bytes: engine.gpu_bytes(), ..report })
}

fn part(maker: Maker, written: Written, rows: Option<ProvedFile>, planned: Option<Findings>) -> Part {
    let Written { tally, files, quarantine, inputs, .. } = written;
    let counted = inputs.into_iter().enumerate().filter(|(_, input)| input.lines > 0);
    let split = |file: crate::write::output::FileRecord| PartFile {
        path: file.name,
        bytes: file.bytes,
        documents: file.documents,
        blocks: file.blocks,
    };
    let proved = |file: crate::write::quarantine::QuarantineFile| ProvedFile {
        path: file.path,
        bytes: file.bytes,
        sha256: file.sha256,
    };
    Part {
        maker,
        counted: counted
            .map(|(shard, input)| Counted { shard, lines: input.lines, rejected: input.rejected })
            .collect(),
        splits: files.into_iter().map(split).collect(),
        quarantine: quarantine.into_iter().map(proved).collect(),
        rows,
        planned,
        ledger: tally.ledger,
        rejects: tally.rejects,
        stats: tally.stats,
        undecided: tally.unknowns.undecided,
        keyless: tally.unknowns.keyless,
    }
}

/// Fails if a file of the part is not what the worker wrote.
fn check(folder: &Path, part: &Part, stop: &Stop) -> Result<()> {
    parts::check_files(folder, part.quarantine.iter().chain(&part.rows), stop)?;
    let mut buffer = Vec::new();
    for split in &part.splits {
        let file = BlockFile::open(folder.join(&split.path), split.bytes)?;
        let mut at = 0;
        for block in &split.blocks {
            stop.check()?;
            file.read(at, block, &mut buffer)?;
            at += block.bytes;
        }
    }
    Ok(())
}

fn report(config: &ExportConfig, part: &Part) -> Report {
    let names = config.selection.splits.names().iter().cloned();
    Report {
        share: part.maker.share,
        folder: part::of_share(&config.output, Kind::Export, part.maker.share),
        splits: names.zip(part.splits.iter().map(|split| split.documents)).collect(),
        ledger: part.ledger.clone(),
        rejects: part.rejects.clone(),
        scanner: None,
        gpu_bytes: 0,
    }
}

/// Writes the rows of the exported documents, of which [`RowStore`] has the split as stratum and the bytes of the
/// exported line as value.
fn write_rows(rows: &RowStore, folder: &Path) -> Result<ProvedFile> {
    let mut to = ProvedWriter::create(folder, ROWS)?;
    let mut ends = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let place = rows.place(index);
        let split = row.stratum as usize;
        ends.resize(ends.len().max(split + 1), 0);
        let row = PartRow {
            hash: row.hash,
            offset: place.offset,
            at: ends[split],
            shard: place.shard as u32,
            len: row.len,
            split: row.stratum,
            written: row.value,
        };
        ends[split] += u64::from(row.written);
        to.write(bytemuck::bytes_of(&row))?;
    }
    to.finish()
}

impl Report {
    /// The report for machines.
    pub fn to_json(&self) -> serde_json::Value {
        let splits: serde_json::Map<_, _> = self.splits.iter().map(|(name, n)| (name.clone(), (*n).into())).collect();
        serde_json::json!({
            "part": show(&self.folder),
            "worker": self.share.index(),
            "workers": self.share.of(),
            "splits": splits,
            "ledger": self.ledger,
            "rejects": self.rejects,
            "scanner": self.scanner,
            "gpu_bytes": self.gpu_bytes,
        })
    }
}
