//! `/catalog` and `/index`: what is in the store, page by page, from its index.
//!
//! `/catalog?pagesize=&token=` answers in the form that Athens has, in the order of module and version; each page
//! ends with the token of the next one, and the last has none. `/index?since=&limit=` is the feed of the public
//! index of modules: one object a line, oldest first, from an instant on, that included.
//!
//! Both say what is stored, also what the rules deny to whoever asks for it.
//!
//! An index that is not there or of no use is being built: an answer waits for that, though not for ever.

use std::fmt::Write;

use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{StatusCode, Uri};
use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_store::{CatalogEntry, FeedEntry, IndexError, Store};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Proxy;
use super::answer::{self, Response};

/// How many questions are asked of the index at a time.
pub(super) const AT_A_TIME: usize = 8;

/// How many versions a page of the catalog has if nothing is said, and at most.
const PAGE: usize = 1000;
const MOST_OF_PAGE: usize = 10_000;

/// The same for the feed.
const FEED: usize = 2000;
const MOST_OF_FEED: usize = 2000;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Question {
    Catalog { after: Option<(String, String)>, size: usize },
    Feed { since: i64, size: usize },
}

/// Whether a path is one of these two, below the base path or not.
pub(super) fn is_meant(path: &str, base_path: &str) -> bool {
    kind(path, base_path).is_some()
}

fn kind(path: &str, base_path: &str) -> Option<&'static str> {
    let below = path.strip_prefix(base_path).unwrap_or(path);
    ["/catalog", "/index"].into_iter().find(|name| path == *name || below == *name)
}

impl Proxy {
    /// Answers one of these, or that there is no such address.
    pub(super) async fn listing(&self, uri: &Uri) -> Response {
        let query = uri.query().unwrap_or_default();
        let question = match kind(uri.path(), &self.base_path) {
            Some("/catalog") => catalog(query),
            Some(_) => feed(query),
            None => return answer::no_such_address(),
        };
        let question = match question {
            Ok(question) => question,
            Err(why) => return answer::notice(StatusCode::BAD_REQUEST, format!("bad request: {why}\n")),
        };
        let mut answered = self.ask_index(question.clone()).await;
        if matches!(&answered, Err(error) if error.is_of_no_use()) && self.upkeep.mended().await {
            answered = self.ask_index(question).await;
        }
        answered.map_or_else(|error| no_index(&error), answer::json)
    }

    async fn ask_index(&self, question: Question) -> Result<String, IndexError> {
        // It is never closed.
        let _turn = self.index_turns.acquire().await;
        let store = std::sync::Arc::clone(self.fill.store());
        let asked = tokio::task::spawn_blocking(move || question.ask(&store));
        asked.await.unwrap_or_else(|error| {
            log::error!("asking the index: {error}");
            Err(IndexError::Stopped)
        })
    }
}

/// Answers that the index failed. What it said is for the log: it names paths of this machine.
fn no_index(error: &IndexError) -> Response {
    log::warn!("cannot list what is in the store: {error}");
    let text = "not now: the index of this store cannot be used, or is still being built; the log of this proxy says more\n";
    let mut response = answer::notice(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    response
}

impl Question {
    fn ask(&self, store: &Store) -> Result<String, IndexError> {
        match self {
            Self::Catalog { after, size } => {
                let after = after.as_ref().map(|(module, version)| (module.as_str(), version.as_str()));
                Ok(page(store.catalog(after, size + 1)?, *size))
            }
            Self::Feed { since, size } => Ok(lines(&store.feed(*since, *size)?)),
        }
    }
}

fn catalog(query: &str) -> Result<Question, String> {
    let size = size(query, "pagesize", PAGE, MOST_OF_PAGE)?;
    let after = match parameter(query, "token") {
        None => None,
        Some(token) => Some(parse_token(&token).ok_or("token takes what an earlier page named as next")?),
    };
    Ok(Question::Catalog { after, size })
}

fn feed(query: &str) -> Result<Question, String> {
    let size = size(query, "limit", FEED, MOST_OF_FEED)?;
    let since = match parameter(query, "since") {
        None => i64::MIN,
        Some(text) => parse_instant(&text).ok_or("since takes a time as in 2024-01-02T03:04:05Z")?,
    };
    Ok(Question::Feed { since, size })
}

fn size(query: &str, name: &str, usual: usize, most: usize) -> Result<usize, String> {
    let Some(text) = parameter(query, name) else { return Ok(usual) };
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<usize>() {
        Ok(1..) => Ok(text.parse().unwrap_or(most).min(most)),
        // Too large for any number is too large for a page.
        Err(_) if is_number => Ok(most),
        _ => Err(format!("{name} takes a number from 1 on")),
    }
}

/// Finds a parameter; an empty one counts as not there.
fn parameter(query: &str, name: &str) -> Option<String> {
    let (_, value) = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name)?;
    Some(value.into_owned()).filter(|value| !value.is_empty())
}

fn parse_token(token: &str) -> Option<(String, String)> {
    let (module, version) = token.split_once('|')?;
    let pair = ModuleVersion::parse(&format!("{module}@{version}")).ok()?;
    let is_said = pair.path().as_str() == module && pair.version().as_str() == version;
    is_said.then(|| (module.to_owned(), version.to_owned()))
}

