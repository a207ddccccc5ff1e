//! The places for running go commands.
//!
//! The number of places is limited. A host that hangs must not take all of them, so the modules of one host get at
//! most three quarters. Neither may the modules of many hosts that nobody named in the configuration, if others are
//! named there. The number of waiting requests is limited as well, in total and by host, and their time while no
//! command ends that they wait for.

use crate::lock::lock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use stoa_gomod::ModulePath;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) max_concurrent: usize,
    pub(super) max_waiting: usize,
    pub(super) max_wait: Duration,
}

/// The places of a process.
pub(super) struct Places {
    limits: Limits,
    all: Arc<Share>,
    /// The share of modules that are not covered, see [`super::rules`].
    uncovered: Arc<Share>,
    /// The shares of hosts with running or waiting commands.
    hosts: Mutex<HashMap<String, Weak<Share>>>,
}

/// Some places.
struct Share {
    permits: Arc<Semaphore>,
    /// Number of requests that wait.
    waiting: AtomicUsize,
    /// Notified when a command has ended.
    ended: watch::Sender<()>,
    /// The host, for texts.
    host: Option<String>,
}

/// The right to run a go command. Waiting requests are notified when it is dropped.
pub(super) struct Place {
    _held: Vec<Held>,
}

/// The reason why there is no place.
#[derive(Debug, thiserror::Error)]
pub(super) enum Busy {
    /// Too many requests wait.
    #[error("too many go commands are running{}, and {most} requests are waiting", of(.host))]
    Waiting { host: Option<String>, most: usize },
    /// No command ended in time.
    #[error("too many go commands are running{}, and none ended within {max_wait:?}", of(.host))]
    Hanging { host: Option<String>, max_wait: Duration },
}

fn of(host: &Option<String>) -> String {
    host.as_ref().map_or_else(String::new, |host| format!(" for {host}"))
}

impl Places {
    /// Returns the number of running commands, and their maximum.
    pub(super) fn in_use(&self) -> (usize, usize) {
        let count = self.limits.max_concurrent;
        (count.saturating_sub(self.all.permits.available_permits()), count)
    }

    /// Creates the places. `is_any_covered` is whether some modules are covered.
    pub(super) fn new(limits: Limits, is_any_covered: bool) -> Self {
        let count = limits.max_concurrent.clamp(1, Semaphore::MAX_PERMITS);
        let uncovered = if is_any_covered { share_of(count) } else { count };
        Self {
            limits: Limits { max_concurrent: count, ..limits },
            all: Arc::new(Share::new(count, None)),
            uncovered: Arc::new(Share::new(uncovered, None)),
            hosts: Mutex::default(),
        }
    }

    /// Waits for a place for a command about a module.
    pub(super) async fn take(&self, module: &ModulePath, is_covered: bool) -> Result<Place, Busy> {
        let host = self.host(site(module));
        let shares = [Some(&host), (!is_covered).then_some(&self.uncovered), Some(&self.all)];
        let mut held = Vec::with_capacity(shares.len());
        for share in shares.into_iter().flatten() {
            held.push(self.wait(share, &host).await?);
        }
        Ok(Place { _held: held })
    }

    /// Waits for one share, as long as commands end in time.
    async fn wait(&self, share: &Arc<Share>, host: &Share) -> Result<Held, Busy> {
        let held = |permit| Held { share: Arc::clone(share), _permit: permit };
        if let Ok(permit) = Arc::clone(&share.permits).try_acquire_owned() {
            return Ok(held(permit));
        }
        let Limits { max_waiting, max_wait, .. } = self.limits;
        let counts =
            [(&*self.all, max_waiting), (host, max_waiting - max_waiting / 4)].map(|(counted, most)| {
                Waiting::begin(counted, most).ok_or_else(|| Busy::Waiting { host: share.host.clone(), most })
            });
        let _waiting = counts.into_iter().collect::<Result<Vec<_>, _>>()?;
        let hanging = || Busy::Hanging { host: share.host.clone(), max_wait };
        let mut ended = share.ended.subscribe();
        let permit = Arc::clone(&share.permits).acquire_owned();
        tokio::pin!(permit);
        loop {
            tokio::select! {
                biased;
                permit = &mut permit => {
                    return permit.map(held).map_err(|_| hanging());
                }
                ended = tokio::time::timeout(max_wait, ended.changed()) => {
                    if ended.is_err() {
                        return Err(hanging());
                    }
                }
            }
        }
    }

