//! Texts in more than one split, counted over all parts.

use super::Set;
use crate::domain::part::Part;
use crate::domain::row::{Rows, Verdict};
use crate::domain::schema::{Field, FieldType, Schema};
use crate::error::{Context, Error, Result};
use crate::pipeline::stop::Stop;
use crate::pipeline::worker::PartRow;
use crate::scan::reference::{Decoder, member};
use crate::scan::{self, ScanJob, Scanner};
use crate::select::order::Means;
use crate::select::plan::{self, Leakage, Marks, Texts};
use crate::select::rows::{Appender, DocRow, Place, RowStore};
use crate::select::spill::Spill;
use crate::write::part;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Files that are kept open.
const OPEN: usize = 256;

/// Counts the texts that stand in two splits, as an export on one machine does: equal hashes are no proof, so the
/// texts are looked at, in the lines that the workers wrote.
///
/// # Errors
/// If a part is not what its worker wrote, or there is no room.
pub fn leakage(set: &Set, spill: &Spill, threads: usize, stop: &Stop) -> Result<Leakage> {
    let mut rows = RowStore::new(spill.clone());
    let mut texts = PartTexts::new()?;
    for part in &set.parts {
        stop.check()?;
        let Some(file) = &part.rows else { continue };
        let folder = set.folder(part);
        part::check_file(&folder, file, || stop.check())?;
        let first = rows.len() as u64;
        read_rows(&folder.join(&file.path), &mut rows, stop)?;
        texts.parts.push(Lines { first, folder, rows: file.path.clone(), splits: split_paths(part) });
    }
    let check = || stop.check();
    let means = Means { spill, threads, check: &check };
    plan::leakage(&rows, &mut texts, &means, |index| Some(rows.get(index).stratum))
}

fn split_paths(part: &Part) -> Vec<String> {
    part.splits.iter().map(|split| split.path.clone()).collect()
}

/// Adds a part's rows.
fn read_rows(path: &Path, to: &mut RowStore, stop: &Stop) -> Result<()> {
    let mut to = Appender::new(to);
    part::read_records(path, |row: PartRow| {
        stop.check()?;
        let known = DocRow { hash: row.hash, len: row.len, stratum: row.split, ..DocRow::default() };
        to.add(row.shard as usize, row.offset, known)
    })?;
    to.finish()
}

/// Where a part's lines are.
struct Lines {
    /// Index of its first row among all.
    first: u64,
    folder: PathBuf,
    rows: String,
    /// Its files of the splits.
    splits: Vec<String>,
}

struct PartTexts {
    parts: Vec<Lines>,
    open: RefCell<HashMap<PathBuf, File>>,
    scanner: Box<dyn Scanner>,
    /// Of an exported line: its text.
    schema: Schema,
}

impl PartTexts {
    fn new() -> Result<PartTexts> {
        let text = Field { from: "text".into(), to: "text".into(), kind: FieldType::String, required: true };
        let schema = Schema::new(vec![text], Vec::new()).map_err(Error::Usage)?;
        let scanner = scan::by_name(None).map_err(Error::Usage)?;
        Ok(PartTexts { parts: Vec::new(), open: RefCell::default(), scanner, schema })
    }

    fn read_at(&self, path: &Path, at: u64, to: &mut [u8]) -> Result<()> {
        let mut open = self.open.borrow_mut();
        if !open.contains_key(path) {
            if open.len() == OPEN {
                open.clear();
            }
            open.insert(path.into(), File::open(path).context(path, "read the part")?);
        }
        let Some(file) = open.get(path) else { return Err(part::damaged(path)) };
        file.read_exact_at(to, at).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => part::damaged(path),
            _ => Error::io(path, "read the part", &error),
        })
    }

    /// The text in an exported line, as it stands there.
    fn text_in<'l>(&self, line: &'l [u8]) -> Result<Option<&'l [u8]>> {
        let mut rows = Rows::default();
        self.scanner.scan(line, &ScanJob { schema: &self.schema, seed: 0, hash: false }, &mut rows)?;
        Ok(match rows.iter().next() {
            Some((row, spans)) if row.verdict() == Verdict::Document => Some(spans[self.schema.text_source()].of(line)),
            // Constants can make a line longer than one that a scanner takes.
            _ => member(line, "text"),
        })
    }

    /// The document's text as it stands in its exported line.
    fn text(&self, place: Place) -> Result<Vec<u8>> {
        let part = &self.parts[self.parts.partition_point(|part| part.first <= place.index) - 1];
        let path = part.folder.join(&part.rows);
        let mut record = [0; size_of::<PartRow>()];
        self.read_at(&path, (place.index - part.first) * record.len() as u64, &mut record)?;
        let row: PartRow = bytemuck::pod_read_unaligned(&record);
        let path = part.folder.join(part.splits.get(row.split as usize).ok_or_else(|| part::damaged(&path))?);
        let mut line = vec![0; row.written as usize];
        self.read_at(&path, row.at, &mut line)?;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        self.text_in(line)?.map(<[u8]>::to_vec).ok_or_else(|| part::damaged(&path))
    }
}

impl Texts for PartTexts {
    fn prepare(&mut self, _: &RowStore, _: &Marks) -> Result<()> {
        Ok(())
    }

    fn same(&self, a: Place, b: Place) -> Result<bool> {
        let (one, other) = (self.text(a)?, self.text(b)?);
        Ok(one == other || Decoder::new(&one).eq(Decoder::new(&other)))
    }
}
