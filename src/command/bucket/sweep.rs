//! `stoa prune --unreferenced`: removes objects of a bucket that no version and no quarantine entry refers to.

use std::fmt::{self, Display};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::BinaryBytes;
use serde::Serialize;
use stoa_bucket::{BucketMarker, HeldLease, LAYOUT, LeaseTaker, LeaseTimes, MIN_AGE, Sweep, Swept, Trouble};
use stoa_layout::Cancel;

use super::{OpenBucket, owner, skipped};
use crate::command::context::{Context, cancel_on_signals};
use crate::command::count::{counted, is_zero};
use crate::command::error::CommandError;
use crate::command::report::Reporter;
use crate::command::verify::unreadable_error;
use crate::lock::lock;

/// The program, for the state of the bucket.
const PROGRAM: &str = concat!("stoa ", env!("CARGO_PKG_VERSION"));

/// The result of a removal of unreferenced objects.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename = "done")]
pub(crate) struct SweptBucket {
    store: String,
    objects: u64,
    bytes: u64,
    /// The versions whose manifests are damaged. They have been reported.
    #[serde(skip_serializing_if = "is_zero")]
    unreadable: u64,
    dry_run: bool,
}

/// An object that was removed.
#[derive(Serialize)]
#[serde(tag = "event", rename = "removed")]
struct RemovedObject<'a> {
    object: &'a str,
    bytes: u64,
    #[serde(skip)]
    dry_run: bool,
}

impl Display for RemovedObject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let removed = if self.dry_run { "would remove" } else { "removed" };
        write!(f, "{removed} {} ({})", self.object, BinaryBytes(self.bytes))
    }
}

impl Display for SweptBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (objects, bytes) = (counted(self.objects, "unreferenced object"), BinaryBytes(self.bytes));
        let done = if self.dry_run { "would be removed (dry run: nothing was changed)" } else { "removed" };
        write!(f, "{}: {objects}, {bytes} {done}", self.store)
    }
}

impl SweptBucket {
    pub(in crate::command) fn verdict(&self) -> Result<(), CommandError> {
        match self.unreadable {
            0 => Ok(()),
            unreadable => Err(unreadable_error(unreadable, &self.store)),
        }
    }
}

impl OpenBucket {
    /// Removes unreferenced objects, under the lease of the bucket, with `at_once` requests at the same time. A dry run
    /// writes nothing, and takes no lease.
    pub(in crate::command) fn sweep(
        &self,
        dry_run: bool,
        at_once: usize,
        context: &Context<'_>,
    ) -> Result<SweptBucket, CommandError> {
        let reporter = &context.reporter;
        let cancel = cancel_on_signals(reporter, false)?;
        let done = SweptBucket { store: self.to_string(), objects: 0, bytes: 0, unreadable: 0, dry_run };
        let done = Mutex::new(done);
        reporter.progress().begin("look for unreferenced objects", None);
        let swept = if dry_run {
            self.wait(until_cancelled(&cancel, self.sweep_with(None, at_once, &done, reporter)))
        } else {
            self.probe()?;
            self.wait(self.sweep_under_lease(&cancel, at_once, &done, reporter))
        };
        let done = lock(&done).clone();
        match swept {
            Ok(()) => Ok(done),
            Err(error) if done.objects == 0 => Err(error.resumable()),
            Err(error) => Err(error.after(format_args!("{done} before that"))),
        }
    }

    async fn sweep_under_lease(
        &self,
        cancel: &Cancel,
        at_once: usize,
        done: &Mutex<SweptBucket>,
        reporter: &Reporter,
    ) -> Result<(), CommandError> {
        let taker = LeaseTaker {
            bucket: self.versions.bucket().clone(),
            program: PROGRAM.to_owned(),
            owner: owner(),
            times: LeaseTimes::default(),
        };
        let waits = |lease: &stoa_bucket::Lease| {
            reporter
                .warning(format_args!("waiting for {}, which works on {self}: {}", lease.owner, lease.work));
        };
        let taken = async { Ok(taker.take_current(self.versions.keys().id(), "prune", waits).await?) };
        let lease = until_cancelled(cancel, taken).await?;
        let swept =
            until_cancelled(cancel, lease.during(self.sweep_with(Some(&lease), at_once, done, reporter)))
                .await;
        match (swept, lease.end(BucketMarker::At(LAYOUT), None).await) {
            // Of a process that was suspended, the requests that were under way fail for reasons of their own.
            (Err(_), Err(error)) if error.trouble == Trouble::Left => Err(error.into()),
            (swept, Err(error)) => {
                log::warn!(reason:% = error.without_help(); "cannot give the lease of the bucket back");
                swept
            }
            (swept, Ok(_)) => swept,
        }
    }

    async fn sweep_with(
        &self,
        lease: Option<&HeldLease>,
        at_once: usize,
        done: &Mutex<SweptBucket>,
        reporter: &Reporter,
    ) -> Result<(), CommandError> {
        let mut looked_at = 0;
        let each = |swept: Swept| -> Result<(), CommandError> {
            let mut done = lock(done);
            let removed = match &swept {
                Swept::Unreadable(error) => {
                    done.unreadable += 1;
                    drop(done);
                    reporter.error(&skipped(error));
                    return Ok(());
                }
                Swept::LookedAt(versions) => {
                    looked_at = *versions;
                    None
                }
                Swept::Deleted { key, bytes } => {
                    done.objects += 1;
                    done.bytes += bytes;
                    Some(RemovedObject { object: key, bytes: *bytes, dry_run: done.dry_run })
                }
            };
            reporter.progress().advance(looked_at, done.bytes);
            drop(done);
            if let Some(removed) = removed {
                reporter.result(&removed);
            }
            Ok(())
        };
        self.versions.sweep(Sweep { lease, min_age: MIN_AGE, at_once }, each).await
    }
}

/// Does some work until a signal asks to stop.
async fn until_cancelled<T>(
    cancel: &Cancel,
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            _ = ticks.tick() => cancel.check()?,
            done = &mut work => return done,
        }
    }
}
