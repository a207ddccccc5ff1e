//! The tree of files: what is in it, and how it comes in.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use stoa_gomod::{ModulePath, ModuleVersion, Version, info, list, pseudo, query};
use stoa_layout::durable::{self, CopyError, Durable, FileSystem, clone_or_copy};
use stoa_layout::error::PathContext;
use stoa_layout::lock::FileLock;
use stoa_layout::marker::Top;
use stoa_layout::{Exit, PathError};
use stoa_store::{SmallFile, Store, StoreError, VersionFile, ZipFile};

use super::ExportError;

/// The folder that says that this is an export, and in which files are written before they get their names.
const OWN: &str = ".stoa-export";

const LOCK: &str = "lock";

/// An export that is open for writing, by this process alone.
pub(super) struct Tree {
    root: PathBuf,
    own: PathBuf,
    durable: Durable,
    file_system: FileSystem,
    next: AtomicU64,
    waiting: Mutex<Batch>,
    _lock: FileLock,
}

/// Files that are written and wait to be synced together, and to get their names in this order.
#[derive(Default)]
pub(super) struct Batch {
    files: Vec<Staged>,
    versions: Vec<(ModuleVersion, u64)>,
}

/// A file under the name that it was written with.
struct Staged {
    at: PathBuf,
    to: PathBuf,
    /// Whether it is derived, and replaces what is there.
    replaces: bool,
}

/// What came of a version.
pub(super) enum Put {
    /// All of it is there already.
    Kept(u64),
    /// Something else is there.
    Differs(String),
    /// It is not whole, or gone meanwhile.
    Broken,
    /// It cannot be read, and nothing of it was written.
    Unreadable(StoreError),
    /// It waits to be published.
    Written,
    /// The same, and these may not wait any longer.
    Full(Batch),
}

/// More than any info has.
const SMALL_LIMIT: u64 = 16 << 20;

/// How many files, and how many bytes, share a wait for the disk.
const BATCH: (usize, u64) = (512, 64 << 20);

impl Tree {
    /// Opens a folder that is an export, or makes an empty or missing one to be one.
    pub(super) fn open(root: &Path) -> Result<Self, ExportError> {
        let own = root.join(OWN);
        if let Some(top) = Top::read(root)?
            && !(top.markers.is_empty() && top.blocked.is_empty() && top.others_count == 0 && !top.has_lock)
            && !own.is_dir()
        {
            let names: Vec<String> =
                top.others.iter().map(|name| name.to_string_lossy().into_owned()).collect();
            let names = if names.is_empty() { "a store".to_owned() } else { names.join(", ") };
            let message = format!(
                "{} is no export: it holds {names}; nothing was written. Name an empty or a missing folder, or one that \
                 was exported to before",
                root.display()
            );
            return Err(ExportError::Refused { exit: Exit::CANT_CREATE, message });
        }
        durable::create_root(root)?;
        let durable = Durable::for_root(root)?;
        if durable.ensure_dir(&own)? {
            durable::sync_dir(root)?;
        }
        let Some(lock) = FileLock::try_acquire(&own.join(LOCK), &durable)? else {
            let message = format!("another export to {} is running; wait for its end", root.display());
            return Err(ExportError::Refused { exit: Exit::BUSY, message });
        };
        sweep(&own)?;
        let file_system = FileSystem::of(root)?;
        let (next, waiting) = (AtomicU64::new(1), Mutex::default());
        Ok(Self { root: root.to_owned(), own, durable, file_system, next, waiting, _lock: lock })
    }

