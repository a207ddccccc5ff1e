//! How results and errors reach the one who called: results on standard output, errors on standard error.

use std::fmt::Display;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use stoa_layout::Exit;

/// Writes a line of a result at once.
pub(crate) fn result_line(line: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Writes the last line of a result, and says with which code the program ends.
pub(crate) fn last_line(line: impl Display) -> Exit {
    written(result_line(line))
}

/// Writes a path as a result, byte for byte: whoever opens it must find it, also where it is no UTF-8.
pub(crate) fn path_line(path: &Path) -> Exit {
    let mut line = path.as_os_str().as_bytes().to_vec();
    line.push(b'\n');
    let mut out = io::stdout().lock();
    written(out.write_all(&line).and_then(|()| out.flush()))
}

/// Says with which code a program ends whose last result was written, or was not.
///
/// Where the reader went away there is nobody left to tell.
pub(crate) fn written(result: io::Result<()>) -> Exit {
    match result {
        Ok(()) => Exit::DONE,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::IO,
        Err(error) => fail(Exit::IO, format!("cannot write the result to standard output: {error}")),
    }
}

/// Writes what is no result to standard error.
pub(crate) fn note(message: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// Writes an error, and hands back the code that the program ends with.
pub(crate) fn fail(exit: Exit, message: impl Display) -> Exit {
    // If standard error is gone, the code says it still.
    let _ = writeln!(io::stderr().lock(), "error: {message}");
    exit
}
