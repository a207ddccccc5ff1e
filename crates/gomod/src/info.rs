//! The info body of a version: a JSON object with `Version` and `Time`.
//!
//! It is read as the go command reads it: the case of keys is ignored, of two equal keys the later counts,
//! `null` says nothing, unknown keys are passed over, and anything malformed is an error rather than
//! "not found". Only what is read is returned; who stores a body keeps its bytes.

use crate::module_version;
use crate::path::ModulePath;
use crate::semver;
use crate::version::{Version, VersionError};
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// What an info body says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The version, canonical.
    pub version: Version,
    /// The time of the commit.
    pub time: Option<OffsetDateTime>,
}

/// An info body that the go command would refuse.
#[derive(Debug, thiserror::Error)]
pub enum InfoError {
    /// It is not a JSON object of the right types.
    #[error("the info body is not what JSON of a version looks like: {0}")]
    Json(#[from] serde_json::Error),
    /// It names no version.
    #[error("the info body has no Version")]
    NoVersion,
    /// It names something that is no canonical version.
    #[error("the info body names no canonical version: {0}")]
    Version(#[from] VersionError),
    /// It names another version than the one asked for.
    #[error("the info body names version {named}, asked for was {requested}")]
    OtherVersion {
        /// The version in the body.
        named: Version,
        /// The version of the request.
        requested: String,
    },
}

/// Reads an info body.
pub fn parse(body: &[u8]) -> Result<Info, InfoError> {
    let fields: Fields = serde_json::from_slice(body)?;
    if fields.version.is_empty() {
        return Err(InfoError::NoVersion);
    }
    Ok(Info { version: Version::new(&fields.version)?, time: fields.time })
}

/// Reads the answer to a request, as the go command does: a canonical version that agrees with the path must
/// be answered by itself; anything else (a branch, a commit, a shorthand) by some canonical version.
pub fn parse_answer(path: &ModulePath, requested: &str, body: &[u8]) -> Result<Info, InfoError> {
    let info = parse(body)?;
    let exact = semver::is_canonical(requested) && module_version::agree(path, requested);
    if exact && info.version.as_str() != requested {
        return Err(InfoError::OtherVersion { named: info.version, requested: requested.to_owned() });
    }
    Ok(info)
}

/// Says whether the go command would accept the body as the answer to a request.
pub fn accepts(path: &ModulePath, requested: &str, body: &[u8]) -> bool {
    parse_answer(path, requested, body).is_ok()
}

/// Writes an info body, compact, the time in UTC.
pub fn encode(version: &Version, time: Option<OffsetDateTime>) -> String {
    // Nothing in a version or a time needs escaping in JSON. A year beyond 9999 has no such form.
    match time.and_then(|time| time.to_offset(UtcOffset::UTC).format(&Rfc3339).ok()) {
        Some(time) => format!(r#"{{"Version":"{version}","Time":"{time}"}}"#),
        None => format!(r#"{{"Version":"{version}"}}"#),
    }
}

/// Reads a time of RFC 3339 as strictly as Go does.
pub(crate) fn parse_time(text: &str) -> Option<OffsetDateTime> {
    let bytes = text.as_bytes();
    // Go wants capital letters and knows no leap second.
    let strict =
        bytes.len() >= 20 && bytes[10] == b'T' && &bytes[17..19] < b"60".as_slice() && !text.ends_with('z');
    strict.then(|| OffsetDateTime::parse(text, &Rfc3339).ok()).flatten()
}

#[derive(Default)]
struct Fields {
    version: String,
    time: Option<OffsetDateTime>,
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with Version and Time")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<String>()? {
            if key.eq_ignore_ascii_case("version") {
                if let Some(version) = map.next_value::<Option<String>>()? {
                    fields.version = version;
                }
            } else if key.eq_ignore_ascii_case("time") {
                if let Some(text) = map.next_value::<Option<String>>()? {
                    let time = parse_time(&text).ok_or_else(|| {
                        de::Error::custom(format_args!("{text:?} is not a time of RFC 3339"))
                    })?;
                    fields.time = Some(time);
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_body_is_written_and_read() {
        let version = Version::new("v0.4.1").unwrap();
        let time = parse_time("2021-05-06T09:08:09+02:00");
        let body = encode(&version, time);
        assert_eq!(body, r#"{"Version":"v0.4.1","Time":"2021-05-06T07:08:09Z"}"#);
        assert_eq!(parse(body.as_bytes()).unwrap(), Info { version: version.clone(), time });
        assert_eq!(encode(&version, None), r#"{"Version":"v0.4.1"}"#);
    }

    #[test]
    fn the_later_of_two_keys_counts_and_null_says_nothing() {
        let body = br#"{"Version":"v1.0.0","VERSION":"v1.2.0","version":null,"Short":[{}]}"#;
        assert_eq!(parse(body).unwrap().version.as_str(), "v1.2.0");
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for bad in [
            "null",
            "[]",
            r#""v1.0.0""#,
            "{}",
            r#"{"Version":1}"#,
            r#"{"Version":""}"#,
            r#"{"Version":"v1.0"}"#,
            r#"{"Version":"v1.0.0","Time":""}"#,
            r#"{"Version":"v1.0.0","Time":"2021-05-06t07:08:09Z"}"#,
            r#"{"Version":"v1.0.0","Time":"2021-05-06T07:08:60Z"}"#,
            r#"{"Version":"v1.0.0","Time":"2021-02-30T07:08:09Z"}"#,
            r#"{"Version":"v1.0.0"} x"#,
            "<html></html>",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&body);
        }

        #[test]
        fn a_time_is_kept_to_the_nanosecond(seconds in -62_135_596_800i64..253_402_300_799, nanos in 0u32..1_000_000_000) {
            let version = Version::new("v1.0.0").unwrap();
            let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap().replace_nanosecond(nanos).unwrap();
            prop_assert_eq!(parse(encode(&version, Some(time)).as_bytes()).unwrap().time, Some(time));
        }
    }
}
