//! The days on which servers used versions, so that unused versions can be removed from a bucket.
//!
//! ```text
//! ~stoa/ID/used/DAY/SERVER-N     the versions that a server used on a day, one `MODULE@VERSION` per line
//! ```
//!
//! A server writes an object of each day, even if it is empty, and further ones every hour and at its end. So a server that
//! is alive and has written none does not record uses. It writes `SERVER-off` each day: the uses before that day are not
//! known. The recording began on the oldest day, or after the last day with such an object.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use stoa_gomod::ModuleVersion;
use time::format_description::well_known::Iso8601;
use time::{Date, OffsetDateTime};

use crate::{BucketError, Versions};

/// Seconds in a day.
const DAY: i64 = 24 * 60 * 60;

/// Maximum size of an object in bytes. More versions go into further objects.
const MAX_OBJECT: usize = 1 << 20;

/// The part of an object of a server that records nothing.
const OFF: &str = "off";

/// Number of objects that are read at the same time.
const AT_ONCE: usize = 16;

/// The days of last use, as all servers recorded them. A day is a number of days since 1 January 1970 in UTC.
#[derive(Debug, Default)]
pub struct UsesThere {
    began: Option<i64>,
    hasher: RandomState,
    /// By the hash of the version. Two versions with one hash count as used on the later day.
    days: HashMap<u64, i64>,
    silent: Vec<String>,
}

impl UsesThere {
    /// Returns the first day of the recording. `None` if no server has recorded anything.
    pub fn began(&self) -> Option<i64> {
        self.began
    }

    /// Returns the day on which a server recorded the last use of a version.
    pub fn recorded(&self, version: &ModuleVersion) -> Option<i64> {
        self.days.get(&self.hash(&version.to_string())).copied()
    }

    /// Returns the names of the servers that are alive and do not record uses.
    pub fn silent(&self) -> &[String] {
        &self.silent
    }

    fn hash(&self, version: &str) -> u64 {
        self.hasher.hash_one(version)
    }

    fn add(&mut self, day: i64, versions: &[u8]) {
        for version in String::from_utf8_lossy(versions).lines() {
            let last = self.days.entry(self.hash(version)).or_insert(day);
            *last = day.max(*last);
        }
    }
}

impl Versions {
    /// Writes which versions (`MODULE@VERSION`) a server has used on a day. `objects` is the number of objects that it has
    /// written for that day. Returns the new number.
    pub async fn write_uses(
        &self,
        server: &str,
        day: i64,
        objects: u32,
        versions: &[String],
    ) -> Result<u32, BucketError> {
        let Some(date) = date(day) else { return Ok(objects) };
        let (mut text, mut number) = (String::new(), objects);
        for version in versions {
            if text.len() + version.len() >= MAX_OBJECT {
                self.write_part(date, server, number, std::mem::take(&mut text)).await?;
                number += 1;
            }
            text.push_str(version);
            text.push('\n');
        }
        self.write_part(date, server, number, text).await?;
        Ok(number + 1)
    }

    /// Notes that a server does not record the uses of a day.
    pub async fn note_no_uses(&self, server: &str, day: i64) -> Result<(), BucketError> {
        let Some(date) = date(day) else { return Ok(()) };
        let key = format!("{}/{date}/{server}-{OFF}", self.keys().uses());
        self.bucket().overwrite(&key, Bytes::new()).await.map(drop)
    }

    async fn write_part(
        &self,
        date: Date,
        server: &str,
        number: u32,
        text: String,
    ) -> Result<(), BucketError> {
        let key = format!("{}/{date}/{server}-{number}", self.keys().uses());
        self.bucket().overwrite(&key, Bytes::from(text)).await.map(drop)
    }

