//! Marks of other deployments: tombstones, and their lifting.

use stoa_bucket::{BucketError, Mark, Record, Tombstone};
use stoa_gomod::ModuleVersion;

use super::Tier;

impl Tier {
    /// Applies a mark to a version in the bucket, if it is higher than the known mark. A tombstone removes the version.
    /// Returns whether something has changed.
    pub(crate) async fn apply_mark(
        &self,
        version: &ModuleVersion,
        mark: &stoa_store::Mark,
    ) -> Result<bool, BucketError> {
        let stoa_store::Mark { is_lifted, origin, counter, at, reason } = mark.clone();
        let mark = Mark { is_lifted, origin, counter, at, reason };
        let held = self.note(self.versions.manifest(version).await)?;
        let mut record = held.as_ref().map(|held| held.document.record.clone()).unwrap_or_default();
        let is_present = held.is_some_and(|held| held.document.present_content().is_some());
        if !record.apply(&mark) {
            return Ok(false);
        }
        if mark.is_lifted {
            let lift = |record: &mut Record| {
                // Another server may have applied it meanwhile.
                let _ = record.apply(&mark);
            };
            self.note(self.versions.record(version, lift).await)?;
            return Ok(true);
        }
        let tombstone = Tombstone {
            at: mark.at,
            reason: mark.reason,
            origin: (!mark.origin.is_empty()).then_some(mark.origin),
            counter: Some(mark.counter),
        };
        let had = self.note(self.versions.remove(version, Some(tombstone), true).await)?;
        if let Some(content) = had {
            self.note(self.versions.delete_content(&content).await)?;
        }
        if is_present {
            self.forget_in_index(std::slice::from_ref(version)).await;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use stoa_gomod::ModuleVersion;

    use crate::bucket::testing::{publish, tier};

    #[tokio::test]
    async fn a_mark_of_a_peer_applies_to_the_bucket_if_it_is_higher() {
        let tier = tier(false).await;
        let version = ModuleVersion::parse("example.com/m@v1.0.0").unwrap();
        publish(&tier, &version).await;
        let mark = |is_lifted, counter| stoa_store::Mark {
            is_lifted,
            origin: "there".to_owned(),
            counter,
            at: "2026-01-02T03:04:05Z".to_owned(),
            reason: None,
        };
        assert!(tier.apply_mark(&version, &mark(false, 2)).await.unwrap());
        let manifest = tier.versions.manifest(&version).await.unwrap().unwrap().document;
        let tombstone = manifest.record.tombstone.as_ref().unwrap();
        assert_eq!((tombstone.origin.as_deref(), tombstone.counter), (Some("there"), Some(2)));
        assert!(manifest.present_content().is_none());
        assert!(!tier.apply_mark(&version, &mark(false, 2)).await.unwrap());
        assert!(!tier.apply_mark(&version, &mark(true, 1)).await.unwrap());
        assert!(tier.apply_mark(&version, &mark(true, 3)).await.unwrap());
        let manifest = tier.versions.manifest(&version).await.unwrap().unwrap().document;
        assert!(manifest.record.tombstone.is_none());
    }
}
