//! The rows that come from the manifests of a bucket.
//!
//! The table `manifests` has the tag with which each manifest was read, and the time of the publication, the size and the
//! hashes if the version exists. Its mark is in the table of the marks. It is sorted as the bucket lists the manifests. So a listing that is merged with it shows which manifests must
//! be read. The rows belong to the bucket with one ID. Another ID removes them first.
//!
//! Each time that the rows of a bucket begin, also in a rebuilt database, they get a random token. A pass names it, so
//! a pass that began before cannot complete rows that it did not write.

use rusqlite::{OptionalExtension, params};
use stoa_gomod::{H1, ModuleVersion};

use super::database::{Database, limit_of};
use super::marks::MarkOf;
use super::rows::{Hashes, LATEST};
use super::settle::Settling;
use super::{IndexError, StoreIndex};
use crate::Mark;

/// A manifest as the index knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownManifest {
    /// The key, as [`manifest_key`] returns it.
    pub key: String,
    /// The tag with which it was read.
    pub tag: String,
}

/// A change of the row of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestChange {
    /// The version.
    pub version: ModuleVersion,
    /// The condition of the change.
    pub condition: Condition,
    /// The manifest as it is now. `None` removes its row.
    pub now: Option<ManifestRow>,
}

/// The condition of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The row is changed in any case.
    Always,
    /// The row still has this tag, or there is still none. Otherwise a newer change stays.
    Tag(Option<String>),
}

/// The row of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManifestRow {
    /// Its tag.
    pub tag: String,
    /// The time of the publication in nanoseconds since 1970. `None` if the version does not exist.
    pub published: Option<i64>,
    /// The size of the version in bytes, if it exists.
    pub bytes: Option<u64>,
    /// The hash of its zip, if it is known.
    pub h1: Option<H1>,
    /// The hash of its go.mod, if it is known.
    pub gomod_h1: Option<H1>,
    /// The mark of the version.
    pub mark: Option<Mark>,
}

/// The content of a version in the bucket, as the index knows it.
#[derive(Debug)]
pub(super) struct KnownContent {
    /// The time of the publication. `None` if the version does not exist.
    pub(super) published: Option<i64>,
    pub(super) hashes: Hashes,
}

/// Number of rows of another bucket that one transaction removes.
const REMOVED_AT_ONCE: usize = 1000;

/// The end of each key.
const SUFFIX: &str = ".json";

/// Returns the key of a manifest below the folder of the manifests. The rows are sorted by it, bytewise.
pub fn manifest_key(module: &str, version: &str) -> String {
    format!("{module}/@v/{version}{SUFFIX}")
}

/// Returns the module and the version of a key.
fn of_key(key: &str) -> Option<(&str, &str)> {
    key.strip_suffix(SUFFIX)?.rsplit_once("/@v/")
}

impl Database {
    /// Returns the content of the version that its manifest names. `None` says that no manifest is known.
    pub(super) fn manifest(&self, module: &str, version: &str) -> Result<Option<KnownContent>, IndexError> {
        let mut asked = self.cached("SELECT published, h1, gomod_h1 FROM manifests WHERE key = ?1")?;
        let found = asked.query_row([manifest_key(module, version)], |row| {
            let hashes = Hashes { h1: row.get(1)?, gomod_h1: row.get(2)? };
            Ok(KnownContent { published: row.get(0)?, hashes })
        });
        found.optional().map_err(|source| self.failed(source))
    }

    /// Returns the ID of the bucket whose manifests the index has, and whether it has all of them.
    fn bucket(&self) -> Result<Option<(String, bool)>, IndexError> {
        let rows =
            self.list("SELECT id, is_complete FROM bucket", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.into_iter().next())
    }

    fn is_of(&self, id: &str) -> Result<bool, IndexError> {
        Ok(self.bucket()?.is_some_and(|(known, _)| known == id))
    }

    /// Returns the token of the rows of the bucket with this ID.
    fn token(&self, id: &str) -> Result<Option<String>, IndexError> {
        let rows = self.list("SELECT token FROM bucket WHERE id = ?1", [id], |row| row.get(0))?;
        Ok(rows.into_iter().next())
    }

    /// Returns whether the index has the rows of the bucket with this ID, and with this token if there is one.
    fn has(&self, id: &str, token: Option<&str>) -> Result<bool, IndexError> {
        let known = self.token(id)?;
        Ok(known.is_some() && (token.is_none() || known.as_deref() == token))
    }

    fn complete_bucket(&self, id: &str, token: &str) -> Result<bool, IndexError> {
        self.execute("UPDATE bucket SET is_complete = 1 WHERE id = ?1 AND token = ?2", [id, token])?;
        self.has(id, Some(token))
    }

    fn manifests(&self, after: &str, limit: usize) -> Result<Vec<KnownManifest>, IndexError> {
        self.list(
            "SELECT key, tag FROM manifests WHERE key > ?1 ORDER BY key LIMIT ?2",
            params![after, limit_of(limit)],
            |row| Ok(KnownManifest { key: row.get(0)?, tag: row.get(1)? }),
        )
    }

