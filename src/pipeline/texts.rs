//! The texts of documents that were scanned before, for comparing them byte by byte.
//!
//! A plain shard is mapped, and its texts are read where they stand. In a packed one nothing can be found
//! without unpacking all that is before it; so it is unpacked once more, and the texts that are wanted
//! go to a temporary file.

use crate::config::ExportConfig;
use crate::domain::row::{Rows, Verdict};
use crate::error::{Context, Error, Result};
use crate::input::{Cutter, Encoding, Mapping, Shard};
use crate::scan::reference::Decoder;
use crate::scan::{self, ScanJob, Scanner};
use crate::select::plan::{Marks, Texts};
use crate::select::rows::{Place, RowStore};
use memmap2::Mmap;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Shards that are kept mapped.
const MAPPED: usize = 256;

/// The texts of a corpus.
pub struct CorpusTexts<'a> {
    config: &'a ExportConfig,
    shards: &'a [Shard],
    scanner: Box<dyn Scanner>,
    /// Where temporary files go.
    folder: PathBuf,
    check: &'a (dyn Fn() -> Result<()> + Sync),
    mapped: RefCell<VecDeque<(usize, Arc<Mapping>)>>,
    unpacked: Option<Unpacked>,
}

/// Texts out of packed shards, as they stand there.
struct Unpacked {
    map: Mmap,
    /// Documents by index, each with the place of its text.
    places: Vec<(u64, Range<usize>)>,
}

/// A line or a text, wherever it lies.
enum Bytes<'a> {
    Mapped(Arc<Mapping>, Range<usize>),
    Unpacked(&'a [u8]),
}

impl Bytes<'_> {
    fn get(&self) -> &[u8] {
        match self {
            Bytes::Mapped(mapping, range) => mapping.bytes().get(range.clone()).unwrap_or_default(),
            Bytes::Unpacked(bytes) => bytes,
        }
    }
}

impl<'a> CorpusTexts<'a> {
    /// The texts of these shards; temporary files go to `folder`.
    ///
    /// # Errors
    /// If there is no scanner.
    pub fn new(
        config: &'a ExportConfig,
        shards: &'a [Shard],
        folder: &Path,
        check: &'a (dyn Fn() -> Result<()> + Sync),
    ) -> Result<CorpusTexts<'a>> {
        // Single lines: the processor is the one to look at them, whatever else there is.
        let scanner = scan::by_name(config.run.scanner.as_deref()).map_err(Error::Usage)?;
        let (mapped, unpacked) = (RefCell::default(), None);
        Ok(CorpusTexts { config, shards, scanner, folder: folder.into(), check, mapped, unpacked })
    }

    fn mapping(&self, shard: usize) -> Result<Arc<Mapping>> {
        let mut mapped = self.mapped.borrow_mut();
        if let Some((_, mapping)) = mapped.iter().find(|(known, _)| *known == shard) {
            return Ok(Arc::clone(mapping));
        }
        let mapping = Arc::new(Mapping::open(&self.shards[shard])?);
        if mapped.len() == MAPPED {
            mapped.pop_front();
        }
        mapped.push_back((shard, Arc::clone(&mapping)));
        Ok(mapping)
    }

    /// The document's line, or its text alone.
    fn bytes(&self, place: Place) -> Result<Bytes<'_>> {
        if self.shards[place.shard].encoding == Encoding::Plain {
            let start = usize::try_from(place.offset).unwrap_or(usize::MAX);
            return Ok(Bytes::Mapped(self.mapping(place.shard)?, start..start.saturating_add(place.len)));
        }
        let unpacked = self.unpacked.as_ref().ok_or_else(|| self.changed(place.shard))?;
        let at = unpacked.places.binary_search_by_key(&place.index, |(index, _)| *index);
        let range = at.map(|at| unpacked.places[at].1.clone()).map_err(|_| self.changed(place.shard))?;
        Ok(Bytes::Unpacked(&unpacked.map[range]))
    }

    /// The text in a line, as it stands there.
    fn text_in<'l>(&self, line: &'l [u8], shard: usize) -> Result<&'l [u8]> {
        let schema = &self.config.schema;
        let mut rows = Rows::default();
        self.scanner.scan(line, &ScanJob { schema, seed: 0, hash: false }, &mut rows)?;
        match rows.iter().next() {
            Some((row, spans)) if row.verdict() == Verdict::Document => Ok(spans[schema.text_source()].of(line)),
            _ => Err(self.changed(shard)),
        }
    }

    fn changed(&self, shard: usize) -> Error {
        super::plan::changed(&self.shards[shard])
    }

    /// Copies the wanted texts of a packed shard.
    fn unpack(&self, shard: usize, rows: &RowStore, wanted: &Marks, to: &mut Spool) -> Result<()> {
        let mut cutter = Cutter::new([self.shards[shard].clone()].into(), self.config.run.chunk_size);
        while let Some(chunk) = cutter.next_chunk()? {
            (self.check)()?;
            let places = rows.within(shard, chunk.offset..chunk.offset + chunk.len() as u64).map(|(place, _)| place);
            for place in places.filter(|place| wanted.has(place.index as usize)) {
                let start = (place.offset - chunk.offset) as usize;
                let line = chunk.get(start..start + place.len).ok_or_else(|| self.changed(shard))?;
                let text = self.text_in(line, shard)?;
                to.file.write_all(text).context(&self.folder, "write a temporary file")?;
                to.places.push((place.index, to.written..to.written + text.len()));
                to.written += text.len();
            }
        }
        Ok(())
    }
}

