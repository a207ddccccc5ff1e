//! `stoa man`: writes manual pages.

use std::path::{Path, PathBuf};

use clap::Args;
use clap_mangen::Man as Page;
use stoa_layout::{Durable, PathError, durable};

use super::completions::whole_command_line;
use super::context::Context;
use super::count::counted;
use super::error::CommandError;
use super::report::Nothing;
use super::{Command, Entry};

/// Write the manual pages of stoa and stoa-migrate into a folder
#[derive(Debug, Args)]
#[command(after_help = "\
The folder is created if it is missing. Existing pages are replaced.

Examples:
  stoa man ~/.local/share/man/man1
  man stoa-fetch

Exit codes: 0 success; 73 the folder or a page cannot be created; 74 input/output error; 77 permission denied.")]
pub(crate) struct Man {
    /// Folder for the pages
    #[arg(value_name = "DIR")]
    to: PathBuf,
}

/// The start of the name of a page that is being written.
const TEMPORARY: &str = ".stoa-man-";

inventory::submit!(Entry::new::<Man>("man", 170));

impl Command for Man {
    type Summary = Nothing;

    fn run(self, context: &Context<'_>) -> Result<Nothing, CommandError> {
        durable::create_folder(&self.to).map_err(CommandError::of_target)?;
        let durable = Durable::for_folder(&self.to)?;
        let migrator = (context.app.migrator)();
        let mut count = 0_u64;
        for command in [whole_command_line(&migrator), migrator] {
            let name = command.get_name().to_owned();
            count += write(&durable, &self.to, command.disable_help_subcommand(true), &name)?;
        }
        context.reporter.remark(format_args!(
            "{} written to {}",
            counted(count, "manual page"),
            self.to.display()
        ));
        Ok(Nothing)
    }
}

/// Writes the page of a command and those of its subcommands, and returns their number.
fn write(durable: &Durable, folder: &Path, command: clap::Command, name: &str) -> Result<u64, CommandError> {
    let mut command = command.display_name(name).bin_name(name.replace('-', " "));
    if name == "stoa-migrate" {
        command = command.bin_name("stoa-migrate");
    }
    // Gives the subcommands the options that every command has.
    command.build();
    let path = folder.join(format!("{name}.1"));
    let mut page = Vec::new();
    let title = name.to_uppercase();
    let rendered = Page::new(command.clone()).title(title).render(&mut page);
    rendered.map_err(|error| PathError::new("write", &path, error))?;
    durable.replace_file(&path, TEMPORARY, &page)?;
    let mut count = 1;
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        // `stoa migrate` is stoa-migrate, which has a page of its own.
        let is_other = name == "stoa" && subcommand.get_name() == "migrate";
        if subcommand.get_name() != "help" && !is_other {
            let name = format!("{name}-{}", subcommand.get_name());
            count += write(durable, folder, subcommand.clone(), &name)?;
        }
    }
    Ok(count)
}
