//! The filter file of Athens, translated into rules of Stoa.
//!
//! A line consists of a sign (`+`, `-` or `D`), a path, and optionally versions separated by commas. A sign alone
//! applies to all other modules. A path applies to the module of that name and all modules below it. The longest
//! path that applies to a module decides. If its line names versions and the requested version is not among them,
//! the next shorter path decides.

use std::collections::BTreeMap;

use stoa_gomod::VersionRange;

/// The sign of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// The module is served.
    Include,
    /// The module is refused.
    Exclude,
    /// Clients are redirected.
    Direct,
}

/// The line of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    sign: Sign,
    /// The versions it applies to; empty means all.
    versions: Vec<Range>,
}

/// A filter file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    otherwise: Option<Sign>,
    nodes: BTreeMap<Vec<String>, Node>,
    /// Oddities, each with its line.
    pub(super) odd: Vec<String>,
}

/// A line that Athens rejects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FilterError {
    pub(super) line: usize,
    pub(super) why: &'static str,
}

/// The rule for a module, in Stoa's terms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) allow: Vec<String>,
    pub(super) deny: Vec<String>,
    /// Whether clients are redirected.
    pub(super) redirects: bool,
}

impl Verdict {
    /// Returns whether all versions are refused.
    pub(super) fn refuses_all(&self) -> bool {
        self.deny.iter().any(|range| range == "*")
    }
}

/// A version range in Stoa's syntax.
type Range = String;

impl Filter {
    /// Parses a filter file.
    pub(super) fn parse(text: &str) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            if !text.is_empty() && !text.starts_with('#') {
                filter.add(line, text).map_err(|why| FilterError { line, why })?;
            }
        }
        Ok(filter)
    }

    fn add(&mut self, line: usize, text: &str) -> Result<(), &'static str> {
        let fields: Vec<&str> = text.split(' ').collect();
        let sign = match fields.first() {
            Some(&"+") => Sign::Include,
            Some(&"-") => Sign::Exclude,
            Some(&"D") => Sign::Direct,
            _ => return Err("expected +, - or D, followed by a space"),
        };
        if fields.len() > 3 {
            return Err("expected a sign, a path and versions, separated by one space each");
        }
        let path = fields.get(1).copied().unwrap_or_default().trim().trim_matches('/');
        let mut odd = |what: &str| self.odd.push(format!("line {line}, `{text}`: {what}"));
        if path.is_empty() {
            if fields.len() > 1 {
                odd("has two spaces; Athens reads it as a line without a path, which applies to all modules");
            }
            self.otherwise = Some(sign);
            return Ok(());
        }
        let mut versions = Vec::new();
        if let Some(qualifiers) = fields.get(2) {
            for qualifier in qualifiers.split(',') {
                let Meant { range, odd: why } = meant(qualifier)?;
                versions.extend(range);
                why.into_iter().for_each(&mut odd);
            }
            if versions.is_empty() {
                odd("none of its versions can match; the line has no effect and is omitted");
                return Ok(());
            }
            if sign != Sign::Include {
                odd("Athens also refuses the list and @latest; Stoa answers them");
            }
        }
        let path: Vec<String> = path.split('/').map(str::to_owned).collect();
        if path.iter().any(|element| element.is_empty() || element.contains(['*', '?', '[', '\\', ','])) {
            odd("matches no module, because Athens does not support patterns in paths; the line is omitted");
            return Ok(());
        }
        self.nodes.insert(path, Node { sign, versions });
        Ok(())
    }

    /// Returns the rule for modules that no path applies to.
    pub(super) fn otherwise(&self) -> Verdict {
        self.verdict(&[]).0
    }

    /// Returns the paths, longer ones first, with their rules, and a note for each rule that is not exact.
    pub(super) fn rules(&self) -> (Vec<(String, Verdict)>, Vec<String>) {
        let mut paths: Vec<&Vec<String>> = self.nodes.keys().collect();
        paths.sort_by_key(|path| std::cmp::Reverse(path.len()));
        let (mut rules, mut inexact) = (Vec::new(), Vec::new());
        for path in paths {
            let (verdict, why) = self.verdict(path);
            let name = path.join("/");
            inexact.extend(why.map(|why| format!("{name}: {why}")));
            rules.push((name, verdict));
        }
        (rules, inexact)
    }

    fn verdict(&self, path: &[String]) -> (Verdict, Option<&'static str>) {
        let mut steps: Vec<(Vec<Range>, Sign)> = Vec::new();
        let otherwise = self.otherwise.unwrap_or(Sign::Include);
        let mut last = otherwise;
        for length in (1..=path.len()).rev() {
            let Some(node) = path.get(..length).and_then(|path| self.nodes.get(path)) else { continue };
            if node.versions.is_empty() {
                last = node.sign;
                break;
            }
            steps.push((node.versions.clone(), node.sign));
        }
        verdict(steps, last)
    }
}

