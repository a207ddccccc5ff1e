//! Several lists of rules about modules made into one.
//!
//! Athens has a list for each matter (which modes, which redirections, which modules are refused, are private, are
//! not looked up), and in each the first pattern that matches decides. We have one list. So each rule here is what
//! a choice of theirs, one from each list, have in common, in the order of the lists: the first of these that
//! matches a module is the one made of those that decide about it there.

use super::download_mode::leads_away;
use super::filter::Verdict;
use super::pattern;

/// What a rule says of its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Which versions are to be had.
    Admits(Verdict),
    /// What is done about what is not there.
    Mode(&'static str),
    /// Where it leads to.
    Leads(String),
    /// It is fetched from where it comes from, past every proxy.
    Direct,
    /// No checksum database is asked.
    Unchecked,
}

/// What is done about a module, all taken together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) admits: Verdict,
    pub(super) mode: &'static str,
    pub(super) url: Option<String>,
    pub(super) is_direct: bool,
    pub(super) is_unchecked: bool,
}

impl Effect {
    /// Changes it. Where the filter leads away that is to `endpoint`.
    fn with(&self, change: &Change, endpoint: Option<&str>) -> Self {
        let mut effect = self.clone();
        match change {
            Change::Admits(verdict) => {
                effect.admits = verdict.clone();
                if verdict.leads_away {
                    (effect.mode, effect.url) = ("redirect", endpoint.map(str::to_owned));
                }
            }
            Change::Mode(mode) => effect.mode = mode,
            Change::Leads(url) => effect.url = Some(url.clone()),
            Change::Direct => effect.is_direct = true,
            Change::Unchecked => effect.is_unchecked = true,
        }
        effect
    }

    /// Whether nothing that another list says makes a difference any more.
    fn is_final(&self) -> bool {
        self.admits.refuses_all() || self.admits.leads_away
    }

    /// Takes out what makes no difference.
    pub(super) fn settled(mut self) -> Self {
        if self.admits.refuses_all() {
            return Self { admits: self.admits, ..Self::default() };
        }
        if leads_away(self.mode) && self.url.is_none() {
            // It would lead to itself.
            self.mode = "none";
        }
        if !leads_away(self.mode) {
            self.url = None;
        }
        self
    }
}

/// A rule: patterns with commas between, and what is done.
pub(super) type Rule = (String, Effect);

/// A list of patterns and what each changes; the first that matches decides.
pub(super) type List = Vec<(String, Change)>;

/// What the filter says, in the order in which it counts, and of what no path of it is about.
#[derive(Debug, Default)]
pub(super) struct Admission {
    pub(super) list: List,
    pub(super) otherwise: Verdict,
    /// Where it leads to.
    pub(super) endpoint: Option<String>,
}

/// The rules made of several lists.
#[derive(Debug, Default)]
pub(super) struct Combined {
    pub(super) rules: Vec<Rule>,
    /// What holds for modules that none of the rules is about.
    pub(super) otherwise: Effect,
    /// Pairs of patterns of which nobody can say what they have in common.
    pub(super) unclear: Vec<(String, String)>,
}

/// Makes one list of several; `base` is what holds where none of them says anything.
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
            Some(own) => pattern::both(own, other),
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

/// Leaves out what makes no difference, and puts neighbours that say the same into one.
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
    fn a_rule_is_what_one_of_each_list_have_in_common() {
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
        let away = Verdict { leads_away: true, ..Verdict::default() };
        let list = [("a.b/c", Verdict::default()), ("a.b", refused), ("c.d", away)];
        Admission {
            list: list.map(|(path, verdict)| (path.to_owned(), Change::Admits(verdict))).into(),
            otherwise,
            endpoint: Some("https://elsewhere.example".to_owned()),
        }
    }

    #[test]
    fn what_is_refused_is_that_and_no_more() {
        let lists = [vec![("*".to_owned(), Change::Direct)]];
        let Combined { rules, otherwise, .. } = combine(&admission(Verdict::default()), &lists, &base());
        let patterns: Vec<_> = rules.iter().map(|(patterns, _)| patterns.as_str()).collect();
        assert_eq!(patterns, ["a.b/c", "a.b", "c.d", "*"]);
        assert_eq!(first(&rules, "c.d/x").unwrap().url.as_deref(), Some("https://elsewhere.example"));
        assert!(first(&rules, "a.b/c/d").unwrap().is_direct);
        assert_eq!(otherwise, base());
    }

    #[test]
    fn what_holds_for_the_rest_holds_for_no_other() {
        let lists = [vec![("a.b/c/x".to_owned(), Change::Mode("none"))]];
        let refused = Verdict { deny: vec!["*".to_owned()], ..Verdict::default() };
        let away = Verdict { leads_away: true, ..Verdict::default() };
        for rest in [refused, away] {
            let Combined { rules, otherwise, .. } = combine(&admission(rest.clone()), &lists, &base());
            assert_eq!(first(&rules, "a.b/c/x").unwrap().mode, "none");
            assert_eq!(first(&rules, "a.b/c/y").unwrap(), &base());
            assert!(first(&rules, "a.b/d").unwrap().admits.refuses_all());
            assert_eq!(first(&rules, "other.org/x"), None);
            assert_eq!(otherwise.admits, rest);
            assert_eq!(otherwise.mode == "redirect", rest.leads_away);
        }
    }

    #[test]
    fn what_makes_no_difference_is_left_out() {
        let lists = [vec![
            ("a.b".to_owned(), Change::Mode("none")),
            ("c.d".to_owned(), Change::Mode("none")),
            ("a.b".to_owned(), Change::Mode("async")),
            ("e.f".to_owned(), Change::Mode("sync")),
        ]];
        let rules = rules_of(&lists);
        assert_eq!(rules, [("a.b,c.d".to_owned(), Effect { mode: "none", ..Effect::default() })]);
        // A redirection that leads nowhere is none.
        let lists = [vec![("a.b".to_owned(), Change::Mode("redirect"))]];
        assert_eq!(rules_of(&lists)[0].1.mode, "none");
    }

    proptest! {
        #[test]
        fn one_list_says_what_all_said(
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
