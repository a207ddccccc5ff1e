//! `stoa path`: prints the path of a file in the store.

use std::os::unix::ffi::OsStrExt;

use clap::{Args, ValueEnum};
use stoa_gomod::ModuleVersion;
use stoa_layout::Exit;
use stoa_store::VersionFile;

use super::context::Context;
use super::error::CommandError;
use super::report::Nothing;
use super::{Command, Entry};

/// Print the path of a version's file in the store
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  unzip -l $(stoa path example.org/module@v1.2.3)
  cat $(stoa path --file mod example.org/module@v1.2.3)

Exit codes: 0 success; 1 the version is not in the store.")]
pub(crate) struct ShowPath {
    /// Module and version, as in example.org/module@v1.2.3
    #[arg(value_name = "MODULE@VERSION", value_parser = ModuleVersion::parse)]
    version: ModuleVersion,

    /// File of the version
    #[arg(long, value_enum, default_value_t)]
    file: FileKind,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum FileKind {
    #[default]
    Zip,
    Mod,
    Info,
}

impl From<FileKind> for VersionFile {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::Zip => Self::Zip,
            FileKind::Mod => Self::Mod,
            FileKind::Info => Self::Info,
        }
    }
}

inventory::submit!(Entry::new::<ShowPath>("path", 40));

impl Command for ShowPath {
    type Summary = Nothing;

    fn run(self, context: &Context<'_>) -> Result<Nothing, CommandError> {
        let store = context.upgrade_and_look()?;
        let Some(path) = store.locate(&self.version, self.file.into())? else {
            let (version, root) = (&self.version, store.root().display());
            return Err(CommandError::new(Exit::FAILED, format!("{version} is not in {root}")));
        };
        // Byte for byte, since a path need not be UTF-8.
        let mut line = path.as_os_str().as_bytes().to_vec();
        line.push(b'\n');
        context.reporter.bytes(&line)?;
        Ok(Nothing)
    }
}
