//! A tool manager that keeps its home in a versioned layout: how a program uses `stoa-layout`.
//!
//! This is the program that people run. All it knows is the current layout (`home.rs`), and before it reads
//! anything it passes the gate. The layouts from before, and the steps between them, are linked into
//! `tool_home_migrate` alone, which the gate runs if the marker is not there.
//!
//! ```text
//! tool_home --store DIR which NAME          prints where the tool NAME lies
//! tool_home --store DIR run NAME [ARG...]   runs it, and keeps the home from being migrated meanwhile
//! tool_home --store DIR status              looks, and changes nothing
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
    /// Say which command brings the home to the current layout rather than run it.
    #[arg(long)]
    no_migrate: bool,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Prints where a tool lies.
    Which { name: String },
    /// Runs a tool.
    Run {
        name: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Says what the home is.
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

/// Looks without passing the gate. What the home is, if it isn't current, the migrator knows.
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
