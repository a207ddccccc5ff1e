//! Progress on standard error: a bar on a terminal, otherwise a line every 10 seconds.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{BinaryBytes, HumanCount, MultiProgress, ProgressBar, ProgressStyle};

/// The time between two lines of progress without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// When to show progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    #[default]
    Auto,
    Never,
}

/// The terminal that the progress bar shares with results, errors and log lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Screen(MultiProgress);

impl Screen {
    /// Writes above the bar.
    pub(crate) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }
}

/// Log lines go to standard error, above the bar.
impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.suspend(|| io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// Shows one piece of work after the other.
#[derive(Debug)]
pub(crate) struct Progress {
    screen: Screen,
    shown: Shown,
    work: Mutex<Option<Work>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Bar,
    Lines,
    Nothing,
}

#[derive(Debug)]
struct Work {
    name: String,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    reported: Instant,
}

impl Progress {
    pub(crate) fn new(screen: Screen, when: When, is_silent: bool) -> Self {
        let shown = match when {
            When::Never => Shown::Nothing,
            When::Auto if is_silent => Shown::Nothing,
            When::Auto if io::stderr().is_terminal() => Shown::Bar,
            When::Auto => Shown::Lines,
        };
        Self { screen, shown, work: Mutex::default() }
    }

    pub(crate) fn screen(&self) -> &Screen {
        &self.screen
    }

    /// Returns whether progress is printed as lines, because there is no terminal.
    pub(crate) fn is_in_lines(&self) -> bool {
        self.shown == Shown::Lines
    }

    /// Returns whether progress is shown as a bar.
    pub(crate) fn is_bar(&self) -> bool {
        self.shown == Shown::Bar
    }

    /// Counts the versions of the work that is under way, to show the total. The count stops when the work ends.
    pub(crate) fn count<T, E>(
        &self,
        walk: impl FnOnce(&mut dyn FnMut(T) -> ControlFlow<()>) -> Result<(), E>,
    ) {
        let Some(bar) = self.work.lock().ok().and_then(|work| work.as_ref()?.bar.clone()) else { return };
        let mut total = 0;
        let counted = walk(&mut |_| {
            total += 1;
            if bar.is_finished() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        // A walk that fails says so to the work itself.
        if counted.is_ok() && !bar.is_finished() {
            show_total(&bar, total);
        }
    }

    /// Begins a piece of work, with the number of versions if it is known.
    pub(crate) fn begin(&self, name: &str, total: Option<u64>) {
        self.end();
        let bar = (self.shown == Shown::Bar).then(|| self.screen.0.add(bar(name, total)));
        if let Ok(mut work) = self.work.lock() {
            *work = Some(Work { name: name.to_owned(), total, bar, reported: Instant::now() });
        }
    }

    /// Shows the number of versions that are done, and their bytes.
    pub(crate) fn advance(&self, items: u64, bytes: u64) {
        let Ok(mut work) = self.work.lock() else { return };
        let Some(work) = work.as_mut() else { return };
        if let Some(bar) = &work.bar {
            bar.set_position(items);
            bar.set_message(amount(bytes));
        } else if self.shown == Shown::Lines && work.reported.elapsed() >= LINE_EVERY {
            work.reported = Instant::now();
            let of = work.total.map_or_else(String::new, |items| format!(" of {}", HumanCount(items)));
            let line = format!("{}: {}{of} versions{}\n", work.name, HumanCount(items), amount(bytes));
            let _ = io::stderr().lock().write_all(line.as_bytes());
        }
    }

    /// Ends the work, if there is any.
    pub(crate) fn end(&self) {
        let work = self.work.lock().ok().and_then(|mut work| work.take());
        if let Some(bar) = work.and_then(|work| work.bar) {
            bar.finish_and_clear();
        }
    }
}

fn amount(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(", {}", BinaryBytes(bytes)) }
}

fn bar(name: &str, total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::no_length();
    match total {
        Some(total) => show_total(&bar, total),
        None => set_template(&bar, "{prefix} {spinner} {human_pos} versions{msg}, {elapsed}"),
    }
    bar.set_prefix(name.to_owned());
    bar
}

fn show_total(bar: &ProgressBar, total: u64) {
    bar.set_length(total);
    set_template(bar, "{prefix} [{bar:30}] {human_pos}/{human_len} versions{msg}, {eta} left");
}

fn set_template(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}
