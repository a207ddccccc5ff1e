//! The audit log: who changed which version, when and why.
//!
//! ```text
//! records/audit/current       one JSON object per line, appended with one write
//! records/audit/N             older lines; the highest N is the newest
//! ```
//!
//! A line is on disk before the change that it describes, so a crash never leaves a change without its line. It may leave a
//! line without the change. A log that cannot be written is a warning: a full disk must not prevent a removal.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;
use stoa_gomod::ModuleVersion;
use stoa_layout::durable::{self, Durable};
use stoa_layout::error::PathContext;
use stoa_layout::lock::{holders_of, is_at, names};
use stoa_layout::{PathError, marker};

use crate::files::metadata;
use crate::paths::Paths;
use crate::{Store, StoreError};

/// The user and the command that change a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Actor {
    uid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sudo_user: Option<String>,
    pid: u32,
    command: String,
}

impl Actor {
    /// Returns the user of this process, who runs a command. `sudo_user` is the user who became this user by sudo.
    pub fn of_process(command: &str, sudo_user: Option<String>) -> Self {
        let uid = rustix::process::getuid().as_raw();
        let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
        Self {
            uid,
            user: user.map(|user| user.name),
            sudo_user,
            pid: std::process::id(),
            command: command.to_owned(),
        }
    }
}

/// A change that the audit log records.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Act<'a> {
    act: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> Act<'a> {
    /// Returns a change of a version.
    pub fn of_version(act: &'static str, version: &'a ModuleVersion) -> Self {
        let (module, version) = (version.path().as_str(), version.version().as_str());
        Self { module: Some(module), version: Some(version), ..Self::of(act) }
    }

    /// Returns a change of a path, which is relative to the root.
    pub fn of_path(act: &'static str, path: &'a str) -> Self {
        Self { path: Some(path), ..Self::of(act) }
    }

    /// Returns the change with a path, which is relative to the root.
    #[must_use]
    pub fn at(self, path: &'a str) -> Self {
        Self { path: Some(path), ..self }
    }

    /// Returns the change with the new path.
    #[must_use]
    pub fn to(self, to: &'a str) -> Self {
        Self { to: Some(to), ..self }
    }

    /// Returns the change with its reason.
    #[must_use]
    pub fn because(self, reason: Option<&'a str>) -> Self {
        Self { reason, ..self }
    }

    fn of(act: &'static str) -> Self {
        Self { act, module: None, version: None, path: None, to: None, reason: None }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    actor: &'a Actor,
    #[serde(flatten)]
    act: Act<'a>,
}

/// The audit log of a store.
#[derive(Debug, Clone)]
pub struct Audit {
    root: PathBuf,
    durable: Durable,
    actor: Arc<Actor>,
    /// Whether another process held the lock for too long.
    is_locked_out: Arc<AtomicBool>,
}

const CURRENT: &str = "current";

/// The size from which on the current file becomes an older one.
const MAX_BYTES: u64 = 4 << 20;

/// How often a line is appended to a file that is replaced meanwhile.
const ATTEMPTS: u32 = 3;

/// How long to wait for the lock. A holder writes one line, or copies one file.
const PATIENCE: Duration = Duration::from_secs(2);

/// The maximum number of older files.
const MAX_OLDER: u64 = 15;

impl Audit {
    /// Returns the audit log of the store in a folder.
    pub fn new(root: &Path, durable: Durable, actor: Actor) -> Self {
        Self { root: root.to_owned(), durable, actor: Arc::new(actor), is_locked_out: Arc::default() }
    }

    /// Writes the line of a change that follows. A failure is logged.
    pub fn write(&self, act: Act<'_>) {
        warn_if_failed(self.append(act, MAX_BYTES));
    }

