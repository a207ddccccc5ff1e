//! The log of requests: one line each, written when the last byte of the answer is on its way.
//!
//! A request puts its entry into a bounded channel, and one thread writes the lines. If the thread does not keep up, the
//! entry is dropped and counted, so a slow disk slows no request.

mod line;
mod writer;

use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};

use hyper::header::{HeaderMap, USER_AGENT};
use hyper::{Method, Request};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use stoa_layout::PathError;

use self::line::Entry;
use self::writer::{Output, Writer};
use super::Observed;
use crate::background::Background;

/// Maximum number of entries that wait to be written.
const WAITING: usize = 8192;

/// Maximum length of a path and of a user agent in an entry. The rest is cut off, because many entries may wait.
const MAX_PATH: usize = 1024;
const MAX_AGENT: usize = 256;

/// The target of the log of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogTarget {
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// The form of the lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// Fields in a fixed order.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The settings of the log of requests.
#[derive(Debug, Clone)]
pub struct AccessLogOptions {
    /// The target.
    pub target: AccessLogTarget,
    /// The form of the lines.
    pub format: AccessLogFormat,
}

/// The parts of the head of a request that its line names.
#[derive(Debug)]
pub(crate) struct Head {
    method: Method,
    path: String,
    agent: Option<String>,
}

/// A message for the writing thread.
enum Message {
    Line(Box<Entry>),
    Stop,
}

/// The log of requests.
#[derive(Debug)]
pub(crate) struct AccessLog {
    sender: SyncSender<Message>,
    dropped: Counter,
    thread: Background,
}

impl AccessLog {
    /// Opens the log. `base_path` and `sumdbs` are those of the server, to find the module in a path.
    pub(crate) fn open(
        options: &AccessLogOptions,
        base_path: &str,
        sumdbs: &[String],
    ) -> Result<Self, PathError> {
        let output = Output::open(&options.target)?;
        let (sender, entries) = sync_channel(WAITING);
        let dropped = Counter::default();
        let form =
            line::Form { format: options.format, base_path: base_path.to_owned(), sumdbs: sumdbs.to_vec() };
        let writer = Writer::new(output, form, dropped.clone());
        let thread = Background::start("access log", Some(move || writer.run(&entries)));
        Ok(Self { sender, dropped, thread })
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Lines of the access log that were dropped because they could not be written in time";
        registry.register("access_log_dropped", help, self.dropped.clone());
    }

    /// Logs a request that has ended.
    pub(super) fn log(&self, request: &Observed) {
        let Some(entry) = Entry::of(request) else { return };
        if self.sender.try_send(Message::Line(Box::new(entry))).is_err() {
            self.dropped.inc();
        }
    }

    /// Writes the remaining lines, and ends the thread.
    pub(super) async fn close(&self) {
        let sender = self.sender.clone();
        // There may be no place in the channel.
        let _ = tokio::task::spawn_blocking(move || sender.send(Message::Stop)).await;
        self.thread.end().await;
    }
}

impl Head {
    /// Returns the parts of a head.
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        Self {
            method: request.method().clone(),
            path: cut(request.uri().path(), MAX_PATH),
            agent: agent(request.headers()),
        }
    }
}

fn agent(headers: &HeaderMap) -> Option<String> {
    let agent = String::from_utf8_lossy(headers.get(USER_AGENT)?.as_bytes());
    Some(cut(&agent, MAX_AGENT))
}

fn cut(text: &str, length: usize) -> String {
    text.get(..text.floor_char_boundary(length)).unwrap_or_default().to_owned()
}
