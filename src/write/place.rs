//! Where a path leads, whether or not anything is there.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Links on one way; Linux follows as many.
const LINKS: usize = 40;

/// The path without links, `.` and `..`, from the root on. Nothing need be there: what does not exist is no link.
///
/// # Errors
/// If links lead in a circle, or there is no working folder.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut left = backwards(&std::path::absolute(path)?);
    let mut place = PathBuf::new();
    let mut links = 0;
    while let Some(part) = left.pop() {
        match Path::new(&part).components().next() {
            Some(Component::ParentDir) => drop(place.pop()),
            Some(Component::CurDir) | None => {}
            Some(_) => place.push(&part),
        }
        if let Ok(target) = place.read_link() {
            links += 1;
            if links > LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            place.pop();
            // One that begins at the root replaces what was found so far.
            left.extend(backwards(&target));
        }
    }
    Ok(place)
}

/// A path's components, the last one first.
fn backwards(path: &Path) -> Vec<PathBuf> {
    path.components().rev().map(|part| PathBuf::from(part.as_os_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::resolve;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    #[test]
    fn links_lead_where_the_system_says_and_beyond() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("a path");
        std::fs::create_dir_all(root.join("a/b")).expect("folders");
        for (target, link) in [("a/b", "near"), ("../../near", "a/b/up"), ("gone/x", "dangling"), ("loop", "loop")] {
            symlink(target, root.join(link)).expect(link);
        }
        symlink(root.join("a"), root.join("far")).expect("far");
        for (path, place) in [
            ("near", "a/b"),
            ("near/up/..", "a"),
            ("far/b/new/x", "a/b/new/x"),
            ("dangling", "gone/x"),
            ("dangling/../y", "gone/y"),
            ("gone/../far/./z", "a/z"),
        ] {
            assert_eq!(resolve(&root.join(path)).expect(path), root.join(place), "{path}");
        }
        assert_eq!(resolve(Path::new("/..")).expect("the root"), Path::new("/"));
        assert!(resolve(&root.join("loop/x")).is_err());
    }
}
