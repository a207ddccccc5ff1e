//! `stoa-migrate --bucket`: the layouts of a bucket.

use std::path::Path;

use stoa_bucket::{
    Bucket, BucketError, BucketLayouts, BucketOptions, BucketOutcome, BucketRequests, BucketRunError,
    BucketRunner, BucketState, BucketUrl, BucketWork, LeaseTimes, Regenerated, Versions,
};
use stoa_layout::{Exit, Layouts, Outcome};
use tokio::runtime::Runtime;

use super::args::{Args, Command, LeftoversCommand};
use super::bucket_status::BucketStatus;
use super::events::{Event, Watcher};
use super::import::{self, BucketImport};
use super::stop_with_parent;
use crate::command::bucket::skipped;
use crate::command::context::cancel_on_signals;
use crate::command::error::CommandError;
use crate::command::report::Reporter;
use crate::command::verify::unreadable_error;
use crate::config::{BucketSettings, Settings, World};
use crate::tasks::runtime;

/// Number of versions that are worked on at the same time, unless the number of threads is set.
const AT_ONCE: usize = 64;

/// Reports the state of a bucket. `is_below_another`: the status of the store was printed before.
pub(super) fn status(
    layouts: &BucketLayouts,
    settings: &BucketSettings,
    is_below_another: bool,
    reporter: &Reporter,
) -> Result<(), CommandError> {
    let bucket = Bucket::connect(&settings.url, &settings.options)?;
    let runtime = runtime().map_err(CommandError::no_threads)?;
    let status = runtime.block_on(BucketStatus::of(&bucket, layouts))?;
    if is_below_another && !reporter.is_json() {
        reporter.bytes(b"\n")?;
    }
    reporter.finish(&status)
}

/// Runs the program on a bucket.
pub(super) fn run(
    (folders, layouts): (&Layouts, &BucketLayouts),
    (args, world): (&Args, &World),
    settings: &Settings<'_>,
    reporter: &Reporter,
) -> Result<Exit, CommandError> {
    if args.auto {
        stop_with_parent();
    }
    let Some(BucketSettings { url, options }) = settings.bucket(args.bucket.clone())? else {
        return Err(CommandError::new(Exit::USAGE, "there is no bucket"));
    };
    check(args, &url)?;
    settings.check_named()?;
    if matches!(args.command, Some(Command::Status { .. })) {
        status(layouts, &BucketSettings { url, options }, false, reporter)?;
        return Ok(Exit::DONE);
    }
    let bucket = Bucket::connect(&url, &options)?;
    let cancel = cancel_on_signals(reporter, args.auto)?;
    let is_listing = matches!(args.command, Some(Command::Leftovers { .. }));
    let watcher = Watcher::new(reporter, args.auto, args.dry_run).of_bucket(is_listing);
    let options = BucketOptions {
        target: args.to.clone(),
        // An import never decides about an interrupted downgrade.
        auto: args.auto || matches!(args.command, Some(Command::Import(_))),
        no_create: args.no_create,
        owner: owner(world),
        times: LeaseTimes::default(),
    };
    let at_once = settings.migrate(None, args.threads, None)?.set_threads.unwrap_or(AT_ONCE);
    let work = BucketWork { at_once, events: &watcher, cancel: &cancel };
    let runner = BucketRunner { bucket: &bucket, layouts, options: &options, work };
    let runtime = runtime().map_err(CommandError::no_threads)?;
    let root = url.to_string();
    let root = Path::new(&root);
    if let Some(Command::Import(what)) = &args.command {
        let threads = settings.migrate(None, args.threads, None)?.threads;
        let source = (what.source.as_path(), folders);
        return import(source, (&runner, &watcher), (threads, &runtime), args, reporter);
    }
    let mut damaged = 0;
    let done = runtime.block_on(async {
        if is_listing {
            let (leftovers, store) = (runner.leftovers().await?, url.to_string());
            reporter.note(&Event::Leftovers { store, leftovers, bytes: watcher.bytes(), changed: false });
        } else if args.dry_run {
            let requests = runner.plan().await?;
            if let Some(needed) = &requests {
                let (store, dollars) = (url.to_string(), needed.dollars());
                let BucketRequests { gets, puts, lists } = *needed;
                reporter.result(&Event::Requests { store, gets, puts, lists, dollars });
            }
            let is_missing = args.regenerate
                && requests.is_none()
                && regenerate(&bucket, at_once, true, (reporter, &mut damaged)).await?;
            watcher.planned(root, requests.is_some() || is_missing);
        } else {
            let outcome = match runner.run().await? {
                BucketOutcome::NoStore => Outcome::NoStore,
                BucketOutcome::Done(layout) => Outcome::Done(layout),
                BucketOutcome::Nothing(layout) if !args.regenerate => Outcome::Nothing(layout),
                // After a step nothing can be missing.
                BucketOutcome::Nothing(layout) => {
                    match regenerate(&bucket, at_once, false, (reporter, &mut damaged)).await? {
                        true => Outcome::Done(layout),
                        false => Outcome::Nothing(layout),
                    }
                }
            };
            watcher.done(root, &outcome);
        }
        Ok::<_, BucketRunError>(())
    });
    // A request that hangs must not keep the program.
    runtime.shutdown_background();
    done.map_err(|error| failure(&error))?;
    match damaged {
        0 => Ok(Exit::DONE),
        damaged => Err(unreadable_error(damaged, &url)),
    }
}

