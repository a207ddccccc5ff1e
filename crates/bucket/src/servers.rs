//! The servers that use a bucket.
//!
//! Each of them writes an object once a minute, and deletes it at its end.

use time::{Duration, OffsetDateTime};

use crate::{Bucket, BucketError, Keys};

/// A server that has not written its object for this time has ended. By the clock of the service.
const TIMEOUT: Duration = Duration::minutes(2);

/// Maximum size of such an object, which has the name of the server.
const MAX_NAME: u64 = 4096;

impl Bucket {
    /// Returns the names of the servers that use the bucket.
    pub async fn servers(&self, keys: &Keys) -> Result<Vec<String>, BucketError> {
        Ok(self.alive(keys).await?.into_iter().map(|(_, name)| name).collect())
    }

    /// Returns the servers that use the bucket: the last part of each one's key, and its name.
    pub(crate) async fn alive(&self, keys: &Keys) -> Result<Vec<(String, String)>, BucketError> {
        let listed = self.folder(&keys.servers()).await?;
        let now = self.service_time().unwrap_or_else(OffsetDateTime::now_utc);
        let mut names = Vec::new();
        for entry in listed.entries.iter().filter(|entry| now - entry.meta.modified < TIMEOUT) {
            // Without an object the server has just ended.
            let Some(object) = self.get(&entry.key, MAX_NAME).await? else { continue };
            let name = String::from_utf8_lossy(&object.bytes).trim().to_owned();
            let name = if name.is_empty() { "a server without a name".to_owned() } else { name };
            let id = entry.key.rsplit('/').next().unwrap_or_default();
            names.push((id.to_owned(), name));
        }
        Ok(names)
    }
}
