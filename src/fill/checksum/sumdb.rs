//! Which checksum database is asked, in the words of `GOSUMDB`: `NAME`, `NAME+HASH+KEY`, either with a URL behind
//! it, or `off`.

use std::str::FromStr;

use stoa_gomod::sumdb::{KeyError, Verifier};

use super::known::KNOWN;

/// A checksum database, as `GOSUMDB` names it.
#[derive(Debug, Clone)]
pub struct Sumdb {
    pub(super) verifier: Verifier,
    url: Option<String>,
}

/// A text that names no checksum database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SumdbError {
    /// It has not one or two words.
    #[error("{0:?} is not NAME, NAME+HASH+KEY, one of them and a URL, or off")]
    Form(String),
    /// Only the name is told, and the key of this database is not known.
    #[error("the key of the checksum database {0} is not known; name it as {0}+HASH+KEY")]
    Unknown(String),
    /// The key is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The name could not stand in a URL.
    #[error("{0:?} cannot be the name of a checksum database, which is a host and perhaps a path")]
    Name(String),
}

impl Sumdb {
    /// Reads a value of `GOSUMDB`. `None` if it is `off`.
    pub fn parse(text: &str) -> Result<Option<Self>, SumdbError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (key, url) = match words[..] {
            ["off"] => return Ok(None),
            [key] => (key, None),
            [key, url] => (key, Some(url.to_owned())),
            _ => return Err(SumdbError::Form(text.to_owned())),
        };
        let known = KNOWN.iter().find(|(name, _)| *name == key).map(|(_, key)| *key);
        if known.is_none() && !key.contains('+') {
            return Err(SumdbError::Unknown(key.to_owned()));
        }
        let verifier = Verifier::parse(known.unwrap_or(key))?;
        match is_host_and_path(verifier.name()) {
            true => Ok(Some(Self { verifier, url })),
            false => Err(SumdbError::Name(verifier.name().to_owned())),
        }
    }

    /// Is the one that the go command asks where nobody says anything else.
    pub fn of_go() -> Result<Self, SumdbError> {
        KNOWN.first().map_or("", |(name, _)| name).parse()
    }

    /// Is its name.
    pub fn name(&self) -> &str {
        self.verifier.name()
    }

    /// Is the URL that it is to be asked at, instead of upstreams.
    pub fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }
}

impl FromStr for Sumdb {
    type Err = SumdbError;

    /// Reads a value that must not be `off`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)?.ok_or_else(|| SumdbError::Form(text.to_owned()))
    }
}

/// Whether a name can stand behind `sumdb/` in a URL and means there what it says.
fn is_host_and_path(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '%' | '\\' | '@');
    name.chars().all(is_plain) && name.split('/').all(|element| !matches!(element, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "sum.example.org/v2+2f82912d+AYE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU";

    #[test]
    fn values_of_the_variable_are_read() {
        let own = Sumdb::parse(KEY).unwrap().unwrap();
        assert_eq!((own.name(), own.url()), ("sum.example.org/v2", None));
        let elsewhere = Sumdb::parse(&format!(" {KEY}  https://a.example/b ")).unwrap().unwrap();
        assert_eq!(elsewhere.url(), Some("https://a.example/b"));
        assert!(Sumdb::parse("off").unwrap().is_none() && "off".parse::<Sumdb>().is_err());
        for (name, _) in KNOWN {
            assert_eq!(Sumdb::parse(name).unwrap().unwrap().name(), name);
            assert!(Sumdb::parse(&format!("{name} https://a.example")).unwrap().unwrap().url().is_some());
        }
    }

    #[test]
    fn what_names_no_database_is_refused() {
        assert!(matches!(Sumdb::parse(""), Err(SumdbError::Form(_))));
        assert!(matches!(Sumdb::parse("a b c"), Err(SumdbError::Form(_))));
        assert!(matches!(Sumdb::parse("sum.example.org"), Err(SumdbError::Unknown(_))));
        assert!(matches!(Sumdb::parse(&KEY.replace("v2", "v3")), Err(SumdbError::Key(_))));
        assert!(is_host_and_path("a.example") && is_host_and_path("a.example/b"));
        for bad in ["", "a/", "/a", "a/../b", "a?b", "a b", "a%2fb", "u@a"] {
            assert!(!is_host_and_path(bad), "{bad}");
        }
    }
}
