//! The URL of a bucket: `s3://NAME/PREFIX`, `gs://NAME/PREFIX` or `az://CONTAINER/PREFIX`.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// A kind of object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Amazon S3, or another service with its API.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl Service {
    /// Returns the scheme of its URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }

    /// Returns its name, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::S3 => "S3",
            Self::Gcs => "Google Cloud Storage",
            Self::Azure => "Azure Blob Storage",
        }
    }
}

/// A bucket, and the prefix of the keys in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketUrl {
    /// The kind of the object store.
    pub service: Service,
    /// The name of the bucket, or of the container at Azure.
    pub name: String,
    /// The prefix of all keys, without slashes at its ends. Empty for the whole bucket.
    pub prefix: String,
}

/// A text is not the URL of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not the URL of a bucket: {reason}\nhelp: use s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"
)]
pub struct BucketUrlError {
    text: String,
    reason: &'static str,
}

impl BucketUrlError {
    /// Returns the reason, as a sentence about the text.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

impl FromStr for BucketUrl {
    type Err = BucketUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |reason| BucketUrlError { text: text.to_owned(), reason };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let service = match scheme {
            "s3" => Service::S3,
            "gs" => Service::Gcs,
            "az" => Service::Azure,
            _ => return Err(wrong("its scheme is not s3, gs or az")),
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if name.is_empty() {
            return Err(wrong("it names no bucket"));
        }
        if name.contains(['@', ':']) {
            return Err(wrong(
                "it contains `@` or `:` (set the endpoint with `bucket.endpoint`, and credentials in the environment)",
            ));
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Err(wrong("the name of the bucket may contain only letters, digits, `-`, `_` and `.`"));
        }
        let prefix = prefix.trim_end_matches('/');
        let is_segment = |segment: &str| {
            !segment.is_empty()
                && segment != "."
                && segment != ".."
                && !segment.starts_with('~')
                && segment.bytes().all(|b| b.is_ascii_graphic() && !b"?#%\\".contains(&b))
        };
        if !prefix.is_empty() && !prefix.split('/').all(is_segment) {
            return Err(wrong(
                "each part of the prefix must be non-empty, must not be `.` or `..` or begin with `~`, and must not contain a space, `?`, `#`, `%` or `\\`",
            ));
        }
        Ok(Self { service, name: name.to_owned(), prefix: prefix.to_owned() })
    }
}

impl Display for BucketUrl {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.service.scheme(), self.name)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_all_services_are_read_and_written() {
        for (text, service, name, prefix) in [
            ("s3://modules", Service::S3, "modules", ""),
            ("gs://a.b-c/go", Service::Gcs, "a.b-c", "go"),
            ("az://box/go/proxy", Service::Azure, "box", "go/proxy"),
        ] {
            let url: BucketUrl = text.parse().unwrap();
            assert_eq!((url.service, &*url.name, &*url.prefix), (service, name, prefix));
            assert_eq!(url.to_string(), text);
        }
        assert_eq!("s3://modules/go/".parse::<BucketUrl>().unwrap().to_string(), "s3://modules/go");
    }

    #[test]
    fn other_texts_are_refused_with_the_reason() {
        for (text, reason) in [
            ("modules", "no scheme"),
            ("http://modules", "scheme is not"),
            ("s3://", "names no bucket"),
            ("s3:///go", "names no bucket"),
            ("s3://key:secret@modules", "credentials"),
            ("s3://mod ules", "may contain only letters"),
            ("s3://modules/a//b", "each part of the prefix"),
            ("s3://modules/../b", "each part of the prefix"),
            ("s3://modules/~stoa", "each part of the prefix"),
            ("s3://modules/a?b", "each part of the prefix"),
        ] {
            let error = text.parse::<BucketUrl>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("help: use s3://"), "{text}: {error}");
        }
    }
}
