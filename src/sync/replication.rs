//! The replication of a server: its peers and its tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use stoa_bucket::BucketError;
use stoa_gomod::{H1, ModuleVersion};
use stoa_store::{IndexError, PeersError, Stop, Store, StoreError};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, watch};
use tokio::task::AbortHandle;

use super::clock::Clock;
use super::gatekeeper::Gatekeeper;
use super::peer::Peer;
use super::push;
use crate::logging::on_one_line;
use crate::policy::Rule;
use crate::services::Services;
use crate::upstream::{PeerClient, UpstreamConfigError, UpstreamError, UpstreamOptions};

/// Number of requests of one peer that are answered at the same time, and of its notifications. One may wait for news.
const ANSWERED_AT_ONCE: usize = 4;

/// Number of bodies of requests of one peer that are read at the same time. Each has up to 1 MiB.
const READ_AT_ONCE: usize = 16;

/// The longest time that a request of a peer waits for the index to be brought up to date with the bucket.
const BUCKET_LIMIT: Duration = Duration::from_secs(20);

/// The maximum length of the text of an error of a peer in messages.
const MAX_TEXT: usize = 200;

/// The peers of a deployment, and their settings.
#[derive(Debug, Clone)]
pub struct ReplicationOptions {
    /// The name of this deployment among its peers.
    pub name: String,
    /// The peers.
    pub peers: Vec<Arc<Peer>>,
    /// Maximum number of versions that are fetched from peers at the same time.
    pub max_concurrent: usize,
    /// The settings for requests to peers.
    pub upstream: UpstreamOptions,
}

/// The replication of a server.
#[derive(Debug)]
pub(crate) struct Replication {
    pub(super) services: Arc<Services>,
    pub(super) links: Vec<Arc<Link>>,
    pub(super) max_concurrent: usize,
    pub(super) counts: Counts,
    /// Changes whenever the log of this process does.
    pub(super) news: watch::Sender<u64>,
    /// Rings when the queue has got work.
    pub(super) wake: Notify,
    is_closing: AtomicBool,
    gatekeeper: Gatekeeper,
    clock: Clock,
}

/// A peer, and the means to reach it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(super) peer: Arc<Peer>,
    pub(super) answering: Semaphore,
    /// Bounds the bodies of its requests that are read at the same time.
    reading: Semaphore,
    /// Bounds the notifications of the peer that are taken in at the same time.
    pub(super) notifying: Semaphore,
    client: PeerClient,
}

