//! Items that upstreams do not have, for some seconds.
//!
//! Clients ask for the same absent item again and again: the go command asks for each prefix of a package path as a module,
//! and many builds start at once. Only a 404 or 410 is remembered, in memory, until something of the module is
//! published or a process changes one of its records. So `stoa remove --lift` clears what a running server remembers.

use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use stoa_gomod::ModulePath;
use stoa_store::{RecordsState, Store};

use crate::unavailable::Unavailable;

/// Maximum number of absent items.
const ENTRIES: usize = 10_000;

/// The absent items.
#[derive(Debug)]
pub(crate) struct Absences {
    ttl: Duration,
    /// By the module and the path of the item.
    known: Cache<(ModulePath, String), Absence>,
}

#[derive(Debug, Clone)]
struct Absence {
    since: Instant,
    /// The records of the module at that time. `None` if they could not be read.
    records: Option<RecordsState>,
    error: Unavailable,
}

impl Absences {
    /// Creates a memory that lasts for a time. Zero remembers nothing.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { ttl, known: Cache::new(ENTRIES) }
    }

    /// Returns the upstream's answer if an item of a module was absent a moment ago.
    pub(crate) fn get(&self, store: &Store, module: &ModulePath, item: String) -> Option<Unavailable> {
        self.get_in(|| state(store, module), module, item)
    }

    fn get_in(
        &self,
        records: impl FnOnce() -> Option<RecordsState>,
        module: &ModulePath,
        item: String,
    ) -> Option<Unavailable> {
        if self.ttl.is_zero() || self.known.is_empty() {
            return None;
        }
        let absence = self.known.get(&(module.clone(), item))?;
        let is_known =
            absence.since.elapsed() < self.ttl && absence.records.is_some() && absence.records == records();
        is_known.then_some(absence.error)
    }

    /// Remembers that an item is absent. Other errors than absence are not remembered.
    pub(crate) fn note(&self, store: &Store, module: &ModulePath, item: String, error: &Unavailable) {
        self.note_in(|| state(store, module), module, item, error);
    }

    fn note_in(
        &self,
        records: impl FnOnce() -> Option<RecordsState>,
        module: &ModulePath,
        item: String,
        error: &Unavailable,
    ) {
        if matches!(error, Unavailable::Absent(_)) && !self.ttl.is_zero() {
            let absence = Absence { since: Instant::now(), records: records(), error: error.clone() };
            self.known.insert((module.clone(), item), absence);
        }
    }

    /// Forgets the absent items of a module.
    pub(crate) fn forget(&self, module: &ModulePath) {
        self.known.retain(|(path, _), _| path != module);
    }
}

fn state(store: &Store, module: &ModulePath) -> Option<RecordsState> {
    store.records().state(module).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unchanged() -> Option<RecordsState> {
        Some(RecordsState::default())
    }

    fn module(path: &str) -> ModulePath {
        ModulePath::new(path).unwrap()
    }

    #[test]
    fn only_absence_is_remembered_and_until_a_publish() {
        let absences = Absences::new(Duration::from_secs(100_000));
        let (one, other) = (module("a.b/one"), module("a.b/other"));
        let has = |module: &ModulePath| absences.get_in(unchanged, module, "list".to_owned()).is_some();
        absences.note_in(
            unchanged,
            &one,
            "list".to_owned(),
            &Unavailable::Upstream("a failure".to_owned().into()),
        );
        assert!(!has(&one));
        let absent = Unavailable::Absent("none".to_owned().into());
        for module in [&one, &other] {
            absences.note_in(unchanged, module, "list".to_owned(), &absent);
            assert!(has(module) && absences.get_in(unchanged, module, "latest".to_owned()).is_none());
        }
        absences.forget(&one);
        assert!(!has(&one) && has(&other));
        assert!(absences.get_in(|| None, &other, "list".to_owned()).is_none(), "the records cannot be read");
        let none = Absences::new(Duration::ZERO);
        none.note_in(unchanged, &one, "list".to_owned(), &absent);
        assert!(none.get_in(unchanged, &one, "list".to_owned()).is_none());
    }

    #[test]
    fn the_number_of_absent_items_is_bounded() {
        let absences = Absences::new(Duration::from_secs(100_000));
        let (module, absent) = (module("a.b/c"), Unavailable::Absent("none".to_owned().into()));
        for n in 0..2 * ENTRIES {
            absences.note_in(unchanged, &module, n.to_string(), &absent);
        }
        assert!(absences.known.len() <= ENTRIES);
    }
}
