//! Exit codes, after BSD's `sysexits.h`, with one meaning each in all programs that use this crate.

/// How a program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// Done, or nothing to do.
    pub const DONE: Self = Self(0);
    /// What was asked for is not so.
    pub const FAILED: Self = Self(1);
    /// The command line or the configuration is wrong.
    pub const USAGE: Self = Self(64);
    /// The folder is not a store, or has two markers.
    pub const NOT_A_STORE: Self = Self(65);
    /// An upstream is not available.
    pub const UNAVAILABLE: Self = Self(69);
    /// Something cannot be created, or a name is in the way.
    pub const CANT_CREATE: Self = Self(73);
    /// Input or output failed.
    pub const IO: Self = Self(74);
    /// Busy; try later.
    pub const BUSY: Self = Self(75);
    /// Permission is missing, or the file system is read-only.
    pub const PERMISSION: Self = Self(77);
    /// The store is newer than this program, or in a step that it must not continue.
    pub const NEWER: Self = Self(78);

    /// Says that a signal ended the program, as shells do: 128 and the signal's number.
    pub fn signal(number: i32) -> Self {
        Self(u8::try_from(number.saturating_add(128)).unwrap_or(u8::MAX))
    }

    /// Takes over the code that another program ended with.
    pub fn code_of_child(code: u8) -> Self {
        Self(code)
    }

    /// Is the number.
    pub fn code(self) -> u8 {
        self.0
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}
