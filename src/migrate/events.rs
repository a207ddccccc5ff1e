//! The events of `stoa-migrate`, and the watcher that turns the engine's events into them.

use std::fmt::{self, Display};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use stoa_layout::events::Events;
use stoa_layout::lock::{self, Holder};
use stoa_layout::plan::PlannedStep;
use stoa_layout::{Direction, LayoutId, Leftover, Outcome, Survey};

use super::seen::SeenOnce;
use crate::command::count::{counted, versions as versions_of};
use crate::command::report::Reporter;

/// Minimum time between two progress events.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// An event of `stoa-migrate`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    /// The plan of a run.
    Plan {
        store: String,
        layout: &'a str,
        creates: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        restores: Option<&'a str>,
        steps: Vec<StepKeys<'a>>,
        #[serde(skip)]
        place: Place,
    },
    /// The requests to the service of a bucket that a plan needs.
    Requests { store: String, gets: u64, puts: u64, lists: u64, dollars: f64 },
    /// The result of `--regenerate` on a bucket.
    Regenerated {
        store: String,
        notes: u64,
        list: bool,
        /// Whether it is a plan.
        #[serde(skip)]
        is_planned: bool,
    },
    /// The run waits for the lock.
    Waiting { holders: &'a [Holder] },
    /// A step begins.
    #[serde(rename = "step")]
    StepBegin {
        state: &'static str,
        #[serde(flatten)]
        step: StepKeys<'a>,
    },
    /// A step is done.
    #[serde(rename = "step")]
    StepEnd {
        state: &'static str,
        from: &'a str,
        to: &'a str,
        bytes: u64,
        leftovers: u64,
        versions: u64,
        #[serde(skip)]
        work: Work,
    },
    /// A store is created, or its marker is restored.
    #[serde(rename = "step")]
    Marked {
        state: &'static str,
        from: Option<&'static str>,
        to: &'a str,
        #[serde(skip)]
        place: Place,
    },
    /// Progress of a step.
    Progress {
        from: Option<String>,
        to: Option<String>,
        bytes: u64,
        of_bytes: Option<u64>,
        of_versions: Option<u64>,
        versions: u64,
    },
    /// A leftover.
    Leftover {
        path: String,
        bytes: u64,
        reason: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        moved_to: Option<String>,
        /// Whether the command lists leftovers, and nothing else.
        #[serde(skip)]
        is_listed: bool,
    },
    /// Files of Stoa at a layout of another program.
    Remains {
        store: String,
        layout: &'a str,
        paths: Vec<String>,
        removed: bool,
        /// Whether it is a plan.
        #[serde(skip)]
        is_planned: bool,
    },
    /// The description of a folder.
    Described { text: String },
    /// The result of `--verify`.
    Verified { store: String, broken: u64, versions: u64 },
    /// The result of a run.
    Done {
        store: String,
        layout: Option<&'a str>,
        changed: bool,
        pending: bool,
        /// The text for people, if there is any.
        #[serde(skip)]
        text: Option<String>,
    },
    /// The result of `leftovers`.
    #[serde(rename = "done")]
    Leftovers { store: String, leftovers: u64, bytes: u64, changed: bool },
}

/// The kind of the thing that is migrated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A store.
    Folder,
    /// A bucket.
    Bucket,
}

/// The work of a step on the versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Move,
    Adopt,
    Copy,
}

impl Place {
    /// Returns the work of a step. `to` is its new layout.
    fn work(self, to: &str) -> Work {
        match self {
            Self::Folder => Work::Move,
            Self::Bucket if to == stoa_bucket::ATHENS.as_str() => Work::Copy,
            Self::Bucket => Work::Adopt,
        }
    }
}

impl Work {
    fn infinitive(self) -> &'static str {
        match self {
            Self::Move => "move",
            Self::Adopt => "adopt",
            Self::Copy => "copy",
        }
    }

    fn participle(self) -> &'static str {
        match self {
            Self::Move => "moved",
            Self::Adopt => "adopted",
            Self::Copy => "copied",
        }
    }
}

