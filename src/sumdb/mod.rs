//! Checksum databases: verification of downloads, and answers for clients.
//!
//! A database is asked through an upstream of the module that forwards it, or at the URL in `GOSUMDB`. No
//! other server learns the module's name.
//!
//! | module | purpose |
//! | --- | --- |
//! | `state` | the state of all databases |
//! | `gosumdb` | the name and key of a database |
//! | `question` | requests to a database, and the form of its answers |
//! | `forward` | answers for clients |
//! | `verification` | the verification of one version, in parallel with its download |
//! | `inquiry` | the question whether a version is confirmed, for downloads and stored versions |
//! | `stored` | the verification of a stored version |
//! | `recheck` | the background task that asks again about stored versions |
//! | `lookup` | the hashes of a version, proved by the tree's tiles |
//! | `timeline` | the database's tree heads, and the alarm when two of them contradict each other |
//! | `carry` | the answers about some versions, for an export and from an import |
//! | `cache` | answers on disk |
//! | `source` | the server that is asked, and the cache in front of it |
//! | `outage` | the timeout of a lookup |

mod cache;
mod carry;
mod forward;
mod gosumdb;
mod inquiry;
mod lookup;
mod outage;
mod question;
mod recheck;
mod source;
mod state;
mod stored;
mod timeline;
mod verification;

pub(crate) use self::carry::{Carried, Records};
pub use self::gosumdb::{Gosumdb, GosumdbError};
pub use self::question::SumdbQuestion;
pub(crate) use self::recheck::Rechecked;
pub(crate) use self::state::Standing;
pub use self::state::{ChecksumCounts, Sumdb, SumdbOptions};
pub(crate) use self::verification::{Confirmation, Verification};
