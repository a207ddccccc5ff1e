//! The answers of the checksum database beside a tree or in a module cache: each is proved before it is used.

use std::path::Path;
use std::sync::Arc;

use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_layout::Cancel;
use stoa_store::Store;

use super::report::{Report, Verdict};
use crate::command::error::CommandError;
use crate::command::with_sumdb::{Asking, lookups, with_sumdb};
use crate::config::Settings;
use crate::sumdb::Standing;

/// Takes the records below `sumdb/` of a folder into the cache, and compares stored versions with them.
pub(super) fn import(
    settings: &Settings<'_>,
    from: &Path,
    store: &Arc<Store>,
    cancel: &Cancel,
    report: &Report<'_>,
) -> Result<(), CommandError> {
    let all = from.join("sumdb");
    if !all.is_dir() {
        return Ok(());
    }
    with_sumdb(settings, store, Asking::Nobody, async |services| {
        let Some(name) = services.sumdb.database_name() else { return Ok(()) };
        let folder = all.join(name);
        let (mut taken, mut failed) = (0, Vec::new());
        for path in lookups(&folder)? {
            cancel.check()?;
            let name = path.strip_prefix(folder.join("lookup")).ok().and_then(Path::to_str);
            let Some(version) = name.and_then(version_of) else { continue };
            match services.sumdb.take_record(&folder, &version).await {
                Ok(Standing::Absent | Standing::Confirmed) => taken += 1,
                Ok(Standing::Differs(reason)) => report.version(&version, Verdict::Differs(&reason)),
                Ok(Standing::Unconfirmed(reason)) => failed.push((version.to_string(), reason.to_string())),
                Ok(_) => {}
                Err(error) => return Err(CommandError::new(stoa_layout::Exit::IO, error)),
            }
        }
        report.records(taken, &failed);
        Ok(())
    })
}

fn version_of(name: &str) -> Option<ModuleVersion> {
    let (path, version) = name.split_once('@')?;
    ModuleVersion::new(ModulePath::unescape(path).ok()?, Version::unescape(version).ok()?).ok()
}
