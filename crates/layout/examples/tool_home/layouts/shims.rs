//! The shims: `bin/NAME`, a symlink to the newest version of a tool. They are derived, so they are an artefact.
//!
//! A shim is replaced by renaming a complete symlink, so it exists at every instant. Other files in `bin` belong to the user
//! and are never replaced or removed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use stoa_layout::{Artefact, Context, Event, LayoutId, PathError, StepError, durable};

use super::scan;
use super::toolchain::Toolchain;

/// The prefix of complete shims that are not yet renamed.
const TEMPORARY_PREFIX: &str = ".shim.";

/// The shims of one layout.
pub(crate) struct Shims {
    pub(crate) layout: LayoutId,
    pub(crate) toolchains: fn(&Path) -> Result<Vec<Toolchain>, PathError>,
    pub(crate) place: fn(&Toolchain) -> PathBuf,
}

impl Shims {
    /// Returns the target of the shim of a toolchain.
    fn target(&self, toolchain: &Toolchain) -> PathBuf {
        Path::new("..").join((self.place)(toolchain)).join("bin").join(toolchain.name())
    }

    /// Returns whether a shim with this name and target belongs to this layout.
    fn is_ours(&self, name: &str, target: &Path) -> bool {
        let parts: Vec<&str> = target.iter().filter_map(|part| part.to_str()).collect();
        let toolchain = match parts.as_slice() {
            ["..", _, joined, "bin", _] => Toolchain::parse_joined(joined),
            ["..", _, tool, version, "bin", _] => Toolchain::parse(tool, version),
            _ => None,
        };
        toolchain.is_some_and(|each| each.name() == name && self.target(&each) == target)
    }
}

impl Artefact for Shims {
    fn name(&self) -> &str {
        "bin"
    }

    fn layout(&self) -> LayoutId {
        self.layout.clone()
    }

    fn is_required(&self) -> bool {
        true
    }

    fn build(&self, context: &Context<'_>) -> Result<(), StepError> {
        let bin = context.root().join("bin");
        context.lock.durable().ensure_dir(&bin)?;
        // The list is sorted, so the newest version of each name comes last and stays.
        let newest: BTreeMap<String, Toolchain> = (self.toolchains)(context.root())?
            .into_iter()
            .map(|toolchain| (toolchain.name().to_owned(), toolchain))
            .collect();
        for (name, toolchain) in &newest {
            context.work.cancel.check()?;
            let (shim, target) = (bin.join(name), self.target(toolchain));
            match content(&shim)? {
                Content::Shim(old) if old == target => {}
                Content::Nothing | Content::Shim(_) => {
                    context.lock.durable().replace_symlink(&target, &shim, TEMPORARY_PREFIX)?;
                }
                Content::Foreign => {
                    let text = format!("{} is no shim and stays; it hides the tool {name}", shim.display());
                    context.work.events.event(Event::Warning(text));
                }
            }
        }
        self.sweep(&bin, |name| !newest.contains_key(name))?;
        Ok(())
    }

    fn remove(&self, context: &Context<'_>) -> Result<(), StepError> {
        Ok(self.sweep(&context.root().join("bin"), |_| true)?)
    }
}

impl Shims {
    /// Removes stale shims of this layout, and temporaries of a killed run.
    fn sweep(&self, bin: &Path, is_stale: impl Fn(&str) -> bool) -> Result<(), PathError> {
        for (name, path) in scan::entries(bin)? {
            let Ok(target) = fs::read_link(&path) else { continue };
            if name.starts_with(TEMPORARY_PREFIX) || self.is_ours(&name, &target) && is_stale(&name) {
                durable::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// The file with the name of a shim.
enum Content {
    Nothing,
    /// A symlink to a toolchain of any layout.
    Shim(PathBuf),
    Foreign,
}

fn content(path: &Path) -> Result<Content, PathError> {
    match fs::read_link(path) {
        Ok(target) if target.starts_with("../tools") || target.starts_with("../toolchains") => {
            Ok(Content::Shim(target))
        }
        Ok(_) => Ok(Content::Foreign),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Content::Nothing),
        // The file is not a symlink.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(Content::Foreign),
        Err(error) => Err(PathError::new("read", path, error)),
    }
}