/// Reads an instant, in nanoseconds since 1970.
fn parse_instant(text: &str) -> Option<i64> {
    // The plus of an offset that nobody escaped.
    let instant = OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339).ok()?.unix_timestamp_nanos();
    Some(instant.clamp(i64::MIN.into(), i64::MAX.into()).try_into().unwrap_or(i64::MAX))
}

#[derive(Serialize)]
struct Page<'a> {
    modules: Vec<Listed<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
struct Listed<'a> {
    module: &'a str,
    version: &'a str,
}

/// Writes a page from one entry more than it has, which says whether another follows.
fn page(mut entries: Vec<CatalogEntry>, size: usize) -> String {
    let has_next = entries.len() > size;
    entries.truncate(size);
    let last = entries.last().filter(|_| has_next);
    let next = last.map(|last| format!("{}|{}", last.module, last.version));
    let modules = entries.iter().map(|entry| Listed { module: &entry.module, version: &entry.version });
    let page = Page { modules: modules.collect(), next };
    // Only strings: there is nothing in it that JSON could not say.
    serde_json::to_string(&page).unwrap_or_default() + "\n"
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Line<'a> {
    path: &'a str,
    version: &'a str,
    timestamp: String,
}

fn lines(entries: &[FeedEntry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let instant = OffsetDateTime::from_unix_timestamp_nanos(entry.time.into()).ok();
        // A time that a file can have is a time that can be told.
        let timestamp = instant.and_then(|instant| instant.format(&Rfc3339).ok()).unwrap_or_default();
        let line = Line { path: &entry.module, version: &entry.version, timestamp };
        let _ = writeln!(text, "{}", serde_json::to_string(&line).unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(n: usize) -> Vec<CatalogEntry> {
        (0..n)
            .map(|n| CatalogEntry { module: "example.com/m".to_owned(), version: format!("v1.{n}.0") })
            .collect()
    }

    #[test]
    fn the_last_page_names_no_next() {
        assert_eq!(page(Vec::new(), 2), "{\"modules\":[]}\n");
        assert!(!page(entries(2), 2).contains("next"), "though it is full");
        let page = page(entries(3), 2);
        assert!(page.ends_with("],\"next\":\"example.com/m|v1.1.0\"}\n"), "{page}");
        assert!(!page.contains("v1.2.0"), "{page}");
        assert!(page.starts_with("{\"modules\":[{\"module\":\"example.com/m\",\"version\":\"v1.0.0\"},"));
    }

    #[test]
    fn what_is_said_is_checked() {
        let of = |size, after: Option<(&str, &str)>| {
            let after = after.map(|(module, version)| (module.to_owned(), version.to_owned()));
            Ok(Question::Catalog { after, size })
        };
        assert_eq!(catalog(""), of(1000, None));
        assert_eq!(catalog("pagesize=&token=&other=1"), of(1000, None));
        assert_eq!(
            catalog("pagesize=7&token=example.com%2FCap%7Cv1.0.0-RC1"),
            of(7, Some(("example.com/Cap", "v1.0.0-RC1")))
        );
        assert_eq!(catalog("pagesize=99999999999999999999999"), of(MOST_OF_PAGE, None));
        for bad in ["pagesize=0", "pagesize=-1", "pagesize=x", "pagesize=1.5", "pagesize=%2B7x"] {
            assert!(catalog(bad).is_err(), "{bad}");
        }
        for bad in
            ["token=x", "token=|", "token=example.com/m", "token=example.com/m|v1", "token=../m|v1.0.0"]
        {
            assert!(catalog(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_instant_is_read_as_written() {
        let of = |since, size| Ok(Question::Feed { since, size });
        assert_eq!(feed(""), of(i64::MIN, 2000));
        assert_eq!(feed("since=1970-01-01T00:00:01Z&limit=5000"), of(1_000_000_000, 2000));
        assert_eq!(feed("since=1970-01-01T02:00:00.000000007%2B02:00&limit=3"), of(7, 3));
        assert_eq!(feed("since=1970-01-01T02:00:00+02:00"), of(0, 2000));
        assert_eq!(feed("since=9999-01-01T00:00:00Z"), of(i64::MAX, 2000));
        for bad in ["since=yesterday", "since=1970-01-01", "since=0", "limit=0", "limit=-3", "limit=x"] {
            assert!(feed(bad).is_err(), "{bad}");
        }
        let entry = FeedEntry {
            module: "example.com/m".to_owned(),
            version: "v1.0.0".to_owned(),
            time: 1_000_000_007,
        };
        let line = lines(std::slice::from_ref(&entry));
        assert_eq!(
            line,
            "{\"Path\":\"example.com/m\",\"Version\":\"v1.0.0\",\"Timestamp\":\"1970-01-01T00:00:01.000000007Z\"}\n"
        );
    }

    #[test]
    fn both_lie_below_the_base_path_too() {
        for (path, base, is_one) in [
            ("/catalog", "", true),
            ("/index", "/go", true),
            ("/go/index", "/go", true),
            ("/go/catalog", "", false),
            ("/catalog/", "", false),
            ("/catalogue", "", false),
            ("/go/catalog/@v/list", "/go", false),
        ] {
            assert_eq!(is_meant(path, base), is_one, "{path} {base}");
        }
    }
}
