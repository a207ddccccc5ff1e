//! Stores at layout v2 that lost their marker, for example because a backup did not contain it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use stoa_layout::step::{Refusal, Work};
use stoa_layout::{Direction, Event, Exit, LayoutId, StepError, Unmarked};

use crate::detect::holds_a_whole_version;
use crate::flat::Flat;
use crate::flow::{REPORT_EVERY, Verdict, in_parallel};
use crate::listed::Listed;
use crate::picture::{Candidate, Finding, Picture, is_dir, metadata};
use crate::{v0, v1_to_v2, v2, whole};

/// Recognises a store at layout v2 without its marker.
pub(crate) struct UnmarkedV2;

impl Unmarked for UnmarkedV2 {
    fn layout(&self) -> LayoutId {
        v2::ID
    }

    /// No other layout has a folder `@v/VERSION` with the files of a version. A store without versions is recognised
    /// by its folders, unless it has versions of a layout without markers.
    fn recognises(&self, root: &Path) -> Result<bool, StepError> {
        if holds_a_whole_version(&v2::V2, root)? {
            return Ok(true);
        }
        for name in v2::FOLDERS {
            if !is_dir(&root.join(name))? {
                return Ok(false);
            }
        }
        Ok(!holds_a_whole_version(&v0::V0, root)? && !holds_a_whole_version(&Flat::Tree, root)?)
    }

    fn check(&self, root: &Path, work: &Work<'_>) -> Result<Vec<Refusal>, StepError> {
        let mut refusals = Vec::new();
        for name in v2::FOLDERS {
            let path = root.join(name);
            if metadata(&path)?.is_some_and(|meta| !meta.is_dir()) {
                let message = format!(
                    "cannot restore the marker of {}: {} is not a folder; nothing was changed\nhelp: move it away, then run \
                     again",
                    root.display(),
                    path.display()
                );
                refusals.push(Refusal { exit: Exit::CANT_CREATE, message });
            }
        }
        if let Some(problems) = problems(root, work)?.into_lines() {
            let message = format!(
                "cannot restore the marker of {}: its content is not that of layout {}; nothing was changed\n    {problems}\n\
                 help: move these paths out of the store (or restore the missing files), then run again",
                root.display(),
                v2::ID
            );
            refusals.push(Refusal { exit: Exit::NOT_A_STORE, message });
        }
        Ok(refusals)
    }
}

/// Returns the versions that a complete store at layout v2 does not have, each with the reason.
fn problems(root: &Path, work: &Work<'_>) -> Result<Listed<String>, StepError> {
    let found = Listed::default();
    let add = |path: &Path, reason: &str| found.add(|| format!("{}: {reason}", path.display()));
    let report = |items, total| work.events.event(Event::Check { layout: &v2::ID, items, total });
    report(0, None);
    let total = if work.events.wants_totals() { Some(count(root, work)?) } else { None };
    report(0, total);
    let checked = AtomicU64::new(0);
    in_parallel(
        work.threads,
        |batches| v2::V2.walk(root, &mut |found| versions(found, batches)),
        &|one: &Candidate, _| {
            work.cancel.check()?;
            let items = checked.fetch_add(1, Ordering::Relaxed) + 1;
            if items.is_multiple_of(REPORT_EVERY) {
                report(items, total);
            }
            // A folder without an info is no version: it is a leftover, which the store never serves.
            let fault = match (&one.fault, one.has) {
                (None, [.., false]) => None,
                (Some(fault), _) => Some(fault.clone()),
                (None, [true, true, true]) => whole::fault(&one.version, &one.files)?,
                (None, [has_mod, ..]) => {
                    Some(format!("incomplete: it has no {}", if has_mod { "zip" } else { "go.mod" }))
                }
            };
            if let Some(fault) = fault {
                add(&one.shown, &fault);
            }
            Ok(())
        },
    )?;
    // A version that the step to v2 would still move: the marker was lost in the middle of that step.
    let step = v1_to_v2::step();
    Flat::V1.walk(root, &mut |found| {
        let Finding::Versions(candidates) = found else { return Ok(()) };
        for one in &candidates {
            work.cancel.check()?;
            if let Verdict::Moves { .. } = step.judge(root, Direction::Up, one)? {
                add(&one.shown, "a version at layout v1");
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// Counts the versions of a store. No file is opened for it.
fn count(root: &Path, work: &Work<'_>) -> Result<u64, StepError> {
    let mut count = 0;
    v2::V2.walk(root, &mut |found| {
        work.cancel.check()?;
        if let Finding::Versions(batch) = found {
            count += batch.len() as u64;
        }
        Ok(())
    })?;
    Ok(count)
}

fn versions(
    found: Finding,
    batches: &mut dyn FnMut(Vec<crate::picture::Candidate>) -> Result<(), StepError>,
) -> Result<(), StepError> {
    match found {
        Finding::Versions(batch) => batches(batch),
        Finding::Leftover(_) => Ok(()),
    }
}
