//! The largest tree head of each checksum database, as its signed note.
//!
//! ```text
//! records/sumdb/NAME/latest       the note, byte for byte; written aside and renamed
//! records/sumdb/NAME/lock         locked while `latest` is replaced
//! records/sumdb/NAME/fork-TIME    two heads that do not agree, for a person to look at
//! ```
//!
//! A module path has a dot in its first element, so `sumdb` is in the way of no record. NAME has `%XX` for what
//! is not a letter, a digit, or one of `.-_`, so it is one element. Whether a head may replace another is for the
//! caller to prove: here it only never replaces one that the caller has not seen.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use stoa_layout::durable;
use stoa_layout::error::PathContext;
use stoa_layout::lock::FileLock;
use stoa_layout::marker;

use crate::read::open_file;
use crate::{Store, StoreError, staging};

/// What a name of a database has in the name of its folder, besides letters and digits. A leading dot is none
/// of it.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_');

/// Longer than any note that is read.
const LIMIT: u64 = 1 << 20;

/// How long to wait between two tries to lock a head. Who has it writes one small file.
const PAUSE: Duration = Duration::from_millis(5);

/// How long to wait for that lock in all: who has it for longer is stopped, or waits for a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of replacing a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadReplaced {
    /// It was.
    Yes,
    /// Another one is there than the caller has seen, and stays.
    Another(Option<Vec<u8>>),
}

impl Store {
    /// Reads the largest head of a database that was kept, which nobody has verified. `None` if there is none.
    pub fn tree_head(&self, database: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.heads_of(database).join(LATEST);
        let Some((file, _)) = open_file(&path)? else { return Ok(None) };
        let mut note = Vec::new();
        file.take(LIMIT).read_to_end(&mut note).at("read", &path)?;
        Ok(Some(note))
    }

    /// Replaces the head of a database by a larger one, if it is still the one that the caller has seen. It is on
    /// disk when this comes back.
    pub fn replace_tree_head(
        &self,
        database: &str,
        seen: Option<&[u8]>,
        note: &[u8],
    ) -> Result<HeadReplaced, StoreError> {
        let folder = self.make_heads_of(database)?;
        let _lock = self.lock_heads(&folder.join("lock"), PATIENCE)?;
        let there = self.tree_head(database)?;
        if there.as_deref() != seen {
            return Ok(HeadReplaced::Another(there));
        }
        let staged = self.staging()?.fresh();
        let placed = staging::write(&self.durable, &staged, note)
            .and_then(|_| durable::rename(&staged, &folder.join(LATEST)));
        if placed.is_err() {
            // Ours alone; swept at the next start if this fails too.
            let _ = durable::remove_file(&staged);
        }
        placed.and_then(|()| durable::sync_dir(&folder))?;
        Ok(HeadReplaced::Yes)
    }

