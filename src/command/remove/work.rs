//! The removal of the named versions.

use indicatif::BinaryBytes;
use stoa_gomod::ModuleVersion;
use stoa_layout::clock::now;
use stoa_layout::{Cancel, Exit};

use super::Remove;
use super::place::{Place, Unreadable};
use super::result::{Event, Removed};
use crate::command::confirm::confirm;
use crate::command::count::versions;
use crate::command::error::CommandError;
use crate::command::event::VersionKeys;
use crate::command::named::Named;
use crate::command::report::Reporter;

/// The number of versions up to which the command does not ask.
const ASK_ABOVE: usize = 100;

pub(super) struct Work<'a> {
    pub(super) reporter: &'a Reporter,
    pub(super) place: &'a dyn Place,
    pub(super) args: &'a Remove,
    pub(super) cancel: &'a Cancel,
}

impl Work<'_> {
    /// Asks first if many versions would go: a module in place of a version is the usual cause.
    pub(super) fn ask(&self) -> Result<(), CommandError> {
        let Remove { lift, dry_run, yes, .. } = *self.args;
        if lift || dry_run || yes {
            return Ok(());
        }
        let (mut count, mut bytes, mut lines) = (0, 0, Vec::new());
        for named in &self.args.named {
            let (mut here, mut size) = (0, 0);
            // Reported by the removal.
            for version in self.versions(named, &mut |_| {})? {
                let Some(bytes) = self.place.bytes(&version)? else { continue };
                (here, size) = (here + 1, size + bytes);
            }
            let plan = format!("{named}: {}, {}", versions(here as u64), BinaryBytes(size));
            lines.extend((here > 0).then_some(plan));
            (count, bytes) = (count + here, bytes + size);
        }
        if count <= ASK_ABOVE {
            return Ok(());
        }
        lines.iter().for_each(|line| self.reporter.remark(line));
        confirm(&format!(
            "{}, {}, would be removed from {}",
            versions(count as u64),
            BinaryBytes(bytes),
            self.place.name()
        ))
    }

    pub(super) fn all(&self, removed: &mut Removed) -> Result<(), CommandError> {
        for named in &self.args.named {
            let mut is_met = false;
            let unreadable = &mut |error: CommandError| {
                is_met = true;
                removed.unreadable += 1;
                self.reporter.error(&error);
            };
            for batch in self.versions(named, unreadable)?.chunks(self.place.batch()) {
                self.cancel.check()?;
                is_met |= self.batch(batch, removed)?;
            }
            if !is_met {
                removed.failed = Some(Exit::FAILED);
                self.reporter.error(&self.missing(named));
            }
        }
        Ok(())
    }

    /// Works on some versions. Returns whether there was something to do.
    fn batch(&self, versions: &[ModuleVersion], removed: &mut Removed) -> Result<bool, CommandError> {
        let removes = !self.args.dry_run && !self.args.lift;
        if removes {
            self.place.begin(versions)?;
        }
        let mut events = Vec::new();
        let done = self.each(versions, &mut events);
        let ended = if removes { self.place.end(versions) } else { Ok(()) };
        // Printed last, because servers wait for the end and the output may block.
        for event in &events {
            removed.add(event);
            self.reporter.result(event);
        }
        done.and(ended).map(|()| !events.is_empty())
    }

    fn each<'v>(
        &self,
        versions: &'v [ModuleVersion],
        events: &mut Vec<Event<'v>>,
    ) -> Result<(), CommandError> {
        for version in versions {
            self.cancel.check()?;
            let event = match (self.args.lift, self.args.forget) {
                (true, _) => self.lift(version)?,
                (_, true) => self.forget(version)?,
                _ => self.remove(version)?,
            };
            events.extend(event);
        }
        Ok(())
    }

    fn versions(
        &self,
        named: &Named,
        unreadable: &mut Unreadable<'_>,
    ) -> Result<Vec<ModuleVersion>, CommandError> {
        let module = match named {
            Named::Version(version) => return Ok(vec![version.clone()]),
            Named::Module(module) => module,
        };
        if self.args.lift {
            return self.place.tombstones(module, unreadable);
        }
        let mut versions = self.place.versions(module, self.args.forget, unreadable)?;
        versions.sort();
        versions.dedup();
        Ok(versions)
    }

    fn remove<'v>(&self, version: &'v ModuleVersion) -> Result<Option<Event<'v>>, CommandError> {
        let Remove { tombstone: forbidden, dry_run, .. } = *self.args;
        let (bytes, h1) = if dry_run {
            (self.place.bytes(version)?, None)
        } else {
            let tombstone = forbidden.then(|| (now(), self.args.reason.clone()));
            self.place.remove(version, tombstone)?
        };
        let (version, h1) = (VersionKeys::from(version), h1.map(|h1| h1.to_string()));
        Ok(match bytes {
            Some(bytes) => Some(Event::Removed { version, bytes, h1, forbidden, dry_run }),
            None => forbidden.then_some(Event::Forbidden { version, dry_run }),
        })
    }

    fn forget<'v>(&self, version: &'v ModuleVersion) -> Result<Option<Event<'v>>, CommandError> {
        let dry_run = self.args.dry_run;
        let (bytes, is_forgotten) = if dry_run {
            (self.place.bytes(version)?, self.place.has_hashes(version)?)
        } else {
            self.place.forget(version)?
        };
        let version = VersionKeys::from(version);
        Ok(match bytes {
            Some(bytes) => Some(Event::Removed { version, bytes, h1: None, forbidden: false, dry_run }),
            None => is_forgotten.then_some(Event::Forgotten { version, dry_run }),
        })
    }

    fn lift<'v>(&self, version: &'v ModuleVersion) -> Result<Option<Event<'v>>, CommandError> {
        let dry_run = self.args.dry_run;
        let is_lifted = match dry_run {
            true => self.place.has_tombstone(version)?,
            false => self.place.lift(version)?,
        };
        Ok(is_lifted.then(|| Event::Lifted { version: version.into(), dry_run }))
    }

    fn missing(&self, named: &Named) -> CommandError {
        let root = self.place.name();
        let error = |text: String| CommandError::new(Exit::FAILED, text);
        match (self.args.lift, named) {
            (true, _) => error(format!("{named} has no tombstone in {root}")),
            (false, _) if self.args.forget => {
                error(format!("{named} is not in {root} and has no recorded hash"))
            }
            (false, Named::Version(_)) => error(format!("{named} is not in {root}")),
            (false, Named::Module(_)) => error(format!("no version of {named} is in {root}"))
                .help("to forbid a version that is not in the store, write MODULE@VERSION"),
        }
    }
}
