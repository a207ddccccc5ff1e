//! Checksum databases that upstreams forward.
//!
//! As in the go command, the entries of the list are asked whether they forward a database
//! (`sumdb/NAME/supported`), and all requests for the database go to the first entry that does. A positive
//! answer is remembered for the life of the process, a negative answer for a minute, a failure not at all.
//! Statuses and bodies are passed through unchanged, except those that report a limit or a loop; clients check signatures and inclusion. The caller
//! decides which databases may be asked: a name from a client's request must not be trusted.

use super::{Place, Upstream, UpstreamError, Via};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Large enough for the largest tile of records.
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// How long a negative answer to `supported` is remembered.
const UNSUPPORTED_LIFETIME: Duration = Duration::from_secs(60);

/// An upstream's answer for a checksum database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumdbAnswer {
    /// The status, which may be an error.
    pub status: u16,
    /// The content type, if the upstream sent one.
    pub content_type: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// The entries that forward databases, by the name of the database.
#[derive(Debug, Default)]
pub(super) struct Databases(Mutex<HashMap<String, Support>>);

#[derive(Debug, Clone, Copy)]
enum Support {
    By(usize),
    None(Instant),
}

impl Upstream {
    /// Returns whether an entry of the list forwards this database.
    pub async fn sumdb_supported(&self, name: &str, via: &Via) -> Result<bool, UpstreamError> {
        Ok(self.entry_for(name, via).await?.is_some())
    }

    /// Requests `path` from the entry that forwards the database: `latest`, `lookup/…`, `tile/…`.
    pub async fn sumdb(&self, name: &str, path: &str, via: &Via) -> Result<SumdbAnswer, UpstreamError> {
        let path = format!("sumdb/{name}/{path}");
        let absent =
            |message: &str| UpstreamError::NotFound { url: path.clone(), message: message.to_owned() };
        if !is_clean(&path) {
            return Err(absent("invalid path"));
        }
        let Some(entry) = self.entry_for(name, via).await? else {
            return Err(absent("no upstream forwards this checksum database; `gosumdb` can set its URL"));
        };
        self.pass_through(entry, &path, via).await
    }

    /// Requests a path from the first entry of the list, which is the database itself.
    pub async fn sumdb_here(&self, path: &str, via: &Via) -> Result<SumdbAnswer, UpstreamError> {
        match is_clean(path) {
            true => self.pass_through(0, path, via).await,
            false => {
                Err(UpstreamError::NotFound { url: path.to_owned(), message: "invalid path".to_owned() })
            }
        }
    }

    async fn pass_through(&self, entry: usize, path: &str, via: &Via) -> Result<SumdbAnswer, UpstreamError> {
        let walk = self.inner.walk(entry, path, via)?;
        let Some((_, place)) = walk.place() else { return Err(UpstreamError::Offline) };
        let request = self.inner.request(path, MAX_ANSWER_BYTES, walk.via.as_ref());
        let asked = place.ask(request).await;
        match (asked, place) {
            (Ok(mut answer), _) => {
                let body = answer.body.collect(Some(&self.inner.memory), None).await?;
                match answer.status {
                    508 => Err(UpstreamError::Loop { url: answer.body.url }),
                    status => Ok(SumdbAnswer { status, content_type: answer.content_type, body }),
                }
            }
            // A missing file in a tree of files is a 404.
            (Err(UpstreamError::NotFound { .. }), Place::File(_)) => {
                Ok(SumdbAnswer { status: 404, content_type: None, body: Bytes::new() })
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn entry_for(&self, name: &str, via: &Via) -> Result<Option<usize>, UpstreamError> {
        match self.inner.databases.recall(name) {
            Some(Support::By(entry)) => return Ok(Some(entry)),
            Some(Support::None(since)) if since.elapsed() < UNSUPPORTED_LIFETIME => return Ok(None),
            _ => {}
        }
        let path = format!("sumdb/{name}/supported");
        if self.is_offline() || !is_clean(&path) {
            return Ok(None);
        }
        let mut walk = self.inner.walk(0, &path, via)?;
        while let Some((entry, place)) = walk.place() {
            // Neither can forward a database.
            if matches!(place, Place::Direct(_) | Place::Off) {
                break;
            }
            match place.open(self.inner.request(&path, MAX_ANSWER_BYTES, walk.via.as_ref())).await {
                Ok(_) => {
                    self.inner.databases.note(name, Support::By(entry));
                    return Ok(Some(entry));
                }
                Err(error) => walk.fail(error),
            }
        }
        match walk.worst {
            Some(error) if !error.is_absent() => Err(error),
            _ => {
                self.inner.databases.note(name, Support::None(Instant::now()));
                Ok(None)
            }
        }
    }
}

impl Databases {
    fn recall(&self, name: &str) -> Option<Support> {
        self.lock().get(name).copied()
    }

    fn note(&self, name: &str, support: Support) {
        self.lock().insert(name.to_owned(), support);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Support>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether a path stays below its base.
fn is_clean(path: &str) -> bool {
    path.split('/').all(|element| !matches!(element, "" | "." | "..") && !element.contains(['\\', '\0']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_their_base() {
        assert!(is_clean("sumdb/sum.example/tile/8/0/x012/345.p/7"));
        for bad in ["sumdb/../x", "sumdb//x", "sumdb/n/", "/sumdb", "sumdb/./x", "sumdb/n/..\\x", ""] {
            assert!(!is_clean(bad), "{bad:?}");
        }
    }
}
