//! Patterns of private modules, as in `GOPRIVATE`, `GONOPROXY` and `GONOSUMDB`.
//!
//! The rule is that of `golang.org/x/mod/module.MatchPrefixPatterns`: a comma list of globs, each matched
//! against as many leading elements of a module path as it has itself. What a match means is the caller's.

/// A list of patterns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns {
    globs: Vec<String>,
}

/// A pattern that can never match.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {pattern:?} never matches: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: &'static str,
}

impl Patterns {
    /// Reads a comma list in which every pattern can match. Spaces around patterns are dropped.
    ///
    /// # Errors
    ///
    /// Fails for a malformed pattern, by the rules of `path.Match`, and for a pattern that no module path can match.
    pub fn parse_strict(list: &str) -> Result<Self, PatternError> {
        let trimmed: Vec<&str> = list.split(',').map(str::trim).collect();
        for pattern in trimmed.iter().filter(|pattern| !pattern.is_empty()) {
            if let Some(reason) = fault(pattern) {
                return Err(PatternError { pattern: (*pattern).to_owned(), reason });
            }
        }
        Ok(Self::parse(&trimmed.join(",")))
    }

    /// Reads a comma list; empty patterns are passed over, malformed ones never match.
    pub fn parse(list: &str) -> Self {
        let globs = list.split(',').map(|glob| glob.strip_suffix('/').unwrap_or(glob));
        Self { globs: globs.filter(|glob| !glob.is_empty()).map(str::to_owned).collect() }
    }

    /// Says whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.globs.is_empty()
    }

    /// Says whether any pattern matches the module path or a parent of it.
    pub fn matches(&self, path: &str) -> bool {
        self.globs.iter().any(|glob| leading(path, glob).is_some_and(|prefix| glob_matches(glob, prefix)))
    }
}

impl std::fmt::Display for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.globs.join(","))
    }
}

impl std::str::FromStr for Patterns {
    type Err = std::convert::Infallible;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        Ok(Self::parse(list))
    }
}

/// Returns the reason why a pattern can never match a module path.
fn fault(pattern: &str) -> Option<&'static str> {
    if pattern.contains("://") {
        return Some("a module path has no scheme; remove it");
    }
    if pattern.starts_with('/') || pattern.contains("//") {
        return Some("a module path has no empty element");
    }
    if pattern.contains('@') {
        return Some("patterns match module paths, without versions");
    }
    if pattern.contains(char::is_whitespace) {
        return Some("a module path has no spaces; separate patterns with commas");
    }
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' if rest.next().is_none() => return Some("it ends with \\"),
            '[' => {
                let mut class = 0;
                loop {
                    match rest.next() {
                        None => return Some("a [ is not closed"),
                        Some('^') if class == 0 && rest.as_str().starts_with(|c| c != ']') => {}
                        Some(']') if class > 0 => break,
                        Some(']') => return Some("[] is empty"),
                        Some('\\') if rest.next().is_none() => return Some("a [ is not closed"),
                        Some(_) => class += 1,
                    }
                }
            }
            _ => {}
        }
    }
    None
}

/// Returns as many leading elements of the path as the glob has; `None` if the path has fewer.
fn leading<'a>(path: &'a str, glob: &str) -> Option<&'a str> {
    let slashes = glob.matches('/').count();
    if path.matches('/').count() < slashes {
        return None;
    }
    Some(path.match_indices('/').nth(slashes).map_or(path, |(end, _)| &path[..end]))
}

/// Matches a glob of Go's `path.Match` against a whole text; a malformed glob matches nothing.
fn glob_matches(glob: &str, text: &str) -> bool {
    let glob: Vec<char> = glob.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut g, mut t) = (0, 0);
    // Where the last star stands and where what it stands for ends so far. Going back to the last one is
    // enough: an earlier one could only give the later a worse start.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() || g < glob.len() {
        if glob.get(g) == Some(&'*') {
            star = Some((g, t));
            g += 1;
            continue;
        }
        if let (Some(rest), Some(&c)) = (glob.get(g..).filter(|rest| !rest.is_empty()), text.get(t)) {
            match step(rest, c) {
                Step::Match(length) => {
                    g += length;
                    t += 1;
                    continue;
                }
                Step::Miss => {}
                Step::Malformed => return false,
            }
        }
        match star {
            Some((at, end)) if text.get(end).is_some_and(|&c| c != '/') => {
                star = Some((at, end + 1));
                (g, t) = (at + 1, end + 1);
            }
            _ => return false,
        }
    }
    true
}