    fn lock_heads(&self, path: &Path, patience: Duration) -> Result<FileLock, StoreError> {
        let began = Instant::now();
        loop {
            if let Some(lock) = FileLock::try_acquire(path, &self.durable)? {
                return Ok(lock);
            }
            if began.elapsed() >= patience {
                return Err(StoreError::Busy { path: path.to_owned(), patience });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Keeps what shows that a database has forked, and says where.
    pub fn keep_fork(&self, database: &str, what: &str) -> Result<PathBuf, StoreError> {
        let folder = self.make_heads_of(database)?;
        let staged = self.staging()?.fresh();
        staging::write(&self.durable, &staged, what.as_bytes())?;
        let time = marker::now();
        let mut path = folder.join(format!("fork-{time}"));
        let mut more = 1;
        // Another process may see it in the same second.
        while fs::symlink_metadata(&path).is_ok() {
            more += 1;
            path = folder.join(format!("fork-{time}-{more}"));
        }
        durable::rename_noreplace(&staged, &path)?;
        durable::sync_dir(&folder)?;
        Ok(path)
    }

    fn heads_of(&self, database: &str) -> PathBuf {
        let name = utf8_percent_encode(database, KEPT).to_string();
        let name = match name.strip_prefix('.') {
            Some(rest) => format!("%2E{rest}"),
            None => name,
        };
        self.paths.records().join("sumdb").join(name)
    }

    fn make_heads_of(&self, database: &str) -> Result<PathBuf, StoreError> {
        // Also says that nothing can be written.
        self.staging()?;
        let folder = self.heads_of(database);
        let below = folder.strip_prefix(self.root()).unwrap_or(&folder);
        self.durable.ensure_dirs(self.root(), below)?;
        Ok(folder)
    }
}

const LATEST: &str = "latest";

#[cfg(test)]
mod tests {
    use stoa_gomod::ModulePath;
    use stoa_layout::gate::Mode;

    use super::*;
    use crate::testing::{Fixture, open, staged};

    #[test]
    fn a_head_replaces_only_one_that_was_seen() {
        let fixture = Fixture::new();
        let store = &fixture.store;
        let name = "sum.example/V2";
        assert_eq!(store.tree_head(name).unwrap(), None);
        assert_eq!(store.replace_tree_head(name, None, b"one").unwrap(), HeadReplaced::Yes);
        let another = HeadReplaced::Another(Some(b"one".to_vec()));
        assert_eq!(store.replace_tree_head(name, None, b"two").unwrap(), another);
        assert_eq!(store.replace_tree_head(name, Some(b"zero"), b"two").unwrap(), another);
        assert_eq!(store.replace_tree_head(name, Some(b"one"), b"two").unwrap(), HeadReplaced::Yes);
        let folder = fixture.dir.path().join("records/sumdb/sum.example%2FV2");
        assert_eq!(fs::read(folder.join("latest")).unwrap(), b"two");
        assert!(staged(fixture.dir.path()).is_empty());
        let reader = open(fixture.dir.path(), Mode::ReadOnly);
        assert_eq!(reader.tree_head(name).unwrap().unwrap(), b"two");
        assert!(matches!(reader.replace_tree_head(name, None, b"x"), Err(StoreError::ReadOnly(_))));
    }

    #[test]
    fn of_many_writers_each_sees_what_it_replaces() {
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
                        match store.replace_tree_head("a.b", seen.as_deref(), &more).unwrap() {
                            HeadReplaced::Yes => (seen, added) = (Some(more), added + 1),
                            HeadReplaced::Another(there) => seen = there,
                        }
                    }
                });
            }
        });
        assert_eq!(stores[0].tree_head("a.b").unwrap().unwrap().len(), 20);
    }

    #[test]
    fn a_lock_that_is_never_let_go_is_not_waited_for_without_end() {
        let fixture = Fixture::new();
        let folder = fixture.store.make_heads_of("a.b").unwrap();
        let path = folder.join("lock");
        let held = fixture.store.lock_heads(&path, Duration::ZERO).unwrap();
        let error = fixture.store.lock_heads(&path, 2 * PAUSE).unwrap_err();
        assert!(
            matches!(error, StoreError::Busy { .. }) && error.to_string().contains("a.b/lock"),
            "{error}"
        );
        drop(held);
        assert_eq!(fixture.store.replace_tree_head("a.b", None, b"one").unwrap(), HeadReplaced::Yes);
    }

    #[test]
    fn forks_are_all_kept() {
        let fixture = Fixture::new();
        let paths: Vec<_> = (0..3).map(|n| fixture.store.keep_fork("..", &n.to_string()).unwrap()).collect();
        for (n, path) in paths.iter().enumerate() {
            assert!(path.starts_with(fixture.dir.path().join("records/sumdb/%2E.")), "{}", path.display());
            assert_eq!(fs::read_to_string(path).unwrap(), n.to_string());
        }
    }

    #[test]
    fn no_module_is_called_like_the_folder() {
        assert!(ModulePath::new("sumdb").is_err() && ModulePath::new("sumdb/sum.example").is_err());
    }
}
