//! Merges Athens' lists of rules into one list.
//!
//! Athens has a list for each matter: modes, redirections, refused modules, private modules, and modules that are
//! not looked up in the checksum database. In each list the first pattern that matches decides. Stoa has one list.
//! Each rule of Stoa is therefore the intersection of one rule of each list of Athens, in the order of the lists.

use super::download_mode::redirects;
use super::filter::Verdict;
use super::pattern;

/// The effect of one rule of Athens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Limits the versions.
    Admits(Verdict),
    /// Sets the mode.
    Mode(&'static str),
    /// Sets the target of redirections.
    RedirectsTo(String),
    /// Fetches from version control, not from a proxy.
    Direct,
    /// Does not ask the checksum database.
    Unchecked,
}

/// The combined effect of all rules on a module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) admits: Verdict,
    pub(super) mode: &'static str,
    pub(super) url: Option<String>,
    pub(super) is_direct: bool,
    pub(super) is_unchecked: bool,
}

impl Effect {
    /// Returns the effect after a change. A filter redirects to `endpoint`.
    fn with(&self, change: &Change, endpoint: Option<&str>) -> Self {
        let mut effect = self.clone();
        match change {
            Change::Admits(verdict) => {
                effect.admits = verdict.clone();
                if verdict.redirects {
                    (effect.mode, effect.url) = ("redirect", endpoint.map(str::to_owned));
                }
            }
            Change::Mode(mode) => effect.mode = mode,
            Change::RedirectsTo(url) => effect.url = Some(url.clone()),
            Change::Direct => effect.is_direct = true,
            Change::Unchecked => effect.is_unchecked = true,
        }
        effect
    }

    /// Returns whether no other list can change the effect.
    fn is_final(&self) -> bool {
        self.admits.refuses_all() || self.admits.redirects
    }

    /// Removes settings without effect.
    pub(super) fn settled(mut self) -> Self {
        if self.admits.refuses_all() {
            return Self { admits: self.admits, ..Self::default() };
        }
        if redirects(self.mode) && self.url.is_none() {
            // Stoa would redirect to itself.
            self.mode = "none";
        }
        if !redirects(self.mode) {
            self.url = None;
        }
        self
    }
}

/// Patterns separated by commas, and their effect.
pub(super) type Rule = (String, Effect);

/// A list of patterns with their changes. The first that matches decides.
pub(super) type List = Vec<(String, Change)>;

/// The rules of the filter file in their order, and the rule for all other modules.
#[derive(Debug, Default)]
pub(super) struct Admission {
    pub(super) list: List,
    pub(super) otherwise: Verdict,
    /// The target of its redirections.
    pub(super) endpoint: Option<String>,
}

/// The merged rules.
#[derive(Debug, Default)]
pub(super) struct Combined {
    pub(super) rules: Vec<Rule>,
    /// The effect on modules that no rule matches.
    pub(super) otherwise: Effect,
    /// Pairs of patterns whose intersection cannot be expressed.
    pub(super) unclear: Vec<(String, String)>,
}

/// Merges several lists into one. `base` is the effect where no list has a rule.
pub(super) fn combine(admission: &Admission, lists: &[List], base: &Effect) -> Combined {
    let mut combined = Combined::default();
    let endpoint = admission.endpoint.as_deref();
    for (pattern, change) in &admission.list {
        descend(lists, Some(pattern), &base.with(change, endpoint), &mut combined);
    }
    let otherwise = base.with(&Change::Admits(admission.otherwise.clone()), endpoint);
    descend(lists, None, &otherwise, &mut combined);
    combined.otherwise = otherwise.settled();
    let rules = std::mem::take(&mut combined.rules);
    combined.rules = merged(rules, &combined.otherwise);
    combined
}

fn descend(lists: &[List], pattern: Option<&str>, effect: &Effect, combined: &mut Combined) {
    let lists = if effect.is_final() { &[] } else { lists };
    let Some((list, rest)) = lists.split_first() else {
        combined.rules.extend(pattern.map(|pattern| (pattern.to_owned(), effect.clone().settled())));
        return;
    };
    for (other, change) in list {
        let common = match pattern {
            None => Some(vec![other.clone()]),
            Some(own) => pattern::intersection(own, other),
        };
        let Some(common) = common else {
            let pair = (pattern.unwrap_or_default().to_owned(), other.clone());
            combined.unclear.push(pair);
            continue;
        };
        for pattern in common {
            descend(rest, Some(&pattern), &effect.with(change, None), combined);
        }
    }
    descend(rest, pattern, effect, combined);
}

