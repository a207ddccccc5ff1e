//! The files of a version: info, mod and zip.
//!
//! A stored file is answered at once on the worker, see [`Proxy::stored_small`] and [`Proxy::stored_zip`]. Other requests
//! wait for a fill, or for the seal of a stored zip that has none.

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use sha2::{Digest, Sha256};
use stoa_gomod::{H1, ModuleVersion};
use stoa_store::{CachedPair, Objection, SmallFile, StoreError, VersionFile, ZipFile};

use super::answer::{self, MINUTE, Response, TEXT, WEEK, ZIP};
use super::attempts::Attempts;
use super::body::Body;
use super::conditional::Validators;
use super::entity::{entity, etag_of, small_answer, zip_etag};
use super::problem::{Problem, Subject};
use super::{Client, Proxy};
use crate::byte_budget::SMALL_BODY;
use crate::fill::{Arrival, Places, Waiter, Want};
use crate::policy::{Mode, Permit};
use crate::tasks::blocking;
use crate::unavailable::Unavailable;

impl Proxy {
    /// Answers with a stored info or mod. Returns `None` if it is not stored.
    pub(super) fn stored_small(
        &self,
        client: Client<'_>,
        permit: Permit<'_>,
        file: SmallFile,
    ) -> Option<Response> {
        if self.is_to_compare(permit.version()) {
            return None;
        }
        self.compared_small(client, permit, file)
    }

    /// Answers with a stored info or mod that was compared with the bucket. Returns `None` if it is not stored.
    fn compared_small(&self, client: Client<'_>, permit: Permit<'_>, file: SmallFile) -> Option<Response> {
        let version = permit.version();
        if self.is_to_verify(permit, None) {
            return None;
        }
        match self.store().small(version, file) {
            Ok(Some(small)) => {
                let caching = self.caching(permit)?;
                self.upkeep.last_use.note(version);
                let mut response =
                    small_answer(client, file, small.bytes, &small.digest, Some(small.modified));
                response.headers_mut().insert(CACHE_CONTROL, caching);
                Some(response)
            }
            Ok(None) => None,
            Err(error) => Some(store_failed(version, error)),
        }
    }

    /// Answers with an info or a mod.
    pub(super) async fn small(&self, client: Client<'_>, permit: Permit<'_>, file: SmallFile) -> Response {
        let mut attempts = Attempts::default();
        while attempts.begin() {
            let ready = async {
                self.compare_stored(permit).await?;
                self.verify_stored(client, permit).await
            };
            if let Err(error) = ready.await {
                return Problem::Failed(&error, Subject::File).answer();
            }
            self.know_caching(permit).await;
            if let Some(response) = self.compared_small(client, permit, file) {
                return response;
            }
            match self.services.flights.pair(permit).await {
                Ok(Some(pair)) => {
                    if !client.is_local {
                        self.services.flights.start_if_eager(permit, &client.via());
                    }
                    return self.cached_small(client, permit.version(), pair, file);
                }
                Ok(None) => {}
                Err(error) => return forbidden(permit.version(), &error),
            }
            let wanted = (file.into(), Want::Metadata);
            match self.fill(client, permit, wanted, &mut attempts, |waiter| waiter.small(file)).await {
                Ok(Arrival::Early(bytes)) => {
                    self.note_use_of_bucket(permit.version());
                    let digest = Sha256::digest(&bytes).into();
                    let mut response = small_answer(client, file, bytes, &digest, None);
                    // The rest of the version may still turn out to be corrupt.
                    response.headers_mut().insert(CACHE_CONTROL, MINUTE);
                    return response;
                }
                Ok(Arrival::Stored) => {}
                Err(response) => return *response,
            }
        }
        unsteady(permit.version())
    }

    /// Answers with a cached info or mod of a version whose zip is not stored. A large mod is sent piece by piece.
    fn cached_small(
        &self,
        client: Client<'_>,
        version: &ModuleVersion,
        pair: CachedPair,
        file: SmallFile,
    ) -> Response {
        self.note_use_of_bucket(version);
        let length = pair.mod_range.end - pair.mod_range.start;
        let mut response = match file {
            SmallFile::Info => {
                let digest = Sha256::digest(&pair.info).into();
                small_answer(client, file, pair.info, &digest, None)
            }
            SmallFile::Mod if length <= SMALL_BODY as u64 => match pair.modfile() {
                Ok(body) => small_answer(client, file, body, &pair.mod_sha256, None),
                Err(error) => return store_failed(version, error),
            },
            SmallFile::Mod => {
                let validators = Validators::new(etag_of(&pair.mod_sha256), None);
                let start = pair.mod_range.start;
                entity(client, TEXT, validators, length, |range| {
                    Body::zip(
                        self.services.sending.begin(version),
                        pair.into_file(),
                        start + range.start..start + range.end,
                        &self.buffers,
                    )
                })
            }
        };
        // The zip may still turn out not to belong to it.
        response.headers_mut().insert(CACHE_CONTROL, MINUTE);
        response
    }