/// Builds the rule for a path. The first step that contains a version decides, and `last` decides about the rest.
/// A rule that cannot be exact because of the order of the steps refuses more versions than Athens, never fewer.
fn verdict(mut steps: Vec<(Vec<Range>, Sign)>, last: Sign) -> (Verdict, Option<&'static str>) {
    let admits = |sign: Sign| sign != Sign::Exclude;
    while steps.last().is_some_and(|(_, sign)| *sign == last) {
        steps.pop();
    }
    let mut why = None;
    // A rule of Stoa cannot serve some versions and redirect others.
    let admitted = || steps.iter().map(|(_, sign)| *sign).chain([last]).filter(|sign| admits(*sign));
    let redirects = match admits(last) {
        true => last == Sign::Direct,
        false => admitted().next() == Some(Sign::Direct),
    };
    if admitted().any(|sign| (sign == Sign::Direct) != redirects) {
        why = Some(match redirects {
            true => "Athens serves some versions and redirects others; Stoa redirects all of them",
            false => "Athens redirects some versions and serves others; Stoa serves all of them",
        });
    }
    // Adjacent steps that both admit or both refuse count as one step.
    let mut merged: Vec<(Vec<Range>, bool)> = Vec::new();
    for (ranges, sign) in steps {
        match merged.last_mut() {
            Some((known, is_admitted)) if *is_admitted == admits(sign) => known.extend(ranges),
            _ => merged.push((ranges, admits(sign))),
        }
    }
    while merged.last().is_some_and(|(_, is_admitted)| *is_admitted == admits(last)) {
        merged.pop();
    }
    let mut verdict = Verdict { redirects, ..Verdict::default() };
    if !admits(last) {
        match merged.pop() {
            Some((ranges, _)) => verdict.allow = ranges,
            None => verdict.deny = vec!["*".to_owned()],
        }
    }
    if let Some((ranges, _)) = merged.pop() {
        verdict.deny.extend(ranges);
    }
    if merged.iter().any(|(_, is_admitted)| *is_admitted) {
        why = Some(
            "a line with a longer path allows versions that a line with a shorter path refuses; Stoa refuses versions that match both",
        );
    }
    (verdict, why)
}

/// The meaning of a version qualifier.
struct Meant {
    /// `None` if the qualifier never matches.
    range: Option<Range>,
    odd: Option<&'static str>,
}

