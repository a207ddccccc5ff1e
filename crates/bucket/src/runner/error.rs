//! The errors of a run, with their exit codes.

use stoa_layout::signals::Cancelled;
use stoa_layout::{Exit, LayoutId};

use super::step::BucketStepError;
use crate::{BucketError, ProbeError};

/// A run that did not reach its target.
#[derive(Debug, thiserror::Error)]
pub enum BucketRunError {
    /// The bucket or the options are refused. Nothing was changed.
    #[error("{message}")]
    Refused {
        /// The exit code.
        exit: Exit,
        /// The message.
        message: String,
    },
    /// The service cannot be used for writing.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// A request failed outside of a step.
    #[error(transparent)]
    Request(#[from] BucketError),
    /// A signal ended the wait for another process.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A step stopped before its end. The bucket is resumable.
    #[error("cannot finish the step from {from} to {to} in {bucket}: {}", with_way_back(source, from))]
    Step {
        /// The bucket.
        bucket: String,
        /// The layout before.
        from: LayoutId,
        /// The layout after.
        to: LayoutId,
        /// The reason.
        source: Box<BucketStepError>,
    },
}

impl BucketRunError {
    /// Returns the exit code for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refused { exit, .. } => *exit,
            Self::Probe(error) => error.exit(),
            Self::Request(error) => error.exit(),
            Self::Cancelled(cancelled) => Exit::signal(cancelled.0),
            Self::Step { source, .. } => source.exit(),
        }
    }
}

/// Returns the message of a step that stopped, with one line of help: what the message itself advises, and the way back.
fn with_way_back(source: &BucketStepError, from: &LayoutId) -> String {
    let text = source.to_string();
    let (reason, help) = text.split_once("\nhelp: ").unwrap_or((&text, "run the command again to continue"));
    format!("{reason}\nhelp: {help}, or use --to {from} to go back")
}

/// Returns the error of a step that has not begun.
pub(super) fn refused(error: BucketStepError) -> BucketRunError {
    match error {
        BucketStepError::Request(error) => error.into(),
        BucketStepError::Cancelled(cancelled) => cancelled.into(),
        BucketStepError::Refused { exit, message } => BucketRunError::Refused { exit, message },
    }
}
