//! Runs the engine in-process, keeps what it tells, and stops it where a test says.

use std::path::Path;
use std::process::Output;
use std::sync::Mutex;
use std::time::Duration;

use stoa_layout::{Cancel, Event, Events, Exit, LayoutId, Layouts, Outcome, Runner, marker::Top};

pub(crate) use stoa_layout::Options;

use crate::layouts::layouts;
use crate::support::tree;

/// Keeps what was told, and may ask for an end at the n-th moved item.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) told: Mutex<Vec<String>>,
    stop_at: Option<u64>,
    signal: i32,
    cancel: Cancel,
}

impl Recorder {
    pub(crate) fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    #[track_caller]
    pub(crate) fn assert_told(&self, part: &str) {
        assert!(self.told().iter().any(|line| line.contains(part)), "{part:?} not in {:#?}", self.told());
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
        self.told.lock().unwrap().push(line);
    }
}

/// Is the options of a run by hand to a layout.
pub(crate) fn to(layout: &str) -> Options {
    Options {
        target: Some(LayoutId::parse(layout).unwrap()),
        lock_timeout: Duration::from_millis(100),
        ..Options::default()
    }
}

/// Is the options that the gate gives.
pub(crate) fn auto() -> Options {
    Options { auto: true, ..to("v2") }
}

/// How a run ended, in a form to compare.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done(Outcome),
    Failed(u8, String),
}

impl End {
    /// Checks that it failed with this code and a message that holds these words.
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

/// Runs until `items` items of a step are moved, then stops it as a signal would.
pub(crate) fn run_and_stop(root: &Path, options: &Options, items: u64, signal: i32) {
    let events = Recorder { stop_at: Some(items), signal, ..Recorder::default() };
    let end = run_recorded(root, options, &layouts(), &events);
    end.assert_failed(Exit::signal(signal), &["run again", "--to"]);
}

/// Plans, and says whether there is something to do.
pub(crate) fn plan(root: &Path, options: &Options, events: &Recorder) -> Result<bool, (u8, String)> {
    let layouts = layouts();
    let runner = Runner { root, layouts: &layouts, options, events, cancel: &events.cancel };
    runner.plan().map_err(|error| (error.exit().code(), error.to_string()))
}

/// Is the markers in a root.
pub(crate) fn markers(root: &Path) -> Vec<String> {
    Top::read(root).unwrap().unwrap_or_default().markers.iter().map(ToString::to_string).collect()
}

/// Is the code that a program ended with.
#[track_caller]
pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}"))
}

/// Is what a program said on stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that two trees are the same, and says what differs.
#[track_caller]
pub(crate) fn assert_same(left: &tree::Tree, right: &tree::Tree, what: &str) {
    assert!(left == right, "{what}:\n{}", tree::difference(left, right));
}
