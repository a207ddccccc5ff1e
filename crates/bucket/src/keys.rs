//! The keys of the objects in a bucket. Modules and versions are written as they are, not escaped, as Athens does.

use sha2::{Digest, Sha256};
use stoa_gomod::{ModulePath, ModuleVersion, Version};

use crate::Nonce;

/// The state: marker and lease.
pub const STATE: &str = "~stoa/state";

/// The folder of all objects of this program. A module path begins with a lower-case letter or a digit, so this sorts
/// after all of them.
pub const OWN: &str = "~stoa";

/// The folder of the checks of the service.
pub(crate) const PROBES: &str = "~stoa/probe";

/// Maximum length of a key in bytes. All services have this limit.
const MAX_KEY: usize = 1024;

/// Maximum length of a part of a key in bytes, in services that keep objects as files.
const MAX_PART: usize = 255;

/// The keys below one ID. A bucket gets a new ID each time it is taken over, so late writes of an earlier time have no
/// effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    id: Nonce,
}

impl Keys {
    /// Returns the keys below an ID.
    pub fn new(id: Nonce) -> Self {
        Self { id }
    }

    /// Returns the ID.
    pub fn id(&self) -> &Nonce {
        &self.id
    }

    /// Returns the folder of everything below the ID.
    pub fn root(&self) -> String {
        format!("{OWN}/{}", self.id)
    }

    /// Returns the folder of all manifests.
    pub fn manifests(&self) -> String {
        format!("{OWN}/{}/m", self.id)
    }

    /// Returns the folder of the manifests of a module.
    pub fn manifests_of(&self, module: &ModulePath) -> String {
        format!("{}/{module}/@v", self.manifests())
    }

    /// Returns the key of a manifest.
    pub fn manifest(&self, version: &ModuleVersion) -> String {
        format!("{}/{}.json", self.manifests_of(version.path()), version.version())
    }

    /// Returns the version of a manifest's key. `None` if it is no such key.
    pub fn version_of_manifest(&self, key: &str) -> Option<ModuleVersion> {
        let rest = key.strip_prefix(&self.manifests())?.strip_prefix('/')?.strip_suffix(".json")?;
        let (module, version) = rest.rsplit_once("/@v/")?;
        ModuleVersion::new(ModulePath::new(module).ok()?, Version::new(version).ok()?).ok()
    }

    /// Returns the folder of the notes about removed versions.
    pub fn all_removed(&self) -> String {
        format!("{OWN}/{}/x", self.id)
    }

    /// Returns the folder of the notes about removed versions of a module.
    pub fn removed_of(&self, module: &ModulePath) -> String {
        format!("{}/{module}/@v", self.all_removed())
    }

    /// Returns the key of the note that a version may have been removed. A list of versions reads only the manifests
    /// of versions that have one.
    pub fn removed(&self, version: &ModuleVersion) -> String {
        format!("{}/{}", self.removed_of(version.path()), version.version())
    }

    /// Returns the version of the key of such a note. `None` if it is no such key.
    pub fn version_of_removed(&self, key: &str) -> Option<ModuleVersion> {
        let rest = key.strip_prefix(&self.all_removed())?.strip_prefix('/')?;
        let (module, version) = rest.rsplit_once("/@v/")?;
        ModuleVersion::new(ModulePath::new(module).ok()?, Version::new(version).ok()?).ok()
    }

    /// Returns the key of the turn to pull from a peer.
    pub fn pull(&self, peer: &str) -> String {
        format!("{OWN}/{}/peers/{peer}.json", self.id)
    }

    /// Returns the folder of all contents.
    pub fn contents(&self) -> String {
        format!("{OWN}/{}/c", self.id)
    }

    /// Returns the key of a content with a fresh name: `zip`, `mod` or `info`.
    pub fn content(&self, version: &ModuleVersion, nonce: &Nonce, kind: &str) -> String {
        format!("{}/{}/@v/{}/{nonce}.{kind}", self.contents(), version.path(), version.version())
    }

    /// Returns the folder of all quarantine entries.
    pub fn quarantine(&self) -> String {
        format!("{OWN}/{}/q", self.id)
    }

    /// Returns the key of a quarantine entry.
    pub fn quarantined(&self, nonce: &Nonce) -> String {
        format!("{}/{nonce}.json", self.quarantine())
    }

