//! The state of a bucket: its marker, and the lease of the process that changes its layout.
//!
//! Both are one object, so that whoever writes the marker holds the lease. It is changed by compare-and-swap only, and
//! never deleted: a deleted object could be created again by a process that was suspended.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use stoa_layout::marker::HistoryEntry;
use stoa_layout::{LayoutId, clock};

use crate::keys::{Keys, OWN, STATE};
use crate::manifest::fresh_nonce;
use crate::{Bucket, BucketError, Document, Held, Nonce};

/// The layout of a bucket that this release reads and writes.
pub const LAYOUT: LayoutId = LayoutId::fixed("b1");

/// The layout of a bucket that Athens filled.
pub const ATHENS: LayoutId = LayoutId::fixed("athens");

/// The marker of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BucketMarker {
    /// `layout.b1`: the bucket is complete at this layout.
    At(LayoutId),
    /// `migrating.A-B`: the bucket is in the step from A to B.
    Migrating {
        /// The layout at which the step began.
        from: LayoutId,
        /// The layout at which it ends.
        to: LayoutId,
    },
    /// `creating.b1`: the bucket is being prepared.
    Creating(LayoutId),
    /// `left.athens`: a step back has ended. Nothing in the bucket belongs to this program, except this state.
    Left(LayoutId),
}

/// A text is not a marker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a marker of a bucket")]
pub struct NotAMarker(String);

/// The content of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketState {
    /// The marker.
    pub marker: BucketMarker,
    /// The ID, which is part of all keys.
    pub id: Nonce,
    /// The number of times that the lease had another holder.
    pub epoch: u64,
    /// The nonce of the last write.
    pub nonce: Nonce,
    /// The program that wrote it, with its version.
    pub written_by: String,
    /// The time of writing, RFC 3339 in UTC.
    pub written_at: String,
    /// The lease, while a process holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// The history of the bucket, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
}

/// The lease of a process that works on the whole bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The machine and the process, for messages.
    pub owner: String,
    /// The work.
    pub work: String,
    /// The number of times that the holder has shown that it is alive.
    pub beat: u64,
}

impl Display for BucketMarker {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(layout) => write!(f, "layout.{layout}"),
            Self::Migrating { from, to } => write!(f, "migrating.{from}-{to}"),
            Self::Creating(layout) => write!(f, "creating.{layout}"),
            Self::Left(layout) => write!(f, "left.{layout}"),
        }
    }
}

impl FromStr for BucketMarker {
    type Err = NotAMarker;

    fn from_str(text: &str) -> Result<Self, NotAMarker> {
        let wrong = || NotAMarker(text.to_owned());
        let (form, rest) = text.split_once('.').ok_or_else(wrong)?;
        let layout = |name: &str| LayoutId::parse(name).map_err(|_| wrong());
        match form {
            "layout" => Ok(Self::At(layout(rest)?)),
            "creating" => Ok(Self::Creating(layout(rest)?)),
            "left" => Ok(Self::Left(layout(rest)?)),
            "migrating" => {
                let (from, to) = rest.split_once('-').ok_or_else(wrong)?;
                Ok(Self::Migrating { from: layout(from)?, to: layout(to)? })
            }
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for BucketMarker {
    type Error = NotAMarker;

    fn try_from(text: String) -> Result<Self, NotAMarker> {
        text.parse()
    }
}

impl From<BucketMarker> for String {
    fn from(marker: BucketMarker) -> Self {
        marker.to_string()
    }
}

impl Document for BucketState {
    fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    fn to_bytes(&self) -> Result<Vec<u8>, String> {
        toml::to_string(self).map(String::into_bytes).map_err(|error| error.to_string())
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }
}

impl BucketState {
    /// Returns the first state of a bucket, with a new ID.
    pub fn first(marker: BucketMarker, program: &str) -> Result<Self, BucketError> {
        Ok(Self {
            marker,
            id: fresh_nonce()?,
            epoch: 1,
            nonce: fresh_nonce()?,
            written_by: program.to_owned(),
            written_at: clock::now(),
            lease: None,
            history: Vec::new(),
        })
    }

    /// Reads the state of a bucket. `None` if it has none.
    pub async fn read(bucket: &Bucket) -> Result<Option<Held<Self>>, BucketError> {
        bucket.document(STATE).await
    }

    /// Returns the state for another write.
    pub fn rewritten(&self, program: &str) -> Result<Self, BucketError> {
        let written_by = program.to_owned();
        Ok(Self { nonce: fresh_nonce()?, written_by, written_at: clock::now(), ..self.clone() })
    }

    /// Returns whether the bucket is complete at the current layout.
    pub fn is_current(&self) -> bool {
        self.marker == BucketMarker::At(LAYOUT)
    }

    /// Returns the keys below its ID.
    pub fn keys(&self) -> Keys {
        Keys::new(self.id.clone())
    }
}

impl Bucket {
    /// Returns the folders of all IDs: of the present one and of earlier ones. Everything that this program writes is below
    /// them, except the state and the checks of the service.
    pub async fn folders_of_ids(&self) -> Result<Vec<String>, BucketError> {
        let mut folders = self.folder(OWN).await?.folders;
        folders.retain(|folder| folder.rsplit('/').next().is_some_and(|id| id.parse::<Nonce>().is_ok()));
        Ok(folders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_folders_of_ids_are_listed() {
        let (bucket, mut keys) = (Bucket::in_memory(), [(); 2].map(|()| Keys::new(fresh_nonce().unwrap())));
        let others =
            [STATE.to_owned(), format!("{}/x", crate::keys::PROBES), "example.com/m/@v/list".to_owned()];
        for key in keys.iter().map(Keys::gone).chain(others) {
            bucket.overwrite(&key, bytes::Bytes::new()).await.unwrap();
        }
        keys.sort_by_key(Keys::root);
        assert_eq!(bucket.folders_of_ids().await.unwrap(), keys.each_ref().map(Keys::root));
    }

    #[test]
    fn a_state_is_read_back_as_text() {
        for marker in ["layout.b1", "migrating.athens-b1", "creating.b1", "left.athens"] {
            let parsed: BucketMarker = marker.parse().unwrap();
            assert_eq!(parsed.to_string(), marker);
            let mut state = BucketState::first(parsed, "stoa 1").unwrap();
            state.lease = Some(Lease { owner: "a:1".to_owned(), work: "upgrade".to_owned(), beat: 3 });
            let bytes = state.to_bytes().unwrap();
            assert!(String::from_utf8_lossy(&bytes).contains(&format!("marker = \"{marker}\"")));
            assert_eq!(BucketState::from_bytes(&bytes).unwrap(), state);
        }
        for other in ["b1", "layout.", "layout.B", "migrating.b1", "other.b1"] {
            assert!(other.parse::<BucketMarker>().is_err(), "{other}");
        }
    }
}
