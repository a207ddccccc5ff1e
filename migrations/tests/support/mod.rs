//! Runs migrations in the process.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test crate uses a part")]

pub use testkit::stores;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use stoa_layout::{Cancel, Event, Events, LayoutId, Layouts, Options, Outcome, RunError, Runner};

/// The report of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// The leftovers of the first step, with their reasons.
    pub leftovers: Vec<(PathBuf, String)>,
    /// The number of versions that the first step moved.
    pub moved: u64,
}

/// Brings a store to a layout.
pub fn run(root: &Path, to: &str) -> Result<Outcome, RunError> {
    run_with(root, to, 2, None, &Recorder::default())
}

/// Brings a store to a layout, and returns the report.
pub fn reported(root: &Path, to: &str) -> Result<Report, RunError> {
    let recorder = Recorder::default();
    run_with(root, to, 2, None, &recorder)?;
    Ok(recorder.reported.into_inner().unwrap())
}

/// Brings a store to a layout, with the layout that a person names for it.
pub fn run_from(root: &Path, from: &str, to: &str) -> Result<Outcome, RunError> {
    run_with(root, to, 2, Some(from), &Recorder::default())
}

fn run_with(
    root: &Path,
    to: &str,
    threads: usize,
    from: Option<&str>,
    events: &dyn Events,
) -> Result<Outcome, RunError> {
    let mut layouts = Layouts::new("test 1", stoa_store::LAYOUT, stoa_store::FOLDERS.to_vec());
    layouts.steps = stoa_migrations::steps();
    layouts.detectors = stoa_migrations::detectors();
    let options = Options {
        target: Some(LayoutId::parse(to).unwrap()),
        assumed: from.map(|from| LayoutId::parse(from).unwrap()),
        lock_timeout: Duration::from_secs(5),
        threads,
        ..Options::default()
    };
    Runner { root, layouts: &layouts, options: &options, events, cancel: &Cancel::new() }.run()
}

#[derive(Default)]
struct Recorder {
    reported: Mutex<Report>,
    ended: Mutex<bool>,
}

impl Events for Recorder {
    fn event(&self, event: Event<'_>) {
        let mut ended = self.ended.lock().unwrap();
        match event {
            Event::Leftover(leftover) if !*ended => {
                self.reported
                    .lock()
                    .unwrap()
                    .leftovers
                    .push((leftover.path.clone(), leftover.reason.clone()));
            }
            Event::StepEnd { items, .. } => {
                *ended = true;
                let mut reported = self.reported.lock().unwrap();
                if reported.moved == 0 {
                    reported.moved = items;
                }
            }
            _ => {}
        }
    }
}