/// Reads a version qualifier as Athens does.
fn meant(qualifier: &str) -> Result<Meant, &'static str> {
    let text = qualifier.trim_end_matches('*');
    if text.is_empty() {
        return Err("a version is empty");
    }
    let is_prefix = text.ends_with('.') || text.matches('.').count() < 2;
    let text = text.trim_end_matches('.');
    let never = |why| Ok(Meant { range: None, odd: Some(why) });
    let checked = |range: String, odd: Option<&'static str>| match range.parse::<VersionRange>() {
        Ok(_) => Ok(Meant { range: Some(range), odd }),
        Err(_) => never("contains a version that is invalid in Go and never matches"),
    };
    match text.chars().next() {
        Some('v') if is_prefix => match text.matches('.').count() {
            0 | 1 => checked(format!("{text}.*"), None),
            _ => never("contains a version with more than three numbers, which never matches"),
        },
        Some('v') if text.contains(['-', '+']) => checked(
            text.to_owned(),
            Some("Athens matches every version with this prefix; Stoa matches only this version"),
        ),
        // Athens compares prefixes, so the qualifier also matches each pre-release.
        Some('v') => checked(
            format!(">={text}-0 <={text}"),
            Some(
                "in Athens v1.2.3 also matches v1.2.30; in Stoa it matches only v1.2.3 and its pre-releases",
            ),
        ),
        Some(sign @ ('~' | '^' | '<')) => {
            let version = text.trim_start_matches(sign).trim_start_matches('v');
            let numbers: Vec<&str> = version.split('.').collect();
            let [major, minor, _] = numbers.as_slice() else {
                return never("contains ~, ^ or < without three numbers, which never matches");
            };
            let odd = Some(
                "in Athens this range never matches a pre-release; in Stoa it matches the pre-releases within the range",
            );
            match sign {
                '~' => checked(format!("v{major}.{minor}.* >=v{version}"), odd),
                '^' => checked(format!("v{major}.* >=v{version}"), odd),
                // Athens' documentation says `less than`, its code includes the version itself.
                _ => checked(format!("<=v{version}"), odd),
            }
        }
        _ => never("contains a version without v, ~, ^ or <, which never matches"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(text: &str) -> Vec<(String, Verdict)> {
        Filter::parse(text).unwrap().rules().0
    }

    fn verdict_of(text: &str, path: &str) -> (Vec<String>, Vec<String>, bool) {
        let filter = Filter::parse(text).unwrap();
        let rule = filter
            .rules()
            .0
            .into_iter()
            .find(|(pattern, _)| path == pattern || path.starts_with(&format!("{pattern}/")));
        let verdict = rule.map_or_else(|| filter.otherwise(), |(_, verdict)| verdict);
        (verdict.allow, verdict.deny, verdict.redirects)
    }

    fn all() -> Vec<String> {
        vec!["*".to_owned()]
    }

    #[test]
    fn the_longest_path_decides() {
        let text = "# ours\n\n- github.com/acme\n+ github.com/acme/open/\nD example.com\n";
        for (path, expected) in [
            ("github.com/acme/closed", (vec![], all(), false)),
            ("github.com/acme/open/x", (vec![], vec![], false)),
            ("github.com/other", (vec![], vec![], false)),
            ("example.com/x", (vec![], vec![], true)),
        ] {
            assert_eq!(verdict_of(text, path), expected, "{path}");
        }
        let order: Vec<_> = rules(text).into_iter().map(|(path, _)| path).collect();
        assert_eq!(order, ["github.com/acme/open", "github.com/acme", "example.com"]);
    }

    #[test]
    fn a_sign_alone_applies_to_the_rest() {
        let text = "-\n+ github.com/acme\n";
        assert_eq!(verdict_of(text, "github.com/acme/x"), (vec![], vec![], false));
        assert_eq!(verdict_of(text, "github.com/other"), (vec![], all(), false));
        assert_eq!(verdict_of("D\n", "a.b"), (vec![], vec![], true));
        assert_eq!(verdict_of("", "a.b"), (vec![], vec![], false));
        // The last line of a path decides.
        assert_eq!(verdict_of("- a.b\n+ a.b\n", "a.b"), (vec![], vec![], false));
    }

    #[test]
    fn versions_become_ranges() {
        let ranges = |qualifiers: &str| verdict_of(&format!("-\n+ a.b {qualifiers}\n"), "a.b").0;
        assert_eq!(ranges("v1"), ["v1.*"]);
        assert_eq!(ranges("v1.2.*,v2.*"), ["v1.2.*", "v2.*"]);
        assert_eq!(ranges("v1.2.3"), [">=v1.2.3-0 <=v1.2.3"]);
        assert_eq!(ranges("~v1.2.3"), ["v1.2.* >=v1.2.3"]);
        assert_eq!(ranges("~1.2.3"), ["v1.2.* >=v1.2.3"]);
        assert_eq!(ranges("^v1.2.3"), ["v1.* >=v1.2.3"]);
        assert_eq!(ranges("<v1.2.3"), ["<=v1.2.3"]);
        assert_eq!(ranges("v1.2.3-pre.1"), ["v1.2.3-pre.1"]);
        // A qualifier that never matches has no effect and is reported.
        for never in ["<v2", "~v1.2", "v", "1.2.3", "nonsense", "v1.2.3.4.*"] {
            let filter = Filter::parse(&format!("-\n+ a.b {never}\n")).unwrap();
            assert!(filter.rules().0.is_empty(), "{never}");
            assert_eq!(filter.odd.len(), 2, "{never}: {:?}", filter.odd);
        }
    }

    #[test]
    fn a_shorter_path_decides_about_versions_that_are_not_named() {
        for (text, expected, is_exact) in [
            ("- a.b v1\n", (vec![], vec!["v1.*"], false), true),
            ("-\n+ a.b v1\n", (vec!["v1.*"], vec![], false), true),
            ("- a\n+ a/b v1\n- a/b/c v1.3.*\n", (vec!["v1.*"], vec!["v1.3.*"], false), true),
            ("- a v1\n+ a/b/c v1.3.*\n", (vec![], vec!["v1.*"], false), false),
            ("- a\n+ a/b/c v1\n", (vec!["v1.*"], vec![], false), true),
            ("-\nD a/b/c v1\n", (vec!["v1.*"], vec![], true), true),
            ("D a/b/c v1\n", (vec![], vec![], false), false),
            ("D\n+ a/b/c v1\n", (vec![], vec![], true), false),
            ("+ a/b v1\n+ a/b/c v2\n", (vec![], vec![], false), true),
        ] {
            let filter = Filter::parse(text).unwrap();
            let (rules, inexact) = filter.rules();
            let (_, verdict) = rules.first().unwrap();
            let found = (
                verdict.allow.iter().map(String::as_str).collect(),
                verdict.deny.iter().map(String::as_str).collect(),
                verdict.redirects,
            );
            assert_eq!(found, expected, "{text}");
            assert_eq!(inexact.is_empty(), is_exact, "{text}: {inexact:?}");
        }
    }

    #[test]
    fn a_line_that_athens_rejects_is_named() {
        for (text, line) in
            [("x a.b\n", 1), ("+ a.b v1 v2\n", 1), ("\n-a.b\n", 2), ("+ a.b v1,,v2\n", 1), ("+ a.b *\n", 1)]
        {
            assert_eq!(Filter::parse(text).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn oddities_are_reported() {
        let filter = Filter::parse("-  a.b\n+ a.b/*\n").unwrap();
        assert_eq!(filter.odd.len(), 2, "{:?}", filter.odd);
        assert!(filter.otherwise().refuses_all());
        assert!(filter.rules().0.is_empty());
    }

    proptest! {
        #[test]
        fn any_filter_text_gives_valid_rules_or_an_error(text in "([+D-]|[ /\n]|a\\.b|c|v1|v1\\.2\\.3|[~^<,*.#é]){0,24}") {
            if let Ok(filter) = Filter::parse(&text) {
                let ranges = filter.rules().0.into_iter().flat_map(|(_, verdict)| verdict.allow.into_iter().chain(verdict.deny));
                for range in ranges {
                    prop_assert!(range.parse::<VersionRange>().is_ok(), "{}", range);
                }
            }
        }
    }
}
