//! The tree heads that are known of a database.

use std::sync::Arc;

use stoa_gomod::sumdb::Tree;

/// A tree head and its signed note.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) tree: Tree,
    pub(super) note: Arc<[u8]>,
}

/// The known heads.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    pub(super) largest: Option<Head>,
    /// The head in the store, once it has been read.
    pub(super) kept: Option<Option<Arc<[u8]>>>,
}
