//! Deployments that keep each other current: each takes what the others offer and it accepts.
//!
//! The log of changes is the index of the store. A server pulls the events of each peer after a pointer, and is notified of
//! new ones. Events become rows of a queue. Versions in the queue are fetched by ordinary fills, with the peer as the first
//! upstream and the hashes that it has named. docs/several-deployments.md describes the whole.
//!
//! | module | content |
//! | --- | --- |
//! | `replication` | the replication of a server: its peers, its tasks, its counters |
//! | `event` | events, requests and answers as JSON |
//! | `answer` | the answers to requests of peers |
//! | `pull`, `lines` | asking a peer for the events after the pointer, and the lines of its answer |
//! | `compare` | comparing the digests of all modules |
//! | `turn` | the turn to pull, among the servers of a bucket |
//! | `push` | notifications |
//! | `intake` | events become work, unless the version is here |
//! | `conflicts` | versions that have other content at a peer |
//! | `once` | one synchronisation, for a command |
//! | `work` | the work: fills, tombstones and their lifting |
//! | `peer` | a peer, as the configuration describes it |
//! | `signature` | the signature of a request: its form, and its sender |
//! | `gatekeeper` | the receiver of signed requests, which accepts or refuses them |
//! | `nonces` | the nonces of accepted requests |
//! | `clock` | the time that requests are signed with |

mod answer;
mod clock;
mod compare;
mod conflicts;
mod event;
mod gatekeeper;
mod intake;
mod lines;
mod nonces;
mod once;
mod peer;
mod pull;
mod push;
mod replication;
mod signature;
mod turn;
mod work;

pub(crate) use self::answer::PeerAnswer;
pub use self::clock::Clock;
pub(crate) use self::event::MAX_BODY;
pub use self::gatekeeper::{Gatekeeper, Refusal};
pub(crate) use self::once::Synced;
pub use self::peer::{Peer, Secret, is_deployment_name};
pub use self::replication::ReplicationOptions;
pub(crate) use self::replication::{Link, Replication, Source, SyncError};
pub use self::signature::{Nonce, PEER_TIME, Signer, sha256};
