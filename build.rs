//! Proves that the committed PTX was compiled from the kernels beside it, so that no toolkit is needed to build.

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

fn main() {
    let kernels = Path::new("kernels");
    println!("cargo::rerun-if-changed=kernels");
    let expected = format!("// sources {}", sources_hash(kernels));
    for source in files(kernels, &["cu"]) {
        let ptx = source.with_extension("ptx");
        let text = std::fs::read_to_string(&ptx).unwrap_or_default();
        if text.lines().next() != Some(&expected) {
            println!("cargo::error={} does not belong to the kernels as they are.", ptx.display());
            println!("cargo::error=Compile them again: pip install -r kernels/requirements.txt");
            println!("cargo::error=                    python3 kernels/compile.py");
        }
    }
}

/// Over names and contents of all sources, in order; kernels/compile.py computes the same.
fn sources_hash(kernels: &Path) -> String {
    let mut hasher = Sha256::new();
    for path in files(kernels, &["cu", "cuh"]) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        hasher.update(name.as_bytes());
        hasher.update([0]);
        hasher.update(std::fs::read(&path).unwrap_or_default());
        hasher.update([0]);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The folder's files with one of these extensions, by name.
fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_wanted = |path: &PathBuf| path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted));
    let mut files: Vec<_> = entries.filter(is_wanted).collect();
    files.sort();
    files
}
