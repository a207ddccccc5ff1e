//! The programs under test, as cargo built them for the binary that runs.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::OnceLock;

/// The paths that cargo tells test binaries and benches only. Made by the macro [`built!`](crate::built!).
#[derive(Debug, Clone, Copy)]
pub struct Built {
    pub stoa: &'static str,
    pub migrate: &'static str,
    /// A folder for what is built once and kept.
    pub scratch: &'static str,
}

/// Takes the paths of the programs from cargo. For the root package's test binaries and benches.
#[macro_export]
macro_rules! built {
    () => {
        $crate::Built {
            stoa: env!("CARGO_BIN_EXE_stoa"),
            migrate: env!("CARGO_BIN_EXE_stoa-migrate"),
            scratch: env!("CARGO_TARGET_TMPDIR"),
        }
    };
}

static BUILT: OnceLock<Built> = OnceLock::new();

/// Sets the programs under test. Test binaries do this through [`run`](crate::run), benches by themselves.
pub fn set(built: Built) {
    let _ = BUILT.set(built);
}

fn get() -> &'static Built {
    BUILT.get().expect("the binary sets the programs before its tests")
}

/// Returns the folder for what is built once and kept.
pub(crate) fn scratch() -> &'static Path {
    Path::new(get().scratch)
}

/// A program under test. It can be used as a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Stoa,
    Migrate,
}

/// The program under test.
pub const STOA: Program = Program::Stoa;

/// The migrator under test.
pub const MIGRATE: Program = Program::Migrate;

impl Program {
    /// Returns the program's path.
    pub fn path(self) -> &'static Path {
        Path::new(match self {
            Self::Stoa => get().stoa,
            Self::Migrate => get().migrate,
        })
    }
}

impl AsRef<OsStr> for Program {
    fn as_ref(&self) -> &OsStr {
        self.path().as_os_str()
    }
}

impl AsRef<Path> for Program {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}
