//! Shared parts of the three SQLite databases of a store: the catalog index, the usage data and the peers.
//!
//! They stay three databases, because their lives differ. The index is derived from the store and is rebuilt if it is
//! damaged. The usage data is not derivable, lies in `cache/`, which may be deleted beside a running server, and so is
//! open only while it is read or written. The database of the peers is written often, so it stays open, and its
//! loss costs a comparison with each peer.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

/// The kind of a database: its application id and the version of its schema.
pub(crate) type Kind = (i32, i32);

/// Opens an existing database.
pub(crate) fn open(
    path: impl AsRef<OsStr>,
    flags: OpenFlags,
    patience: Duration,
) -> rusqlite::Result<Connection> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path.as_ref(), flags)?;
    connection.busy_timeout(patience)?;
    Ok(connection)
}

/// Returns a URI that opens a database without writing anything. If other processes have writes in the log that are
/// not in the file yet, their shared memory is read too. Otherwise the file alone is read.
pub(crate) fn read_only_uri(path: &Path) -> OsString {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let has_log = std::fs::metadata(&log).is_ok_and(|meta| meta.len() > 0);
    let mut uri = b"file:".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(*byte),
            other => uri.extend(format!("%{other:02x}").bytes()),
        }
    }
    uri.extend(if has_log { &b"?mode=ro&readonly_shm=1"[..] } else { b"?mode=ro&immutable=1" });
    OsString::from_vec(uri)
}

/// Returns the kind of a database.
pub(crate) fn kind(connection: &Connection) -> rusqlite::Result<Kind> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    Ok((number("application_id")?, number("user_version")?))
}

/// Returns the message for a database of another program or release.
pub(crate) fn foreign((application, version): Kind) -> String {
    format!("it belongs to another program or release (application id {application:#x}, schema {version})")
}

/// Returns whether an error means that the database is damaged, and not that the disk or a lock failed.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, SqlInputError, SqliteFailure,
        Utf8Error,
    };
    match error {
        SqliteFailure(error, _) | SqlInputError { error, .. } => {
            matches!(
                error.code,
                ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::SchemaChanged
                    | ErrorCode::ConstraintViolation
                    | ErrorCode::Unknown
            ) || error.extended_code == ffi::SQLITE_IOERR_SHORT_READ
        }
        FromSqlConversionFailure(..)
        | IntegralValueOutOfRange(..)
        | InvalidColumnType(..)
        | Utf8Error(..) => true,
        _ => false,
    }
}
