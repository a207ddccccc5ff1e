//! Sealing what came into the store without a seal, once for all who wait.
//!
//! A version that was migrated or imported is read whole at the first request for its zip. That takes a core
//! for a while, and memory, so only some are examined at a time, those that are being filled among them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use stoa_gomod::{H1, ModuleVersion};
use tokio::sync::watch;

use super::{Fill, FillError};

type Sealed = Result<Option<H1>, FillError>;

#[derive(Debug)]
pub(super) struct Seals {
    running: Mutex<HashMap<ModuleVersion, watch::Receiver<Option<Sealed>>>>,
}

impl Seals {
    pub(super) fn new() -> Self {
        Self { running: Mutex::default() }
    }
}

impl Fill {
    /// Seals a version. `None` if it proved broken and counts as absent now.
    ///
    /// It goes on when those who asked for it have gone away: the next one will ask again.
    pub async fn seal(self: &Arc<Self>, version: &ModuleVersion) -> Result<Option<H1>, FillError> {
        let mut outcome = self.join_seal(version);
        let outcome = outcome.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(sealed)) => sealed.clone(),
            _ => Err(FillError::Broken(format!("the sealing of {version}"))),
        }
    }

    fn join_seal(self: &Arc<Self>, version: &ModuleVersion) -> watch::Receiver<Option<Sealed>> {
        let mut running = self.seals.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = running.get(version) {
            return outcome.clone();
        }
        let (tell, outcome) = watch::channel(None);
        running.insert(version.clone(), outcome.clone());
        let (fill, version) = (Arc::clone(self), version.clone());
        tokio::spawn(async move {
            let landing = Landing { fill: Arc::clone(&fill), version: version.clone() };
            let sealed = fill.seal_in_turn(version).await;
            drop(landing);
            tell.send_replace(Some(sealed));
        });
        outcome
    }

    async fn seal_in_turn(&self, version: ModuleVersion) -> Sealed {
        let what = format!("the sealing of {version}");
        let _examining = self.examining.acquire().await.map_err(|_| FillError::Stopping(what.clone()))?;
        self.blocking(what, move |store| store.seal(&version)).await
    }
}

struct Landing {
    fill: Arc<Fill>,
    version: ModuleVersion,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut running = self.fill.seals.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(&self.version);
    }
}
