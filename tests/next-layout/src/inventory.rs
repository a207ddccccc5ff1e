//! The content of stores up to v3: the same as up to v2, except for the folder of labels.

use std::path::Path;

use stoa_layout::inventory::{Found, Visit};
use stoa_layout::step::Refusal;
use stoa_layout::{Inventory, State, StepError};

/// The inventory of all layouts up to v3.
pub(crate) struct UpToV3(pub(crate) Box<dyn Inventory>);

impl Inventory for UpToV3 {
    fn take(&self, root: &Path, state: &State, visit: &mut Visit<'_>) -> Result<(), StepError> {
        let labels = root.join("labels");
        self.0.take(root, state, &mut |found| match found {
            Found::Leftover { leftover, .. } if leftover.path.starts_with(&labels) => Ok(()),
            found => visit(found),
        })
    }

    fn forbids_moving(&self, root: &Path, state: &State) -> Result<Option<Refusal>, StepError> {
        self.0.forbids_moving(root, state)
    }
}
