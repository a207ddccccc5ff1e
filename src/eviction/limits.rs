//! The limits of a store's size, and how much of it may stay.

use std::fmt;

use stoa_store::Day;

/// The free space that a server keeps on the disk of its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Free {
    /// A number of bytes.
    Bytes(u64),
    /// A percentage of the size of the disk.
    Percent(u8),
}

/// The size of a disk in bytes, and the bytes that are free for its users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) free: u64,
    pub(crate) size: u64,
}

/// The limits of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size of all versions together.
    pub max_size: Option<u64>,
    /// Minimum of free space on the disk.
    pub min_free: Option<Free>,
    /// Maximum age of the last use in days.
    pub unused_for: Option<u32>,
}

/// A limit that a run enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    MaxSize,
    MinFree,
    UnusedFor,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MaxSize => "store.max_size",
            Self::MinFree => "store.min_free",
            Self::UnusedFor => "store.unused_for",
        })
    }
}

/// The bytes that may stay after a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Goal {
    /// Maximum number of bytes that stay. `None` if every limit of size is kept.
    pub(super) max: Option<u64>,
    /// Versions that were last used before this day go.
    pub(super) unused_since: Option<Day>,
    /// The limits that are exceeded, or that apply in any case.
    pub(super) limits: Vec<Limit>,
}

impl Disk {
    /// Returns the disk of a path, or `None` if it cannot be asked.
    pub(crate) fn of(path: &std::path::Path) -> Option<Self> {
        let state = rustix::fs::statvfs(path)
            .inspect_err(|errno| log::debug!(path:% = path.display(), reason:% = errno; "cannot read the free space of a disk"))
            .ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(state.f_frsize);
        Some(Self { free: bytes(state.f_bavail), size: bytes(state.f_blocks) })
    }
}

impl Free {
    /// Returns the number of bytes on a disk.
    pub(crate) fn bytes(self, disk: Disk) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => disk.size / 100 * u64::from(percent),
        }
    }
}

impl Limits {
    /// Returns whether there is no limit.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the minimum of free space that a disk is short of.
    pub(super) fn missing(&self, disk: Option<Disk>) -> Option<u64> {
        let disk = disk?;
        self.min_free?.bytes(disk).checked_sub(disk.free).filter(|missing| *missing > 0)
    }

    /// Returns the goal for a store of `total` bytes. A run above a limit removes a little more than it must, so that not
    /// every download is followed by a run: 5 percent of the maximum size, or 1 percent of the disk.
    pub(super) fn goal(&self, total: u64, disk: Option<Disk>, today: Day) -> Goal {
        let mut goal = Goal { max: None, unused_since: None, limits: Vec::new() };
        if let Some(max) = self.max_size.filter(|max| total > *max) {
            goal.limits.push(Limit::MaxSize);
            goal.max = Some(max - max / 20);
        }
        if let (Some(missing), Some(disk)) = (self.missing(disk), disk) {
            goal.limits.push(Limit::MinFree);
            let stays = total.saturating_sub(missing.saturating_add(disk.size / 100));
            goal.max = Some(goal.max.map_or(stays, |max| max.min(stays)));
        }
        if let Some(days) = self.unused_for {
            goal.limits.push(Limit::UnusedFor);
            goal.unused_since = Some(Day(today.0 - i64::from(days)));
        }
        goal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: Day = Day(20_000);

    #[test]
    fn the_goal_is_a_little_below_the_strictest_limit() {
        let size = Limits { max_size: Some(1000), ..Limits::default() };
        assert_eq!(size.goal(1000, None, TODAY).max, None);
        assert_eq!(size.goal(1001, None, TODAY).max, Some(950));

        let disk = |free| Some(Disk { free, size: 10_000 });
        let free = Limits { min_free: Some(Free::Percent(10)), ..Limits::default() };
        assert_eq!(free.goal(5000, disk(1000), TODAY).max, None);
        // 200 are missing, and 100 are one percent of the disk.
        assert_eq!(free.goal(5000, disk(800), TODAY).max, Some(4700));
        assert_eq!(free.goal(100, disk(0), TODAY).max, Some(0));
        assert_eq!(free.goal(5000, None, TODAY).max, None);

        let bytes = Limits { min_free: Some(Free::Bytes(900)), ..size };
        let goal = bytes.goal(5000, disk(800), TODAY);
        assert_eq!((goal.max, goal.limits), (Some(950), vec![Limit::MaxSize, Limit::MinFree]));

        let unused = Limits { unused_for: Some(180), ..Limits::default() };
        assert_eq!(unused.goal(1, None, TODAY).unused_since, Some(Day(19_820)));
    }
}
