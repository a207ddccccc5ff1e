//! Lines on standard output and standard error, for code without a reporter.

use std::fmt::Display;
use std::io::{self, Write};

use stoa_layout::Exit;

/// Writes a line of a result at once.
pub(crate) fn result_line(line: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Writes the last line of a result, and returns the exit code.
pub(crate) fn last_line(line: impl Display) -> Exit {
    if result_line(line).is_ok() { Exit::DONE } else { Exit::IO }
}

/// Writes a remark to standard error.
pub(crate) fn note(message: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}
