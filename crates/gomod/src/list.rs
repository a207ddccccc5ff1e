//! The body of `@v/list`: one version per line.
//!
//! Parsing follows the go command: the first word of a line counts if it is a version but not a
//! pseudo-version. Other lines are skipped. An empty list means that the module exists.

use crate::info;
use crate::module_version;
use crate::path::ModulePath;
use crate::pseudo;
use crate::semver;
use crate::version::Version;
use time::OffsetDateTime;

/// Returns the canonical versions of a list, sorted, without duplicates and pseudo-versions.
pub fn versions(body: &[u8]) -> Vec<Version> {
    let mut versions: Vec<Version> =
        words(body).filter_map(|(version, _)| Version::accept(version)).filter(|v| !v.is_pseudo()).collect();
    versions.sort();
    versions.dedup();
    versions
}

/// Returns the list of a module's versions in an upstream's list and in the store, as [`format`] does, without those that
/// `is_visible` excludes and those of another major.
///
/// It needs less memory than the parsed versions, since a list may have a million of them.
pub fn merge(
    module: &ModulePath,
    body: &[u8],
    stored: &[Version],
    mut is_visible: impl FnMut(&str) -> bool,
) -> String {
    let mut is_listed = |version: &str| {
        semver::is_canonical(version)
            && !pseudo::is_pseudo(version)
            && module_version::agree(module, version)
            && is_visible(version)
    };
    let mut stored: Vec<&str> =
        stored.iter().map(Version::as_str).filter(|version| is_listed(version)).collect();
    stored.sort_unstable_by(|a, b| semver::compare_total(a, b));
    // The places of the versions in the body. A million text slices would take four times as much.
    let start = body.as_ptr().addr();
    let place = |version: &str| u32::try_from(version.as_ptr().addr() - start).ok();
    let version_at = |place: u32| {
        let rest = body.get(place as usize..).unwrap_or_default();
        let end = rest.iter().position(|byte| !byte.is_ascii_graphic()).unwrap_or(rest.len());
        std::str::from_utf8(&rest[..end]).unwrap_or_default()
    };
    let mut listed: Vec<u32> =
        Vec::with_capacity(words(body).filter(|(version, _)| semver::is_canonical(version)).count());
    listed.extend(
        words(body).filter(|(version, _)| is_listed(version)).filter_map(|(version, _)| place(version)),
    );
    listed.sort_unstable_by(|a, b| semver::compare_total(version_at(*a), version_at(*b)));
    let mut list =
        String::with_capacity(body.len() + stored.iter().map(|version| version.len() + 1).sum::<usize>());
    let (mut listed, mut stored) =
        (listed.into_iter().map(version_at).peekable(), stored.into_iter().peekable());
    let mut last = "";
    loop {
        let is_stored_next = match (listed.peek(), stored.peek()) {
            (None, None) => return list,
            (Some(listed), Some(stored)) => semver::compare_total(stored, listed).is_lt(),
            (listed, _) => listed.is_none(),
        };
        let next = if is_stored_next { stored.next() } else { listed.next() };
        if let Some(version) = next.filter(|version| *version != last) {
            list.push_str(version);
            list.push('\n');
            last = version;
        }
    }
}

/// Returns the newest version of a list, by the time in the second word of a line or in a pseudo-version.
///
/// The go command finds the latest version in this way if there are neither tags nor `@latest`.
pub fn newest(body: &[u8]) -> Option<(Version, OffsetDateTime)> {
    words(body)
        .filter_map(|(version, time)| {
            let version = Version::accept(version)?;
            let time = time.and_then(info::parse_time).or_else(|| pseudo::time(version.as_str()))?;
            Some((version, time))
        })
        .max_by(|a, b| a.1.cmp(&b.1).then_with(|| a.0.cmp(&b.0)))
}

/// Returns a list: sorted, without duplicates and pseudo-versions, with a newline after each version.
pub fn format(versions: &[Version]) -> String {
    let mut tagged: Vec<&Version> = versions.iter().filter(|version| !version.is_pseudo()).collect();
    tagged.sort();
    tagged.dedup();
    tagged.iter().flat_map(|version| [version.as_str(), "\n"]).collect()
}

/// Returns the first word of each line, and the second if there is one.
fn words(body: &[u8]) -> impl Iterator<Item = (&str, Option<&str>)> {
    body.split(|&b| b == b'\n').filter_map(|line| {
        let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
        Some((words.next()?, words.next()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_sorted_without_pseudo_versions() {
        let list = ["v1.10.0", "v1.9.0", "v0.0.0-20191109021931-daa7c04131f5", "v1.9.0"];
        let versions = list.map(|version| Version::new(version).unwrap());
        assert_eq!(format(&versions), "v1.9.0\nv1.10.0\n");
        assert_eq!(format(&[]), "");
    }

    #[test]
    fn lists_are_merged_with_stored_versions() {
        let module = ModulePath::new("example.com/m").unwrap();
        let stored =
            ["v1.10.0", "v1.1.0", "v0.0.0-20191109021931-daa7c04131f5"].map(|v| Version::new(v).unwrap());
        let body = b"v1.9.0\nv1.1.0 2024-01-01T00:00:00Z\nv2.0.0\nv2.0.0+incompatible\nv1.2\nv1.3.0\nv1.4.0\xc2\xa0x\n";
        let merged = merge(&module, body, &stored, |version| version != "v1.3.0");
        assert_eq!(merged, "v1.1.0\nv1.4.0\nv1.9.0\nv1.10.0\nv2.0.0+incompatible\n");
    }

    #[test]
    fn the_newest_version_is_found_by_time() {
        let body = b"v0.0.0-20191109021931-daa7c04131f5\nv0.0.0-20201109021931-aaa7c04131f5\njunk\n";
        assert_eq!(newest(body).unwrap().0.as_str(), "v0.0.0-20201109021931-aaa7c04131f5");
        assert_eq!(
            newest(b"v1.0.0 2024-01-01T00:00:00Z\nv2.0.0+incompatible 2023-01-01T00:00:00Z")
                .unwrap()
                .0
                .as_str(),
            "v1.0.0"
        );
        assert!(newest(b"v1.0.0\n").is_none());
    }

    proptest! {
        #[test]
        fn a_formatted_list_parses_to_the_same_versions(versions in proptest::collection::vec("v[0-9]\\.[0-9]\\.[1-9](-rc[1-9])?", 0..9)) {
            let mut versions: Vec<_> = versions.iter().map(|v| Version::new(v).unwrap()).collect();
            let body = format(&versions);
            versions.sort();
            versions.dedup();
            prop_assert_eq!(super::versions(body.as_bytes()), versions);
                    }

        #[test]
        fn no_input_panics(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (versions(&body), newest(&body));
        }
    }
}
