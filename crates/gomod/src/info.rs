//! The info of a version: a JSON object with `Version` and `Time`.
//!
//! It is parsed as by the go command: keys ignore case, the last of equal keys counts, `null` is ignored,
//! unknown keys are skipped, and malformed JSON is an error and not "not found". Callers that store an info
//! keep its original bytes.

use crate::module_version;
use crate::path::ModulePath;
use crate::semver;
use crate::version::{Version, VersionError};
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// A parsed info.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The canonical version.
    pub version: Version,
    /// The time of the commit.
    pub time: Option<OffsetDateTime>,
}

/// The reason why the go command would reject an info.
#[derive(Debug, thiserror::Error)]
pub enum InfoError {
    /// It is not a JSON object with the right types.
    #[error("the info is not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It has no version.
    #[error("the info has no Version")]
    NoVersion,
    /// Its version is not canonical.
    #[error("the info has an invalid version: {0}")]
    Version(#[from] VersionError),
    /// Its version belongs to another module path.
    #[error(
        "the info has version {version}, which does not match the major version suffix of the module path {path}"
    )]
    OtherModule {
        /// The version in the info.
        version: Version,
        /// The module path of the request.
        path: ModulePath,
    },
    /// It has another version than the requested one.
    #[error("the info has version {named}, expected {requested}")]
    OtherVersion {
        /// The version in the info.
        named: Version,
        /// The requested version.
        requested: String,
    },
}

/// Parses an info.
pub fn parse(body: &[u8]) -> Result<Info, InfoError> {
    let fields: Fields = serde_json::from_slice(body)?;
    if fields.version.is_empty() {
        return Err(InfoError::NoVersion);
    }
    Ok(Info { version: Version::new(&fields.version)?, time: fields.time })
}

/// Parses the answer to a request, as the go command does. A request for a canonical version that agrees
/// with the path must be answered with this version. Any other request (a branch, a commit, a prefix) may
/// be answered with any canonical version that agrees with the path.
pub fn parse_answer(path: &ModulePath, requested: &str, body: &[u8]) -> Result<Info, InfoError> {
    let info = parse(body)?;
    let exact = semver::is_canonical(requested) && module_version::agree(path, requested);
    if exact && info.version.as_str() != requested {
        return Err(InfoError::OtherVersion { named: info.version, requested: requested.to_owned() });
    }
    if !module_version::agree(path, info.version.as_str()) {
        return Err(InfoError::OtherModule { version: info.version, path: path.clone() });
    }
    Ok(info)
}

/// Returns the hash of the commit in the `Origin` of an info. `None` if it names none.
pub fn commit(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct WithOrigin {
        origin: Option<Origin>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Origin {
        hash: Option<String>,
    }
    let info: WithOrigin = serde_json::from_slice(body).ok()?;
    info.origin?.hash.filter(|hash| !hash.is_empty())
}

/// Returns a compact info with the time in UTC.
pub fn encode(version: &Version, time: Option<OffsetDateTime>) -> String {
    // Versions and times need no escaping in JSON. A year beyond 9999 has no RFC 3339 form.
    match time.and_then(|time| time.to_offset(UtcOffset::UTC).format(&Rfc3339).ok()) {
        Some(time) => format!(r#"{{"Version":"{version}","Time":"{time}"}}"#),
        None => format!(r#"{{"Version":"{version}"}}"#),
    }
}

/// Parses an RFC 3339 time as strictly as Go.
pub(crate) fn parse_time(text: &str) -> Option<OffsetDateTime> {
    let bytes = text.as_bytes();
    // Go requires capital letters and rejects leap seconds.
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
                    let time = parse_time(&text)
                        .ok_or_else(|| de::Error::custom(format_args!("{text:?} is not an RFC 3339 time")))?;
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
    fn an_encoded_info_parses_to_the_same_info() {
        let version = Version::new("v0.4.1").unwrap();
        let time = parse_time("2021-05-06T09:08:09+02:00");
        let body = encode(&version, time);
        assert_eq!(body, r#"{"Version":"v0.4.1","Time":"2021-05-06T07:08:09Z"}"#);
        assert_eq!(parse(body.as_bytes()).unwrap(), Info { version: version.clone(), time });
        assert_eq!(encode(&version, None), r#"{"Version":"v0.4.1"}"#);
    }

    #[test]
    fn an_answer_has_a_version_of_the_module() {
        for (path, requested, version, is_valid) in [
            ("example.com/m", "main", "v1.0.0", true),
            ("example.com/m", "main", "v2.0.0", false),
            ("example.com/m", "v2.0.0", "v2.0.0+incompatible", true),
            ("example.com/m/v2", "latest", "v2.0.0", true),
            ("example.com/m/v2", "latest", "v1.0.0", false),
            ("gopkg.in/m.v2", "latest", "v2.0.0", true),
            ("gopkg.in/m.v2", "latest", "v3.0.0", false),
            ("gopkg.in/m.v1", "main", "v0.0.0-20191109021931-daa7c04131f5", true),
        ] {
            let path = ModulePath::new(path).unwrap();
            let body = format!(r#"{{"Version":"{version}"}}"#);
            let answer = parse_answer(&path, requested, body.as_bytes());
            assert_eq!(answer.is_ok(), is_valid, "{path} {requested} {version}");
        }
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_null_is_ignored() {
        let body = br#"{"Version":"v1.0.0","VERSION":"v1.2.0","version":null,"Short":[{}]}"#;
        assert_eq!(parse(body).unwrap().version.as_str(), "v1.2.0");
    }

    #[test]
    fn malformed_infos_are_rejected() {
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
        fn no_input_panics(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&body);
        }

        #[test]
        fn times_keep_their_nanoseconds(seconds in -62_135_596_800i64..253_402_300_799, nanos in 0u32..1_000_000_000) {
            let version = Version::new("v1.0.0").unwrap();
            let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap().replace_nanosecond(nanos).unwrap();
            prop_assert_eq!(parse(encode(&version, Some(time)).as_bytes()).unwrap().time, Some(time));
        }
    }
}
