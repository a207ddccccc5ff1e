//! `stoa verify --checksums`: asks the checksum database about stored versions that have no verdict.

use std::ops::ControlFlow;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use stoa_gomod::ModuleVersion;
use stoa_layout::{Cancel, Exit};
use stoa_store::Store;

use super::super::context::Context;
use super::super::error::CommandError;
use super::super::event::VersionResult;
use super::super::named::Named;
use super::super::report::Reporter;
use super::super::with_sumdb::{Asking, with_sumdb};
use crate::services::Services;
use crate::sumdb::{Rechecked, Standing};
use crate::upstream::Via;

/// Number of concurrent questions.
const AT_ONCE: usize = 8;

/// Number of failures in a row after which the database counts as unreachable.
const MAX_FAILURES: u64 = 16;

/// Asks about the named versions, or about all.
pub(super) fn ask(
    context: &Context<'_>,
    store: &Arc<Store>,
    named: &[Named],
    cancel: &Cancel,
) -> Result<Rechecked, CommandError> {
    with_sumdb(context.settings, store, Asking::Configured, async |services| {
        ask_all(services, named, cancel, &context.reporter).await
    })
}

async fn ask_all(
    services: &Services,
    named: &[Named],
    cancel: &Cancel,
    reporter: &Reporter,
) -> Result<Rechecked, CommandError> {
    let versions = unverified(services, named)?;
    let progress = reporter.progress();
    let count = versions.len() as u64;
    progress.begin("ask", Some(count));
    let asked = stream::iter(versions).map(|version| async move {
        let rule = Arc::clone(services.policy.rule(version.path()));
        let standing = services.sumdb.verify_stored(&version, &rule, &Via::none()).await;
        (version, standing)
    });
    let (mut rechecked, mut done, mut failures) = (Rechecked::default(), 0, 0);
    let mut asked = asked.buffer_unordered(AT_ONCE);
    while let Some((version, standing)) = asked.next().await {
        cancel.check()?;
        done += 1;
        progress.advance(done, 0);
        let standing = standing.map_err(|error| CommandError::new(Exit::IO, error))?;
        rechecked.add(&standing);
        report(reporter, &version, &standing);
        failures = if matches!(standing, Standing::Unreachable(_)) { failures + 1 } else { 0 };
        if failures >= MAX_FAILURES {
            // Each further question may take long.
            rechecked.unreachable += count - done;
            break;
        }
    }
    progress.end();
    Ok(rechecked)
}

/// Returns the versions to ask about. Their names fit into memory, as those of a go.sum do.
fn unverified(services: &Services, named: &[Named]) -> Result<Vec<ModuleVersion>, CommandError> {
    let mut versions = Vec::new();
    let is_named = |version: &ModuleVersion| {
        named.is_empty()
            || named.iter().any(|named| match named {
                Named::Module(module) => version.path() == module,
                Named::Version(one) => version == one,
            })
    };
    services.sumdb.each_unverified(&services.store, |version| {
        if is_named(&version) {
            versions.push(version);
        }
        ControlFlow::Continue(())
    })?;
    Ok(versions)
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