/// The keys of a planned step.
#[derive(Serialize)]
pub(super) struct StepKeys<'a> {
    from: &'a str,
    to: &'a str,
    direction: &'static str,
    description: &'a str,
    resumes: bool,
    bytes: Option<u64>,
    leftovers: Option<u64>,
    versions: Option<u64>,
    #[serde(skip)]
    work: Work,
}

impl<'a> StepKeys<'a> {
    fn of(step: &'a PlannedStep, place: Place) -> Self {
        let survey = step.survey.as_ref();
        let counted = survey.and_then(exact);
        Self {
            from: step.from.as_str(),
            to: step.to.as_str(),
            direction: if step.direction == Direction::Up { "up" } else { "back" },
            description: &step.description,
            resumes: step.resumes,
            bytes: counted.map(|survey| survey.bytes),
            leftovers: counted.map(|survey| survey.leftovers),
            versions: survey.map(|survey| survey.items),
            work: place.work(step.to.as_str()),
        }
    }

    fn name(&self) -> String {
        let back = if self.direction == "back" { " (downgrade)" } else { "" };
        format!("{} to {}{back}", self.from, self.to)
    }
}

impl Display for StepKeys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resumes = if self.resumes { " (resumes)" } else { "" };
        write!(f, "{}{resumes}: ", self.name())?;
        match self.direction {
            // A step of a bucket describes each direction.
            "back" if self.work == Work::Move => write!(f, "reverses \"{}\"", self.description),
            _ => f.write_str(self.description),
        }
    }
}

