//! The filter file of Athens, and what of it our rules can say.
//!
//! A line is `+`, `-` or `D`, a path, and versions with commas between; a sign alone is for all other modules. A
//! path is about the module of that name and all below it. Of the paths that are about a module the longest counts,
//! unless it names versions and this one is not among them: then the next longer one does.

use std::collections::BTreeMap;

use stoa_gomod::VersionRange;

/// What is done about a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It is served.
    Include,
    /// It is refused.
    Exclude,
    /// Who asks is sent elsewhere.
    Direct,
}

/// What a line says of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    sign: Sign,
    /// Of which versions; of all if there are none.
    versions: Vec<Range>,
}

/// A filter file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filter {
    otherwise: Option<Sign>,
    nodes: BTreeMap<Vec<String>, Node>,
    /// What is odd about it, with the line.
    pub(super) odd: Vec<String>,
}

/// A line that Athens would not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FilterError {
    pub(super) line: usize,
    pub(super) why: &'static str,
}

/// What our rules can say of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) allow: Vec<String>,
    pub(super) deny: Vec<String>,
    /// Whether who asks is sent elsewhere.
    pub(super) leads_away: bool,
}

impl Verdict {
    /// Whether no version is to be had.
    pub(super) fn refuses_all(&self) -> bool {
        self.deny.iter().any(|range| range == "*")
    }
}

/// A range of versions in our words.
type Range = String;

impl Filter {
    /// Reads a filter file.
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
            _ => return Err("it begins with none of +, - and D, and a space"),
        };
        if fields.len() > 3 {
            return Err("it has more than a sign, a path and versions, with one space between");
        }
        let path = fields.get(1).copied().unwrap_or_default().trim().trim_matches('/');
        let mut odd = |what: &str| self.odd.push(format!("line {line}, `{text}`: {what}"));
        if path.is_empty() {
            if fields.len() > 1 {
                odd("there are two spaces, so Athens takes it for a line without a path, about all modules");
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
                odd("none of its versions is ever matched, so the line has no effect and is left out");
                return Ok(());
            }
            if sign != Sign::Include {
                odd("Athens refuses the list and @latest too; here they are answered");
            }
        }
        let path: Vec<String> = path.split('/').map(str::to_owned).collect();
        if path.iter().any(|element| element.is_empty() || element.contains(['*', '?', '[', '\\', ','])) {
            odd("it matches no module: a path is no pattern there; the line is left out");
            return Ok(());
        }
        self.nodes.insert(path, Node { sign, versions });
        Ok(())
    }

    /// Is what is done about modules that no path is about.
    pub(super) fn otherwise(&self) -> Verdict {
        self.verdict(&[]).0
    }

    /// Lists the paths, longer ones first, with what is done about the modules there; and what cannot be said so.
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

/// Says in our words: the first step that has the version decides, and `last` about the rest. Where that cannot
/// be said more is refused than was, never less.
fn verdict(mut steps: Vec<(Vec<Range>, Sign)>, last: Sign) -> (Verdict, Option<&'static str>) {
    let admits = |sign: Sign| sign != Sign::Exclude;
    while steps.last().is_some_and(|(_, sign)| *sign == last) {
        steps.pop();
    }
    let mut why = None;
    // Where some versions are served and others lead away, one of both holds for all.
    let admitted = || steps.iter().map(|(_, sign)| *sign).chain([last]).filter(|sign| admits(*sign));
    let leads_away = match admits(last) {
        true => last == Sign::Direct,
        false => admitted().next() == Some(Sign::Direct),
    };
    if admitted().any(|sign| (sign == Sign::Direct) != leads_away) {
        why = Some(match leads_away {
            true => "some versions were served and others redirected; here all of them are redirected",
            false => "some versions were redirected and others served; here all of them are served",
        });
    }
    // Neighbours that say the same of a version count as one, as far as it is admitted or not.
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
    let mut verdict = Verdict { leads_away, ..Verdict::default() };
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
            "a longer path admits versions that a shorter one refuses; here those that both name are refused",
        );
    }
    (verdict, why)
}

/// What a qualifier says.
struct Meant {
    /// `None` if it never matches.
    range: Option<Range>,
    odd: Option<&'static str>,
}

