//! Runs the engine in the process, records its events, and stops it at a given item.

use std::path::Path;
use std::process::Output;
use std::sync::Mutex;
use std::time::Duration;

use stoa_layout::{Cancel, Event, Events, Exit, LayoutId, Layouts, Outcome, Runner, marker::Top};

pub(crate) use stoa_layout::Options;

use crate::layouts::layouts;
use crate::support::tree;

/// Records the events, and may cancel the run at the n-th moved item.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) reported: Mutex<Vec<String>>,
    stop_at: Option<u64>,
    signal: i32,
    cancel: Cancel,
}

impl Recorder {
    pub(crate) fn reported(&self) -> Vec<String> {
        self.reported.lock().unwrap().clone()
    }

    #[track_caller]
    pub(crate) fn assert_reported(&self, part: &str) {
        assert!(
            self.reported().iter().any(|line| line.contains(part)),
            "{part:?} not in {:#?}",
            self.reported()
        );
    }
}

impl Events for Recorder {
    fn event(&self, event: Event<'_>) {
        if let Event::Progress { items, .. } = event
            && Some(items) == self.stop_at
        {
            self.cancel.cancel(self.signal);
        }
        let line = match event {
            Event::Warning(text) => format!("warning: {text}"),
            Event::Leftover(leftover) => format!("leftover: {} {}", leftover.path.display(), leftover.reason),
            other => format!("{other:?}"),
        };
        self.reported.lock().unwrap().push(line);
    }
}

/// Returns the options of a manual run to a layout.
pub(crate) fn to(layout: &str) -> Options {
    Options {
        target: Some(LayoutId::parse(layout).unwrap()),
        lock_timeout: Duration::from_millis(100),
        ..Options::default()
    }
}

/// Returns the options of the gate.
pub(crate) fn auto() -> Options {
    Options { auto: true, ..to("v2") }
}

/// The end of a run, for comparisons.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done(Outcome),
    Failed(u8, String),
}

impl End {
    /// Checks that the run failed with this exit code and a message with these words.
    #[track_caller]
    pub(crate) fn assert_failed(&self, code: Exit, words: &[&str]) {
        match self {
            Self::Failed(got, text) => {
                assert_eq!(*got, code.code(), "{text}");
                for word in words {
                    assert!(text.contains(word), "{word:?} is not in: {text}");
                }
            }
            Self::Done(outcome) => panic!("succeeded with {outcome:?}"),
        }
    }
}

pub(crate) fn done(layout: &str) -> End {
    End::Done(Outcome::Done(LayoutId::parse(layout).unwrap()))
}

pub(crate) fn nothing(layout: &str) -> End {
    End::Done(Outcome::Nothing(LayoutId::parse(layout).unwrap()))
}

pub(crate) fn run(root: &Path, options: &Options) -> End {
    run_recorded(root, options, &layouts(), &Recorder::default())
}

pub(crate) fn run_recorded(root: &Path, options: &Options, layouts: &Layouts, events: &Recorder) -> End {
    let runner = Runner { root, layouts, options, events, cancel: &events.cancel };
    match runner.run() {
        Ok(outcome) => End::Done(outcome),
        Err(error) => End::Failed(error.exit().code(), error.to_string()),
    }
}

/// Runs until `items` items of a step are moved, then stops the run as a signal does.
pub(crate) fn run_and_stop(root: &Path, options: &Options, items: u64, signal: i32) {
    let events = Recorder { stop_at: Some(items), signal, ..Recorder::default() };
    let end = run_recorded(root, options, &layouts(), &events);
    end.assert_failed(Exit::signal(signal), &["run again", "--to"]);
}

/// Plans a run, and returns whether there is anything to do.
pub(crate) fn plan(root: &Path, options: &Options, events: &Recorder) -> Result<bool, (u8, String)> {
    let layouts = layouts();
    let runner = Runner { root, layouts: &layouts, options, events, cancel: &events.cancel };
    runner.plan().map_err(|error| (error.exit().code(), error.to_string()))
}

/// Returns the markers in a root.
pub(crate) fn markers(root: &Path) -> Vec<String> {
    Top::read(root).unwrap().unwrap_or_default().markers.iter().map(ToString::to_string).collect()
}

/// Returns the exit code of a program.
#[track_caller]
pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}"))
}

/// Returns the standard error of a program.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that two trees are equal, and shows the differences.
#[track_caller]
pub(crate) fn assert_same(left: &tree::Tree, right: &tree::Tree, what: &str) {
    assert!(left == right, "{what}:\n{}", tree::difference(left, right));
}
