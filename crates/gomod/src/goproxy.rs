//! Lists of proxies in the syntax of `GOPROXY`.
//!
//! The rules are those of the go command (`cmd/go/internal/modfetch`): after a `,` the next entry is tried
//! only if the previous entry answered "not found", after a `|` after any error. `off` and `direct` end the
//! list. The caller sends the requests and decides what counts as "not found".

/// A list of proxies, with at least one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoProxyList {
    entries: Vec<Entry>,
}

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The source to ask.
    pub source: Source,
    /// Whether the next entry is tried after any error, and not only after "not found".
    pub fallback_on_any_error: bool,
}

/// The source of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A proxy with the scheme `http`, `https` or `file`.
    Url(String),
    /// The version control system of the module.
    Direct,
    /// No source: the request fails.
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

/// The reason why a list is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GoProxyError {
    /// The list is empty.
    #[error("the list of proxies is empty")]
    NoEntries,
    /// An entry is an unknown word.
    #[error("{0:?} is not a URL, \"direct\" or \"off\"")]
    MissingScheme(String),
    /// An entry has an unsupported scheme.
    #[error("{0:?} has an unsupported scheme: expected http, https or file")]
    UnsupportedScheme(String),
    /// An entry is not a URL, or is a `file` URL with more than a path.
    #[error("{0:?} is not a valid URL")]
    InvalidUrl(String),
}

/// Parses a list.
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

/// The outcome of a failed request to one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The entry answered "not found" (404, 410).
    NotFound,
    /// Any other error.
    Failed,
}

impl GoProxyList {
    /// Returns the list of one source.
    pub fn of(source: Source) -> Self {
        Self { entries: vec![Entry { source, fallback_on_any_error: false }] }
    }

    /// Returns the entries, at least one.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the index of the entry to ask after entry `index` failed. `None` at the end of the walk.
    pub fn next_after(&self, index: usize, outcome: Outcome) -> Option<usize> {
        let entry = self.entries.get(index)?;
        let goes_on = match outcome {
            // "off" does not know whether the module exists.
            Outcome::NotFound => entry.source != Source::Off,
            Outcome::Failed => entry.fallback_on_any_error,
        };
        (goes_on && index + 1 < self.entries.len()).then_some(index + 1)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn invalid_lists_are_rejected() {
        for (value, variant) in [
            ("", "NoEntries"),
            (" , ", "NoEntries"),
            ("foo", "MissingScheme"),
            ("/srv/proxy", "MissingScheme"),
            ("ftp://a.example", "UnsupportedScheme"),
            ("https://", "InvalidUrl"),
            ("https:/a.example", "InvalidUrl"),
            ("file:///srv/proxy?x", "InvalidUrl"),
            ("file://host/srv", "InvalidUrl"),
            ("https://a.example/a b", "InvalidUrl"),
        ] {
            let error = format!("{:?}", parse(value).unwrap_err());
            assert!(error.starts_with(variant), "{value}: {error}");
        }
        assert!(parse("file:///srv/proxy").is_ok());
        assert!(parse("localhost:3000").is_ok_and(|list| list.to_string() == "https://localhost:3000"));
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
        fn a_printed_list_parses_to_the_same_list(value in "(https://[a-c]\\.d|off|direct|[a-c]\\.d|,|\\|| ){0,6}") {
            if let Ok(list) = parse(&value) {
                let mut again = parse(&list.to_string()).unwrap();
                // The separator after the last entry has no meaning.
                if let (Some(a), Some(b)) = (again.entries.last_mut(), list.entries.last()) {
                    a.fallback_on_any_error = b.fallback_on_any_error;
                }
                prop_assert_eq!(again, list);
            }
        }

        #[test]
        fn no_input_panics(value in ".{0,40}") {
            let _ = parse(&value);
        }
    }
}
