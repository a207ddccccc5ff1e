//! The tree of files that an export writes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use stoa_gomod::{ModulePath, ModuleVersion, Version, info, list, pseudo, query};
use stoa_layout::durable::{self, Durable, FileSystem};
use stoa_layout::error::PathContext;
use stoa_layout::lock::FileLock;
use stoa_layout::marker::Top;
use stoa_layout::{Exit, PathError};

use crate::command::error::CommandError;
use crate::lock::lock;

/// The folder that marks an export. Files are written in it before they are renamed to their places.
const OWN: &str = ".stoa-export";

const LOCK: &str = "lock";

/// How often each byte of a zip is added to the meter: once when the zip is examined, and once when it is copied. A sealed
/// zip of a store is not examined, so its copy counts twice.
pub(in crate::command) const PASSES: u64 = 2;

/// An info or a mod of a version that is exported.
#[derive(Clone, Copy)]
pub(in crate::command) struct GivenFile<'a> {
    pub(in crate::command) bytes: &'a [u8],
    pub(in crate::command) modified: SystemTime,
}

/// A version that is exported.
pub(in crate::command) trait GivenVersion {
    /// Returns the name of the place that has it, for messages.
    fn place(&self) -> String;

    fn modfile(&self) -> GivenFile<'_>;

    fn info(&self) -> GivenFile<'_>;

    fn zip_bytes(&self) -> u64;

    fn zip_modified(&self) -> SystemTime;

    /// Returns whether a file is the same zip, or `None` if it is missing.
    fn is_zip(&self, path: &Path) -> Result<Option<bool>, CommandError>;

    /// Writes the zip into an empty file. Returns why the version is corrupt, if it is.
    fn write_zip(&self, file: &File, at: &Path) -> Result<Option<String>, CommandError>;
}

/// An export that is open for writing. No other process can open it meanwhile.
pub(in crate::command) struct Tree {
    root: PathBuf,
    own: PathBuf,
    durable: Durable,
    file_system: FileSystem,
    next: AtomicU64,
    waiting: Mutex<Batch>,
    _lock: FileLock,
}

/// Files that wait to be synced together, and then to be renamed to their places in this order.
#[derive(Default)]
pub(in crate::command) struct Batch {
    files: Vec<Staged>,
    versions: Vec<(ModuleVersion, u64)>,
}

/// A file under its temporary name.
struct Staged {
    at: PathBuf,
    to: PathBuf,
    /// Whether the file is derived and replaces the existing one.
    replaces: bool,
}

/// The result for one version.
pub(in crate::command) enum Put {
    /// All files are there already.
    Kept(u64),
    /// A file with other content is there.
    Differs(String),
    /// The version is corrupt, or gone meanwhile, for this reason.
    Corrupt(String),
    /// The version cannot be read, for this reason, and none of its files was written.
    Unreadable(String),
    /// The version does not exist.
    Absent,
    /// The version waits to be published.
    Written,
    /// The version was written, and this batch is to be published now.
    Full(Batch),
}

/// More bytes than any info file has.
const SMALL_LIMIT: u64 = 16 << 20;

/// The number of files, and of bytes, that share one wait for the disk.
const BATCH: (usize, u64) = (512, 64 << 20);

impl Tree {
    /// Refuses a folder that is neither an export nor empty.
    pub(super) fn check(root: &Path) -> Result<(), CommandError> {
        if let Some(top) = Top::read(root).map_err(CommandError::of_target)?
            && !(top.markers.is_empty() && top.blocked.is_empty() && top.others_count == 0 && !top.has_lock)
            && !root.join(OWN).is_dir()
        {
            let names: Vec<String> =
                top.others.iter().map(|name| name.to_string_lossy().into_owned()).collect();
            let names = if names.is_empty() { "a store".to_owned() } else { names.join(", ") };
            let message = format!(
                "cannot export to {}: it holds {names}; nothing was written\nhelp: use an empty or missing folder, or an \
                 earlier export",
                root.display()
            );
            return Err(CommandError::new(Exit::CANT_CREATE, message));
        }
        Ok(())
    }

    /// Opens an export. An empty or missing folder becomes one.
    pub(super) fn open(root: &Path) -> Result<Self, CommandError> {
        let own = root.join(OWN);
        durable::create_folder(root).map_err(CommandError::of_target)?;
        let durable = Durable::for_folder(root)?;
        if durable.ensure_dir(&own)? {
            durable::sync_dir(root)?;
        }
        let Some(lock) = FileLock::try_acquire(&own.join(LOCK), &durable)? else {
            let message = format!(
                "cannot export to {}: another export to it is running\nhelp: wait until it ends",
                root.display()
            );
            return Err(CommandError::new(Exit::BUSY, message));
        };
        sweep(&own)?;
        let file_system = FileSystem::of(root)?;
        let (next, waiting) = (AtomicU64::new(1), Mutex::default());
        Ok(Self { root: root.to_owned(), own, durable, file_system, next, waiting, _lock: lock })
    }

