//! The log, which both programs write to standard error.
//!
//! A log line is a fixed sentence and fields: `log::warn!(module:% = module, reason:% = error; "cannot list versions")`.
//! A service writes `TIME LEVEL sentence key=value …`, a command `warning: sentence: reason (key: value)`.
//!
//! `-v` and `-q` take precedence over `STOA_LOG` (in the syntax of env_logger), and `STOA_LOG` over the default level of
//! the program. Libraries of others log only with `-vv`, or where `STOA_LOG` names them.

mod line;
mod repeats;

use std::io::Write;
use std::num::NonZeroU8;
use std::sync::Mutex;
use std::time::SystemTime;

use env_logger::Target;
use env_logger::fmt::Formatter;
use log::{Level, LevelFilter, Log, Metadata, Record};
use time::OffsetDateTime;
use time::format_description::well_known::Iso8601;
use time::format_description::well_known::iso8601::{Config, TimePrecision};

use crate::command::progress::Screen;
use crate::lock::lock;

use self::line::Line;
pub(crate) use self::line::on_one_line;
use self::repeats::{Repeated, Repeats};

/// Which of the two forms log lines have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// The form of commands: `warning: …`.
    Command,
    /// The form of services, which is easy to search: time, level, sentence, `key=value`.
    Service,
}

impl Style {
    fn usual_level(self) -> LevelFilter {
        match self {
            Self::Command => LevelFilter::Warn,
            Self::Service => LevelFilter::Info,
        }
    }
}

/// Starts logging. Later calls have no effect.
///
/// A command writes to `screen`, above its progress bar.
pub(crate) fn init(style: Style, verbose: u8, quiet: bool, filter: Option<&str>, screen: Screen) {
    let mut builder = env_logger::Builder::new();
    if style == Style::Command {
        builder.target(Target::Pipe(Box::new(screen)));
    }
    builder.parse_filters(&filters(style, verbose, quiet, filter));
    builder.format(move |out, record| write_line(out, record, style));
    let writer = builder.build();
    let level = writer.filter();
    let repeats = (style == Style::Service).then(Mutex::default);
    // Only a second call fails, and the first logger stays.
    if log::set_boxed_logger(Box::new(Logger { writer, repeats })).is_ok() {
        log::set_max_level(level);
    }
}

/// The prefix of the names of all crates of this project.
const OURS: &str = "stoa";

/// Returns the directives for env_logger.
fn filters(style: Style, verbose: u8, quiet: bool, filter: Option<&str>) -> String {
    let ours = match filter {
        _ if quiet => LevelFilter::Error,
        _ if verbose > 0 => louder(style.usual_level(), verbose),
        Some(filter) => return without_foreign(filter),
        None => style.usual_level(),
    };
    let foreign = match verbose {
        _ if quiet => LevelFilter::Off,
        0 | 1 => LevelFilter::Off,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    format!("{foreign},{OURS}={ours}")
}

/// Limits a bare level to the crates of this project, so that `STOA_LOG=debug` shows no frames of HTTP/2.
fn without_foreign(filter: &str) -> String {
    let (directives, pattern) = match filter.split_once('/') {
        Some((directives, pattern)) => (directives, Some(pattern)),
        None => (filter, None),
    };
    let directives = directives.split(',').map(str::trim).map(|directive| {
        let is_level = directive.parse::<LevelFilter>().is_ok();
        if is_level { format!("{OURS}={directive}") } else { directive.to_owned() }
    });
    let directives = directives.collect::<Vec<_>>().join(",");
    pattern.map_or_else(|| directives.clone(), |pattern| format!("{directives}/{pattern}"))
}

fn louder(usual: LevelFilter, by: u8) -> LevelFilter {
    let levels = [LevelFilter::Warn, LevelFilter::Info, LevelFilter::Debug, LevelFilter::Trace];
    let at = levels.iter().position(|level| *level == usual).unwrap_or(0) + usize::from(by);
    levels[at.min(levels.len() - 1)]
}

/// The form of times: RFC 3339 with milliseconds.
const TIME: Iso8601<
    {
        let milliseconds = TimePrecision::Second { decimal_digits: NonZeroU8::new(3) };
        Config::DEFAULT.set_time_precision(milliseconds).encode()
    },
> = Iso8601;

/// Returns a time in the form of log lines.
pub(crate) fn timestamp(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&TIME).unwrap_or_default()
}

fn write_line(out: &mut Formatter, record: &Record<'_>, style: Style) -> std::io::Result<()> {
    let line = Line::of(record);
    let colour = out.default_level_style(record.level());
    match style {
        Style::Service => {
            let time = timestamp(SystemTime::now());
            writeln!(out, "{time} {colour}{:<5}{colour:#} {}", record.level(), line.for_services())
        }
        Style::Command => {
            let level = match record.level() {
                Level::Error => "error",
                Level::Warn => "warning",
                Level::Info => "info",
                Level::Debug => "debug",
                Level::Trace => "trace",
            };
            writeln!(out, "{colour}{level}{colour:#}: {}", line.for_commands())
        }
    }
}

struct Logger {
    writer: env_logger::Logger,
    /// The recent warnings and errors of a service. A command logs too little to need them.
    repeats: Option<Mutex<Repeats>>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.writer.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.writer.matches(record) {
            return;
        }
        let is_new = match &self.repeats {
            Some(repeats) if record.level() <= Level::Warn => {
                lock(repeats).is_new(record.level(), &Line::of(record))
            }
            _ => true,
        };
        if is_new {
            self.writer.log(record);
        }
    }

    /// Writes how often recent warnings were repeated, and forgets them. A server calls this once a minute and at its
    /// end.
    fn flush(&self) {
        let repeated = self.repeats.as_ref().map(|repeats| lock(repeats).take());
        for Repeated { level, line, count } in repeated.unwrap_or_default() {
            let text = format_args!("{line} repeated={count}");
            self.writer.log(&Record::builder().level(level).target(OURS).args(text).build());
        }
        self.writer.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_v_is_a_level() {
        assert_eq!(louder(LevelFilter::Warn, 1), LevelFilter::Info);
        assert_eq!(louder(LevelFilter::Info, 1), LevelFilter::Debug);
        assert_eq!(louder(LevelFilter::Info, 9), LevelFilter::Trace);
    }

    #[test]
    fn foreign_crates_log_only_with_two_v_or_by_name() {
        let of = |verbose, quiet, filter| filters(Style::Service, verbose, quiet, filter);
        assert_eq!(of(0, false, None), "OFF,stoa=INFO");
        assert_eq!(of(1, false, Some("error")), "OFF,stoa=DEBUG");
        assert_eq!(of(2, false, None), "DEBUG,stoa=TRACE");
        assert_eq!(of(9, true, Some("trace")), "OFF,stoa=ERROR");
        assert_eq!(of(0, false, Some("debug")), "stoa=debug");
        assert_eq!(
            of(0, false, Some("warn, stoa::fill=debug,h2=info/zip")),
            "stoa=warn,stoa::fill=debug,h2=info/zip"
        );
    }
}
