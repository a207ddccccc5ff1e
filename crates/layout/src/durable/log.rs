//! Files to which lines are appended, and that other programs may rename or cut.

use std::fs::File;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::PathError;

/// Opens a file to append to it, and creates it with mode 0640 if it is missing. Lines are not synced: they may be lost
/// if the machine stops.
pub fn open_log(path: &Path) -> Result<File, PathError> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    let file =
        rustix::fs::open(path, flags, mode).map_err(|errno| PathError::new("append to", path, errno))?;
    Ok(File::from(file))
}
