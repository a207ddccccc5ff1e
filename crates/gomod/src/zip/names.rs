//! Conflicts between the names of a module's files.
//!
//! Some file systems ignore case, so two names that differ only in case cannot both be extracted. Neither
//! can a name be a file and a directory. Names are stored as a tree of elements: full paths of all parents
//! would need memory quadratic in their depth.

use super::Reason;
use std::borrow::Cow;
use std::collections::HashMap;
use unicode_case_mapping::case_folded;

/// Maximum number of names, including directories, to limit memory.
const MAX_NAMES: u32 = 1_000_000;

/// The names of a module so far.
#[derive(Default)]
pub(super) struct Names<'a> {
    nodes: HashMap<(u32, Cow<'a, str>), Node<'a>>,
    /// The number of the last node; 0 is the root.
    last: u32,
}

/// A file or directory, found by its parent's number and its own folded name.
struct Node<'a> {
    number: u32,
    name: &'a str,
    is_dir: bool,
}

impl<'a> Names<'a> {
    /// Adds a path and its parents. Returns the conflict, if there is one.
    pub(super) fn add(&mut self, path: &'a str, is_dir: bool) -> Result<(), Reason> {
        let mut parent = 0;
        let mut elements = path.split('/').peekable();
        while let Some(name) = elements.next() {
            let is_last = elements.peek().is_none();
            let is_dir = is_dir || !is_last;
            let key = (parent, fold(name));
            match self.nodes.get(&key) {
                Some(node) if node.name != name => return Err(Reason::CaseCollision),
                Some(node) if node.is_dir != is_dir => return Err(Reason::FileAndDir),
                Some(_) if !is_dir => return Err(Reason::Duplicate),
                Some(node) => parent = node.number,
                None if self.last == MAX_NAMES => return Err(Reason::TooManyNames),
                None => {
                    self.last += 1;
                    parent = self.last;
                    self.nodes.insert(key, Node { number: parent, name, is_dir });
                }
            }
        }
        Ok(())
    }
}

/// Folds case by Unicode's simple folding, which maps single characters.
pub(crate) fn fold(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
        return Cow::Borrowed(name);
    }
    let folded = |c| case_folded(c).and_then(|code| char::from_u32(code.get())).unwrap_or(c);
    Cow::Owned(name.chars().map(folded).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn case_is_folded_by_simple_folding() {
        for (a, b, same) in [
            ("Straße", "strasse", false),
            ("ẞ", "ß", true),
            ("\u{212a}", "k", true),
            ("ſ", "S", true),
            ("Σ", "ς", true),
            ("İ", "i", false),
            ("ı", "I", false),
            ("Å", "\u{212b}", true),
            ("Ꭰ", "ꭰ", true),
        ] {
            assert_eq!(fold(a) == fold(b), same, "{a} {b}");
        }
    }

    #[test]
    fn parents_conflict_too() {
        let mut names = Names::default();
        assert_eq!(names.add("a/b/c", false), Ok(()));
        assert_eq!(names.add("a/b", true), Ok(()));
        assert_eq!(names.add("a/b", true), Ok(()));
        assert_eq!(names.add("a/b", false), Err(Reason::FileAndDir));
        assert_eq!(names.add("a/B/d", false), Err(Reason::CaseCollision));
        assert_eq!(names.add("a/b/c", false), Err(Reason::Duplicate));
        assert_eq!(names.add("a/b/c/d", false), Err(Reason::FileAndDir));
    }

    #[test]
    fn deep_paths_need_linear_memory() {
        let deep: Vec<String> = (0..20).map(|n| format!("{n}/{}", "a/".repeat(30_000))).collect();
        let mut names = Names::default();
        for path in &deep {
            names.add(path.trim_end_matches('/'), true).unwrap();
        }
    }

    proptest! {
        #[test]
        fn folding_is_idempotent_and_wider_than_lower_case_of_ascii(name in "\\PC{0,12}") {
            let once = fold(&name).into_owned();
            prop_assert_eq!(fold(&once).into_owned(), once.clone());
            prop_assert_eq!(fold(&name.to_ascii_lowercase()).into_owned(), once);
        }
    }
}
