//! The work of `stoa fetch`, several versions at a time: resolve the query, look into the store, download the version
//! if it is missing, and compare it with the go.sum files.

use std::sync::Arc;

use stoa_gomod::{ModuleVersion, h1, info};
use stoa_layout::Exit;
use stoa_store::{Compared, Meter, Record, SmallFile, Verdict};
use tokio::task::JoinSet;

use super::fetched::{FetchResult, Fetched};
use super::wanted::{Asked, Wanted};
use crate::command::error::CommandError;
use crate::fill::{Expected, Want};
use crate::services::Services;
use crate::tasks::blocking;
use crate::unavailable::Unavailable;
use crate::upstream::Via;

/// The number of versions under way per zip: the others download their info and mod.
const AHEAD: usize = 4;

/// Fetches all. A failure of one version does not stop the others; a failure of the store stops all.
pub(super) async fn run(
    services: &Arc<Services>,
    wanted: Wanted,
    at_once: usize,
    fetched: &mut Fetched<'_>,
    meter: &Meter,
) -> Result<(), CommandError> {
    let mut running = JoinSet::new();
    let mut waiting = wanted.into_iter();
    loop {
        while running.len() < at_once.saturating_mul(AHEAD) {
            let Some((asked, sums)) = waiting.next() else { break };
            let (services, meter) = (Arc::clone(services), meter.clone());
            running.spawn(async move {
                let outcome = one(&services, &asked, &sums, &meter).await;
                (asked, outcome)
            });
        }
        match running.join_next().await {
            None => return Ok(()),
            Some(Ok((asked, outcome))) => fetched.add(&asked, &outcome?),
            Some(Err(error)) => {
                log::error!(error:% = error; "a task failed");
                let text = "internal error: a task panicked; see the log";
                return Err(CommandError::new(Exit::IO, text));
            }
        }
    }
}

async fn one(
    services: &Arc<Services>,
    asked: &Asked,
    sums: &Expected,
    meter: &Meter,
) -> Result<FetchResult, CommandError> {
    match have(services, asked, sums, meter).await {
        Ok(result) => Ok(result),
        Err(Unavailable::Store(error)) if !error.is_of_one_version() => {
            Err(CommandError::new(error.exit(), error))
        }
        Err(error) => Ok(FetchResult::Failed(exit_of(&error), error.to_string())),
    }
}

async fn have(
    services: &Arc<Services>,
    asked: &Asked,
    sums: &Expected,
    meter: &Meter,
) -> Result<FetchResult, Unavailable> {
    let version = resolve(services, asked).await?;
    let at = version.clone();
    let mut was_there =
        blocking(&services.store, &version, move |store| Ok(store.small(&at, SmallFile::Info)?.is_some()))
            .await?;
    if let Some(tier) = services.tier.as_ref().filter(|_| was_there) {
        was_there = tier.check_stored(&services.store, &version).await?;
    }
    // An unsealed version may turn out to be corrupt, and is downloaded again then.
    if was_there && !sums.zip.is_empty() {
        was_there = services.seals.seal(&version).await?.is_some();
    }
    if !was_there {
        let policy = services.policy.load();
        let waiter =
            services.flights.join_expecting(policy.permit(&version)?, &Via::none(), Want::Zip, sums)?;
        match waiter.stored_with(|bytes| meter.add(bytes)).await {
            Err(Unavailable::Unexpected { reason, .. }) => {
                return Ok(FetchResult::Differs(version, format!("{reason}; it was not stored")));
            }
            stored => stored?,
        }
    }
    if let Some(reason) = difference(services, &version, sums).await? {
        return Ok(FetchResult::Differs(version, reason));
    }
    if !sums.zip.is_empty() {
        confirm(services, &version).await?;
    }
    let at = version.clone();
    let bytes = blocking(&services.store, &version, move |store| {
        Ok(store.open_zip(&at)?.map_or(0, |zip| zip.length))
    })
    .await?;
    Ok(if was_there { FetchResult::Kept(version, bytes) } else { FetchResult::Fetched(version, bytes) })
}

async fn resolve(services: &Arc<Services>, asked: &Asked) -> Result<ModuleVersion, Unavailable> {
    let (module, query) = match asked {
        Asked::Version(version) => return Ok(version.clone()),
        Asked::Query(module, query) => (module, query),
    };
    let policy = services.policy.load();
    let permit = policy.permit_module(module)?;
    let body = match query.as_str() {
        "latest" => services.answers.latest(permit, &Via::none()).await?,
        _ => services.answers.query(permit, query, &Via::none()).await?,
    };
    let unusable = |why: String| Unavailable::Upstream(format!("{asked}: malformed response: {why}").into());
    let info = info::parse(&body).map_err(|error| unusable(error.to_string()))?;
    ModuleVersion::new(module.clone(), info.version).map_err(|error| unusable(error.to_string()))
}

/// Records that a go.sum confirms the hashes of a stored version, unless its record has a verdict.
async fn confirm(services: &Arc<Services>, version: &ModuleVersion) -> Result<(), Unavailable> {
    let at = version.clone();
    let is_confirmed = |record: Option<Record>| record.is_some_and(|record| record.verdict.is_some());
    let record = blocking(&services.store, version, move |store| store.records().get(&at)).await?;
    if is_confirmed(record) {
        return Ok(());
    }
    let Some(h1) = services.seals.seal(version).await? else { return Ok(()) };
    let at = version.clone();
    let confirmed = blocking(&services.store, version, move |store| {
        let claim = store.claim(&at)?;
        let Some(modfile) = store.small(&at, SmallFile::Mod)? else { return Ok(()) };
        let mut record = store.records().of(&claim)?.unwrap_or_default();
        let given = Record { h1: Some(h1.clone()), verdict: Some(Verdict::of_go_sum()), ..Record::default() };
        // Another process may have replaced the version.
        let is_same = matches!(store.compare(&claim, &given)?, Compared::Same(_));
        if is_same && record.confirm(&h1, &h1::hash_mod(&modfile.bytes), &Verdict::of_go_sum()) {
            store.records().write(&claim, &record)?;
        }
        Ok(())
    });
    confirmed.await
}

/// Returns how the version in the store differs from the go.sum files, if it does.
async fn difference(
    services: &Arc<Services>,
    version: &ModuleVersion,
    sums: &Expected,
) -> Result<Option<String>, Unavailable> {
    if !sums.zip.is_empty()
        && let Some(h1) = services.seals.seal(version).await?
        && let Some(fault) = sums.fault_of_zip(&h1)
    {
        return Ok(Some(fault));
    }
    if !sums.modfile.is_empty() {
        let at = version.clone();
        let body = blocking(&services.store, version, move |store| store.small(&at, SmallFile::Mod)).await?;
        return Ok(body.and_then(|small| sums.fault_of_mod(&h1::hash_mod(&small.bytes))));
    }
    Ok(None)
}

/// Returns the exit code for a failure: 1 if a retry cannot help, and 69 if it may.
fn exit_of(error: &Unavailable) -> Exit {
    match error {
        Unavailable::Store(error) => error.exit(),
        Unavailable::Absent(_)
        | Unavailable::Gone(_)
        | Unavailable::Differs(_)
        | Unavailable::Unexpected { .. }
        | Unavailable::Unverified(_)
        | Unavailable::Denied { .. }
        | Unavailable::Private(_)
        | Unavailable::NotFetched(_) => Exit::FAILED,
        _ => Exit::UNAVAILABLE,
    }
}
