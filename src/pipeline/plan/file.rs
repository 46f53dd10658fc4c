//! Saving a plan, and following one that was saved.

use super::Planned;
use crate::config::ExportConfig;
use crate::domain::manifest::{GENERATOR, hex};
use crate::domain::part::input_difference;
use crate::domain::planned::{BLOCK, FORMAT, Header, PlanRow, RowBlock};
use crate::domain::selection::Fate;
use crate::error::{Error, Result, show};
use crate::input::{Encoding, Piece, Shard};
use crate::pipeline::found::Found;
use crate::pipeline::stop::Stop;
use crate::select::plan::Plan;
use crate::select::rows::{Appender, DocRow, RowStore};
use crate::select::spill::Spill;
use crate::write::plan_file::{Draft, PlanFile};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Saves a plan; the result is its size in bytes.
///
/// # Errors
/// If it cannot be written, or the run was asked to stop.
pub fn save(planned: &Planned, config: &ExportConfig, found: Found, draft: Draft, stop: &Stop) -> Result<u64> {
    let proved = |(mut block, rows): (RowBlock, Vec<u8>)| {
        stop.check()?;
        block.sha256 = hex(&Sha256::digest(&rows));
        Ok(block)
    };
    let header = Header {
        format: FORMAT,
        generator: GENERATOR.into(),
        configuration: config.deciding(),
        blocks: blocks(planned, found.shards.len()).map(proved).collect::<Result<_>>()?,
        input: found.shards,
        findings: planned.plan.findings(),
    };
    let rows = blocks(planned, header.input.len()).map(|(_, rows)| stop.check().map(|()| rows));
    draft.save(&header, rows)
}

/// The decisions in blocks, which do not have their hashes yet.
fn blocks(planned: &Planned, shards: usize) -> impl Iterator<Item = (RowBlock, Vec<u8>)> {
    (0..shards).flat_map(move |shard| {
        let mut rows = planned.rows.within(shard, 0..u64::MAX);
        std::iter::from_fn(move || {
            let mut block = RowBlock { shard, offset: 0, rows: 0, sha256: String::new() };
            let mut bytes = Vec::new();
            for (place, row) in rows.by_ref().take(BLOCK) {
                if block.rows == 0 {
                    block.offset = place.offset;
                }
                block.rows += 1;
                let row = PlanRow::new(row.hash, place, planned.plan.fate(place.index as usize));
                bytes.extend_from_slice(bytemuck::bytes_of(&row));
            }
            (block.rows > 0).then_some((block, bytes))
        })
    })
}

/// A plan that was saved and is for this export.
pub struct Saved(PlanFile);

impl Saved {
    /// Opens a plan that was saved.
    ///
    /// # Errors
    /// [`Error::Environment`] if it is not there, is damaged, or was made from another input than was found now, as
    /// whoever makes plans may be making another; [`Error::Usage`] if it is no plan of this version with this
    /// configuration.
    pub fn open(path: &Path, config: &ExportConfig, found: &Found) -> Result<Saved> {
        let plan = PlanFile::open(path)?;
        if let Some(difference) = plan.header.difference(GENERATOR, &config.deciding()) {
            return Err(Error::Usage(format!("{} {difference}; make it anew with colophon plan --save", show(path))));
        }
        if let Some(difference) = input_difference(&found.shards, &plan.header.input) {
            return Err(Error::environment(
                path,
                format!("the plan was made from another input: {difference}"),
                "make it anew with colophon plan --save, or wait until it is done",
            ));
        }
        Ok(Saved(plan))
    }

    /// SHA-256 of it, in hexadecimal.
    pub fn digest(&self) -> &str {
        self.0.digest()
    }

    /// Reads what was decided of the documents in some pieces of the input; and of others beside them, as rows are read
    /// by the block.
    ///
    /// # Errors
    /// If it cannot be read, is not what was written, or there is no room.
    pub fn load(
        &self,
        config: &ExportConfig,
        shards: &[Shard],
        pieces: &[Piece],
        spill: &Spill,
        stop: &Stop,
    ) -> Result<Planned> {
        let PlanFile { header, .. } = &self.0;
        let wanted: Vec<usize> =
            (0..header.blocks.len()).filter(|block| self.is_wanted(*block, shards, pieces)).collect();
        let documents = wanted.iter().map(|block| header.blocks[*block].rows).sum();
        let mut plan = Plan::of_findings(documents, header.findings.clone(), spill)?;
        let mut rows = RowStore::new(spill.clone());
        let mut to = Appender::new(&mut rows);
        let splits = config.selection.splits.names().len();
        let is_possible = |fate: &Fate| !matches!(fate, Fate::Exported { split, .. } if *split >= splits);
        let mut index = 0;
        for block in wanted {
            stop.check()?;
            for row in self.0.read(block)? {
                let fate = row.fate().filter(is_possible).ok_or_else(|| self.0.damaged())?;
                plan.decide(index, fate);
                index += 1;
                let known = DocRow { hash: row.hash, len: row.len, ..DocRow::default() };
                to.add(header.blocks[block].shard, row.offset, known)?;
            }
        }
        to.finish()?;
        Ok(Planned { rows, plan })
    }

    /// Whether documents of a block may begin in one of the pieces.
    fn is_wanted(&self, block: usize, shards: &[Shard], pieces: &[Piece]) -> bool {
        let blocks = &self.0.header.blocks;
        let RowBlock { shard, offset, .. } = blocks[block];
        // Before a shard's first document there may be a mark, with which its piece begins.
        let is_first = block.checked_sub(1).is_none_or(|before| blocks[before].shard != shard);
        let start = if is_first { 0 } else { offset };
        let end = blocks.get(block + 1).filter(|next| next.shard == shard).map_or(u64::MAX, |next| next.offset);
        // A packed shard is all in one piece, whose bytes are not those that the rows count.
        let begins = |piece: &Piece| {
            shards[shard].encoding != Encoding::Plain || (piece.range.start < end && start < piece.range.end)
        };
        let at = pieces.partition_point(|piece| piece.shard < shard);
        pieces[at..].iter().take_while(|piece| piece.shard == shard).any(begins)
    }
}
