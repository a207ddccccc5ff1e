//! The overlap of two folders: a command refuses to copy a store into itself.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

/// The relation of a folder to the store. Its text is the reason why a command refuses the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlap {
    Same,
    /// The first is below the second.
    Inside,
    /// The second is below the first.
    Around,
}

impl Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "it is the store itself",
            Self::Inside => "it is inside the store",
            Self::Around => "the store is inside it",
        })
    }
}

/// Returns how two folders overlap, if they do. They need not exist yet.
pub(crate) fn overlap(first: &Path, second: &Path) -> Option<Overlap> {
    let (first, second) = (real(first), real(second));
    if first == second {
        Some(Overlap::Same)
    } else if first.starts_with(&second) {
        Some(Overlap::Inside)
    } else {
        second.starts_with(&first).then_some(Overlap::Around)
    }
}

/// Resolves the symlinks of a path, as far as the path exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for existing in path.ancestors() {
        if let Ok(real) = existing.canonicalize() {
            return real.join(path.strip_prefix(existing).unwrap_or(Path::new("")));
        }
    }
    path
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn folders_overlap_where_they_really_are() {
        let dir = testkit::tempdir();
        let at = |path: &str| dir.path().join(path);
        std::os::unix::fs::symlink(dir.path(), at("link")).unwrap();
        assert_eq!(overlap(&at("a"), &at("link/a")), Some(Overlap::Same));
        assert_eq!(overlap(&at("link/a/b"), &at("a")), Some(Overlap::Inside));
        assert_eq!(overlap(&at("a"), &at("link/a/b/c")), Some(Overlap::Around));
        assert_eq!(overlap(&at("a"), &at("ab")), None);
    }
}
