//! One worker of several: exports its share of the input, and leaves that as a part for [`merge`](super::merge).
//!
//! A part is an ordinary export of a share (plain, whatever the export will be), with what was counted beside
//! it. No gate is asked: that is for the whole to decide.

use super::conclude::refuse_obstacles;
use super::export::{self, Job, Written};
use super::plan;
use super::scheduler::Progress;
use super::stop::Stop;
use crate::config::ExportConfig;
use crate::domain::ledger::{Ledger, Rejects};
use crate::domain::manifest::{GENERATOR, hex};
use crate::domain::part::{Counted, FORMAT, FoundShard, Maker, Part, PartFile, ProvedFile, input_difference};
use crate::domain::share::Share;
use crate::error::{Context, Error, Result, show};
use crate::input::{Cutter, Piece, Shard, Stamp};
use crate::scan::engine::Engine;
use crate::select::rows::RowStore;
use crate::write::output::{Outputs, Proof};
use crate::write::part::{self, BlockFile, INPUTS, PartStage, ROWS};
use bytemuck::{Pod, Zeroable};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Write};
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
/// [`Error::Usage`], naming it.
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
    let stamps = shards.iter().map(Stamp::of_shard).collect::<Result<Vec<_>>>()?;
    let found: Vec<FoundShard> = shards.iter().zip(&stamps).map(|(shard, stamp)| found(shard, stamp)).collect();
    let list = serde_json::to_vec(&found).map_err(io::Error::from).context(&config.output, "list the input")?;
    let maker = Maker {
        format: FORMAT,
        generator: GENERATOR.into(),
        share,
        configuration: config.to_json(),
        input: hex(&Sha256::digest(&list)),
    };
    if let Some(part) = there(config, &maker, &found, stop)? {
        tracing::info!("The part of worker {share} is there already, and as it should be");
        return Ok(report(config, &part));
    }
    let stage = PartStage::open(&config.output, share)?;
    let path = stage.folder().join(INPUTS);
    std::fs::write(&path, &list).context(&path, "write")?;
    let spill = plan::spill(config, stage.folder());
    let splits = config.selection.splits.names().len();
    let outputs = Outputs::create(stage.folder(), splits, None, None, Proof::Blocks)?;
    let job = Job { config, shards, engine, spill: &spill, progress, stop };
    let cutter = Cutter::of_pieces(Arc::clone(shards), pieces, config.run.chunk_size);
    let written = export::write(&job, cutter, outputs, stage.folder(), None)?;
    let rows = written.rows.as_ref().map(|rows| write_rows(rows, stage.folder())).transpose()?;
    // All shards, not only those that were read: they decide which share this is.
    shards.iter().zip(&stamps).try_for_each(|(shard, stamp)| stamp.check(&shard.path))?;
    stop.check()?;
    let part = part(maker, written, rows);
    let report = report(config, &part);
    if !stage.publish(&part)? {
        tracing::info!("Another process has left the part of worker {share} meanwhile: it stays");
    }
    Ok(Report { scanner: Some(engine.name()), gpu_bytes: engine.gpu_bytes(), ..report })
}

/// A shard as it was when its stamp was made.
pub(super) fn found(shard: &Shard, stamp: &Stamp) -> FoundShard {
    FoundShard { path: show(&shard.name), bytes: stamp.bytes(), changed: stamp.changed() }
}

fn part(maker: Maker, written: Written, rows: Option<ProvedFile>) -> Part {
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
        ledger: tally.ledger,
        rejects: tally.rejects,
        stats: tally.stats,
        undecided: tally.unknowns.undecided,
        keyless: tally.unknowns.keyless,
    }
}

/// The part, if it is there and is what would be made now. What is there instead goes.
fn there(config: &ExportConfig, maker: &Maker, found: &[FoundShard], stop: &Stop) -> Result<Option<Part>> {
    let path = part::of_share(&config.output, maker.share);
    let cause = match part::read(&config.output, maker.share) {
        Ok(None) => return Ok(None),
        Ok(Some(part)) => match maker.difference(&part.maker) {
            None => match part::inputs(&config.output, &part).and_then(|_| check(&path, &part, stop)) {
                Ok(()) => return Ok(Some(part)),
                Err(error @ Error::Stopped(_)) => return Err(error),
                Err(error) => error.to_string(),
            },
            Some(difference) => {
                let inputs = part::inputs(&config.output, &part).ok();
                let shard = inputs.and_then(|theirs| input_difference(found, &theirs));
                let shard = shard.filter(|_| maker.configuration == part.maker.configuration);
                format!("{} {difference}{}", show(&path), shard.map(|s| format!(": {s}")).unwrap_or_default())
            }
        },
        Err(error) => error.to_string(),
    };
    tracing::warn!("{cause}; it is made anew");
    part::displace(&config.output, maker.share)?;
    Ok(None)
}

/// Fails if a file of the part is not what the worker wrote.
fn check(folder: &Path, part: &Part, stop: &Stop) -> Result<()> {
    part.quarantine.iter().chain(&part.rows).try_for_each(|file| part::check_file(folder, file, || stop.check()))?;
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
        folder: part::of_share(&config.output, part.maker.share),
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
    let path = folder.join(ROWS);
    let mut to = BufWriter::new(File::create_new(&path).context(&path, "make the file")?);
    let (mut hash, mut bytes, mut ends) = (Sha256::new(), 0, Vec::new());
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
        let record = bytemuck::bytes_of(&row);
        to.write_all(record).context(&path, "write")?;
        hash.update(record);
        bytes += record.len() as u64;
    }
    to.flush().context(&path, "write")?;
    Ok(ProvedFile { path: ROWS.into(), bytes, sha256: hex(&hash.finalize()) })
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
