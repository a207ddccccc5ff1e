//! The largest known tree head of each checksum database, as its signed note, and the tree heads that were exported.
//!
//! ```text
//! records/sumdb/NAME/latest       the note, byte for byte; written aside and renamed
//! records/sumdb/NAME/exported     the sizes of exported trees, one per line, the last export last; replaced like `latest`
//! records/sumdb/NAME/lock         locked while `latest` or `exported` is replaced
//! records/sumdb/NAME/fork-TIME    two tree heads that contradict each other, for a person to examine
//! ```
//!
//! A module path has a dot in its first element, so `sumdb` never collides with a record. NAME has `%XX` for every
//! character except letters, digits and `.-_`, so it is one path element. The caller proves that a new head extends
//! the old head. This module only ensures that a head replaces exactly the head that the caller has seen.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use stoa_layout::durable;
use stoa_layout::lock::FileLock;
use stoa_layout::marker;

use crate::files::{TEXT_LIMIT, database_folder, open_file, read_bounded};
use crate::{Store, StoreError, staging};

/// The pause between two attempts to lock a head. The holder writes one small file.
const PAUSE: Duration = Duration::from_millis(5);

/// How long to wait for the lock of a head. A holder that takes longer is stopped, or its disk does not respond.
const PATIENCE: Duration = Duration::from_secs(5);

/// Number of exported trees that are remembered.
const MAX_EXPORTED: usize = 256;

/// The result of replacing a tree head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadReplaced {
    /// The head was replaced.
    Yes,
    /// The stored head differs from the head that the caller has seen, and stays. Holds the stored head.
    Another(Option<Vec<u8>>),
}

/// The largest known tree heads of a store.
#[derive(Debug, Clone, Copy)]
pub struct TreeHeads<'a>(&'a Store);

impl Store {
    /// Returns the largest known tree head of each checksum database.
    pub fn tree_heads(&self) -> TreeHeads<'_> {
        TreeHeads(self)
    }
}

