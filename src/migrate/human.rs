//! Tells people what happens: results on standard output, progress on standard error.
//!
//! Under the gate the standard output belongs to the command that waits, so everything goes to standard
//! error, and little of it: one line when something was done.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use indicatif::{BinaryBytes, HumanCount};
use stoa_gomod::ModuleVersion;
use stoa_layout::events::PlannedStep;
use stoa_layout::lock::Holder;
use stoa_layout::{Direction, Event, Events, LayoutId, Leftover, Outcome};

use super::leftovers::Sum;
use super::options::Typed;
use super::told::Told;
use crate::command::progress::{Progress, Screen};
use crate::verify::look::{Fault, Found};

pub(super) struct Human {
    auto: bool,
    dry_run: bool,
    told: Told,
    quiet: bool,
    progress: Progress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    created: bool,
    moved: u64,
    leftovers: u64,
}

impl Human {
    pub(super) fn new(typed: &Typed) -> Self {
        let quiet = typed.common.quiet;
        Self {
            auto: typed.auto,
            dry_run: typed.dry_run,
            told: Told::default(),
            quiet,
            progress: Progress::new(Screen::default(), typed.progress, quiet),
            state: Mutex::default(),
        }
    }

    pub(super) fn planned(&self, root: &Path, pending: bool) {
        if !pending {
            self.result(format_args!("{}: nothing to do", root.display()));
        }
    }

