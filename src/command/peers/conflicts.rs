//! The versions with different content here and at a peer.

use std::fmt::{self, Display};

use serde::Serialize;
use stoa_store::{Conflict, Store};

use super::PeersDone;
use super::state::time;
use crate::command::error::CommandError;
use crate::command::event::VersionKeys;
use crate::command::report::Reporter;

/// Maximum number of conflicts in the list.
const MOST: usize = 10_000;

/// Lists the conflicts.
pub(super) fn list(store: &Store, reporter: &Reporter) -> Result<PeersDone, CommandError> {
    let conflicts = store.peers().conflicts(None, MOST)?;
    for conflict in &conflicts {
        reporter.answer(&ConflictEvent::from(conflict))?;
    }
    if conflicts.len() == MOST {
        reporter.warning(format_args!("only the first {MOST} conflicts are listed"));
    }
    if !conflicts.is_empty() {
        reporter.remark(
            "find out which content is right; on the side with the wrong content, run `stoa remove --forget MODULE@VERSION` \
             and then request the version from the Stoa server of that side",
        );
    }
    Ok(PeersDone::Listed { conflicts: conflicts.len() as u64 })
}

/// A version with different content here and at a peer.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename = "conflict")]
struct ConflictEvent<'a> {
    peer: &'a str,
    #[serde(flatten)]
    version: VersionKeys<'a>,
    h1_here: String,
    h1_there: String,
    at: String,
}

impl<'a> From<&'a Conflict> for ConflictEvent<'a> {
    fn from(conflict: &'a Conflict) -> Self {
        Self {
            peer: &conflict.peer,
            version: (&conflict.version).into(),
            h1_here: conflict.ours.to_string(),
            h1_there: conflict.theirs.to_string(),
            at: time(conflict.at),
        }
    }
}

impl Display for ConflictEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, version, h1_here, h1_there, at } = self;
        write!(f, "{version} differs at {peer}, since {at}\n  here:  {h1_here}\n  there: {h1_there}")
    }
}