impl Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan { store, creates, restores, steps, place, .. } => {
                let mut lines = Vec::new();
                lines.extend(creates.map(|layout| match place {
                    Place::Folder => format!("{store}: would create a store at layout {layout}"),
                    Place::Bucket => format!("{store}: would prepare the bucket at layout {layout}"),
                }));
                lines.extend(
                    restores.map(|layout| format!("{store}: would restore the marker of layout {layout}")),
                );
                for step in steps {
                    lines.push(format!("{store}: {step}"));
                    if let (Some(versions), Some(bytes), Some(leftovers)) =
                        (step.versions, step.bytes, step.leftovers)
                        && step.from != step.to
                    {
                        let (versions, leftovers) = (versions_of(versions), counted(leftovers, "leftover"));
                        let bytes = BinaryBytes(bytes);
                        let stay = leftovers.verb("stays", "stay");
                        let verb = step.work.infinitive();
                        lines.push(format!("    {versions} to {verb}, {bytes}; {leftovers} {stay} in place"));
                    }
                }
                f.write_str(&lines.join("\n"))
            }
            Self::Requests { gets, puts, lists, dollars, .. } => {
                let [gets, puts, lists] = [gets, puts, lists].map(|number| HumanCount(*number));
                write!(f, "    about {gets} GET, {puts} PUT and {lists} LIST requests: ")?;
                match *dollars < 0.01 {
                    true => f.write_str("less than $0.01")?,
                    false => write!(f, "${dollars:.2}")?,
                }
                f.write_str(" at the list prices of S3 ($5 per million PUT or LIST, $0.40 per million GET)")
            }
            Self::Regenerated { store, notes: 0, list: false, .. } => {
                write!(f, "{store}: no derived object is missing")
            }
            Self::Regenerated { store, notes, list, is_planned } => {
                let verb = if *is_planned { "would write" } else { "wrote" };
                let notes = counted(*notes, "note");
                let list = if *list { ", and the list of the last removals" } else { "" };
                write!(f, "{store}: {verb} {notes} about removed versions{list}")
            }
            Self::Waiting { holders } => {
                write!(f, "waiting for {}, which uses the store", lock::names(holders))
            }
            Self::StepBegin { step, .. } => step.fmt(f),
            Self::StepEnd { from, to, .. } if from == to => {
                write!(f, "rebuilt the derived files of layout {to}")
            }
            Self::StepEnd { from, to, bytes, leftovers, versions, work, .. } => {
                let (versions, leftovers) = (versions_of(*versions), counted(*leftovers, "leftover"));
                let (bytes, stay) = (BinaryBytes(*bytes), leftovers.verb("stays", "stay"));
                let moved = work.participle();
                write!(f, "{from} to {to}: {versions} {moved}, {bytes}; {leftovers} {stay} in place")
            }
            Self::Marked { from: None, to, place: Place::Bucket, .. } => {
                write!(f, "prepared the bucket at layout {to}")
            }
            Self::Marked { from: None, to, .. } => write!(f, "created a new store at layout {to}"),
            Self::Marked { to, .. } => write!(f, "restored the marker of layout {to}"),
            Self::Progress { versions, .. } => versions_of(*versions).fmt(f),
            Self::Leftover { path, bytes, reason, moved_to, is_listed } => {
                let bytes = BinaryBytes(*bytes);
                match moved_to {
                    Some(to) => write!(f, "moved {path} ({bytes}) to {to}: {reason}"),
                    None if *is_listed => write!(f, "{path} ({bytes}): {reason}"),
                    None => write!(f, "leftover {path} ({bytes}): {reason}"),
                }
            }
            Self::Remains { store, paths, removed: true, is_planned, .. } => {
                let verb = if *is_planned { "would remove" } else { "removed" };
                write!(f, "{store}: {verb} {}", names_in(store, paths))
            }
            Self::Remains { store, layout, paths, .. } => {
                write!(
                    f,
                    "{store}: {} {} in place\n\
                     help: if you do not return to Stoa, remove this with `stoa-migrate --store {store} --to {layout} --clean`",
                    names_in(store, paths),
                    if paths.len() == 1 { "stays" } else { "stay" }
                )
            }
            Self::Described { text } => f.write_str(text),
            Self::Verified { store, broken, versions } => {
                write!(f, "{store}: {} verified, {} corrupt", versions_of(*versions), HumanCount(*broken))
            }
            Self::Done { text, .. } => f.write_str(text.as_deref().unwrap_or_default()),
            Self::Leftovers { store, leftovers, bytes, changed } => match (leftovers, changed) {
                (0, _) => write!(f, "{store}: no leftovers"),
                (count, true) => {
                    write!(f, "{store}: {}, {}, moved out", counted(*count, "leftover"), BinaryBytes(*bytes))
                }
                (count, false) => {
                    write!(f, "{store}: {}, {}", counted(*count, "leftover"), BinaryBytes(*bytes))
                }
            },
        }
    }
}

impl<'a> Event<'a> {
    pub(super) fn leftover(leftover: &'a Leftover, moved_to: Option<&Path>, is_listed: bool) -> Self {
        Self::Leftover {
            path: text(&leftover.path),
            bytes: leftover.bytes,
            reason: &leftover.reason,
            moved_to: moved_to.map(text),
            is_listed,
        }
    }
}

/// Returns the names of paths in a store, for a sentence.
fn names_in(store: &str, paths: &[String]) -> String {
    let name = |path: &String| path.strip_prefix(store).unwrap_or(path).trim_start_matches('/').to_owned();
    let names: Vec<String> = paths.iter().map(name).collect();
    match names.split_last() {
        Some((last, [_, ..])) => format!("{} and {last}", names[..names.len() - 1].join(", ")),
        _ => names.join(""),
    }
}

/// Returns a path as the text of an event.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn exact(survey: &Survey) -> Option<&Survey> {
    (!survey.is_estimate).then_some(survey)
}

