//! A bucket of an object store that several servers share.
//!
//! ```text
//! ~stoa/state                          the marker and the lease: one object, changed by compare-and-swap, never deleted
//! ~stoa/ID/m/MODULE/@v/VERSION.json    the manifest: the version exists if its state is "present"
//! ~stoa/ID/c/MODULE/@v/VERSION/NONCE   contents: zips and large files, written once below a fresh name
//! ~stoa/ID/x/MODULE/@v/VERSION         a note: the version may have been removed, read its manifest
//! ~stoa/ID/q/NONCE.json                a quarantine entry
//! ~stoa/ID/gone                        the last removals, numbered
//! ~stoa/ID/claims/HH/HASH              a claim: one server downloads a version
//! ~stoa/ID/servers/NONCE               a server that runs, written again each minute
//! ~stoa/ID/used/DAY/SERVER-N           the versions that a server used on a day
//! ~stoa/probe/NONCE/                   a check of the service
//! MODULE/@v/VERSION.{info,mod,zip}     the files of Athens; only a removal deletes them
//! ```
//!
//! A version becomes visible by one conditional write of its manifest, and the layout of a bucket becomes current by
//! one compare-and-swap of its state. No write relies on a lock: a writer learns that its conditional write lost.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`address`](BucketUrl) | the URL of a bucket |
//! | [`connect`](Bucket::connect) | the client of a service, with its credentials |
//! | [`client`](Bucket) | requests: the only module that uses `object_store`, besides `connect` and `unnameable` |
//! | `unnameable` | keys that the client cannot name are taken out of listings |
//! | [`document`](Document) | small objects with a nonce, whose conditional writes survive a lost answer |
//! | [`manifest`](Manifest) | the manifest of a version |
//! | [`mark`](Mark) | the ranks of tombstones and their liftings |
//! | [`state`](BucketState) | the marker and the lease |
//! | [`probe`](Bucket::probe) | a check that a service supports conditional writes |
//! | [`lease`](LeaseTaker) | the lease of a process that works on the whole bucket |
//! | [`runner`](BucketRunner) | steps between the layouts of a bucket |
//! | [`gone`](Gone) | the list of the last removals |
//! | [`claim`](Versions::claim) | of several servers, one downloads a version |
//! | [`adopt`](AthensFiles) | taking over what Athens saved |
//! | [`examine`](Versions::examine) | reading a version completely |
//! | [`regenerate`](Versions::regenerate) | writing what follows from the manifests again |
//! | [`listing`](Versions::listed_manifests) | the sorted listing of all manifests |
//! | [`count`](Versions::count) | the numbers of versions |
//! | [`servers`](Bucket::servers) | the servers that use a bucket |
//! | [`uses`](Versions::uses) | the days on which servers used versions |
//! | [`sweep`](Versions::sweep) | deleting unreferenced objects |
//! | [`versions`](Versions) | reading, publishing and removing versions at the current layout |

mod address;
mod adopt;
mod claim;
mod client;
mod connect;
mod count;
mod document;
mod error;
mod examine;
mod gone;
mod keys;
mod lease;
mod listing;
mod manifest;
mod mark;
mod nonce;
mod probe;
mod profile;
mod pull;
mod regenerate;
mod runner;
mod servers;
mod state;
mod sweep;
#[cfg(test)]
mod testing;
mod unnameable;
mod uses;
mod versions;

pub use address::{BucketUrl, BucketUrlError, Service};
pub use adopt::{AthensFiles, AthensVersion};
pub use claim::{ClaimThere, ClaimTimes};
pub use client::{Bucket, Content, Entry, Fetched, Folder, Meta, Object, Tag};
pub use connect::{ConnectError, ConnectOptions};
pub use count::CountThere;
pub use document::{Document, Held, Swapped};
pub use error::{BucketError, Trouble};
pub use examine::{ExaminedThere, examine_files};
pub use gone::{Gone, Removals};
pub use keys::{AthensFile, Keys, OWN, STATE};
pub use lease::{HeldLease, LeaseTaker, LeaseTimes};
pub use listing::ListedManifest;
pub use manifest::{
    Lift, Manifest, ObjectContent, Origin, Presence, Record, SmallContent, Tombstone, Verdict,
    VersionContent, ZipContent,
};
pub use mark::Mark;
pub use nonce::Nonce;
pub use probe::ProbeError;
pub use profile::ProfileError;
pub use pull::{PULL_BEAT, PULL_TAKEOVER, PullHolder, PullPointers, PullTurn};
pub use regenerate::Regenerated;
pub use runner::{
    BucketContext, BucketDetection, BucketLayouts, BucketLook, BucketMoved, BucketOptions, BucketOutcome,
    BucketRequests, BucketRunError, BucketRunner, BucketStep, BucketStepError, BucketSurvey, BucketWork,
    DetectBucket,
};
pub use state::{ATHENS, BucketMarker, BucketState, LAYOUT, Lease};
pub use sweep::{MIN_AGE, Sweep, Swept};
pub use unnameable::Unnameable;
pub use uses::UsesThere;
pub use versions::{ListedThere, ManifestBlocks, NewVersion, PublishedThere, QuarantinedThere, Versions};
