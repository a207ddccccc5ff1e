//! `stoa token`: makes a token for a user of a server.

use std::fmt::{self, Display};

use clap::Args;
use serde::Serialize;
use stoa_layout::Exit;

use super::context::Context;
use super::error::CommandError;
use super::report::{Nothing, Telling};
use super::{Command, Entry};
use crate::access::token_line;

/// Make a token for a user of the server
#[derive(Debug, Args)]
#[command(after_help = "\
The command writes nothing. The server reads the second line from the file in auth.users_file. It cannot show the token again, because the line has only its hash.

Examples:
  stoa token ci
  stoa token --format json ci")]
pub(super) struct Token {
    /// Name of the user
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    telling: Telling,
}

inventory::submit!(Entry::new::<Token>("token", 155));

/// A new token, and its line for the users file.
#[derive(Serialize)]
#[serde(tag = "event", rename = "token")]
struct NewToken {
    token: String,
    line: String,
}

impl Display for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "token for the client:    {}\nline for the users file: {}", self.token, self.line)
    }
}

impl Command for Token {
    type Summary = Nothing;

    fn telling(&self) -> Telling {
        self.telling
    }

    fn run(self, context: &Context<'_>) -> Result<Nothing, CommandError> {
        let made = token_line(&self.name);
        let (token, line) = made.map_err(|reason| CommandError::new(Exit::USAGE, reason))?;
        context.reporter.answer(&NewToken { token, line })?;
        Ok(Nothing)
    }
}
