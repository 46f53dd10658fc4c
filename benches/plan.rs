//! Seconds and memory of plans for made-up documents.
//!
//! `cargo bench --bench plan` plans for 10 million rows; `COLOPHON_BENCH_ROWS=100000000` for as many as one
//! likes (44 bytes each, and 16 more while they are sorted). One document in a hundred has the text of
//! another; what comparing the texts costs is not measured, as there are none.

use colophon::domain::balance::Balance;
use colophon::domain::chance::Chance;
use colophon::domain::origin::Origin;
use colophon::domain::selection::{NamedField, Selection, Take};
use colophon::domain::split::Splits;
use colophon::error::Result;
use colophon::select::order::Means;
use colophon::select::plan::{Marks, Texts, plan};
use colophon::select::rows::{ChunkRows, DocRow, Place, RowStore};
use colophon::select::spill::Spill;
use std::time::Instant;

const ROWS: usize = 10_000_000;
/// Rows of a made-up chunk.
const CHUNK: usize = 10_000;
/// Different values of the field.
const VALUES: u64 = 50;

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

/// Mixes the bits of a number (the finaliser of SplitMix64).
fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn made_up(count: usize, spill: &Spill) -> Result<RowStore> {
    let mut rows = RowStore::new(spill.clone());
    for first in (0..count).step_by(CHUNK) {
        let mut chunk = ChunkRows { offset: first as u64, ..ChunkRows::default() };
        for i in first..count.min(first + CHUNK) {
            let n = if i.is_multiple_of(100) { i / 2 } else { i } as u64;
            let hash = mixed(n + 1);
            // The square makes small numbers more frequent.
            let value = (mixed(!n) % VALUES) * (mixed(n ^ 0x5555) % VALUES) / VALUES;
            let value = chunk.values.number(format!("value {value}").as_bytes());
            let (start, chars, words) = ((i - first) as u32 * 1000, 900 + value, 150);
            chunk.rows.push(DocRow { hash, key: hash, start, len: 999, chars, words, value, stratum: value });
        }
        chunk.strata = names(&chunk.values.shown());
        rows.push(chunk)?;
    }
    Ok(rows)
}

fn names(shown: &[String]) -> colophon::select::rows::Names {
    let mut names = colophon::select::rows::Names::default();
    for name in shown {
        names.number(name.as_bytes());
    }
    names
}

fn field() -> NamedField {
    NamedField { name: "field".into(), origin: Origin::Nowhere }
}

fn selection(take: Take, exact: bool, repeat_up_to: u16) -> Selection {
    Selection {
        filters: Vec::new(),
        dedup: true,
        take,
        splits: Splits::parse("train,validation,test", "0.95,0.03,0.02").expect("valid"),
        exact,
        key: None,
        strata: exact.then(field),
        repeat_up_to,
        forbid_leakage: false,
        seed: 42,
        chance: Chance::new(42),
    }
}

/// The most memory that this process has had, in GiB.
fn peak_memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kibibytes.unwrap_or(f64::NAN) / f64::from(1 << 20)
}

fn main() {
    let is_test = std::env::args().any(|arg| arg == "--test");
    let asked = std::env::var("COLOPHON_BENCH_ROWS").ok().map(|rows| rows.parse().expect("a number of rows"));
    let count = if is_test { 30_000 } else { asked.unwrap_or(ROWS) };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let spill = Spill::new(&std::env::temp_dir(), u64::MAX);
    let start = Instant::now();
    let rows = made_up(count, &spill).expect("room");
    println!("{count} rows made up in {:.1} s; {threads} threads", start.elapsed().as_secs_f64());
    let balance = |mode: Balance| Take::Balance { by: field(), mode, at_most: None };
    for (name, selection) in [
        ("hash", selection(Take::All, false, 1)),
        ("exact, stratified", selection(Take::All, true, 1)),
        ("half of them, hash", selection(Take::AtMost(count as u64 / 2), false, 1)),
        ("temperature=2, repeat-up-to 3, hash", selection(balance(Balance::Temperature(2.0)), false, 3)),
        ("temperature=2, exact, stratified", selection(balance(Balance::Temperature(2.0)), true, 1)),
    ] {
        let means = Means { spill: &spill, threads, check: &|| Ok(()) };
        let start = Instant::now();
        let made = plan(&selection, &rows, &mut ByHash, &means).expect("a plan");
        let (seconds, all) = (start.elapsed().as_secs_f64(), made.figures.all);
        println!("dedup exact, {name}: {seconds:.1} s, {} documents, peak {:.1} GiB", all.documents, peak_memory());
    }
}
