//! The commands that `stoa-migrate` does.
//!
//! The knowledge of old layouts and of other programs lives in that program. `stoa` replaces itself with it, and names
//! it `stoa NAME`, so that its help and its errors show the command that was typed.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::{Arg, ArgAction};
use stoa_layout::gate::beside_this_program;
use stoa_layout::{Exit, durable};

use super::context::Common;
use super::error::CommandError;
use super::{Entry, usage};

/// The file name of the other program.
pub(crate) const MIGRATOR: &str = "stoa-migrate";

inventory::submit!(entry(
    "import",
    110,
    "Copy versions into the store or the bucket from another store, a GOPROXY tree or a module cache",
));
inventory::submit!(entry(
    "import-config",
    120,
    "Print a config file for Stoa made from the configuration of Athens",
));
inventory::submit!(entry(
    "leftovers",
    130,
    "List files that do not belong to the layout of the store, or move them out",
));
inventory::submit!(entry(
    "migrate",
    140,
    "Upgrade or downgrade the store: run stoa-migrate with all further arguments",
));

/// Returns the entry of a command that `stoa-migrate` does.
const fn entry(name: &'static str, order: u32, about: &'static str) -> Entry {
    Entry {
        name,
        order,
        about,
        is_handed_over: true,
        build: |entry| {
            let arguments = Arg::new("arguments").value_name("ARGUMENTS").num_args(0..);
            let arguments = arguments.action(ArgAction::Append).help("Arguments for stoa-migrate");
            clap::Command::new(entry.name)
                .about(entry.about)
                .disable_help_flag(true)
                .arg(arguments.trailing_var_arg(true).allow_hyphen_values(true))
        },
        // Such a command line is recognised before.
        run: |_, start| {
            let command = super::command_line();
            let _ = start;
            usage(&clap::Error::new(clap::error::ErrorKind::InvalidSubcommand).with_cmd(&command))
        },
    }
}

/// Becomes `stoa-migrate`. Returns only if that fails.
pub(crate) fn to_migrator(common: &Common, command: &str, arguments: &[OsString]) -> CommandError {
    let (name, command) = match command {
        "migrate" => ("stoa migrate", None),
        command => ("stoa", Some(OsString::from(command))),
    };
    let program = beside_this_program(MIGRATOR);
    let error =
        Command::new(&program).arg0(name).args(common.handed_on()).args(command).args(arguments).exec();
    let reason = match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied if !durable::is_executable(&program) => {
            "the file is not executable".to_owned()
        }
        _ => error.to_string(),
    };
    // The code is the same as the gate's.
    CommandError::new(Exit::NEWER, format!("cannot run {}: {reason}", program.display()))
        .help("install both programs from the same release, side by side")
}
