//! What is told of a fetch: what came of each version that is no matter of course, and of all.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use indicatif::{BinaryBytes, HumanCount};
use serde_json::{Value, json};
use stoa_gomod::ModuleVersion;
use stoa_layout::Exit;

use super::wanted::Asked;
use crate::command::progress::{Progress, Screen};
use crate::command::report::Format;
use crate::command::report::{Loudness, Telling};

/// What came of something that was asked for.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is in the store now; its zip has so many bytes.
    Fetched(ModuleVersion, u64),
    /// It was in the store before.
    Kept(ModuleVersion, u64),
    /// A go.sum says that it should be another one. It may be in the store, if it was there before or another process
    /// put it there.
    Differs(ModuleVersion, String),
    /// It could not be had.
    Failed(Exit, String),
}

/// How much came to what.
#[derive(Debug, Default)]
struct Sum {
    fetched: u64,
    kept: u64,
    differ: u64,
    absent: u64,
    unavailable: u64,
    /// Of the zips that were fetched.
    bytes: u64,
}

/// Tells of one run.
pub(super) struct Told {
    format: Format,
    quiet: bool,
    verbose: bool,
    progress: Progress,
    sum: Sum,
}

impl Told {
    pub(super) fn new(telling: Telling, loudness: Loudness, of: usize) -> Self {
        let (Telling { format, progress: when }, Loudness { quiet, verbose }) = (telling, loudness);
        let progress = Progress::new(Screen::default(), when, quiet || format == Format::Json);
        progress.begin("fetch", Some(of as u64));
        Self { format, quiet, verbose, progress, sum: Sum::default() }
    }

    /// Tells what came of one.
    pub(super) fn one(&mut self, asked: &Asked, outcome: &Outcome) {
        let (event, version, more) = match outcome {
            Outcome::Fetched(version, bytes) => {
                self.sum.fetched += 1;
                self.sum.bytes += bytes;
                ("fetched", Some(version), json!({ "bytes": bytes }))
            }
            Outcome::Kept(version, bytes) => {
                self.sum.kept += 1;
                ("kept", Some(version), json!({ "bytes": bytes }))
            }
            Outcome::Differs(version, reason) => {
                self.sum.differ += 1;
                ("differs", Some(version), json!({ "reason": reason }))
            }
            Outcome::Failed(exit, reason) => {
                *(if *exit == Exit::FAILED { &mut self.sum.absent } else { &mut self.sum.unavailable }) += 1;
                ("failed", None, json!({ "code": exit.code(), "reason": reason }))
            }
        };
        if self.format == Format::Json {
            self.json_line(event, asked, version, more);
        } else {
            self.human_line(event, asked, outcome);
        }
        let Sum { fetched, kept, differ, absent, unavailable, bytes } = self.sum;
        self.progress.advance(fetched + kept + differ + absent + unavailable, bytes);
    }

