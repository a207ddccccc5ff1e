//! The output of a command: events on standard output, as lines for people or as JSON, and errors and notes on
//! standard error.
//!
//! An event is a value with `Display` and `Serialize`. With `--format json` each event is one line of JSON on standard
//! output, with its name in `event`. Otherwise its `Display` is printed, above the progress bar if there is one.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use stoa_layout::Exit;

use super::error::{CommandError, HELP};
use super::progress::{Progress, Screen, When};

/// The format of results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // Without doc comments, so that -h and --help are the same.
    #[default]
    Human,
    Json,
}

impl Format {
    /// Returns the name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

/// How a command reports results and progress.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Telling {
    /// Format of results: lines for people, or one JSON object per line
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,

    /// Progress on standard error: a bar on a terminal, otherwise a line every 10 seconds
    #[arg(long, value_enum, default_value_t)]
    pub(crate) progress: When,
}

/// How a command works through many versions.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Working {
    /// Number of worker threads [default: number of CPUs] [key: threads]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,

    #[command(flatten)]
    pub(crate) telling: Telling,
}

/// How much a command prints.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Loudness {
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
}

/// Something that a command reports.
pub(crate) trait Event: Serialize + Display {}

impl<E: Serialize + Display + ?Sized> Event for E {}

/// The total of the work of a command: its last event.
pub(crate) trait Summary: Event + Sized {
    /// Prints the summary, by default as a result.
    fn report(&self, reporter: &Reporter) {
        reporter.result(self);
    }

    /// Returns an error if the command did its work and found something wrong.
    fn verdict(&self) -> Result<(), CommandError> {
        Ok(())
    }
}

/// The summary of a command that prints no last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Nothing;

impl Display for Nothing {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

impl Summary for Nothing {
    fn report(&self, _: &Reporter) {}
}

/// Reports the events of one command.
#[derive(Debug)]
pub(crate) struct Reporter {
    format: Format,
    loudness: Loudness,
    /// Whether standard output belongs to another program, the one that started this one.
    is_below_another: bool,
    progress: Progress,
    /// The first failure to write to standard output.
    failed: Mutex<Option<io::Error>>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Plain<'a> {
    Error {
        code: u8,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        help: Option<&'a str>,
    },
    Warning {
        message: &'a str,
    },
}

impl Reporter {
    pub(crate) fn new(screen: &Screen, telling: Telling, loudness: Loudness) -> Self {
        let is_silent = loudness.quiet || telling.format == Format::Json;
        Self {
            format: telling.format,
            loudness,
            is_below_another: false,
            progress: Progress::new(screen.clone(), telling.progress, is_silent),
            failed: Mutex::default(),
        }
    }

