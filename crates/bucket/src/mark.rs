//! Marks in manifests: tombstones and their liftings, with the same ranks as in the records of a store in a folder.

use stoa_layout::clock;

use crate::{Lift, Record, Tombstone};

/// A tombstone or its lifting. The fields mean the same as in a store in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Whether the tombstone was lifted.
    pub is_lifted: bool,
    /// The name of the deployment that made the mark. Empty if it had none.
    pub origin: String,
    /// The number of the mark among the marks of the version.
    pub counter: u64,
    /// The time of the mark, RFC 3339 in UTC.
    pub at: String,
    /// The reason of the tombstone.
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

impl From<&Tombstone> for Mark {
    fn from(tombstone: &Tombstone) -> Self {
        Self {
            is_lifted: false,
            origin: tombstone.origin.clone().unwrap_or_default(),
            counter: tombstone.counter.unwrap_or(FIRST),
            at: tombstone.at.clone(),
            reason: tombstone.reason.clone(),
        }
    }
}

impl From<&Lift> for Mark {
    fn from(lift: &Lift) -> Self {
        Self {
            is_lifted: true,
            origin: lift.origin.clone().unwrap_or_default(),
            counter: lift.counter,
            at: lift.at.clone(),
            reason: None,
        }
    }
}

impl Record {
    /// Returns the mark of the version. A tombstone hides a lifting.
    pub fn mark(&self) -> Option<Mark> {
        self.tombstone.as_ref().map(Mark::from).or_else(|| self.lift.as_ref().map(Mark::from))
    }

    /// Replaces the mark by a higher one of any deployment. Returns false, and changes nothing, if the mark is not
    /// higher, or its counter is above [`Mark::max_counter`].
    pub fn apply(&mut self, mark: &Mark) -> bool {
        let known = self.mark();
        let is_higher = known.as_ref().is_none_or(|known| mark.rank() > known.rank());
        if !is_higher || mark.counter > Mark::max_counter(known.map(|known| known.counter)) {
            return false;
        }
        let origin = (!mark.origin.is_empty()).then(|| mark.origin.clone());
        let (at, counter) = (mark.at.clone(), mark.counter);
        (self.tombstone, self.lift) = if mark.is_lifted {
            (None, Some(Lift { at, origin, counter }))
        } else {
            let reason = mark.reason.clone();
            (Some(Tombstone { at, reason, origin, counter: Some(counter) }), None)
        };
        true
    }

    /// Adds a tombstone. Without a counter it is one of this deployment, and gets the next counter, unless it is there
    /// already. With a counter it is added if it is higher than the known mark. Returns whether the tombstone is in the
    /// record now.
    pub(crate) fn forbid(&mut self, tombstone: &Tombstone) -> bool {
        if tombstone.counter.is_some() {
            let mark = Mark::from(tombstone);
            let is_there =
                || self.tombstone.as_ref().is_some_and(|known| Mark::from(known).rank() == mark.rank());
            return is_there() || self.apply(&mark);
        }
        let key = |tombstone: &Tombstone| {
            (tombstone.at.clone(), tombstone.reason.clone(), tombstone.origin.clone())
        };
        if self.tombstone.as_ref().is_none_or(|known| key(known) != key(tombstone)) {
            let counter = Some(self.next_counter());
            self.tombstone = Some(Tombstone { counter, ..tombstone.clone() });
            self.lift = None;
        }
        true
    }

    /// Lifts the tombstone by the deployment with this name. Returns whether there was a tombstone.
    pub fn lift_by(&mut self, origin: Option<&str>) -> bool {
        let counter = self.next_counter();
        let is_forbidden = self.tombstone.take().is_some();
        if is_forbidden {
            self.lift = Some(Lift { at: clock::now(), origin: origin.map(str::to_owned), counter });
        }
        is_forbidden
    }

    fn next_counter(&self) -> u64 {
        self.mark().map_or(FIRST, |known| known.counter.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_ranked_and_numbered() {
        let mut record = Record::default();
        assert!(!record.lift_by(Some("a")) && record.is_empty());
        let own = Tombstone { origin: Some("a".into()), ..Tombstone::new("1".into(), None) };
        assert!(record.forbid(&own) && record.forbid(&own));
        assert_eq!(record.mark().unwrap().rank(), (1, "a"), "a second attempt changes nothing");
        let other = |counter, origin: &str| Tombstone {
            origin: Some(origin.into()),
            counter: Some(counter),
            ..Tombstone::new("2".into(), Some("a key".into()))
        };
        assert!(record.forbid(&other(1, "b")) && !record.forbid(&other(1, "a")));
        assert!(record.forbid(&other(1, "b")), "it is there");
        assert!(record.lift_by(None) && !record.lift_by(None));
        let lifted = record.mark().unwrap();
        assert_eq!((lifted.rank(), record.tombstone.is_none()), ((2, ""), true));
        assert!(!record.forbid(&other(1, "z")) && !record.forbid(&other(u64::MAX, "z")));
        assert!(!record.apply(&lifted) && record.apply(&Mark { origin: "c".into(), ..lifted }));
        record.forget();
        assert_eq!(record.mark().unwrap().rank(), (2, "c"));
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }

    #[test]
    fn a_tombstone_of_an_earlier_release_has_the_lowest_rank() {
        let text = r#"{"tombstone":{"at":"1"}}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!(record.mark().unwrap().rank(), (1, ""));
        assert_eq!(serde_json::to_string(&record).unwrap(), text, "it stays as it is");
    }
}
