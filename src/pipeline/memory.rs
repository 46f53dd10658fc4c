//! How much memory a plan may take.

use std::fs;
use std::path::{Path, PathBuf};

/// The part of what there is that a plan may take if nothing else was said.
const PART: u64 = 4;

/// A quarter of what the control group allows, or of the machine's memory if that is less.
pub fn default_limit() -> u64 {
    let machine = rustix::system::sysinfo();
    let total = (machine.totalram as u64).saturating_mul(u64::from(machine.mem_unit.max(1)));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    group_limit(Path::new("/sys/fs/cgroup"), &groups).map_or(total, |limit| limit.min(total)) / PART
}

/// The smallest limit of the group that this process is in and of those above it, for either version
/// of control groups. `groups` is `/proc/self/cgroup`.
fn group_limit(root: &Path, groups: &str) -> Option<u64> {
    groups.lines().flat_map(|line| group_files(root, line)).filter_map(|file| read_limit(&file)).min()
}

/// The files that may have a limit for a line such as `0::/a/b` or `4:memory:/a/b`.
fn group_files(root: &Path, line: &str) -> Vec<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { return Vec::new() };
    let (base, file) = match controllers {
        "" => (root.to_path_buf(), "memory.max"),
        list if list.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
        _ => return Vec::new(),
    };
    // In a container the group's path is often that of the host, which is not there: the root is.
    let group = Path::new(group.trim_start_matches('/'));
    group.ancestors().map(|group| base.join(group).join(file)).collect()
}

fn read_limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok() // "max" is no limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_above_a_group_counts() {
        let root = tempfile::tempdir().expect("folder");
        for (file, text) in [
            ("memory.max", "max\n"),
            ("a/memory.max", "1000\n"),
            ("a/b/memory.max", "2000\n"),
            ("memory/c/memory.limit_in_bytes", "500\n"),
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            fs::write(path, text).expect("file");
        }
        for (groups, limit) in [
            ("0::/a/b\n", Some(1000)),
            ("0::/a\n", Some(1000)),
            ("0::/\n", None),
            ("0::/elsewhere/b\n", None),
            ("3:cpu:/a\n4:cpuset,memory:/c\n", Some(500)),
            ("", None),
            ("nonsense", None),
        ] {
            assert_eq!(group_limit(root.path(), groups), limit, "{groups}");
        }
        assert!(default_limit() > 0);
    }
}
