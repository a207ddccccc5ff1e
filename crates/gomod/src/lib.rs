//! What Go says of modules: paths, versions, escaping, zips, hashes and the protocol's texts.
//!
//! The rules are those of the Go Modules Reference and of the `golang.org/x/mod` libraries; where the two
//! differ, the libraries' behaviour counts, since it is what every client runs. The crate does no I/O of its
//! own: bytes come in as slices or through [`zip::ReadAt`], and what to fetch, store or answer is left to
//! the callers.
//!
//! Names are parsed at the door. A [`ModulePath`], a [`Version`], a [`Revision`] or a [`ModuleVersion`] that
//! exists is valid, so nothing behind the door checks again.

pub mod escape;
pub mod goproxy;
pub mod gosum;
pub mod h1;
pub mod info;
pub mod list;
pub mod modfile;
mod module_version;
pub mod path;
pub mod private;
pub mod pseudo;
pub mod query;
mod range;
pub mod requirements;
mod revision;
pub mod route;
pub mod semver;
pub mod sumdb;
mod text;
mod version;
pub mod zip;

pub use escape::EscapeError;
pub use h1::H1;
pub use module_version::{ModuleVersion, PairError, check as check_pair};
pub use path::{ModulePath, PathError, PathReason};
pub use range::{VersionRange, VersionRangeError};
pub use revision::{Revision, RevisionError};
pub use route::Route;
pub use version::{Version, VersionError};