    /// Prints everything to standard error: standard output belongs to the program that waits for this one.
    #[must_use]
    pub(crate) fn below_another(mut self) -> Self {
        self.is_below_another = true;
        self
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    pub(crate) fn loudness(&self) -> Loudness {
        self.loudness
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Prints a result, unless `--quiet` is set and people read it.
    pub(crate) fn result(&self, event: &(impl Event + ?Sized)) {
        match self.format {
            Format::Json => self.json(event),
            Format::Human if self.loudness.quiet => {}
            Format::Human => self.out(event),
        }
    }

    /// Prints a result that was asked for by name, with `--quiet` too.
    pub(crate) fn answer(&self, event: &(impl Event + ?Sized)) -> Result<(), CommandError> {
        match self.format {
            Format::Json => self.json(event),
            Format::Human => self.out(event),
        }
        self.check()
    }

    /// Prints a result that matters only with `--verbose`.
    pub(crate) fn detail(&self, event: &(impl Event + ?Sized)) {
        if self.is_json() || self.loudness.verbose {
            self.result(event);
        }
    }

    /// Prints a problem: to standard error for people, with `--quiet` too.
    pub(crate) fn problem(&self, event: &(impl Event + ?Sized)) {
        match self.format {
            Format::Json => self.json(event),
            Format::Human => self.err(event),
        }
    }

    /// Prints a remark beside the results: to standard error for people, unless `--quiet` is set.
    pub(crate) fn note(&self, event: &(impl Event + ?Sized)) {
        match self.format {
            Format::Json => self.json(event),
            Format::Human if self.loudness.quiet => {}
            Format::Human => self.err(event),
        }
    }

    /// Prints a remark for people only, unless `--quiet` is set.
    pub(crate) fn remark(&self, text: impl Display) {
        if self.format == Format::Human && !self.loudness.quiet {
            self.err(text);
        }
    }

    /// Prints a warning.
    pub(crate) fn warning(&self, text: impl Display) {
        match self.format {
            Format::Json => self.json(&Plain::Warning { message: &text.to_string() }),
            Format::Human if self.loudness.quiet => {}
            Format::Human => self.err(format_args!("warning: {text}")),
        }
    }

    /// Prints an error and returns the exit code.
    pub(crate) fn error(&self, error: &CommandError) -> Exit {
        let Some(message) = &error.message else { return error.exit };
        let help = error.help.as_deref();
        match (self.format, help) {
            (Format::Json, _) => self.json(&Plain::Error { code: error.exit.code(), message, help }),
            (Format::Human, None) => self.err(format_args!("error: {message}")),
            (Format::Human, Some(help)) => self.err(format_args!("error: {message}\nhelp: {help}")),
        }
        error.exit
    }

    /// Ends the work, prints the summary, and returns its verdict.
    pub(crate) fn finish(&self, summary: &impl Summary) -> Result<(), CommandError> {
        self.progress.end();
        let verdict = summary.verdict();
        match &verdict {
            // The summary is the last line of JSON.
            Err(error) if self.is_json() => {
                self.error(error);
                summary.report(self);
                Err(CommandError::reported(error.exit))
            }
            _ => {
                summary.report(self);
                verdict
            }
        }
    }

    /// Fails if a result could not be written. A command that only prints stops then; one that changes a store goes on.
    ///
    /// If the reader of standard output closed it, the error has no message and the exit code 0.
    pub(crate) fn check(&self) -> Result<(), CommandError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match failed.as_ref() {
            None => Ok(()),
            // The reader has read enough, as `head` does.
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(CommandError::reported(Exit::DONE))
            }
            Some(error) => {
                Err(CommandError::new(Exit::IO, format!("cannot write to standard output: {error}")))
            }
        }
    }

    /// Writes bytes to standard output as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), CommandError> {
        self.progress.screen().suspend(|| {
            let mut out = io::stdout().lock();
            self.keep(out.write_all(bytes).and_then(|()| out.flush()));
        });
        self.check()
    }

    fn json(&self, event: &(impl Serialize + ?Sized)) {
        match json_line(event) {
            Ok(line) => self.out(line),
            Err(error) => self.keep(Err(error.into())),
        }
    }

    fn out(&self, line: impl Display) {
        if self.is_below_another {
            return self.err(line);
        }
        let line = format!("{line}\n");
        self.progress.screen().suspend(|| {
            let mut out = io::stdout().lock();
            self.keep(out.write_all(line.as_bytes()).and_then(|()| out.flush()));
        });
    }

    fn err(&self, line: impl Display) {
        let line = format!("{line}\n");
        self.progress.screen().suspend(|| {
            // The exit code reports the failure even if standard error is closed.
            let _ = io::stderr().lock().write_all(line.as_bytes());
        });
    }

    fn keep(&self, written: io::Result<()>) {
        if let Err(error) = written {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }
}

/// Returns an event as a line of JSON. A line of help at the end of a text becomes the field `help`.
fn json_line(event: &(impl Serialize + ?Sized)) -> serde_json::Result<String> {
    let line = serde_json::to_string(event)?;
    if !line.contains(r"\nhelp: ") {
        return Ok(line);
    }
    let mut fields: serde_json::Map<String, Value> = serde_json::from_str(&line)?;
    let mut helps = Vec::new();
    for value in fields.values_mut() {
        let split = value.as_str().and_then(|text| text.split_once(HELP));
        if let Some((text, help)) = split.map(|(text, help)| (text.to_owned(), help.to_owned())) {
            helps.push(help);
            *value = text.into();
        }
    }
    if let Some(help) = helps.pop() {
        fields.entry("help").or_insert(help.into());
    }
    serde_json::to_string(&fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_a_field_of_its_own_in_json() {
        let line = json_line(&Plain::Warning { message: "/s/x is public\nhelp: chmod o-r /s/x" }).unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&event["message"], &event["help"]), (&"/s/x is public".into(), &"chmod o-r /s/x".into()));
        assert_eq!(event["event"], "warning");
        let line = json_line(&Plain::Warning { message: "help: x" }).unwrap();
        assert_eq!(line, r#"{"event":"warning","message":"help: x"}"#);
    }
}
