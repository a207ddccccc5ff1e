//! Removing an entry from quarantine: one rename into staging, where it is then removed.

use std::ffi::OsStr;
use std::path::Path;

use rustix::io::Errno;
use stoa_layout::{PathError, durable};

use super::{CONTENT, Quarantine, QuarantineEntry};
use crate::audit::Act;
use crate::{StoreError, VersionFile};

impl Quarantine<'_> {
    /// Removes an entry from quarantine and returns it. `None` if there is no entry of this name.
    ///
    /// A killed process leaves the whole entry, or the rest of it in staging, which the next start removes.
    pub fn purge(&self, id: &OsStr) -> Result<Option<QuarantineEntry>, StoreError> {
        let store = self.0;
        let staged = store.with_reserve(|| Ok(store.staging()?.fresh()))?;
        let quarantine = store.paths.quarantine();
        let Some(mut entry) = QuarantineEntry::read(&quarantine, id)? else { return Ok(None) };
        // An entry without content may be in creation, so the claim is needed. An entry with content needs no claim:
        // only a restore touches it too, and the first rename wins without a loss.
        let version = entry.why.as_ref().and_then(|why| why.module_version());
        let claim = match &version {
            Some(version) if entry.bytes.is_none() => {
                let claim = store.with_reserve(|| store.claim(version))?;
                match QuarantineEntry::read(&quarantine, id)? {
                    Some(now) => entry = now,
                    None => return Ok(None),
                }
                Some(claim)
            }
            _ => None,
        };
        let name = format!("quarantine/{}", id.to_string_lossy());
        let act = match &version {
            Some(version) => Act::of_version("purge", version).at(&name),
            None => Act::of_path("purge", &name),
        };
        store.note(act.because(entry.why.as_ref().map(|why| why.reason.as_str())));
        let path = quarantine.join(id);
        match store.with_reserve(|| Ok(durable::rename(&path, &staged)?)) {
            Err(StoreError::Path(error)) if error.errno() == Some(Errno::NOENT) => return Ok(None),
            Err(StoreError::Path(error)) if durable::is_unmovable_dir(&error, &path) => {
                // Not one rename, so a restore must not run meanwhile.
                let _claim = match (&version, claim) {
                    (Some(version), None) => Some(store.claim(version)?),
                    (_, claim) => claim,
                };
                remove_entry(&path)?;
                durable::sync_dir(&quarantine)?;
                return Ok(Some(entry));
            }
            renamed => renamed?,
        }
        durable::sync_dir(&quarantine)?;
        durable::remove_tree(&staged)?;
        store.fill_used_reserve();
        Ok(Some(entry))
    }
}

/// Removes an entry that cannot be renamed: the content first, because the next start removes an entry without content.
pub(super) fn remove_entry(entry: &Path) -> Result<(), PathError> {
    let content = entry.join(CONTENT);
    // Below a symlink are files of another folder.
    let is_folder = content.symlink_metadata().is_ok_and(|meta| meta.is_dir());
    let first = if is_folder { content.join(VersionFile::Info.name()) } else { content.clone() };
    match durable::remove_file(&first) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    durable::remove_tree(&content)?;
    durable::remove_tree(entry)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::{Fixture, put_unsealed, staged, version};

    #[test]
    fn a_purge_removes_one_entry_and_nothing_else() {
        let fixture = Fixture::new();
        for pair in ["example.com/m@v1.0.0", "example.com/m@v1.0.1"] {
            let v = version(pair);
            put_unsealed(&fixture.store, &v, b"no zip");
            fixture.store.seal(&v).unwrap();
        }
        let quarantine = fixture.dir.path().join("quarantine");
        let names = || -> Vec<_> {
            fs::read_dir(&quarantine).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        let id = names().remove(0);
        let purged = fixture.store.quarantine().purge(&id).unwrap().unwrap();
        assert!(purged.bytes > Some(6) && purged.why.is_some());
        assert_eq!(names().len(), 1);
        assert_eq!(fixture.store.quarantine().purge(&id).unwrap(), None);
        for bad in ["", "..", "../modules", "."] {
            assert_eq!(fixture.store.quarantine().purge(OsStr::new(bad)).unwrap(), None, "{bad}");
        }
        assert!(staged(fixture.dir.path()).is_empty());
    }
}