    /// Reads the days of last use.
    pub async fn uses(&self) -> Result<UsesThere, BucketError> {
        let (bucket, mut uses) = (self.bucket(), UsesThere::default());
        let alive = bucket.alive(self.keys()).await?;
        let today = bucket.service_time().unwrap_or_else(OffsetDateTime::now_utc).unix_timestamp() / DAY;
        let (folder, mut recording) = (format!("{}/", self.keys().uses()), HashSet::new());
        let mut off = None;
        let listed = bucket.list(&self.keys().uses(), None)?.try_filter_map(|entry| {
            let found = parse(entry.key.strip_prefix(&folder).unwrap_or_default());
            let found = found.map(|(day, server, part)| (day, server.to_owned(), part == OFF));
            std::future::ready(Ok(found.map(|(day, server, is_off)| (day, server, is_off, entry))))
        });
        let read = listed.map_ok(|(day, server, is_off, entry)| async move {
            let empty = entry.meta.size == 0;
            let object = if empty { None } else { bucket.get(&entry.key, 2 * MAX_OBJECT as u64).await? };
            Ok((day, server, is_off, object.map(|object| object.bytes).unwrap_or_default()))
        });
        let mut read = std::pin::pin!(read.try_buffer_unordered(AT_ONCE));
        while let Some((day, server, is_off, versions)) = read.next().await.transpose()? {
            if is_off {
                off = off.max(Some(day));
                continue;
            }
            uses.began = Some(uses.began.unwrap_or(day).min(day));
            uses.add(day, &versions);
            if day >= today - 1 {
                recording.insert(server);
            }
        }
        if let (Some(began), Some(off)) = (&mut uses.began, off) {
            *began = (*began).max(off + 1);
        }
        let silent = alive.into_iter().filter(|(server, _)| !recording.contains(server));
        uses.silent = silent.map(|(_, name)| name).collect();
        Ok(uses)
    }

    /// Deletes what was recorded before a day. Returns the number of objects.
    pub async fn forget_uses(&self, before: i64) -> Result<u64, BucketError> {
        let folder = format!("{}/", self.keys().uses());
        let mut listed = self.bucket().list(&self.keys().uses(), None)?;
        let mut deleted = 0;
        while let Some(entry) = listed.try_next().await? {
            let found = parse(entry.key.strip_prefix(&folder).unwrap_or_default());
            if found.is_some_and(|(day, ..)| day < before) {
                self.bucket().delete(&entry.key).await?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}

fn date(day: i64) -> Option<Date> {
    Some(OffsetDateTime::from_unix_timestamp(day.checked_mul(DAY)?).ok()?.date())
}

/// Returns the day, the server and the part of a key below the folder.
fn parse(key: &str) -> Option<(i64, &str, &str)> {
    let (date, name) = key.split_once('/')?;
    let (server, part) = name.rsplit_once('-')?;
    let midnight = Date::parse(date, &Iso8601::DATE).ok()?.midnight().assume_utc();
    Some((midnight.unix_timestamp() / DAY, server, part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::versions;

    #[tokio::test]
    async fn the_latest_day_of_all_servers_counts() {
        let versions = versions().await;
        let uses = versions.uses().await.unwrap();
        assert_eq!((uses.began(), uses.silent().len()), (None, 0));
        let today = OffsetDateTime::now_utc().unix_timestamp() / DAY;
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        versions.write_uses("one", today - 9, 0, &named(&["a.b/c@v1.0.0", "a.b/c@v1.1.0"])).await.unwrap();
        versions.write_uses("two", today - 3, 0, &named(&["a.b/c@v1.0.0"])).await.unwrap();
        versions.write_uses("one", today, 0, &[]).await.unwrap();
        for (server, name) in [("one", "the first"), ("two", "the second")] {
            let key = format!("{}/{server}", versions.keys().servers());
            versions.bucket().overwrite(&key, Bytes::from(name)).await.unwrap();
        }
        let uses = versions.uses().await.unwrap();
        let recorded = |name: &str| uses.recorded(&ModuleVersion::parse(name).unwrap());
        assert_eq!(uses.began(), Some(today - 9));
        assert_eq!(recorded("a.b/c@v1.0.0"), Some(today - 3));
        assert_eq!(recorded("a.b/c@v1.1.0"), Some(today - 9));
        assert_eq!(recorded("a.b/c@v1.2.0"), None);
        assert_eq!(uses.silent(), ["the second"]);
        assert_eq!(versions.forget_uses(today - 3).await.unwrap(), 1);
        assert_eq!(versions.uses().await.unwrap().began(), Some(today - 3));
        versions.note_no_uses("two", today - 2).await.unwrap();
        let uses = versions.uses().await.unwrap();
        assert_eq!((uses.began(), uses.silent().len()), (Some(today - 1), 1));
    }

    #[tokio::test]
    async fn many_versions_are_written_in_parts() {
        let versions = versions().await;
        let names: Vec<String> = (0..40_000).map(|n| format!("example.com/module/m{n}@v1.0.0")).collect();
        versions.write_uses("server", 20_000, 0, &names).await.unwrap();
        let folder = format!("{}/{}", versions.keys().uses(), date(20_000).unwrap());
        assert_eq!(versions.bucket().folder(&folder).await.unwrap().entries.len(), 2);
        let uses = versions.uses().await.unwrap();
        assert!(names.iter().all(|name| uses.recorded(&ModuleVersion::parse(name).unwrap()) == Some(20_000)));
    }
}
