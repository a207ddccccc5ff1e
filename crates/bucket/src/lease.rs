//! The lease of a process that works on the whole bucket.
//!
//! The holder changes the state every few seconds. A process that waits takes the lease over if the state has not
//! changed for a minute on its own clock, so the clocks of two machines need not agree. A holder that was suspended is
//! refused by its next write of the state, and ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;

use crate::keys::STATE;
use crate::manifest::fresh_nonce;
use crate::{Bucket, BucketError, BucketMarker, BucketState, Held, Lease, Nonce, Swapped, Trouble};

/// The times of a lease.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTimes {
    /// The pause between two beats of the holder.
    pub beat: Duration,
    /// The time without a successful beat after which the holder stops its work.
    pub give_up: Duration,
    /// The time without a change after which a waiting process takes the lease over.
    pub takeover: Duration,
    /// The pause between two looks of a waiting process.
    pub poll: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { beat: seconds(10), give_up: seconds(30), takeover: seconds(60), poll: seconds(2) }
    }
}

/// A process that takes leases.
#[derive(Debug, Clone)]
pub struct LeaseTaker {
    /// The bucket.
    pub bucket: Bucket,
    /// The program and its version, for the state.
    pub program: String,
    /// The machine and the process, for messages.
    pub owner: String,
    /// The times.
    pub times: LeaseTimes,
}

/// A lease that this process holds. It ends by [`Self::end`]. Dropping it leaves it to be taken over.
#[derive(Debug)]
pub struct HeldLease {
    taker: LeaseTaker,
    beating: Arc<Beating>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Beating {
    /// Locked during each write of the state.
    current: Mutex<Held<BucketState>>,
    lost: watch::Sender<Option<BucketError>>,
    /// The time of the last write that succeeded.
    alive: std::sync::Mutex<Instant>,
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl LeaseTaker {
    /// Tries to take the lease by one write. `state` is the state to write, with its marker and its history; `old` is
    /// the state that was read, or `None` if there was none. Returns the state of another process if that was first.
    pub async fn take(
        &self,
        old: Option<&Held<BucketState>>,
        state: BucketState,
        work: &str,
    ) -> Result<Result<HeldLease, Option<Held<BucketState>>>, BucketError> {
        let mut state = state.rewritten(&self.program)?;
        state.epoch = old.map_or(1, |old| old.document.epoch + 1);
        state.lease = Some(Lease { owner: self.owner.clone(), work: work.to_owned(), beat: 0 });
        let began = Instant::now();
        match self.bucket.swap(STATE, &state, old.map(|old| &old.tag)).await? {
            Swapped::Done(tag) => Ok(Ok(self.beat(Held { document: state, tag }, began))),
            Swapped::Lost(other) => Ok(Err(other)),
        }
    }

    /// Takes the lease of a bucket at the current layout, whose ID is this one. Waits while another process holds it, and
    /// calls `waits` before.
    pub async fn take_current(
        &self,
        id: &Nonce,
        work: &str,
        mut waits: impl FnMut(&Lease),
    ) -> Result<HeldLease, BucketError> {
        // The tag of a state whose holder is dead.
        let mut dead = None;
        loop {
            let is_ours = |held: &Held<BucketState>| held.document.is_current() && held.document.id == *id;
            let Some(held) = BucketState::read(&self.bucket).await?.filter(is_ours) else {
                let reason = "another process has changed its layout";
                return Err(BucketError::new(Trouble::Left, "work on", self.bucket.url(), reason));
            };
            if let Some(lease) = held.document.lease.as_ref().filter(|_| dead.as_ref() != Some(&held.tag)) {
                waits(lease);
                let seen = self.wait(held).await?;
                dead = seen.filter(|seen| seen.document.lease.is_some()).map(|seen| seen.tag);
                continue;
            }
            if let Ok(lease) = self.take(Some(&held), held.document.clone(), work).await? {
                return Ok(lease);
            }
        }
    }

    fn beat(&self, current: Held<BucketState>, began: Instant) -> HeldLease {
        let beating = Arc::new(Beating {
            current: Mutex::new(current),
            lost: watch::Sender::new(None),
            alive: std::sync::Mutex::new(began),
        });
        let task = tokio::spawn(beat(self.clone(), Arc::clone(&beating))).abort_handle();
        HeldLease { taker: self.clone(), beating, task }
    }

    /// Waits until the holder of the lease gives it back or is dead. Returns the state then. The lease can be taken if
    /// it is still in the state: its holder is dead.
    pub async fn wait(&self, mut seen: Held<BucketState>) -> Result<Option<Held<BucketState>>, BucketError> {
        let mut since = Instant::now();
        while seen.document.lease.is_some() && since.elapsed() < self.times.takeover {
            tokio::time::sleep(self.times.poll).await;
            match self.bucket.document_unless::<BucketState>(STATE, &seen.tag).await {
                Ok(None) => {}
                Ok(Some(Some(now))) => (seen, since) = (now, Instant::now()),
                Ok(Some(None)) => return Ok(None),
                // An outage says nothing about the holder.
                Err(error) if error.trouble == Trouble::Unreachable => since = Instant::now(),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(seen))
    }
}

async fn beat(taker: LeaseTaker, beating: Arc<Beating>) {
    loop {
        tokio::time::sleep(taker.times.beat).await;
        if let Err(error) = beating.write(&taker, |_| {}).await {
            if beating.lost.borrow().is_some() {
                return;
            }
            log::warn!(reason:% = error.without_help(); "cannot renew the lease of the bucket");
        }
    }
}

impl Beating {
    /// Writes the state with another beat and some other change.
    async fn write(
        &self,
        taker: &LeaseTaker,
        change: impl FnOnce(&mut BucketState),
    ) -> Result<(), BucketError> {
        let mut current = self.current.lock().await;
        let began = Instant::now();
        let mut next = current.document.rewritten(&taker.program)?;
        if let Some(lease) = &mut next.lease {
            lease.beat += 1;
        }
        change(&mut next);
        match taker.bucket.swap(STATE, &next, Some(&current.tag)).await? {
            Swapped::Done(tag) => {
                *current = Held { document: next, tag };
                *crate::unnameable::lock(&self.alive) = began;
                Ok(())
            }
            Swapped::Lost(other) => {
                let error = taken_over(&taker.bucket, other.as_ref());
                self.lost.send_replace(Some(error.clone()));
                Err(error)
            }
        }
    }
}

fn taken_over(bucket: &Bucket, other: Option<&Held<BucketState>>) -> BucketError {
    let owner = other.and_then(|other| other.document.lease.as_ref()).map(|lease| lease.owner.clone());
    let reason = match owner {
        Some(owner) => format!("{owner} took over the lease"),
        None => format!("another process changed {STATE}"),
    };
    BucketError::new(Trouble::Left, "keep the lease of", bucket.url(), reason)
}

impl HeldLease {
    /// Returns the state that this process wrote last.
    pub async fn state(&self) -> BucketState {
        self.beating.current.lock().await.document.clone()
    }

    /// Fails if the lease is lost: another process has taken it, or no beat has succeeded for too long.
    pub fn check(&self) -> Result<(), BucketError> {
        if let Some(error) = &*self.beating.lost.borrow() {
            return Err(error.clone());
        }
        let silent = crate::unnameable::lock(&self.beating.alive).elapsed();
        if silent > self.taker.times.give_up {
            let reason = format!("the lease could not be renewed for {} s", silent.as_secs());
            return Err(BucketError::new(
                Trouble::Left,
                "keep the lease of",
                self.taker.bucket.url(),
                reason,
            ));
        }
        Ok(())
    }

    /// Writes the state now. Fails if the lease is lost, also if this process was suspended and has not noticed yet.
    pub async fn renew(&self) -> Result<(), BucketError> {
        self.check()?;
        self.beating.write(&self.taker, |_| {}).await
    }

    /// Gives the bucket a new ID. Nobody reads what is below the present one from then on, so it can be deleted at any
    /// time, also by a process that was suspended and has lost the lease meanwhile.
    pub async fn retire_id(&self) -> Result<(), BucketError> {
        self.check()?;
        let id = fresh_nonce()?;
        self.beating.write(&self.taker, |state| state.id = id).await
    }

    /// Does some work. Ends with an error as soon as the lease is lost.
    pub async fn during<T, E: From<BucketError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        tokio::pin!(work);
        let mut ticks = tokio::time::interval(self.taker.times.poll.min(Duration::from_millis(500)));
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => self.check()?,
                done = &mut work => return done,
            }
        }
    }