/// A failure of the replication.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// The peer cannot be asked.
    #[error(transparent)]
    Peer(#[from] UpstreamError),
    /// The peer refused the request.
    #[error("{url} answered with status {status}: {text}")]
    Refused {
        /// The URL of the peer.
        url: String,
        /// The status.
        status: u16,
        /// The first line of the answer.
        text: String,
    },
    /// The answer of the peer is wrong. Nothing of the wrong part was taken over.
    #[error("the peer sent a wrong answer: {0}")]
    BadAnswer(String),
    /// The answer of the peer has no end.
    #[error("the answer of the peer was interrupted")]
    Incomplete,
    /// The peer sent nothing for too long.
    #[error("the peer did not send the rest of its answer in time")]
    Timeout,
    /// The request of the peer is wrong.
    #[error("{0}")]
    BadRequest(String),
    /// The peer sends too many requests at the same time.
    #[error("too many requests at the same time")]
    Busy,
    /// The index of this store failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The queue of this store failed.
    #[error(transparent)]
    Queue(#[from] PeersError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bucket failed.
    #[error("{}", .0.without_help())]
    Bucket(#[from] BucketError),
    /// A task of this program failed.
    #[error("a task failed (see the log)")]
    Task,
}

impl SyncError {
    pub(super) fn line(error: serde_json::Error) -> Self {
        Self::BadAnswer(error.to_string())
    }

    pub(super) fn transport(error: reqwest::Error) -> Self {
        Self::BadAnswer(error.without_url().to_string())
    }
}

/// Numbers since the start, for the log.
#[derive(Debug, Default)]
pub(super) struct Counts {
    queued: AtomicU64,
    notified: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    push_failures: AtomicU64,
}

impl Counts {
    pub(super) fn add_queued(&self, count: u64) {
        self.queued.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_notified(&self, count: usize) {
        self.notified.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn add_done(&self, is_done: bool) {
        let count = if is_done { &self.done } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_push_failure(&self) {
        self.push_failures.fetch_add(1, Ordering::Relaxed);
    }
}

/// The counters of the replication since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct SyncCounts {
    /// Events that became work.
    pub(crate) queued: u64,
    /// Events that came by notifications.
    pub(crate) notified: u64,
    /// Events whose work is done.
    pub(crate) done: u64,
    /// Attempts that failed.
    pub(crate) failed: u64,
    /// Notifications that a peer did not get.
    pub(crate) push_failures: u64,
}

impl Link {
    fn new(options: &ReplicationOptions, peer: &Arc<Peer>) -> Result<Self, UpstreamConfigError> {
        Ok(Self {
            client: PeerClient::new(&options.name, peer, &options.upstream)?,
            answering: Semaphore::new(ANSWERED_AT_ONCE),
            notifying: Semaphore::new(ANSWERED_AT_ONCE),
            reading: Semaphore::new(READ_AT_ONCE),
            peer: Arc::clone(peer),
        })
    }

    /// Returns a rule with the peer as its only upstream. A peer must not be able to make this deployment ask its own
    /// upstreams, with its credentials, for whatever the peer names.
    pub(super) fn rule(&self, rule: &Rule) -> Arc<Rule> {
        Arc::new(rule.fetching_now_from(self.client.upstream().clone()))
    }

    /// Sends a request, and returns the answer if its status says success.
    pub(super) async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<reqwest::Response, SyncError> {
        let body = serde_json::to_vec(body).map_err(|error| SyncError::BadRequest(error.to_string()))?;
        let mut answer = self.client.post(path, body, within).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        // The text of an error is short. A part of it is enough.
        let text = tokio::time::timeout(within, answer.chunk()).await.ok().and_then(Result::ok).flatten();
        let text = String::from_utf8_lossy(text.as_deref().unwrap_or_default()).into_owned();
        let text: String = text.lines().next().unwrap_or_default().chars().take(MAX_TEXT).collect();
        Err(SyncError::Refused {
            url: self.client.url(path).to_string(),
            status: answer.status().as_u16(),
            text: on_one_line(&text),
        })
    }
}

impl Replication {
    /// Prepares the replication. Nothing is asked before [`start`](Self::start).
    pub(crate) fn new(
        services: Arc<Services>,
        options: &ReplicationOptions,
    ) -> Result<Arc<Self>, UpstreamConfigError> {
        let links = options.peers.iter().map(|peer| Link::new(options, peer).map(Arc::new));
        let clock = Clock::start();
        Ok(Arc::new(Self {
            links: links.collect::<Result<_, _>>()?,
            max_concurrent: options.max_concurrent.max(1),
            counts: Counts::default(),
            news: watch::Sender::new(0),
            wake: Notify::new(),
            is_closing: AtomicBool::new(false),
            gatekeeper: Gatekeeper::new(&options.name, options.peers.iter().cloned(), clock.began_ms()),
            clock,
            services,
        }))
    }

    /// Starts the tasks: pulls and notifications of each peer, and the work.
    ///
    /// `builds_index` tells that nothing else builds the index of this store if it is missing.
    pub(crate) fn start(self: &Arc<Self>, builds_index: bool) -> Vec<AbortHandle> {
        let mut tasks = Vec::new();
        let mut senders: Vec<mpsc::Sender<ModuleVersion>> = Vec::new();
        for link in &self.links {
            if link.peer.push {
                let (sender, changes) = push::channel();
                senders.push(sender);
                let pushing = Arc::clone(self).keep_pushing(Arc::clone(link), changes);
                tasks.push(tokio::spawn(pushing).abort_handle());
            }
        }
        let news = self.news.clone();
        self.services.store.listen(Box::new(move |version, _| {
            news.send_modify(|count| *count = count.wrapping_add(1));
            for sender in &senders {
                // Without a place, the peer learns of the change by a pull.
                let _ = sender.try_send(version.clone());
            }
        }));
        if self.services.store.is_read_only() {
            return tasks;
        }
        tasks.push(tokio::spawn(Arc::clone(self).prepare(builds_index)).abort_handle());
        for link in self.links.iter().filter(|link| link.peer.pull) {
            let has_turn = self.services.tier.as_ref().map(|tier| {
                let (sender, has_turn) = watch::channel(false);
                let keeping = Arc::clone(self).keep_turn(Arc::clone(link), Arc::clone(tier), sender);
                tasks.push(tokio::spawn(keeping).abort_handle());
                has_turn
            });
            let pulling = Arc::clone(self).keep_pulling(Arc::clone(link), has_turn);
            tasks.push(tokio::spawn(pulling).abort_handle());
        }
        tasks.push(tokio::spawn(Arc::clone(self).keep_working()).abort_handle());
        tasks
    }

    /// Forgets the peers that are not configured any more, and builds a missing index.
    async fn prepare(self: Arc<Self>, builds_index: bool) {
        let names: Vec<String> = self.links.iter().map(|link| link.peer.name.clone()).collect();
        let prepared = self.off_runtime(move |store| {
            store.peers().keep_only(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
            if builds_index && store.index().log().is_err_and(|error| error.needs_rebuild()) {
                store.index().reconcile(&Stop::default())?;
            }
            Ok(())
        });
        if let Err(error) = prepared.await {
            log::warn!(reason:% = error; "cannot prepare the exchange with peers");
        }
    }

    /// Answers the requests that wait for news, because the server shuts down.
    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::SeqCst);
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::SeqCst)
    }

    /// Returns the receiver of signed requests.
    pub(crate) fn gatekeeper(&self) -> (&Gatekeeper, i64) {
        (&self.gatekeeper, self.clock.now_ms())
    }

    /// Returns the names of the peers.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &str> {
        self.links.iter().map(|link| link.peer.name.as_str())
    }

    /// Returns the permission to read the body of a request of a peer. Returns `None` if too many are being read.
    pub(crate) fn body_turn(&self, peer: &Peer) -> Option<SemaphorePermit<'_>> {
        self.link(&peer.name)?.reading.try_acquire().ok()
    }

    /// Returns the counters.
    pub(crate) fn counts(&self) -> SyncCounts {
        let Counts { queued, notified, done, failed, push_failures } = &self.counts;
        let [queued, notified, done, failed, push_failures] =
            [queued, notified, done, failed, push_failures].map(|count| count.load(Ordering::Relaxed));
        SyncCounts { queued, notified, done, failed, push_failures }
    }

    /// Logs the counters.
    pub(crate) fn log_counts(&self) {
        let SyncCounts { queued, notified, done, failed, push_failures } = self.counts();
        log::info!(
            events_queued_total = queued,
            events_notified_total = notified,
            events_done_total = done,
            attempts_failed_total = failed,
            notifications_failed_total = push_failures;
            "replication since the start"
        );
    }

    pub(super) fn link(&self, name: &str) -> Option<&Arc<Link>> {
        self.links.iter().find(|link| link.peer.name == name)
    }

    /// Returns a peer that has named a version and is not among those that were `tried`.
    pub(crate) async fn source(
        &self,
        version: &ModuleVersion,
        rule: &Rule,
        tried: &[String],
    ) -> Option<Source> {
        let named = version.clone();
        let sources = self.off_runtime(move |store| Ok(store.peers().sources(&named)?)).await;
        let sources = sources
            .inspect_err(|error| log::debug!(version:%, reason:% = error; "cannot read the queue"))
            .ok()?;
        sources.into_iter().find_map(|(name, h1, gomod_h1)| {
            let is_new = |link: &&Arc<Link>| link.peer.accepts(version.path()) && !tried.contains(&name);
            let link = self.link(&name).filter(is_new)?;
            Some(Source { rule: link.rule(rule), peer: name, h1, gomod_h1 })
        })
    }

    /// Brings the index up to date with the bucket, if there is one.
    pub(super) async fn read_bucket(&self) {
        let Some(tier) = &self.services.tier else { return };
        let id = tier.id();
        let is_complete =
            self.off_runtime(move |store| Ok(store.index().has_bucket(&id)?)).await.unwrap_or_default();
        tier.refresh_catalog(is_complete, BUCKET_LIMIT).await;
    }

    /// Runs work on the store off the runtime.
    pub(super) async fn off_runtime<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, SyncError> + Send + 'static,
    ) -> Result<T, SyncError> {
        let store = Arc::clone(&self.services.store);
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        match done {
            Ok(done) => done,
            // The runtime is shutting down, and drops this task too. There is nothing to report.
            Err(error) if error.is_cancelled() => std::future::pending().await,
            Err(error) => {
                log::error!(reason:% = error; "a task of the replication failed");
                Err(SyncError::Task)
            }
        }
    }
}

/// A peer from which a version may be fetched.
#[derive(Debug)]
pub(crate) struct Source {
    /// The name of the peer.
    pub(crate) peer: String,
    /// The rule with the peer as its only upstream.
    pub(crate) rule: Arc<Rule>,
    /// The hash of the zip that the peer has named.
    pub(crate) h1: Option<H1>,
    /// The hash of the go.mod.
    pub(crate) gomod_h1: Option<H1>,
}

/// Returns the time in milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Returns a pause that differs a little each time, so that peers that have failed together do not return together.
pub(super) fn varied(pause: Duration) -> Duration {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    pause.mul_f64(0.9 + f64::from(nanos % 1000) / 5000.0)
}
