//! Progress on standard error: a bar on a terminal, otherwise a line every 10 seconds.
//!
//! Work only counts, with atomic operations. The bar and the lines read the counts by a clock of their own, so they also
//! move within a large file.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{
    BinaryBytes, HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState,
    ProgressStyle,
};
use stoa_layout::parallel;
use stoa_store::Meter;

use super::count::versions;

/// The time between two lines of progress without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The time between two draws of a bar.
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// The number of versions that must be done before the remaining time is shown. A few versions predict nothing, because
/// their sizes differ too much.
const PREDICTING: u64 = 20;

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
    meter: Meter,
    work: Mutex<Option<Work>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Bar,
    Lines,
    Nothing,
}

/// A piece of work that is under way.
#[derive(Debug)]
struct Work {
    counts: Arc<Counts>,
    bar: Option<ProgressBar>,
    /// Ends the thread that prints lines when it is dropped.
    _lines: Option<Sender<()>>,
}

/// The counts of a piece of work.
#[derive(Debug)]
struct Counts {
    items: AtomicU64,
    /// The bytes of the versions that are done.
    bytes: AtomicU64,
    /// The bytes in the files that are done or under way, since the meter showed `start`.
    meter: Meter,
    start: u64,
    /// How often the work moves each byte.
    passes: u64,
}

impl Counts {
    fn items(&self) -> u64 {
        self.items.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        let moved = self.meter.bytes().saturating_sub(self.start) / self.passes;
        moved.max(self.bytes.load(Ordering::Relaxed))
    }

    /// Returns the part of a bar or line about versions and bytes. Counts that are zero are left out.
    fn text(&self, total: Option<u64>) -> String {
        let (items, bytes) = (HumanCount(self.items()), BinaryBytes(self.bytes()));
        let done = match total {
            Some(total) => format!("{items} of {}", versions(total)),
            None if items.0 == 0 => String::new(),
            None => versions(items.0).to_string(),
        };
        match (done.is_empty(), bytes.0) {
            (_, 0) => done,
            (true, _) => bytes.to_string(),
            (false, _) => format!("{done}, {bytes}"),
        }
    }
}

impl Progress {
    pub(crate) fn new(screen: Screen, when: When, is_silent: bool) -> Self {
        let shown = match when {
            When::Never => Shown::Nothing,
            When::Auto if is_silent => Shown::Nothing,
            When::Auto if io::stderr().is_terminal() => Shown::Bar,
            When::Auto => Shown::Lines,
        };
        Self { screen, shown, meter: Meter::default(), work: Mutex::default() }
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

    /// Returns the meter for the bytes of files that are under way.
    pub(crate) fn meter(&self) -> Meter {
        self.meter.clone()
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
            bar.set_length(total);
        }
    }

    /// Begins a piece of work, with the number of versions if it is known.
    pub(crate) fn begin(&self, name: &str, total: Option<u64>) {
        self.begin_in_passes(name, total, 1);
    }

