//! Checksum databases: verification of downloads, and answers for clients.
//!
//! A database is asked through an upstream of the module that forwards it, or at the URL in `GOSUMDB`. No
//! other server learns the module's name.
//!
//! | module | purpose |
//! | --- | --- |
//! | `state` | the state of all databases |
//! | `gosumdb` | the name and key of a database |
//! | `question` | requests to a database |
//! | `forward` | answers for clients |
//! | `verification` | the verification of one version, in parallel with its download |
//! | `inquiry` | the question whether a version is confirmed, for downloads and stored versions |
//! | `stored`, `standing` | the verification of a stored version, and its result |
//! | `recheck` | the background task that asks again about stored versions |
//! | `lookup` | the hashes of a version, proved by the tree's tiles |
//! | `heads`, `timeline` | the database's tree heads, and the alarm when two of them contradict each other |
//! | `carry` | the answers about some versions, for an export and from an import |
//! | `cache` | answers on disk |
//! | `shape` | the form that an answer must have |
//! | `source` | the server that is asked |
//! | `outage` | the timeout of a lookup |

mod cache;
mod carry;
mod forward;
mod gosumdb;
mod heads;
mod inquiry;
mod lookup;
mod outage;
mod question;
mod recheck;
mod shape;
mod source;
mod standing;
mod state;
mod stored;
mod timeline;
mod verification;

pub(crate) use self::carry::{Carried, Records};
pub use self::gosumdb::{Gosumdb, GosumdbError};
pub use self::question::SumdbQuestion;
pub(crate) use self::recheck::Rechecked;
pub(crate) use self::standing::Standing;
pub use self::state::{ChecksumCounts, Sumdb, SumdbOptions};
pub(crate) use self::verification::{Confirmation, Verification};
