//! Module zips: validity rules, examination and creation.
//!
//! The rules are those of `golang.org/x/mod/zip` and of the Go Modules Reference. The entries of the
//! central directory are checked in order, so that duplicates are found. Then the local header and data of
//! each entry are compared with the directory. Zips come from untrusted sources: memory is never allocated
//! by a declared size without a limit, and data is never inflated beyond its declared size.
//!
//! [`check_structure`] needs only a few reads and returns whether the file looks like the zip of a version.
//! [`examine`] reads the complete zip; only zips that pass it may be served. Callers do the I/O through
//! [`ReadAt`]. A zip that arrives can be hashed meanwhile, see [`StreamHasher`].

mod create;
mod directory;
mod entry;
mod examine;
mod names;
pub mod rules;
mod source;
mod stream;

pub(crate) use names::fold;

pub use create::{CreateError, SourceFile, create, create_from};
pub use examine::{Examined, Structure, check_structure, examine, examine_hashed};
pub use rules::{Check, FileKind, Reason, check_files, check_zip, vendored};
pub use source::ReadAt;
pub use stream::StreamHasher;

use std::io;

/// Maximum size of a zip, and of all its contents together.
pub const MAX_ZIP_SIZE: u64 = 500 << 20;

/// Maximum size of the go.mod at the root.
pub const MAX_GO_MOD_SIZE: u64 = 16 << 20;

/// Maximum size of the LICENSE at the root.
pub const MAX_LICENSE_SIZE: u64 = 16 << 20;

/// The reason why a zip did not pass.
#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    /// It could not be read. Its content is unknown.
    #[error("cannot read the zip: {0}")]
    Read(#[source] io::Error),
    /// It is invalid.
    #[error(transparent)]
    Broken(#[from] ZipFault),
}

/// The fault of a zip.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZipFault {
    /// The zip exceeds the limit of clients.
    #[error("the zip has {0} bytes, more than the limit of {MAX_ZIP_SIZE}")]
    ArchiveTooLarge(u64),
    /// The file ends too early.
    #[error("the zip is truncated")]
    Truncated,
    /// The end record or the central directory is invalid.
    #[error("the zip has an invalid central directory: {0}")]
    Directory(String),
    /// The central directory exceeds the memory limit.
    #[error("the zip has too many entries")]
    TooManyEntries,
    /// An entry has an invalid name or size.
    #[error("zip entry {name:?}: {reason}")]
    Name {
        /// The full name of the entry.
        name: String,
        /// The broken rule.
        reason: Reason,
    },
    /// The contents together exceed the limit of clients.
    #[error("the zip's contents exceed the limit of {MAX_ZIP_SIZE} bytes")]
    ContentTooLarge,
    /// The data of an entry does not match the directory.
    #[error("zip entry {name:?}: {fault}")]
    Entry {
        /// The full name of the entry.
        name: String,
        /// The fault.
        fault: EntryFault,
    },
}

/// The fault of an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// There is no local header at the offset in the directory.
    #[error("it has no local header")]
    NoHeader,
    /// The local header differs from the directory.
    #[error("its local header differs from the central directory in {0}")]
    HeaderDiffers(&'static str),
    /// Its extra field lacks the values for zip64.
    #[error("its zip64 field is missing or too short")]
    Zip64,
    /// It is encrypted.
    #[error("it is encrypted")]
    Encrypted,
    /// Its compression method is unsupported.
    #[error("it has compression method {0}, which the go command does not support")]
    Method(u16),
    /// Its data overlaps the directory or another entry.
    #[error("its data overlaps another part of the zip")]
    Overlap,
    /// Its data cannot be inflated.
    #[error("its compressed data is damaged")]
    Deflate,
    /// Its content does not have the declared size.
    #[error("its content does not have the declared size of {0} bytes")]
    Size(u64),
    /// Its content does not have the declared checksum.
    #[error("its content does not have the declared checksum")]
    Checksum,
}