    fn host(&self, name: &str) -> Arc<Share> {
        let mut hosts = lock(&self.hosts);
        hosts.retain(|_, share| share.strong_count() > 0);
        if let Some(share) = hosts.get(name).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Share::new(share_of(self.limits.max_concurrent), Some(name.to_owned())));
        hosts.insert(name.to_owned(), Arc::downgrade(&share));
        share
    }

    /// Returns the number of waiting requests.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.all.waiting.load(Ordering::Relaxed)
    }
}

/// Returns the number of places that one host may take: at most three quarters.
fn share_of(count: usize) -> usize {
    count.saturating_sub((count / 4).max(1)).max(1)
}

/// Returns the last two labels of a module's host, since anybody with a domain has any number of hosts.
fn site(module: &ModulePath) -> &str {
    let host = module.as_str().split('/').next().unwrap_or_default();
    let labels = host.rmatch_indices('.').nth(1);
    labels.map_or(host, |(dot, _)| &host[dot + 1..])
}

impl Share {
    fn new(count: usize, host: Option<String>) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(count)),
            waiting: AtomicUsize::new(0),
            ended: watch::Sender::new(()),
            host,
        }
    }
}

/// A place of one share.
struct Held {
    share: Arc<Share>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.share.ended.send_replace(());
    }
}

/// Counts a waiting request.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(share: &'a Share, most: usize) -> Option<Self> {
        let before = share.waiting.fetch_add(1, Ordering::Relaxed);
        // Dropped, and so counted down again, if there are too many.
        Some(Self(&share.waiting)).filter(|_| before < most)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(max_concurrent: usize, max_waiting: usize, max_wait: Duration) -> Places {
        Places::new(Limits { max_concurrent, max_waiting, max_wait }, true)
    }

    fn module(path: &str) -> ModulePath {
        ModulePath::new(path).unwrap()
    }

    #[tokio::test]
    async fn requests_do_not_wait_for_hanging_commands() {
        let places = places(1, 8, Duration::from_millis(1));
        let _running = places.take(&module("a.example/x"), true).await;
        let error = places.take(&module("b.example/x"), true).await.err().unwrap().to_string();
        assert_eq!(error, "too many go commands are running, and none ended within 1ms");
        assert_eq!(places.waiting(), 0);
    }

    #[tokio::test]
    async fn the_number_of_waiting_requests_is_limited() {
        let places = places(1, 0, Duration::MAX);
        let _running = places.take(&module("a.example/x"), true).await;
        let error = places.take(&module("b.example/x"), true).await.err().unwrap().to_string();
        assert_eq!(error, "too many go commands are running, and 0 requests are waiting");
        assert_eq!(places.waiting(), 0);
    }

    #[tokio::test]
    async fn a_waiting_request_gets_the_place_of_an_ended_command() {
        let places = places(1, 8, Duration::MAX);
        let (a, b) = (module("a.example/x"), module("b.test/x"));
        let running = places.take(&a, true).await.unwrap();
        let ending = async {
            assert_eq!(places.waiting(), 1);
            drop(running);
        };
        let (place, ()) = tokio::join!(places.take(&b, true), ending);
        assert!(place.is_ok());
        assert_eq!(places.waiting(), 0);
    }

    #[tokio::test]
    async fn no_host_and_no_hosts_without_a_rule_take_all_places() {
        let places = places(4, 0, Duration::MAX);
        let mut held = Vec::new();
        for path in ["a.h.example/x", "b.h.example/y", "h.example/z"] {
            held.push(places.take(&module(path), true).await.unwrap());
        }
        let error = places.take(&module("c.h.example/x"), true).await.err().unwrap().to_string();
        assert_eq!(error, "too many go commands are running for h.example, and 0 requests are waiting");
        held.push(places.take(&module("other.test/x"), true).await.unwrap());
        drop(held);
        let mut held = Vec::new();
        for path in ["a.one/x", "b.two/x", "c.three/x"] {
            held.push(places.take(&module(path), false).await.unwrap());
        }
        assert!(places.take(&module("d.four/x"), false).await.is_err());
        assert!(places.take(&module("d.four/x"), true).await.is_ok());
    }
}
