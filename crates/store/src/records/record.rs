//! The record of a version as a value: its hashes, who confirmed them, its tombstone, and its objections to content.

use serde::{Deserialize, Serialize};
use stoa_gomod::H1;
use stoa_layout::marker;

/// The record of a version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The hash of the zip: of the version that was removed, or the hash that the verdict confirms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub h1: Option<H1>,
    /// The hash of the go.mod, from the same source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gomod_h1: Option<H1>,
    /// The confirmation of the hashes. Without one they were recorded by a removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The last lookup whose answer had no valid proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_lookup: Option<FailedLookup>,
    /// The tombstone, if the version was removed for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<Tombstone>,
    /// The lifting of the last tombstone, if there is no tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lift: Option<Lift>,
    /// Keys of other releases, which are kept as they are.
    #[serde(flatten)]
    pub other: toml::Table,
}

/// The confirmation of the hashes of a record, by a checksum database or by a go.sum that the operator gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The name of the database, or `go.sum`.
    pub database: String,
    /// The size of the tree that holds them. 0 for a go.sum.
    pub tree_size: u64,
    /// The time of the confirmation, RFC 3339 in UTC.
    pub at: String,
}

/// The name in the place of a database for the hashes of a go.sum. No database can have it, because its keys name hosts.
const GO_SUM: &str = "go.sum";

impl Verdict {
    /// Returns the verdict of a go.sum, with the current time.
    pub fn of_go_sum() -> Self {
        Self { database: GO_SUM.to_owned(), tree_size: 0, at: marker::now() }
    }

    /// Returns whether the hashes come from a go.sum and not from a database.
    pub fn is_of_go_sum(&self) -> bool {
        self.database == GO_SUM
    }
}

/// A lookup whose answer had no valid proof. Clients get no go.mod of the version before a lookup succeeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedLookup {
    /// The time of the lookup, RFC 3339 in UTC.
    pub at: String,
}

impl FailedLookup {
    /// Returns a failed lookup with the current time.
    pub fn now() -> Self {
        Self { at: marker::now() }
    }
}

/// The origin of the hashes in a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedBy {
    /// The version had them when it was removed from this store.
    Removal,
    /// The checksum database of this name has them.
    Database(String),
    /// A go.sum has them.
    GoSum,
}

impl std::fmt::Display for RecordedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Removal => f.write_str("the hash recorded when it was removed"),
            Self::Database(name) => write!(f, "the hash in the checksum database {name}"),
            Self::GoSum => f.write_str("the hash in a go.sum"),
        }
    }
}

/// A tombstone: the version was removed for good and is neither served nor stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The time of the removal, RFC 3339 in UTC.
    pub at: String,
    /// The reason, which clients see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The name of the deployment that set it. `None` without a name, and in a record of an earlier release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Its number among the marks of the version. `None` in a record of an earlier release: it counts as 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<u64>,
}

/// The lifting of a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lift {
    /// The time of the lifting, RFC 3339 in UTC.
    pub at: String,
    /// The name of the deployment that lifted it. `None` without a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Its number among the marks of the version.
    pub counter: u64,
}

impl Tombstone {
    /// Returns a tombstone with the current time. It gets its number from the record.
    pub fn now(reason: Option<String>) -> Self {
        Self::new(marker::now(), reason)
    }

    /// Returns a tombstone with a time. It gets its number from the record.
    pub fn new(at: String, reason: Option<String>) -> Self {
        Self { at, reason, origin: None, counter: None }
    }
}

impl std::fmt::Display for Tombstone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "it has been forbidden since {}: {reason}", self.at),
            None => write!(f, "it has been forbidden since {}", self.at),
        }
    }
}

/// The reason why a record forbids to publish a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// The version was removed for good.
    #[error("{0}")]
    Tombstone(Tombstone),
    /// The content differs from the recorded content.
    #[error("its {file} has {ours}, but {by} is {recorded}")]
    Differs {
        /// The file: "zip" or "mod".
        file: &'static str,
        /// The origin of the recorded hash.
        by: RecordedBy,
        /// The recorded hash.
        recorded: H1,
        /// The hash of the version that was to be published.
        ours: H1,
    },
}

