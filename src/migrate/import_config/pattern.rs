//! The intersection of two patterns of module paths.
//!
//! A pattern in the syntax of `GOPRIVATE` matches the modules whose leading path elements it matches. The
//! intersection of two patterns is the intersection of their elements one by one, followed by the rest of the
//! longer pattern.

use stoa_gomod::private::Patterns;

/// Returns patterns that match exactly the modules that both patterns match. `None` if the intersection cannot be
/// expressed.
pub(super) fn intersection(one: &str, other: &str) -> Option<Vec<String>> {
    let (one, other): (Vec<&str>, Vec<&str>) = (one.split('/').collect(), other.split('/').collect());
    let (short, long) = if one.len() <= other.len() { (one, other) } else { (other, one) };
    let mut found = vec![Vec::new()];
    for (at, element) in long.iter().enumerate() {
        let common = match short.get(at) {
            Some(other) => elements(element, other)?,
            None => vec![(*element).to_owned()],
        };
        let longer = |path: &Vec<String>, element: &String| {
            let mut path = path.clone();
            path.push(element.clone());
            path
        };
        found = found.iter().flat_map(|path| common.iter().map(move |one| longer(path, one))).collect();
    }
    Some(found.into_iter().map(|elements| elements.join("/")).collect())
}

/// Returns whether a pattern matches no module, or would be split in a list of patterns.
pub(super) fn matches_nothing(pattern: &str) -> bool {
    let is_good = |element: &str| !element.is_empty() && !element.contains(',') && is_well_formed(element);
    !pattern.split('/').all(is_good)
}

/// Returns the intersection of two globs of one element.
fn elements(one: &str, other: &str) -> Option<Vec<String>> {
    if one == other || other == "*" {
        return Some(vec![one.to_owned()]);
    }
    if one == "*" {
        return Some(vec![other.to_owned()]);
    }
    match (is_glob(one), is_glob(other)) {
        (false, _) => Some(if matches(other, one) { vec![one.to_owned()] } else { Vec::new() }),
        (_, false) => Some(if matches(one, other) { vec![other.to_owned()] } else { Vec::new() }),
        (true, true) => {
            let ((before, after), (other_before, other_after)) = (around_star(one)?, around_star(other)?);
            Some(intersection_of_stars((before, after), (other_before, other_after)))
        }
    }
}

/// Returns the intersection of `a*b` and `c*d`: the longer prefix and the longer suffix, if they agree. A prefix and
/// a suffix of different globs may overlap.
fn intersection_of_stars(
    (before, after): (&str, &str),
    (other_before, other_after): (&str, &str),
) -> Vec<String> {
    let head = if before.len() >= other_before.len() { before } else { other_before };
    let tail = if after.len() >= other_after.len() { after } else { other_after };
    let begins = head.starts_with(before) && head.starts_with(other_before);
    if !begins || !tail.ends_with(after) || !tail.ends_with(other_after) {
        return Vec::new();
    }
    let least = (before.len() + after.len()).max(other_before.len() + other_after.len());
    let mut found = vec![format!("{head}*{tail}")];
    for overlap in 1..=head.len().min(tail.len()) {
        let length = head.len() + tail.len() - overlap;
        if length < least {
            break;
        }
        if let (Some(end), Some(rest)) = (tail.get(..overlap), tail.get(overlap..))
            && head.ends_with(end)
        {
            found.push(format!("{head}{rest}"));
        }
    }
    found
}

/// Splits a glob at its star. `None` if it has another special character.
fn around_star(glob: &str) -> Option<(&str, &str)> {
    let (before, after) = glob.split_once('*')?;
    (!is_glob(before) && !is_glob(after)).then_some((before, after))
}

fn is_glob(element: &str) -> bool {
    element.contains(['*', '?', '[', '\\'])
}

fn matches(glob: &str, element: &str) -> bool {
    Patterns::parse(glob).matches(element)
}

/// Returns whether all brackets are closed and no backslash is at the end.
fn is_well_formed(element: &str) -> bool {
    let mut rest = element.chars();
    let mut within = false;
    while let Some(c) = rest.next() {
        match c {
            '\\' if rest.next().is_none() => return false,
            '[' if !within => within = true,
            ']' => within = false,
            _ => {}
        }
    }
    !within
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_patterns_intersect() {
        let common = |one: &str, other: &str| intersection(one, other).map(|found| found.join(","));
        for (one, other, expected) in [
            ("a.b/c", "a.b/c", "a.b/c"),
            ("a.b", "a.b/c/d", "a.b/c/d"),
            ("*", "a.b/c", "a.b/c"),
            ("a.b/*", "a.b/c/d", "a.b/c/d"),
            ("*.b/*/d", "a.b", "a.b/*/d"),
            ("*.corp", "git.*", "git.*.corp,git.corp"),
            ("*.corp.example", "git.*.example", "git.*.corp.example,git.corp.example"),
            ("ab*", "*bc", "ab*bc,abc"),
            ("a.b", "a.c", ""),
            ("a.b/x", "*.c", ""),
            ("a*", "ab*", "ab*"),
        ] {
            assert_eq!(common(one, other).as_deref(), Some(expected), "{one} and {other}");
            assert_eq!(common(other, one).as_deref(), Some(expected), "{other} and {one}");
        }
        assert_eq!(common("a.*", "*.b").as_deref(), Some("a.*.b,a.b"));
        assert_eq!(common("[ab]*", "a*"), None);
        assert_eq!(common("[ab]c", "ac"), Some("ac".to_owned()));
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_recognised() {
        for void in ["", "/", "a.b/", "a//b", "a,b", "[a", "a\\"] {
            assert!(matches_nothing(void), "{void}");
        }
        for good in ["*", "a.b/*", "[a-c]*", "a.b/c?"] {
            assert!(!matches_nothing(good), "{good}");
        }
    }

    proptest! {
        #[test]
        fn the_intersection_matches_exactly_the_common_modules(
            one in "[ab*]{1,4}(/[ab*]{1,3})?", other in "[ab*]{1,4}(/[ab*]{1,3})?", path in "[ab]{1,5}(/[ab]{1,4}){0,2}"
        ) {
            if let Some(found) = intersection(&one, &other) {
                let expected = matches(&one, &path) && matches(&other, &path);
                prop_assert_eq!(found.iter().any(|pattern| matches(pattern, &path)), expected, "{:?}", found);
            }
        }
    }
}
