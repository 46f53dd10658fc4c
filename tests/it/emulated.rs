//! The kernels, run by the emulator of tests/emulator: behind a stand-in for the driver, and on their own.
//!
//! Where there is a real GPU the same tests run on that. `COLOPHON_REQUIRE_CUDA=1` makes its absence a
//! failure.

use colophon::domain::row::{Row, Rows, Span};
use colophon::scan::cuda::{self, Device, LONGEST_LINE, layout::job_bytes};
use colophon::scan::{DeviceError, ScanJob, Scanner, reference::Reference};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

/// Compiles a program or library of tests/emulator, unless that was done since its sources changed.
fn compiled(sources: &[&str], output: &str, flags: &[&str]) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(output);
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let folders = ["kernels", "tests/emulator"].map(|folder| fs::read_dir(root.join(folder)).expect("the sources"));
    let newest = folders.into_iter().flatten().flatten().map(|entry| modified(&entry.path())).max();
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
        .args(sources.iter().map(|source| root.join("tests/emulator").join(source)))
        .args(flags)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; these tests need a C++ compiler", compiler.display()));
    assert!(output.status.success(), "{sources:?}: {}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&unfinished, &target).expect("the compiled file takes its place");
    target
}

/// A folder with the stand-in for libcuda.so.1, for `LD_LIBRARY_PATH`; it may lack a symbol.
pub fn standin(without: Option<&str>) -> PathBuf {
    let define = without.map(|symbol| format!("-D{symbol}=missing_{symbol}"));
    let mut flags = vec!["-fPIC", "-shared", "-Wl,-soname,libcuda.so.1"];
    flags.extend(define.as_deref());
    let folder = format!("standin-{}", without.unwrap_or("whole"));
    let library = compiled(&["standin.cpp", "kernels.cpp"], &format!("{folder}/libcuda.so.1"), &flags);
    library.parent().expect("in its folder").into()
}

/// Whether this machine has a real GPU. `COLOPHON_REQUIRE_CUDA=1` insists.
pub fn has_gpu() -> bool {
    static HAS_GPU: OnceLock<bool> = OnceLock::new();
    *HAS_GPU.get_or_init(|| {
        // SAFETY: loading libcuda runs its initialisers, as using it does.
        let driver = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
        let found = !driver.is_null() && !cuda::probe().devices.is_empty();
        let required = std::env::var_os("COLOPHON_REQUIRE_CUDA").is_some_and(|value| value == "1");
        assert!(found || !required, "COLOPHON_REQUIRE_CUDA=1, and no GPU can be used");
        found
    })
}

/// A GPU for this process: a real one, or the stand-in's. Its slots hold `slot_bytes`.
pub fn gpu(slot_bytes: usize) -> Arc<Device> {
    if !has_gpu() {
        let library = standin(None).join("libcuda.so.1");
        let path = CString::new(library.as_os_str().as_bytes()).expect("a path");
        // Whoever asks for libcuda.so.1 by that name gets what is loaded under it already.
        // SAFETY: the library's initialisers only fill tables.
        let loaded = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!loaded.is_null(), "{} cannot be loaded", library.display());
    }
    Device::open(0, 2, slot_bytes).unwrap_or_else(|unusable| panic!("{unusable}"))
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
        let flags: Vec<&str> =
            flags.iter().flat_map(|flag| [flag.as_str(), "-g", "-fno-sanitize-recover=all"]).collect();
        let output = format!("scan_file-{}", sanitizer.unwrap_or("plain").replace(',', "-"));
        FileScanner {
            program: compiled(&["scan_file.cpp"], &output, &flags),
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
