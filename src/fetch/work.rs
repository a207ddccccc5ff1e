//! Fetching what is wanted, some at a time: what is asked for is resolved, looked for in the store, filled where it
//! is missing, and compared with what go.sum files say of it, before it is stored or where it lies.

use std::sync::Arc;

use stoa_gomod::{ModuleVersion, h1, info};
use stoa_layout::Exit;
use stoa_store::{SmallFile, Store, StoreError};
use tokio::task::JoinSet;

use super::told::{Outcome, Told};
use super::wanted::{Asked, Wanted};
use crate::fill::{Expected, Fill, FillError, Via};

/// How many versions are on their way for each zip that may be: the others are at their info and mod.
const AHEAD: usize = 4;

/// The work cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkError {
    #[error(transparent)]
    Store(Arc<StoreError>),
    #[error("a task broke off within this program; the log says more")]
    Broken,
}

impl WorkError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Store(error) => error.exit(),
            Self::Broken => Exit::IO,
        }
    }
}

impl From<StoreError> for WorkError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// Fetches all. What one version comes to stops no other; what is wrong with the store stops all.
pub(super) async fn run(
    fill: &Arc<Fill>,
    wanted: Wanted,
    at_once: usize,
    told: &mut Told,
) -> Result<(), WorkError> {
    let mut running = JoinSet::new();
    let mut waiting = wanted.into_iter();
    loop {
        while running.len() < at_once.saturating_mul(AHEAD) {
            let Some((asked, sums)) = waiting.next() else { break };
            let fill = Arc::clone(fill);
            running.spawn(async move {
                let outcome = one(&fill, &asked, &sums).await;
                (asked, outcome)
            });
        }
        match running.join_next().await {
            None => return Ok(()),
            Some(Ok((asked, outcome))) => told.one(&asked, &outcome?),
            Some(Err(error)) => {
                log::error!("{error}");
                return Err(WorkError::Broken);
            }
        }
    }
}

async fn one(fill: &Arc<Fill>, asked: &Asked, sums: &Expected) -> Result<Outcome, WorkError> {
    match have(fill, asked, sums).await {
        Ok(outcome) => Ok(outcome),
        Err(Stop::Fill(FillError::Store(error)) | Stop::Work(WorkError::Store(error))) => {
            match error.is_of_one_version() {
                true => Ok(Outcome::Failed(error.exit(), error.to_string())),
                false => Err(WorkError::Store(error)),
            }
        }
        Err(Stop::Fill(error)) => Ok(Outcome::Failed(exit_of(&error), error.to_string())),
        Err(Stop::Work(error)) => Err(error),
    }
}

/// Why one version does not come to a good end.
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

async fn have(fill: &Arc<Fill>, asked: &Asked, sums: &Expected) -> Result<Outcome, Stop> {
    let version = resolve(fill, asked).await?;
    let mut was_there = {
        let version = version.clone();
        on_disk(fill, move |store| Ok(store.small(&version, SmallFile::Info)?.is_some())).await?
    };
    // What lies there without a seal may prove broken, and is fetched again then.
    if was_there && !sums.zip.is_empty() {
        was_there = fill.seal(&version).await?.is_some();
    }
    if !was_there {
        match fill.join_expecting(&version, &Via::none(), true, sums)?.stored().await {
            Err(FillError::Unexpected { reason, .. }) => {
                return Ok(Outcome::Differs(version, format!("{reason}; it is not stored")));
            }
            stored => stored?,
        }
    }
    if let Some(reason) = difference(fill, &version, sums).await? {
        return Ok(Outcome::Differs(version, reason));
    }
    let bytes = {
        let version = version.clone();
        on_disk(fill, move |store| Ok(store.open_zip(&version)?.map_or(0, |zip| zip.length))).await?
    };
    Ok(if was_there { Outcome::Kept(version, bytes) } else { Outcome::Fetched(version, bytes) })
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
    let unusable =
        |why: String| FillError::Upstream(format!("{asked}: the answer is of no use: {why}").into());
    let info = info::parse(&body).map_err(|error| unusable(error.to_string()))?;
    ModuleVersion::new(module.clone(), info.version).map_err(|error| unusable(error.to_string()))
}

/// Says what in the store is not as a go.sum has it.
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

/// Does on the blocking pool what may wait for the disk.
async fn on_disk<T: Send + 'static>(
    fill: &Arc<Fill>,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, WorkError> {
    let store = Arc::clone(fill.store());
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(done) => Ok(done?),
        Err(error) => {
            log::error!("{error}");
            Err(WorkError::Broken)
        }
    }
}

/// What is not there, or not for us, is another matter than an upstream that might have it tomorrow.
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