/// Removes rules without effect and merges adjacent rules with the same effect.
fn merged(rules: Vec<Rule>, otherwise: &Effect) -> Vec<Rule> {
    let mut seen = std::collections::HashSet::new();
    let mut merged: Vec<Rule> = Vec::new();
    for (pattern, effect) in rules.into_iter().filter(|(pattern, _)| seen.insert(pattern.clone())) {
        match merged.last_mut() {
            Some((patterns, known)) if *known == effect => *patterns = format!("{patterns},{pattern}"),
            _ => merged.push((pattern, effect)),
        }
    }
    while merged.last().is_some_and(|(_, effect)| effect == otherwise) {
        merged.pop();
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use stoa_gomod::private::Patterns;

    fn base() -> Effect {
        Effect { mode: "sync", ..Effect::default() }
    }

    fn rules_of(lists: &[List]) -> Vec<Rule> {
        combine(&Admission::default(), lists, &base()).rules
    }

    fn first<'a>(rules: &'a [Rule], path: &str) -> Option<&'a Effect> {
        rules.iter().find(|(patterns, _)| Patterns::parse(patterns).matches(path)).map(|(_, effect)| effect)
    }

    #[test]
    fn a_merged_rule_is_the_intersection_of_one_rule_of_each_list() {
        let lists = [
            vec![
                ("*.corp".to_owned(), Change::Mode("none")),
                ("git.hub/acme".to_owned(), Change::Mode("async")),
            ],
            vec![("git.*".to_owned(), Change::Direct)],
        ];
        let rules = rules_of(&lists);
        for (path, mode, is_direct) in [
            ("git.corp/x", "none", true),
            ("hg.corp/x", "none", false),
            ("git.hub/acme/x", "async", true),
            ("git.hub/other", "sync", true),
            ("git.hub", "sync", true),
        ] {
            let effect = first(&rules, path).unwrap();
            assert_eq!((effect.mode, effect.is_direct), (mode, is_direct), "{path}: {rules:?}");
        }
        assert_eq!(first(&rules, "other.org/x"), None);
    }

    fn admission(otherwise: Verdict) -> Admission {
        let refused = Verdict { deny: vec!["*".to_owned()], ..Verdict::default() };
        let away = Verdict { redirects: true, ..Verdict::default() };
        let list = [("a.b/c", Verdict::default()), ("a.b", refused), ("c.d", away)];
        Admission {
            list: list.map(|(path, verdict)| (path.to_owned(), Change::Admits(verdict))).into(),
            otherwise,
            endpoint: Some("https://elsewhere.example".to_owned()),
        }
    }

    #[test]
    fn other_lists_do_not_change_refused_modules() {
        let lists = [vec![("*".to_owned(), Change::Direct)]];
        let Combined { rules, otherwise, .. } = combine(&admission(Verdict::default()), &lists, &base());
        let patterns: Vec<_> = rules.iter().map(|(patterns, _)| patterns.as_str()).collect();
        assert_eq!(patterns, ["a.b/c", "a.b", "c.d", "*"]);
        assert_eq!(first(&rules, "c.d/x").unwrap().url.as_deref(), Some("https://elsewhere.example"));
        assert!(first(&rules, "a.b/c/d").unwrap().is_direct);
        assert_eq!(otherwise, base());
    }

    #[test]
    fn the_rule_for_the_rest_applies_to_no_listed_module() {
        let lists = [vec![("a.b/c/x".to_owned(), Change::Mode("none"))]];
        let refused = Verdict { deny: vec!["*".to_owned()], ..Verdict::default() };
        let away = Verdict { redirects: true, ..Verdict::default() };
        for rest in [refused, away] {
            let Combined { rules, otherwise, .. } = combine(&admission(rest.clone()), &lists, &base());
            assert_eq!(first(&rules, "a.b/c/x").unwrap().mode, "none");
            assert_eq!(first(&rules, "a.b/c/y").unwrap(), &base());
            assert!(first(&rules, "a.b/d").unwrap().admits.refuses_all());
            assert_eq!(first(&rules, "other.org/x"), None);
            assert_eq!(otherwise.admits, rest);
            assert_eq!(otherwise.mode == "redirect", rest.redirects);
        }
    }

    #[test]
    fn rules_without_effect_are_left_out() {
        let lists = [vec![
            ("a.b".to_owned(), Change::Mode("none")),
            ("c.d".to_owned(), Change::Mode("none")),
            ("a.b".to_owned(), Change::Mode("async")),
            ("e.f".to_owned(), Change::Mode("sync")),
        ]];
        let rules = rules_of(&lists);
        assert_eq!(rules, [("a.b,c.d".to_owned(), Effect { mode: "none", ..Effect::default() })]);
        // A redirection without a target becomes `none`.
        let lists = [vec![("a.b".to_owned(), Change::Mode("redirect"))]];
        assert_eq!(rules_of(&lists)[0].1.mode, "none");
    }

    proptest! {
        #[test]
        fn the_merged_list_has_the_effect_of_all_lists(
            modes in proptest::collection::vec("[ab*](/[ab*])?(/[ab])?", 0..4),
            direct in proptest::collection::vec("[ab*](/[ab*])?", 0..3),
            path in "[ab](/[ab]){0,3}",
        ) {
            const WORDS: [&str; 4] = ["none", "async", "sync", "none"];
            let matches = |pattern: &str| Patterns::parse(pattern).matches(&path);
            let lists = [
                modes.iter().zip(WORDS).map(|(pattern, word)| (pattern.clone(), Change::Mode(word))).collect(),
                direct.iter().map(|pattern| (pattern.clone(), Change::Direct)).collect::<List>(),
            ];
            let rules = rules_of(&lists);
            let expected = Effect {
                mode: modes.iter().position(|pattern| matches(pattern)).map_or("sync", |at| WORDS[at]),
                is_direct: direct.iter().any(|pattern| matches(pattern)),
                ..Effect::default()
            };
            prop_assert_eq!(first(&rules, &path).cloned().unwrap_or_else(base), expected);
        }
    }
}