    /// Gives the lease back and writes the marker, by one write.
    pub async fn end(
        self,
        marker: BucketMarker,
        entry: Option<stoa_layout::marker::HistoryEntry>,
    ) -> Result<Held<BucketState>, BucketError> {
        self.check()?;
        // A beat that has begun ends first.
        let current = self.beating.current.lock().await;
        self.task.abort();
        let mut next = current.document.rewritten(&self.taker.program)?;
        next.marker = marker;
        next.lease = None;
        next.history.extend(entry);
        match self.taker.bucket.swap(STATE, &next, Some(&current.tag)).await? {
            Swapped::Done(tag) => Ok(Held { document: next, tag }),
            Swapped::Lost(other) => Err(taken_over(&self.taker.bucket, other.as_ref())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ATHENS, LAYOUT};

    fn taker(bucket: &Bucket, owner: &str) -> LeaseTaker {
        let ms = Duration::from_millis;
        let times = LeaseTimes { beat: ms(20), give_up: ms(2000), takeover: ms(400), poll: ms(10) };
        LeaseTaker { bucket: bucket.clone(), program: "test".to_owned(), owner: owner.to_owned(), times }
    }

    fn migrating() -> BucketState {
        BucketState::first(BucketMarker::Migrating { from: ATHENS, to: LAYOUT }, "test").unwrap()
    }

    #[tokio::test]
    async fn one_of_many_takes_the_lease_and_the_others_see_its_end() {
        let bucket = Bucket::in_memory();
        let all = (0..50).map(|n| {
            let taker = taker(&bucket, &n.to_string());
            tokio::spawn(async move {
                match taker.take(None, migrating(), "upgrade").await.unwrap() {
                    Ok(lease) => {
                        tokio::time::sleep(Duration::from_millis(600)).await;
                        lease.check().unwrap();
                        lease.end(BucketMarker::At(LAYOUT), None).await.unwrap();
                        true
                    }
                    Err(other) => {
                        let ended = taker.wait(other.unwrap()).await.unwrap().unwrap();
                        assert!(ended.document.is_current() && ended.document.lease.is_none());
                        false
                    }
                }
            })
        });
        let won = futures_util::future::join_all(all).await.into_iter().filter(|won| *won.as_ref().unwrap());
        assert_eq!(won.count(), 1);
    }

    #[tokio::test]
    async fn a_dead_holder_is_taken_over_and_can_write_nothing_afterwards() {
        let bucket = Bucket::in_memory();
        let (first, second) = (taker(&bucket, "first"), taker(&bucket, "second"));
        let lease = first.take(None, migrating(), "upgrade").await.unwrap().unwrap();
        lease.task.abort();
        let seen = BucketState::read(&bucket).await.unwrap().unwrap();
        let seen = second.wait(seen).await.unwrap().unwrap();
        let state = seen.document.clone();
        let taken = second.take(Some(&seen), state, "upgrade").await.unwrap().unwrap();
        assert_eq!(taken.state().await.epoch, 2);
        let error = lease.end(BucketMarker::At(LAYOUT), None).await.unwrap_err();
        assert_eq!(error.trouble, Trouble::Left);
        assert!(error.to_string().contains("second took over the lease"), "{error}");
        taken.end(BucketMarker::At(LAYOUT), None).await.unwrap();
    }

    #[tokio::test]
    async fn the_lease_of_a_current_bucket_is_waited_for_and_keeps_the_layout() {
        let bucket = Bucket::in_memory();
        let (first, second) = (taker(&bucket, "first"), taker(&bucket, "second"));
        let lease = first.take(None, migrating(), "upgrade").await.unwrap().unwrap();
        let id = lease.state().await.id;
        assert_eq!(second.take_current(&id, "prune", |_| {}).await.unwrap_err().trouble, Trouble::Left);
        lease.end(BucketMarker::At(LAYOUT), None).await.unwrap();
        let lease = first.take_current(&id, "prune", |_| panic!("nobody holds it")).await.unwrap();
        let mut holders = Vec::new();
        let end = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            lease.end(BucketMarker::At(LAYOUT), None).await.unwrap();
        };
        let waits = |lease: &Lease| holders.push(lease.owner.clone());
        let (taken, ()) = tokio::join!(second.take_current(&id, "prune", waits), end);
        assert!(!holders.is_empty() && holders.iter().all(|holder| holder == "first"), "{holders:?}");
        // A dead holder is taken over.
        taken.unwrap().task.abort();
        let lease = first.take_current(&id, "prune", |_| {}).await.unwrap();
        let state = lease.state().await;
        assert!(state.is_current() && state.epoch == 4 && state.id == id, "{state:?}");
        let other = Nonce::random().unwrap();
        assert!(first.take_current(&other, "prune", |_| {}).await.is_err());
    }

    #[tokio::test]
    async fn a_holder_gives_the_bucket_a_new_id_unless_it_was_replaced() {
        let bucket = Bucket::in_memory();
        let (first, second) = (taker(&bucket, "first"), taker(&bucket, "second"));
        let lease = first.take(None, migrating(), "downgrade").await.unwrap().unwrap();
        let id = lease.state().await.id;
        lease.renew().await.unwrap();
        assert_eq!(lease.state().await.id, id);
        lease.retire_id().await.unwrap();
        let retired = BucketState::read(&bucket).await.unwrap().unwrap();
        assert!(retired.document.id != id && retired.document.lease.is_some());
        lease.task.abort();
        let state = retired.document.clone();
        let taken = second.take(Some(&retired), state, "upgrade").await.unwrap().unwrap();
        for refused in [lease.renew().await, lease.retire_id().await] {
            assert_eq!(refused.unwrap_err().trouble, Trouble::Left);
        }
        assert_eq!(taken.state().await.id, retired.document.id);
        taken.end(BucketMarker::At(LAYOUT), None).await.unwrap();
    }

    #[tokio::test]
    async fn a_holder_that_cannot_beat_stops_its_work() {
        let bucket = Bucket::in_memory();
        let mut first = taker(&bucket, "first");
        first.times.give_up = Duration::from_millis(100);
        let lease = first.take(None, migrating(), "upgrade").await.unwrap().unwrap();
        lease.task.abort();
        let never = std::future::pending::<Result<(), BucketError>>();
        assert_eq!(lease.during(never).await.unwrap_err().trouble, Trouble::Left);
    }
}
