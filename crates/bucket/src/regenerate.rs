//! Writing what follows from the manifests again, if somebody has deleted it: the notes about removed versions, and the
//! list of the last removals.

use time::OffsetDateTime;

use crate::{BucketError, Presence, Versions, gone};

/// The derived objects that were missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Regenerated {
    /// Notes about removed versions.
    pub notes: u64,
    /// Whether the list of the last removals was missing.
    pub list: bool,
}

impl Regenerated {
    /// Returns whether nothing was missing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl Versions {
    /// Writes the notes about removed versions that are missing, and the list of the last removals. A dry run only counts
    /// them. Reads `at_once` manifests at the same time, and calls `unreadable` for each damaged one.
    pub async fn regenerate(
        &self,
        at_once: usize,
        is_dry_run: bool,
        mut unreadable: impl FnMut(BucketError),
    ) -> Result<Regenerated, BucketError> {
        self.check_state().await?;
        let (mut missing, mut is_any_absent) = (Regenerated::default(), false);
        let mut blocks = self.blocks(at_once)?;
        while let Some(block) = blocks.next().await? {
            for read in block {
                let manifest = match read {
                    Ok(held) => held.document,
                    Err(error) => {
                        unreadable(error);
                        continue;
                    }
                };
                if manifest.state == Presence::Present {
                    continue;
                }
                is_any_absent = true;
                let key = self.keys().removed(&manifest.version);
                if self.bucket().head(&key).await?.is_none() {
                    missing.notes += 1;
                    if !is_dry_run {
                        self.bucket().overwrite(&key, bytes::Bytes::new()).await?;
                    }
                }
            }
        }
        if is_any_absent && self.bucket().head(&self.keys().gone()).await?.is_none() {
            missing.list = true;
            if !is_dry_run {
                // A number that no list has reached: every server compares all its versions with the bucket.
                let number = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or_default();
                gone::start(self.bucket(), self.keys(), number).await?;
            }
        }
        self.check_state().await?;
        Ok(missing)
    }
}

#[cfg(test)]
mod tests {
    use stoa_gomod::ModulePath;

    use super::*;
    use crate::testing::{new, versions};
    use crate::{Gone, Removals};

    async fn regenerate(versions: &Versions, is_dry_run: bool) -> Regenerated {
        versions.regenerate(4, is_dry_run, |error| panic!("{error}")).await.unwrap()
    }

    #[tokio::test]
    async fn deleted_notes_and_lists_are_written_again() {
        let versions = versions().await;
        for pair in ["a.b/m@v1.0.0", "a.b/m@v1.1.0"] {
            versions.publish(&new(pair, b"zip"), None).await.unwrap();
        }
        assert!(regenerate(&versions, false).await.is_nothing());
        let removed = new("a.b/m@v1.0.0", b"zip").version;
        versions.remove(&removed, None, true).await.unwrap();
        assert!(regenerate(&versions, false).await.is_nothing());
        let keys = versions.keys();
        for key in [keys.removed(&removed), keys.gone()] {
            versions.bucket().delete(&key).await.unwrap();
        }
        let module = ModulePath::new("a.b/m").unwrap();
        assert_eq!(versions.list(&module).await.unwrap().present.len(), 2);
        let missing = Regenerated { notes: 1, list: true };
        for is_dry_run in [true, false] {
            assert_eq!(regenerate(&versions, is_dry_run).await, missing);
        }
        assert!(regenerate(&versions, false).await.is_nothing());
        assert_eq!(versions.list(&module).await.unwrap().present.len(), 1);
        let gone = versions.bucket().document::<Gone>(&keys.gone()).await.unwrap().unwrap().document;
        // Of a server that has seen one removal, and of one that has seen none.
        assert_eq!((gone.since(1), gone.since(0)), (Removals::TooMany, Removals::TooMany));
    }
}
