//! Small objects with a nonce. Their conditional writes survive a lost answer.
//!
//! A service may do a write and lose its answer, and the client then repeats the write. The repetition is refused,
//! because the first write was done. So a writer that is refused reads the object: if it has the nonce of the write,
//! the write was done.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Bucket, BucketError, Fetched, Nonce, Tag, Trouble};

/// Maximum size of a document in bytes.
pub(crate) const MAX_BYTES: u64 = 4 << 20;

/// How often a write is repeated that was refused without a reason.
const ATTEMPTS: usize = 5;

/// The content of a small object.
pub trait Document: Serialize + DeserializeOwned + Send + Sync {
    /// Returns the nonce of the write. Each write has another one.
    fn nonce(&self) -> &Nonce;

    /// Returns the content as bytes.
    fn to_bytes(&self) -> Result<Vec<u8>, String> {
        serde_json::to_vec_pretty(self).map_err(|error| error.to_string())
    }

    /// Reads the content.
    fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

/// A document, and the condition of its replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held<D> {
    /// The document.
    pub document: D,
    /// Its tag.
    pub tag: Tag,
}

/// The result of a conditional write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swapped<D> {
    /// The document was written.
    Done(Tag),
    /// Another writer was first. `None`: the object is gone.
    Lost(Option<Held<D>>),
}

impl Bucket {
    /// Reads a document. `None` if there is none.
    pub async fn document<D: Document>(&self, key: &str) -> Result<Option<Held<D>>, BucketError> {
        match self.get(key, MAX_BYTES).await? {
            Some(object) => {
                Ok(Some(Held { document: self.parse(key, &object.bytes)?, tag: object.meta.tag }))
            }
            None => Ok(None),
        }
    }

    /// Reads a document, unless it still has this tag. The outer `None` says that it has.
    pub async fn document_unless<D: Document>(
        &self,
        key: &str,
        tag: &Tag,
    ) -> Result<Option<Option<Held<D>>>, BucketError> {
        match self.get_unless(key, MAX_BYTES, tag).await? {
            Fetched::Same => Ok(None),
            Fetched::Absent => Ok(Some(None)),
            Fetched::Found(object) => {
                let document = self.parse(key, &object.bytes)?;
                Ok(Some(Some(Held { document, tag: object.meta.tag })))
            }
        }
    }

    fn parse<D: Document>(&self, key: &str, bytes: &[u8]) -> Result<D, BucketError> {
        D::from_bytes(bytes).map_err(|reason| {
            let reason = format!("invalid content: {reason}");
            BucketError::new(Trouble::Damaged, "read", self.url_of(key), reason)
        })
    }

    /// Writes a document in the place of the one with this tag, or of none.
    ///
    /// # Errors
    ///
    /// After an error the document may have been written, or may be written yet.
    pub async fn swap<D: Document>(
        &self,
        key: &str,
        document: &D,
        tag: Option<&Tag>,
    ) -> Result<Swapped<D>, BucketError> {
        let bytes = document
            .to_bytes()
            .map_err(|reason| BucketError::new(Trouble::Damaged, "write", self.url_of(key), reason))?;
        let bytes = Bytes::from(bytes);
        for _ in 0..ATTEMPTS {
            let written = match tag {
                Some(tag) => self.replace(key, bytes.clone(), tag).await,
                None => self.create(key, bytes.clone()).await,
            };
            let error = match written {
                Ok(Some(tag)) => return Ok(Swapped::Done(tag)),
                Ok(None) => None,
                Err(error) if error.trouble == Trouble::Unreachable => Some(error),
                Err(error) => return Err(error),
            };
            let found = match (self.document::<D>(key).await, error) {
                (Ok(found), error) => (found, error),
                (Err(_), Some(error)) | (Err(error), None) => return Err(error),
            };
            match found {
                (Some(found), _) if found.document.nonce() == document.nonce() => {
                    return Ok(Swapped::Done(found.tag));
                }
                // The write may still be under way.
                (_, Some(error)) => return Err(error),
                // A service may refuse a write because of another one that fails later.
                (None, None) if tag.is_none() => {}
                (Some(found), None) if Some(&found.tag) == tag => {}
                (found, None) => return Ok(Swapped::Lost(found)),
            }
        }
        let reason =
            format!("the service rejected the write {ATTEMPTS} times, although the object did not change");
        Err(BucketError::new(Trouble::Contended, "write", self.url_of(key), reason))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct Note {
        nonce: Nonce,
        text: String,
    }

    impl Document for Note {
        fn nonce(&self) -> &Nonce {
            &self.nonce
        }
    }

    fn note(text: &str) -> Note {
        Note { nonce: Nonce::random().unwrap(), text: text.to_owned() }
    }

    #[tokio::test]
    async fn of_two_writers_the_second_learns_who_was_first() {
        let bucket = Bucket::in_memory();
        let (one, two) = (note("one"), note("two"));
        let Swapped::Done(tag) = bucket.swap("a", &one, None).await.unwrap() else { panic!("lost") };
        let Swapped::Lost(Some(held)) = bucket.swap("a", &two, None).await.unwrap() else { panic!("won") };
        assert_eq!(held, Held { document: one.clone(), tag: tag.clone() });
        // The answer to the first write was lost, and the write is repeated.
        assert!(matches!(bucket.swap("a", &one, None).await.unwrap(), Swapped::Done(_)));
        assert!(matches!(bucket.swap("a", &two, Some(&tag)).await.unwrap(), Swapped::Done(_)));
        assert!(matches!(bucket.swap("a", &two, Some(&tag)).await.unwrap(), Swapped::Done(_)));
        let three = note("three");
        let lost = bucket.swap("a", &three, Some(&tag)).await.unwrap();
        assert!(matches!(lost, Swapped::Lost(Some(held)) if held.document == two));
        bucket.delete("a").await.unwrap();
        assert_eq!(bucket.swap("a", &three, Some(&tag)).await.unwrap(), Swapped::Lost(None));
    }

    #[tokio::test]
    async fn an_object_with_other_content_is_named() {
        let bucket = Bucket::in_memory();
        bucket.overwrite("a", Bytes::from_static(b"[1]")).await.unwrap();
        let error = bucket.document::<Note>("a").await.unwrap_err();
        assert_eq!(error.trouble, Trouble::Damaged);
        assert!(error.to_string().contains("s3://memory/go/a"), "{error}");
    }
}
