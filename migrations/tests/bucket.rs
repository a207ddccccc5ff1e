//! Processes that upgrade one bucket at the same time, with the runner and short times.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use stoa_bucket::{
    ATHENS, AthensFile, Bucket, BucketContext, BucketLayouts, BucketMarker, BucketMoved, BucketOptions,
    BucketOutcome, BucketRunError, BucketRunner, BucketState, BucketStep, BucketStepError, BucketSurvey,
    BucketWork, HeldLease, Keys, LAYOUT, LeaseTaker, LeaseTimes, Versions,
};
use stoa_layout::signals::Cancel;
use stoa_layout::{Direction, Event, Events, Exit, LayoutId};
use testkit::Module;

/// Counts the steps that were made, and the warnings of processes that wait.
#[derive(Default)]
struct Seen {
    steps: Mutex<u32>,
    waits: Mutex<u32>,
}

impl Events for Seen {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::StepEnd { .. } => *self.steps.lock().unwrap() += 1,
            Event::Warning(text) if text.contains("waiting for") => *self.waits.lock().unwrap() += 1,
            _ => {}
        }
    }
}

const VERSIONS: u64 = 12;

async fn athens() -> Bucket {
    let bucket = Bucket::in_memory();
    for n in 0..VERSIONS {
        let module = Module::new(&format!("example.com/m@v1.0.{n}"), 200);
        let bodies = [module.info, module.modfile, module.zip];
        for (file, body) in AthensFile::ALL.into_iter().zip(bodies) {
            bucket.overwrite(&file.key(&module.version), Bytes::from(body)).await.unwrap();
        }
    }
    bucket
}

fn times() -> LeaseTimes {
    let ms = Duration::from_millis;
    LeaseTimes { beat: ms(20), give_up: ms(5000), takeover: ms(500), poll: ms(10) }
}

async fn run(bucket: &Bucket, owner: &str, seen: &Seen) -> BucketOutcome {
    run_with(&stoa_migrations::bucket_layouts("test"), bucket, owner, seen).await.unwrap()
}

async fn run_with(
    layouts: &BucketLayouts,
    bucket: &Bucket,
    owner: &str,
    seen: &Seen,
) -> Result<BucketOutcome, BucketRunError> {
    let options =
        BucketOptions { target: None, auto: true, no_create: false, owner: owner.to_owned(), times: times() };
    let cancel = Cancel::default();
    let work = BucketWork { at_once: 4, events: seen, cancel: &cancel };
    BucketRunner { bucket, layouts, options: &options, work }.run().await
}

/// Begins an upgrade and does nothing more.
async fn holder(bucket: &Bucket) -> HeldLease {
    let state = BucketState::first(BucketMarker::Migrating { from: ATHENS, to: LAYOUT }, "test").unwrap();
    let taker = LeaseTaker {
        bucket: bucket.clone(),
        program: "test".to_owned(),
        owner: "holder".to_owned(),
        times: times(),
    };
    taker.take(None, state, "upgrade").await.unwrap().unwrap()
}

async fn check(bucket: &Bucket) {
    let state = BucketState::read(bucket).await.unwrap().unwrap().document;
    assert!(state.is_current() && state.lease.is_none(), "{state:?}");
    assert_eq!(state.history.len(), 1);
    let count = Versions::new(bucket.clone(), state.keys()).count(4).await.unwrap();
    assert_eq!((count.versions, count.modules), (VERSIONS, 1));
}

#[tokio::test]
async fn of_fifty_processes_one_upgrades_and_all_end_well() {
    let (bucket, seen) = (athens().await, Seen::default());
    let names: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let outcomes = join_all(names.iter().map(|name| run(&bucket, name, &seen))).await;
    let done = outcomes.iter().filter(|outcome| **outcome == BucketOutcome::Done(LAYOUT)).count();
    assert_eq!((done, *seen.steps.lock().unwrap()), (1, 1), "{outcomes:?}");
    check(&bucket).await;
}

#[tokio::test]
async fn a_holder_that_dies_is_replaced_after_one_wait() {
    let (bucket, seen) = (athens().await, Seen::default());
    let lease = holder(&bucket).await;
    let dies = async {
        // It shows that it is alive a few times while the other one waits.
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(lease);
    };
    let (outcome, ()) = tokio::join!(run(&bucket, "waiting", &seen), dies);
    assert_eq!(outcome, BucketOutcome::Done(LAYOUT));
    assert_eq!((*seen.waits.lock().unwrap(), *seen.steps.lock().unwrap()), (1, 1));
    check(&bucket).await;
}

#[tokio::test]
async fn fifty_processes_that_wait_for_a_dead_holder_replace_it_once() {
    let (bucket, seen) = (athens().await, Seen::default());
    drop(holder(&bucket).await);
    let names: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let outcomes = join_all(names.iter().map(|name| run(&bucket, name, &seen))).await;
    let done = outcomes.iter().filter(|outcome| **outcome == BucketOutcome::Done(LAYOUT)).count();
    assert_eq!((done, *seen.steps.lock().unwrap()), (1, 1), "{outcomes:?}");
    check(&bucket).await;
}

/// A step whose holder is replaced in the middle of it. What it then asks for fails.
struct Replaced;

#[async_trait(?Send)]
impl BucketStep for Replaced {
    fn from(&self) -> LayoutId {
        ATHENS
    }

    fn to(&self) -> LayoutId {
        LAYOUT
    }

    fn description(&self, _: Direction) -> &str {
        "is replaced"
    }

    async fn survey(
        &self,
        _: &Bucket,
        _: Option<&Keys>,
        _: Direction,
        _: &BucketWork<'_>,
    ) -> Result<BucketSurvey, BucketStepError> {
        Ok(BucketSurvey::default())
    }

    async fn prepare(
        &self,
        _: &Bucket,
        _: Option<&Keys>,
        _: Direction,
        _: bool,
    ) -> Result<(), BucketStepError> {
        Ok(())
    }

    async fn make(&self, _: Direction, context: &BucketContext<'_>) -> Result<BucketMoved, BucketStepError> {
        // This takes the lease away from the runner at once. A lease of another process would be taken over only
        // after a minute without a beat.
        let seen = BucketState::read(context.bucket).await?.unwrap();
        let taker = LeaseTaker {
            bucket: context.bucket.clone(),
            program: "test".to_owned(),
            owner: "another process".to_owned(),
            times: times(),
        };
        let taken = taker.take(Some(&seen), seen.document.clone(), "upgrade").await?;
        assert!(taken.is_ok());
        Err(BucketStepError::Refused { exit: Exit::IO, message: "operation timed out".to_owned() })
    }
}

#[tokio::test]
async fn a_step_that_fails_after_it_was_replaced_says_that_it_was() {
    let (bucket, seen) = (athens().await, Seen::default());
    let layouts =
        BucketLayouts { steps: vec![Box::new(Replaced)], ..stoa_migrations::bucket_layouts("test") };
    let error = run_with(&layouts, &bucket, "suspended", &seen).await.unwrap_err();
    assert_eq!(error.exit(), Exit::BUSY);
    assert!(error.to_string().contains("another process took over the lease"), "{error}");
}
