//! The rules about modules, `[[module]]` in the config file.

use stoa_gomod::VersionRange;
use stoa_gomod::private::Patterns;

use super::parse;
use super::table::Table;
use crate::policy::{ChecksumPolicy, Mode};

/// A rule of the config file. A value that it does not set comes from the top level of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleTable {
    /// The modules of the rule, in the syntax of `GOPRIVATE`.
    pub pattern: Patterns,
    /// The answer for a version that is not in the store.
    pub mode: Option<Mode>,
    /// The target of the modes that redirect.
    pub redirect_url: Option<String>,
    /// The upstreams, in the syntax of `GOPROXY`.
    pub upstream: Option<String>,
    /// The only allowed versions. All are allowed if there is none.
    pub allow: Vec<VersionRange>,
    /// Versions that are refused.
    pub deny: Vec<VersionRange>,
    /// The verification of downloads against the checksum database.
    pub checksum: Option<ChecksumPolicy>,
    /// The reason for which versions are refused. Clients see it.
    pub reason: Option<String>,
    /// The line of the config file.
    pub line: usize,
}

impl ModuleTable {
    /// The keys of a rule.
    pub(super) const KEYS: [&str; 9] =
        ["pattern", "mode", "redirect_url", "upstream", "allow", "deny", "checksum", "reason", "ignore_case"];

    /// Reads a rule. The faults stay in the table.
    pub(super) fn read(table: &mut Table<'_>) -> Option<Self> {
        // Every key is read before the first missing value ends this function, so that every fault is found.
        let pattern = table.required("pattern", parse::some_patterns);
        let ignores_case = table.switch("ignore_case").unwrap_or(false);
        let reason = table.text("reason", parse::reason);
        if let (Some(line), None, None) =
            (table.line_of_key("reason"), table.line_of_key("allow"), table.line_of_key("deny"))
        {
            table.faults.push((line, "a reason needs deny or allow in the same table".to_owned()));
        }
        Some(Self {
            reason,
            mode: table.text("mode", parse::word),
            redirect_url: table.text("redirect_url", parse::redirect_url),
            upstream: table.text("upstream", parse::upstream),
            allow: table.strings("allow", parse::word),
            deny: table.strings("deny", parse::word),
            checksum: table.text("checksum", parse::word),
            line: table.line,
            pattern: pattern.map(|pattern| if ignores_case { pattern.ignoring_case() } else { pattern })?,
        })
    }
}
