//! The answers of the checksum database in an export, so that the go command verifies without a network.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use stoa_gomod::ModuleVersion;
use stoa_layout::Cancel;
use stoa_store::{Store, verdict_at};

use super::report::Report;
use super::tree::Tree;
use crate::command::context::Context;
use crate::command::error::CommandError;
use crate::command::with_sumdb::{Asking, lookups, with_sumdb};
use crate::services::Services;
use crate::sumdb::{Carried, Records};

/// Writes the records of the versions that a database has confirmed, with their proofs. Records of an earlier export
/// get the new tree head.
pub(super) fn export(
    context: &Context<'_>,
    store: &Arc<Store>,
    confirmed: &[ModuleVersion],
    tree: &Tree,
    cancel: &Cancel,
    report: &Report<'_>,
) -> Result<(), CommandError> {
    if confirmed.is_empty() {
        return Ok(());
    }
    let carried = with_sumdb(context.settings, store, Asking::Configured, async |services| {
        carry(services, confirmed, tree, cancel).await
    })?;
    report.records(carried.records, &carried.failed);
    Ok(())
}

/// Returns the stored versions with a verdict of a database. Only their names are held in memory.
pub(super) fn confirmed(store: &Store) -> Result<Vec<ModuleVersion>, CommandError> {
    let (mut confirmed, mut failed) = (Vec::new(), None);
    store.each_version(|version| {
        match verdict_at(store.root(), &version) {
            Ok(Some(verdict)) if !verdict.is_of_go_sum() => confirmed.push(version),
            Ok(_) => {}
            Err(error) => failed = Some(error),
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(confirmed), |error| Err(error.into()))
}

async fn carry(
    services: &Services,
    confirmed: &[ModuleVersion],
    tree: &Tree,
    cancel: &Cancel,
) -> Result<Carried, CommandError> {
    let sumdb = &services.sumdb;
    let Some(name) = sumdb.database_name() else { return Ok(Carried::default()) };
    let folder = tree.folder_of_database(name);
    let mut records = Records::default();
    earlier(&folder, &mut records)?;
    let mut failed = Vec::new();
    for version in confirmed {
        cancel.check()?;
        if let Err(reason) = sumdb.find_record(version, &mut records).await {
            failed.push((version.to_string(), reason));
        }
    }
    let previous = fs::read(folder.join("latest")).ok();
    let put = |path: &str, content: &[u8]| {
        cancel.check()?;
        tree.derive(&folder.join(path), content)
    };
    let mut carried = sumdb.carry(&records, previous.as_deref(), put).await?;
    carried.failed.extend(failed);
    tree.settle(|_, _| {})?;
    tree.finish()?;
    Ok(carried)
}

/// Reads the records of an earlier export.
fn earlier(folder: &Path, records: &mut Records) -> Result<(), CommandError> {
    for path in lookups(folder)? {
        if let (Some(name), Ok(body)) =
            (path.strip_prefix(folder).ok().and_then(Path::to_str), fs::read(&path))
        {
            records.add_body(name.to_owned(), &body);
        }
    }
    Ok(())
}
