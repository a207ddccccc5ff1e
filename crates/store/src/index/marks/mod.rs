//! The marks in the index: tombstones and their liftings, from the records of the store and the manifests of the bucket.
//!
//! A change of a record updates its row on a best-effort basis. A pass over the records corrects the rest: it reads
//! the records of a module again if the stamp of their folder differs from the stored stamp. Records are replaced by
//! renames, so each change by Stoa changes the stamp. A pass finds a record that was edited in place only when another record
//! of the module changes.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, params};
use stoa_gomod::{ModulePath, ModuleVersion};

use super::database::{Database, limit_of};
use super::reconcile::{go_on, has_settled};
use super::rows::FolderStamp;
use super::{Index, IndexError};
use crate::files::metadata;
use crate::paths::Paths;
use crate::records::{mark_at, versions_with_record};
use crate::walk::each_module;
use crate::{Mark, StoreError};

/// The origin of the rows of marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkOf {
    Record,
    Manifest,
}

/// The records of a module as a pass found them.
struct SeenRecords {
    module: String,
    /// The versions whose mark differs from its row.
    differing: Vec<String>,
    /// The stamp to store. `None` if the next pass must read the records again in any case.
    stamp: Option<FolderStamp>,
    is_gone: bool,
}

/// The approximate number of rows in one transaction.
const BATCH: usize = 2000;

/// The number of modules that are read from the index at a time.
const PAGE: usize = 1000;

impl Index {
    /// Writes the row of the mark in a record that was written. Best effort.
    pub(crate) fn note_record(&self, version: &ModuleVersion) {
        let (module, name) = (version.path().as_str(), version.version().as_str());
        let noted = mark_at(&self.paths.record(version)).map_err(IndexError::from).and_then(|mark| {
            // Most records have no mark, and never had one.
            if self.read(|database| database.mark(module, name, MarkOf::Record))? == mark {
                return Ok(());
            }
            self.write(|database| database.note_record(module, name, mark.as_ref()))
        });
        super::log_failure(version, noted);
    }
}

impl Database {
    fn mark(&self, module: &str, version: &str, of: MarkOf) -> Result<Option<Mark>, IndexError> {
        let mut asked = self.cached(
            "SELECT is_lifted, origin, counter, at, reason FROM marks
                WHERE module = ?1 AND version = ?2 AND is_of_bucket = ?3",
        )?;
        let mark = asked.query_row(params![module, version, of == MarkOf::Manifest], |row| read(row, 0));
        mark.optional().map_err(|source| self.failed(source))
    }

    /// Writes the row of a mark, with a new number, unless it is there already. `None` removes the row.
    pub(super) fn put_mark(
        &self,
        module: &str,
        version: &str,
        of: MarkOf,
        mark: Option<&Mark>,
    ) -> Result<(), IndexError> {
        if self.mark(module, version, of)?.as_ref() == mark {
            return Ok(());
        }
        let is_of_bucket = of == MarkOf::Manifest;
        let Some(mark) = mark else {
            return self.execute(
                "DELETE FROM marks WHERE module = ?1 AND version = ?2 AND is_of_bucket = ?3",
                params![module, version, is_of_bucket],
            );
        };
        self.execute(
            "INSERT OR REPLACE INTO marks
                (module, version, is_of_bucket, is_lifted, origin, counter, at, reason, seq)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                module,
                version,
                is_of_bucket,
                mark.is_lifted,
                mark.origin,
                mark.counter.cast_signed(),
                mark.at,
                mark.reason,
                self.next_seq()?
            ],
        )
    }

    /// Writes the row of the mark in a record. The next pass reads the records of the module again.
    fn note_record(&mut self, module: &str, version: &str, mark: Option<&Mark>) -> Result<(), IndexError> {
        self.change(|database| {
            database.execute("INSERT OR REPLACE INTO record_folders (module) VALUES (?1)", [module])?;
            database.put_mark(module, version, MarkOf::Record, mark)
        })
    }

    /// Returns the versions of a module with a mark in their record, with that mark.
    fn marks_of(&self, module: &str) -> Result<HashMap<String, Mark>, IndexError> {
        let marks = self.list(
            "SELECT version, is_lifted, origin, counter, at, reason FROM marks
                WHERE module = ?1 AND is_of_bucket = 0",
            [module],
            |row| Ok((row.get(0)?, read(row, 1)?)),
        )?;
        Ok(marks.into_iter().collect())
    }

    fn record_stamp(&self, module: &str) -> Result<Option<FolderStamp>, IndexError> {
        let mut asked =
            self.cached("SELECT inode, modified, changed FROM record_folders WHERE module = ?1")?;
        let stamp = asked.query_row([module], |row| {
            let [inode, modified, changed]: [Option<i64>; 3] = [row.get(0)?, row.get(1)?, row.get(2)?];
            Ok(inode.zip(modified).zip(changed))
        });
        let stamp = stamp.optional().map_err(|source| self.failed(source))?.flatten();
        Ok(stamp.map(|((inode, modified), changed)| FolderStamp { inode, modified, changed }))
    }

    fn record_folders(&self, after: &str, limit: usize) -> Result<Vec<String>, IndexError> {
        self.list(
            "SELECT module FROM record_folders WHERE module > ?1 ORDER BY module LIMIT ?2",
            params![after, limit_of(limit)],
            |row| row.get(0),
        )
    }

    /// Brings rows up to date with a pass. Differing records are read once more, now that no other process can write: a
    /// record may be newer than the pass.
    fn apply_records(&mut self, paths: &Paths, seen: &[SeenRecords]) -> Result<(), IndexError> {
        self.change(|database| {
            for records in seen {
                database.apply_records_of(paths, records)?;
            }
            Ok(())
        })
    }

    fn apply_records_of(&self, paths: &Paths, records: &SeenRecords) -> Result<(), IndexError> {
        let module = records.module.as_str();
        let mut stamp = records.stamp;
        for version in &records.differing {
            let mark = match ModuleVersion::parse(&format!("{module}@{version}")) {
                Ok(version) => mark_at(&paths.record(&version)),
                // A row of a version that cannot exist.
                Err(_) => Ok(None),
            };
            match mark {
                Ok(mark) => self.put_mark(module, version, MarkOf::Record, mark.as_ref())?,
                Err(error) => {
                    keep_marks(&error);
                    stamp = None;
                }
            }
        }
        // A process may have written a record since. It has removed the stamp, or finds it and removes it.
        if records.is_gone {
            return self.execute(
                "DELETE FROM record_folders WHERE module = ?1
                    AND NOT EXISTS (SELECT 1 FROM marks WHERE marks.module = ?1 AND is_of_bucket = 0)",
                [module],
            );
        }
        let [inode, modified, changed] = match stamp {
            Some(stamp) => [stamp.inode, stamp.modified, stamp.changed].map(Some),
            None => [None; 3],
        };
        self.execute(
            "INSERT OR REPLACE INTO record_folders (module, inode, modified, changed) VALUES (?1, ?2, ?3, ?4)",
            params![module, inode, modified, changed],
        )
    }
}

