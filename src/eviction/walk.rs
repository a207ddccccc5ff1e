//! The walk over the versions of a store, with their sizes and ages.

use std::cell::Cell;
use std::ops::ControlFlow;

use stoa_gomod::ModuleVersion;
use stoa_store::{Day, LastUseError, LastUses, Store, StoreError};

use super::plan::Age;

/// Receives a version with its bytes and its age.
pub(crate) type Found<'a> = dyn FnMut(ModuleVersion, u64, Age) -> ControlFlow<()> + 'a;

/// Calls `found` for every version of a store, and `unreadable` for each that cannot be read. `check` ends the walk with an
/// error. Versions that come or go meanwhile may be missing.
pub(crate) fn each<E: From<StoreError> + From<LastUseError>>(
    store: &Store,
    uses: &LastUses<'_>,
    check: &dyn Fn() -> Result<(), E>,
    unreadable: &dyn Fn(StoreError),
    found: &mut Found<'_>,
) -> Result<(), E> {
    let failed = Cell::new(None);
    let one = |version: ModuleVersion| -> Result<Option<(ModuleVersion, u64, Age)>, E> {
        check()?;
        let footprint = match store.footprint(&version) {
            Ok(Some(footprint)) => footprint,
            Ok(None) => return Ok(None),
            Err(error) => {
                unreadable(error);
                return Ok(None);
            }
        };
        let last_use = uses.of(&version, footprint.published)?;
        let age = (last_use, Day::of(footprint.published).min(last_use));
        Ok(Some((version, footprint.bytes, age)))
    };
    let walk = |version| match one(version) {
        Ok(Some((version, bytes, age))) => found(version, bytes, age),
        Ok(None) => ControlFlow::Continue(()),
        Err(error) => {
            failed.set(Some(error));
            ControlFlow::Break(())
        }
    };
    store.each_folder(walk, unreadable)?;
    failed.take().map_or(Ok(()), Err)
}
