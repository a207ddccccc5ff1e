//! The lines of a go.sum: versions and their hashes.
//!
//! `MODULE VERSION h1:…` is the hash of a zip, `MODULE VERSION/go.mod h1:…` that of a go.mod. Hashes of
//! other kinds are skipped, as in the go command. Any other line is an error.

use crate::h1::H1;
use crate::module_version::ModuleVersion;
use crate::path::ModulePath;
use crate::version::Version;

/// One line of a go.sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// The version.
    pub version: ModuleVersion,
    /// The hashed file.
    pub of: SumOf,
    /// The hash. `None` if its kind is unknown.
    pub h1: Option<H1>,
}

/// The file that a line of a go.sum belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SumOf {
    /// The zip.
    Zip,
    /// The go.mod.
    Mod,
}

/// A line is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct GosumError {
    /// The line number, starting at 1.
    pub line: usize,
    /// The fault.
    pub why: String,
}

/// Parses a go.sum.
pub fn parse(body: &[u8]) -> Result<Vec<Sum>, GosumError> {
    let mut sums = Vec::new();
    for (line, bytes) in (1..).zip(body.split(|byte| *byte == b'\n')) {
        let parsed = str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()).and_then(sum);
        sums.extend(parsed.map_err(|why| GosumError { line, why })?);
    }
    Ok(sums)
}

/// Returns whether the first non-empty line of a text looks like a line of a go.sum.
pub fn looks_like(body: &[u8]) -> bool {
    let mut lines = body.split(|byte| *byte == b'\n').map(|line| str::from_utf8(line).unwrap_or_default());
    let first = lines.find(|line| !line.trim().is_empty()).unwrap_or_default();
    let fields: Vec<&str> = first.split_whitespace().collect();
    matches!(fields.as_slice(), [_, version, hash] if version.starts_with('v') && hash.contains(':'))
}

/// Parses one line. Returns `None` if it is blank.
fn sum(line: &str) -> Result<Option<Sum>, String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (path, version, hash) = match fields.as_slice() {
        [] => return Ok(None),
        [path, version, hash] => (path, version, hash),
        _ => return Err("it is not of the form `MODULE VERSION HASH`".to_owned()),
    };
    let (version, of) = match version.strip_suffix("/go.mod") {
        Some(version) => (version, SumOf::Mod),
        None => (*version, SumOf::Zip),
    };
    let path = ModulePath::new(path).map_err(|error| error.to_string())?;
    let version = Version::new(version).map_err(|error| error.to_string())?;
    let version = ModuleVersion::new(path, version).map_err(|error| error.to_string())?;
    let h1 = match hash.starts_with("h1:") {
        true => Some(H1::new(hash).map_err(|error| error.to_string())?),
        false => None,
    };
    Ok(Some(Sum { version, of, h1 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "h1:dJmeSrJpmDbUBaBgAhrw5uDIeaBwxX0oy0IIx0F+Cok=";

    #[test]
    fn lines_of_zips_and_mods_are_parsed() {
        let body = format!(
            "example.com/Mod v1.0.0 {HASH}\nexample.com/Mod v1.0.0/go.mod {HASH}\r\n\nexample.com/Mod v1.1.0/go.mod h7:AbC\n"
        );
        let sums = parse(body.as_bytes()).unwrap();
        let shown: Vec<_> =
            sums.iter().map(|sum| (sum.version.to_string(), sum.of, sum.h1.is_some())).collect();
        let expected =
            [("v1.0.0", SumOf::Zip, true), ("v1.0.0", SumOf::Mod, true), ("v1.1.0", SumOf::Mod, false)];
        let expected = expected.map(|(version, of, known)| (format!("example.com/Mod@{version}"), of, known));
        assert_eq!(shown, expected);
        assert!(looks_like(body.as_bytes()));
        assert!(looks_like(b"\n\n  example.com/Mod v1.1.0/go.mod h7:AbC"));
    }

    #[test]
    fn errors_name_the_line() {
        for (line, bad) in [
            (1, "module example.com/me\n"),
            (2, "\nexample.com/m v1.0.0\n"),
            (1, "example.com/m v1.0 h1:x"),
            (1, "example.com/m v1.0.0 h1:x"),
            (1, "example.com/m v2.0.0 h2:x"),
            (1, "nodot v1.0.0 h2:x"),
        ] {
            assert_eq!(parse(bad.as_bytes()).unwrap_err().line, line, "{bad}");
        }
        assert!(!looks_like(b"module example.com/me\n\ngo 1.24\n"));
        assert!(!looks_like(b"require example.com/m v1.0.0\n"));
        assert!(!looks_like(b""));
    }

    proptest! {
        #[test]
        fn no_input_panics(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (parse(&body), looks_like(&body));
        }
    }
}
