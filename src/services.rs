//! The parts that answer requests, assembled over one store.

use std::sync::Arc;
use std::time::Duration;

use stoa_store::Store;

use crate::absences::Absences;
use crate::answers::{AnswerOptions, Answers};
use crate::bucket::Tier;
pub use crate::fill::FlightOptions;
use crate::fill::{Flights, Seals, examining};
use crate::meters::Meters;
use crate::policy::{Policy, PolicyCell};
use crate::sending::Sending;
use crate::sumdb::{Sumdb, SumdbOptions};
use crate::tasks::Shutdown;
pub use crate::upstream::{Instance, Via};

/// Settings for the parts.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// The settings for downloads.
    pub flights: FlightOptions,
    /// How long a 404 or 410 of an upstream is remembered.
    pub absent_ttl: Duration,
    /// The settings for lists, `@latest` and queries.
    pub answers: AnswerOptions,
    /// The settings for checksum databases.
    pub sumdb: SumdbOptions,
    /// The bucket that several servers share.
    pub tier: Option<Arc<Tier>>,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            flights: FlightOptions::default(),
            absent_ttl: Duration::from_secs(5),
            answers: AnswerOptions::default(),
            sumdb: SumdbOptions::default(),
            tier: None,
        }
    }
}

/// A store and the parts that answer from it and fill it. No part is a way to reach another.
#[derive(Debug)]
pub struct Services {
    /// The store.
    pub store: Arc<Store>,
    /// The bucket that several servers share.
    pub tier: Option<Arc<Tier>>,
    /// The rules per module.
    pub policy: Arc<PolicyCell>,
    /// Lists, `@latest` and queries.
    pub answers: Arc<Answers>,
    /// Downloads of missing versions.
    pub flights: Flights,
    /// Seals of stored versions.
    pub seals: Seals,
    /// Checksum databases.
    pub sumdb: Arc<Sumdb>,
    /// The counters of the parts.
    pub meters: Arc<Meters>,
    /// The versions that are being sent.
    pub(crate) sending: Arc<Sending>,
    shutdown: Arc<Shutdown>,
}

impl Services {
    /// Assembles the parts.
    pub fn new(store: Arc<Store>, policy: impl Into<Policy>, options: ServiceOptions) -> Self {
        let tier = options.tier;
        let policy = policy.into();
        let cell = Arc::new(PolicyCell::new(policy.clone()));
        let shutdown = Arc::<Shutdown>::default();
        let meters = Arc::<Meters>::default();
        let ttl = options.answers.list_ttl;
        let sumdb =
            Sumdb::new(Arc::clone(&store), Arc::clone(&cell), options.sumdb, ttl, Arc::clone(&shutdown));
        let absences = Arc::new(Absences::new(options.absent_ttl));
        let answers = Answers::new(
            (Arc::clone(&store), tier.clone()),
            &policy,
            &options.answers,
            Arc::clone(&absences),
            Arc::clone(&shutdown),
        );
        let examining = examining();
        let seals = Seals::new(Arc::clone(&store), Arc::clone(&examining));
        let flights = Flights::new(
            (Arc::clone(&store), tier.clone()),
            &policy,
            Arc::clone(&sumdb),
            examining,
            absences,
            options.flights,
            (Arc::clone(&meters), Arc::clone(&shutdown)),
        );
        Self {
            store,
            tier,
            policy: cell,
            answers,
            flights,
            seals,
            sumdb,
            sending: Arc::default(),
            meters,
            shutdown,
        }
    }

    /// Replaces the rules. Requests under way keep the earlier ones.
    pub(crate) fn replace_policy(&self, policy: Policy) {
        self.answers.follow(&policy);
        self.flights.follow(&policy);
        self.policy.replace(policy);
    }

    /// Starts the shutdown: tasks that wait for their turn and have no waiting client are dropped.
    pub fn close(&self) {
        self.shutdown.close();
    }

    /// Waits until all tasks have ended.
    pub async fn closed(&self) {
        self.shutdown.closed().await;
    }

    /// Drops the remaining tasks and waits until they are gone.
    pub async fn end(&self) {
        self.shutdown.end().await;
    }
}
