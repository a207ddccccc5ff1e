//! The choice of the versions to remove.

use std::collections::BTreeMap;

use stoa_store::Day;

/// The age of a version: the day of its last use, then the day of its publication.
pub(crate) type Age = (Day, Day);

/// The versions to remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// All older versions.
    before: Option<Age>,
    /// Versions of this age, at least this many bytes of them.
    of: Option<(Age, u64)>,
}

impl Plan {
    /// Chooses what to remove, so that at most `max` of `total` bytes are left, and no version that was last used
    /// before a day.
    pub(crate) fn new(
        counted: &BTreeMap<Age, u64>,
        total: u64,
        max: Option<u64>,
        unused_since: Option<Day>,
    ) -> Self {
        let unused = unused_since.map(|day| (day, Day(i64::MIN)));
        let mut excess = max.map_or(0, |max| total.saturating_sub(max));
        for (age, bytes) in counted {
            let is_unused = unused.is_some_and(|unused| *age < unused);
            if !is_unused && excess == 0 {
                break;
            }
            if !is_unused && excess <= *bytes {
                return Self { before: Some(*age), of: Some((*age, excess)) };
            }
            excess = excess.saturating_sub(*bytes);
        }
        // The excess is more than all that may go: all of it goes.
        let all = (excess > 0).then_some((Day(i64::MAX), Day(i64::MAX)));
        Self { before: all.or(unused), of: None }
    }

    /// Returns whether a version of this age goes, and counts its bytes.
    pub(crate) fn takes(&mut self, age: Age, bytes: u64) -> bool {
        if self.before.is_some_and(|before| age < before) {
            return true;
        }
        match &mut self.of {
            Some((of, left)) if *of == age && *left > 0 => {
                *left = left.saturating_sub(bytes);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(last_use: i64, published: i64) -> Age {
        (Day(last_use), Day(published))
    }

    /// Returns the indices of the versions that go, of versions of 10 bytes each.
    fn gone(ages: &[Age], max: Option<u64>, unused_since: Option<i64>) -> Vec<usize> {
        let mut counted = BTreeMap::new();
        for age in ages {
            *counted.entry(*age).or_default() += 10;
        }
        let total = 10 * ages.len() as u64;
        let mut plan = Plan::new(&counted, total, max, unused_since.map(Day));
        (0..ages.len()).filter(|n| plan.takes(ages[*n], 10)).collect()
    }

    #[test]
    fn the_oldest_versions_go_until_the_rest_fits() {
        let ages = [age(9, 1), age(5, 1), age(5, 3), age(5, 1), age(2, 2)];
        assert!(gone(&ages, Some(50), None).is_empty());
        assert_eq!(gone(&ages, Some(49), None), [4]);
        assert_eq!(gone(&ages, Some(40), None), [4]);
        assert_eq!(gone(&ages, Some(39), None), [1, 4], "as many of one age as it takes");
        assert_eq!(gone(&ages, Some(20), None), [1, 3, 4], "those published first go first");
        assert_eq!(gone(&ages, Some(10), None), [1, 2, 3, 4]);
        assert_eq!(gone(&ages, Some(0), None), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn versions_unused_since_a_day_go() {
        let ages = [age(9, 1), age(5, 1), age(4, 1)];
        assert!(gone(&ages, None, Some(4)).is_empty());
        assert_eq!(gone(&ages, None, Some(5)), [2]);
        assert_eq!(gone(&ages, None, Some(10)), [0, 1, 2]);
        assert_eq!(gone(&ages, Some(10), Some(5)), [1, 2], "the larger of both");
        assert_eq!(gone(&ages, Some(25), Some(9)), [1, 2]);
        assert!(gone(&[], Some(0), Some(5)).is_empty());
    }

    #[test]
    fn all_versions_may_go_if_the_kept_ones_exceed_the_limit() {
        let counted = BTreeMap::from([(age(1, 1), 10)]);
        let mut plan = Plan::new(&counted, 100, Some(20), None);
        assert!(plan.takes(age(1, 1), 10));
    }
}
