//! Work beside the requests: once per key, off the runtime, within shared limits, and until the shutdown.

mod noted;
mod once;
mod runtime;
mod shared;
mod shutdown;
mod waiting;

use std::fmt::Display;
use std::sync::Arc;

use stoa_store::{Store, StoreError};

pub(crate) use self::noted::{How, note, noted};
pub(crate) use self::once::{Once, Task};
pub(crate) use self::runtime::runtime;
pub(crate) use self::shared::{Permit, Queue, Share, SharedPermits};
pub(crate) use self::shutdown::{Phase, Shutdown};
pub(crate) use self::waiting::Waiting;
use crate::unavailable::Unavailable;

/// Runs work on a store on the blocking pool, since it may wait for the disk; `what` names the work in errors.
pub(crate) async fn blocking<T, F>(store: &Arc<Store>, what: impl Display, work: F) -> Result<T, Unavailable>
where
    T: Send + 'static,
    F: FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
{
    let store = Arc::clone(store);
    let noted = move || work(&store).inspect_err(|error| store.note_failure(error));
    match tokio::task::spawn_blocking(noted).await {
        Ok(result) => Ok(result?),
        // The process is shutting down.
        Err(error) if error.is_cancelled() => Err(Unavailable::Stopping(what.to_string())),
        Err(error) => {
            log::error!(task:% = what, reason:% = error; "a task panicked");
            Err(Unavailable::Broken(what.to_string()))
        }
    }
}