    /// Writes the missing files of a version.
    pub(in crate::command) fn put(
        &self,
        version: &ModuleVersion,
        given: &dyn GivenVersion,
    ) -> Result<Put, CommandError> {
        let folder = self.versions(version.path());
        let name = version.version().escaped();
        let place = |ending: &str| folder.join(format!("{name}.{ending}"));
        let (modfile, info) = (given.modfile(), given.info());
        let bytes = modfile.bytes.len() as u64 + given.zip_bytes() + info.bytes.len() as u64;
        let (mut files, mut missing) = (Vec::new(), false);
        for (ending, small) in [("mod", Some(modfile)), ("zip", None), ("info", Some(info))] {
            let to = place(ending);
            let is_same = match (ending, small) {
                ("info", Some(small)) => is_info(&to, small.bytes)?,
                (_, Some(small)) => is_content(&to, small.bytes)?,
                (_, None) => given.is_zip(&to)?,
            };
            match is_same {
                Some(true) => continue,
                Some(false) => {
                    self.drop_all(&files);
                    let reason =
                        format!("{} has other content than in {}, and stays", to.display(), given.place());
                    return Ok(Put::Differs(reason));
                }
                None => {}
            }
            missing = true;
            let at = self.fresh();
            let written = match small {
                Some(small) => {
                    self.write(&at, small.bytes, small.modified).map(|()| None).map_err(Into::into)
                }
                None => self.write_zip(&at, given),
            };
            files.push(Staged { at, to, replaces: false });
            match written {
                Ok(None) => {}
                Ok(Some(corrupt)) => {
                    self.drop_all(&files);
                    return Ok(Put::Corrupt(corrupt));
                }
                Err(error) => {
                    self.drop_all(&files);
                    return Err(error);
                }
            }
        }
        if !missing {
            return Ok(Put::Kept(bytes));
        }
        let mut waiting = lock(&self.waiting);
        waiting.files.append(&mut files);
        waiting.versions.push((version.clone(), bytes));
        let is_full = waiting.files.len() >= BATCH.0
            || waiting.versions.iter().map(|(_, bytes)| bytes).sum::<u64>() >= BATCH.1;
        Ok(if is_full { Put::Full(std::mem::take(&mut *waiting)) } else { Put::Written })
    }

    /// Publishes the last batch.
    pub(super) fn settle(&self, tell: impl Fn(&ModuleVersion, u64)) -> Result<(), CommandError> {
        let batch = std::mem::take(&mut *lock(&self.waiting));
        self.publish(batch, tell)
    }

    /// Waits until the files of a batch are on disk, and renames each to its place.
    pub(super) fn publish(
        &self,
        batch: Batch,
        tell: impl Fn(&ModuleVersion, u64),
    ) -> Result<(), CommandError> {
        if batch.files.is_empty() {
            return Ok(());
        }
        self.file_system.sync()?;
        for Staged { at, to, replaces } in &batch.files {
            let folder = to.parent().unwrap_or(&self.root);
            let below = folder.strip_prefix(&self.root).unwrap_or(folder);
            self.durable.ensure_dirs_unsynced(&self.root, below)?;
            if *replaces {
                durable::rename(at, to)?;
            } else {
                durable::rename_noreplace(at, to)?;
            }
        }
        batch.versions.iter().for_each(|(version, bytes)| tell(version, *bytes));
        Ok(())
    }

    /// Writes the derived files of a module: the list of tagged versions, and the info of the latest version. Without a
    /// tagged version that is the newest pseudo-version.
    pub(super) fn list(&self, module: &ModulePath) -> Result<(), CommandError> {
        let folder = self.versions(module);
        let versions = versions(&folder, module)?;
        if versions.is_empty() {
            return Ok(());
        }
        let body = list::format(&versions);
        self.derive(&folder.join("list"), body.as_bytes())?;
        let newest = || versions.iter().max_by_key(|version| pseudo::time(version.as_str())).cloned();
        if let Some(latest) = query::latest_known(&versions).or_else(newest) {
            let path = folder.join(format!("{}.info", latest.escaped()));
            let info = fs::read(&path).at("read", &path)?;
            self.derive(&folder.with_file_name("@latest"), &info)?;
        }
        Ok(())
    }

