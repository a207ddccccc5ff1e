//! Layout v3: what v2 is, and a folder `labels`. The code is the real programs'; only values differ.

use std::fs;
use std::path::Path;

use stoa_layout::error::PathContext;
use stoa_layout::step::{Refusal, Work};
use stoa_layout::{Context, Direction, Exit, LayoutId, Layouts, Moved, Step, StepError, Survey, durable};

/// The layout.
pub const LAYOUT: LayoutId = LayoutId::fixed("v3");

/// The folders of an empty store.
pub const FOLDERS: [&str; 7] = ["modules", "staging", "quarantine", "index", "cache", "records", LABELS];

const LABELS: &str = "labels";

/// Knows all layouts up to v3.
pub fn layouts() -> Layouts {
    let program = concat!("next-stoa-migrate ", env!("CARGO_PKG_VERSION"));
    let mut layouts = Layouts::new(program, LAYOUT, FOLDERS.to_vec());
    layouts.steps = stoa_migrations::steps();
    layouts.steps.push(Box::new(V2ToV3));
    layouts.detectors = stoa_migrations::detectors();
    layouts.inventory = Some(Box::new(UpToV3(stoa_migrations::inventory())));
    layouts
}

struct V2ToV3;

impl Step for V2ToV3 {
    fn from(&self) -> LayoutId {
        LayoutId::fixed("v2")
    }

    fn to(&self) -> LayoutId {
        LayoutId::fixed("v3")
    }

    fn description(&self) -> &str {
        "make a folder for labels"
    }

    fn survey(&self, root: &Path, _: Direction, _: &Work<'_>) -> Result<Survey, StepError> {
        let labels = root.join(LABELS);
        let mut survey = Survey::default();
        if labels.exists() && !labels.is_dir() {
            let message = format!("{} has the name of a folder of layout v3; move it away", labels.display());
            survey.refusals.push(Refusal { exit: Exit::CANT_CREATE, message });
        }
        Ok(survey)
    }

    fn apply(&self, context: &Context<'_>) -> Result<Moved, StepError> {
        context.lock.durable().ensure_dir(&context.root().join(LABELS))?;
        Ok(Moved::default())
    }

    fn revert(&self, context: &Context<'_>) -> Result<Moved, StepError> {
        durable::remove_empty_dir(&context.root().join(LABELS))?;
        Ok(Moved::default())
    }

    fn check(&self, context: &Context<'_>, direction: Direction) -> Result<(), StepError> {
        if direction == Direction::Up {
            let labels = context.root().join(LABELS);
            fs::metadata(&labels).at("look at", &labels)?;
        }
        Ok(())
    }
}
