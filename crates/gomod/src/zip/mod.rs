//! Module zips: what makes one valid, reading one whole, and making one.
//!
//! The rules are those of `golang.org/x/mod/zip` and of the Go Modules Reference. An archive is judged by its
//! central directory, entry by entry in its order, so that duplicates are seen; then every entry's own header
//! and data are held against it. The input is foreign: nothing is allocated by a declared size without a
//! bound, and nothing is inflated beyond it.
//!
//! [`check_structure`] takes a few reads and says whether the file looks like the zip of that version;
//! [`examine`] reads all of it, and only what passes may be served. The caller does the I/O, through
//! [`ReadAt`]. Where the archive lies, and what happens to a broken one, is the caller's as well.

mod create;
mod directory;
mod entry;
mod examine;
mod names;
pub mod rules;
mod source;

pub use create::{CreateError, SourceFile, create, create_from};
pub use examine::{Examined, Structure, check_structure, examine};
pub use rules::{Check, FileKind, Reason, check_files, check_zip, vendored};
pub use source::ReadAt;

use std::io;

/// The greatest size of an archive, and of all its contents together.
pub const MAX_ZIP_SIZE: u64 = 500 << 20;

/// The greatest size of the go.mod at the root.
pub const MAX_GO_MOD_SIZE: u64 = 16 << 20;

/// The greatest size of the LICENSE at the root.
pub const MAX_LICENSE_SIZE: u64 = 16 << 20;

/// Why an archive was not found good.
#[derive(Debug, thiserror::Error)]
pub enum ExamineError {
    /// It could not be read, which says nothing of its content.
    #[error("the zip could not be read: {0}")]
    Read(#[source] io::Error),
    /// It was read, and found wrong.
    #[error(transparent)]
    Broken(#[from] ZipFault),
}

/// What is wrong with an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZipFault {
    /// The archive is greater than any client would take.
    #[error("the zip has {0} bytes, more than {MAX_ZIP_SIZE}")]
    ArchiveTooLarge(u64),
    /// The file ends before the archive does.
    #[error("the zip is cut short")]
    Truncated,
    /// The end record or the central directory is not what it should be.
    #[error("the zip's directory is broken: {0}")]
    Directory(String),
    /// The central directory is larger than can be examined in bounded memory.
    #[error("the zip has more entries than can be examined")]
    TooManyEntries,
    /// An entry has a name or a size that the rules forbid.
    #[error("zip entry {name:?}: {reason}")]
    Name {
        /// The whole name of the entry.
        name: String,
        /// The rule that it breaks.
        reason: Reason,
    },
    /// The contents together are greater than any client would take.
    #[error("the zip's contents have more than {MAX_ZIP_SIZE} bytes together")]
    ContentTooLarge,
    /// The data of an entry is not what the directory says.
    #[error("zip entry {name:?}: {fault}")]
    Entry {
        /// The whole name of the entry.
        name: String,
        /// What is wrong with it.
        fault: EntryFault,
    },
}

/// What is wrong with the data of an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// There is no local header where the directory says.
    #[error("it has no local header")]
    NoHeader,
    /// The local header says something else than the directory.
    #[error("its local header and the directory differ in {0}")]
    HeaderDiffers(&'static str),
    /// It is encrypted.
    #[error("it is encrypted")]
    Encrypted,
    /// It is compressed by a method other than deflate.
    #[error("it has compression method {0}, which the go command does not know")]
    Method(u16),
    /// Its data lies outside of what precedes the directory, or within another entry.
    #[error("its data overlaps another part of the zip")]
    Overlap,
    /// Its data cannot be inflated.
    #[error("its compressed data is damaged")]
    Deflate,
    /// Its content is shorter or longer than declared.
    #[error("its content has not the declared size of {0} bytes")]
    Size(u64),
    /// Its content has another checksum than declared.
    #[error("its content has not the declared checksum")]
    Checksum,
}