    /// Records the use of a version that may not be stored. The publication of a version in the bucket may be long ago.
    fn note_use_of_bucket(&self, version: &ModuleVersion) {
        if self.services.tier.is_some() {
            self.upkeep.last_use.note(version);
        }
    }

    /// Returns whether the client may get a zip directly from the bucket.
    fn may_redirect(&self, client: Client<'_>) -> bool {
        !client.is_head && !client.is_peer && self.services.tier.as_ref().is_some_and(|tier| tier.redirects())
    }

    /// Returns the URL in the bucket to which the client is redirected for a zip, if it is.
    async fn redirect(&self, client: Client<'_>, permit: Permit<'_>) -> Option<String> {
        if !self.may_redirect(client) || self.is_to_verify(permit, None) {
            return None;
        }
        // The store may forbid a version that only the bucket has. The answer to the request is that error then.
        self.check_record(permit.version()).await.ok()?;
        self.services.tier.as_ref()?.redirect(permit.version()).await
    }

    /// Returns the places from which the client gets a file that is not stored. The error is the answer if the version is
    /// forbidden, or the client is not to wait for it.
    pub(super) async fn places(
        &self,
        client: Client<'_>,
        permit: Permit<'_>,
        file: VersionFile,
    ) -> Result<Places, Box<Response>> {
        let version = permit.version();
        if let Err(error) = self.check_record(version).await {
            return Err(Box::new(forbidden(version, &error)));
        }
        if let Some(response) = self.answer_from_bucket(client, permit, file).await {
            return Err(Box::new(response));
        }
        let rule = permit.rule();
        let waits = !client.is_local && matches!(rule.mode, Mode::Sync | Mode::None);
        if waits {
            return Ok(Places::All);
        }
        match self.is_in_bucket(version).await {
            Ok(true) => return Ok(Places::BucketOnly),
            Ok(false) => {}
            Err(error) => return Err(Box::new(Problem::Failed(&error, Subject::File).answer())),
        }
        if client.is_local {
            return Err(Box::new(Problem::NotStored.answer()));
        }
        let in_background = matches!(rule.mode, Mode::Async | Mode::AsyncRedirect);
        if in_background {
            self.services.flights.start(permit, &client.via());
        }
        let redirect_url = rule.redirect_url.as_ref().filter(|_| rule.mode.redirects());
        Err(Box::new(match redirect_url {
            Some(base) => answer::redirect(&format!(
                "{base}/{}/@v/{}.{}",
                version.path().escaped(),
                version.version().escaped(),
                file.name()
            )),
            None => Problem::InBackground.answer(),
        }))
    }

    /// Returns whether a version that is not in the store is in the bucket. Then it arrives as fast as from the store.
    async fn is_in_bucket(&self, version: &ModuleVersion) -> Result<bool, Unavailable> {
        match &self.services.tier {
            Some(tier) if !self.store().is_read_only() => tier.has(version).await,
            _ => Ok(false),
        }
    }

    /// Returns an error if a version that is not in the store has a tombstone. Stored versions are served without this
    /// check.
    async fn check_record(&self, version: &ModuleVersion) -> Result<(), Unavailable> {
        // One call on this thread, as for the version itself. Most versions have no record, and need no other thread.
        if !self.services.store.records().has(version)? {
            return Ok(());
        }
        let named = version.clone();
        let tombstone =
            blocking(&self.services.store, version, move |store| store.records().tombstone(&named));
        match tombstone.await? {
            Some(tombstone) => Err(Unavailable::objection(version, &Objection::Tombstone(tombstone))),
            None => Ok(()),
        }
    }

    /// Answers with a stored and sealed zip. Returns `None` if there is none.
    pub(super) fn stored_zip(&self, client: Client<'_>, permit: Permit<'_>) -> Option<Response> {
        let version = permit.version();
        if self.is_to_compare(version) || self.may_redirect(client) {
            return None;
        }
        match self.store().open_zip(version) {
            Ok(Some(mut zip)) => {
                let seal = zip.seal.take().filter(|seal| !self.is_to_verify(permit, Some(seal)))?;
                let caching = self.caching(permit)?;
                Some(self.zip_answer(client, permit, zip, &seal, caching))
            }
            Ok(None) => None,
            Err(error) => Some(store_failed(version, error)),
        }
    }

