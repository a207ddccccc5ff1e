//! The record of uses in the bucket, from the usage data of the store.

use std::sync::Arc;

use stoa_store::{Day, LastUseError, Store};

use super::Tier;
use crate::lock::lock;

impl Tier {
    /// Writes which versions this server has used today and yesterday, if it records uses. Returns false after an error,
    /// which is logged.
    pub(super) async fn record_uses(&self, store: &Arc<Store>) -> bool {
        let Some(server) = self.sign.as_deref().and_then(|sign| sign.rsplit('/').next()) else { return true };
        if !self.options.records_uses || store.is_read_only() {
            return true;
        }
        let today = Day::today();
        // Uses of the last hour of a day are written on the next day.
        for day in [today, Day(today.0 - 1)] {
            let read = {
                let store = Arc::clone(store);
                let read = move || -> Result<_, LastUseError> { store.usage().last_uses()?.used_on(day) };
                tokio::task::spawn_blocking(read).await
            };
            let versions = match read {
                Ok(Ok(versions)) => versions,
                Ok(Err(error)) => {
                    log::warn!(reason:% = error; "cannot read the usage data for the bucket");
                    return false;
                }
                // The server ends.
                Err(_) => return false,
            };
            let now = (day, versions.len());
            if lock(&self.state).recorded.contains(&now) {
                continue;
            }
            if self.note(self.versions.write_uses(server, day.0, &versions).await).is_err() {
                return false;
            }
            let recorded = &mut lock(&self.state).recorded;
            recorded.retain(|(other, _)| *other != day && other.0 + 1 >= today.0);
            recorded.push(now);
        }
        true
    }
}
