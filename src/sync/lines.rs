//! The lines of an answer of a peer, read one at a time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::SyncError;
use super::event::MAX_LINE;

/// Time limit for an answer. A peer that sends one byte at a time would otherwise hold the exchange for ever.
const IN_ALL: Duration = Duration::from_secs(10 * 60);

/// The lines of an answer.
#[derive(Debug)]
pub(super) struct Lines {
    answer: reqwest::Response,
    /// Bytes of lines that were not handed out.
    rest: BytesMut,
    within: Duration,
    until: Instant,
}

impl Lines {
    /// Reads an answer. Each part of it must arrive within a time, and all of it within [`IN_ALL`].
    pub(super) fn new(answer: reqwest::Response, within: Duration) -> Self {
        Self { answer, rest: BytesMut::new(), within, until: Instant::now() + IN_ALL }
    }

    /// Reads the first line.
    pub(super) async fn header<T: for<'a> Deserialize<'a>>(&mut self) -> Result<T, SyncError> {
        let line = self.next().await?.ok_or(SyncError::Incomplete)?;
        serde_json::from_slice(&line).map_err(SyncError::line)
    }

    /// Returns the next line, without its end. `None` at the end of the answer.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, SyncError> {
        let mut searched = 0;
        loop {
            let end = self.rest.iter().skip(searched).position(|byte| *byte == b'\n').map(|at| searched + at);
            searched = self.rest.len();
            if end.unwrap_or(searched) > MAX_LINE {
                return Err(SyncError::BadAnswer(format!("it sent a line of more than {MAX_LINE} bytes")));
            }
            if let Some(length) = end {
                let line = self.rest.split_to(length + 1);
                return Ok(Some(line.freeze().slice(..length)));
            }
            let until = self.until.min(Instant::now() + self.within);
            let chunk = timeout_at(until, self.answer.chunk()).await;
            match chunk.map_err(|_| SyncError::Timeout)?.map_err(SyncError::transport)? {
                Some(chunk) => self.rest.extend_from_slice(&chunk),
                // A line without an end was interrupted.
                None => return Ok(None),
            }
        }
    }
}