    /// Waits until all files are on disk.
    pub(super) fn finish(&self) -> Result<(), CommandError> {
        Ok(self.file_system.sync()?)
    }

    /// Writes a file that replaces an existing one with other content.
    pub(super) fn derive(&self, to: &Path, content: &[u8]) -> Result<(), CommandError> {
        if is_content(to, content)? == Some(true) {
            return Ok(());
        }
        let at = self.fresh();
        self.write(&at, content, SystemTime::now())?;
        let mut waiting = lock(&self.waiting);
        waiting.files.push(Staged { at, to: to.to_owned(), replaces: true });
        if waiting.files.len() < BATCH.0 {
            return Ok(());
        }
        let batch = std::mem::take(&mut *waiting);
        drop(waiting);
        self.publish(batch, |_, _| {})
    }

    /// Returns the folder of the answers of a checksum database.
    pub(super) fn folder_of_database(&self, name: &str) -> PathBuf {
        self.root.join("sumdb").join(name)
    }

    fn versions(&self, module: &ModulePath) -> PathBuf {
        self.root.join(module.escaped() + "/@v")
    }

    fn fresh(&self) -> PathBuf {
        self.own.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    fn write(&self, at: &Path, content: &[u8], modified: SystemTime) -> Result<(), PathError> {
        let file = self.durable.create_file(at)?;
        file.write_all_at(content, 0).at("write", at)?;
        durable::set_modified(&file, at, modified)
    }

    fn write_zip(&self, at: &Path, given: &dyn GivenVersion) -> Result<Option<String>, CommandError> {
        let file = self.durable.create_file(at)?;
        if let Some(corrupt) = given.write_zip(&file, at)? {
            return Ok(Some(corrupt));
        }
        durable::set_modified(&file, at, given.zip_modified())?;
        Ok(None)
    }

    /// Removes temporary files. The next run removes the rest.
    fn drop_all(&self, files: &[Staged]) {
        for file in files {
            let _ = durable::remove_file(&file.at);
        }
    }
}

/// Removes temporary files of a run that was killed.
fn sweep(own: &Path) -> Result<(), CommandError> {
    for entry in fs::read_dir(own).at("list", own)? {
        let entry = entry.at("list", own)?;
        if entry.file_name() != LOCK {
            durable::remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// Opens a regular file in the tree. Returns `None` if it is missing, and an error if the name is not a regular file.
pub(in crate::command) fn open(path: &Path) -> Result<Option<(File, fs::Metadata)>, PathError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => {
            let file = File::open(path).at("open", path)?;
            Ok(Some((file, meta)))
        }
        Ok(_) => {
            let why = io::Error::other("it is not a regular file; move it away");
            Err(PathError::new("write", path, why))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(PathError::new("stat", path, error)),
    }
}

/// Returns whether a file has this content, or `None` if it is missing.
fn is_content(path: &Path, content: &[u8]) -> Result<Option<bool>, PathError> {
    let Some((file, meta)) = open(path)? else { return Ok(None) };
    if meta.len() != content.len() as u64 {
        return Ok(Some(false));
    }
    let mut found = Vec::with_capacity(content.len());
    file.take(meta.len()).read_to_end(&mut found).at("read", path)?;
    Ok(Some(found == content))
}

/// Returns whether an info file has the same meaning, or `None` if it is missing. Upstreams format it differently.
fn is_info(path: &Path, content: &[u8]) -> Result<Option<bool>, PathError> {
    let is_same = is_content(path, content)?;
    if is_same != Some(false) {
        return Ok(is_same);
    }
    let Some((file, meta)) = open(path)? else { return Ok(None) };
    let mut found = Vec::new();
    file.take(meta.len().min(SMALL_LIMIT)).read_to_end(&mut found).at("read", path)?;
    let parsed = |body: &[u8]| info::parse(body).ok();
    Ok(Some(parsed(&found).is_some_and(|found| parsed(content) == Some(found))))
}

/// Returns the versions of a module in the tree.
fn versions(folder: &Path, module: &ModulePath) -> Result<Vec<Version>, PathError> {
    let mut versions = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(versions),
        entries => entries.at("list", folder)?,
    };
    for entry in entries {
        let name = entry.at("list", folder)?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".info"));
        if let Some(version) = stem.and_then(|stem| Version::unescape(stem).ok())
            && ModuleVersion::new(module.clone(), version.clone()).is_ok()
        {
            versions.push(version);
        }
    }
    versions.sort();
    Ok(versions)
}
