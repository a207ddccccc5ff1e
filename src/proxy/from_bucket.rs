//! The files of a version in the bucket, for the clients of a read-only server.
//!
//! Other servers store a version of the bucket first. A read-only server sends it from there, and compares what is known
//! of it: the manifest and the record of the store must agree, and a policy of `require` demands a verdict.

use std::sync::Arc;
use std::time::SystemTime;

use hyper::header::{CACHE_CONTROL, HeaderValue};
use sha2::{Digest, Sha256};
use stoa_bucket::Manifest;
use stoa_gomod::{H1, h1};
use stoa_store::{Record, SmallFile, VersionFile};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::answer::{MINUTE, Response, ZIP};
use super::body::Body;
use super::conditional::Validators;
use super::entity::{part, part_answer, small_answer, zip_etag};
use super::problem::{Problem, Subject};
use super::{Client, Proxy};
use crate::bucket::{Tier, add_to_record};
use crate::policy::{ChecksumPolicy, Permit};
use crate::tasks::{How, blocking, note};
use crate::unavailable::Unavailable;

impl Proxy {
    /// Answers with a file in the bucket, if the server is read-only. `None` if the bucket does not have the version.
    pub(super) async fn answer_from_bucket(
        &self,
        client: Client<'_>,
        permit: Permit<'_>,
        file: VersionFile,
    ) -> Option<Response> {
        let tier = self.services.tier.as_ref().filter(|_| self.store().is_read_only())?;
        let answer = async {
            let Some(manifest) = tier.present(permit.version()).await? else { return Ok(None) };
            note(How::Asked);
            match file {
                VersionFile::Info => self.small_of(tier, client, permit, &manifest, SmallFile::Info).await,
                VersionFile::Mod => self.small_of(tier, client, permit, &manifest, SmallFile::Mod).await,
                VersionFile::Zip => self.zip_of(tier, client, permit, &manifest).await,
                // No client asks for it.
                VersionFile::Seal => Ok(None),
            }
        };
        answer.await.unwrap_or_else(|error| Some(Problem::Failed(&error, Subject::File).answer()))
    }

    async fn small_of(
        &self,
        tier: &Tier,
        client: Client<'_>,
        permit: Permit<'_>,
        manifest: &Manifest,
        file: SmallFile,
    ) -> Result<Option<Response>, Unavailable> {
        let Some(body) = tier.read_small(manifest, file).await? else { return Ok(None) };
        let gomod_h1 = (file == SmallFile::Mod).then(|| h1::hash_mod(&body));
        self.check_known(permit, manifest, manifest.seal(), gomod_h1.as_ref()).await?;
        let digest = Sha256::digest(&body).into();
        let mut response = small_answer(client, file, body, &digest, published(manifest));
        let caching = match manifest.seal() {
            Some(_) => self.know_caching(permit).await,
            // The zip may still turn out not to belong to it.
            None => MINUTE,
        };
        response.headers_mut().insert(CACHE_CONTROL, caching);
        Ok(Some(response))
    }

    async fn zip_of(
        &self,
        tier: &Arc<Tier>,
        client: Client<'_>,
        permit: Permit<'_>,
        manifest: &Manifest,
    ) -> Result<Option<Response>, Unavailable> {
        let (version, Some(content)) = (permit.version(), manifest.present_content()) else {
            return Ok(None);
        };
        let Some(seal) = tier.seal_of(manifest).await? else { return Ok(None) };
        self.check_known(permit, manifest, Some(&seal), None).await?;
        let length = content.zip.size;
        let validators = Validators::new(zip_etag(&seal, length), published(manifest));
        let part = part(client, &validators, length);
        let body = match part.range(length) {
            Some(range) if client.is_head => match tier.has_files(manifest).await? {
                true => Body::bucket(version, None, range.end - range.start),
                false => return Ok(None),
            },
            Some(range) => {
                let length = range.end - range.start;
                let Some(stream) = tier.open_zip(version, &content.zip, range).await? else {
                    return Ok(None);
                };
                Body::bucket(version, Some(stream), length)
            }
            None => Body::Empty,
        };
        let caching: HeaderValue = self.know_caching(permit).await;
        let mut response = part_answer(&part, ZIP, validators, length, body);
        response.headers_mut().insert(CACHE_CONTROL, caching);
        Ok(Some(response))
    }

    /// Compares the hashes of a version with those that its manifest and the store know.
    async fn check_known(
        &self,
        permit: Permit<'_>,
        manifest: &Manifest,
        h1: Option<&H1>,
        gomod_h1: Option<&H1>,
    ) -> Result<(), Unavailable> {
        let version = permit.version();
        // One call on this thread, as in `check_record`.
        let stored = match self.store().records().has(version)? {
            true => {
                let named = version.clone();
                blocking(self.store(), version, move |store| store.records().get(&named)).await?
            }
            false => None,
        };
        let mut there = Record::default();
        add_to_record(&mut there, manifest);
        for record in [stored.unwrap_or_default(), there] {
            let objection = match h1 {
                Some(h1) => record.objection(h1, gomod_h1),
                None => record.objection_to_mod(gomod_h1),
            };
            if let Some(objection) = objection {
                log::error!(version:% = version, reason:% = objection; "SECURITY: refused a version in the bucket");
                return Err(Unavailable::objection(version, &objection));
            }
            if record.verdict.is_some() {
                return Ok(());
            }
        }
        match permit.rule().checksum {
            ChecksumPolicy::Require => Err(Unavailable::Unverified(
                format!(
                    "refused {version}: no checksum database has confirmed it, and this proxy is read-only and asks none"
                )
                .into(),
            )),
            ChecksumPolicy::Auto | ChecksumPolicy::Off => Ok(()),
        }
    }
}

/// Returns the time at which a version was published.
fn published(manifest: &Manifest) -> Option<SystemTime> {
    OffsetDateTime::parse(&manifest.published_at, &Rfc3339).ok().map(SystemTime::from)
}