    /// Returns the key of the list of removals.
    pub fn gone(&self) -> String {
        format!("{OWN}/{}/gone", self.id)
    }

    /// Returns the folder of all claims.
    pub fn claims(&self) -> String {
        format!("{OWN}/{}/claims", self.id)
    }

    /// Returns the key of the claim of a version.
    pub fn claim(&self, version: &ModuleVersion) -> String {
        let hash = Sha256::digest(version.to_string().as_bytes());
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}/{}/{hex}", self.claims(), &hex[..2])
    }

    /// Returns the folder of the days of last use.
    pub fn uses(&self) -> String {
        format!("{OWN}/{}/used", self.id)
    }

    /// Returns the folder of the servers that have the bucket open.
    pub fn servers(&self) -> String {
        format!("{OWN}/{}/servers", self.id)
    }

    /// Returns whether a service can name all objects of a version below a prefix of this length.
    pub fn can_name(&self, prefix: usize, version: &ModuleVersion) -> bool {
        // 32 hexadecimal digits and a suffix.
        let longest = self.manifest(version).len() + "/.info".len() + 32;
        let parts = version.path().as_str().split('/').chain([version.version().as_str()]);
        prefix + 1 + longest <= MAX_KEY
            && parts.into_iter().all(|part| part.len() + ".json".len() <= MAX_PART)
    }
}

/// One of the three files that Athens saves for a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AthensFile {
    /// `VERSION.info`
    Info,
    /// `VERSION.mod`
    Mod,
    /// `VERSION.zip`
    Zip,
}

impl AthensFile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Info, Self::Mod, Self::Zip];

    /// Returns the suffix of its key.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Mod => "mod",
            Self::Zip => "zip",
        }
    }

    /// Returns its key for a version.
    pub fn key(self, version: &ModuleVersion) -> String {
        format!("{}/@v/{}.{}", version.path(), version.version(), self.suffix())
    }

    /// Returns the version and the file of a key. `None` if it is no such key.
    pub fn parse(key: &str) -> Option<(ModuleVersion, Self)> {
        let (module, name) = key.rsplit_once("/@v/")?;
        let (version, suffix) = name.rsplit_once('.')?;
        let file = Self::ALL.into_iter().find(|file| file.suffix() == suffix)?;
        let version = ModuleVersion::new(ModulePath::new(module).ok()?, Version::new(version).ok()?).ok()?;
        Some((version, file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_manifests_are_read_back() {
        let keys = Keys::new("0123456789abcdef0123456789abcdef".parse().unwrap());
        for pair in ["example.com/m@v1.0.0", "github.com/Azure/x/v2@v2.0.0-RC1", "x.y/v1.2.3/sub@v0.0.0"] {
            let version = ModuleVersion::parse(pair).unwrap();
            let key = keys.manifest(&version);
            assert_eq!(
                key,
                format!("~stoa/{}/m/{}/@v/{}.json", keys.id(), version.path(), version.version())
            );
            assert_eq!(keys.version_of_manifest(&key), Some(version.clone()));
            assert_eq!(keys.version_of_removed(&keys.removed(&version)), Some(version.clone()));
            for file in AthensFile::ALL {
                assert_eq!(AthensFile::parse(&file.key(&version)), Some((version.clone(), file)));
            }
        }
        for other in ["x", "~stoa/x/m/a/@v/v1.0.0.json", "example.com/m/@v/list", "example.com/m/@v/v1.zip"] {
            assert_eq!((keys.version_of_manifest(other), AthensFile::parse(other)), (None, None), "{other}");
        }
    }

    #[test]
    fn names_that_are_too_long_are_found_before_a_request() {
        let keys = Keys::new("0123456789abcdef0123456789abcdef".parse().unwrap());
        let version =
            |length: usize| ModuleVersion::parse(&format!("x.y/{}@v1.0.0", "a".repeat(length))).unwrap();
        assert!(keys.can_name(100, &version(250)) && !keys.can_name(100, &version(251)));
        let deep = ModuleVersion::parse(&format!("x.y{}@v1.0.0", "/abcdefghi".repeat(85))).unwrap();
        assert!(keys.can_name(10, &deep) && !keys.can_name(100, &deep));
    }
}
