//! Shows how far a work on versions is: on a terminal by a bar, else by a line now and then, on standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How much time passes between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// When to show progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// While there is something to wait for.
    #[default]
    Auto,
    /// Not at all.
    Never,
}

/// Shows one work after the other.
pub(crate) struct Progress {
    shown: Shown,
    work: Mutex<Option<Work>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Bar,
    Lines,
    Nothing,
}

struct Work {
    name: String,
    of: Option<u64>,
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Progress {
    pub(crate) fn new(when: When, quiet: bool) -> Self {
        let shown = match when {
            When::Never => Shown::Nothing,
            When::Auto if quiet => Shown::Nothing,
            When::Auto if io::stderr().is_terminal() => Shown::Bar,
            When::Auto => Shown::Lines,
        };
        Self { shown, work: Mutex::default() }
    }

    /// Whether it writes lines, since there is no terminal.
    pub(crate) fn is_in_lines(&self) -> bool {
        self.shown == Shown::Lines
    }

    /// Begins a work, on so many versions if that is known.
    pub(crate) fn begin(&self, name: &str, of: Option<u64>) {
        let bar = (self.shown == Shown::Bar).then(|| bar(name, of));
        if let Ok(mut work) = self.work.lock() {
            *work = Some(Work { name: name.to_owned(), of, bar, told: Instant::now() });
        }
    }

    /// Shows how many versions are done, and their bytes.
    pub(crate) fn advance(&self, items: u64, bytes: u64) {
        let Ok(mut work) = self.work.lock() else { return };
        let Some(work) = work.as_mut() else { return };
        if let Some(bar) = &work.bar {
            bar.set_position(items);
            bar.set_message(BinaryBytes(bytes).to_string());
        } else if self.shown == Shown::Lines && work.told.elapsed() >= LINE_EVERY {
            work.told = Instant::now();
            let of = work.of.map_or_else(String::new, |items| format!(" of {}", HumanCount(items)));
            let name = &work.name;
            let line = format!("{name}: {}{of} versions, {}", HumanCount(items), BinaryBytes(bytes));
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// Ends the work, if there is one.
    pub(crate) fn end(&self) {
        let work = self.work.lock().ok().and_then(|mut work| work.take());
        if let Some(bar) = work.and_then(|work| work.bar) {
            bar.finish_and_clear();
        }
    }

    /// Writes something else, above the bar if there is one.
    pub(crate) fn above(&self, write: impl FnOnce()) {
        let bar = self.work.lock().ok().and_then(|work| work.as_ref()?.bar.clone());
        match bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

fn bar(name: &str, of: Option<u64>) -> ProgressBar {
    let (bar, template) = match of {
        Some(items) => {
            let bar = ProgressBar::with_draw_target(Some(items), ProgressDrawTarget::stderr());
            (bar, "{prefix} [{bar:30}] {human_pos}/{human_len} versions, {msg}, {eta} left")
        }
        None => {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            (bar, "{prefix} {spinner} {human_pos} versions, {msg}, {elapsed}")
        }
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(name.to_owned());
    bar
}
