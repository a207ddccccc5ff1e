//! The work of `stoa fetch`, several versions at a time: resolve the query, look into the store, download the version
//! if it is missing, and compare it with the go.sum files.

use std::sync::Arc;

use stoa_gomod::{ModuleVersion, h1, info};
use stoa_layout::Exit;
use stoa_store::{Meter, SmallFile, Store, StoreError};
use tokio::task::JoinSet;

use super::fetched::{FetchResult, Fetched};
use super::wanted::{Asked, Wanted};
use crate::fill::{Expected, Fill, FillError, Via};

/// The number of versions under way per zip: the others download their info and mod.
const AHEAD: usize = 4;

/// A failure that ends the whole work.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkError {
    #[error(transparent)]
    Store(Arc<StoreError>),
    #[error("internal error: a task panicked; see the log")]
    Panicked,
}

impl WorkError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Store(error) => error.exit(),
            Self::Panicked => Exit::IO,
        }
    }
}

impl From<StoreError> for WorkError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// Fetches all. A failure of one version does not stop the others; a failure of the store stops all.
pub(super) async fn run(
    fill: &Arc<Fill>,
    wanted: Wanted,
    at_once: usize,
    fetched: &mut Fetched<'_>,
    meter: &Meter,
) -> Result<(), WorkError> {
    let mut running = JoinSet::new();
    let mut waiting = wanted.into_iter();
    loop {
        while running.len() < at_once.saturating_mul(AHEAD) {
            let Some((asked, sums)) = waiting.next() else { break };
            let (fill, meter) = (Arc::clone(fill), meter.clone());
            running.spawn(async move {
                let outcome = one(&fill, &asked, &sums, &meter).await;
                (asked, outcome)
            });
        }
        match running.join_next().await {
            None => return Ok(()),
            Some(Ok((asked, outcome))) => fetched.add(&asked, &outcome?),
            Some(Err(error)) => {
                log::error!(error:% = error; "a task failed");
                return Err(WorkError::Panicked);
            }
        }
    }
}

async fn one(
    fill: &Arc<Fill>,
    asked: &Asked,
    sums: &Expected,
    meter: &Meter,
) -> Result<FetchResult, WorkError> {
    match have(fill, asked, sums, meter).await {
        Ok(outcome) => Ok(outcome),
        Err(Stop::Fill(FillError::Store(error)) | Stop::Work(WorkError::Store(error))) => {
            match error.is_of_one_version() {
                true => Ok(FetchResult::Failed(error.exit(), error.to_string())),
                false => Err(WorkError::Store(error)),
            }
        }
        Err(Stop::Fill(error)) => Ok(FetchResult::Failed(exit_of(&error), error.to_string())),
        Err(Stop::Work(error)) => Err(error),
    }
}

/// The failure of one version.
enum Stop {
    Fill(FillError),
    Work(WorkError),
}

impl From<FillError> for Stop {
    fn from(error: FillError) -> Self {
        Self::Fill(error)
    }
}

impl From<WorkError> for Stop {
    fn from(error: WorkError) -> Self {
        Self::Work(error)
    }
}

async fn have(fill: &Arc<Fill>, asked: &Asked, sums: &Expected, meter: &Meter) -> Result<FetchResult, Stop> {
    let version = resolve(fill, asked).await?;
    let mut was_there = {
        let version = version.clone();
        on_disk(fill, move |store| Ok(store.small(&version, SmallFile::Info)?.is_some())).await?
    };
    // An unsealed version may turn out to be corrupt, and is downloaded again then.
    if was_there && !sums.zip.is_empty() {
        was_there = fill.seal(&version).await?.is_some();
    }
    if !was_there {
        let waiter = fill.join_expecting(&version, &Via::none(), true, sums)?;
        match waiter.stored_with(|bytes| meter.add(bytes)).await {
            Err(FillError::Unexpected { reason, .. }) => {
                return Ok(FetchResult::Differs(version, format!("{reason}; it was not stored")));
            }
            stored => stored?,
        }
    }
    if let Some(reason) = difference(fill, &version, sums).await? {
        return Ok(FetchResult::Differs(version, reason));
    }
    let bytes = {
        let version = version.clone();
        on_disk(fill, move |store| Ok(store.open_zip(&version)?.map_or(0, |zip| zip.length))).await?
    };
    Ok(if was_there { FetchResult::Kept(version, bytes) } else { FetchResult::Fetched(version, bytes) })
}

async fn resolve(fill: &Arc<Fill>, asked: &Asked) -> Result<ModuleVersion, FillError> {
    let (module, query) = match asked {
        Asked::Version(version) => return Ok(version.clone()),
        Asked::Query(module, query) => (module, query),
    };
    let body = match query.as_str() {
        "latest" => fill.latest(module, &Via::none()).await?,
        _ => fill.query(module, query, &Via::none()).await?,
    };
    let unusable = |why: String| FillError::Upstream(format!("{asked}: malformed response: {why}").into());
    let info = info::parse(&body).map_err(|error| unusable(error.to_string()))?;
    ModuleVersion::new(module.clone(), info.version).map_err(|error| unusable(error.to_string()))
}

/// Returns how the version in the store differs from the go.sum files, if it does.
async fn difference(
    fill: &Arc<Fill>,
    version: &ModuleVersion,
    sums: &Expected,
) -> Result<Option<String>, Stop> {
    if !sums.zip.is_empty()
        && let Some(h1) = fill.seal(version).await?
        && let Some(fault) = sums.fault_of_zip(&h1)
    {
        return Ok(Some(fault));
    }
    if !sums.modfile.is_empty() {
        let at = version.clone();
        let body = on_disk(fill, move |store| store.small(&at, SmallFile::Mod)).await?;
        return Ok(body.and_then(|small| sums.fault_of_mod(&h1::hash_mod(&small.bytes))));
    }
    Ok(None)
}

/// Runs work that may wait for the disk, on the blocking pool.
async fn on_disk<T: Send + 'static>(
    fill: &Arc<Fill>,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, WorkError> {
    let store = Arc::clone(fill.store());
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(done) => Ok(done?),
        Err(error) => {
            log::error!(error:% = error; "a task failed");
            Err(WorkError::Panicked)
        }
    }
}

/// Returns the exit code for a failure: 1 if a retry cannot help, and 69 if it may.
fn exit_of(error: &FillError) -> Exit {
    match error {
        FillError::Absent(_)
        | FillError::Gone(_)
        | FillError::Differs(_)
        | FillError::Unexpected { .. }
        | FillError::Unverified(_)
        | FillError::Denied(_)
        | FillError::Private(_)
        | FillError::NotFetched(_) => Exit::FAILED,
        _ => Exit::UNAVAILABLE,
    }
}
