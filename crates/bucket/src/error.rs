//! Errors of requests to a bucket.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::io;

use object_store::client::HttpError;
use stoa_layout::Exit;

/// The kind of a failure, which decides what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The service could not be reached, did not answer in time, or failed. A later try may succeed.
    Unreachable,
    /// The service refuses the credentials, or they do not allow the request.
    Denied,
    /// An object changed while it was used, or its content is not what it should be.
    Damaged,
    /// The layout of the bucket is no longer the one that this program works with.
    Left,
    /// Other processes changed the object in each attempt, or the service rejected each write. A later try may succeed.
    Contended,
    /// The publication began so long ago that its content may have been deleted. Nothing was published.
    Late,
    /// This machine failed: a file, or its random numbers.
    Local,
    /// The service cannot do what was asked.
    Unsupported,
}

/// A request to a bucket failed.
#[derive(Debug, Clone)]
pub struct BucketError {
    /// The kind of the failure.
    pub trouble: Trouble,
    what: &'static str,
    object: String,
    reason: String,
}

impl BucketError {
    /// Creates an error of an operation on an object, such as "read" on a URL.
    pub fn new(trouble: Trouble, what: &'static str, object: impl Display, reason: impl Display) -> Self {
        Self { trouble, what, object: object.to_string(), reason: reason.to_string() }
    }

    pub(crate) fn of_client(what: &'static str, object: impl Display, error: &object_store::Error) -> Self {
        Self::new(trouble_of(error), what, object, chain(error))
    }

    pub(crate) fn local(what: &'static str, object: impl Display, error: &io::Error) -> Self {
        Self::new(Trouble::Local, what, object, error)
    }

    pub(crate) fn timeout(what: &'static str, object: impl Display, seconds: u64) -> Self {
        Self::new(Trouble::Unreachable, what, object, format_args!("no answer within {seconds} s"))
    }

    /// Returns the exit code for this error.
    pub fn exit(&self) -> Exit {
        match self.trouble {
            Trouble::Unreachable => Exit::UNAVAILABLE,
            Trouble::Left | Trouble::Contended | Trouble::Late => Exit::BUSY,
            Trouble::Denied => Exit::PERMISSION,
            Trouble::Damaged | Trouble::Local => Exit::IO,
            Trouble::Unsupported => Exit::NEWER,
        }
    }

    /// Returns the first line of the message, for log fields and for messages that have their own help.
    pub fn without_help(&self) -> String {
        format!("cannot {} {}: {}", self.what, self.object, self.reason)
    }

    /// Returns what to do, if that is known.
    pub fn help(&self) -> Option<String> {
        let help = match self.trouble {
            Trouble::Unreachable => Some("check the endpoint and the network, then try again"),
            Trouble::Denied => Some(
                "check the credentials, and allow them to list, read, write and delete objects below the prefix",
            ),
            Trouble::Contended => Some("run the command again"),
            Trouble::Late => Some("request the version again"),
            // The object is the bucket.
            Trouble::Left => {
                return Some(format!(
                    "run `stoa status --bucket {}` to see the state of the bucket",
                    self.object
                ));
            }
            Trouble::Damaged | Trouble::Local | Trouble::Unsupported => None,
        };
        help.map(str::to_owned)
    }
}

impl Display for BucketError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.without_help())?;
        match self.help() {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

impl Error for BucketError {}

fn trouble_of(error: &object_store::Error) -> Trouble {
    use object_store::Error as E;
    match error {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Trouble::Denied,
        E::NotSupported { .. } | E::NotImplemented { .. } => Trouble::Unsupported,
        E::Precondition { .. } | E::AlreadyExists { .. } | E::NotModified { .. } | E::InvalidPath { .. } => {
            Trouble::Damaged
        }
        _ => Trouble::Unreachable,
    }
}

/// Returns the innermost reason: the outer ones repeat the URL, and the number of attempts.
fn chain(error: &object_store::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(inner) = source {
        texts.push(inner.to_string());
        if inner.is::<HttpError>() {
            // The reason of a failed connection is deeper.
            let mut deepest = inner;
            while let Some(next) = deepest.source() {
                deepest = next;
            }
            return deepest.to_string();
        }
        source = inner.source();
    }
    texts.pop().unwrap_or_default()
}