enum Step {
    /// The character matches, and this much of the glob is used up.
    Match(usize),
    Miss,
    Malformed,
}

/// Matches the next item of a glob, which is not a star, against one character.
fn step(glob: &[char], c: char) -> Step {
    let matched = |yes: bool, length| if yes { Step::Match(length) } else { Step::Miss };
    match glob {
        ['?', ..] => matched(c != '/', 1),
        ['[', ..] => match class(&glob[1..], c) {
            Some((yes, length)) => matched(yes, length + 1),
            None => Step::Malformed,
        },
        ['\\', literal, ..] => matched(*literal == c, 2),
        ['\\'] => Step::Malformed,
        [literal, ..] => matched(*literal == c, 1),
        [] => Step::Miss,
    }
}

/// Matches a character class, from behind its `[`; the length includes the `]`.
fn class(glob: &[char], c: char) -> Option<(bool, usize)> {
    let negated = glob.first() == Some(&'^');
    let mut at = usize::from(negated);
    let mut found = false;
    let mut ranges = 0;
    while ranges == 0 || glob.get(at) != Some(&']') {
        let low = class_char(glob, &mut at)?;
        let high = if glob.get(at) == Some(&'-') {
            at += 1;
            class_char(glob, &mut at)?
        } else {
            low
        };
        found |= (low..=high).contains(&c);
        ranges += 1;
    }
    Some((found != negated, at + 1))
}

/// Reads one end of a range; a bare `-` or `]` there makes the class malformed.
fn class_char(glob: &[char], at: &mut usize) -> Option<char> {
    let (c, length) = match glob.get(*at..)? {
        ['\\', c, ..] => (*c, 2),
        ['-' | ']' | '\\', ..] | [] => return None,
        [c, ..] => (*c, 1),
    };
    *at += length;
    // As in Go, a class that is not closed is malformed even if it would have matched by now.
    (*at < glob.len()).then_some(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs_match_as_in_go() {
        for (glob, text, matches) in [
            ("*c", "abc", true),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*", "axbxcxdxexxx", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("ab[^b-d]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a[^a]b", "a☺b", true),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[]a]", "]", false),
            ("[-]", "-", false),
            ("[x-]", "x", false),
            ("[", "a", false),
            ("a[", "a", false),
            ("*x", "xxx", true),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(glob_matches(glob, text), matches, "{glob} {text}");
        }
    }

    proptest! {
        #[test]
        fn a_path_matches_itself_and_its_parents(path in "[a-z.]{1,4}(/[a-z.]{1,4}){0,3}", below in "(/[a-z]{1,3}){0,2}") {
            let child = path.clone() + &below;
            prop_assert!(Patterns::parse(&path).matches(&child));
        }

        #[test]
        fn any_pattern_gets_an_answer(list in "[a/*?\\[\\]^\\\\,-]{0,20}", path in "[a/-]{0,20}") {
            let _ = Patterns::parse(&list).matches(&path);
        }

        #[test]
        fn many_stars_take_no_time(stars in 1usize..60) {
            prop_assert!(!glob_matches(&"*a".repeat(stars), &"a".repeat(stars * 3).replace("aaa", "aab")));
        }
    }

    #[test]
    fn patterns_that_never_match_are_errors_if_asked_for() {
        for pattern in ["[a", "a[", "[]", "a\\", "https://example.org", "/a", "a//b", "a@v1", "a b"] {
            assert!(Patterns::parse_strict(pattern).is_err(), "{pattern}");
        }
        let patterns = Patterns::parse_strict("*.corp.example, github.com/[aA]cme ,x[^a-z]y,").unwrap();
        assert!(patterns.matches("git.corp.example/x") && patterns.matches("github.com/acme/y"));
    }
}
