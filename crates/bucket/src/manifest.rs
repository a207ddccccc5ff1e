//! The manifest of a version: one small object that says whether the version exists, and where its content is.
//!
//! A manifest is never deleted. A version that was removed has a manifest with the state `absent`, which names no
//! content and keeps the hashes, the verdict and the tombstone. So a writer that was suspended and writes late is refused.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use stoa_gomod::{H1, ModuleVersion, h1};

use crate::{BucketError, Document, Nonce, Tag, Trouble};

/// The format that this program writes.
const FORMAT: u32 = 1;

/// The maximum size of an info or a go.mod in bytes, plus one: a larger file is found to be too large.
pub(crate) const MAX_SMALL: u64 = (16 << 20) + 1;

/// Larger info and mod files have an object of their own.
pub(crate) const MAX_INLINE: usize = 256 << 10;

/// The manifest of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of the manifest.
    pub format: u32,
    /// The version.
    pub version: ModuleVersion,
    /// Whether the version exists.
    pub state: Presence,
    /// The nonce of the last write.
    pub nonce: Nonce,
    /// The time of the publication, RFC 3339 in UTC. It stays when the version is removed.
    pub published_at: String,
    /// The origin of the content.
    pub origin: Origin,
    /// The content. `None` if the version is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<VersionContent>,
    /// The known hashes and the tombstone, whether the version exists or not.
    #[serde(default, skip_serializing_if = "Record::is_empty")]
    pub record: Record,
}

/// Whether a version exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// It exists.
    Present,
    /// It was removed, or is in quarantine.
    Absent,
}

/// The origin of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Athens saved it.
    Adopted,
    /// A server downloaded it.
    Filled,
    /// It was imported.
    Imported,
}

/// The content of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionContent {
    /// The info.
    pub info: SmallContent,
    /// The go.mod.
    #[serde(rename = "mod")]
    pub modfile: SmallContent,
    /// The zip.
    pub zip: ZipContent,
}

/// The content of an info or a mod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SmallContent {
    /// A text.
    Text(String),
    /// Bytes that are not UTF-8, in base64.
    Base64(String),
    /// An object of its own.
    Object(ObjectContent),
}

/// An object with content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectContent {
    /// The key.
    pub key: String,
    /// The size in bytes.
    pub size: u64,
    /// The ETag that the object must still have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// The zip of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZipContent {
    /// The key.
    pub key: String,
    /// The size in bytes.
    pub size: u64,
    /// The ETag that the object must still have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The seal: the hash of the zip. `None` if nobody has verified the zip yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub h1: Option<H1>,
}

/// The known hashes of a version, and its tombstone. The fields mean the same as in the record of a store in a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The hash that the zip must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub h1: Option<H1>,
    /// The hash that the go.mod must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gomod_h1: Option<H1>,
    /// The confirmation of the hashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tombstone: Option<Tombstone>,
    /// The lifting of the last tombstone, if there is no tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lift: Option<Lift>,
}

/// The confirmation of hashes by a checksum database, or by a go.sum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The name of the database, or `go.sum`.
    pub database: String,
    /// The size of the tree that holds them. 0 for a go.sum.
    pub tree_size: u64,
    /// The time of the confirmation, RFC 3339 in UTC.
    pub at: String,
}

/// A tombstone: the version was removed for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The time of the removal, RFC 3339 in UTC.
    pub at: String,
    /// The reason, which clients see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The name of the deployment that set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Its number among the marks of the version. `None` in a manifest of an earlier release: it counts as 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<u64>,
}

impl Tombstone {
    /// Returns a tombstone that gets its number from the manifest.
    pub fn new(at: String, reason: Option<String>) -> Self {
        Self { at, reason, origin: None, counter: None }
    }
}

/// The lifting of a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lift {
    /// The time of the lifting, RFC 3339 in UTC.
    pub at: String,
    /// The name of the deployment that lifted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Its number among the marks of the version.
    pub counter: u64,
}

impl Record {
    /// Returns whether hashes are known.
    pub fn has_hashes(&self) -> bool {
        self.h1.is_some() || self.gomod_h1.is_some() || self.verdict.is_some()
    }

    /// Removes the hashes and their verdict.
    pub fn forget(&mut self) {
        *self = Self { tombstone: self.tombstone.take(), lift: self.lift.take(), ..Self::default() };
    }

    /// Returns whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl SmallContent {
    /// Returns the key of its object, if it has one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Object(object) => Some(&object.key),
            Self::Text(_) | Self::Base64(_) => None,
        }
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Base64(text) => text.len() as u64 / 4 * 3,
            Self::Object(object) => object.size,
        }
    }

    /// Returns the content for a manifest. `None` if it needs an object of its own.
    pub fn inline(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_INLINE {
            return None;
        }
        Some(match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64(STANDARD.encode(bytes)),
        })
    }
}

