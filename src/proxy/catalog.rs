//! `/catalog` and `/index`: pages of stored versions, from the index of the store.
//!
//! `/catalog?pagesize=&token=` has the form of Athens' catalog, ordered by module and version. Each page but the last ends
//! with the token of the next page. `/index?since=&limit=` has the form of Go's public module index: one object a line,
//! oldest first, beginning with the versions of the given instant.
//!
//! Both list the stored versions of the modules that the client may read, also versions that the rules deny. A token names
//! only such versions, too. With a bucket, they list all versions of the bucket too,
//! except those that have a tombstone in the store. An answer waits for the bucket if the index has never had all its
//! versions, or if the last look at the bucket is too long ago.
//!
//! If the index is missing or unusable, it is being rebuilt, and an answer waits for that. All waits of an answer together
//! have a limit.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use stoa_gomod::{ModulePath, ModuleVersion};
use stoa_store::{CatalogEntry, FeedEntry, IndexError, Store};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::answer::{self, Response};
use super::problem::{BadParameter, Problem};
use super::{Client, Proxy};
use crate::access::Access;
use crate::request::Identity;

/// Time limit for all waits of an answer.
const WAIT_LIMIT: Duration = Duration::from_secs(10);

/// Maximum number of queries of the index at the same time.
pub(super) const MAX_CONCURRENT: usize = 8;

/// Number of versions on a page of the catalog, if the request has no `pagesize`.
const CATALOG_PAGE: usize = 1000;
const MAX_CATALOG_PAGE: usize = 10_000;

/// Number of versions in an answer of the index, if the request has no `limit`.
const INDEX_PAGE: usize = 2000;
const MAX_INDEX_PAGE: usize = 2000;

/// Minimum number of rows that are read at once if some modules are hidden from some clients.
const HIDDEN_ROWS: usize = 10_000;

/// A page of stored versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listing {
    /// The versions after a module and version, ordered by these.
    Catalog { after: Option<(String, String)>, size: usize },
    /// The versions since an instant in nanoseconds, ordered by time.
    Index { since: i64, size: usize },
}

impl Proxy {
    /// Answers with a page.
    pub(super) async fn listing(
        &self,
        client: Client<'_>,
        listing: Result<Listing, BadParameter>,
    ) -> Response {
        let listing = match listing {
            Ok(listing) => listing,
            Err(parameter) => return Problem::BadParameter(parameter).answer(),
        };
        match self.page(listing, Reader::of(client)).await {
            Ok(Some(page)) => answer::json(page),
            Ok(None) => {
                log::warn!("cannot list versions yet, the index does not have all versions of the bucket");
                Problem::NoIndex.answer()
            }
            Err(error) => {
                log::warn!(reason:% = error; "cannot list stored versions");
                Problem::NoIndex.answer()
            }
        }
    }

    /// Returns a page. `None` if the index has never had all versions of the bucket.
    async fn page(&self, listing: Listing, reader: Reader) -> Result<Option<String>, IndexError> {
        let end = Instant::now() + WAIT_LIMIT;
        if let Some(tier) = self.services.tier.as_ref().filter(|tier| tier.keeps_catalog()) {
            let id = tier.id();
            let is_complete = move |store: &Store| store.index().has_bucket(&id);
            let was_complete = self.ask_index(end, is_complete.clone()).await?;
            tier.refresh_catalog(was_complete, end.saturating_duration_since(Instant::now())).await;
            // Asked again, also after a pass that succeeded: the index may have been rebuilt since.
            if !self.ask_index(end, is_complete).await? {
                return Ok(None);
            }
        }
        let reader = Reader { has_bucket: self.services.tier.is_some(), ..reader };
        self.ask_index(end, move |store| listing.query(store, &reader)).await.map(Some)
    }

    /// Queries the index. If the index is unusable, waits until it is rebuilt, until `end` at most.
    async fn ask_index<T: Send + 'static>(
        &self,
        end: Instant,
        ask: impl Fn(&Store) -> Result<T, IndexError> + Clone + Send + 'static,
    ) -> Result<T, IndexError> {
        let answer = self.query_index(ask.clone()).await;
        if !matches!(&answer, Err(error) if error.needs_rebuild()) {
            return answer;
        }
        match tokio::time::timeout_at(end, self.upkeep.rebuilt()).await {
            Ok(true) => self.query_index(ask).await,
            Ok(false) | Err(_) => answer,
        }
    }

    async fn query_index<T: Send + 'static>(
        &self,
        ask: impl Fn(&Store) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        // The semaphore is never closed.
        let _turn = self.index_turns.acquire().await;
        let store = Arc::clone(&self.services.store);
        let answer = tokio::task::spawn_blocking(move || ask(&store));
        answer.await.unwrap_or_else(|error| {
            log::error!(reason:% = error; "an index query failed with an internal error");
            Err(IndexError::Stopped)
        })
    }
}

