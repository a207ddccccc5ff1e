//! `stoa completions`: prints a completion script for a shell.

use clap::Args;
use clap_complete::{Shell, generate};

use super::context::Context;
use super::error::CommandError;
use super::report::Nothing;
use super::{Command, Entry};

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
The script also completes the commands that stoa-migrate runs, such as `stoa import`.

Examples:
  stoa completions bash > ~/.local/share/bash-completion/completions/stoa
  stoa completions zsh > ~/.zfunc/_stoa
  stoa completions fish > ~/.config/fish/completions/stoa.fish")]
pub(crate) struct Completions {
    /// Shell to print the script for
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

inventory::submit!(Entry::new::<Completions>("completions", 160));

impl Command for Completions {
    type Summary = Nothing;

    fn run(self, context: &Context<'_>) -> Result<Nothing, CommandError> {
        let mut script = Vec::new();
        generate(self.shell, &mut whole_command_line(&(context.app.migrator)()), "stoa", &mut script);
        context.reporter.bytes(&script)?;
        Ok(Nothing)
    }
}

/// Returns the command line of `stoa` with the arguments of the commands that `stoa-migrate` does.
pub(crate) fn whole_command_line(migrator: &clap::Command) -> clap::Command {
    inventory::iter::<super::Entry>().filter(|entry| entry.is_handed_over).fold(
        super::command_line(),
        |command, entry| {
            let theirs = match entry.name {
                "migrate" => Some(migrator),
                name => migrator.find_subcommand(name),
            };
            let Some(theirs) = theirs else { return command };
            // The options that both programs have would be there twice.
            let ours: Vec<String> = command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
            let args = theirs.get_arguments().filter(|arg| !ours.contains(&arg.get_id().to_string()));
            let whole = clap::Command::new(entry.name)
                .about(entry.about)
                .args(args.cloned())
                .subcommands(theirs.get_subcommands().cloned());
            let whole = match theirs.get_after_help() {
                Some(help) => whole.after_help(help.clone()),
                None => whole,
            };
            command.mut_subcommand(entry.name, |_| whole)
        },
    )
}