    /// Begins a piece of work that adds each byte to the meter this many times, for example because it copies a file and
    /// then examines the copy.
    pub(crate) fn begin_in_passes(&self, name: &str, total: Option<u64>, passes: u64) {
        self.end();
        let counts = Arc::new(Counts {
            items: AtomicU64::default(),
            bytes: AtomicU64::default(),
            meter: self.meter(),
            start: self.meter.bytes(),
            passes,
        });
        let bar = (self.shown == Shown::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden())
                .with_style(style(Arc::clone(&counts)))
                .with_prefix(name.to_owned());
            let bar = self.screen.0.add(bar);
            // The first draw does not wait for the clock, so that short work is shown too.
            bar.tick();
            tick(bar.clone());
            bar
        });
        let lines = (self.shown == Shown::Lines).then(|| print_lines(name, total, Arc::clone(&counts)));
        if let Ok(mut work) = self.work.lock() {
            *work = Some(Work { counts, bar, _lines: lines });
        }
    }

    /// Shows the number of versions that are done, and their bytes.
    pub(crate) fn advance(&self, items: u64, bytes: u64) {
        let Ok(work) = self.work.lock() else { return };
        let Some(Work { counts, bar, .. }) = work.as_ref() else { return };
        counts.items.store(items, Ordering::Relaxed);
        counts.bytes.store(bytes, Ordering::Relaxed);
        if let Some(bar) = bar {
            bar.set_position(items);
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

/// Draws a bar by the clock, until it ends. Without a thread it is drawn only when the counts change.
fn tick(bar: ProgressBar) {
    // `enable_steady_tick` panics if the system has no thread to give.
    let draw = move || {
        while !bar.is_finished() {
            bar.tick();
            std::thread::sleep(DRAW_EVERY);
        }
    };
    let _ = std::thread::Builder::new().spawn(draw).inspect_err(parallel::warn);
}

/// Prints a line every 10 seconds, until the returned value is dropped.
fn print_lines(name: &str, total: Option<u64>, counts: Arc<Counts>) -> Sender<()> {
    let (running, ended) = channel();
    let name = name.to_owned();
    let lines = move || {
        while ended.recv_timeout(LINE_EVERY) == Err(RecvTimeoutError::Timeout) {
            let text = counts.text(total);
            let text = if text.is_empty() { "0 versions" } else { &text };
            let _ = io::stderr().lock().write_all(format!("{name}: {text}\n").as_bytes());
        }
    };
    // Without a thread there is only the result.
    let _ = std::thread::Builder::new().spawn(lines).inspect_err(parallel::warn);
    running
}

/// Returns the style of a bar. It has no field without content.
fn style(counts: Arc<Counts>) -> ProgressStyle {
    const WIDTH: usize = 20;
    let bar = |state: &ProgressState, text: &mut dyn std::fmt::Write| {
        let _ = match state.len() {
            Some(_) => {
                let filled = (state.fraction() * WIDTH as f32) as usize;
                let head = if filled < WIDTH { ">" } else { "" };
                write!(text, "[{:WIDTH$}]", "=".repeat(filled) + head)
            }
            None => {
                write!(text, "{}", ["-", "\\", "|", "/"][(state.elapsed().as_millis() / 100 % 4) as usize])
            }
        };
    };
    let details = move |state: &ProgressState, text: &mut dyn std::fmt::Write| {
        let (done, time) = (counts.text(state.len()), time(state));
        let details: Vec<String> = [done, time].into_iter().filter(|part| !part.is_empty()).collect();
        let _ = text.write_str(&details.join(", "));
    };
    let style = ProgressStyle::with_template("{prefix} {versions_bar} {details}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("versions_bar", bar).with_key("details", details)
}

/// Returns the remaining time, or the elapsed time if the other is unknown. Times below a second are left out.
fn time(state: &ProgressState) -> String {
    let is_known = state.len().is_some() && state.pos() >= PREDICTING;
    let seconds = if is_known { state.eta().as_secs() } else { state.elapsed().as_secs() };
    let text = format!("{:#}", HumanDuration(Duration::from_secs(seconds)));
    match (seconds, is_known) {
        (0, _) => String::new(),
        (_, true) => text + " left",
        (_, false) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passes: u64) -> Counts {
        let meter = Meter::default();
        meter.add(7);
        let (items, bytes) = (AtomicU64::default(), AtomicU64::default());
        Counts { items, bytes, start: meter.bytes(), meter, passes }
    }

    #[test]
    fn bytes_move_before_the_first_version_is_done() {
        let counts = counts(1);
        assert_eq!((counts.text(None), counts.text(Some(2))), (String::new(), "0 of 2 versions".to_owned()));
        counts.meter.add(3 << 20);
        assert_eq!(counts.text(None), "3.00 MiB");
        assert_eq!(counts.text(Some(2)), "0 of 2 versions, 3.00 MiB");
    }

    #[test]
    fn a_byte_that_is_moved_twice_counts_once() {
        let counts = counts(2);
        counts.meter.add(4 << 20);
        assert_eq!(counts.bytes(), 2 << 20);
        counts.meter.add(4 << 20);
        counts.items.store(1, Ordering::Relaxed);
        counts.bytes.store((4 << 20) + 100, Ordering::Relaxed);
        assert_eq!((counts.bytes(), counts.text(None)), ((4 << 20) + 100, "1 version, 4.00 MiB".to_owned()));
    }
}
