//! The hashes in a record, as lines of a go.sum.

use crate::{H1, ModuleVersion};

/// The hashes of a version in a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    /// The hash of the zip.
    pub zip: H1,
    /// The hash of the mod.
    pub modfile: H1,
}

impl Sums {
    /// Parses the text of a record. `None` if it does not have both hashes of this version.
    ///
    /// As in the go command, the first line for a file counts, and lines with other algorithms are skipped.
    pub fn parse(text: &str, version: &ModuleVersion) -> Option<Self> {
        let (path, version) = (version.path(), version.version());
        let hash = |prefix: String| {
            let hash = text
                .lines()
                .find_map(|line| line.strip_prefix(&prefix).filter(|hash| hash.starts_with("h1:")));
            hash.and_then(|hash| H1::new(hash).ok())
        };
        Some(Self {
            zip: hash(format!("{path} {version} "))?,
            modfile: hash(format!("{path} {version}/go.mod "))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_version_counts() {
        let version = ModuleVersion::parse("example.com/M@v1.0.0").unwrap();
        let hash = |letter: &str| format!("h1:{}=", letter.repeat(42) + "A");
        let (zip, modfile) = (hash("b"), hash("c"));
        let own = format!("example.com/M v1.0.0 {zip}\nexample.com/M v1.0.0/go.mod {modfile}\n");
        let sums = Sums::parse(&own, &version).unwrap();
        assert_eq!((sums.zip.as_str(), sums.modfile.as_str()), (zip.as_str(), modfile.as_str()));
        let later = format!("{own}example.com/M v1.0.0 {modfile}\n");
        assert_eq!(Sums::parse(&later, &version), Some(sums.clone()));
        let newer = format!("example.com/M v1.0.0 h2:x\n{own}");
        assert_eq!(Sums::parse(&newer, &version), Some(sums));
        for none in [
            own.replace("v1.0.0", "v1.0.1"),
            own.replace("/M", "/m"),
            own.replace("/go.mod", "/x"),
            own.replace("h1:b", "h1:"),
            format!("example.com/M v1.0.0 h1:short\n{own}"),
            String::new(),
        ] {
            assert_eq!(Sums::parse(&none, &version), None, "{none}");
        }
    }
}
