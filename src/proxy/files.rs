//! The files of a version: info, mod and zip.
//!
//! What is in the store is answered at once on the worker, see [`Proxy::stored_small`] and
//! [`Proxy::stored_zip`]; the rest waits for a fill, or for the seal of a zip that came without one.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, LAST_MODIFIED,
};
use sha2::{Digest, Sha256};
use stoa_gomod::{H1, ModuleVersion};
use stoa_store::{SmallFile, VersionFile, ZipFile};

use super::answer::{self, JSON, Kind, MINUTE, Response, TEXT, WEEK, ZIP};
use super::body::Body;
use super::conditional::{self, Validators, Verdict};
use super::{Asked, Proxy};
use crate::fill::{Arrival, FillError, Mode};

/// How often a version may come and go while somebody asks for it, before that is an error.
const ATTEMPTS: usize = 4;

impl Proxy {
    /// Answers for an info or a mod that is in the store. `None` if it is not.
    pub(super) fn stored_small(
        &self,
        asked: Asked<'_>,
        version: &ModuleVersion,
        file: SmallFile,
    ) -> Option<Response> {
        match self.store().small(version, file) {
            Ok(Some(small)) => {
                self.upkeep.last_use.note(version);
                Some(small_answer(asked, file, small.bytes, &small.digest, Some(small.modified)))
            }
            Ok(None) => None,
            Err(error) => Some(answer::store_failed(version, error)),
        }
    }

    /// Answers for an info or a mod.
    pub(super) async fn small(&self, asked: Asked<'_>, version: &ModuleVersion, file: SmallFile) -> Response {
        for _ in 0..ATTEMPTS {
            if let Some(response) = self.stored_small(asked, version, file) {
                return response;
            }
            if let Some(response) = self.not_fetched_now(asked, version, file.into()) {
                return response;
            }
            let arrival = match self.fill.join(version, &asked.via(), false) {
                Ok(waiter) => waiter.small(file).await,
                Err(error) => Err(error),
            };
            match arrival {
                Ok(Arrival::Early(bytes)) => {
                    let digest = Sha256::digest(&bytes).into();
                    let mut response = small_answer(asked, file, bytes, &digest, None);
                    // The version may prove broken yet.
                    response.headers_mut().insert(CACHE_CONTROL, MINUTE);
                    return response;
                }
                Ok(Arrival::Stored) => {}
                Err(error) => return answer::failed(&error, Kind::File),
            }
        }
        unsteady(version)
    }

    /// Answers for a file of a version that is not in the store, where nobody is to wait for it, or to have it at all.
    fn not_fetched_now(
        &self,
        asked: Asked<'_>,
        version: &ModuleVersion,
        file: VersionFile,
    ) -> Option<Response> {
        if let Err(error) = self.fill.check_record(version) {
            return Some(forbidden(version, &error));
        }
        if asked.is_local {
            return Some(answer::not_fetched());
        }
        let rule = self.fill.policy().rule(version.path());
        let in_background = match rule.mode {
            Mode::Sync | Mode::None => return None,
            Mode::Redirect => false,
            Mode::Async | Mode::AsyncRedirect => true,
        };
        if in_background {
            self.fill.fill_in_background(version, &asked.via());
        }
        let redirect_url = rule.redirect_url.as_ref().filter(|_| rule.mode.redirects());
        Some(match redirect_url {
            Some(base) => answer::elsewhere(&format!(
                "{base}/{}/@v/{}.{}",
                version.path().escaped(),
                version.version().escaped(),
                file.name()
            )),
            None => answer::not_fetched(),
        })
    }

    /// Answers for a zip that is in the store and sealed. `None` if it is not.
    pub(super) fn stored_zip(&self, asked: Asked<'_>, version: &ModuleVersion) -> Option<Response> {
        match self.store().open_zip(version) {
            Ok(Some(mut zip)) => zip.seal.take().map(|seal| self.zip_answer(asked, version, zip, &seal)),
            Ok(None) => None,
            Err(error) => Some(answer::store_failed(version, error)),
        }
    }