impl TreeHeads<'_> {
    /// Returns the stored tree head of a database, which may not be verified. `None` if there is no tree head.
    pub fn get(&self, database: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.folder(database).join(LATEST);
        let Some((file, _)) = open_file(&path)? else { return Ok(None) };
        Ok(Some(read_bounded(file, &path, TEXT_LIMIT)?))
    }

    /// Replaces the tree head of a database, if it is still the head that the caller has seen. The new head is on disk
    /// on return.
    pub fn replace(
        &self,
        database: &str,
        seen: Option<&[u8]>,
        note: &[u8],
    ) -> Result<HeadReplaced, StoreError> {
        let folder = self.create_folder(database)?;
        let _lock = self.lock(&folder.join("lock"), PATIENCE)?;
        let there = self.get(database)?;
        if there.as_deref() != seen {
            return Ok(HeadReplaced::Another(there));
        }
        self.place(&folder, LATEST, note)?;
        Ok(HeadReplaced::Yes)
    }

    /// Returns the sizes of the trees of a database whose heads were exported, the last export last.
    pub fn exported(&self, database: &str) -> Result<Vec<u64>, StoreError> {
        let path = self.folder(database).join(EXPORTED);
        let Some((file, _)) = open_file(&path)? else { return Ok(Vec::new()) };
        let text = read_bounded(file, &path, TEXT_LIMIT)?;
        // A damaged line costs a proof of the next export, no more.
        Ok(String::from_utf8_lossy(&text).lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Remembers that the head of a tree of this size is exported. It is on disk on return.
    pub fn note_exported(&self, database: &str, size: u64) -> Result<(), StoreError> {
        let folder = self.create_folder(database)?;
        let _lock = self.lock(&folder.join("lock"), PATIENCE)?;
        let mut sizes = self.exported(database)?;
        if sizes.last() == Some(&size) {
            return Ok(());
        }
        sizes.retain(|other| *other != size);
        sizes.push(size);
        sizes.drain(..sizes.len().saturating_sub(MAX_EXPORTED));
        let lines: String = sizes.iter().map(|size| format!("{size}\n")).collect();
        self.place(&folder, EXPORTED, lines.as_bytes())
    }

    fn place(&self, folder: &Path, name: &str, content: &[u8]) -> Result<(), StoreError> {
        self.0.staging()?.place_file(|staged| {
            staging::write(&self.0.durable, staged, content)?;
            durable::rename(staged, &folder.join(name))
        })?;
        Ok(durable::sync_dir(folder)?)
    }

    fn lock(&self, path: &Path, patience: Duration) -> Result<FileLock, StoreError> {
        let began = Instant::now();
        loop {
            if let Some(lock) = self.0.try_lock_file(path)? {
                return Ok(lock);
            }
            if began.elapsed() >= patience {
                return Err(StoreError::Busy { path: path.to_owned(), patience });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Stores the evidence that a database has forked, and returns its path.
    pub fn keep_fork(&self, database: &str, what: &str) -> Result<PathBuf, StoreError> {
        let folder = self.create_folder(database)?;
        let staged = self.0.staging()?.fresh();
        staging::write(&self.0.durable, &staged, what.as_bytes())?;
        let time = marker::now();
        let mut path = folder.join(format!("fork-{time}"));
        let mut more = 1;
        // Another process may find the fork in the same second.
        while fs::symlink_metadata(&path).is_ok() {
            more += 1;
            path = folder.join(format!("fork-{time}-{more}"));
        }
        durable::rename_noreplace(&staged, &path)?;
        durable::sync_dir(&folder)?;
        Ok(path)
    }

    fn folder(&self, database: &str) -> PathBuf {
        self.0.paths.records().join("sumdb").join(database_folder(database))
    }

    fn create_folder(&self, database: &str) -> Result<PathBuf, StoreError> {
        // Fails in a read-only store.
        self.0.check_writable()?;
        let folder = self.folder(database);
        let below = folder.strip_prefix(self.0.root()).unwrap_or(&folder);
        self.0.durable.ensure_dirs(self.0.root(), below)?;
        Ok(folder)
    }
}

const LATEST: &str = "latest";
const EXPORTED: &str = "exported";

#[cfg(test)]
mod tests {
    use stoa_gomod::ModulePath;
    use stoa_layout::gate::Mode;

    use super::*;
    use crate::testing::{Fixture, open, staged};

    #[test]
    fn the_last_exported_trees_are_remembered_once_each() {
        let fixture = Fixture::new();
        let (store, name) = (&fixture.store, "sum.example/V2");
        assert_eq!(store.tree_heads().exported(name).unwrap(), [0; 0]);
        for size in [7, 7, 9, 7] {
            store.tree_heads().note_exported(name, size).unwrap();
        }
        assert_eq!(store.tree_heads().exported(name).unwrap(), [9, 7]);
        for size in 100..100 + MAX_EXPORTED as u64 {
            store.tree_heads().note_exported(name, size).unwrap();
        }
        let exported = store.tree_heads().exported(name).unwrap();
        assert_eq!((exported.len(), exported.first()), (MAX_EXPORTED, Some(&100)));
        assert!(store.tree_heads().get(name).unwrap().is_none() && staged(fixture.dir.path()).is_empty());
    }

    #[test]
    fn a_tree_head_is_replaced_only_if_the_caller_has_seen_it() {
        let fixture = Fixture::new();
        let store = &fixture.store;
        let name = "sum.example/V2";
        assert_eq!(store.tree_heads().get(name).unwrap(), None);
        assert_eq!(store.tree_heads().replace(name, None, b"one").unwrap(), HeadReplaced::Yes);
        let another = HeadReplaced::Another(Some(b"one".to_vec()));
        assert_eq!(store.tree_heads().replace(name, None, b"two").unwrap(), another);
        assert_eq!(store.tree_heads().replace(name, Some(b"zero"), b"two").unwrap(), another);
        assert_eq!(store.tree_heads().replace(name, Some(b"one"), b"two").unwrap(), HeadReplaced::Yes);
        let folder = fixture.dir.path().join("records/sumdb/sum.example%2FV2");
        assert_eq!(fs::read(folder.join("latest")).unwrap(), b"two");
        assert!(staged(fixture.dir.path()).is_empty());
        let reader = open(fixture.dir.path(), Mode::ReadOnly);
        assert_eq!(reader.tree_heads().get(name).unwrap().unwrap(), b"two");
        assert!(matches!(reader.tree_heads().replace(name, None, b"x"), Err(StoreError::ReadOnly(_))));
    }

    #[test]
    fn each_of_many_writers_has_seen_the_head_that_it_replaces() {
        let fixture = Fixture::new();
        let stores: Vec<_> = (0..4).map(|_| open(fixture.dir.path(), Mode::ReadWrite)).collect();
        std::thread::scope(|scope| {
            for store in &stores {
                scope.spawn(|| {
                    let mut seen: Option<Vec<u8>> = None;
                    let mut added = 0;
                    while added < 5 {
                        let mut more = seen.clone().unwrap_or_default();
                        more.push(b'x');
                        match store.tree_heads().replace("a.b", seen.as_deref(), &more).unwrap() {
                            HeadReplaced::Yes => (seen, added) = (Some(more), added + 1),
                            HeadReplaced::Another(there) => seen = there,
                        }
                    }
                });
            }
        });
        assert_eq!(stores[0].tree_heads().get("a.b").unwrap().unwrap().len(), 20);
    }

    #[test]
    fn waiting_for_a_lock_that_is_never_released_ends() {
        let fixture = Fixture::new();
        let folder = fixture.store.tree_heads().create_folder("a.b").unwrap();
        let path = folder.join("lock");
        let held = fixture.store.tree_heads().lock(&path, Duration::ZERO).unwrap();
        let error = fixture.store.tree_heads().lock(&path, 2 * PAUSE).unwrap_err();
        assert!(
            matches!(error, StoreError::Busy { .. }) && error.to_string().contains("a.b/lock"),
            "{error}"
        );
        drop(held);
        assert_eq!(fixture.store.tree_heads().replace("a.b", None, b"one").unwrap(), HeadReplaced::Yes);
    }

    #[test]
    fn all_forks_are_kept() {
        let fixture = Fixture::new();
        let paths: Vec<_> =
            (0..3).map(|n| fixture.store.tree_heads().keep_fork("..", &n.to_string()).unwrap()).collect();
        for (n, path) in paths.iter().enumerate() {
            assert!(path.starts_with(fixture.dir.path().join("records/sumdb/%2E.")), "{}", path.display());
            assert_eq!(fs::read_to_string(path).unwrap(), n.to_string());
        }
    }

    #[test]
    fn no_module_path_collides_with_the_sumdb_folder() {
        assert!(ModulePath::new("sumdb").is_err() && ModulePath::new("sumdb/sum.example").is_err());
    }
}
