//! Equal warnings: the first is written, the others are counted until [`Repeats::take`] asks for the counts.

use std::collections::HashMap;

use log::Level;

use super::line::Line;

/// The most lines that are remembered. Further lines are written without being counted.
const MAX_LINES: usize = 512;

/// The longest line that is remembered. With `MAX_LINES` this bounds the memory to about 1 MiB.
const MAX_LINE_BYTES: usize = 2048;

/// The recent warnings and errors, and how often each was repeated.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    recent: HashMap<(Level, String), u64>,
}

/// A line that was repeated.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repeated {
    pub(super) level: Level,
    pub(super) line: String,
    pub(super) count: u64,
}

impl Repeats {
    /// Returns whether a line is to be written. A line that is not is counted.
    pub(super) fn is_new(&mut self, level: Level, line: &Line) -> bool {
        let identity = line.identity();
        if identity.len() > MAX_LINE_BYTES {
            return true;
        }
        let key = (level, identity);
        if let Some(count) = self.recent.get_mut(&key) {
            *count += 1;
            return false;
        }
        if self.recent.len() < MAX_LINES {
            self.recent.insert(key, 0);
        }
        true
    }

    /// Forgets all lines, and returns those that were repeated.
    pub(super) fn take(&mut self) -> Vec<Repeated> {
        let repeated = self.recent.drain().filter(|(_, count)| *count > 0);
        let mut repeated: Vec<_> =
            repeated.map(|((level, line), count)| Repeated { level, line, count }).collect();
        repeated.sort_by(|one, other| one.line.cmp(&other.line));
        repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Record;

    fn line(text: &str) -> Line {
        Line::of(&Record::builder().target("stoa").args(format_args!("{text}")).build())
    }

    #[test]
    fn equal_lines_are_counted() {
        let mut repeats = Repeats::default();
        assert!(repeats.is_new(Level::Warn, &line("a")));
        assert!(!repeats.is_new(Level::Warn, &line("a")));
        assert!(repeats.is_new(Level::Error, &line("a")), "an error is not a warning");
        assert!(repeats.is_new(Level::Warn, &line("b")));
        assert!(!repeats.is_new(Level::Warn, &line("a")));
        assert_eq!(repeats.take(), [Repeated { level: Level::Warn, line: "a".to_owned(), count: 2 }]);
        assert!(repeats.is_new(Level::Warn, &line("a")), "the counts begin anew");
        assert_eq!(repeats.take(), []);
    }

    #[test]
    fn memory_is_bounded() {
        let mut repeats = Repeats::default();
        for n in 0..MAX_LINES * 2 {
            assert!(repeats.is_new(Level::Warn, &line(&n.to_string())));
        }
        let long = line(&"x".repeat(MAX_LINE_BYTES + 1));
        assert!(repeats.is_new(Level::Warn, &long) && repeats.is_new(Level::Warn, &long));
        assert_eq!(repeats.recent.len(), MAX_LINES);
        repeats.take();
        assert!(repeats.recent.is_empty());
    }
}
