//! The known hashes and the tombstone of a version, from a manifest to the record of the store and back.

use stoa_bucket::Manifest;
use stoa_gomod::ModuleVersion;
use stoa_store::{Mark, Objection, Record, Tombstone, Verdict};

use crate::unavailable::Unavailable;

/// Returns the error for a version with a tombstone in the bucket.
pub(crate) fn forbidden(version: &ModuleVersion, tombstone: &stoa_bucket::Tombstone) -> Unavailable {
    Unavailable::objection(version, &Objection::Tombstone(local_tombstone(tombstone)))
}

/// Returns a tombstone of the bucket as the store has it.
pub(crate) fn local_tombstone(tombstone: &stoa_bucket::Tombstone) -> Tombstone {
    Tombstone {
        at: tombstone.at.clone(),
        reason: tombstone.reason.clone(),
        origin: tombstone.origin.clone(),
        counter: tombstone.counter,
    }
}

/// Returns a mark of the bucket as the store has it.
pub(crate) fn local_mark(mark: stoa_bucket::Mark) -> Mark {
    let stoa_bucket::Mark { is_lifted, origin, counter, at, reason } = mark;
    Mark { is_lifted, origin, counter, at, reason }
}

/// Adds what the bucket knows of a version to its record. Returns whether the record has changed.
pub(crate) fn add_to_record(record: &mut Record, manifest: &Manifest) -> bool {
    let known = &manifest.record;
    let h1 = known.h1.as_ref().or(manifest.seal());
    if let (Some(h1), Some(gomod_h1), Some(verdict)) = (&known.h1, &known.gomod_h1, &known.verdict) {
        let verdict = Verdict {
            database: verdict.database.clone(),
            tree_size: verdict.tree_size,
            at: verdict.at.clone(),
        };
        return record.confirm(h1, gomod_h1, &verdict);
    }
    let before = (record.h1.clone(), record.gomod_h1.clone());
    if record.h1.is_none() {
        record.h1 = h1.cloned();
    }
    if record.gomod_h1.is_none() {
        record.gomod_h1.clone_from(&known.gomod_h1);
    }
    before != (record.h1.clone(), record.gomod_h1.clone())
}

/// Returns what is known of a version, for a manifest.
pub(crate) fn record_there(record: &Record) -> stoa_bucket::Record {
    stoa_bucket::Record {
        h1: record.h1.clone(),
        gomod_h1: record.gomod_h1.clone(),
        verdict: record.verdict.as_ref().map(|verdict| stoa_bucket::Verdict {
            database: verdict.database.clone(),
            tree_size: verdict.tree_size,
            at: verdict.at.clone(),
        }),
        tombstone: None,
        lift: None,
    }
}
