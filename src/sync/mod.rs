//! Deployments that keep each other current: the peers, and the signatures of requests between them.
//!
//! | module | content |
//! | --- | --- |
//! | `peer` | a peer, as the configuration describes it |
//! | `signature` | the signature of a request: its form, and its sender |
//! | `gatekeeper` | the receiver of signed requests, which accepts or refuses them |
//! | `nonces` | the nonces of accepted requests |
//! | `clock` | the time that requests are signed with |

mod clock;
mod gatekeeper;
mod nonces;
mod peer;
mod signature;

pub use self::clock::Clock;
pub use self::gatekeeper::{Gatekeeper, Refusal};
pub use self::peer::{Peer, Secret};
pub use self::signature::{Nonce, PEER_TIME, Signer, sha256};
