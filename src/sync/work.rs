//! The work in the queue: fetching the versions that peers have named, and applying their marks.
//!
//! Versions are fetched by ordinary fills, from the peer and from nowhere else, with the hashes that the peer has named. So
//! a peer can send nothing that is not verified. A version leaves the queue when it is here, when it is not wanted, or when
//! it is in conflict.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use stoa_gomod::{H1, ModuleVersion};
use stoa_store::{Mark, Queued, QueuedKind, RowChange};
use tokio::task::JoinSet;

use super::conflicts::note_conflict;
use super::intake::{Standing, standing};
use super::replication::now_ms;
use super::{Link, Replication, SyncError};
use crate::fill::{Expected, Waiter, Want};
use crate::policy::Rule;
use crate::unavailable::Unavailable;
use crate::upstream::Via;

/// Number of rows of a peer that are read at once.
const READ: usize = 64;

/// The first and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60 * 60));

/// The number of failures after which a version waits for the next comparison, if each said that it does not exist or is
/// wrong.
const MAX_FAILURES: u32 = 5;

/// The longest time without a look at the queue, for work that another process adds.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The result of an attempt.
#[derive(Debug)]
enum Outcome {
    /// The version is here, or the mark is applied.
    Done,
    /// The event means nothing here, and may mean work later: after a change of the configuration, or without a tombstone.
    Forgotten,
    /// Another attempt may succeed.
    Failed { reason: String, is_definite: bool, retry_after: Option<Duration> },
    /// This process is shutting down.
    Stopping,
}

/// An event that is being worked on.
type Key = (usize, ModuleVersion, bool);

/// Rows that were read and not begun, per peer, and those that were begun.
struct Ready {
    rows: Vec<VecDeque<(Queued, u32)>>,
    begun: HashSet<Key>,
    /// The peer whose turn it is.
    turn: usize,
}

