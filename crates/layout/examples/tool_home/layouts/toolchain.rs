//! A toolchain: a tool at a version. A step moves it as a whole.

/// A tool at a version.
///
/// * The name is a lower-case letter, then lower-case letters, digits and `_`.
/// * The version is numbers with dots, without leading zeros.
/// * Neither holds a `-`, so `NAME-VERSION` reads back.
///
/// Ordered by name, then by the numbers of the version, so the last of one name is its newest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Toolchain {
    name: String,
    numbers: Vec<u64>,
}

impl Toolchain {
    pub(crate) fn parse(name: &str, version: &str) -> Option<Self> {
        let numbers: Option<Vec<u64>> = version.split('.').map(number).collect();
        is_tool_name(name).then_some(Self { name: name.to_owned(), numbers: numbers? })
    }

    /// Reads `NAME-VERSION`.
    pub(crate) fn parse_joined(text: &str) -> Option<Self> {
        let (name, version) = text.split_once('-')?;
        Self::parse(name, version)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn version(&self) -> String {
        let numbers: Vec<String> = self.numbers.iter().map(u64::to_string).collect();
        numbers.join(".")
    }
}

/// Returns whether a text is a valid name of a tool.
pub(crate) fn is_tool_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Parses a number. A number has one spelling only.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}
