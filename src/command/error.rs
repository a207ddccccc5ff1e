//! How a command fails: an exit code, a message, and a line of help.

use stoa_layout::parallel::RAISE;
use stoa_layout::{Exit, PathError};

/// A failure of a command.
///
/// `message` has the form `cannot DO THING PATH: REASON`, in lower case and without a full stop. `help` names the next
/// thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandError {
    pub(crate) exit: Exit,
    /// Missing if another program has already reported the failure.
    pub(crate) message: Option<String>,
    pub(crate) help: Option<String>,
}

/// The start of the line of help in the text of an error.
pub(crate) const HELP: &str = "\nhelp: ";

const RUN_AGAIN: &str = "run again to continue";

impl CommandError {
    /// Makes an error from a text. Lines of the text that start with `help: ` become the help.
    pub(crate) fn new(exit: Exit, text: impl ToString) -> Self {
        let text = text.to_string();
        let (message, help) = match text.split_once(HELP) {
            Some((message, help)) => (message.to_owned(), Some(help.replace(HELP, "; "))),
            None => (text, None),
        };
        Self { exit, message: Some(message), help }
    }

    /// Makes an error that another program has already reported.
    pub(crate) fn reported(exit: Exit) -> Self {
        Self { exit, message: None, help: None }
    }

    /// Makes an error about a folder that a command writes to, where a file may be in the way.
    pub(crate) fn of_target(error: PathError) -> Self {
        let exit = match error.exit() {
            Exit::NOT_A_STORE => Exit::CANT_CREATE,
            exit => exit,
        };
        Self::new(exit, error)
    }

    /// Makes an error about threads that the system does not have.
    pub(crate) fn no_threads(error: std::io::Error) -> Self {
        Self::new(Exit::BUSY, format!("cannot start a thread: {error}")).help(RAISE)
    }

    /// Adds or replaces the help.
    #[must_use]
    pub(crate) fn help(mut self, help: impl ToString) -> Self {
        self.help = Some(help.to_string());
        self
    }

    /// Adds the help to run the command again, if there is no other.
    #[must_use]
    pub(crate) fn resumable(mut self) -> Self {
        if self.message.is_some() {
            self.help.get_or_insert_with(|| RUN_AGAIN.to_owned());
        }
        self
    }

    /// Adds the work that was done before the failure, and the help to run the command again if there is no other.
    #[must_use]
    pub(crate) fn after(mut self, done: impl ToString) -> Self {
        if let Some(message) = &mut self.message {
            message.push_str("; ");
            message.push_str(&done.to_string());
        }
        self.resumable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_is_split_from_the_message() {
        let error = CommandError::new(Exit::IO, "cannot read /s: gone\nhelp: mount it");
        let expected = ("cannot read /s: gone", Some("mount it"));
        assert_eq!((error.message.as_deref().unwrap(), error.help.as_deref()), expected);
        assert_eq!(
            error.after("2 versions removed").message.unwrap(),
            "cannot read /s: gone; 2 versions removed"
        );
        assert_eq!(CommandError::reported(Exit::IO).after("x"), CommandError::reported(Exit::IO));
    }

    #[test]
    fn the_help_of_a_cause_comes_before_the_help_of_the_operation() {
        let error = CommandError::new(
            Exit::IO,
            "the step stopped: cannot write /s: full\nhelp: free space\nhelp: run again",
        );
        assert_eq!(error.help.as_deref(), Some("free space; run again"));
    }
}
