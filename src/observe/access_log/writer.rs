//! The thread that writes the log of requests.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use stoa_layout::{PathError, durable};

use super::line::{Entry, Form};
use super::{AccessLogTarget, Message};

/// The minimum time between two checks of whether the file was renamed.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The open target.
#[derive(Debug)]
pub(super) enum Output {
    Stdout(BufWriter<io::Stdout>),
    File { path: PathBuf, file: BufWriter<File>, checked: Instant },
}

impl Output {
    pub(super) fn open(target: &AccessLogTarget) -> Result<Self, PathError> {
        Ok(match target {
            AccessLogTarget::Stdout => Self::Stdout(BufWriter::new(io::stdout())),
            AccessLogTarget::File(path) => Self::File {
                file: BufWriter::new(durable::open_log(path)?),
                path: path.clone(),
                checked: Instant::now(),
            },
        })
    }

    /// Opens the file again if another file, or none, has its name: a program that rotates logs has renamed it.
    fn follow(&mut self) {
        let Self::File { path, file, checked } = self else { return };
        if checked.elapsed() < CHECK_INTERVAL {
            return;
        }
        *checked = Instant::now();
        if is_at(file.get_ref(), path) {
            return;
        }
        match durable::open_log(path) {
            Ok(new) => *file = BufWriter::new(new),
            // The old file still takes the lines.
            Err(error) => log::warn!(reason:% = error; "cannot open the access log again"),
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Stdout(out) => out,
            Self::File { file, .. } => file,
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
            self.write(&first);
            let mut is_stopped = false;
            // Many lines with one write, and no line waits for another.
            for message in entries.try_iter() {
                match message {
                    Message::Line(entry) => self.write(&entry),
                    Message::Stop => {
                        is_stopped = true;
                        break;
                    }
                }
            }
            if let Err(error) = self.output.writer().flush() {
                log::warn!(reason:% = error; "cannot write the access log");
            }
            if is_stopped {
                break;
            }
        }
    }

    fn write(&mut self, entry: &Entry) {
        let line = self.form.line(entry);
        if let Err(error) = self.output.writer().write_all(line.as_bytes()) {
            self.dropped.inc();
            log::warn!(reason:% = error; "cannot write the access log");
        }
    }
}
