//! Tells what happens as JSON lines: one object a line, with `event` in each.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stoa_gomod::ModuleVersion;
use stoa_layout::events::PlannedStep;
use stoa_layout::{Direction, Event, Events, Exit, LayoutId, Leftover, Outcome, Survey};

use super::leftovers::Sum;
use super::options::Typed;
use super::told::Told;
use crate::command::progress::{Progress, Screen, When};
use crate::verify::look::{Fault, Found};

/// How much time passes at least between two lines on progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

pub(super) struct Json {
    /// Under the gate the standard output is another program's.
    to_stderr: bool,
    told: Told,
    state: Mutex<InStep>,
    nothing: Progress,
}

#[derive(Default)]
struct InStep {
    step: Option<(LayoutId, LayoutId)>,
    of: Option<(u64, Option<u64>)>,
    told: Option<Instant>,
}

impl Json {
    pub(super) fn new(typed: &Typed) -> Self {
        Self {
            to_stderr: typed.auto,
            told: Told::default(),
            state: Mutex::default(),
            nothing: Progress::new(Screen::default(), When::Never, true),
        }
    }

    pub(super) fn planned(&self, root: &Path, pending: bool) {
        self.line(&json!({
            "event": "done", "store": text(root), "layout": null, "changed": false, "pending": pending,
        }));
    }

    pub(super) fn done(&self, root: &Path, outcome: &Outcome) {
        let (layout, changed) = match outcome {
            Outcome::Nothing(layout) => (Some(layout.as_str()), false),
            Outcome::NoStore => (None, false),
            Outcome::Done(layout) => (Some(layout.as_str()), true),
        };
        self.line(&json!({
            "event": "done", "store": text(root), "layout": layout, "changed": changed, "pending": false,
        }));
    }

    /// Shows nothing: what is told is told in lines.
    pub(super) fn progress_shown(&self) -> &Progress {
        &self.nothing
    }

    pub(super) fn fault(&self, version: &ModuleVersion, fault: Fault, reason: &str) {
        let (module, version) = (version.path().as_str(), version.version().as_str());
        self.line(&json!({ "event": fault.name(), "module": module, "version": version, "reason": reason }));
    }

    pub(super) fn verified(&self, root: &Path, found: Found) {
        let (versions, broken) = (found.versions(), found.broken);
        self.line(
            &json!({ "event": "verified", "store": text(root), "versions": versions, "broken": broken }),
        );
    }

    /// Tells of a leftover that was asked for.
    pub(super) fn listed(&self, leftover: &Leftover, to: Option<&Path>) -> io::Result<()> {
        let mut value = leftover_value(leftover);
        if let Some(to) = to {
            value["moved_to"] = text(to).into();
        }
        writeln!(io::stdout().lock(), "{value}")
    }

    pub(super) fn leftovers(&self, root: &Path, sum: Sum, moved: bool) {
        let Sum { count, bytes } = sum;
        self.line(&json!({
            "event": "done", "store": text(root), "leftovers": count, "bytes": bytes,
            "changed": moved && count > 0,
        }));
    }

    pub(super) fn error(&self, exit: Exit, message: &str) {
        self.line(&json!({ "event": "error", "code": exit.code(), "message": message }));
    }

    fn line(&self, value: &Value) {
        let line = format!("{value}\n");
        // A reader that went away must not stop the work half-way.
        let _ = if self.to_stderr {
            io::stderr().lock().write_all(line.as_bytes())
        } else {
            let mut out = io::stdout().lock();
            out.write_all(line.as_bytes()).and_then(|()| out.flush())
        };
    }

    fn progress(&self, items: u64, bytes: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        if state.told.is_some_and(|at| at.elapsed() < PROGRESS_EVERY) {
            return;
        }
        state.told = Some(Instant::now());
        let (from, to) = match &state.step {
            Some((from, to)) => (Some(from.as_str()), Some(to.as_str())),
            None => (None, None),
        };
        self.line(&json!({
            "event": "progress", "from": from, "to": to, "versions": items, "bytes": bytes,
            "of_versions": state.of.map(|of| of.0), "of_bytes": state.of.and_then(|of| of.1),
        }));
    }

    fn enter(&self, step: Option<&PlannedStep>) {
        let Ok(mut state) = self.state.lock() else { return };
        *state = match step {
            Some(step) => InStep {
                step: Some((step.from.clone(), step.to.clone())),
                of: step
                    .survey
                    .as_ref()
                    .map(|survey| (survey.items, counted(survey).map(|survey| survey.bytes))),
                told: None,
            },
            None => InStep::default(),
        };
    }

    fn leftover(&self, leftover: &Leftover) {
        if self.told.is_new(&leftover.path) {
            self.line(&leftover_value(leftover));
        }
    }
}

impl Events for Json {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Plan { root, target, creates, steps } => {
                let steps: Vec<Value> = steps.iter().map(step_value).collect();
                self.line(&json!({
                    "event": "plan", "store": text(root), "layout": target.as_str(),
                    "creates": creates.map(LayoutId::as_str), "steps": steps,
                }));
            }
            Event::Waiting { holders } => self.line(&json!({ "event": "waiting", "holders": holders })),
            Event::StepBegin(step) => {
                self.enter(Some(step));
                let mut value = step_value(step);
                value["event"] = "step".into();
                value["state"] = "begun".into();
                self.line(&value);
            }
            Event::Progress { items, bytes } => self.progress(items, bytes),
            Event::Leftover(leftover) => self.leftover(leftover),
            Event::Warning(message) => self.line(&json!({ "event": "warning", "message": message })),
            Event::StepEnd { from, to, items, bytes, leftovers } => {
                self.enter(None);
                self.line(&json!({
                    "event": "step", "state": "done", "from": from.as_str(), "to": to.as_str(),
                    "versions": items, "bytes": bytes, "leftovers": leftovers,
                }));
            }
            Event::Created(layout) => {
                self.line(&json!({ "event": "step", "state": "done", "from": null, "to": layout.as_str() }));
            }
        }
    }
}

fn step_value(step: &PlannedStep) -> Value {
    let survey = step.survey.as_ref();
    json!({
        "from": step.from.as_str(),
        "to": step.to.as_str(),
        "direction": match step.direction {
            Direction::Up => "up",
            Direction::Back => "back",
        },
        "description": step.description,
        "resumes": step.resumes,
        "versions": survey.map(|survey| survey.items),
        "bytes": survey.and_then(counted).map(|survey| survey.bytes),
        "leftovers": survey.and_then(counted).map(|survey| survey.leftovers),
    })
}

fn counted(survey: &Survey) -> Option<&Survey> {
    (!survey.is_estimate).then_some(survey)
}

fn leftover_value(leftover: &Leftover) -> Value {
    json!({
        "event": "leftover", "path": text(&leftover.path), "bytes": leftover.bytes, "reason": leftover.reason,
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
