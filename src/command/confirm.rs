//! The question before a command removes many versions.

use std::io::{self, BufRead, IsTerminal, Write};

use stoa_layout::Exit;

use super::error::CommandError;

/// Asks whether to go on, on a terminal. Fails without a terminal, or if the answer is no.
///
/// `plan` is a sentence with the counts, as in `3,000 of 5,000 versions would be removed from /store`.
pub(crate) fn confirm(plan: &str) -> Result<(), CommandError> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        let error = CommandError::new(Exit::USAGE, format!("{plan}; nothing was changed"));
        return Err(error.help("add --yes to remove them, or --dry-run to list them"));
    }
    let mut err = io::stderr().lock();
    let _ = write!(err, "{plan}. Continue? [y/N] ").and_then(|()| err.flush());
    drop(err);
    let mut answer = String::new();
    // An answer that cannot be read is a no.
    let _ = io::stdin().lock().read_line(&mut answer);
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CommandError::new(Exit::USAGE, "not confirmed; nothing was changed")),
    }
}
