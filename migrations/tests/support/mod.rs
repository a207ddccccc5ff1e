//! Running migrations within the process.
#![allow(dead_code, unreachable_pub, clippy::allow_attributes, reason = "each test crate uses a part")]

pub use testkit::stores;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use stoa_layout::{Cancel, Event, Events, LayoutId, Layouts, Options, Outcome, RunError, Runner};

/// What a run told.
#[derive(Debug, Default)]
pub struct Told {
    /// What the first step left, with the reason.
    pub leftovers: Vec<(PathBuf, String)>,
    /// How many versions the first step moved.
    pub moved: u64,
}

/// Brings a store to a layout.
pub fn run(root: &Path, to: &str) -> Result<Outcome, RunError> {
    run_telling(root, to, 2, None, &Listening::default())
}

/// Brings a store to a layout, and hands back what it told.
pub fn told(root: &Path, to: &str) -> Result<Told, RunError> {
    let listening = Listening::default();
    run_telling(root, to, 2, None, &listening)?;
    Ok(listening.told.into_inner().unwrap())
}

/// Brings a store that is of this layout, says a person, to another.
pub fn run_from(root: &Path, from: &str, to: &str) -> Result<Outcome, RunError> {
    run_telling(root, to, 2, Some(from), &Listening::default())
}

fn run_telling(
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
        auto: false,
        no_create: false,
        regenerate: false,
        lock_timeout: Duration::from_secs(5),
        threads,
    };
    Runner { root, layouts: &layouts, options: &options, events, cancel: &Cancel::new() }.run()
}

#[derive(Default)]
struct Listening {
    told: Mutex<Told>,
    ended: Mutex<bool>,
}

impl Events for Listening {
    fn event(&self, event: Event<'_>) {
        let mut ended = self.ended.lock().unwrap();
        match event {
            Event::Leftover(leftover) if !*ended => {
                self.told.lock().unwrap().leftovers.push((leftover.path.clone(), leftover.reason.clone()));
            }
            Event::StepEnd { items, .. } => {
                *ended = true;
                let mut told = self.told.lock().unwrap();
                if told.moved == 0 {
                    told.moved = items;
                }
            }
            _ => {}
        }
    }
}
