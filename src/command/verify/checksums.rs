//! `stoa verify --checksums`: asks the checksum database about stored versions, and cached pairs, that have no verdict.

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_layout::{Cancel, Exit};
use stoa_store::Store;

use super::super::context::Context;
use super::super::error::CommandError;
use super::super::event::VersionResult;
use super::super::named::Named;
use super::super::report::Reporter;
use super::super::with_sumdb::{Asking, with_sumdb};
use crate::policy::Rule;
use crate::services::Services;
use crate::sumdb::{Rechecked, Standing};
use crate::unavailable::Unavailable;
use crate::upstream::Via;

/// Number of concurrent questions.
const AT_ONCE: usize = 8;

/// Number of failures in a row after which the database counts as unreachable.
const MAX_FAILURES: u64 = 16;

/// The answers of the checksum database.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Answers {
    /// About stored versions.
    #[serde(flatten)]
    pub(super) stored: Rechecked,
    /// About versions whose info and go.mod are cached without the zip.
    pub(super) cached: Rechecked,
}

/// Returns whether a version has one of the names, or there are no names.
fn is_named(named: &[Named], version: &ModuleVersion) -> bool {
    let is_of = |named: &Named| match named {
        Named::Module(module) => version.path() == module,
        Named::Version(one) => version == one,
    };
    named.is_empty() || named.iter().any(is_of)
}

/// Returns whether the cache has a pair with this name. A cache that cannot be read fails the questions, with the reason.
pub(super) fn is_cached(store: &Store, named: &Named) -> bool {
    match named {
        Named::Module(module) => store.pairs().versions(module).is_ok_and(|versions| !versions.is_empty()),
        Named::Version(version) => store.pairs().size(version).is_ok_and(|size| size.is_some()),
    }
}

/// Asks about the named versions, or about all.
pub(super) fn ask(
    context: &Context<'_>,
    store: &Arc<Store>,
    named: &[Named],
    cancel: &Cancel,
) -> Result<Answers, CommandError> {
    with_sumdb(context.settings, store, Asking::Configured, async |services| {
        ask_all(services, named, cancel, &context.reporter).await
    })
}

async fn ask_all(
    services: &Services,
    named: &[Named],
    cancel: &Cancel,
    reporter: &Reporter,
) -> Result<Answers, CommandError> {
    let (stored, pairs) = unverified(services, named)?;
    let progress = reporter.progress();
    progress.begin("ask", Some((stored.len() + pairs.len()) as u64));
    let mut questions = Questions { services, cancel, reporter, done: 0, failures: 0 };
    let sumdb = &services.sumdb;
    let none = Via::none();
    let stored =
        questions.each(stored, async |version, rule| sumdb.verify_stored(version, rule, &none).await);
    let stored = stored.await?;
    let cached = questions.each(pairs, async |version, rule| sumdb.verify_pair(version, rule, &none).await);
    let cached = cached.await?;
    progress.end();
    Ok(Answers { stored, cached })
}

/// The questions of one run.
struct Questions<'a> {
    services: &'a Services,
    cancel: &'a Cancel,
    reporter: &'a Reporter,
    done: u64,
    /// The number of failures in a row.
    failures: u64,
}

impl Questions<'_> {
    /// Asks about each version. Once the database counts as unreachable, the rest is only counted.
    async fn each(
        &mut self,
        versions: Vec<ModuleVersion>,
        verify: impl AsyncFn(&ModuleVersion, &Arc<Rule>) -> Result<Standing, Unavailable>,
    ) -> Result<Rechecked, CommandError> {
        let (mut rechecked, mut left) = (Rechecked::default(), versions.len() as u64);
        let (services, verify) = (self.services, &verify);
        let asked = stream::iter(versions).map(|version| async move {
            let rule = Arc::clone(services.policy.load().rule(version.path()));
            let standing = verify(&version, &rule).await;
            (version, standing)
        });
        let mut asked = pin!(asked.buffer_unordered(AT_ONCE));
        // Each further question may take long.
        while self.failures < MAX_FAILURES
            && let Some((version, standing)) = asked.next().await
        {
            self.cancel.check()?;
            (self.done, left) = (self.done + 1, left - 1);
            self.reporter.progress().advance(self.done, 0);
            let standing = standing.map_err(|error| CommandError::new(Exit::IO, error))?;
            rechecked.add(&standing);
            report(self.reporter, &version, &standing);
            self.failures = if matches!(standing, Standing::Unreachable(_)) { self.failures + 1 } else { 0 };
        }
        rechecked.unreachable += left;
        Ok(rechecked)
    }
}

/// Returns the stored versions and the pairs to ask about. Their names fit into memory, as those of a go.sum do.
fn unverified(
    services: &Services,
    named: &[Named],
) -> Result<(Vec<ModuleVersion>, Vec<ModuleVersion>), CommandError> {
    let (mut stored, mut pairs) = (Vec::new(), Vec::new());
    let add = |versions: &mut Vec<ModuleVersion>, version: ModuleVersion| {
        if is_named(named, &version) {
            versions.push(version);
        }
        ControlFlow::Continue(())
    };
    services.sumdb.each_unverified(&services.store, |version| add(&mut stored, version))?;
    services.sumdb.each_unverified_pair(&services.store, |version| add(&mut pairs, version))?;
    Ok((stored, pairs))
}

fn report(reporter: &Reporter, version: &ModuleVersion, standing: &Standing) {
    let unreachable;
    let (event, reason) = match standing {
        Standing::Absent | Standing::NotAsked => return,
        Standing::Confirmed => ("confirmed", None),
        Standing::Differs(reason) => ("differs", Some(&**reason)),
        Standing::Unconfirmed(reason) => ("unverified", Some(&**reason)),
        Standing::Unreachable(error) => {
            unreachable = error.to_string();
            ("unverified", Some(unreachable.as_str()))
        }
        Standing::Offline => ("unverified", Some("there is no server to ask for the checksum database")),
    };
    let event = VersionResult { event, version: version.into(), bytes: None, reason };
    match standing {
        Standing::Confirmed => reporter.detail(&event),
        _ => reporter.result(&event),
    }
}