/// Texts on their way to a temporary file.
struct Spool {
    file: BufWriter<File>,
    places: Vec<(u64, Range<usize>)>,
    written: usize,
}

impl Texts for CorpusTexts<'_> {
    fn prepare(&mut self, rows: &RowStore, wanted: &Marks) -> Result<()> {
        let is_wanted =
            |shard: &usize| self.shards[*shard].encoding != Encoding::Plain && wanted.any(rows.of_shard(*shard));
        let packed: Vec<usize> = (0..self.shards.len()).filter(is_wanted).collect();
        if packed.is_empty() {
            return Ok(());
        }
        let file = tempfile::tempfile_in(&self.folder).context(&self.folder, "make a temporary file")?;
        let mut spool = Spool { file: BufWriter::new(file), places: Vec::new(), written: 0 };
        for shard in packed {
            self.unpack(shard, rows, wanted, &mut spool)?;
        }
        let file = spool.file.into_inner().map_err(std::io::IntoInnerError::into_error);
        let file = file.context(&self.folder, "write a temporary file")?;
        // SAFETY: the file has no name, so nobody else can change or shorten it.
        let map = unsafe { Mmap::map(&file) }.context(&self.folder, "map a temporary file")?;
        self.unpacked = Some(Unpacked { map, places: spool.places });
        Ok(())
    }

    fn same(&self, a: Place, b: Place) -> Result<bool> {
        let (first, second) = (self.bytes(a)?, self.bytes(b)?);
        let text = |bytes: &Bytes<'_>, place: Place| -> Result<Range<usize>> {
            let all = bytes.get();
            let text = if let Bytes::Mapped(..) = bytes { self.text_in(all, place.shard)? } else { all };
            let start = text.as_ptr() as usize - all.as_ptr() as usize;
            Ok(start..start + text.len())
        };
        let is_whole_line = matches!((&first, &second), (Bytes::Mapped(..), Bytes::Mapped(..)));
        let same = if is_whole_line && !first.get().is_empty() && first.get() == second.get() {
            true
        } else {
            let (one, other) = (&first.get()[text(&first, a)?], &second.get()[text(&second, b)?]);
            one == other || Decoder::new(one).eq(Decoder::new(other))
        };
        for bytes in [&first, &second] {
            if let Bytes::Mapped(mapping, _) = bytes {
                mapping.check()?;
            }
        }
        Ok(same)
    }
}
