//! Marks: tombstones and their liftings, as deployments send them to each other.
//!
//! Every mark of a version has a counter, one higher than the highest that its deployment knew, and the name of that
//! deployment. The highest mark counts, by counter and then by name. So deployments that receive the same marks in
//! any order end with the same one.

use stoa_layout::marker;

use super::record::{Lift, Record, Tombstone};

/// A tombstone or its lifting. Of two marks of a version, the one with the higher counter counts. With the same counter,
/// the one with the higher origin counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Whether the tombstone was lifted.
    pub is_lifted: bool,
    /// The name of the deployment that made the mark. Empty if the deployment had no name, or an earlier release.
    pub origin: String,
    /// The number of the mark among the marks of the version.
    pub counter: u64,
    /// The time of the mark, RFC 3339 in UTC.
    pub at: String,
    /// The reason of the tombstone, which clients see.
    pub reason: Option<String>,
}

impl Mark {
    /// Returns the highest counter that is accepted from another deployment, if the known mark has this counter.
    ///
    /// A deployment that lies cannot take away the room above its mark: every deployment that has accepted the mark accepts
    /// the next decisions of the others too.
    pub fn max_counter(known: Option<u64>) -> u64 {
        let above = known.map_or(0, |known| known.saturating_add(1 << 20));
        above.clamp(1 << 40, 1 << 53)
    }

    /// Returns the rank of the mark among the marks of a version.
    pub fn rank(&self) -> (u64, &str) {
        (self.counter, &self.origin)
    }
}

/// The counter of a tombstone of an earlier release.
const FIRST: u64 = 1;

impl Record {
    /// Returns the mark of the version. A tombstone hides a lifting.
    pub fn mark(&self) -> Option<Mark> {
        let of_tombstone = |tombstone: &Tombstone| Mark {
            is_lifted: false,
            origin: tombstone.origin.clone().unwrap_or_default(),
            counter: tombstone.counter.unwrap_or(FIRST),
            at: tombstone.at.clone(),
            reason: tombstone.reason.clone(),
        };
        let of_lift = |lift: &Lift| Mark {
            is_lifted: true,
            origin: lift.origin.clone().unwrap_or_default(),
            counter: lift.counter,
            at: lift.at.clone(),
            reason: None,
        };
        self.tombstone.as_ref().map(of_tombstone).or_else(|| self.lift.as_ref().map(of_lift))
    }

    /// Replaces the mark by a higher one of any deployment. Returns false, and changes nothing, if the mark is not
    /// higher, or its counter is above [`Mark::max_counter`].
    pub fn apply(&mut self, mark: &Mark) -> bool {
        let known = self.mark();
        let is_higher = known.as_ref().is_none_or(|known| mark.rank() > known.rank());
        if !is_higher || mark.counter > Mark::max_counter(known.map(|known| known.counter)) {
            return false;
        }
        self.set(mark.clone());
        true
    }

    /// Adds a tombstone of this deployment. A tombstone that exists keeps its time, and stays as it is unless the reason is
    /// another.
    pub(crate) fn forbid_own(&mut self, new: Tombstone, own: Option<&str>) {
        let counter = self.next_counter();
        let (at, reason) = match self.tombstone.take() {
            Some(known) if new.reason.is_none() || new.reason == known.reason => {
                self.tombstone = Some(known);
                return;
            }
            Some(known) => (known.at, new.reason),
            None => (new.at, new.reason),
        };
        let origin = own.unwrap_or_default().to_owned();
        self.set(Mark { is_lifted: false, origin, counter, at, reason });
    }

    /// Lifts the tombstone by this deployment. Returns whether there was a tombstone.
    pub(crate) fn lift_own(&mut self, own: Option<&str>) -> bool {
        let counter = self.next_counter();
        let is_forbidden = self.tombstone.is_some();
        if is_forbidden {
            let origin = own.unwrap_or_default().to_owned();
            self.set(Mark { is_lifted: true, origin, counter, at: marker::now(), reason: None });
        }
        is_forbidden
    }