/// Makes one pass over all records.
pub(super) fn pass(
    paths: &Paths,
    clock: fn() -> SystemTime,
    database: &mut Database,
    should_stop: &(dyn Fn() -> bool + Sync),
) -> Result<(), IndexError> {
    let mut batch: Vec<SeenRecords> = Vec::new();
    let mut rows = 0;
    let mut add = |seen: SeenRecords, database: &mut Database| -> Result<(), IndexError> {
        rows += 1 + seen.differing.len();
        batch.push(seen);
        if rows >= BATCH {
            database.apply_records(paths, &batch)?;
            batch.clear();
            rows = 0;
        }
        Ok(())
    };
    let found = |module: ModulePath| -> Result<ControlFlow<()>, IndexError> {
        go_on(should_stop)?;
        if let Some(seen) = read_records(paths, &module, clock, database)? {
            add(seen, database)?;
        }
        Ok(ControlFlow::Continue(()))
    };
    let unreadable = |error| -> Result<(), IndexError> {
        keep_marks(&StoreError::from(error));
        Ok(())
    };
    each_module(&paths.records(), found, unreadable, |_| {})?;
    let mut after = String::new();
    loop {
        go_on(should_stop)?;
        let modules = database.record_folders(&after, PAGE)?;
        let Some(last) = modules.last() else { break };
        after.clone_from(last);
        for module in modules {
            let is_there = match ModulePath::new(&module) {
                Ok(path) => metadata(&paths.records_of(&path)).map_or(true, |meta| meta.is_some()),
                Err(_) => false,
            };
            if !is_there {
                let differing = database.marks_of(&module)?.into_keys().collect();
                add(SeenRecords { module, differing, stamp: None, is_gone: true }, database)?;
            }
        }
    }
    if batch.is_empty() { Ok(()) } else { database.apply_records(paths, &batch) }
}

/// Compares the records of a module with the rows of their marks. `None` if their folder has the stored stamp, or cannot be
/// read.
fn read_records(
    paths: &Paths,
    module: &ModulePath,
    clock: fn() -> SystemTime,
    database: &Database,
) -> Result<Option<SeenRecords>, IndexError> {
    let folder = paths.records_of(module);
    let now = clock();
    let meta = match metadata(&folder) {
        Ok(Some(meta)) if meta.is_dir() => meta,
        Ok(_) => return Ok(None),
        Err(error) => {
            keep_marks(&error.into());
            return Ok(None);
        }
    };
    let stamp = FolderStamp::of(&meta);
    if database.record_stamp(module.as_str())? == Some(stamp) {
        return Ok(None);
    }
    let versions = match versions_with_record(&folder) {
        Ok(versions) => versions,
        Err(error) => {
            keep_marks(&error);
            return Ok(None);
        }
    };
    let mut known = database.marks_of(module.as_str())?;
    let mut is_settled = has_settled(&meta, now);
    let mut differing = Vec::new();
    for version in versions {
        let row = known.remove(version.as_str());
        match mark_at(&Paths::record_in(&folder, &version)) {
            Ok(mark) if mark == row => {}
            Ok(_) => differing.push(version.as_str().to_owned()),
            Err(error) => {
                keep_marks(&error);
                is_settled = false;
            }
        }
    }
    // Their records are gone.
    differing.extend(known.into_keys());
    let stamp = is_settled.then_some(stamp);
    Ok(Some(SeenRecords { module: module.to_string(), differing, stamp, is_gone: false }))
}

/// Reads a mark from five columns.
pub(super) fn read(row: &Row<'_>, at: usize) -> rusqlite::Result<Mark> {
    Ok(Mark {
        is_lifted: row.get(at)?,
        origin: row.get(at + 1)?,
        counter: row.get::<_, i64>(at + 2)?.cast_unsigned(),
        at: row.get(at + 3)?,
        reason: row.get(at + 4)?,
    })
}

/// Logs that the rows of marks stay because records cannot be read.
fn keep_marks(error: &StoreError) {
    log::warn!(reason:% = error; "cannot read a record, keeping its tombstone in the index as it is");
}
