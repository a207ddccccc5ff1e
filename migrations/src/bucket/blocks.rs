//! A listing in blocks: all keys below one folder `…/@v/` at a time.
//!
//! The keys of one version need not follow each other, because another version may sort between them. Those of one
//! folder do. So at most the keys of one module are in memory.

use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use stoa_bucket::{BucketError, Entry};

/// Reads a listing in blocks.
pub(super) struct Blocks {
    listed: BoxStream<'static, Result<Entry, BucketError>>,
    next: Option<Entry>,
}

/// The keys of a folder, or a single key that is in no such folder.
#[derive(Debug)]
pub(super) struct Block {
    /// The key of the folder with `/@v/` at its end. `None` for a single key.
    pub(super) folder: Option<String>,
    /// The objects.
    pub(super) entries: Vec<Entry>,
}

impl Blocks {
    pub(super) fn new(listed: BoxStream<'static, Result<Entry, BucketError>>) -> Self {
        Self { listed, next: None }
    }

    async fn entry(&mut self) -> Result<Option<Entry>, BucketError> {
        match self.next.take() {
            Some(entry) => Ok(Some(entry)),
            None => self.listed.try_next().await,
        }
    }

    /// Returns the next block. `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Block>, BucketError> {
        let Some(first) = self.entry().await? else { return Ok(None) };
        let Some(folder) = folder_of(&first.key).map(str::to_owned) else {
            return Ok(Some(Block { folder: None, entries: vec![first] }));
        };
        let mut entries = vec![first];
        while let Some(entry) = self.entry().await? {
            // A foreign key below the key of a file sorts between the files of a version.
            if entry.key.starts_with(&folder) {
                entries.push(entry);
            } else {
                self.next = Some(entry);
                break;
            }
        }
        Ok(Some(Block { folder: Some(folder), entries }))
    }
}

/// Returns the folder `…/@v/` of a key that is directly in it.
fn folder_of(key: &str) -> Option<&str> {
    let (folder, name) = key.split_at(key.rfind('/')? + 1);
    (folder.ends_with("/@v/") && !name.is_empty()).then_some(folder)
}
