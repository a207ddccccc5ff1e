//! The info of a version: a JSON object with `Version`, `Time` and `Origin`.
//!
//! It is parsed as by the go command, with `encoding/json`: keys ignore case by Unicode's simple folding, the last of
//! equal keys counts, `null` is ignored, unknown keys are skipped, and invalid UTF-8 in a string is replaced. A value of
//! the wrong type is an error, in `Origin` too, and so is a nesting of more than 10,000. Malformed JSON is an error and
//! not "not found". Callers that store an info keep its original bytes.

use crate::module_version;
use crate::path::ModulePath;
use crate::semver;
use crate::version::{Version, VersionError};
use crate::zip::fold;
use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::marker::PhantomData;
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
    /// Its values are nested too deeply.
    #[error("the info is nested more deeply than the {MAX_DEPTH} levels that the go command reads")]
    TooDeep,
    /// A string has a control character, which must be escaped.
    #[error("the info is not valid JSON: a string has the control character {0:#04x}")]
    ControlCharacter(u8),
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

/// Maximum nesting of arrays and objects of `encoding/json`.
const MAX_DEPTH: usize = 10_000;

/// Parses an info.
pub fn parse(body: &[u8]) -> Result<Info, InfoError> {
    let fields = decode(body)?;
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
    decode(body).ok()?.origin?.hash.filter(|hash| !hash.is_empty())
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

fn decode(body: &[u8]) -> Result<Fields, InfoError> {
    // Before the parser, which skips unknown values of any depth and with any bytes in their strings.
    scan(body)?;
    Ok(serde_json::from_slice::<Object<Fields>>(body)?.0)
}

/// Checks the depth of a JSON text and the bytes in its strings. The rest of the syntax is not checked.
fn scan(body: &[u8]) -> Result<(), InfoError> {
    let (mut depth, mut is_in_string) = (0_usize, false);
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_in_string = !is_in_string,
            0..b' ' if is_in_string => return Err(InfoError::ControlCharacter(*byte)),
            b'\\' if is_in_string => drop(bytes.next()),
            b'{' | b'[' if !is_in_string => depth += 1,
            b'}' | b']' if !is_in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(InfoError::TooDeep);
        }
    }
    Ok(())
}

/// The fields of an info, with the types of the go command's own structure.
#[derive(Default)]
struct Fields {
    version: String,
    time: Option<OffsetDateTime>,
    origin: Option<Origin>,
}

#[derive(Default)]
struct Origin {
    hash: Option<String>,
}

/// The fields of an `Origin` in the go command. All are strings.
const ORIGIN_FIELDS: [&str; 8] = ["VCS", "URL", "Subdir", "Hash", "TagPrefix", "TagSum", "Ref", "RepoSum"];

/// A structure that is read from a JSON object, field by field.
trait Receive: Default {
    /// Reads the value of a key. An unknown value must be read, too.
    fn receive<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

impl Receive for Fields {
    fn receive<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        if is_key(key, "Version") {
            if let Some(Text(version)) = map.next_value()? {
                self.version = version;
            }
        } else if is_key(key, "Time") {
            // Go reads a time from the text between the quotes, so escapes are errors.
            let raw = map.next_value::<&RawValue>()?.get();
            if raw != "null" {
                let text = raw.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
                let time = text.and_then(parse_time);
                self.time = Some(
                    time.ok_or_else(|| de::Error::custom(format_args!("{raw} is not an RFC 3339 time")))?,
                );
            }
        } else if is_key(key, "Origin") {
            // A second object with the same key adds to the first.
            let earlier = self.origin.take();
            self.origin = map
                .next_value::<Option<Object<Origin>>>()?
                .map(|Object(origin)| Origin { hash: origin.hash.or_else(|| earlier?.hash) });
        } else {
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

impl Receive for Origin {
    fn receive<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match ORIGIN_FIELDS.into_iter().find(|name| is_key(key, name)) {
            Some(name) => {
                let value = map.next_value::<Option<Text>>()?;
                if let (Some(Text(hash)), "Hash") = (value, name) {
                    self.hash = Some(hash);
                }
            }
            None => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

fn is_key(key: &str, name: &str) -> bool {
    key == name || fold(key) == fold(name)
}

/// A JSON object, or an error for any other value.
struct Object<T>(T);

impl<'de, T: Receive> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Receive> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<T>, A::Error> {
                let mut fields = T::default();
                while let Some(Text(key)) = map.next_key()? {
                    fields.receive(&key, &mut map)?;
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// A JSON string in which invalid UTF-8 and lone surrogates are replaced, as in Go.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl Visitor<'_> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Text, E> {
                Ok(Text(String::from_utf8_lossy(bytes).into_owned()))
            }
        }

        // As bytes, the parser accepts strings that are not UTF-8.
        deserializer.deserialize_bytes(TextVisitor)
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
            r#"{"Version":"v1.0.0","Origin":"git"}"#,
            r#"{"Version":"v1.0.0","Origin":[]}"#,
            r#"{"Version":"v1.0.0","Origin":{"Hash":1}}"#,
            r#"{"Version":"v1.0.0","Origin":{"tag\u017fum":[]}}"#,
            r#"{"Version":"v1.0.0","Ver\u017fion":1}"#,
            r#"{"Version":"v1.0.0","Time":"2021-05-06T07:08:09\u005a"}"#,
            r#"{"Version":"v1.0.0","Time":1}"#,
            r#"{"Version":["v1.0.0"]}"#,
            "{\"Version\":\"v1.0.0\",\"x\":\"a\tb\"}",
            "{\"Version\":\"v1.0.0\",\"x\":\"\0\"}",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_ignore_case_as_in_go() {
        let v = |body: &str| parse(body.as_bytes()).unwrap().version.to_string();
        assert_eq!(v(r#"{"Version":"v1.0.0","Ver\u017fion":"v1.2.0"}"#), "v1.2.0");
        assert_eq!(v("{\"ver\u{17f}ion\":\"v1.2.0\"}"), "v1.2.0");
        let hash = |body: &str| commit(format!(r#"{{"Version":"v1.0.0",{body}}}"#).as_bytes());
        assert_eq!(hash(r#""origin":{"HASH":"abc"}"#).as_deref(), Some("abc"));
        assert_eq!(hash(r#""Origin":{"Hash":"abc"},"Origin":{"Ref":"x"}"#).as_deref(), Some("abc"));
        assert_eq!(hash(r#""Origin":{"Hash":"abc"},"Origin":null"#), None);
        assert_eq!(hash(r#""Origin":null"#), None);
    }

    #[test]
    fn invalid_utf8_is_replaced_and_not_an_error() {
        let body = b"{\"Version\":\"v1.0.0\",\"\xff\":\"\xff\",\"Origin\":{\"URL\":\"\xff\\ud800\"}}";
        assert_eq!(parse(body).unwrap().version.as_str(), "v1.0.0");
    }

    #[test]
    fn the_depth_is_limited_as_in_go() {
        let nested = |levels: usize| {
            format!(r#"{{"Version":"v1.0.0","x":{}"]"{}}}"#, "[".repeat(levels), "]".repeat(levels))
        };
        assert!(parse(nested(MAX_DEPTH - 1).as_bytes()).is_ok());
        assert!(matches!(parse(nested(MAX_DEPTH).as_bytes()), Err(InfoError::TooDeep)));
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
