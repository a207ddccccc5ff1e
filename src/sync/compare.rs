//! Comparing the digests of all modules with those of a peer: after the peer has got another index, and once a day.

use std::sync::Arc;
use std::time::Duration;

use stoa_gomod::{ModulePath, ModuleVersion};

use super::answer::digest;
use super::event::{
    Digest, DigestsRequest, End, Event, EventKind, EventsRequest, Header, Line, MAX_DIGESTS, parse_line,
};
use super::intake::Batch;
use super::lines::Lines;
use super::{Link, Replication, SyncError};

/// Maximum time for an answer. The peer reads its index for it.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Number of modules whose events are asked for at once.
const MODULES_AT_ONCE: usize = 100;

/// Length of a digest: SHA-256, hexadecimal.
const DIGEST: usize = 64;

/// Number of events in one transaction.
const AT_ONCE: usize = 1000;

impl Replication {
    /// Compares all modules, and takes in the events of those that differ. Parked versions are forgotten: those that the peer
    /// still has differ, so they are queued again. Returns whether all modules were compared, before the queue was full.
    pub(super) async fn compare(&self, link: &Arc<Link>) -> Result<bool, SyncError> {
        let name = link.peer.name.clone();
        self.off_runtime(move |store| Ok(store.peers().forget_parked(&name)?)).await?;
        let mut after = String::new();
        let mut differing = 0;
        loop {
            let request = DigestsRequest { after: after.clone() };
            let (theirs, end) = self.digests(link, &request).await?;
            let last = theirs.last().map(|digest| digest.module.clone());
            let differ = self.differing(link, theirs).await?;
            differing += differ.len();
            for modules in differ.chunks(MODULES_AT_ONCE) {
                if !self.take_modules(link, modules, None).await? {
                    log::debug!(peer = link.peer.name; "the queue is full, comparing again later");
                    return Ok(false);
                }
            }
            match last {
                Some(last) if end.more => after = last,
                _ => break,
            }
        }
        log::debug!(peer = link.peer.name, modules = differing; "compared all modules with a peer");
        let name = link.peer.name.clone();
        self.off_runtime(move |store| Ok(store.peers().note_compared(&name)?)).await?;
        Ok(true)
    }

    async fn digests(
        &self,
        link: &Arc<Link>,
        request: &DigestsRequest,
    ) -> Result<(Vec<Digest>, End), SyncError> {
        let answer = link.post("/sync/v1/digests", request, PATIENCE).await?;
        let mut lines = Lines::new(answer, PATIENCE);
        let mut digests: Vec<Digest> = Vec::new();
        loop {
            let line = lines.next().await?.ok_or(SyncError::Incomplete)?;
            match parse_line::<Digest>(&line).map_err(SyncError::line)? {
                Line::Item(digest) => {
                    let last = digests.last().map_or(request.after.as_str(), |last| &last.module);
                    if digest.module.as_str() <= last {
                        let reason = format!("its module {} comes after {last}", digest.module);
                        return Err(SyncError::BadAnswer(reason));
                    }
                    if ModulePath::new(&digest.module).is_err() || digest.digest.len() != DIGEST {
                        let reason = format!("its digest of {} is not valid", digest.module);
                        return Err(SyncError::BadAnswer(reason));
                    }
                    digests.push(digest);
                }
                Line::End(end) => return Ok((digests, end)),
            }
            if digests.len() > MAX_DIGESTS {
                return Err(SyncError::BadAnswer(format!("it sent more than {MAX_DIGESTS} digests at once")));
            }
        }
    }

    /// Returns the modules that this deployment accepts and whose digest differs here.
    async fn differing(&self, link: &Link, mut theirs: Vec<Digest>) -> Result<Vec<String>, SyncError> {
        theirs.retain(|digest| link.peer.accept.matches(&digest.module));
        self.read_bucket().await;
        self.off_runtime(move |store| {
            let mut differ = Vec::new();
            for Digest { module, digest: theirs } in theirs {
                if digest(&store.index().events_of(&module)?) != theirs {
                    differ.push(module);
                }
            }
            Ok(differ)
        })
        .await
    }

    /// Takes in all events of some modules, or only those that say that one version was published. Returns whether all were
    /// taken in, before the queue was full.
    pub(super) async fn take_modules(
        &self,
        link: &Arc<Link>,
        modules: &[String],
        only: Option<&ModuleVersion>,
    ) -> Result<bool, SyncError> {
        let is_wanted = |event: &Event| {
            only.is_none_or(|only| {
                matches!(event.kind, EventKind::Published { .. }) && event.version == only.version().as_str()
            })
        };
        let mut left = modules.to_vec();
        while !left.is_empty() {
            if self.is_queue_full(link).await? {
                return Ok(false);
            }
            let request = EventsRequest { modules: Some(left.clone()), ..EventsRequest::default() };
            let answer = link.post("/sync/v1/events", &request, PATIENCE).await?;
            let mut lines = Lines::new(answer, PATIENCE);
            lines.header::<Header>().await?;
            let (mut events, mut last, mut count) = (Vec::<Event>::new(), None, 0);
            let end = loop {
                let line = lines.next().await?.ok_or(SyncError::Incomplete)?;
                match parse_line::<Event>(&line).map_err(SyncError::line)? {
                    Line::Item(event) => {
                        if !left.contains(&event.module) {
                            let reason =
                                format!("it sent an event of {}, which was not asked for", event.module);
                            return Err(SyncError::BadAnswer(reason));
                        }
                        last = Some(event.module.clone());
                        if is_wanted(&event) {
                            events.push(event);
                        }
                    }
                    Line::End(end) => break end,
                }
                count += 1;
                if count > MAX_MODULE_EVENTS {
                    log::warn!(peer = link.peer.name, module = last; "a peer sent more than {MAX_MODULE_EVENTS} events at once, the rest of the module is not compared");
                    break End { end: true, seq: 0, more: true };
                }
                if events.len() >= AT_ONCE {
                    let events = std::mem::take(&mut events);
                    self.take_in(link, Batch { events, pointer: None }).await?;
                    if self.is_queue_full(link).await? {
                        return Ok(false);
                    }
                }
            };
            self.take_in(link, Batch { events, pointer: None }).await?;
            let done = last.and_then(|last| left.iter().position(|module| *module == last));
            match done {
                // The modules are answered in the order of the request.
                Some(done) if end.more => drop(left.drain(..=done)),
                _ => break,
            }
        }
        Ok(true)
    }
}

/// Maximum number of events in an answer about modules, of which one is never divided.
const MAX_MODULE_EVENTS: usize = 100_000;