    fn append(&self, act: Act<'_>, max_bytes: u64) -> Result<(), StoreError> {
        let records = Paths::new(&self.root).records();
        let below = records.strip_prefix(&self.root).unwrap_or(&records).join("audit");
        let folder = self.durable.ensure_dirs(&self.root, &below)?;
        let current = folder.path().join(CURRENT);
        let line = Line { time: marker::now(), actor: &self.actor, act };
        let line = serde_json::to_string(&line)
            .map_err(|error| PathError::new("append to", &current, std::io::Error::from(error)))?;
        // Nobody renames or replaces the file meanwhile, or reads a part of a line.
        let is_locked = self.lock(&folder);
        let mut appended;
        let mut attempts = 0;
        loop {
            if is_locked {
                self.unshare(&folder)?;
            }
            appended = self.durable.append_line(&current, &line, is_locked)?;
            if appended.is_first {
                folder.sync()?;
            }
            attempts += 1;
            if is_locked || attempts == ATTEMPTS || is_in_log(&appended.file, folder.path())? {
                break;
            }
        }
        if appended.bytes >= max_bytes {
            // No error of this function: its caller may write the line again. The next line tries again.
            warn_if_failed(self.rotate(&folder, max_bytes));
        }
        Ok(())
    }

    /// Locks the folder, and returns whether it did. Whoever may read the folder can hold the lock. So after a vain wait the
    /// next lines do not wait.
    fn lock(&self, folder: &durable::Folder) -> bool {
        let patience = if self.is_locked_out.load(Ordering::Relaxed) { Duration::ZERO } else { PATIENCE };
        let is_locked = folder.lock(patience);
        if !self.is_locked_out.swap(!is_locked, Ordering::Relaxed) && !is_locked {
            let holder = names(&holders_of(folder.path()));
            log::warn!(holder:%, path:% = folder.path().display(); "the audit log is locked, writing without the lock");
        }
        is_locked
    }

    /// Replaces the current file by a copy if a copy of the store made with hard links shares it. Until this succeeds, lines
    /// are in the logs of both stores. The caller holds the lock.
    fn unshare(&self, folder: &durable::Folder) -> Result<(), StoreError> {
        let current = folder.path().join(CURRENT);
        if metadata(&current)?.is_none_or(|meta| !meta.is_file() || meta.links == 1) {
            return Ok(());
        }
        let mut original = File::open(&current).at("open", &current)?;
        let mut content = Vec::new();
        original.read_to_end(&mut content).at("read", &current)?;
        self.durable.replace_alone(&current, ".shared.", &content)?;
        // A process without the lock may have appended meanwhile.
        let mut rest = String::new();
        original.read_to_string(&mut rest).at("read", &current)?;
        for line in rest.lines() {
            self.durable.append_line(&current, line, true)?;
        }
        Ok(folder.sync()?)
    }

    /// Renames the current file, and removes the oldest files. Renaming loses no line, so it needs no lock.
    fn rotate(&self, folder: &durable::Folder, max_bytes: u64) -> Result<(), StoreError> {
        let current = folder.path().join(CURRENT);
        // Without the lock, another process may have done it a moment ago.
        if metadata(&current)?.is_none_or(|meta| meta.len() < max_bytes) {
            return Ok(());
        }
        let mut older = numbers(folder.path())?;
        let mut next = older.last().map_or(1, |newest| newest.saturating_add(1));
        loop {
            match durable::rename_noreplace(&current, &folder.path().join(next.to_string())) {
                Err(error) if error.errno() == Some(rustix::io::Errno::EXIST) => next += 1,
                renamed => break renamed?,
            }
        }
        older.push(next);
        let surplus = older.len().saturating_sub(usize::try_from(MAX_OLDER).unwrap_or(usize::MAX));
        for oldest in &older[..surplus] {
            durable::remove_file(&folder.path().join(oldest.to_string()))?;
        }
        Ok(folder.sync()?)
    }
}

