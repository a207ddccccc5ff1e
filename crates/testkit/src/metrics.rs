//! The metrics of a server at one moment.

use std::collections::{BTreeMap, BTreeSet};

use super::client;

/// The answer of `/metrics`: the series with their values.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    series: BTreeMap<String, f64>,
    /// The names with their types, of families without a value too.
    pub families: BTreeMap<String, String>,
}

impl Scrape {
    /// Gets the metrics of a server.
    pub fn of(url: &str) -> Self {
        let reply = client::get(client::address(url), "/metrics");
        assert_eq!((reply.status, reply.is_whole), (200, true), "{}", reply.text());
        assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        Self::parse(reply.text())
    }

    fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').expect("a type");
                let earlier = scrape.families.insert(name.to_owned(), kind.to_owned());
                assert!(earlier.is_none(), "{name} is there twice");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let earlier = scrape.series.insert(series.to_owned(), value.parse().expect("a number"));
                assert!(earlier.is_none(), "{series} is there twice");
            }
        }
        scrape
    }

    /// Returns the sum of the series of this name that have all of these labels, as in `kind="zip"`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let is_meant = |series: &str| {
            let (of, rest) = series.split_once('{').unwrap_or((series, ""));
            of == name && labels.iter().all(|label| rest.contains(label))
        };
        self.series.iter().filter(|(series, _)| is_meant(series)).map(|(_, value)| value).sum()
    }

    /// Returns whether a series of this name has a value.
    pub fn has(&self, name: &str) -> bool {
        self.series.keys().any(|series| series.split('{').next() == Some(name))
    }

    /// Returns the names of the families.
    pub fn names(&self) -> BTreeSet<String> {
        self.families.keys().cloned().collect()
    }

    /// Returns the difference to an earlier sum.
    pub fn since(&self, before: &Self, name: &str, labels: &[&str]) -> f64 {
        self.sum(name, labels) - before.sum(name, labels)
    }
}
