//! A tool manager with a home in a versioned layout. It shows how a program uses `stoa-layout`.
//!
//! This is the program that people run. It knows only the current layout (`home.rs`), and it passes the gate before it reads
//! anything. Only `tool_home_migrate` links the older layouts and the steps between them. The gate runs that program if the
//! marker is missing.
//!
//! ```text
//! tool_home --store DIR which NAME          prints the path of the tool NAME
//! tool_home --store DIR run NAME [ARG...]   runs the tool; the home cannot be migrated meanwhile
//! tool_home --store DIR status              prints the state and changes nothing
//! ```

mod home;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

use clap::{Parser, Subcommand};
use stoa_layout::gate::{self, Gate, GateError, Migrator, Mode};
use stoa_layout::{Exit, PathError};

use home::Home;

const MIGRATOR: &str = "tool_home_migrate";

#[derive(Parser)]
struct Args {
    /// The home.
    #[arg(long, env = "TOOL_HOME")]
    store: PathBuf,
    /// Name the command that upgrades the home instead of running it
    #[arg(long)]
    no_migrate: bool,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Print the path of a tool
    Which { name: String },
    /// Run a tool
    Run {
        name: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Print the state of the home
    Status,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Gate(#[from] GateError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("no tool {name} in {home}", home = home.display())]
    NoTool { name: String, home: PathBuf },
}

impl Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Gate(error) => error.exit(),
            Self::Path(error) => error.exit(),
            Self::NoTool { .. } => Exit::FAILED,
        }
    }
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::USAGE } else { Exit::DONE };
            let _ = error.print();
            return exit.into();
        }
    };
    let exit = run(&args).unwrap_or_else(|error| {
        if !matches!(&error, Error::Gate(error) if error.is_reported()) {
            eprintln!("tool_home: {error}");
        }
        error.exit()
    });
    exit.into()
}

fn run(args: &Args) -> Result<Exit, Error> {
    let migrator = match args.no_migrate {
        true => Migrator::Forbidden { name: MIGRATOR },
        false => Migrator::Beside { name: MIGRATOR, arguments: Vec::new() },
    };
    let gate = Gate { root: &args.store, current: &home::LAYOUT, migrator: &migrator };
    match &args.command {
        Verb::Which { name } => {
            let home = Home::open(&gate.pass()?);
            println!("{}", tool(&home, name)?.display());
            Ok(Exit::DONE)
        }
        Verb::Run { name, arguments } => {
            let held = gate.hold(gate.pass()?, Mode::ReadOnly)?;
            let home = Home::open(held.pass());
            let program = tool(&home, name)?;
            let status = Command::new(&program).args(arguments).status();
            Ok(exit_of(status.map_err(|source| PathError::new("run", program, source))?))
        }
        Verb::Status => status(args),
    }
}

fn tool(home: &Home, name: &str) -> Result<PathBuf, Error> {
    home.tool(name)?.ok_or_else(|| Error::NoTool { name: name.to_owned(), home: home.root().to_owned() })
}

/// Prints the state without passing the gate. The migrator knows the state of a home that is not current.
fn status(args: &Args) -> Result<Exit, Error> {
    if home::marker(&args.store).exists() {
        println!("{} is at layout {}", args.store.display(), home::LAYOUT);
        return Ok(Exit::DONE);
    }
    let program = gate::beside_this_program(MIGRATOR);
    let status = Command::new(&program).arg("--dry-run").arg("--store").arg(&args.store).status();
    Ok(exit_of(status.map_err(|source| PathError::new("run", program, source))?))
}

fn exit_of(status: ExitStatus) -> Exit {
    Exit::code_of_child(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
