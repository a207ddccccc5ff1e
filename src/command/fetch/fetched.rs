//! The report of `stoa fetch`: the result for each version, and the counts.

use std::fmt::{self, Display};

use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_layout::Exit;

use super::super::error::CommandError;
use super::super::report::{Reporter, Summary};
use super::wanted::Asked;
use crate::command::count::versions;

/// The result for one version.
#[derive(Debug)]
pub(super) enum FetchResult {
    /// The version was downloaded; its zip has this many bytes.
    Fetched(ModuleVersion, u64),
    /// The version was in the store before.
    Kept(ModuleVersion, u64),
    /// The version does not match its go.sum. It may be in the store, if it was there before or if another process
    /// stored it.
    Differs(ModuleVersion, String),
    /// The version could not be downloaded.
    Failed(Exit, String),
}

#[derive(Serialize)]
struct FetchEvent<'a> {
    event: &'static str,
    module: &'a str,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Display for FetchEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event, module, version, query, reason, .. } = self;
        let named = format!("{module}@{version}");
        write!(f, "{event} {named}")?;
        match (query, reason) {
            // Many reasons begin with the version.
            (_, Some(reason)) => {
                let rest = reason.strip_prefix(&named).and_then(|rest| rest.strip_prefix(": "));
                write!(f, ": {}", rest.unwrap_or(reason))
            }
            (Some(query), None) => write!(f, " for {module}@{query}"),
            (None, None) => Ok(()),
        }
    }
}

/// Counts and reports the results of one run.
#[derive(Debug)]
pub(super) struct Fetched<'a> {
    reporter: &'a Reporter,
    done: FetchDone,
}

/// The number of versions by result.
#[derive(Debug, Default, Clone, Serialize)]
#[serde(tag = "event", rename = "done")]
pub(crate) struct FetchDone {
    store: String,
    fetched: u64,
    kept: u64,
    differ: u64,
    absent: u64,
    unavailable: u64,
    /// The bytes of the downloaded zips.
    bytes: u64,
    /// The exit code of the first failure that no upstream is to blame for.
    #[serde(skip)]
    local: Option<Exit>,
}

impl<'a> Fetched<'a> {
    pub(super) fn new(store: String, reporter: &'a Reporter) -> Self {
        Self { reporter, done: FetchDone { store, ..FetchDone::default() } }
    }

    /// Counts and reports the result for a version.
    pub(super) fn add(&mut self, asked: &Asked, result: &FetchResult) {
        let done = &mut self.done;
        let (event, version, bytes, code, reason) = match result {
            FetchResult::Fetched(version, bytes) => {
                done.fetched += 1;
                done.bytes += bytes;
                ("fetched", Some(version), Some(*bytes), None, None)
            }
            FetchResult::Kept(version, bytes) => {
                done.kept += 1;
                ("kept", Some(version), Some(*bytes), None, None)
            }
            FetchResult::Differs(version, reason) => {
                done.differ += 1;
                ("differs", Some(version), None, None, Some(reason.as_str()))
            }
            FetchResult::Failed(exit, reason) => {
                if !matches!(*exit, Exit::FAILED | Exit::UNAVAILABLE) {
                    done.local.get_or_insert(*exit);
                }
                *(if *exit == Exit::FAILED { &mut done.absent } else { &mut done.unavailable }) += 1;
                ("failed", None, None, Some(exit.code()), Some(reason.as_str()))
            }
        };
        let query = if let Asked::Query(_, query) = asked { Some(query.as_str()) } else { None };
        let module = asked.module().as_str();
        let version = version.map_or(asked.asked(), |version| version.version().as_str());
        let event = FetchEvent { event, module, version, query, bytes, code, reason };
        match (reason, query) {
            (Some(_), _) => self.reporter.problem(&event),
            // Only this line says which version a query stands for.
            (None, Some(_)) => self.reporter.result(&event),
            (None, None) => self.reporter.detail(&event),
        }
        let done = &self.done;
        let count = done.fetched + done.kept + done.differ + done.absent + done.unavailable;
        self.reporter.progress().advance(count, done.bytes);
    }

    pub(super) fn done(&self) -> FetchDone {
        self.done.clone()
    }
}

impl FetchDone {
    /// Returns the work that stays after a failure.
    pub(super) fn so_far(&self) -> String {
        let (fetched, kept) = (versions(self.fetched), HumanCount(self.kept));
        format!("{fetched} downloaded to {} before that, {kept} already there", self.store)
    }
}

impl Display for FetchDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, fetched, kept, differ, absent, unavailable, bytes, local: _ } = self;
        let (fetched, kept, bytes) = (versions(*fetched), HumanCount(*kept), BinaryBytes(*bytes));
        write!(f, "{store}: {fetched} downloaded, {bytes}, {kept} already there")?;
        let rest = [
            (differ, "with a checksum mismatch"),
            (absent, "not found or refused"),
            (unavailable, "unavailable"),
        ];
        for (count, word) in rest.into_iter().filter(|(count, _)| **count > 0) {
            write!(f, ", {} {word}", HumanCount(*count))?;
        }
        Ok(())
    }
}

impl Summary for FetchDone {
    fn verdict(&self) -> Result<(), CommandError> {
        let Self { differ, absent, unavailable, .. } = *self;
        let fail = |exit, text: String, help| Err(CommandError::new(exit, text).help(help));
        if unavailable > 0 {
            let text = format!("cannot download {}", versions(unavailable));
            return fail(
                self.local.unwrap_or(Exit::UNAVAILABLE),
                text,
                "the reasons are listed above; run again later",
            );
        }
        if differ > 0 {
            let text = format!("checksum mismatch for {}", versions(differ));
            let help = "the versions are listed above; do not use them until you know which side is right";
            return fail(Exit::FAILED, text, help);
        }
        if absent > 0 {
            let text = format!("{} not found or refused", versions(absent));
            return fail(Exit::FAILED, text, "the reasons are listed above");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::progress::{Screen, When};
    use crate::command::report::{Format, Loudness, Telling};

    #[test]
    fn the_worst_result_decides_the_exit_code() {
        let asked = Asked::parse("a.b/c@latest").unwrap();
        let version = ModuleVersion::parse("a.b/c@v1.0.0").unwrap();
        let verdict = |results: &[FetchResult]| {
            let telling = Telling { format: Format::Human, progress: When::Never };
            let loudness = Loudness { quiet: true, verbose: false };
            let reporter = Reporter::new(&Screen::default(), telling, loudness);
            let mut fetched = Fetched::new("/s".to_owned(), &reporter);
            results.iter().for_each(|result| fetched.add(&asked, result));
            fetched.done().verdict().map_err(|error| error.exit)
        };
        let fetched = || FetchResult::Fetched(version.clone(), 1);
        let absent = || FetchResult::Failed(Exit::FAILED, "x".to_owned());
        let away = || FetchResult::Failed(Exit::UNAVAILABLE, "x".to_owned());
        let differs = || FetchResult::Differs(version.clone(), "x".to_owned());
        assert_eq!(verdict(&[fetched(), FetchResult::Kept(version.clone(), 1)]), Ok(()));
        assert_eq!(verdict(&[fetched(), absent()]), Err(Exit::FAILED));
        assert_eq!(verdict(&[differs(), fetched()]), Err(Exit::FAILED));
        assert_eq!(verdict(&[away(), absent(), differs()]), Err(Exit::UNAVAILABLE));
    }
}
