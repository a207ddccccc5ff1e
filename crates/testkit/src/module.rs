//! Module versions made for tests.

use std::path::{Path, PathBuf};

use stoa_gomod::ModuleVersion;

/// A module version made for a test.
#[derive(Debug, Clone)]
pub struct Module {
    pub version: ModuleVersion,
    pub info: Vec<u8>,
    pub modfile: Vec<u8>,
    pub zip: Vec<u8>,
}

impl Module {
    pub fn new(pair: &str, bytes: usize) -> Self {
        let version = ModuleVersion::parse(pair).expect("a valid pair");
        let modfile = format!("module {}\n\ngo 1.21\n", version.path()).into_bytes();
        let noise = noise(pair, bytes);
        let files = [
            ("go.mod", modfile.as_slice()),
            ("m.go", b"package m\n\nconst Answer = 42\n".as_slice()),
            ("noise.bin", noise.as_slice()),
        ];
        let zip = stoa_gomod::zip::create(&version, files).expect("valid files");
        let info = format!("{{\"Version\":\"{}\",\"Time\":\"2024-01-02T03:04:05Z\"}}", version.version());
        Self { version, info: info.into_bytes(), modfile, zip }
    }

    /// Returns the path of one of its files, as it is asked for.
    pub fn path(&self, extension: &str) -> String {
        format!("/{}/@v/{}.{extension}", self.version.path().escaped(), self.version.version().escaped())
    }

    /// Flips a byte of the largest file's content: the rules for zips hold, the CRC does not.
    pub fn with_bad_crc(mut self) -> Self {
        let middle = self.zip.len() / 2;
        self.zip[middle] ^= 0xff;
        self
    }

    /// Puts the version into a store as a migration does: whole, and not sealed.
    pub fn put_unsealed(&self, root: &Path) -> PathBuf {
        let (path, version) = (self.version.path().escaped(), self.version.version().escaped());
        let folder = root.join("modules").join(path).join("@v").join(version);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, content) in [("mod", &self.modfile), ("zip", &self.zip), ("info", &self.info)] {
            std::fs::write(folder.join(name), content).unwrap();
        }
        folder
    }

    /// Puts the version into an Athens disk store.
    pub fn put_v0(&self, root: &Path) -> PathBuf {
        let version = self.version.version().as_str();
        let folder = root.join(self.version.path().as_str()).join(version);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("go.mod"), &self.modfile).unwrap();
        std::fs::write(folder.join("source.zip"), &self.zip).unwrap();
        std::fs::write(folder.join(format!("{version}.info")), &self.info).unwrap();
        folder
    }

    /// Puts the version into a GOPROXY file tree at `base`: the root of a tree, or `modules` at layout v1.
    pub fn put_flat(&self, base: &Path) -> PathBuf {
        let folder = base.join(self.version.path().escaped()).join("@v");
        std::fs::create_dir_all(&folder).unwrap();
        for (ending, content) in [("mod", &self.modfile), ("zip", &self.zip), ("info", &self.info)] {
            let name = format!("{}.{ending}", self.version.version().escaped());
            std::fs::write(folder.join(name), content).unwrap();
        }
        folder
    }
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: &str, bytes: usize) -> Vec<u8> {
    let mut state = seed.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}