impl Listing {
    /// Parses the query of `/catalog`.
    pub(super) fn catalog(query: Option<&str>) -> Result<Self, BadParameter> {
        let query = query.unwrap_or_default();
        let size = size(query, "pagesize", CATALOG_PAGE, MAX_CATALOG_PAGE)?;
        let after = match parameter(query, "token") {
            None => None,
            Some(token) => Some(parse_token(&token).ok_or(BadParameter::Token)?),
        };
        Ok(Self::Catalog { after, size })
    }

    /// Parses the query of `/index`.
    pub(super) fn index(query: Option<&str>) -> Result<Self, BadParameter> {
        let query = query.unwrap_or_default();
        let size = size(query, "limit", INDEX_PAGE, MAX_INDEX_PAGE)?;
        let since = match parameter(query, "since") {
            None => i64::MIN,
            Some(text) => parse_instant(&text).ok_or(BadParameter::Since)?,
        };
        Ok(Self::Index { since, size })
    }

    fn query(&self, store: &Store, reader: &Reader) -> Result<String, IndexError> {
        let mut is_listed = reader.filter(store);
        match self {
            Self::Catalog { after, size } => {
                let (mut after, mut listed) = (after.clone(), Vec::new());
                let rows = reader.rows(size + 1);
                loop {
                    let from = after.as_ref().map(|(module, version)| (module.as_str(), version.as_str()));
                    let found = store.index().catalog(from, rows)?;
                    let last = found.last().filter(|_| found.len() == rows);
                    after = last.map(|last| (last.module.clone(), last.version.clone()));
                    listed.extend(found.into_iter().filter(|entry| is_listed(&entry.module, &entry.version)));
                    // One more than the page, so that the token names a version that the client may see.
                    if after.is_none() || listed.len() > *size {
                        return Ok(page(listed, *size));
                    }
                }
            }
            Self::Index { since, size } => {
                let (mut since, mut listed) = (*since, Vec::new());
                let rows = reader.rows(*size);
                loop {
                    let found = store.index().feed(since, rows)?;
                    let last = found.last().filter(|_| found.len() == rows).map(|last| last.time);
                    listed.extend(found.into_iter().filter(|entry| is_listed(&entry.module, &entry.version)));
                    match last.and_then(|last| last.checked_add(1)) {
                        // A short answer has the same last version as the request, so a client would stop there.
                        Some(next) if listed.len() < *size => since = next,
                        _ => break,
                    }
                }
                listed.truncate(*size);
                Ok(lines(&listed))
            }
        }
    }
}

/// The client of a list, and the versions that it sees.
#[derive(Debug, Clone)]
struct Reader {
    identity: Identity,
    access: Arc<Access>,
    has_bucket: bool,
}

impl Reader {
    fn of(client: Client<'_>) -> Self {
        let identity = client.info.caller.identity.clone();
        Self { identity, access: Arc::clone(client.access), has_bucket: false }
    }

    /// Returns the number of rows to read at once. If most rows are hidden, few queries find the others.
    fn rows(&self, wanted: usize) -> usize {
        if self.access.is_open() { wanted } else { wanted.max(HIDDEN_ROWS) }
    }

    /// Returns whether a version is listed. Rows of the same module follow each other, so the last decision is kept.
    fn filter(&self, store: &Store) -> impl FnMut(&str, &str) -> bool {
        let (is_open, mut last) = (self.access.is_open(), (String::new(), false));
        move |module, version| {
            if !is_open && last.0 != module {
                last = (module.to_owned(), self.access.may_read(&self.identity, module));
            }
            (is_open || last.1) && !(self.has_bucket && is_forbidden(store, module, version))
        }
    }
}

/// Returns whether a version in the bucket has a tombstone in the store. It is not served then.
fn is_forbidden(store: &Store, module: &str, version: &str) -> bool {
    let Ok(module) = ModulePath::new(module) else { return false };
    store.records().tombstones(&module).is_ok_and(|all| all.iter().any(|one| one.as_str() == version))
}

