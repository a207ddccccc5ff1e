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
//! | `lookup` | the hashes of a version, proved by the tree's tiles |
//! | `heads`, `timeline` | the database's tree heads, and the alarm when two of them contradict each other |
//! | `cache` | answers on disk |
//! | `shape` | the form that an answer must have |
//! | `source` | the server that is asked |
//! | `outage` | the timeout of a lookup |

mod cache;
mod forward;
mod gosumdb;
mod heads;
mod lookup;
mod outage;
mod question;
mod shape;
mod source;
mod state;
mod timeline;
mod verification;

pub use self::gosumdb::{Gosumdb, GosumdbError};
pub use self::question::SumdbQuestion;
pub use self::state::{ChecksumCounts, Sumdb, SumdbOptions};
pub(crate) use self::verification::{Confirmation, Verification};
