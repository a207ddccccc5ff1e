//! Downloads from upstreams into the store.
//!
//! One flight downloads a version, however many clients ask for it: a map ensures that within the process,
//! and the store's claim ensures it across processes. A flight continues after the clients that started it
//! have disconnected. A failed flight is forgotten at once, so the next request tries again. A failure is
//! never taken for absence.
//!
//! | module | purpose |
//! | --- | --- |
//! | `flights` | the running flights, and joining one |
//! | `fetch` | the task that downloads and publishes one version, step by step |
//! | `task` | the state of that task |
//! | `turn` | waiting for the turn and the claim |
//! | `zip` | the download of a zip, with a slot and under the claim |
//! | `growing` | the draft of a zip, and its continuation after an interruption |
//! | `pace` | slow transfers, which give their slot up |
//! | `rate` | the rate of a transfer |
//! | `publish` | examination, comparison and publication |
//! | `progress` | the progress of a flight, and waiting for it |
//! | `pairs` | the info and the go.mod of versions whose zip no client has asked for |
//! | `means` | what all flights share: the store and the limits |
//! | `wrong` | the pauses between downloads of a version whose zip proved wrong |
//! | `expected` | the hashes that a caller already knows, for example from a go.sum |
//! | `slots` | the limit on concurrent zip downloads |
//! | `seals` | sealing versions that have no seal yet |
//!
//! Statuses, headers and bodies belong to the proxy.

mod expected;
mod fetch;
mod flights;
mod growing;
mod means;
mod pace;
mod pairs;
mod progress;
mod publish;
mod rate;
mod seals;
mod shared;
mod slots;
mod task;
mod turn;
mod wrong;
mod zip;

pub use self::expected::Expected;
pub use self::flights::{FlightOptions, Flights};
pub(crate) use self::progress::Joined;
pub use self::progress::{Arrival, Places, Transfer, Waiter, Want};
pub use self::seals::Seals;
pub(crate) use self::seals::examining;
