//! Shared parts of the two SQLite databases of a store: the catalog index and the usage data.
//!
//! They stay two databases, because their lives differ. The index is rebuilt aside and replaced under the next number
//! while servers run, so its contents must be derivable. The usage data is not derivable, lies in `cache/`, which may
//! be deleted beside a running server, and so is open only while it is read or written.

use std::ffi::OsStr;
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