    fn next_counter(&self) -> u64 {
        self.mark().map_or(FIRST, |known| known.counter.saturating_add(1))
    }

    fn set(&mut self, mark: Mark) {
        let Mark { is_lifted, origin, counter, at, reason } = mark;
        let origin = (!origin.is_empty()).then_some(origin);
        (self.tombstone, self.lift) = if is_lifted {
            (None, Some(Lift { at, origin, counter }))
        } else {
            (Some(Tombstone { at, reason, origin, counter: Some(counter) }), None)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(is_lifted: bool, counter: u64, origin: &str) -> Mark {
        Mark { is_lifted, origin: origin.to_owned(), counter, at: format!("{origin}{counter}"), reason: None }
    }

    #[test]
    fn deployments_end_with_the_same_mark_whatever_the_order() {
        let marks = [
            mark(false, 1, "b"),
            mark(true, 2, "a"),
            mark(false, 2, "b"),
            mark(true, 2, "b"),
            mark(false, 1, ""),
        ];
        // Two marks of one rank differ only if a deployment lies. The first then stays.
        for rotation in 0..marks.len() {
            let mut record = Record::default();
            for mark in marks.iter().cycle().skip(rotation).take(marks.len()) {
                record.apply(mark);
            }
            assert_eq!(record.mark().unwrap().rank(), (2, "b"), "{rotation}");
            assert!(!record.apply(&marks[1]));
        }
    }

    #[test]
    fn own_marks_are_higher_than_all_known_marks() {
        let mut record = Record::default();
        assert!(!record.lift_own(Some("a")) && record == Record::default());
        record.forbid_own(Tombstone::new("1".into(), Some("x".into())), Some("a"));
        assert_eq!(record.mark().unwrap().rank(), (1, "a"));
        let same = record.clone();
        for reason in [None, Some("x".to_owned())] {
            record.forbid_own(Tombstone::new("2".into(), reason), Some("c"));
            assert_eq!(record, same, "nothing new");
        }
        record.forbid_own(Tombstone::new("2".into(), Some("y".into())), None);
        let tombstone = record.tombstone.clone().unwrap();
        assert_eq!((tombstone.at.as_str(), tombstone.origin, tombstone.counter), ("1", None, Some(2)));
        assert!(record.apply(&mark(false, 7, "z")));
        assert!(record.lift_own(Some("a")) && !record.lift_own(Some("a")));
        assert_eq!((record.mark().unwrap().rank(), record.tombstone.is_none()), ((8, "a"), true));
        record.forbid_own(Tombstone::new("3".into(), None), Some("a"));
        assert_eq!((record.mark().unwrap().rank(), record.lift.is_none()), ((9, "a"), true));
    }

    #[test]
    fn a_mark_of_an_earlier_release_has_the_lowest_rank() {
        let text = "[tombstone]\nat = \"2026-01-02T03:04:05Z\"\nreason = \"a key\"\n";
        let mut record: Record = toml::from_str(text).unwrap();
        let known = record.mark().unwrap();
        assert_eq!((known.rank(), known.reason.as_deref()), ((1, ""), Some("a key")));
        assert_eq!(toml::to_string(&record).unwrap(), text, "it stays as it is");
        assert!(record.apply(&mark(true, 1, "a")));
    }

    #[test]
    fn a_counter_without_room_above_it_is_left_out() {
        let mut record = Record::default();
        assert!(!record.apply(&mark(false, u64::MAX, "z")) && !record.apply(&mark(true, (1 << 40) + 1, "z")));
        assert!(record.apply(&mark(false, 1 << 40, "z")));
        let mut other = record.clone();
        assert!(record.lift_own(Some("a")));
        assert!(other.apply(&record.mark().unwrap()), "the decision after the highest counter is accepted");
        assert!(!other.apply(&mark(false, 1 << 41, "z")), "nobody can use up the room above it");
        let text = toml::to_string(&record).unwrap();
        assert_eq!(toml::from_str::<Record>(&text).unwrap(), record);
    }
}
