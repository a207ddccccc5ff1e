//! A mark: a tombstone or its lifting, as deployments send it to each other.

/// A tombstone or its lifting. Of two marks of a version, the one with the higher counter counts. With the same counter,
/// the one with the higher origin counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Whether the tombstone was lifted.
    pub is_lifted: bool,
    /// The name of the deployment that made the mark. Empty for a tombstone of an earlier release.
    pub origin: String,
    /// The number of the mark among the marks of the version.
    pub counter: u64,
    /// The time of the mark, RFC 3339 in UTC.
    pub at: String,
    /// The reason of the tombstone, which clients see.
    pub reason: Option<String>,
}

impl Mark {
    /// Returns the rank of the mark among the marks of a version.
    pub fn rank(&self) -> (u64, &str) {
        (self.counter, &self.origin)
    }
}