    fn json_line(&self, event: &str, asked: &Asked, version: Option<&ModuleVersion>, more: Value) {
        let mut value = json!({ "event": event, "module": asked.module().as_str() });
        value["version"] = version.map_or(asked.asked(), |version| version.version().as_str()).into();
        if let Asked::Query(_, query) = asked {
            value["query"] = query.as_str().into();
        }
        if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
            value.extend(more);
        }
        self.result(value);
    }

    fn human_line(&self, event: &str, asked: &Asked, outcome: &Outcome) {
        match outcome {
            Outcome::Fetched(version, _) | Outcome::Kept(version, _) => match asked {
                // Nobody knows what it stands for who is not told.
                Asked::Query(..) if !self.quiet => self.result(format_args!("{event} {version} for {asked}")),
                Asked::Version(_) if self.verbose => self.result(format_args!("{event} {version}")),
                _ => {}
            },
            Outcome::Differs(version, reason) => self.problem(format_args!("{event} {version}: {reason}")),
            Outcome::Failed(_, reason) => self.problem(format_args!("{event} {asked}: {reason}")),
        }
    }

    /// Ends the work, and tells what came of all in one line.
    pub(super) fn done(&self, store: &Path) {
        self.progress.end();
        let Sum { fetched, kept, differ, absent, unavailable, bytes } = self.sum;
        if self.format == Format::Json {
            return self.result(json!({
                "event": "done", "store": store.to_string_lossy(), "fetched": fetched, "kept": kept,
                "differ": differ, "absent": absent, "unavailable": unavailable, "bytes": bytes,
            }));
        }
        if self.quiet {
            return;
        }
        let mut parts = vec![
            format!("{} versions fetched", HumanCount(fetched)),
            BinaryBytes(bytes).to_string(),
            format!("{} there already", HumanCount(kept)),
        ];
        let rest = [(differ, "differ"), (absent, "not to be had"), (unavailable, "not available")];
        let rest = rest.into_iter().filter(|(count, _)| *count > 0);
        parts.extend(rest.map(|(count, word)| format!("{} {word}", HumanCount(count))));
        self.result(format_args!("{}: {}", store.display(), parts.join(", ")));
    }

    /// Ends the work where it broke off.
    pub(super) fn end(&self) {
        self.progress.end();
    }

    /// How many are in the store, and as they should be.
    pub(super) fn stored(&self) -> u64 {
        self.sum.fetched + self.sum.kept
    }

    /// Is the code that the program ends with, and why it is no success.
    pub(super) fn verdict(&self) -> Result<(), (Exit, String)> {
        let Sum { differ, absent, unavailable, .. } = self.sum;
        let count = |count: u64| HumanCount(count);
        if unavailable > 0 {
            let message = format!("{} could not be fetched, see above; run again later", count(unavailable));
            return Err((Exit::UNAVAILABLE, message));
        }
        if differ > 0 {
            let message = format!(
                "{} are other ones than their go.sum says, see above: find out which is right before you use either",
                count(differ)
            );
            return Err((Exit::FAILED, message));
        }
        match absent {
            0 => Ok(()),
            _ => Err((Exit::FAILED, format!("{} are not to be had, see above", count(absent)))),
        }
    }

    /// Writes a result, above the bar if there is one. A reader that went away must not stop the work half-way.
    fn result(&self, line: impl Display) {
        self.progress.screen().suspend(|| {
            let mut out = io::stdout().lock();
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        });
    }

    fn problem(&self, line: impl Display) {
        self.progress.screen().suspend(|| {
            let _ = writeln!(io::stderr().lock(), "{line}");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::progress::When;

    #[test]
    fn the_worst_counts() {
        let asked = Asked::parse("a.b/c@latest").unwrap();
        let version = ModuleVersion::parse("a.b/c@v1.0.0").unwrap();
        let verdict = |outcomes: &[Outcome]| {
            let telling = Telling { format: Format::Json, progress: When::Never };
            let mut told = Told::new(telling, Loudness { quiet: true, verbose: false }, outcomes.len());
            outcomes.iter().for_each(|outcome| told.one(&asked, outcome));
            told.verdict().map_err(|(exit, _)| exit)
        };
        let fetched = || Outcome::Fetched(version.clone(), 1);
        let absent = || Outcome::Failed(Exit::FAILED, "x".to_owned());
        let away = || Outcome::Failed(Exit::UNAVAILABLE, "x".to_owned());
        let differs = || Outcome::Differs(version.clone(), "x".to_owned());
        assert_eq!(verdict(&[fetched(), Outcome::Kept(version.clone(), 1)]), Ok(()));
        assert_eq!(verdict(&[fetched(), absent()]), Err(Exit::FAILED));
        assert_eq!(verdict(&[differs(), fetched()]), Err(Exit::FAILED));
        assert_eq!(verdict(&[away(), absent(), differs()]), Err(Exit::UNAVAILABLE));
    }
}
