//! Go's rules for modules: paths, versions, escaping, zips, hashes and the texts of the protocol.
//!
//! The rules are those of the Go Modules Reference and of the `golang.org/x/mod` libraries. Where the two
//! differ, the libraries count, since every client runs them. The crate does no I/O: bytes come in as
//! slices or through [`zip::ReadAt`], and callers decide what to download, store or answer.
//!
//! Names are validated when they are parsed. A [`ModulePath`], a [`Version`], a [`Revision`] or a
//! [`ModuleVersion`] is always valid, so later code does not check again.

pub mod escape;
pub mod go_import;
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
mod spelling;
pub mod sumdb;
mod text;
mod version;
pub mod zip;

pub use escape::EscapeError;
pub use h1::H1;
pub use module_version::{ModuleVersion, PairError};
pub use path::{ModulePath, PathError, PathReason};
pub use range::{VersionRange, VersionRangeError};
pub use revision::{Revision, RevisionError};
pub use route::Route;
pub use spelling::Misspelling;
pub use version::{Version, VersionError};
