//! Setting up the log, which goes to standard error.
//!
//! `-v` and `-q` go before `STOA_LOG` (in the syntax of env_logger), that before the program's own level.

use log::{Level, LevelFilter};
use std::io::Write;

/// How the lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Of a command that somebody waits for: `warning: …`.
    Command,
    /// Of a service: with time and origin.
    Service,
}

/// Begins to log. More than one call does nothing.
pub(crate) fn init(style: Style, verbose: u8, quiet: bool, filter: Option<&str>) {
    let mut builder = env_logger::Builder::new();
    let usual = match style {
        Style::Command => LevelFilter::Warn,
        Style::Service => LevelFilter::Info,
    };
    match filter {
        _ if quiet => builder.filter_level(LevelFilter::Error),
        _ if verbose > 0 => builder.filter_level(louder(usual, verbose)),
        Some(filter) => builder.parse_filters(filter),
        None => builder.filter_level(usual),
    };
    if style == Style::Command {
        builder.format(|buffer, record| {
            let level = match record.level() {
                Level::Error => "error",
                Level::Warn => "warning",
                Level::Info => "info",
                Level::Debug => "debug",
                Level::Trace => "trace",
            };
            writeln!(buffer, "{level}: {}", record.args())
        });
    }
    // Only a second call fails, and the first one stands.
    let _ = builder.try_init();
}

fn louder(usual: LevelFilter, by: u8) -> LevelFilter {
    let levels = [LevelFilter::Warn, LevelFilter::Info, LevelFilter::Debug, LevelFilter::Trace];
    let at = levels.iter().position(|level| *level == usual).unwrap_or(0) + usize::from(by);
    levels[at.min(levels.len() - 1)]
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
}