    /// Answers for a zip.
    pub(super) async fn zip(&self, asked: Asked<'_>, version: &ModuleVersion) -> Response {
        for _ in 0..ATTEMPTS {
            match self.store().open_zip(version) {
                Ok(Some(mut zip)) => {
                    if let Some(seal) = zip.seal.take() {
                        return self.zip_answer(asked, version, zip, &seal);
                    }
                    // Sealed or in quarantine: either way it is opened again, since what is at that name now
                    // need not be what was sealed.
                    match self.fill.seal(version).await {
                        Ok(_) => continue,
                        Err(error) => return log_failed(version, &error),
                    }
                }
                Ok(None) => {}
                Err(error) => return answer::store_failed(version, error),
            }
            if let Some(response) = self.not_fetched_now(asked, version, VersionFile::Zip) {
                return response;
            }
            let waiter = match self.fill.join(version, &asked.via(), true) {
                Ok(waiter) => waiter,
                Err(error) => return answer::failed(&error, Kind::File),
            };
            if asked.wants_whole() {
                match waiter.stored().await {
                    Ok(()) => continue,
                    Err(error) => return answer::failed(&error, Kind::File),
                }
            }
            match waiter.zip().await {
                Ok(Arrival::Early(transfer)) => {
                    let body = Body::transfer(transfer, &self.buffers);
                    return answer::module(StatusCode::OK, ZIP, WEEK, body);
                }
                Ok(Arrival::Stored) => {}
                Err(error) => return answer::failed(&error, Kind::File),
            }
        }
        unsteady(version)
    }

    fn zip_answer(&self, asked: Asked<'_>, version: &ModuleVersion, zip: ZipFile, seal: &H1) -> Response {
        self.upkeep.last_use.note(version);
        let (length, modified) = (zip.length, zip.modified);
        // The same files may have been packed otherwise: with the length the tag stands for the bytes.
        let etag = tag(format!("\"{seal}-{length:x}\""));
        let body = |range| Body::zip(version, zip, range, &self.buffers);
        entity(asked, ZIP, Validators { etag, modified: Some(modified) }, length, body)
    }
}

fn small_answer(
    asked: Asked<'_>,
    file: SmallFile,
    bytes: Bytes,
    digest: &[u8; 32],
    modified: Option<SystemTime>,
) -> Response {
    let content_type = match file {
        SmallFile::Info => JSON,
        SmallFile::Mod => TEXT,
    };
    let validators = Validators { etag: etag_of(digest), modified };
    entity(asked, content_type, validators, bytes.len() as u64, |range| {
        // A length of something in memory.
        let place = |at| usize::try_from(at).unwrap_or(usize::MAX);
        Body::Whole(bytes.slice(place(range.start)..place(range.end)))
    })
}

/// Answers with the whole, a part or nothing of what a version has for good.
fn entity(
    asked: Asked<'_>,
    content_type: HeaderValue,
    validators: Validators,
    length: u64,
    body: impl FnOnce(Range<u64>) -> Body,
) -> Response {
    let verdict = match conditional::is_conditional(asked.headers) {
        true => conditional::judge(asked.headers, asked.is_head, &validators, length),
        false => Verdict::Whole,
    };
    let (status, body, range) = match verdict {
        Verdict::Whole => (StatusCode::OK, body(0..length), None),
        Verdict::Part(part) => {
            let range = format!("bytes {}-{}/{length}", part.start, part.end - 1);
            (StatusCode::PARTIAL_CONTENT, body(part), Some(range))
        }
        Verdict::NotModified => (StatusCode::NOT_MODIFIED, Body::Empty, None),
        Verdict::Failed => (StatusCode::PRECONDITION_FAILED, Body::Empty, None),
        Verdict::Unsatisfiable => {
            (StatusCode::RANGE_NOT_SATISFIABLE, Body::Empty, Some(format!("bytes */{length}")))
        }
    };
    let mut response = answer::module(status, content_type, WEEK, body);
    let headers = response.headers_mut();
    if status == StatusCode::NOT_MODIFIED {
        headers.remove(CONTENT_TYPE);
    }
    headers.insert(ETAG, validators.etag);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(modified) = validators.modified
        && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(modified))
    {
        headers.insert(LAST_MODIFIED, date);
    }
    if let Some(range) = range.and_then(|range| HeaderValue::try_from(range).ok()) {
        headers.insert(CONTENT_RANGE, range);
    }
    response
}

/// Makes a strong entity tag of the hash of the content.
fn etag_of(digest: &[u8; 32]) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(34);
    text.push('"');
    for byte in &digest[..16] {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(HEX[usize::from(nibble)]));
        }
    }
    text.push('"');
    tag(text)
}

fn tag(quoted: String) -> HeaderValue {
    // Hex digits, or the base64 of a seal: nothing that a header cannot hold.
    HeaderValue::try_from(quoted).unwrap_or(HeaderValue::from_static("\"\""))
}

fn log_failed(version: &ModuleVersion, error: &FillError) -> Response {
    log::error!("cannot seal {version}: {error}");
    answer::failed(error, Kind::File)
}

fn forbidden(version: &ModuleVersion, error: &FillError) -> Response {
    if !matches!(error, FillError::Gone(_)) {
        log::error!("cannot answer for {version}: {error}");
    }
    answer::failed(error, Kind::File)
}

fn unsteady(version: &ModuleVersion) -> Response {
    log::error!("{version} comes and goes in the store; find out what else writes below it");
    answer::failed(&FillError::Broken(version.to_string()), Kind::File)
}