    /// Answers with a zip.
    pub(super) async fn zip(&self, client: Client<'_>, permit: Permit<'_>) -> Response {
        let version = permit.version();
        let mut attempts = Attempts::default();
        while attempts.begin() {
            let ready = async {
                self.compare_stored(permit).await?;
                self.verify_stored(client, permit).await
            };
            if let Err(error) = ready.await {
                return Problem::Failed(&error, Subject::File).answer();
            }
            if let Some(url) = self.redirect(client, permit).await {
                // For the bucket, whose versions are pruned by the uses of all servers.
                self.upkeep.last_use.note(version);
                return answer::redirect(&url);
            }
            match self.store().open_zip(version) {
                Ok(Some(mut zip)) => {
                    if let Some(seal) = zip.seal.take() {
                        if self.is_to_verify(permit, Some(&seal)) {
                            // Another process has replaced the version since it was confirmed.
                            self.services.sumdb.forget_confirmed(version);
                            continue;
                        }
                        let caching = self.know_caching(permit).await;
                        return self.zip_answer(client, permit, zip, &seal, caching);
                    }
                    // The file at that name may have changed since it was sealed, or be in quarantine now. So it is opened
                    // again.
                    match self.services.seals.seal(version).await {
                        Ok(_) => continue,
                        Err(error) => return seal_failed(version, &error),
                    }
                }
                Ok(None) => {}
                Err(error) => return store_failed(version, error),
            }
            let wait = async |waiter: Waiter| match client.wants_whole() {
                true => waiter.stored().await.map(|()| Arrival::Stored),
                false => waiter.zip().await,
            };
            let wanted = (VersionFile::Zip, Want::Zip);
            match self.fill(client, permit, wanted, &mut attempts, wait).await {
                Ok(Arrival::Early(transfer)) => {
                    self.note_use_of_bucket(version);
                    let body = Body::transfer(transfer, &self.buffers);
                    let caching = self.know_caching(permit).await;
                    return answer::module(StatusCode::OK, ZIP, caching, body);
                }
                Ok(Arrival::Stored) => {}
                Err(response) => return *response,
            }
        }
        unsteady(version)
    }

    fn zip_answer(
        &self,
        client: Client<'_>,
        permit: Permit<'_>,
        zip: ZipFile,
        seal: &H1,
        caching: HeaderValue,
    ) -> Response {
        let version = permit.version();
        self.upkeep.last_use.note(version);
        let (length, modified) = (zip.length, zip.modified);
        let etag = zip_etag(seal, length);
        let body = |range| Body::zip(self.services.sending.begin(version), zip, range, &self.buffers);
        let mut response = entity(client, ZIP, Validators::new(etag, Some(modified)), length, body);
        response.headers_mut().insert(CACHE_CONTROL, caching);
        response
    }

    /// Returns how long a stored file may be cached: not long if the version is unverified and the checksum database cannot
    /// be reached. Otherwise a wrong version could remain in caches after the database has refuted it. Returns `None` if
    /// the record of the version must be read first.
    fn caching(&self, permit: Permit<'_>) -> Option<HeaderValue> {
        let is_doubtful = self.services.sumdb.is_doubtful(permit.version(), permit.rule())?;
        Some(if is_doubtful { MINUTE } else { WEEK })
    }

    /// Returns how long a stored file may be cached, and reads the record of the version for that if necessary.
    pub(super) async fn know_caching(&self, permit: Permit<'_>) -> HeaderValue {
        if let Some(caching) = self.caching(permit) {
            return caching;
        }
        self.services.sumdb.read_verdict(permit.version()).await;
        self.caching(permit).unwrap_or(MINUTE)
    }
}

/// Answers that the store failed. The log has the reason, which names paths of this machine.
fn store_failed(version: &ModuleVersion, error: StoreError) -> Response {
    log::error!(version:% = version, reason:% = error; "cannot read a version from the store");
    Problem::Failed(&Unavailable::from(error), Subject::File).answer()
}

fn seal_failed(version: &ModuleVersion, error: &Unavailable) -> Response {
    log::error!(version:% = version, reason:% = error; "cannot verify a stored zip");
    Problem::Failed(error, Subject::File).answer()
}

fn forbidden(version: &ModuleVersion, error: &Unavailable) -> Response {
    // A tombstone is a decision, not a failure.
    if !matches!(error, Unavailable::Gone(_)) {
        log::error!(version:% = version, reason:% = error; "cannot read the record of a version");
    }
    Problem::Failed(error, Subject::File).answer()
}

fn unsteady(version: &ModuleVersion) -> Response {
    log::error!(
        version:% = version, help = "find out which other program writes to the store";
        "a version keeps changing on disk"
    );
    Problem::Failed(&Unavailable::Broken(version.to_string()), Subject::File).answer()
}
