//! The kernels, run by the emulator of tests/emulator: behind a stand-in for the driver, and on their own.
//!
//! Where there is a real GPU the same tests run on that. `COLOPHON_REQUIRE_CUDA=1` makes its absence a
//! failure.

use colophon::domain::row::{Row, Rows, Span};
use colophon::scan::cuda::{LONGEST_LINE, layout::job_bytes};
use colophon::scan::{DeviceError, ScanJob, Scanner, reference::Reference};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Compiles a program or library of tests/emulator, unless that was done since its sources changed.
fn compiled(name: &str, output: &str, flags: &[&str]) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(output);
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let sources = ["kernels", "tests/emulator"].map(|folder| fs::read_dir(root.join(folder)).expect("the sources"));
    let newest = sources.into_iter().flatten().flatten().map(|entry| modified(&entry.path())).max();
    if newest.is_some_and(|newest| newest < modified(&target)) {
        return target;
    }
    fs::create_dir_all(target.parent().expect("in the target folder")).expect("a folder for the output");
    // Another test process may be doing the same: the finished file takes its place at once.
    let unfinished = target.with_extension(std::process::id().to_string());
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let output = Command::new(&compiler)
        .args(["-std=c++17", "-O2", "-pthread", "-I"])
        .arg(root.join("tests/emulator"))
        .arg("-o")
        .arg(&unfinished)
        .arg(root.join("tests/emulator").join(name))
        .args(flags)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; these tests need a C++ compiler", compiler.display()));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&unfinished, &target).expect("the compiled file takes its place");
    target
}

/// The kernels in a program of their own, which a sanitizer can watch throughout.
pub struct FileScanner {
    program: PathBuf,
    folder: tempfile::TempDir,
    calls: std::sync::atomic::AtomicU64,
}

impl FileScanner {
    /// `sanitizer` as g++'s `-fsanitize` has it.
    pub fn new(sanitizer: Option<&str>) -> FileScanner {
        let flags = sanitizer.map(|sanitizer| format!("-fsanitize={sanitizer}"));
        let flags: Vec<&str> = flags.iter().flat_map(|flag| [flag.as_str(), "-g", "-fno-sanitize-recover=all"]).collect();
        let output = format!("scan_file-{}", sanitizer.unwrap_or("plain").replace(',', "-"));
        FileScanner {
            program: compiled("scan_file.cpp", &output, &flags),
            folder: tempfile::tempdir().expect("a temporary folder"),
            calls: Default::default(),
        }
    }
}

impl Scanner for FileScanner {
    fn name(&self) -> &'static str {
        "emulated kernels"
    }

    fn scan(&self, chunk: &[u8], job: &ScanJob, rows: &mut Rows) -> Result<(), DeviceError> {
        let call = self.calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = |name: &str| self.folder.path().join(format!("{call}.{name}"));
        let bytes = job_bytes(job, LONGEST_LINE).expect("a schema that a warp can hold");
        fs::write(path("job"), bytes).expect("a file for the job");
        fs::write(path("chunk"), chunk).expect("a file for the chunk");
        let mut command = Command::new(&self.program);
        command.args(["job", "chunk", "rows", "spans"].map(path)).arg((call % 5).to_string());
        let output = command.output().expect("the program runs");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        rows.clear(job.schema.tree().sources());
        let read = |name| fs::read(path(name)).expect("what the program wrote");
        rows.rows.extend(read("rows").chunks_exact(size_of::<Row>()).map(bytemuck::pod_read_unaligned::<Row>));
        rows.spans.extend(read("spans").chunks_exact(size_of::<Span>()).map(bytemuck::pod_read_unaligned::<Span>));
        for name in ["job", "chunk", "rows", "spans"] {
            fs::remove_file(path(name)).expect("the file was there");
        }
        fill_in_deferred(rows, chunk, job);
        Ok(())
    }
}

/// Lines that the kernels leave to the host.
fn fill_in_deferred(rows: &mut Rows, chunk: &[u8], job: &ScanJob) {
    for index in 0..rows.rows.len() {
        let row = rows.rows[index];
        if row.code == colophon::scan::cuda::layout::DEFERRED {
            assert!(row.len > LONGEST_LINE, "only long lines are left to the host");
            let mut alone = Rows::default();
            Reference.scan(row.line(chunk), job, &mut alone).expect("the reference does not fail");
            rows.rows[index] = Row { start: row.start, ..alone.rows[0] };
            rows.spans[index * rows.sources..][..rows.sources].copy_from_slice(&alone.spans);
        }
    }
}