impl VersionContent {
    /// Returns the total size of info, mod and zip in bytes.
    pub fn bytes(&self) -> u64 {
        self.info.bytes() + self.modfile.bytes() + self.zip.size
    }
}

impl ZipContent {
    /// Returns the condition under which the object is still the one that the manifest means.
    pub fn tag(&self) -> Option<Tag> {
        self.etag.as_ref().map(|etag| Tag::new(Some(etag.clone()), None))
    }
}

impl ObjectContent {
    /// Returns the condition under which the object is still the one that the manifest means.
    pub fn tag(&self) -> Option<Tag> {
        self.etag.as_ref().map(|etag| Tag::new(Some(etag.clone()), None))
    }
}

impl Manifest {
    /// Returns the manifest of a version that exists.
    pub fn present(
        version: ModuleVersion,
        origin: Origin,
        content: VersionContent,
        record: Record,
    ) -> Result<Self, BucketError> {
        Ok(Self {
            format: FORMAT,
            version,
            state: Presence::Present,
            nonce: fresh_nonce()?,
            published_at: stoa_layout::clock::now(),
            origin,
            content: Some(content),
            record,
        })
    }

    /// Returns the manifest of a version that does not exist.
    pub fn absent(version: ModuleVersion, origin: Origin, record: Record) -> Result<Self, BucketError> {
        let (state, published_at) = (Presence::Absent, stoa_layout::clock::now());
        Ok(Self {
            format: FORMAT,
            version,
            state,
            nonce: fresh_nonce()?,
            published_at,
            origin,
            content: None,
            record,
        })
    }

    /// Returns the same manifest for another write.
    pub fn rewritten(&self) -> Result<Self, BucketError> {
        Ok(Self { nonce: fresh_nonce()?, ..self.clone() })
    }

    /// Returns the content of a version that exists.
    pub fn present_content(&self) -> Option<&VersionContent> {
        self.content.as_ref().filter(|_| self.state == Presence::Present)
    }

    /// Returns the hash of the go.mod of a version that exists, if it is recorded or the manifest has the bytes.
    pub fn gomod_h1(&self) -> Option<H1> {
        let content = self.present_content()?;
        let inline = || inline_bytes(&content.modfile)?.ok().map(|bytes| h1::hash_mod(&bytes));
        self.record.gomod_h1.clone().or_else(inline)
    }

    /// Returns the seal of a version that exists.
    pub fn seal(&self) -> Option<&H1> {
        self.present_content()?.zip.h1.as_ref()
    }
}

impl Document for Manifest {
    fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        // Before the rest, which may be of a newer format.
        let Format { format } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if format != FORMAT {
            return Err(format!("it has format {format}, and this release knows format {FORMAT}"));
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

pub(crate) fn fresh_nonce() -> Result<Nonce, BucketError> {
    let failed = |error| {
        BucketError::new(Trouble::Local, "write to", "the bucket", format_args!("no random number: {error}"))
    };
    Nonce::random().map_err(failed)
}

/// Returns the bytes of a text or of base64. `None` if they have an object of their own.
pub(crate) fn inline_bytes(content: &SmallContent) -> Option<Result<Bytes, String>> {
    match content {
        SmallContent::Text(text) => Some(Ok(Bytes::from(text.clone()))),
        SmallContent::Base64(text) => {
            Some(STANDARD.decode(text).map(Bytes::from).map_err(|error| error.to_string()))
        }
        SmallContent::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_back_and_a_newer_one_is_named() {
        let content = VersionContent {
            info: SmallContent::inline(b"{\"Version\":\"v1.0.0\"}").unwrap(),
            modfile: SmallContent::inline(b"module \xff\n").unwrap(),
            zip: ZipContent { key: "k".to_owned(), size: 7, etag: Some("\"e\"".to_owned()), h1: None },
        };
        let version = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
        let manifest = Manifest::present(version, Origin::Filled, content, Record::default()).unwrap();
        let bytes = manifest.to_bytes().unwrap();
        assert_eq!(Manifest::from_bytes(&bytes).unwrap(), manifest);
        let modfile = &manifest.present_content().unwrap().modfile;
        assert_eq!(inline_bytes(modfile).unwrap().unwrap(), &b"module \xff\n"[..]);
        assert_eq!(SmallContent::inline(&vec![0; MAX_INLINE + 1]), None);
        let newer = String::from_utf8(bytes).unwrap().replace("\"format\": 1", "\"format\": 2");
        assert!(Manifest::from_bytes(newer.as_bytes()).unwrap_err().contains("it has format 2"));
    }
}
