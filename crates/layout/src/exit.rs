//! Exit codes, after BSD's `sysexits.h`. Each code has one meaning in all programs that use this crate.

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// Success, or nothing to do.
    pub const DONE: Self = Self(0);
    /// The check failed, for example because a version is missing or does not match.
    pub const FAILED: Self = Self(1);
    /// The command line or the configuration is wrong.
    pub const USAGE: Self = Self(64);
    /// The folder is not a store, or has two markers.
    pub const NOT_A_STORE: Self = Self(65);
    /// An upstream is unavailable.
    pub const UNAVAILABLE: Self = Self(69);
    /// A file or folder cannot be created, or a name is in the way.
    pub const CANT_CREATE: Self = Self(73);
    /// Input or output failed.
    pub const IO: Self = Self(74);
    /// The store is in use; try again later.
    pub const BUSY: Self = Self(75);
    /// Permission denied, or the file system is read-only.
    pub const PERMISSION: Self = Self(77);
    /// The store is newer than this program, or in a step that this program must not continue.
    pub const NEWER: Self = Self(78);

    /// Returns the code for a signal, as shells do: 128 plus the signal's number.
    pub fn signal(number: i32) -> Self {
        Self(u8::try_from(number.saturating_add(128)).unwrap_or(u8::MAX))
    }

    /// Returns the code that a child process ended with.
    pub fn code_of_child(code: u8) -> Self {
        Self(code)
    }

    /// Returns the number.
    pub fn code(self) -> u8 {
        self.0
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}