    /// Changes rows in one transaction. Returns false if the index has the manifests of another bucket or token.
    fn note_manifests(
        &mut self,
        id: &str,
        token: Option<&str>,
        changes: &[ManifestChange],
    ) -> Result<bool, IndexError> {
        let mut is_ours = false;
        self.change(|database| {
            is_ours = database.has(id, token)?;
            changes.iter().filter(|_| is_ours).try_for_each(|change| database.note_manifest(change))
        })?;
        Ok(is_ours)
    }

    fn note_manifest(&self, change: &ManifestChange) -> Result<(), IndexError> {
        let (module, version) = (change.version.path().as_str(), change.version.version().as_str());
        let key = manifest_key(module, version);
        if let Condition::Tag(expected) = &change.condition {
            let mut asked = self.cached("SELECT tag FROM manifests WHERE key = ?1")?;
            let tag = asked.query_row([&key], |row| row.get::<_, String>(0)).optional();
            if tag.map_err(|source| self.failed(source))? != *expected {
                return Ok(());
            }
        }
        match &change.now {
            Some(row) => self.execute(
                "INSERT OR REPLACE INTO manifests (key, tag, published, bytes, h1, gomod_h1)
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    key,
                    row.tag,
                    row.published.map(|time| time.min(LATEST)),
                    row.bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
                    row.h1.as_ref().map(H1::as_str),
                    row.gomod_h1.as_ref().map(H1::as_str)
                ],
            )?,
            None => self.execute("DELETE FROM manifests WHERE key = ?1", [&key])?,
        }
        let mark = change.now.as_ref().and_then(|row| row.mark.as_ref());
        self.put_mark(module, version, MarkOf::Manifest, mark)?;
        // A version that is about to go, and is stored here, is not new.
        let settling = match &change.now {
            Some(_) => Settling::default(),
            None => Settling::without_events(),
        };
        self.settle(module, version, &settling, |stored| stored)
    }

    /// Removes some rows of other buckets than the one with this ID, and begins to keep the rows of this one, if there is
    /// one. Returns whether more rows are to be removed.
    fn change_bucket(&mut self, id: Option<&str>) -> Result<bool, IndexError> {
        if self.bucket()?.map(|(known, _)| known).as_deref() == id && id.is_some() {
            return Ok(false);
        }
        let mut has_more = false;
        self.change(|database| {
            // Rows without a bucket are removed by the next call, also after a crash.
            database.execute("DELETE FROM bucket", [])?;
            let some = database.manifests("", REMOVED_AT_ONCE)?;
            for manifest in &some {
                database.execute("DELETE FROM manifests WHERE key = ?1", [&manifest.key])?;
                if let Some((module, version)) = of_key(&manifest.key) {
                    database.put_mark(module, version, MarkOf::Manifest, None)?;
                    database.settle(module, version, &Settling::default(), |stored| stored)?;
                }
            }
            has_more = some.len() == REMOVED_AT_ONCE;
            match id {
                Some(id) if !has_more => {
                    let begin =
                        "INSERT INTO bucket (id, is_complete, token) VALUES (?1, 0, hex(randomblob(16)))";
                    database.execute(begin, [id])
                }
                _ => Ok(()),
            }
        })?;
        Ok(has_more)
    }
}

impl StoreIndex<'_> {
    /// Returns whether the index has had all manifests of the bucket with this ID at some time.
    pub fn has_bucket(&self, id: &str) -> Result<bool, IndexError> {
        let bucket = self.0.index.read(Database::bucket)?;
        Ok(bucket.is_some_and(|(known, is_complete)| known == id && is_complete))
    }

    /// Removes some rows of other buckets than the one with this ID, and begins to keep the rows of this one. `None`
    /// removes the rows of any bucket. Returns whether it must be called again.
    pub fn change_bucket(&self, id: Option<&str>) -> Result<bool, IndexError> {
        // Without a write if nothing is to be done.
        let is_done = self.0.index.read(|database| match id {
            Some(id) => database.is_of(id),
            None => Ok(database.bucket()?.is_none() && database.manifests("", 1)?.is_empty()),
        })?;
        if is_done { Ok(false) } else { self.0.index.write(|database| database.change_bucket(id)) }
    }

    /// Returns up to `limit` known manifests after a key, sorted by key.
    pub fn manifests(&self, after: &str, limit: usize) -> Result<Vec<KnownManifest>, IndexError> {
        self.0.index.read(|database| database.manifests(after, limit))
    }

    /// Returns the token of the rows of the bucket with this ID, if the index has such rows.
    pub fn bucket_token(&self, id: &str) -> Result<Option<String>, IndexError> {
        self.0.index.read(|database| database.token(id))
    }

    /// Changes the rows of manifests of the bucket with this ID, in one transaction. Returns false, and changes nothing,
    /// if the index does not have the rows of this bucket, or if they have another token than the given one.
    pub fn note_manifests(
        &self,
        id: &str,
        token: Option<&str>,
        changes: &[ManifestChange],
    ) -> Result<bool, IndexError> {
        self.0.index.write(|database| database.note_manifests(id, token, changes))
    }

    /// Notes that the index has all manifests of the bucket with this ID. Returns false, and changes nothing, if the rows
    /// have another token.
    pub fn complete_bucket(&self, id: &str, token: &str) -> Result<bool, IndexError> {
        self.0.index.write(|database| database.complete_bucket(id, token))
    }
}