impl Replication {
    /// Works for ever.
    pub(super) async fn keep_working(self: Arc<Self>) -> Infallible {
        let mut ready = Ready {
            rows: self.links.iter().map(|_| VecDeque::new()).collect(),
            begun: HashSet::new(),
            turn: 0,
        };
        let mut running: JoinSet<Key> = JoinSet::new();
        loop {
            let looked_at = now_ms();
            loop {
                let next = self.next(&mut ready, None).await.unwrap_or_else(|error| {
                    log::warn!(reason:% = error; "cannot read the queue of a peer");
                    None
                });
                let Some((number, queued, attempts)) = next else { break };
                let key = (number, queued.version.clone(), queued.what.is_mark());
                ready.begun.insert(key.clone());
                let sync = Arc::clone(&self);
                running.spawn(async move {
                    if let Some(link) = sync.links.get(number) {
                        sync.one(link, &queued, attempts).await;
                    }
                    key
                });
            }
            let pause = self.pause(looked_at).await;
            tokio::select! {
                Some(done) = running.join_next() => match done {
                    Ok(key) => drop(ready.begun.remove(&key)),
                    Err(error) => {
                        // Without its key. The versions of the others are looked at again after their end.
                        log::error!(reason:% = error; "a task failed");
                        ready.begun.clear();
                    }
                },
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Works until the queue of a peer has nothing that can be done now. Returns the number of finished and failed events.
    pub(super) async fn work_off(self: &Arc<Self>, link: &Arc<Link>) -> Result<(u64, u64), SyncError> {
        let only = self.links.iter().position(|other| Arc::ptr_eq(other, link));
        let mut ready = Ready {
            rows: self.links.iter().map(|_| VecDeque::new()).collect(),
            begun: HashSet::new(),
            turn: 0,
        };
        let mut running: JoinSet<bool> = JoinSet::new();
        let (mut finished, mut failed) = (0, 0);
        loop {
            while running.len() < self.max_concurrent {
                let next = self.next(&mut ready, only).await?;
                let Some((number, queued, attempts)) = next else { break };
                ready.begun.insert((number, queued.version.clone(), queued.what.is_mark()));
                let (sync, link) = (Arc::clone(self), Arc::clone(link));
                running.spawn(async move { sync.one(&link, &queued, attempts).await });
            }
            match running.join_next().await {
                Some(Ok(true)) => finished += 1,
                Some(_) => failed += 1,
                None => return Ok((finished, failed)),
            }
        }
    }

    /// Returns the next event to work on, one peer after the other. A peer with nothing in work may always begin, so that a
    /// slow peer delays no other.
    async fn next(
        &self,
        ready: &mut Ready,
        only: Option<usize>,
    ) -> Result<Option<(usize, Queued, u32)>, SyncError> {
        let count = self.links.len();
        for _ in 0..count {
            let number = only.unwrap_or(ready.turn % count);
            ready.turn = number + 1;
            let is_busy = || ready.begun.iter().any(|(of, ..)| *of == number);
            if only.is_none() && ready.begun.len() >= self.max_concurrent && is_busy() {
                continue;
            }
            let Some(rows) = ready.rows.get_mut(number) else { break };
            if rows.is_empty() {
                *rows = self.due(number, &ready.begun).await?;
            }
            if let Some((queued, attempts)) = rows.pop_front() {
                return Ok(Some((number, queued, attempts)));
            }
        }
        Ok(None)
    }

    async fn due(&self, number: usize, begun: &HashSet<Key>) -> Result<VecDeque<(Queued, u32)>, SyncError> {
        let Some(link) = self.links.get(number) else { return Ok(VecDeque::new()) };
        let name = link.peer.name.clone();
        let limit = READ + begun.len();
        let due = self.off_runtime(move |store| Ok(store.peers().due(&name, now_ms(), limit)?)).await?;
        let is_new = |(queued, _): &(Queued, u32)| {
            !begun.contains(&(number, queued.version.clone(), queued.what.is_mark()))
        };
        Ok(due.into_iter().filter(is_new).collect())
    }

    /// Returns the time until an event is due that was not due at the last look.
    async fn pause(&self, looked_at: i64) -> Duration {
        match self.off_runtime(move |store| Ok(store.peers().next_due(looked_at)?)).await {
            Ok(Some(due)) => {
                let left = Duration::from_millis(u64::try_from(due - now_ms()).unwrap_or_default());
                left.clamp(Duration::from_millis(50), LOOK_EVERY)
            }
            _ => LOOK_EVERY,
        }
    }

    /// Works on an event, and notes the result in the queue. Returns whether the event is done.
    async fn one(&self, link: &Arc<Link>, queued: &Queued, attempts: u32) -> bool {
        let version = &queued.version;
        let outcome = match &queued.what {
            QueuedKind::Fetch { h1, gomod_h1, .. } => {
                self.fetch(link, queued, h1.as_ref(), gomod_h1.as_ref()).await
            }
            QueuedKind::Mark(mark) => self.apply(link, version, mark).await,
        };
        let outcome = outcome.unwrap_or_else(|error| Outcome::Failed {
            reason: error.to_string(),
            is_definite: false,
            retry_after: None,
        });
        let (peer, event) = (link.peer.name.clone(), queued.clone());
        let is_done = matches!(outcome, Outcome::Done | Outcome::Forgotten);
        let noted = self
            .off_runtime(move |store| {
                let peers = store.peers();
                match outcome {
                    Outcome::Done => {
                        if !event.what.is_mark()
                            && let Some(h1) = store.known_h1(&event.version)?
                        {
                            peers.finish(&event.version, &h1)?;
                        }
                        peers.note_attempt(&peer, &event, RowChange::Done)?;
                    }
                    Outcome::Forgotten => peers.note_attempt(&peer, &event, RowChange::Forgotten)?,
                    Outcome::Failed { reason, is_definite, retry_after } => {
                        let pause = PAUSES.0.saturating_mul(1 << attempts.min(16)).min(PAUSES.1);
                        let pause = super::replication::varied(pause).max(retry_after.unwrap_or_default());
                        let due = now_ms() + i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
                        let is_parked = is_definite && attempts + 1 >= MAX_FAILURES;
                        log::debug!(peer, version:% = event.version, reason, attempts, is_parked; "cannot take over a version yet");
                        let change = RowChange::Postponed { due_ms: due, reason: &reason, is_parked };
                        peers.note_attempt(&peer, &event, change)?;
                    }
                    Outcome::Stopping => {}
                }
                Ok(())
            })
            .await;
        if let Err(error) = noted {
            log::warn!(peer = link.peer.name, version:%, reason:% = error; "cannot note the result for a version, it is tried again");
            // Without a pause, the same row would be read again at once.
            tokio::time::sleep(PAUSES.0).await;
        }
        self.counts.add_done(is_done);
        is_done
    }

    /// Fetches a version, if it is wanted and not here.
    async fn fetch(
        &self,
        link: &Arc<Link>,
        queued: &Queued,
        h1: Option<&H1>,
        gomod_h1: Option<&H1>,
    ) -> Result<Outcome, SyncError> {
        let version = &queued.version;
        if !link.peer.accept.matches(version.path().as_str()) {
            // The configuration has changed.
            return Ok(Outcome::Forgotten);
        }
        if let Some(outcome) = self.settled(link, version, h1).await? {
            return Ok(outcome);
        }
        let policy = self.services.policy.load();
        let Ok(permit) = policy.permit(version) else { return Ok(Outcome::Forgotten) };
        let list_if_known = self.list_if_known(link, queued, h1, permit.rule());
        let rule = link.rule(permit.rule());
        let expected = Expected {
            zip: h1.cloned().into_iter().collect(),
            modfile: gomod_h1.cloned().into_iter().collect(),
        };
        let permit = permit.with_rule(&rule);
        let joined = self.services.flights.join_expecting(permit, &Via::none(), Want::Version, &expected);
        let is_joined = joined.as_ref().is_ok_and(Waiter::is_joined);
        let filled = async {
            match joined {
                Ok(waiter) => waiter.stored().await,
                Err(error) => Err(error),
            }
        };
        // The checksum database is asked beside the download, which needs its answer too.
        tokio::pin!(list_if_known, filled);
        let filled = tokio::select! {
            biased;
            filled = &mut filled => match filled {
                Ok(()) => Ok(()),
                Err(error) => {
                    list_if_known.await;
                    Err(error)
                }
            },
            () = &mut list_if_known => filled.await,
        };
        if let Err(error) = filled {
            return Ok(failed(&error, is_joined));
        }
        // Another flight of the version may not have known the hashes.
        Ok(self.settled(link, version, h1).await?.unwrap_or(Outcome::Failed {
            reason: "the version was removed at once".to_owned(),
            is_definite: false,
            retry_after: None,
        }))
    }

    /// Notes that a version may be listed before it is here, if a checksum database knows it.
    async fn list_if_known(&self, link: &Link, queued: &Queued, h1: Option<&H1>, rule: &Arc<Rule>) {
        if queued.is_listed || !self.services.sumdb.knows(rule, &queued.version, h1).await {
            return;
        }
        let (peer, event) = (link.peer.name.clone(), queued.clone());
        let listed = self
            .off_runtime(move |store| Ok(store.peers().note_attempt(&peer, &event, RowChange::Listed)?));
        if let Err(error) = listed.await {
            log::debug!(peer = link.peer.name, version:% = queued.version, reason:% = error; "cannot list a version yet");
        }
    }

    /// Returns the outcome for a version that is not to be fetched.
    async fn settled(
        &self,
        link: &Arc<Link>,
        version: &ModuleVersion,
        h1: Option<&H1>,
    ) -> Result<Option<Outcome>, SyncError> {
        let (named, theirs, peer) = (version.clone(), h1.cloned(), link.peer.name.clone());
        let has_bucket = self.services.tier.is_some();
        let outcome = self.off_runtime(move |store| {
            Ok(match standing(store, &named, theirs.as_ref(), has_bucket)? {
                Standing::Missing => None,
                Standing::Here => Some(Outcome::Done),
                Standing::Forbidden => Some(Outcome::Forgotten),
                Standing::Differs(ours) => {
                    if let Some(theirs) = &theirs {
                        note_conflict(store, &peer, &named, &ours, theirs)?;
                    }
                    Some(Outcome::Done)
                }
            })
        });
        outcome.await
    }

    /// Applies a tombstone or its lifting, if it is higher than what is known here.
    async fn apply(
        &self,
        link: &Arc<Link>,
        version: &ModuleVersion,
        mark: &Mark,
    ) -> Result<Outcome, SyncError> {
        if !link.peer.accept_tombstones || !link.peer.accept.matches(version.path().as_str()) {
            return Ok(Outcome::Forgotten);
        }
        if let Some(tier) = &self.services.tier {
            tier.apply_mark(version, mark).await?;
        }
        let (named, mark, peer) = (version.clone(), mark.clone(), link.peer.name.clone());
        let applied = self.off_runtime(move |store| {
            // A fill of the version may take long.
            let Some(claim) = store.try_claim(&named)? else { return Ok(None) };
            let changed = store.apply_mark(&claim, &mark, &format!("by the peer {peer}"))?;
            let known = store.records().get(&named)?.and_then(|record| record.mark());
            // Not after a mark that is lower than a lifting here, whose versions may be in the queue.
            if known.as_ref().is_some_and(|known| !known.is_lifted) {
                // A later event of the version means work again.
                store.peers().forget(&named)?;
            }
            if changed {
                let word = if mark.is_lifted { "lifted the tombstone" } else { "set a tombstone" };
                log::info!(peer, version:% = named, origin = mark.origin, counter = mark.counter; "{word} of a version, as a peer has done");
            }
            Ok(Some(known.is_some_and(|known| known.is_lifted && known.rank() == mark.rank())))
        });
        let Some(is_lifted) = applied.await? else {
            return Ok(Outcome::Failed {
                reason: "another task works on the version".to_owned(),
                is_definite: false,
                retry_after: None,
            });
        };
        // The event of the version may have come before the lifting, and meant nothing then. The lifting may have been applied
        // by an attempt that failed here, so a lifting that changes nothing counts too.
        if is_lifted && !self.take_modules(link, &[version.path().to_string()], Some(version)).await? {
            return Ok(Outcome::Failed {
                reason: "the queue of the peer is full".to_owned(),
                is_definite: false,
                retry_after: None,
            });
        }
        Ok(Outcome::Done)
    }
}

/// Converts the failure of a fill. The failure of a fill that began for another task may be that of another upstream.
fn failed(error: &Unavailable, is_joined: bool) -> Outcome {
    let is_definite = !is_joined
        && matches!(
            error,
            Unavailable::Absent(_)
                | Unavailable::Unreached(_)
                | Unavailable::Offline(_)
                | Unavailable::Differs(_)
                | Unavailable::Unexpected { .. }
                | Unavailable::Unverified(_)
                | Unavailable::Loop(_)
        );
    match error {
        Unavailable::Stopping(_) => Outcome::Stopping,
        Unavailable::Denied(_) | Unavailable::Gone(_) => Outcome::Forgotten,
        error => Outcome::Failed { reason: error.to_string(), is_definite, retry_after: error.retry_after() },
    }
}
