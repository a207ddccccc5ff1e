//! A program that is disturbed at each request that changes a bucket: killed there, suspended, or with that request
//! failing.
//!
//! The request is disturbed by a [`FaultProxy`]. Each run has a fresh bucket. A sweep fails if it cannot disturb as many
//! requests as an undisturbed run makes, or if that makes none. A disturbed program may fail. If it reports success, its
//! promise is checked before anything else runs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::bucket::{RunningService, TestBucket};
use crate::fault_proxy::{Counts, Fault, FaultProxy};
use crate::gcs::Asked;
use crate::sweep::tries_all;

/// The faults that tell most about a service: whether a change was made is unknown, and others go on.
const MAIN: [Fault; 2] = [Fault::LostAnswer, Fault::Suspend];

/// The other faults.
const OTHERS: [Fault; 11] = [
    Fault::KillAfter,
    Fault::Kill,
    Fault::SuspendAfter,
    Fault::LostRequest,
    Fault::DoneBut(500),
    Fault::Status(500),
    Fault::Status(503),
    Fault::Status(409),
    Fault::Status(412),
    Fault::Status(403),
    Fault::Late(Duration::from_millis(200)),
];

/// Returns every fault.
pub fn all_faults() -> Vec<Fault> {
    [&MAIN[..], &OTHERS].concat()
}

/// Returns the faults that tell most, and all of them if the variable `STOA_SWEEP_ALL` is set.
pub fn faults() -> Vec<Fault> {
    if tries_all() { all_faults() } else { MAIN.to_vec() }
}

/// Runs a program behind the proxy. Returns whether the program reports success.
type Run = dyn Fn(&TestBucket, &FaultProxy) -> bool;

/// Checks a bucket. The text says which run it was.
type Judge = dyn Fn(&TestBucket, &str);

/// A task for a program, and the checks of its result.
pub struct Scenario {
    /// Fills the bucket.
    pub prepare: Box<dyn Fn(&TestBucket)>,
    /// Runs the program behind the proxy. A disturbed one may fail.
    pub run: Box<Run>,
    /// Checks what the program promises by its success, right after it. `None` if only `judge` can tell.
    pub promise: Option<Box<Judge>>,
    /// Does the same past the proxy, while the program is suspended.
    pub meanwhile: Arc<dyn Fn(&TestBucket) + Send + Sync>,
    /// Checks what a run left.
    pub judge: Box<Judge>,
}

impl Scenario {
    fn keeps_its_promise(&self, bucket: &TestBucket, what: &str) {
        if let Some(promise) = &self.promise {
            promise(bucket, what);
        }
    }
}

/// Returns whether a request changes something that lasts. The checks of the service and the signs of life do not.
pub fn lasts(asked: &Asked) -> bool {
    !["/probe/", "/servers/"].iter().any(|part| asked.key.contains(part))
}

/// Makes a scenario.
pub type Make = fn() -> Scenario;

/// Runs a scenario once without a fault, and then with each fault at each request that changes something and counts. Some
/// faults are tried at the same time, each by a scenario of its own.
pub fn sweep(service: &RunningService, make: Make, faults: &[Fault], counts: Counts) {
    let found = undisturbed(service, &make(), counts);
    assert!(!found.is_empty(), "no request changes the bucket");
    let left = Mutex::new(faults.iter().copied());
    let work = || {
        let scenario = make();
        loop {
            let Some(fault) = left.lock().unwrap().next() else { return };
            at_each_request(service, &scenario, fault, &found, counts);
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(faults.len());
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
}

fn at_each_request(
    service: &RunningService,
    scenario: &Scenario,
    fault: Fault,
    found: &[Asked],
    counts: Counts,
) {
    for (n, asked) in (1..).zip(found) {
        let what = format!("{fault} at change {n} of {}: {} {}", found.len(), asked.method, asked.key);
        // A run may make a request less than another: a loser of a race between its threads makes none.
        let is_hit = (0..3).any(|_| disturbed(service, scenario, (n, fault), counts, &what));
        assert!(is_hit, "{what}: the request was not made");
    }
}

fn undisturbed(service: &RunningService, scenario: &Scenario, counts: Counts) -> Vec<Asked> {
    let bucket = service.bucket();
    (scenario.prepare)(&bucket);
    let proxy = FaultProxy::start(&bucket, counts);
    assert!((scenario.run)(&bucket, &proxy), "the program fails without a fault");
    scenario.keeps_its_promise(&bucket, "without a fault");
    (scenario.judge)(&bucket, "without a fault");
    proxy.counted()
}

/// Returns whether the fault has struck.
fn disturbed(
    service: &RunningService,
    scenario: &Scenario,
    (n, fault): (usize, Fault),
    counts: Counts,
    what: &str,
) -> bool {
    let bucket = Arc::new(service.bucket());
    (scenario.prepare)(&bucket);
    let proxy = FaultProxy::start(&bucket, counts);
    let (other, meanwhile) = (Arc::clone(&bucket), Arc::clone(&scenario.meanwhile));
    proxy.inject(n, fault, move || meanwhile(&other));
    let is_successful = (scenario.run)(&bucket, &proxy);
    let is_hit = proxy.is_hit();
    if is_hit {
        if is_successful {
            scenario.keeps_its_promise(&bucket, &format!("success after {what}"));
        }
        (scenario.judge)(&bucket, what);
    }
    is_hit
}
