//! The thread that writes the log of requests.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use stoa_layout::{PathError, durable};

use super::line::Form;
use super::{AccessLogTarget, Message};

/// The minimum time between two checks of whether the file was renamed.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of lines of one write.
const BATCH: usize = 256;

/// The open target.
#[derive(Debug)]
pub(super) enum Output {
    Stdout,
    File { path: PathBuf, file: File, checked: Instant },
}

impl Output {
    pub(super) fn open(target: &AccessLogTarget) -> Result<Self, PathError> {
        Ok(match target {
            AccessLogTarget::Stdout => Self::Stdout,
            AccessLogTarget::File(path) => {
                Self::File { file: durable::open_log(path)?, path: path.clone(), checked: Instant::now() }
            }
        })
    }

    /// Opens the file again if another file, or none, has its name: a program that rotates logs has renamed it.
    fn follow(&mut self) {
        let Self::File { path, file, checked } = self else { return };
        if checked.elapsed() < CHECK_INTERVAL {
            return;
        }
        *checked = Instant::now();
        if is_at(file, path) {
            return;
        }
        match durable::open_log(path) {
            Ok(new) => *file = new,
            // The old file still takes the lines.
            Err(error) => log::warn!(reason:% = error; "cannot open the access log again"),
        }
    }

    fn write(&mut self, lines: &str) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines.as_bytes())?;
                out.flush()
            }
            Self::File { file, .. } => file.write_all(lines.as_bytes()),
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// Writes entries.
#[derive(Debug)]
pub(super) struct Writer {
    output: Output,
    form: Form,
    dropped: Counter,
}

impl Writer {
    pub(super) fn new(output: Output, form: Form, dropped: Counter) -> Self {
        Self { output, form, dropped }
    }

    /// Writes until the message to stop, or until no sender is left.
    pub(super) fn run(mut self, entries: &Receiver<Message>) {
        while let Ok(Message::Line(first)) = entries.recv() {
            self.output.follow();
            let mut is_stopped = false;
            let mut lines = self.form.line(&first);
            let mut count = 1;
            // Many lines with one write, and no line waits for another.
            for message in entries.try_iter().take(BATCH) {
                match message {
                    Message::Line(entry) => {
                        lines.push_str(&self.form.line(&entry));
                        count += 1;
                    }
                    Message::Stop => {
                        is_stopped = true;
                        break;
                    }
                }
            }
            if let Err(error) = self.output.write(&lines) {
                self.dropped.inc_by(count);
                log::warn!(reason:% = error, lines = count; "cannot write the access log");
            }
            if is_stopped {
                break;
            }
        }
    }
}
