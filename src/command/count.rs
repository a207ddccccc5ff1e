//! Numbers of things in texts for people.

use std::fmt;

use indicatif::HumanCount;

/// A number of things: `1 version`, `3,000 versions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    count: u64,
    singular: &'static str,
}

/// Returns a number of things that have this name in the singular.
pub(crate) fn counted(count: u64, singular: &'static str) -> Counted {
    Counted { count, singular }
}

/// Returns a number of versions.
pub(crate) fn versions(count: u64) -> Counted {
    counted(count, "version")
}

/// Returns whether there are none, for fields that are left out then.
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Counted {
    /// Returns the form of a verb that fits the number.
    pub(crate) fn verb(self, singular: &'static str, plural: &'static str) -> &'static str {
        if self.count == 1 { singular } else { plural }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", HumanCount(self.count))?;
        match (self.count, self.singular.strip_suffix('y')) {
            (1, _) => f.write_str(self.singular),
            (_, Some(stem)) => write!(f, "{stem}ies"),
            (_, None) => write!(f, "{}s", self.singular),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_in_the_singular() {
        for (count, singular, text) in [
            (1, "version", "1 version"),
            (0, "version", "0 versions"),
            (3000, "version", "3,000 versions"),
            (1, "entry", "1 entry"),
            (2, "entry", "2 entries"),
        ] {
            assert_eq!(counted(count, singular).to_string(), text);
        }
        assert_eq!([0, 1, 2].map(|count| versions(count).verb("is", "are")), ["are", "is", "are"]);
    }
}
