//! Waits for the exclusive lock while other processes use the store or work on it.

use std::time::{Duration, Instant};

use super::{RunError, Runner};
use crate::LayoutId;
use crate::events::Event;
use crate::lock::{self, ExclusiveLock, Holder, LOCK_NAME, SharedLock};
use crate::plan::Direction;
use crate::state::State;

/// The end of the wait.
pub(super) enum Turn {
    /// This process holds the lock.
    Ours(ExclusiveLock),
    /// Another process has done the work.
    OthersDid,
}

impl Runner<'_> {
    pub(super) fn wait_for_turn(&self, target: &LayoutId, first: Option<&State>) -> Result<Turn, RunError> {
        let must_act = self.options.regenerate;
        let mut shared_since: Option<Instant> = None;
        let mut foreign_since: Option<Instant> = None;
        let mut reported: Option<Instant> = None;
        loop {
            self.cancel.check()?;
            if let Some(lock) = self.try_lock()? {
                return Ok(Turn::Ours(lock));
            }
            if let Some(state) = self.look_unlocked()? {
                self.refuse_newer(&state)?;
                if state == State::At(target.clone()) && !must_act {
                    return Ok(Turn::OthersDid);
                }
                if self.options.auto {
                    self.stop_if_going_back(first, &state)?;
                }
            }
            match SharedLock::try_acquire(self.root) {
                // No process changes the names while the lock is shared, so a refusal is final.
                Ok(Some(_shared)) => {
                    self.refuse(&self.look()?)?;
                    let since = *shared_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.options.lock_timeout {
                        return Err(self.busy());
                    }
                }
                _ => {
                    shared_since = None;
                    // Another migrator may take hours. Another program has no reason to hold the lock.
                    if lock::foreign(&self.other_holders()).is_none() {
                        foreign_since = None;
                    } else if foreign_since.get_or_insert_with(Instant::now).elapsed()
                        >= self.options.lock_timeout
                    {
                        return Err(self.busy());
                    }
                }
            }
            self.pause(&mut reported);
        }
    }

    /// Waits for the exclusive lock, for work on a store at rest.
    pub fn lock(&self) -> Result<ExclusiveLock, RunError> {
        let since = Instant::now();
        let mut reported = None;
        loop {
            self.cancel.check()?;
            if let Some(lock) = self.try_lock()? {
                return Ok(lock);
            }
            if since.elapsed() >= self.options.lock_timeout {
                return Err(self.busy());
            }
            self.pause(&mut reported);
        }
    }

    fn try_lock(&self) -> Result<Option<ExclusiveLock>, RunError> {
        Ok(ExclusiveLock::try_acquire(self.root, &self.layouts.program)?)
    }

    /// Reports the wait, every 10 seconds, and pauses before the next attempt.
    fn pause(&self, reported: &mut Option<Instant>) {
        if reported.is_none_or(|at| at.elapsed() >= Duration::from_secs(10)) {
            self.events.event(Event::Waiting { holders: &self.other_holders() });
            *reported = Some(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(50));
    }

    fn other_holders(&self) -> Vec<Holder> {
        let mut holders = lock::holders(self.root);
        holders.retain(|holder| holder.pid != std::process::id());
        holders
    }

    fn busy(&self) -> RunError {
        let names = lock::names(&self.other_holders());
        RunError::Busy(format!(
            "{root} is in use by {names}; waited {seconds} s for {lock}; nothing was changed\n\
             help: stop it and run again, or wait longer with --lock-timeout",
            root = self.root.display(),
            seconds = self.options.lock_timeout.as_secs(),
            lock = self.root.join(LOCK_NAME).display(),
        ))
    }

    /// Ends the wait of a run that the gate started if a person downgrades the store meanwhile.
    fn stop_if_going_back(&self, first: Option<&State>, now: &State) -> Result<(), RunError> {
        let back = match now {
            State::Migrating { from, to } => {
                matches!(self.layouts.between(from, to), Some((_, Direction::Back)))
            }
            State::At(layout) | State::Untagged(layout) => match first {
                Some(State::At(before) | State::Untagged(before)) => self.is_below(layout, before),
                Some(State::Migrating { from, to }) => {
                    self.is_below(layout, from) && self.is_below(layout, to)
                }
                _ => false,
            },
            _ => false,
        };
        if !back {
            return Ok(());
        }
        Err(RunError::Busy(format!(
            "another process is downgrading {} to an older layout\nhelp: start again when it has finished",
            self.root.display()
        )))
    }

    fn is_below(&self, layout: &LayoutId, other: &LayoutId) -> bool {
        let up = |here: &LayoutId, there: &LayoutId| {
            matches!(self.layouts.between(here, there), Some((_, Direction::Up)))
        };
        let Some(way) = self.layouts.way(layout, other).filter(|way| !way.is_empty()) else { return false };
        std::iter::once(layout).chain(&way).zip(&way).all(|(here, there)| up(here, there))
    }
}
