//! The index as an artefact that `stoa-migrate` builds.

use std::io;

use stoa_layout::{Artefact, Context, LayoutId, PathError, StepError};

use super::{Index, IndexError};
use crate::paths::Paths;
use crate::staging::{self, Run};
use crate::{LAYOUT, StoreError};

/// The index as an artefact of the store.
///
/// After a creation or an upgrade the first server builds the index in the background, because building it reads the
/// metadata of every file, while a migration only moves folders. A regeneration builds the whole index.
#[derive(Debug, Clone, Copy)]
pub struct IndexArtefact;

impl Artefact for IndexArtefact {
    fn name(&self) -> &str {
        "the index"
    }

    fn layout(&self) -> LayoutId {
        LAYOUT
    }

    fn is_required(&self) -> bool {
        false
    }

    fn is_left_to_program(&self) -> bool {
        true
    }

    fn build(&self, context: &Context<'_>) -> Result<(), StepError> {
        let (paths, durable) = (Paths::new(context.root()), *context.lock.durable());
        let index = Index::new(paths.clone(), durable, false);
        let build = || -> Result<(), IndexError> {
            let staging = paths.staging();
            durable.ensure_dir(&staging)?;
            staging::sweep(&staging, &durable)?;
            let run = Run::begin(&staging, &durable)?;
            index.build(run.fresh(), &|| context.work.cancel.check().is_err())?;
            index.remove_older()
        };
        build().map_err(|error| match error {
            IndexError::Stopped => match context.work.cancel.check() {
                Err(cancelled) => StepError::Cancelled(cancelled),
                Ok(()) => StepError::Path(failed(&paths, IndexError::Stopped)),
            },
            error => StepError::Path(failed(&paths, error)),
        })
    }

    fn remove(&self, context: &Context<'_>) -> Result<(), StepError> {
        // The step has warned about a folder that stays.
        stoa_layout::durable::remove_tree_but_folders(&Paths::new(context.root()).index())?;
        Ok(())
    }
}

fn failed(paths: &Paths, error: IndexError) -> PathError {
    match error {
        IndexError::Store(StoreError::Path(error)) => error,
        error => PathError::new("build the index in", paths.index(), io::Error::other(error)),
    }
}