    pub(super) fn done(&self, root: &Path, outcome: &Outcome) {
        let root = root.display();
        match outcome {
            Outcome::Nothing(_) | Outcome::NoStore if self.auto => {}
            Outcome::Nothing(layout) => {
                self.result(format_args!("{root} is at layout {layout} already; nothing to do"));
            }
            Outcome::NoStore => self.result(format_args!("{root} holds no store; nothing was done")),
            Outcome::Done(layout) if self.auto => {
                let Ok(state) = self.state.lock().map(|state| (state.created, state.moved, state.leftovers))
                else {
                    return;
                };
                let (versions, left) = (HumanCount(state.1), HumanCount(state.2));
                match state {
                    (true, ..) => self.result(format_args!("made a new store in {root}, at layout {layout}")),
                    (_, _, 0) => self.result(format_args!(
                        "upgraded {root} to layout {layout}: {versions} versions moved"
                    )),
                    _ => self.result(format_args!(
                        "upgraded {root} to layout {layout}: {versions} versions moved, {left} leftovers stay where they are"
                    )),
                }
            }
            Outcome::Done(layout) => self.result(format_args!("{root} is at layout {layout}")),
        }
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(super) fn fault(&self, version: &ModuleVersion, fault: Fault, reason: &str) {
        self.result(format_args!("{} {version}: {reason}", fault.name()));
    }

    pub(super) fn verified(&self, root: &Path, found: Found) {
        let (versions, broken) = (HumanCount(found.versions()), HumanCount(found.broken));
        self.result(format_args!("{}: {versions} versions verified, {broken} broken", root.display()));
    }

    /// Tells of a leftover that was asked for.
    pub(super) fn listed(&self, leftover: &Leftover, to: Option<&Path>) -> io::Result<()> {
        let Leftover { path, bytes, reason } = leftover;
        let (path, bytes) = (path.display(), BinaryBytes(*bytes));
        let mut out = io::stdout().lock();
        match to {
            None => writeln!(out, "{path} ({bytes}): {reason}"),
            Some(_) if self.quiet => Ok(()),
            Some(to) => writeln!(out, "moved {path} ({bytes}) to {}: {reason}", to.display()),
        }
    }

    pub(super) fn leftovers(&self, root: &Path, sum: Sum, moved: bool) {
        let (count, bytes) = (HumanCount(sum.count), BinaryBytes(sum.bytes));
        let root = root.display();
        match (moved, self.quiet) {
            (_, true) => {}
            (true, _) if sum.count == 0 => self.note(format_args!("{root}: no leftovers")),
            (true, _) => self.note(format_args!("{root}: {count} leftovers, {bytes}, moved out")),
            (false, _) => self.note(format_args!("{root}: {count} leftovers, {bytes}")),
        }
    }

    pub(super) fn error(&self, message: &str) {
        self.progress.end();
        for line in message.lines() {
            self.note(format_args!("error: {line}"));
        }
    }

    /// Writes a result, above the bar if there is one.
    fn result(&self, line: impl Display) {
        if self.quiet {
            return;
        }
        if self.auto {
            return self.note(line);
        }
        // A reader that went away must not stop the work half-way.
        self.progress.screen().suspend(|| {
            let mut out = io::stdout().lock();
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        });
    }

    /// Writes to standard error, above the bar if there is one.
    fn note(&self, line: impl Display) {
        self.progress.screen().suspend(|| {
            let _ = writeln!(io::stderr().lock(), "{line}");
        });
    }

    fn plan(&self, root: &Path, creates: Option<&LayoutId>, steps: &[PlannedStep]) {
        let root = root.display();
        if let Some(layout) = creates {
            self.result(format_args!("{root} holds no store; a new one would be made at layout {layout}"));
        }
        for step in steps {
            let (name, description) = (name_of(step), &step.description);
            let resumes = if step.resumes { " (begun, goes on)" } else { "" };
            self.result(format_args!("{root}: {name}{resumes}: {description}"));
            if let Some(survey) = step.survey.as_ref().filter(|_| step.from != step.to) {
                self.result(format_args!(
                    "    {} versions, {} to move; {} leftovers stay where they are",
                    HumanCount(survey.items),
                    BinaryBytes(survey.bytes),
                    HumanCount(survey.leftovers)
                ));
            }
        }
    }

    fn waiting(&self, holders: &[Holder]) {
        if self.quiet {
            return;
        }
        let names: Vec<String> = holders.iter().map(ToString::to_string).collect();
        let names = if names.is_empty() { "another process".to_owned() } else { names.join(", ") };
        self.note(format_args!("waiting for {names}, which uses the store"));
    }

    fn begin(&self, step: &PlannedStep) {
        let name = name_of(step);
        if self.progress.is_in_lines() && !self.auto {
            let resumes = if step.resumes { " goes on" } else { "" };
            self.note(format_args!("{name}{resumes}: {}", step.description));
        }
        self.progress.begin(&name, Some(step.survey.as_ref().map_or(0, |survey| survey.items)));
    }

    fn leftover(&self, leftover: &Leftover) {
        if self.auto || !self.told.is_new(&leftover.path) {
            return;
        }
        let Leftover { path, bytes, reason } = leftover;
        self.result(format_args!("leftover {} ({}): {reason}", path.display(), BinaryBytes(*bytes)));
    }

    fn end(&self, name: &str, items: u64, bytes: u64, leftovers: u64) {
        self.progress.end();
        if let Ok(mut state) = self.state.lock() {
            state.moved = state.moved.max(items);
            // Each step up looks at another part of the store.
            state.leftovers += leftovers;
        }
        if !self.auto {
            self.result(format_args!(
                "{name}: {} versions moved, {}; {} leftovers stay where they are",
                HumanCount(items),
                BinaryBytes(bytes),
                HumanCount(leftovers)
            ));
        }
    }
}

impl Events for Human {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Plan { root, creates, steps, .. } if self.dry_run => self.plan(root, creates, steps),
            // Each step tells of itself when it begins.
            Event::Plan { .. } => {}
            Event::Waiting { holders } => self.waiting(holders),
            Event::StepBegin(step) => self.begin(step),
            Event::Progress { items, bytes } => self.progress.advance(items, bytes),
            Event::Leftover(leftover) => self.leftover(leftover),
            Event::Warning(message) if !self.quiet => self.note(format_args!("warning: {message}")),
            Event::Warning(_) => {}
            Event::StepEnd { from, to, .. } if from == to => {
                self.progress.end();
                if !self.auto {
                    self.result(format_args!("what is derived was built again for layout {to}"));
                }
            }
            Event::StepEnd { from, to, items, bytes, leftovers } => {
                self.end(&format!("{from} to {to}"), items, bytes, leftovers);
            }
            Event::Created(layout) => {
                if let Ok(mut state) = self.state.lock() {
                    state.created = true;
                }
                if !self.auto {
                    self.result(format_args!("made a new store at layout {layout}"));
                }
            }
        }
    }
}

fn name_of(step: &PlannedStep) -> String {
    let back = if step.direction == Direction::Back { "back, " } else { "" };
    format!("{back}{} to {}", step.from, step.to)
}
