//! The resources of the process, and the space of a file system.

use std::fmt;
use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::collect::Writer;

/// Writes the open files and the memory of this process, as far as the system reports them.
pub(super) fn write(out: &mut Writer<'_>) -> fmt::Result {
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        // The listing itself is one of them.
        out.gauge("open_files", "Files and sockets that are open", files.count().saturating_sub(1) as f64)?;
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        out.gauge("max_open_files", "Maximum number of files and sockets that may be open", limit as f64)?;
    }
    match resident_bytes() {
        Some(bytes) => {
            out.gauge("resident_memory_bytes", "Memory of the process that is resident", bytes as f64)
        }
        None => Ok(()),
    }
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Returns the free bytes and the size of the file system of a folder. Space that is reserved for root is not free.
pub(super) fn space(folder: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_and_its_file_system_are_known() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
        let (free, size) = space(Path::new("/")).unwrap();
        assert!(free <= size && size > 0);
        assert_eq!(space(Path::new("/nonexistent")), None);
    }
}
