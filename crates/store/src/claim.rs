//! The claim of a version: a process holds it while it publishes, seals, quarantines or removes the version.
//!
//! A claim is an open-file-description lock on one byte of `staging/claims`. The offset is 62 bits of the SHA-256 of
//! `path@version`, and each claim has its own descriptor. Nothing is created, deleted or swept per version, and the
//! kernel frees the claim of a dead process at once. Two versions rarely share a byte, and then only wait for each
//! other.
//!
//! A copy of the store made with hard links shares the file, so a process that opens the store replaces a file with several
//! names while it holds no claim. For this reason a process checks after locking that the path still names the file.
//!
//! Records are only written under the claim, so a claim remembers the record of its version once it is read.
//!
//! Readers take no claim. Lock order: `store.lock`, then one claim. No operation holds two claims at once.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use stoa_gomod::ModuleVersion;
use stoa_layout::PathError;
use stoa_layout::durable::Durable;
use stoa_layout::error::PathContext;
use stoa_layout::lock::is_at;

use crate::files::open_file;
use crate::{Record, StoreError};

/// A lock on one version, which allows to change it. Released when dropped or when the process dies.
#[derive(Debug)]
pub struct Claim {
    _file: File,
    version: ModuleVersion,
    /// The record of the version, once it is read.
    record: Mutex<Option<Option<Record>>>,
}

impl Claim {
    /// Returns the claimed version.
    pub fn version(&self) -> &ModuleVersion {
        &self.version
    }

    /// Returns the record of the claimed version as far as this claim has read or written it, without reading the disk.
    pub fn known_record(&self) -> Option<Record> {
        self.record().clone().flatten()
    }

    /// Returns whether this claim has read or written the record. It is unknown while it is being written.
    pub fn knows_record(&self) -> bool {
        self.record().is_some()
    }

    /// Returns the place of the record of the version.
    pub(crate) fn record(&self) -> MutexGuard<'_, Option<Option<Record>>> {
        // No code that can panic runs under this lock.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new(file: File, version: &ModuleVersion) -> Self {
        Self { _file: file, version: version.clone(), record: Mutex::default() }
    }

    pub(crate) fn try_take(
        claims: &Path,
        durable: &Durable,
        version: &ModuleVersion,
    ) -> Result<Option<Self>, StoreError> {
        for _ in 0..ATTEMPTS {
            let file = durable.open_or_create(claims)?;
            if !lock_bytes(&file, (offset(version), 1)).at("lock", claims)? {
                return Ok(None);
            }
            if is_at(&file, claims)? {
                return Ok(Some(Self::new(file, version)));
            }
        }
        let replaced = std::io::Error::other("other programs keep replacing it");
        Err(PathError::new("lock", claims, replaced).into())
    }

    /// Replaces the file of the claims if a copy of the store shares it and no process holds a claim. Otherwise the claims
    /// of both stores exclude each other, which is safe.
    pub(crate) fn unshare(claims: &Path, durable: &Durable, replace: impl FnOnce() -> Result<(), PathError>) {
        let Ok(Some((file, meta))) = open_file(claims) else { return };
        if meta.links == 1 {
            return;
        }
        drop(file);
        // The lock is for writing.
        let Ok(file) = durable.open_or_create(claims) else { return };
        if lock_bytes(&file, (0, 0)).is_ok_and(|taken| taken) && is_at(&file, claims).is_ok_and(|is_at| is_at)
        {
            // If this fails, the claims stay shared.
            let _ = replace();
        }
    }
}

/// How often the file may be replaced while it is locked. After that the claim is not taken.
const ATTEMPTS: u32 = 8;

/// Returns the byte that stands for a version.
pub(crate) fn offset(version: &ModuleVersion) -> i64 {
    let digest = Sha256::digest(version.to_string());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    // 62 bits, because the end of the locked range must not overflow either.
    i64::try_from(u64::from_be_bytes(first) >> 2).unwrap_or(0)
}

/// Locks a range of a file, up to the end of all files if its length is 0.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn lock_bytes(file: &File, (offset, length): (i64, i64)) -> std::io::Result<bool> {
    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc::{F_WRLCK, SEEK_SET, flock};

    let byte =
        flock { l_type: F_WRLCK as i16, l_whence: SEEK_SET as i16, l_start: offset, l_len: length, l_pid: 0 };
    loop {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&byte)) {
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Locks the whole file, for systems without locks on a part of a file.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn lock_bytes(file: &File, _: (i64, i64)) -> std::io::Result<bool> {
    use rustix::fs::{FlockOperation, flock};
    use rustix::io::Errno;

    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_at_most_one_claim() {
        let dir = testkit::tempdir();
        let claims = dir.path().join("claims");
        let durable = Durable::default();
        let [a, b] =
            ["example.com/a@v1.0.0", "example.com/b@v1.0.0"].map(|pair| ModuleVersion::parse(pair).unwrap());
        let first = Claim::try_take(&claims, &durable, &a).unwrap().unwrap();
        assert!(Claim::try_take(&claims, &durable, &a).unwrap().is_none());
        assert!(Claim::try_take(&claims, &durable, &b).unwrap().is_some());
        drop(first);
        assert!(Claim::try_take(&claims, &durable, &a).unwrap().is_some());
    }

    #[test]
    fn a_file_of_claims_that_a_copy_shares_is_replaced() {
        let dir = testkit::tempdir();
        let [claims, copy] = ["claims", "copy"].map(|name| dir.path().join(name));
        let durable = Durable::default();
        let v = ModuleVersion::parse("example.com/a@v1.0.0").unwrap();
        let held = Claim::try_take(&claims, &durable, &v).unwrap().unwrap();
        std::fs::hard_link(&claims, &copy).unwrap();
        let unshare = || Claim::unshare(&copy, &durable, || durable.replace_file(&copy, ".t.", b""));
        unshare();
        assert!(Claim::try_take(&copy, &durable, &v).unwrap().is_none(), "the claim may belong to the copy");
        drop(held);
        unshare();
        let _held = Claim::try_take(&claims, &durable, &v).unwrap().unwrap();
        assert!(Claim::try_take(&copy, &durable, &v).unwrap().is_some());
    }

    #[test]
    fn offsets_fit_into_62_bits() {
        for n in 0..200 {
            let version = ModuleVersion::parse(&format!("example.com/a@v1.0.{n}")).unwrap();
            assert!((0..1 << 62).contains(&offset(&version)));
        }
    }
}
