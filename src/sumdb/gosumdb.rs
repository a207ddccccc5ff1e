//! The checksum database that `GOSUMDB` names: `NAME` or `NAME+HASH+KEY`, optionally followed by a URL, or
//! `off`.

use std::str::FromStr;

use stoa_gomod::sumdb::{KeyError, Verifier};

/// The databases whose keys need not be configured (`knownGOSUMDB` in the go command).
const KNOWN: [(&str, &str); 1] =
    [("sum.golang.org", "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8")];

/// A checksum database, as `GOSUMDB` names it.
#[derive(Debug, Clone)]
pub struct Gosumdb {
    pub(super) verifier: Verifier,
    url: Option<String>,
}

/// The reason why a text does not name a checksum database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GosumdbError {
    /// It does not have one or two words.
    #[error(
        "{0:?} is not a checksum database\nhelp: use NAME, NAME+HASH+KEY, either of them followed by a URL, or off"
    )]
    Form(String),
    /// It has no key, and the key of this database is unknown.
    #[error("the key of the checksum database {0} is unknown\nhelp: use {0}+HASH+KEY")]
    Unknown(String),
    /// The key is invalid.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The name cannot be part of a URL.
    #[error(
        "{0:?} is not a valid name of a checksum database\nhelp: use a host, optionally followed by a path"
    )]
    Name(String),
}

impl Gosumdb {
    /// Parses a value of `GOSUMDB`. Returns `None` for `off`.
    pub fn parse(text: &str) -> Result<Option<Self>, GosumdbError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (key, url) = match words[..] {
            ["off"] => return Ok(None),
            [key] => (key, None),
            [key, url] => (key, Some(url.to_owned())),
            _ => return Err(GosumdbError::Form(text.to_owned())),
        };
        let known = KNOWN.iter().find(|(name, _)| *name == key).map(|(_, key)| *key);
        if known.is_none() && !key.contains('+') {
            return Err(GosumdbError::Unknown(key.to_owned()));
        }
        let verifier = Verifier::parse(known.unwrap_or(key))?;
        match is_host_and_path(verifier.name()) {
            true => Ok(Some(Self { verifier, url })),
            false => Err(GosumdbError::Name(verifier.name().to_owned())),
        }
    }

    /// Returns the default database of the go command.
    pub fn of_go() -> Result<Self, GosumdbError> {
        KNOWN.first().map_or("", |(name, _)| name).parse()
    }

    /// Returns the name of the database.
    pub fn name(&self) -> &str {
        self.verifier.name()
    }

    /// Returns the URL of the database, if it is to be asked directly instead of through upstreams.
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }
}

impl FromStr for Gosumdb {
    type Err = GosumdbError;

    /// Parses a value that must not be `off`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)?.ok_or_else(|| GosumdbError::Form(text.to_owned()))
    }
}

/// Returns whether a name keeps its meaning behind `sumdb/` in a URL.
fn is_host_and_path(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '%' | '\\' | '@');
    name.chars().all(is_plain) && name.split('/').all(|element| !matches!(element, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sum.example.org/v2+2f82912d+AYE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU";

    #[test]
    fn values_of_gosumdb_are_parsed() {
        let own = Gosumdb::parse(KEY).unwrap().unwrap();
        assert_eq!((own.name(), own.url()), ("sum.example.org/v2", None));
        let elsewhere = Gosumdb::parse(&format!(" {KEY}  https://a.example/b ")).unwrap().unwrap();
        assert_eq!(elsewhere.url(), Some("https://a.example/b"));
        assert!(Gosumdb::parse("off").unwrap().is_none() && "off".parse::<Gosumdb>().is_err());
        for (name, _) in KNOWN {
            assert_eq!(Gosumdb::parse(name).unwrap().unwrap().name(), name);
            assert!(Gosumdb::parse(&format!("{name} https://a.example")).unwrap().unwrap().url().is_some());
        }
    }

    #[test]
    fn other_values_are_rejected() {
        assert!(matches!(Gosumdb::parse(""), Err(GosumdbError::Form(_))));
        assert!(matches!(Gosumdb::parse("a b c"), Err(GosumdbError::Form(_))));
        assert!(matches!(Gosumdb::parse("sum.example.org"), Err(GosumdbError::Unknown(_))));
        assert!(matches!(Gosumdb::parse(&KEY.replace("v2", "v3")), Err(GosumdbError::Key(_))));
        assert!(is_host_and_path("a.example") && is_host_and_path("a.example/b"));
        for bad in ["", "a/", "/a", "a/../b", "a?b", "a b", "a%2fb", "u@a"] {
            assert!(!is_host_and_path(bad), "{bad}");
        }
    }
}
