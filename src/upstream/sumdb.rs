//! Checksum databases, passed on by an upstream.
//!
//! As in the go command the list is asked who passes a database on (`sumdb/NAME/supported`), and all that is
//! asked of this database goes to the one that does. That an entry does is remembered for good, that none
//! does only briefly, a failure not at all. Statuses and bodies are passed through as they are: clients check
//! signatures and inclusion themselves. Which databases may be asked at all is for the caller to say; a name
//! that comes straight from a request is none of them.

use super::{Place, Upstream, UpstreamError, Via};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Large enough for the largest tile of records.
const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// How long nobody is asked again whether he passes a database on.
const UNSUPPORTED_LIFETIME: Duration = Duration::from_secs(60);

/// What an upstream answered for a checksum database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumdbAnswer {
    /// The status, of whatever class.
    pub status: u16,
    /// The type of the body, if the upstream told.
    pub content_type: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// Who passes which database on, as far as that is known.
#[derive(Debug, Default)]
pub(super) struct Databases(Mutex<HashMap<String, Known>>);

#[derive(Debug, Clone, Copy)]
enum Known {
    By(usize),
    Nobody(Instant),
}

impl Upstream {
    /// Says whether an entry of the list passes this database on.
    pub async fn sumdb_supported(&self, name: &str, via: &Via) -> Result<bool, UpstreamError> {
        Ok(self.entry_for(name, via).await?.is_some())
    }

    /// Asks the entry that passes the database on for `path`: `latest`, `lookup/…`, `tile/…`.
    pub async fn sumdb(&self, name: &str, path: &str, via: &Via) -> Result<SumdbAnswer, UpstreamError> {
        let path = format!("sumdb/{name}/{path}");
        let absent =
            |message: &str| UpstreamError::NotFound { url: path.clone(), message: message.to_owned() };
        if !is_clean(&path) {
            return Err(absent("it is no clean path"));
        }
        let Some(entry) = self.entry_for(name, via).await? else {
            return Err(absent(
                "no upstream that is asked passes this checksum database on; `gosumdb` may name its URL",
            ));
        };
        self.pass_through(entry, &path, via).await
    }

    /// Asks for a path of a database that the first entry of the list is itself.
    pub async fn sumdb_here(&self, path: &str, via: &Via) -> Result<SumdbAnswer, UpstreamError> {
        match is_clean(path) {
            true => self.pass_through(0, path, via).await,
            false => Err(UpstreamError::NotFound {
                url: path.to_owned(),
                message: "it is no clean path".to_owned(),
            }),
        }
    }

    async fn pass_through(&self, entry: usize, path: &str, via: &Via) -> Result<SumdbAnswer, UpstreamError> {
        let walk = self.inner.walk(entry, path, via)?;
        let Some((_, place)) = walk.place() else { return Err(UpstreamError::Offline) };
        let request = self.inner.request(path, MAX_ANSWER_BYTES, walk.via.as_ref());
        let asked = place.ask(request).await;
        match (asked, place) {
            (Ok(mut answer), _) => {
                let body = answer.body.collect().await?;
                match answer.status {
                    508 => Err(UpstreamError::Loop { url: answer.body.url }),
                    status => Ok(SumdbAnswer { status, content_type: answer.content_type, body }),
                }
            }
            // A file that is not there is what 404 is elsewhere.
            (Err(UpstreamError::NotFound { .. }), Place::File(_)) => {
                Ok(SumdbAnswer { status: 404, content_type: None, body: Bytes::new() })
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn entry_for(&self, name: &str, via: &Via) -> Result<Option<usize>, UpstreamError> {
        match self.inner.databases.recall(name) {
            Some(Known::By(entry)) => return Ok(Some(entry)),
            Some(Known::Nobody(since)) if since.elapsed() < UNSUPPORTED_LIFETIME => return Ok(None),
            _ => {}
        }
        let path = format!("sumdb/{name}/supported");
        if self.is_offline() || !is_clean(&path) {
            return Ok(None);
        }
        let mut walk = self.inner.walk(0, &path, via)?;
        while let Some((entry, place)) = walk.place() {
            // Neither can pass anything on, and that a database is not to be had there needs no warning.
            if matches!(place, Place::Direct(_) | Place::Off) {
                break;
            }
            match place.open(self.inner.request(&path, MAX_ANSWER_BYTES, walk.via.as_ref())).await {
                Ok(_) => {
                    self.inner.databases.note(name, Known::By(entry));
                    return Ok(Some(entry));
                }
                Err(error) => walk.fail(error),
            }
        }
        match walk.worst {
            Some(error) if !error.is_absent() => Err(error),
            _ => {
                self.inner.databases.note(name, Known::Nobody(Instant::now()));
                Ok(None)
            }
        }
    }
}

impl Databases {
    fn recall(&self, name: &str) -> Option<Known> {
        self.lock().get(name).copied()
    }

    fn note(&self, name: &str, known: Known) {
        self.lock().insert(name.to_owned(), known);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says whether a path stays below the base that it is put behind.
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