/// Reports the engine's events.
pub(super) struct Watcher<'a> {
    reporter: &'a Reporter,
    /// Whether `stoa` started this program. People then see one line at the end.
    auto: bool,
    dry_run: bool,
    /// Whether the command lists leftovers, and nothing else.
    is_listing: bool,
    place: Place,
    seen: SeenOnce,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    created: bool,
    /// The layout before the first step.
    from: Option<String>,
    moved: u64,
    leftovers: u64,
    leftover_bytes: u64,
    /// The current step, with its number of versions and of bytes.
    step: Option<(String, String, Option<u64>, Option<u64>)>,
    reported: Option<Instant>,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(reporter: &'a Reporter, auto: bool, dry_run: bool) -> Self {
        Self {
            reporter,
            auto,
            dry_run,
            is_listing: false,
            place: Place::Folder,
            seen: SeenOnce::default(),
            state: Mutex::default(),
        }
    }

    /// Returns the watcher for a bucket.
    pub(super) fn of_bucket(self, is_listing: bool) -> Self {
        Self { is_listing, place: Place::Bucket, ..self }
    }

    /// Returns the size of the leftovers so far, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().map_or(0, |state| state.leftover_bytes)
    }

    /// Reports the end of a dry run.
    pub(super) fn planned(&self, root: &Path, pending: bool) {
        let store = text(root);
        if pending && !self.reporter.is_json() {
            return;
        }
        let text = Some(format!("{store}: nothing to do"));
        self.reporter.result(&Event::Done { store, layout: None, changed: false, pending, text });
    }

    /// Reports the end of a run.
    pub(super) fn done(&self, root: &Path, outcome: &Outcome) {
        let store = text(root);
        let (layout, changed) = match outcome {
            Outcome::Nothing(layout) => (Some(layout.as_str()), false),
            Outcome::NoStore => (None, false),
            Outcome::Done(layout) => (Some(layout.as_str()), true),
        };
        let text = match outcome {
            Outcome::Nothing(_) | Outcome::NoStore if self.auto => None,
            Outcome::Nothing(layout) => Some(format!("{store} is already at layout {layout}; nothing to do")),
            Outcome::NoStore if self.place == Place::Bucket => {
                Some(format!("{store} is empty; nothing to do"))
            }
            Outcome::NoStore => Some(format!("there is no store in {store}; nothing to do")),
            Outcome::Done(layout) if self.auto => Some(self.upgraded(&store, layout)),
            Outcome::Done(layout) => Some(format!("{store} is at layout {layout}")),
        };
        if text.is_some() || self.reporter.is_json() {
            self.reporter.result(&Event::Done { store, layout, changed, pending: false, text });
        }
    }

    /// Returns the only line that people see if `stoa` started this program.
    fn upgraded(&self, store: &str, layout: &LayoutId) -> String {
        let Ok(state) = self.state.lock() else { return String::new() };
        let (moved, left) = (versions_of(state.moved), counted(state.leftovers, "leftover"));
        if state.created {
            return match self.place {
                Place::Folder => format!("created a new store in {store}, at layout {layout}"),
                Place::Bucket => format!("prepared the bucket {store} at layout {layout}"),
            };
        }
        let Some(from) = &state.from else { return format!("{store} is at layout {layout}") };
        let left = match state.leftovers {
            0 => String::new(),
            _ => format!(", {left} {} in place", left.verb("stays", "stay")),
        };
        let verb = self.place.work(layout.as_str()).participle();
        let option = match self.place {
            Place::Folder => "--store",
            Place::Bucket => "--bucket",
        };
        format!(
            "upgraded {store} from layout {from} to {layout}: {moved} {verb}{left}\n\
             help: to go back, stop all servers and run `stoa-migrate {option} {store} --to {from}`"
        )
    }

    /// Reports an event as a result, unless people see only one line.
    fn result(&self, event: &Event<'_>) {
        if !self.auto || self.reporter.is_json() {
            self.reporter.result(event);
        }
    }

    fn begin(&self, step: &PlannedStep) {
        let survey = step.survey.as_ref().filter(|_| step.from != step.to);
        if let Ok(mut state) = self.state.lock() {
            let (versions, bytes) =
                (survey.map(|survey| survey.items), survey.and_then(exact).map(|survey| survey.bytes));
            state.step = Some((step.from.to_string(), step.to.to_string(), versions, bytes));
            state.from.get_or_insert_with(|| step.from.to_string());
            state.reported = None;
        }
        let keys = StepKeys::of(step, self.place);
        let name = keys.name();
        let event = Event::StepBegin { state: "begun", step: keys };
        if self.reporter.is_json() {
            self.reporter.result(&event);
        } else if self.reporter.progress().is_in_lines() && !self.auto {
            self.reporter.remark(&event);
        }
        self.reporter.progress().begin(&name, survey.map(|survey| survey.items));
    }

    fn progress(&self, versions: u64, bytes: u64) {
        self.reporter.progress().advance(versions, bytes);
        let Ok(mut state) = self.state.lock() else { return };
        if !self.reporter.is_json() || state.reported.is_some_and(|at| at.elapsed() < PROGRESS_EVERY) {
            return;
        }
        state.reported = Some(Instant::now());
        let (from, to, of_versions, of_bytes) = match &state.step {
            Some((from, to, versions, bytes)) => (Some(from.clone()), Some(to.clone()), *versions, *bytes),
            None => (None, None, None, None),
        };
        self.reporter.result(&Event::Progress { from, to, bytes, of_bytes, of_versions, versions });
    }
}

