//! The sorted listing of the bucket, merged with the sorted rows of the index.

use std::collections::VecDeque;

use stoa_bucket::ListedManifest;
use stoa_gomod::{ModulePath, ModuleVersion, Version};
use stoa_store::KnownManifest;

/// A manifest that must be read, because the index has another tag or no tag of it, or because the listing lacks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) version: ModuleVersion,
    /// The tag in the listing.
    pub(super) listed: Option<String>,
    /// The tag in the index.
    pub(super) known: Option<String>,
}

/// A merge in progress: the next page of each side.
#[derive(Debug, Default)]
pub(super) struct Merge {
    listed: VecDeque<ListedManifest>,
    rows: VecDeque<KnownManifest>,
    listed_ended: bool,
    rows_ended: bool,
}

/// The next step of a merge.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The next page of the listing is needed.
    List,
    /// The next page of the rows is needed, those after the last one.
    Know,
    /// Nothing is to be done: both sides have the same tag.
    Same,
    /// The manifest must be read.
    Read(Changed),
    /// Both sides have ended.
    End,
}

impl Merge {
    /// Adds a page of the listing. An empty page is its end.
    pub(super) fn add_listed(&mut self, page: Vec<ListedManifest>) {
        self.listed_ended = page.is_empty();
        self.listed.extend(page);
    }

    /// Adds a page of the rows. An empty page is their end.
    pub(super) fn add_rows(&mut self, page: Vec<KnownManifest>) {
        self.rows_ended = page.is_empty();
        self.rows.extend(page);
    }

    /// Takes the lowest key of both sides.
    pub(super) fn step(&mut self) -> Step {
        if self.listed.is_empty() && !self.listed_ended {
            return Step::List;
        }
        if self.rows.is_empty() && !self.rows_ended {
            return Step::Know;
        }
        let order = match (self.listed.front(), self.rows.front()) {
            (Some(listed), Some(row)) => listed.key.cmp(&row.key),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, _) => std::cmp::Ordering::Greater,
        };
        let listed = if order.is_le() { self.listed.pop_front() } else { None };
        let row = if order.is_ge() { self.rows.pop_front() } else { None };
        match (listed, row) {
            (None, None) => Step::End,
            (Some(listed), row) => {
                let (tag, known) = (tag_of(&listed.tag), row.map(|row| row.tag));
                match tag.is_some() && tag == known {
                    true => Step::Same,
                    false => Step::Read(Changed { version: listed.version, listed: tag, known }),
                }
            }
            (None, Some(row)) => match version_of(&row.key) {
                Some(version) => Step::Read(Changed { version, listed: None, known: Some(row.tag) }),
                // Only versions have rows.
                None => Step::Same,
            },
        }
    }
}

/// Returns the tag of a manifest as the index keeps it. `None` if the service gives none.
pub(super) fn tag_of(tag: &stoa_bucket::Tag) -> Option<String> {
    tag.e_tag().or(tag.version()).map(str::to_owned)
}

fn version_of(key: &str) -> Option<ModuleVersion> {
    let (module, version) = key.strip_suffix(".json")?.rsplit_once("/@v/")?;
    ModuleVersion::new(ModulePath::new(module).ok()?, Version::new(version).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use stoa_bucket::Tag;
    use stoa_store::manifest_key;

    use super::*;

    fn version(n: usize) -> ModuleVersion {
        ModuleVersion::parse(&format!("example.com/m@v1.{}.0", 100 + n)).unwrap()
    }

    fn key(n: usize) -> String {
        manifest_key(version(n).path().as_str(), version(n).version().as_str())
    }

    fn listed(n: usize, tag: &str) -> ListedManifest {
        ListedManifest { version: version(n), key: key(n), tag: Tag::new(Some(tag.to_owned()), None) }
    }

    fn row(n: usize, tag: &str) -> KnownManifest {
        KnownManifest { key: key(n), tag: tag.to_owned() }
    }

    /// Merges two sides in pages of a size. Returns what must be read, and how many are the same.
    fn merge(listing: &[ListedManifest], rows: &[KnownManifest], page: usize) -> (Vec<Changed>, usize) {
        let (mut merge, mut read, mut same) = (Merge::default(), Vec::new(), 0);
        let (mut listing, mut rows) = (listing.chunks(page), rows.chunks(page));
        loop {
            match merge.step() {
                Step::List => merge.add_listed(listing.next().unwrap_or_default().to_vec()),
                Step::Know => merge.add_rows(rows.next().unwrap_or_default().to_vec()),
                Step::Same => same += 1,
                Step::Read(changed) => read.push(changed),
                Step::End => return (read, same),
            }
            assert!(merge.listed.len() <= page && merge.rows.len() <= page);
        }
    }

    #[test]
    fn only_differences_are_read_whatever_the_size_of_the_pages() {
        let listing: Vec<_> = (0..60).filter(|n| n % 7 != 3).map(|n| listed(n, "1")).collect();
        let tag = |n: usize| if n.is_multiple_of(5) { "0" } else { "1" };
        let rows: Vec<_> = (0..70).filter(|n| n % 4 != 1).map(|n| row(n, tag(n))).collect();
        let expected: Vec<Changed> = (0..70)
            .filter_map(|n| {
                let listed = (n < 60 && n % 7 != 3).then(|| "1".to_owned());
                let known = (n % 4 != 1).then(|| tag(n).to_owned());
                (listed != known).then(|| Changed { version: version(n), listed, known })
            })
            .collect();
        for page in [1, 2, 3, 10, 100] {
            let (read, same) = merge(&listing, &rows, page);
            assert_eq!(read, expected, "pages of {page}");
            let both = (0..60).filter(|n| n % 7 != 3 && n % 4 != 1 && n % 5 != 0).count();
            assert_eq!(same, both, "pages of {page}");
        }
        for page in [1, 10] {
            assert_eq!(merge(&[], &[], page), (vec![], 0));
            assert_eq!(merge(&listing, &[], page).0.len(), listing.len());
            assert_eq!(merge(&[], &rows, page).0.len(), rows.len());
        }
    }

    #[test]
    fn a_manifest_without_a_tag_is_always_read() {
        let untagged = ListedManifest { tag: Tag::default(), ..listed(1, "") };
        assert_eq!(merge(std::slice::from_ref(&untagged), &[row(1, "")], 9).0.len(), 1);
    }

    #[test]
    fn keys_of_the_index_are_those_of_the_bucket() {
        let keys = stoa_bucket::Keys::new("0123456789abcdef0123456789abcdef".parse().unwrap());
        for pair in ["example.com/m@v1.0.0", "github.com/Azure/x/v2@v2.0.0-RC1", "x.y/v1.2.3/sub@v0.0.0"] {
            let version = ModuleVersion::parse(pair).unwrap();
            let key = manifest_key(version.path().as_str(), version.version().as_str());
            assert_eq!(format!("{}/{key}", keys.manifests()), keys.manifest(&version));
            assert_eq!(version_of(&key), Some(version));
        }
    }
}
