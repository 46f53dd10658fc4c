//! Bytes a second of each scanner, and of the parts that a scan and an export are made of.
//!
//! `cargo bench --bench scan` measures on the demo's documents, again and again up to 32 MiB;
//! `COLOPHON_BENCH_CORPUS=FOLDER` takes the `.jsonl` files of a folder instead.

use colophon::domain::row::Rows;
use colophon::domain::schema::{Schema, default_constants, default_fields};
use colophon::scan::{self, ScanJob};
use divan::{Bencher, counter::BytesCount};
use sha2::Digest;
use std::sync::LazyLock;

const BYTES: usize = 32 << 20;
const CHUNK: usize = 512 << 10;

static CORPUS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut once: Vec<u8> = match std::env::var_os("COLOPHON_BENCH_CORPUS") {
        Some(folder) => {
            let entries = std::fs::read_dir(folder).expect("a folder that can be read");
            let paths = entries.map(|entry| entry.expect("an entry").path());
            let mut shards: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect();
            shards.sort();
            shards.iter().flat_map(|path| std::fs::read(path).expect("a shard")).collect()
        }
        None => {
            let files = colophon::demo::files().into_iter();
            files.filter(|file| file.path.starts_with("classified/")).flat_map(|file| file.bytes).collect()
        }
    };
    let whole = once.len();
    assert!(whole > 0, "no documents to measure on");
    while once.len() < BYTES {
        once.extend_from_within(..whole);
    }
    let last_line = memchr::memrchr(b'\n', &once[..BYTES]).expect("lines");
    once.truncate(last_line + 1);
    once
});

/// The corpus in chunks cut at line ends.
fn chunks() -> impl Iterator<Item = &'static [u8]> {
    let mut rest = &CORPUS[..];
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', &rest[CHUNK.min(rest.len() - 1)..]).expect("a line end");
        let (chunk, behind) = rest.split_at(CHUNK.min(rest.len() - 1) + end + 1);
        rest = behind;
        Some(chunk)
    })
}

fn scanner_names() -> Vec<&'static str> {
    scan::available().iter().map(|scanner| scanner.name()).collect()
}

fn bench_scan(bencher: Bencher, name: &str, hash: bool) {
    let schema = Schema::new(default_fields(), default_constants("2024-01-15")).expect("valid");
    let scanner = scan::by_name(Some(name)).expect("available");
    let mut rows = Rows::default();
    bencher.counter(BytesCount::new(CORPUS.len())).bench_local(|| {
        for chunk in chunks() {
            let job = ScanJob { schema: &schema, seed: 42, hash };
            scanner.scan(chunk, &job, &mut rows).expect("CPU scanners do not fail");
        }
    });
}

/// The whole scan, as `export` needs it.
#[divan::bench(args = scanner_names(), sample_count = 12)]
fn scan_whole(bencher: Bencher, name: &str) {
    bench_scan(bencher, name, true);
}

/// Without the hash, as `validate` needs it.
#[divan::bench(args = scanner_names(), sample_count = 12)]
fn scan_without_hash(bencher: Bencher, name: &str) {
    bench_scan(bencher, name, false);
}

fn bench_part(bencher: Bencher, part: impl Fn(&[u8]) -> u64) {
    bencher.counter(BytesCount::new(CORPUS.len())).bench_local(|| chunks().map(&part).fold(0, u64::wrapping_add));
}

#[divan::bench(sample_count = 12)]
fn part_line_feeds(bencher: Bencher) {
    bench_part(bencher, |chunk| memchr::memchr_iter(b'\n', chunk).count() as u64);
}

#[divan::bench(sample_count = 12)]
fn part_utf8(bencher: Bencher) {
    bench_part(bencher, |chunk| u64::from(simdutf8::basic::from_utf8(chunk).is_ok()));
}

#[divan::bench(sample_count = 12)]
fn part_xxh3(bencher: Bencher) {
    bench_part(bencher, |chunk| twox_hash::XxHash3_64::oneshot_with_seed(42, chunk));
}

#[divan::bench(sample_count = 12)]
fn part_sha256(bencher: Bencher) {
    bench_part(bencher, |chunk| u64::from(sha2::Sha256::digest(chunk)[0]));
}

#[divan::bench(sample_count = 12)]
fn part_copy(bencher: Bencher) {
    let copy = std::cell::RefCell::new(Vec::with_capacity(2 * CHUNK));
    bench_part(bencher, |chunk| {
        let mut copy = copy.borrow_mut();
        copy.clear();
        copy.extend_from_slice(chunk);
        u64::from(divan::black_box(&copy)[0])
    });
}

fn main() {
    divan::main();
}
