//! `stoa prune` on a bucket: the least recently used versions, or unreferenced objects.

use std::fmt::{self, Display};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::BinaryBytes;
use serde::Serialize;
use stoa_bucket::{
    BucketError, BucketMarker, HeldLease, LAYOUT, LeaseTaker, LeaseTimes, MIN_AGE, Sweep, Swept, Trouble,
    UsesThere, VersionContent,
};
use stoa_gomod::ModuleVersion;
use stoa_layout::{Cancel, Exit};
use stoa_store::Day;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::remove::BATCH;
use super::{OpenBucket, owner};
use crate::command::context::{Context, cancel_on_signals};
use crate::command::count::counted;
use crate::command::error::CommandError;
use crate::command::prune::place::{Contents, Found, Remover, Unremovable};
use crate::command::report::Reporter;
use crate::lock::lock;

/// Number of requests at the same time.
const AT_ONCE: usize = 32;

/// The program, for the state of the bucket.
const PROGRAM: &str = concat!("stoa ", env!("CARGO_PKG_VERSION"));

/// The result of a removal of unreferenced objects.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename = "done")]
pub(crate) struct SweptBucket {
    store: String,
    objects: u64,
    bytes: u64,
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

impl OpenBucket {
    /// Removes unreferenced objects, under the lease of the bucket. A dry run writes nothing, and takes no lease.
    pub(in crate::command) fn sweep(
        &self,
        dry_run: bool,
        context: &Context<'_>,
    ) -> Result<SweptBucket, CommandError> {
        let reporter = &context.reporter;
        let cancel = cancel_on_signals(reporter, false)?;
        let done = SweptBucket { store: self.to_string(), objects: 0, bytes: 0, dry_run };
        let done = Mutex::new(done);
        reporter.progress().begin("look for unreferenced objects", None);
        let swept = if dry_run {
            self.wait(until_cancelled(&cancel, self.sweep_with(None, &done, reporter)))
        } else {
            self.probe()?;
            self.wait(self.sweep_under_lease(&cancel, &done, reporter))
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
            until_cancelled(cancel, lease.during(self.sweep_with(Some(&lease), done, reporter))).await;
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
        done: &Mutex<SweptBucket>,
        reporter: &Reporter,
    ) -> Result<(), CommandError> {
        let mut looked_at = 0;
        let each = |swept: Swept| -> Result<(), CommandError> {
            let mut done = lock(done);
            let removed = match &swept {
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
        self.versions.sweep(Sweep { lease, min_age: MIN_AGE, at_once: AT_ONCE }, each).await
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

/// The versions of a bucket, with the uses that all servers recorded.
pub(in crate::command) struct BucketContents<'a> {
    bucket: &'a OpenBucket,
    uses: UsesThere,
    today: Day,
}

/// Uses before so many days are deleted.
const KEPT_DAYS: i64 = 1000;

impl OpenBucket {
    /// Returns the versions with their last uses. Fails if a server does not record uses.
    pub(in crate::command) fn contents(&self) -> Result<BucketContents<'_>, CommandError> {
        let uses = self.wait(self.versions.uses())?;
        if !uses.silent().is_empty() {
            let servers = uses.silent().join(", ");
            let message = format!("cannot prune {self} by size or use: no uses are recorded by {servers}");
            return Err(CommandError::new(Exit::BUSY, message)
                .help("set `last_use.interval` on these servers and restart them, or stop them, then run again after two minutes"));
        }
        Ok(BucketContents { bucket: self, uses, today: Day::today() })
    }
}

impl Contents for BucketContents<'_> {
    fn began(&self) -> Day {
        self.uses.began().map_or(self.today, Day)
    }

    fn recorded(&self, version: &ModuleVersion) -> Option<Day> {
        self.uses.recorded(version).map(Day)
    }

    fn each(
        &self,
        cancel: &Cancel,
        unreadable: &dyn Fn(CommandError),
        found: &mut Found<'_>,
    ) -> Result<u64, CommandError> {
        // `found` may remove a version itself, and wait for the bucket.
        let skip = |error: BucketError| {
            unreadable(CommandError::new(error.exit(), format!("skipped a version: {error}")));
        };
        self.bucket.each_manifest(&skip, &mut |manifest| {
            cancel.check()?;
            let Some(content) = manifest.present_content() else { return Ok(ControlFlow::Continue(())) };
            // A time that nobody can read is one of today.
            let published = OffsetDateTime::parse(&manifest.published_at, &Rfc3339).ok();
            let published = published.map_or(self.today, |time| Day::of(time.into()));
            let recorded = self.recorded(&manifest.version).unwrap_or(published);
            let last_use = recorded.max(published).max(self.began()).min(self.today);
            let age = (last_use, published.min(last_use));
            Ok(found(manifest.version.clone(), content.bytes(), age))
        })
    }

    fn sweep(&mut self) {
        let before = self.today.0 - KEPT_DAYS;
        if let Err(error) = self.bucket.wait(self.bucket.versions.forget_uses(before)) {
            log::warn!(reason:% = error; "cannot remove old usage data from the bucket");
        }
    }
}

impl Remover for OpenBucket {
    fn name(&self) -> String {
        self.to_string()
    }

    fn batch(&self) -> usize {
        BATCH
    }

    fn begin(&self, versions: &[ModuleVersion]) -> Result<(), CommandError> {
        Ok(self.wait(self.versions.announce(versions))?)
    }

    fn end(&self, versions: &[ModuleVersion]) -> Result<(), CommandError> {
        Ok(self.wait(self.versions.announce_again(versions))?)
    }

    fn remove(&self, version: &ModuleVersion, keeps_hashes: bool) -> Result<Option<u64>, Unremovable> {
        let removed = self.wait(self.remove_announced(version, None, keeps_hashes));
        removed.map(|had| had.as_ref().map(VersionContent::bytes)).map_err(|error| match error.trouble {
            Trouble::Damaged | Trouble::Contended => {
                Unremovable::One(CommandError::new(error.exit(), format!("cannot remove {version}: {error}")))
            }
            _ => Unremovable::All(error.into()),
        })
    }
}