impl Record {
    /// Returns why this record forbids to publish a version with these hashes. `None` if it allows it.
    pub fn objection(&self, h1: &H1, gomod_h1: Option<&H1>) -> Option<Objection> {
        if let Some(tombstone) = &self.tombstone {
            return Some(Objection::Tombstone(tombstone.clone()));
        }
        self.difference("zip", &self.h1, Some(h1)).or_else(|| self.objection_to_mod(gomod_h1))
    }

    /// Returns why this record forbids to serve or publish a mod with this hash. `None` if it allows it.
    pub fn objection_to_mod(&self, gomod_h1: Option<&H1>) -> Option<Objection> {
        self.difference("mod", &self.gomod_h1, gomod_h1)
    }

    fn difference(&self, file: &'static str, recorded: &Option<H1>, ours: Option<&H1>) -> Option<Objection> {
        match (recorded, ours) {
            (Some(recorded), Some(ours)) if recorded != ours => Some(Objection::Differs {
                file,
                by: self.recorded_by(),
                recorded: recorded.clone(),
                ours: ours.clone(),
            }),
            _ => None,
        }
    }

    /// Returns the origin of the hashes.
    pub fn recorded_by(&self) -> RecordedBy {
        match &self.verdict {
            None => RecordedBy::Removal,
            Some(verdict) if verdict.is_of_go_sum() => RecordedBy::GoSum,
            Some(verdict) => RecordedBy::Database(verdict.database.clone()),
        }
    }

    /// Adds a verdict for these hashes, unless there is a verdict. Returns whether the record changed.
    ///
    /// Hashes that were recorded by a removal are replaced: a moved tag may have been stored and removed before the
    /// database was asked.
    pub fn confirm(&mut self, h1: &H1, gomod_h1: &H1, verdict: &Verdict) -> bool {
        if self.verdict.is_some() {
            return false;
        }
        self.h1 = Some(h1.clone());
        self.gomod_h1 = Some(gomod_h1.clone());
        self.verdict = Some(verdict.clone());
        self.failed_lookup = None;
        true
    }

    /// Removes the hashes and their verdict. Returns whether there were any.
    pub fn forget(&mut self) -> bool {
        let had_any = self.h1.is_some() || self.gomod_h1.is_some() || self.verdict.is_some();
        *self = Self {
            tombstone: self.tombstone.take(),
            lift: self.lift.take(),
            other: std::mem::take(&mut self.other),
            ..Self::default()
        };
        had_any
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::records) fn h1(letter: char) -> H1 {
        H1::new(&format!("h1:{}=", letter.to_string().repeat(43))).unwrap()
    }

    pub(in crate::records) fn full() -> Record {
        Record {
            h1: Some(h1('A')),
            gomod_h1: Some(h1('E')),
            verdict: Some(Verdict { database: "sum.example".into(), tree_size: 7, at: "t".into() }),
            failed_lookup: Some(FailedLookup::now()),
            tombstone: Some(Tombstone::now(Some("a secret\nin it".into()))),
            lift: Some(Lift { at: "t".into(), origin: Some("paris".into()), counter: 3 }),
            other: toml::Table::from_iter([("later".to_owned(), toml::Value::Integer(3))]),
        }
    }

    #[test]
    fn a_record_refuses_other_content_and_a_tombstone_refuses_all() {
        let record = Record { tombstone: None, ..full() };
        assert_eq!(record.objection(&h1('A'), Some(&h1('E'))), None);
        assert_eq!(record.objection(&h1('A'), None), None);
        let objection = |h1: H1, gomod: H1| record.objection(&h1, Some(&gomod)).unwrap().to_string();
        assert!(objection(h1('I'), h1('E')).starts_with("its zip has h1:III"));
        assert!(objection(h1('A'), h1('I')).starts_with("its mod has h1:III"));
        assert!(matches!(full().objection(&h1('A'), None), Some(Objection::Tombstone(_))));
        assert_eq!(Record::default().objection(&h1('A'), Some(&h1('A'))), None);
    }
}