    /// Writes what is missing of a version.
    pub(super) fn put(&self, store: &Store, version: &ModuleVersion) -> Result<Put, ExportError> {
        let read = || -> Result<_, StoreError> {
            let Some(zip) = sealed(store, version)? else { return Ok(None) };
            let (modfile, info) =
                (store.small(version, SmallFile::Mod)?, store.small(version, SmallFile::Info)?);
            Ok(modfile.zip(info).map(|(modfile, info)| (zip, modfile, info)))
        };
        let (zip, modfile, info) = match read() {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(Put::Broken),
            Err(error) if error.is_of_one_version() => return Ok(Put::Unreadable(error)),
            Err(error) => return Err(error.into()),
        };
        let folder = self.versions(version.path());
        let name = version.version().escaped();
        let place = |ending: &str| folder.join(format!("{name}.{ending}"));
        let bytes = modfile.bytes.len() as u64 + zip.length + info.bytes.len() as u64;
        let (mut files, mut missing) = (Vec::new(), false);
        for (ending, small) in [("mod", Some(&modfile)), ("zip", None), ("info", Some(&info))] {
            let to = place(ending);
            let is_same = match (ending, small) {
                ("info", Some(small)) => is_info(&to, &small.bytes)?,
                (_, Some(small)) => is_content(&to, &small.bytes)?,
                (_, None) => is_zip(&to, &zip)?,
            };
            match is_same {
                Some(true) => continue,
                Some(false) => {
                    self.drop_all(&files);
                    let reason = format!("{} is another one than in the store, and stands", to.display());
                    return Ok(Put::Differs(reason));
                }
                None => {}
            }
            missing = true;
            let at = self.fresh();
            let written = match small {
                Some(small) => self.write(&at, &small.bytes, small.modified),
                None => self.copy_zip(&at, &zip, store, version),
            };
            files.push(Staged { at, to, replaces: false });
            if let Err(error) = written {
                self.drop_all(&files);
                return Err(error.into());
            }
        }
        if !missing {
            return Ok(Put::Kept(bytes));
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.files.append(&mut files);
        waiting.versions.push((version.clone(), bytes));
        let is_full = waiting.files.len() >= BATCH.0
            || waiting.versions.iter().map(|(_, bytes)| bytes).sum::<u64>() >= BATCH.1;
        Ok(if is_full { Put::Full(std::mem::take(&mut *waiting)) } else { Put::Written })
    }

    /// Publishes what still waits.
    pub(super) fn settle(&self, tell: impl Fn(&ModuleVersion, u64)) -> Result<(), ExportError> {
        let batch = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.publish(batch, tell)
    }

    /// Waits until all of a batch is on disk, and gives each file its name.
    pub(super) fn publish(
        &self,
        batch: Batch,
        tell: impl Fn(&ModuleVersion, u64),
    ) -> Result<(), ExportError> {
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

    /// Writes what is derived for a module: the list of the tagged versions in the tree, and the info of the latest
    /// one, which is the newest of the others where none is tagged.
    pub(super) fn list(&self, module: &ModulePath) -> Result<(), ExportError> {
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

    /// Waits until everything is on disk.
    pub(super) fn finish(&self) -> Result<(), ExportError> {
        Ok(self.file_system.sync()?)
    }

    fn derive(&self, to: &Path, content: &[u8]) -> Result<(), ExportError> {
        if is_content(to, content)? == Some(true) {
            return Ok(());
        }
        let at = self.fresh();
        self.write(&at, content, SystemTime::now())?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.files.push(Staged { at, to: to.to_owned(), replaces: true });
        if waiting.files.len() < BATCH.0 {
            return Ok(());
        }
        let batch = std::mem::take(&mut *waiting);
        drop(waiting);
        self.publish(batch, |_, _| {})
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

    fn copy_zip(
        &self,
        at: &Path,
        zip: &ZipFile,
        store: &Store,
        version: &ModuleVersion,
    ) -> Result<(), PathError> {
        let file = self.durable.create_file(at)?;
        let from = match store.locate(version, VersionFile::Zip) {
            Ok(Some(path)) => path,
            // For a message only.
            _ => store.root().to_owned(),
        };
        match clone_or_copy((zip.file(), &from), (&file, at)) {
            Ok(()) => durable::set_modified(&file, at, zip.modified),
            Err(CopyError::Read(error) | CopyError::Write(error)) => Err(error),
        }
    }

    /// Removes what is of no use any more; what stays is swept by the next run.
    fn drop_all(&self, files: &[Staged]) {
        for file in files {
            let _ = durable::remove_file(&file.at);
        }
    }
}

/// Removes what a run that died left.
fn sweep(own: &Path) -> Result<(), ExportError> {
    for entry in fs::read_dir(own).at("list", own)? {
        let entry = entry.at("list", own)?;
        if entry.file_name() != LOCK {
            durable::remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// Opens a zip that was read whole once. `None` if it is not there, or proved broken.
fn sealed(store: &Store, version: &ModuleVersion) -> Result<Option<ZipFile>, StoreError> {
    loop {
        match store.open_zip(version)? {
            None => return Ok(None),
            Some(zip) if zip.seal.is_some() => return Ok(Some(zip)),
            Some(_) if store.seal(version)?.is_none() => return Ok(None),
            Some(_) => {}
        }
    }
}

/// Opens a regular file in the tree. `None` if nothing is there, an error if something else is.
fn open(path: &Path) -> Result<Option<(File, fs::Metadata)>, PathError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => {
            let file = File::open(path).at("open", path)?;
            Ok(Some((file, meta)))
        }
        Ok(_) => {
            let why = io::Error::other("something that is no file is at its place; move it away");
            Err(PathError::new("write", path, why))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(PathError::new("look at", path, error)),
    }
}

/// Whether a file has this content. `None` if there is none.
fn is_content(path: &Path, content: &[u8]) -> Result<Option<bool>, PathError> {
    let Some((file, meta)) = open(path)? else { return Ok(None) };
    if meta.len() != content.len() as u64 {
        return Ok(Some(false));
    }
    let mut found = Vec::with_capacity(content.len());
    file.take(meta.len()).read_to_end(&mut found).at("read", path)?;
    Ok(Some(found == content))
}

/// Whether a file has an info that says the same: each upstream writes it in its own way. `None` if there is none.
fn is_info(path: &Path, content: &[u8]) -> Result<Option<bool>, PathError> {
    let is_same = is_content(path, content)?;
    if is_same != Some(false) {
        return Ok(is_same);
    }
    let Some((file, meta)) = open(path)? else { return Ok(None) };
    let mut found = Vec::new();
    file.take(meta.len().min(SMALL_LIMIT)).read_to_end(&mut found).at("read", path)?;
    let said = |body: &[u8]| info::parse(body).ok();
    Ok(Some(said(&found).is_some_and(|found| said(content) == Some(found))))
}

/// Whether a zip is the same: surely if size and time are, else by its bytes. `None` if there is none.
fn is_zip(path: &Path, zip: &ZipFile) -> Result<Option<bool>, PathError> {
    let Some((file, meta)) = open(path)? else { return Ok(None) };
    if meta.len() != zip.length {
        return Ok(Some(false));
    }
    if meta.modified().at("look at", path)? == zip.modified {
        return Ok(Some(true));
    }
    let (mut ours, mut theirs) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut at = 0;
    while at < zip.length {
        let count = zip.read(at, &mut ours).at("read the zip of", path)?;
        let other = file.read_at(&mut theirs, at).at("read", path)?.min(count);
        if other == 0 || ours[..other] != theirs[..other] {
            return Ok(Some(false));
        }
        at += other as u64;
    }
    Ok(Some(true))
}

/// Is the versions of a module in the tree.
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
