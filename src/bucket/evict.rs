//! Bounding the store of a server: above a size, the least recently used versions that the bucket has are removed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use stoa_gomod::{H1, ModuleVersion};
use stoa_store::{Store, StoreError};

use super::Tier;
use crate::tasks::blocking;
use crate::unavailable::Unavailable;

/// The share of the maximum size that remains, in tenths. So not every download is followed by a removal.
const REMAINS: u64 = 9;

/// Maximum number of versions that one pass removes.
const MAX_AT_ONCE: usize = 10_000;

/// The oldest versions, and their size.
#[derive(Debug, Default)]
struct Oldest {
    versions: Vec<(ModuleVersion, u64)>,
    /// The number of bytes to remove.
    excess: u64,
}

impl Tier {
    /// Removes versions from the store while it is larger than allowed.
    pub(super) async fn evict(&self, store: &Arc<Store>) -> Result<(), Unavailable> {
        let max = self.options.max_local_size;
        let oldest = blocking(store, "the size of the store", move |store| oldest(store, max)).await?;
        let (mut removed, mut bytes) = (0u64, 0u64);
        for (version, size) in oldest.versions {
            if bytes >= oldest.excess || self.is_paused() {
                break;
            }
            if self.evict_one(store, &version).await? {
                removed += 1;
                bytes += size;
            }
        }
        if removed > 0 {
            log::info!(versions = removed, bytes, max_local_size = max; "removed stored versions that the bucket has");
        }
        Ok(())
    }

    /// Removes a version from the store if the bucket has the same.
    async fn evict_one(&self, store: &Arc<Store>, version: &ModuleVersion) -> Result<bool, Unavailable> {
        let named = version.clone();
        let opened = blocking(store, version, move |store| store.open_zip(&named)).await?;
        let Some(seal) = opened.and_then(|zip| zip.seal) else { return Ok(false) };
        if !self.has_same(version, &seal).await {
            return Ok(false);
        }
        let named = version.clone();
        self.known.remove(version);
        blocking(store, version, move |store| {
            // A version that another process works on is in use.
            let Some(claim) = store.try_claim(&named)? else { return Ok(false) };
            Ok(store.remove_unrecorded(&claim)?.bytes.is_some())
        })
        .await
    }

    /// Returns whether the bucket has a version with this hash.
    async fn has_same(&self, version: &ModuleVersion, seal: &H1) -> bool {
        let held = self.note(self.versions.manifest(version).await).ok().flatten();
        let Some(held) = held.filter(|held| held.document.seal() == Some(seal)) else { return false };
        let has_content = self.note(self.versions.has_content(&held.document).await).unwrap_or(false);
        if has_content {
            // The version stays in the catalog.
            self.note_in_index(&held).await;
        }
        has_content
    }
}

/// Returns the least recently used versions that are to be removed, the oldest first. None if the store is small enough.
fn oldest(store: &Store, max: u64) -> Result<Oldest, StoreError> {
    let Ok(uses) = store.usage().last_uses() else { return Ok(Oldest::default()) };
    let age = |version: &ModuleVersion, published: std::time::SystemTime| -> Result<i64, StoreError> {
        let published = stoa_store::Day::of(published);
        let used = uses.recorded(version).ok().flatten();
        Ok(used.map_or(published, |used| used.max(published)).0)
    };
    let (mut total, mut by_day) = (0u64, BTreeMap::<i64, u64>::new());
    let each = |visit: &mut dyn FnMut(ModuleVersion, u64, i64)| -> Result<(), StoreError> {
        store.each_version(|version| {
            // A version that cannot be read, or is gone by now, is not removed.
            if let Ok(Some(footprint)) = store.footprint(&version)
                && let Ok(day) = age(&version, footprint.published)
            {
                visit(version, footprint.bytes, day);
            }
            ControlFlow::Continue(())
        })
    };
    each(&mut |_, bytes, day| {
        total += bytes;
        *by_day.entry(day).or_default() += bytes;
    })?;
    if total <= max {
        return Ok(Oldest::default());
    }
    let excess = total - max / 10 * REMAINS;
    let (mut freed, mut last) = (0, i64::MIN);
    for (day, bytes) in by_day {
        (freed, last) = (freed + bytes, day);
        if freed >= excess {
            break;
        }
    }
    let mut found: Vec<(i64, ModuleVersion, u64)> = Vec::new();
    each(&mut |version, bytes, day| {
        if day <= last && found.len() < MAX_AT_ONCE {
            found.push((day, version, bytes));
        }
    })?;
    found.sort_by_key(|(day, ..)| *day);
    let versions = found.into_iter().map(|(_, version, bytes)| (version, bytes)).collect();
    Ok(Oldest { versions, excess })
}
