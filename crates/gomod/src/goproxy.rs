//! Lists of proxies in the syntax of `GOPROXY`, and how a request walks along one.
//!
//! The rules are those of the go command (`cmd/go/internal/modfetch`): behind a `,` the next entry is tried
//! only if the one before said "not found", behind a `|` after any error; `off` and `direct` end the list.
//! The walk is a pure state machine; fetching, and what counts as "not found", is the caller's.

/// A list of proxies, with at least one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoProxyList {
    entries: Vec<Entry>,
}

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where to ask.
    pub source: Source,
    /// Says whether any error lets the next entry be tried, not only "not found".
    pub fallback_on_any_error: bool,
}

/// What an entry stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A proxy; `http`, `https` or `file`.
    Url(String),
    /// The version control system that the module path leads to.
    Direct,
    /// Nothing: the request fails.
    Off,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Url(url) => url,
            Self::Direct => "direct",
            Self::Off => "off",
        })
    }
}

/// A list that the go command would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GoProxyError {
    /// There is no entry in it.
    #[error("the list of proxies has no entries")]
    NoEntries,
    /// An entry is a bare word that stands for nothing.
    #[error("proxy {0:?} is neither a URL nor \"direct\" nor \"off\"")]
    MissingScheme(String),
    /// An entry has a scheme that no proxy is spoken to by.
    #[error("proxy {0:?} has a scheme other than http, https and file")]
    UnsupportedScheme(String),
    /// An entry is no URL, or a `file` URL with more than a path.
    #[error("proxy {0:?} is not a valid URL")]
    InvalidUrl(String),
}

impl GoProxyError {
    /// Returns the short name of the fault, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoEntries => "no_entries",
            Self::MissingScheme(_) => "missing_scheme",
            Self::UnsupportedScheme(_) => "unsupported_scheme",
            Self::InvalidUrl(_) => "invalid_url",
        }
    }
}

/// Reads a list.
pub fn parse(value: &str) -> Result<GoProxyList, GoProxyError> {
    let mut entries = Vec::new();
    for piece in value.split_inclusive([',', '|']) {
        let fallback_on_any_error = piece.ends_with('|');
        let source = match piece.trim_end_matches([',', '|']).trim() {
            "" => continue,
            "off" => Source::Off,
            "direct" => Source::Direct,
            url => Source::Url(complete_url(url)?),
        };
        let last = !matches!(source, Source::Url(_));
        entries.push(Entry { source, fallback_on_any_error: fallback_on_any_error && !last });
        if last {
            break;
        }
    }
    if entries.is_empty() { Err(GoProxyError::NoEntries) } else { Ok(GoProxyList { entries }) }
}

fn complete_url(text: &str) -> Result<String, GoProxyError> {
    let looks_like_host = text.contains(['.', ':', '/']) && !text.contains(":/") && !text.starts_with('/');
    let url = if looks_like_host { format!("https://{text}") } else { text.to_owned() };
    let invalid = || GoProxyError::InvalidUrl(text.to_owned());
    let Some((scheme, rest)) = url.split_once(':').filter(|(scheme, _)| !scheme.contains('/')) else {
        return Err(GoProxyError::MissingScheme(text.to_owned()));
    };
    if url.chars().any(|c| c.is_control() || c == ' ') {
        return Err(invalid());
    }
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => {
            let host = rest.strip_prefix("//").and_then(|rest| rest.split(['/', '?', '#']).next());
            if host.is_none_or(|host| host.rsplit('@').next().is_none_or(str::is_empty)) {
                return Err(invalid());
            }
        }
        "file" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if !path.starts_with('/') || path.contains(['?', '#']) {
                return Err(invalid());
            }
        }
        _ => return Err(GoProxyError::UnsupportedScheme(text.to_owned())),
    }
    Ok(url)
}

/// How asking one entry ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered; the walk is over.
    Found,
    /// It does not have what was asked for (404, 410).
    NotFound,
    /// Anything else went wrong.
    Failed,
}

impl GoProxyList {
    /// Returns the entries, at least one.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the index of the entry to ask after one ended so; `None` if the walk is over.
    pub fn next_after(&self, index: usize, outcome: Outcome) -> Option<usize> {
        let entry = self.entries.get(index)?;
        let goes_on = match outcome {
            Outcome::Found => false,
            // "off" has nothing to say of whether the module exists.
            Outcome::NotFound => entry.source != Source::Off,
            Outcome::Failed => entry.fallback_on_any_error,
        };
        (goes_on && index + 1 < self.entries.len()).then_some(index + 1)
    }

    /// Begins a walk for one request.
    pub fn walk<E>(&self) -> Walk<'_, E> {
        Walk { list: self, index: Some(0), worst: None }
    }
}