fn size(query: &str, name: &'static str, usual: usize, most: usize) -> Result<usize, BadParameter> {
    let Some(text) = parameter(query, name) else { return Ok(usual) };
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<usize>() {
        Ok(size @ 1..) => Ok(size.min(most)),
        // The number is too large for its type, so it is too large for a page.
        Err(_) if is_number => Ok(most),
        _ => Err(BadParameter::Size(name)),
    }
}

/// Returns a parameter. An empty parameter counts as missing.
fn parameter(query: &str, name: &str) -> Option<String> {
    let (_, value) = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name)?;
    Some(value.into_owned()).filter(|value| !value.is_empty())
}

fn parse_token(token: &str) -> Option<(String, String)> {
    let (module, version) = token.split_once('|')?;
    let pair = ModuleVersion::parse(&format!("{module}@{version}")).ok()?;
    let is_canonical = pair.path().as_str() == module && pair.version().as_str() == version;
    is_canonical.then(|| (module.to_owned(), version.to_owned()))
}

/// Parses an instant. Returns nanoseconds since 1970.
fn parse_instant(text: &str) -> Option<i64> {
    // A client that does not escape the plus sign of an offset sends a space.
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

/// Formats the entries of a page. `entries` has more entries than the page if another page follows.
fn page(mut entries: Vec<CatalogEntry>, size: usize) -> String {
    let has_next = entries.len() > size;
    entries.truncate(size);
    let last = entries.last().filter(|_| has_next);
    let next = last.map(|last| format!("{}|{}", last.module, last.version));
    let modules = entries.iter().map(|entry| Listed { module: &entry.module, version: &entry.version });
    let page = Page { modules: modules.collect(), next };
    // Strings always serialize.
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
        // Every time that a file can have can be formatted.
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
    fn the_last_page_has_no_token() {
        assert_eq!(page(Vec::new(), 2), "{\"modules\":[]}\n");
        assert!(!page(entries(2), 2).contains("next"), "although it is full");
        let page = page(entries(3), 2);
        assert!(page.ends_with("],\"next\":\"example.com/m|v1.1.0\"}\n"), "{page}");
        assert!(!page.contains("v1.2.0"), "{page}");
        assert!(page.starts_with("{\"modules\":[{\"module\":\"example.com/m\",\"version\":\"v1.0.0\"},"));
    }

    #[test]
    fn parameters_of_the_catalog_are_checked() {
        let of = |size, after: Option<(&str, &str)>| {
            let after = after.map(|(module, version)| (module.to_owned(), version.to_owned()));
            Ok(Listing::Catalog { after, size })
        };
        assert_eq!(Listing::catalog(Some("")), of(1000, None));
        assert_eq!(Listing::catalog(Some("pagesize=&token=&other=1")), of(1000, None));
        assert_eq!(
            Listing::catalog(Some("pagesize=7&token=example.com%2FCap%7Cv1.0.0-RC1")),
            of(7, Some(("example.com/Cap", "v1.0.0-RC1")))
        );
        assert_eq!(Listing::catalog(Some("pagesize=99999999999999999999999")), of(MAX_CATALOG_PAGE, None));
        for bad in ["pagesize=0", "pagesize=-1", "pagesize=x", "pagesize=1.5", "pagesize=%2B7x"] {
            assert!(Listing::catalog(Some(bad)).is_err(), "{bad}");
        }
        for bad in
            ["token=x", "token=|", "token=example.com/m", "token=example.com/m|v1", "token=../m|v1.0.0"]
        {
            assert!(Listing::catalog(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn parameters_of_the_index_are_checked() {
        let of = |since, size| Ok(Listing::Index { since, size });
        assert_eq!(Listing::index(Some("")), of(i64::MIN, 2000));
        assert_eq!(Listing::index(Some("since=1970-01-01T00:00:01Z&limit=5000")), of(1_000_000_000, 2000));
        assert_eq!(Listing::index(Some("since=1970-01-01T02:00:00.000000007%2B02:00&limit=3")), of(7, 3));
        assert_eq!(Listing::index(Some("since=1970-01-01T02:00:00+02:00")), of(0, 2000));
        assert_eq!(Listing::index(Some("since=9999-01-01T00:00:00Z")), of(i64::MAX, 2000));
        for bad in ["since=yesterday", "since=1970-01-01", "since=0", "limit=0", "limit=-3", "limit=x"] {
            assert!(Listing::index(Some(bad)).is_err(), "{bad}");
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
}