impl Store {
    /// Writes the line of a change that follows, with space of the reserve if the disk is full. A failure is logged.
    pub fn note(&self, act: Act<'_>) {
        warn_if_failed(self.with_reserve(|| self.audit.append(act, MAX_BYTES)));
    }
}

fn warn_if_failed(written: Result<(), StoreError>) {
    if let Err(error) = written {
        log::warn!(reason:% = error; "cannot write to the audit log");
    }
}

/// Returns whether a file is still the current file or an older one. A copy may have replaced it.
fn is_in_log(file: &File, folder: &Path) -> Result<bool, PathError> {
    if is_at(file, &folder.join(CURRENT))? {
        return Ok(true);
    }
    for number in numbers(folder)?.into_iter().rev() {
        if is_at(file, &folder.join(number.to_string()))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the numbers of the older files, ascending.
fn numbers(folder: &Path) -> Result<Vec<u64>, PathError> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder).at("list", folder)? {
        let name = entry.at("list", folder)?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn full_files_are_renamed_and_a_bounded_number_of_them_stays() {
        let dir = testkit::tempdir();
        fs::create_dir(dir.path().join("records")).unwrap();
        let audit = Audit::new(dir.path(), Durable::default(), Actor::of_process("test", None));
        let v = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
        let act = Act::of_version("remove", &v).because(Some("a \"reason\"\nof two lines"));
        for _ in 0..20 {
            audit.append(act, 1 << 20).unwrap();
        }
        let folder = dir.path().join("records/audit");
        let text = fs::read_to_string(folder.join(CURRENT)).unwrap();
        assert_eq!(text.lines().count(), 20);
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!((&line["act"], &line["version"]), (&"remove".into(), &"v1.0.0".into()));
            assert_eq!(line["uid"], rustix::process::getuid().as_raw());
        }
        for _ in 0..20 {
            audit.append(act, 100).unwrap();
        }
        assert!(!folder.join(CURRENT).exists());
        assert_eq!(numbers(&folder).unwrap(), (6..=20).collect::<Vec<_>>());
    }

    #[test]
    fn a_replaced_file_is_no_longer_in_the_log() {
        let dir = testkit::tempdir();
        let current = dir.path().join(CURRENT);
        fs::write(&current, "{}\n").unwrap();
        let file = File::open(&current).unwrap();
        assert!(is_in_log(&file, dir.path()).unwrap());
        fs::rename(&current, dir.path().join("7")).unwrap();
        assert!(is_in_log(&file, dir.path()).unwrap());
        Durable::default().replace_alone(&dir.path().join("7"), ".shared.", b"{}\n").unwrap();
        assert!(!is_in_log(&file, dir.path()).unwrap());
    }

    #[test]
    fn a_file_that_a_copy_shares_is_copied_without_losing_a_line() {
        let dir = testkit::tempdir();
        fs::create_dir(dir.path().join("records")).unwrap();
        let audit = Audit::new(dir.path(), Durable::default(), Actor::of_process("test", None));
        let act = Act::of_path("move", "x");
        audit.append(act, 1 << 20).unwrap();
        let folder = durable::Folder::open(dir.path(), Path::new("records/audit")).unwrap();
        let (current, lines) =
            (folder.path().join(CURRENT), |path: &Path| fs::read_to_string(path).unwrap().lines().count());
        // A process was killed while it copied the file.
        fs::write(folder.path().join(".shared.abcdef"), "").unwrap();
        for number in 0..20 {
            fs::hard_link(&current, dir.path().join(number.to_string())).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| audit.append(act, 1 << 20).unwrap());
                }
            });
            assert_eq!(lines(&current), 1 + 4 * (number + 1));
            assert_eq!(lines(&dir.path().join(number.to_string())), 1 + 4 * number);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // A copy is made before the full file is renamed.
        fs::hard_link(&current, dir.path().join("copy")).unwrap();
        audit.rotate(&folder, 1).unwrap();
        assert_eq!((lines(&folder.path().join("1")), current.exists()), (81, false));
    }
}