impl std::fmt::Display for GoProxyList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, entry) in self.entries.iter().enumerate() {
            let separator = match index.checked_sub(1).and_then(|before| self.entries.get(before)) {
                None => "",
                Some(before) if before.fallback_on_any_error => "|",
                Some(_) => ",",
            };
            write!(f, "{separator}{}", entry.source)?;
        }
        Ok(())
    }
}

impl std::str::FromStr for GoProxyList {
    type Err = GoProxyError;

    fn from_str(value: &str) -> Result<Self, GoProxyError> {
        parse(value)
    }
}

/// A request on its way along a list, which keeps the most informative error.
///
/// ```
/// # use stoa_gomod::goproxy::{parse, Outcome};
/// let list = parse("https://a.example,https://b.example")?;
/// let mut walk = list.walk();
/// while let Some(entry) = walk.entry() {
///     walk.fail(Outcome::NotFound, format!("{}: not found", entry.source));
/// }
/// assert_eq!(walk.into_error().unwrap(), "https://b.example: not found");
/// # Ok::<(), stoa_gomod::goproxy::GoProxyError>(())
/// ```
#[derive(Debug)]
pub struct Walk<'l, E> {
    list: &'l GoProxyList,
    index: Option<usize>,
    /// The error to report if nothing answers, with its weight.
    worst: Option<(Weight, E)>,
}

/// How much an error tells: that of version control most, a "not found" least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    NotFound,
    Proxy,
    Direct,
}

impl<'l, E> Walk<'l, E> {
    /// Returns the entry to ask now; `None` if the walk is over.
    pub fn entry(&self) -> Option<&'l Entry> {
        self.list.entries.get(self.index?)
    }

    /// Notes that the entry failed, and goes on to the next one that may be asked.
    pub fn fail(&mut self, outcome: Outcome, error: E) {
        let (Some(index), Some(entry)) = (self.index, self.entry()) else { return };
        let weight = match (&entry.source, outcome) {
            (Source::Direct, _) => Weight::Direct,
            (Source::Url(_), Outcome::NotFound) => Weight::NotFound,
            _ => Weight::Proxy,
        };
        // Of equally informative errors the last counts, as in the go command.
        if self.worst.as_ref().is_none_or(|(worst, _)| *worst <= weight) {
            self.worst = Some((weight, error));
        }
        self.index = self.list.next_after(index, outcome);
    }

    /// Returns the most informative error; `None` if nothing was asked.
    pub fn into_error(self) -> Option<E> {
        self.worst.map(|(_, error)| error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_proxy_is_refused() {
        for (value, code) in [
            ("", "no_entries"),
            (" , ", "no_entries"),
            ("foo", "missing_scheme"),
            ("/srv/proxy", "missing_scheme"),
            ("ftp://a.example", "unsupported_scheme"),
            ("https://", "invalid_url"),
            ("https:/a.example", "invalid_url"),
            ("file:///srv/proxy?x", "invalid_url"),
            ("file://host/srv", "invalid_url"),
            ("https://a.example/a b", "invalid_url"),
        ] {
            assert_eq!(parse(value).unwrap_err().code(), code, "{value}");
        }
        assert!(parse("file:///srv/proxy").is_ok());
        assert!(parse("localhost:3000").is_ok_and(|list| list.to_string() == "https://localhost:3000"));
    }

    #[test]
    fn the_most_informative_error_wins() {
        let list = parse("https://a.example|https://b.example,direct").unwrap();
        let mut walk = list.walk();
        walk.fail(Outcome::Failed, "a is down");
        walk.fail(Outcome::NotFound, "b has none");
        assert_eq!(walk.entry().unwrap().source, Source::Direct);
        assert_eq!(walk.into_error(), Some("a is down"));

        let mut walk = list.walk();
        walk.fail(Outcome::Failed, "a is down");
        walk.fail(Outcome::NotFound, "b has none");
        walk.fail(Outcome::NotFound, "no repository");
        assert!(walk.entry().is_none());
        assert_eq!(walk.into_error(), Some("no repository"));
    }

    #[test]
    fn off_ends_a_walk() {
        let list = parse("https://a.example,off").unwrap();
        assert_eq!(list.next_after(0, Outcome::NotFound), Some(1));
        assert_eq!(list.next_after(1, Outcome::NotFound), None);
        assert_eq!(list.next_after(0, Outcome::Failed), None);
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_again(value in "(https://[a-c]\\.d|off|direct|[a-c]\\.d|,|\\|| ){0,6}") {
            if let Ok(list) = parse(&value) {
                let mut again = parse(&list.to_string()).unwrap();
                // The separator behind the last entry says nothing.
                if let (Some(a), Some(b)) = (again.entries.last_mut(), list.entries.last()) {
                    a.fallback_on_any_error = b.fallback_on_any_error;
                }
                prop_assert_eq!(again, list);
            }
        }

        #[test]
        fn any_text_gets_an_answer(value in ".{0,40}") {
            let _ = parse(&value);
        }
    }
}