/// Imports into a bucket. It is created or upgraded first if necessary.
fn import(
    (source, folders): (&Path, &Layouts),
    (runner, watcher): (&BucketRunner<'_>, &Watcher<'_>),
    (threads, runtime): (usize, &Runtime),
    args: &Args,
    reporter: &Reporter,
) -> Result<Exit, CommandError> {
    let (bucket, dry_run) = (runner.bucket, args.dry_run);
    let url = bucket.url().to_string();
    let from = import::Origin::find(source, folders, args.from.as_ref())?;
    let prepared = async {
        if dry_run {
            let has_plan = runner.plan().await?.is_some();
            if !has_plan && args.no_create && BucketState::read(bucket).await?.is_none() {
                return Ok(None);
            }
        } else if runner.run().await? == BucketOutcome::NoStore {
            return Ok(None);
        } else {
            bucket.probe().await?;
        }
        Ok::<_, BucketRunError>(Some(BucketState::read(bucket).await?.map(|held| held.document)))
    };
    let Some(state) = runtime.block_on(prepared).map_err(|error| failure(&error))? else {
        watcher.done(Path::new(&url), &Outcome::NoStore);
        return Ok(Exit::DONE);
    };
    let state = state.filter(BucketState::is_current);
    let import = BucketImport {
        versions: state.map(|state| Versions::new(bucket.clone(), state.keys())),
        runtime,
        threads,
        cancel: runner.work.cancel,
        progress: reporter.progress(),
        dry_run,
    };
    let report = import::Report::new(reporter, (source, url), dry_run);
    import.run(&from, &report)?;
    reporter.finish(&report.done())?;
    Ok(Exit::DONE)
}

/// Writes derived objects that are missing, at the current layout. Returns whether any was. Reports damaged manifests and
/// counts them.
async fn regenerate(
    bucket: &Bucket,
    at_once: usize,
    is_planned: bool,
    (reporter, damaged): (&Reporter, &mut u64),
) -> Result<bool, BucketRunError> {
    let state = BucketState::read(bucket).await?.map(|held| held.document);
    let Some(state) = state.filter(BucketState::is_current) else { return Ok(false) };
    let versions = Versions::new(bucket.clone(), state.keys());
    let unreadable = |error: BucketError| {
        *damaged += 1;
        reporter.error(&skipped(&error));
    };
    let mut missing = versions.regenerate(at_once, true, unreadable).await?;
    if !is_planned && !missing.is_nothing() {
        bucket.probe().await?;
        // Damaged manifests have been reported.
        missing = versions.regenerate(at_once, false, |_| {}).await?;
    }
    let Regenerated { notes, list } = missing;
    reporter.result(&Event::Regenerated { store: bucket.url().to_string(), notes, list, is_planned });
    Ok(!missing.is_nothing())
}

/// Refuses options that mean nothing for a bucket.
fn check(args: &Args, url: &BucketUrl) -> Result<(), CommandError> {
    let is_import = matches!(args.command, Some(Command::Import(_)));
    if is_import {
        super::check_import(args)?;
    }
    let wrong = [
        ("--store", args.common.store.is_some()),
        ("--local", args.is_local()),
        // Of an import it is the layout of the source.
        ("--from", args.from.is_some() && !is_import),
        ("--clean", args.clean),
        ("--verify", args.verify.is_some()),
        ("--lock-timeout", args.lock_timeout.is_some()),
        ("--store-mode", args.store_mode.is_some()),
    ];
    if let Some((name, _)) = wrong.into_iter().find(|(_, is_given)| *is_given) {
        let message = format!("{name} cannot be used with --bucket");
        let error = CommandError::new(Exit::USAGE, message);
        return Err(match name {
            "--verify" => error.help(format!("verify the versions with `stoa verify --bucket {url}`")),
            "--lock-timeout" => error.help(
                "leave it out; with a bucket, the command always waits until the other process has ended",
            ),
            "--store-mode" => error.help("leave it out; a bucket has no folder"),
            _ => error,
        });
    }
    match &args.command {
        None
        | Some(Command::Status { .. } | Command::Import(_))
        | Some(Command::Leftovers { command: None | Some(LeftoversCommand::List), .. }) => Ok(()),
        Some(Command::Leftovers { .. }) => {
            let message = "the leftovers of a bucket cannot be moved";
            Err(CommandError::new(Exit::USAGE, message).help(
                "delete or copy them with the tools of the service; --local moves the leftovers of the store",
            ))
        }
        Some(_) => Err(CommandError::new(Exit::USAGE, "this command cannot be used with --bucket")),
    }
}

/// Returns a name for this process that no other process has.
fn owner(world: &World) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let user = world.variable("USER").and_then(|user| user.into_string().ok()).unwrap_or_default();
    let at = if user.is_empty() { host } else { format!("{user}@{host}") };
    let started = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
    format!("{at} (process {}, {:x})", std::process::id(), started & 0xffff_ffff)
}

fn failure(error: &BucketRunError) -> CommandError {
    let failed = CommandError::new(error.exit(), error);
    match error {
        BucketRunError::Cancelled(_) => failed.help("run again to continue"),
        _ => failed,
    }
}