/// Reads a qualifier as Athens does.
fn meant(qualifier: &str) -> Result<Meant, &'static str> {
    let text = qualifier.trim_end_matches('*');
    if text.is_empty() {
        return Err("one of its versions is empty");
    }
    let is_prefix = text.ends_with('.') || text.matches('.').count() < 2;
    let text = text.trim_end_matches('.');
    let never = |why| Ok(Meant { range: None, odd: Some(why) });
    let checked = |range: String, odd: Option<&'static str>| match range.parse::<VersionRange>() {
        Ok(_) => Ok(Meant { range: Some(range), odd }),
        Err(_) => never("a version of it is none that Go knows, and never matched"),
    };
    match text.chars().next() {
        Some('v') if is_prefix => match text.matches('.').count() {
            0 | 1 => checked(format!("{text}.*"), None),
            _ => never("a version of it has more than three numbers, and never matched"),
        },
        Some('v') if text.contains(['-', '+']) => checked(
            text.to_owned(),
            Some("Athens matches every version that begins with these letters; here it is that one alone"),
        ),
        // As it begins with these letters, each pre-release is matched too.
        Some('v') => checked(
            format!(">={text}-0 <={text}"),
            Some(
                "Athens also matches versions with more digits behind it (v1.2.30 by v1.2.3); here it does not",
            ),
        ),
        Some(sign @ ('~' | '^' | '<')) => {
            let version = text.trim_start_matches(sign).trim_start_matches('v');
            let numbers: Vec<&str> = version.split('.').collect();
            let [major, minor, _] = numbers.as_slice() else {
                return never("~, ^ and < match nothing unless three numbers follow");
            };
            let odd = Some("Athens never matches a pre-release by it; here those between the releases are");
            match sign {
                '~' => checked(format!("v{major}.{minor}.* >=v{version}"), odd),
                '^' => checked(format!("v{major}.* >=v{version}"), odd),
                // As Athens has it, whatever it says of itself.
                _ => checked(format!("<=v{version}"), odd),
            }
        }
        _ => never("a version of it begins with none of v, ~, ^ and <, and never matched"),
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
        (verdict.allow, verdict.deny, verdict.leads_away)
    }

    fn all() -> Vec<String> {
        vec!["*".to_owned()]
    }

    #[test]
    fn the_longest_path_counts() {
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
    fn a_sign_alone_is_for_the_rest() {
        let text = "-\n+ github.com/acme\n";
        assert_eq!(verdict_of(text, "github.com/acme/x"), (vec![], vec![], false));
        assert_eq!(verdict_of(text, "github.com/other"), (vec![], all(), false));
        assert_eq!(verdict_of("D\n", "a.b"), (vec![], vec![], true));
        assert_eq!(verdict_of("", "a.b"), (vec![], vec![], false));
        // The last line about a path counts.
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
        // What matches nothing has no effect, and is told.
        for never in ["<v2", "~v1.2", "v", "1.2.3", "nonsense", "v1.2.3.4.*"] {
            let filter = Filter::parse(&format!("-\n+ a.b {never}\n")).unwrap();
            assert!(filter.rules().0.is_empty(), "{never}");
            assert_eq!(filter.odd.len(), 2, "{never}: {:?}", filter.odd);
        }
    }

    #[test]
    fn versions_that_are_not_named_fall_to_the_shorter_path() {
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
                verdict.leads_away,
            );
            assert_eq!(found, expected, "{text}");
            assert_eq!(inexact.is_empty(), is_exact, "{text}: {inexact:?}");
        }
    }

    #[test]
    fn a_line_that_athens_would_not_take_is_named() {
        for (text, line) in
            [("x a.b\n", 1), ("+ a.b v1 v2\n", 1), ("\n-a.b\n", 2), ("+ a.b v1,,v2\n", 1), ("+ a.b *\n", 1)]
        {
            assert_eq!(Filter::parse(text).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn what_is_odd_is_told() {
        let filter = Filter::parse("-  a.b\n+ a.b/*\n").unwrap();
        assert_eq!(filter.odd.len(), 2, "{:?}", filter.odd);
        assert!(filter.otherwise().refuses_all());
        assert!(filter.rules().0.is_empty());
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer(text in "([+D-]|[ /\n]|a\\.b|c|v1|v1\\.2\\.3|[~^<,*.#é]){0,24}") {
            if let Ok(filter) = Filter::parse(&text) {
                let ranges = filter.rules().0.into_iter().flat_map(|(_, verdict)| verdict.allow.into_iter().chain(verdict.deny));
                for range in ranges {
                    prop_assert!(range.parse::<VersionRange>().is_ok(), "{}", range);
                }
            }
        }
    }
}