impl Events for Watcher<'_> {
    fn wants_totals(&self) -> bool {
        self.reporter.progress().is_bar()
    }

    fn event(&self, event: stoa_layout::Event<'_>) {
        use stoa_layout::Event as Engine;
        match event {
            Engine::Plan { root, target, creates, restores, steps } => {
                let has_text = creates.is_some() || restores.is_some() || !steps.is_empty();
                // In a real run people see each step when it begins.
                if self.reporter.is_json() || self.dry_run && has_text {
                    self.reporter.result(&Event::Plan {
                        store: text(root),
                        layout: target.as_str(),
                        creates: creates.map(LayoutId::as_str),
                        restores: restores.map(LayoutId::as_str),
                        steps: steps.iter().map(|step| StepKeys::of(step, self.place)).collect(),
                        place: self.place,
                    });
                }
            }
            Engine::Waiting { holders } => self.reporter.note(&Event::Waiting { holders }),
            Engine::StepBegin(step) => self.begin(step),
            Engine::Progress { items, bytes } => self.progress(items, bytes),
            Engine::Check { layout, items: 0, total } => {
                self.reporter.progress().begin(&format!("check layout {layout}"), total);
            }
            Engine::Check { items, .. } => self.progress(items, 0),
            Engine::Leftover(leftover) => {
                if self.seen.is_new(&leftover.path) {
                    if let Ok(mut state) = self.state.lock() {
                        state.leftover_bytes += leftover.bytes;
                    }
                    self.result(&Event::leftover(leftover, None, self.is_listing));
                }
            }
            Engine::Warning(message) => self.reporter.warning(message),
            Engine::StepEnd { from, to, items, bytes, leftovers } => {
                self.reporter.progress().end();
                if let Ok(mut state) = self.state.lock() {
                    state.step = None;
                    state.moved = state.moved.max(items);
                    // Each step up looks at a different part of the store.
                    state.leftovers += leftovers;
                }
                let (from, to) = (from.as_str(), to.as_str());
                let (state, work) = ("done", self.place.work(to));
                self.result(&Event::StepEnd { state, from, to, bytes, leftovers, versions: items, work });
            }
            Engine::Remains { root, layout, paths, is_removed } => self.result(&Event::Remains {
                store: text(root),
                layout: layout.as_str(),
                paths: paths.iter().map(|path| text(path)).collect(),
                removed: is_removed,
                is_planned: self.dry_run,
            }),
            Engine::Created(layout) => {
                if let Ok(mut state) = self.state.lock() {
                    state.created = true;
                }
                let (to, place) = (layout.as_str(), self.place);
                self.result(&Event::Marked { state: "done", from: None, to, place });
            }
            Engine::Restored(layout) => {
                self.reporter.progress().end();
                let (from, to, place) = (Some("unmarked"), layout.as_str(), self.place);
                self.result(&Event::Marked { state: "done", from, to, place });
            }
        }
    }
}
