//! `stoa quarantine --bucket`.

use std::time::SystemTime;

use stoa_bucket::{ExaminedThere, Nonce, QuarantinedThere};
use stoa_layout::Exit;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::OpenBucket;
use crate::command::error::CommandError;
use crate::command::quarantine::{Action, EntryEvent, Purge, QuarantineDone, absent, list_header, restored};
use crate::command::report::Reporter;

impl OpenBucket {
    /// Lists, restores or purges entries of the quarantine in the bucket.
    pub(in crate::command) fn quarantine(
        &self,
        action: Option<&Action>,
        reporter: &Reporter,
    ) -> Result<QuarantineDone, CommandError> {
        match action {
            None | Some(Action::List) => self.list_quarantine(reporter),
            Some(Action::Restore { ids }) => {
                self.probe()?;
                let mut done = QuarantineDone::new(self.to_string(), "restored");
                for id in ids {
                    if let Some(exit) = self.restore(&id.to_string_lossy(), reporter)? {
                        done.failed(exit);
                    }
                }
                Ok(done)
            }
            Some(Action::Purge(what)) => {
                self.probe()?;
                self.purge(what, reporter)
            }
        }
    }

    fn list_quarantine(&self, reporter: &Reporter) -> Result<QuarantineDone, CommandError> {
        let mut done = QuarantineDone::new(self.to_string(), "in quarantine");
        for entry in self.entries()? {
            list_header(&done, reporter)?;
            done.add(entry.content.bytes());
            reporter.answer(&event("quarantined", &entry))?;
        }
        Ok(done)
    }

    /// Returns all entries, the oldest first.
    fn entries(&self) -> Result<Vec<QuarantinedThere>, CommandError> {
        let mut entries = self.wait(self.versions.quarantined())?;
        entries.sort_by(|a, b| (&a.at, a.name().as_str()).cmp(&(&b.at, b.name().as_str())));
        Ok(entries)
    }

    fn entry(&self, id: &str) -> Result<Option<QuarantinedThere>, CommandError> {
        let Ok(name) = id.parse::<Nonce>() else { return Ok(None) };
        Ok(self.wait(self.versions.entry(&name))?)
    }

    /// Restores the version of an entry. Returns the exit code if it failed, which is reported.
    fn restore(&self, id: &str, reporter: &Reporter) -> Result<Option<Exit>, CommandError> {
        let Some(entry) = self.entry(id)? else { return Ok(Some(absent(id, reporter))) };
        let version = &entry.version;
        let report = |exit: Exit, message: String, help: Option<String>| {
            restored::failed(id, exit, message, help, reporter);
            Ok(Some(exit))
        };
        let h1 = match self.wait(self.versions.examine_content(version, &entry.content))? {
            ExaminedThere::Whole(h1) => h1,
            ExaminedThere::Corrupt(reason) => {
                let help = format!(
                    "delete this copy with `stoa quarantine purge --bucket {self} {id}`, Stoa downloads the version again on the next request"
                );
                let message = format!("cannot restore {version}: it is still corrupt: {reason}");
                return report(Exit::FAILED, message, Some(help));
            }
            ExaminedThere::Gone => {
                return report(
                    Exit::FAILED,
                    format!("cannot restore {version}: its zip is missing from the bucket"),
                    None,
                );
            }
        };
        let now = self.wait(self.versions.manifest(version))?.map(|held| held.document);
        if let Some(now) = &now {
            if let Some(tombstone) = &now.record.tombstone {
                let reason = tombstone.reason.as_deref().map_or_else(String::new, |text| format!(": {text}"));
                let message =
                    format!("cannot restore {version}: it is forbidden since {}{reason}", tombstone.at);
                let help = format!("allow it with `stoa remove --bucket {self} --lift {version}`");
                return report(Exit::FAILED, message, Some(help));
            }
            if let Some(recorded) = now.record.h1.as_ref().filter(|recorded| **recorded != h1) {
                let message = format!(
                    "cannot restore {version}: the hash of its zip is {h1}, but the recorded hash is {recorded}"
                );
                // The content that a checksum database or a go.sum knows is the right one.
                let help = now.record.verdict.is_none().then(|| {
                    format!(
                        "`stoa remove --bucket {self} --forget {version}` removes the recorded hash, and the copy in the bucket if there is one"
                    )
                });
                return report(Exit::FAILED, message, help);
            }
        }
        if self.wait(self.versions.restore(&entry, &h1))? {
            restored::done(id, version, reporter);
            return Ok(None);
        }
        let message = format!("cannot restore {version}: the bucket has another copy");
        let help = format!(
            "first remove that copy and its recorded hash with `stoa remove --bucket {self} --forget {version}`"
        );
        report(Exit::CANT_CREATE, message, Some(help))
    }

    fn purge(&self, what: &Purge, reporter: &Reporter) -> Result<QuarantineDone, CommandError> {
        let mut done = QuarantineDone::new(self.to_string(), "purged");
        let mut entries = Vec::new();
        for id in &what.ids {
            match self.entry(&id.to_string_lossy())? {
                Some(entry) => entries.push(entry),
                None => {
                    absent(&id.to_string_lossy(), reporter);
                    done.failed(Exit::FAILED);
                }
            }
        }
        if what.ids.is_empty() {
            let now = OffsetDateTime::now_utc();
            let is_old = |entry: &QuarantinedThere| {
                let at = OffsetDateTime::parse(&entry.at, &Rfc3339).unwrap_or(now);
                what.older_than.is_none_or(|days| now - at > Duration::days(i64::from(days)))
            };
            entries = self.entries()?;
            entries.retain(is_old);
        }
        for entry in entries {
            self.wait(self.versions.purge(&entry))?;
            done.add(entry.content.bytes());
            reporter.result(&event("purged", &entry));
        }
        done.changed();
        Ok(done)
    }
}

fn event<'a>(event: &'static str, entry: &'a QuarantinedThere) -> EntryEvent<'a> {
    let at = OffsetDateTime::parse(&entry.at, &Rfc3339).map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
    EntryEvent {
        event,
        id: entry.name().to_string(),
        module: Some(entry.version.path().as_str()),
        version: Some(entry.version.version().as_str()),
        path: Some(entry.content.zip.key.clone()),
        at: crate::command::event::seconds(at),
        reason: Some(&entry.reason),
        bytes: Some(entry.content.bytes()),
    }
}
