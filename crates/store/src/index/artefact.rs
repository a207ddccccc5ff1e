//! The index as what the runner of migrations builds.

use std::io;

use stoa_layout::{Artefact, Context, LayoutId, PathError, StepError};

use super::{Index, IndexError};
use crate::paths::Paths;
use crate::staging::{self, Run};
use crate::{LAYOUT, StoreError};

/// The index, to be built by `stoa-migrate`.
///
/// A new store and one that comes up get it from the first server, in the background: building it costs a look at
/// each file and two trees to keep in order, while a migration only moves. A regeneration builds it whole.
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
        Ok(stoa_layout::durable::remove_tree(&Paths::new(context.root()).index())?)
    }
}

fn failed(paths: &Paths, error: IndexError) -> PathError {
    match error {
        IndexError::Store(StoreError::Path(error)) => error,
        error => PathError::new("build the index in", paths.index(), io::Error::other(error)),
    }
}
