//! The first of many findings for a message, and the number of all.

use std::sync::Mutex;

/// Maximum number of findings in memory.
const LISTED: usize = 20;

/// The first findings of all threads, and the number of all.
pub(crate) struct Listed<T>(Mutex<(Vec<T>, u64)>);

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Listed<T> {
    pub(crate) fn add(&self, finding: impl FnOnce() -> T) {
        self.add_unless(|_| false, finding);
    }

    /// Adds a finding, unless it is one of the first.
    pub(crate) fn add_unless(&self, is_same: impl Fn(&T) -> bool, finding: impl FnOnce() -> T) {
        let Ok(mut found) = self.0.lock() else { return };
        if found.0.iter().any(is_same) {
            return;
        }
        found.1 += 1;
        if found.0.len() < LISTED {
            found.0.push(finding());
        }
    }

    /// Returns the first findings, and the number of the others.
    pub(crate) fn into_parts(self) -> (Vec<T>, u64) {
        let (first, count) = self.0.into_inner().unwrap_or_default();
        let more = count.saturating_sub(first.len() as u64);
        (first, more)
    }
}

impl Listed<String> {
    /// Returns the lines for a message, sorted. `None` if there are none.
    pub(crate) fn into_lines(self) -> Option<String> {
        let (mut lines, more) = self.into_parts();
        lines.sort();
        lines.extend((more > 0).then(|| format!("and {more} more")));
        (!lines.is_empty()).then(|| lines.join("\n    "))
    }
}
