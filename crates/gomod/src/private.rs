//! Patterns of modules, as in `GOPRIVATE`, `GONOPROXY` and `GONOSUMDB`.
//!
//! The rule is that of `golang.org/x/mod/module.MatchPrefixPatterns`: a comma-separated list of globs. Each
//! glob is matched against as many leading elements of a module path as it has itself.

/// A list of patterns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns {
    globs: Vec<String>,
    /// The same in lower case, if the case of letters makes no difference.
    lower_globs: Option<Vec<String>>,
}

impl Patterns {
    /// Parses a comma-separated list. Empty patterns are skipped. Malformed patterns never match.
    pub fn parse(list: &str) -> Self {
        let globs = list.split(',').map(|glob| glob.strip_suffix('/').unwrap_or(glob));
        let globs = globs.filter(|glob| !glob.is_empty()).map(str::to_owned).collect();
        Self { globs, lower_globs: None }
    }

    /// Returns the same patterns, which also match paths in other letter case. Only letters of ASCII have two cases, as in
    /// module paths.
    #[must_use]
    pub fn ignoring_case(self) -> Self {
        let lower = self.globs.iter().map(|glob| glob.to_ascii_lowercase()).collect();
        Self { lower_globs: Some(lower), ..self }
    }

    /// Parses a comma-separated list, and ignores spaces around the commas.
    ///
    /// # Errors
    ///
    /// Fails for a pattern that can never match a module path. [`Patterns::parse`] accepts it, as the go command does.
    pub fn parse_strict(list: &str) -> Result<Self, PatternError> {
        let globs: Vec<&str> = list.split(',').map(str::trim).filter(|glob| !glob.is_empty()).collect();
        for glob in &globs {
            check(glob).map_err(|reason| PatternError { pattern: (*glob).to_owned(), reason })?;
        }
        Ok(Self::parse(&globs.join(",")))
    }

    /// Returns whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.globs.is_empty()
    }

    /// Returns whether a pattern matches the module path or a parent of it.
    pub fn matches(&self, path: &str) -> bool {
        self.matching(path, |_| true)
    }

    /// Returns whether a pattern matches that names at least a part of the host: `*.example`, but not `*`.
    pub fn match_by_host(&self, path: &str) -> bool {
        self.matching(path, names_a_host)
    }

    /// Returns whether some pattern, of those that count, matches.
    fn matching(&self, path: &str, counts: impl Fn(&str) -> bool) -> bool {
        let any = |globs: &[String], path: &str| globs.iter().any(|glob| counts(glob) && matches(glob, path));
        // A class such as [A-z] has other characters in lower case, so both forms count.
        any(&self.globs, path)
            || self.lower_globs.as_deref().is_some_and(|globs| any(globs, &path.to_ascii_lowercase()))
    }

    /// Returns whether every pattern names at least a part of a host.
    pub fn all_name_a_host(&self) -> bool {
        self.globs.iter().all(|glob| names_a_host(glob))
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

/// A pattern that can never match a module path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {pattern:?} never matches a module path: {reason}")]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// The reason.
    pub reason: &'static str,
}

/// Returns whether a glob matches the module path or a parent of it.
fn matches(glob: &str, path: &str) -> bool {
    leading(path, glob).is_some_and(|prefix| glob_matches(glob, prefix))
}

/// Returns whether a glob names at least a part of a host: `*.example`, but not `*`, `*.*` or `[a-z]*/*`.
fn names_a_host(glob: &str) -> bool {
    let mut is_in_class = false;
    let host = glob.chars().take_while(|&c| c != '/');
    let mut named = host.filter(|&c| {
        is_in_class = c == '[' || is_in_class && c != ']';
        !is_in_class && c.is_ascii_alphanumeric()
    });
    named.next().is_some()
}

/// Returns the reason why a glob can never match a module path.
fn check(glob: &str) -> Result<(), &'static str> {
    if glob.contains("://") {
        return Err("a module path has no scheme");
    }
    if glob.starts_with('/') || glob.contains("//") {
        return Err("a module path has no empty elements");
    }
    let glob: Vec<char> = glob.chars().collect();
    let mut at = 0;
    while let Some(rest) = glob.get(at..).filter(|rest| !rest.is_empty()) {
        let (literal, length) = match rest {
            ['*' | '?', ..] => (None, 1),
            ['[', class_rest @ ..] => {
                // The length of a class does not depend on the character.
                let (_, length) = class(class_rest, 'a').ok_or("the brackets are malformed")?;
                (None, length + 1)
            }
            ['\\', literal, ..] => (Some(*literal), 2),
            ['\\'] => return Err("nothing follows the backslash"),
            [literal, ..] => (Some(*literal), 1),
            [] => return Ok(()),
        };
        if literal.is_some_and(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.' | '_' | '~' | '/')) {
            return Err("a module path has only letters, digits and - . _ ~ /");
        }
        at += length;
    }
    Ok(())
}

/// Returns as many leading elements of the path as the glob has. `None` if the path has fewer.
fn leading<'a>(path: &'a str, glob: &str) -> Option<&'a str> {
    let slashes = glob.matches('/').count();
    if path.matches('/').count() < slashes {
        return None;
    }
    Some(path.match_indices('/').nth(slashes).map_or(path, |(end, _)| &path[..end]))
}

/// Matches a glob of Go's `path.Match` against a complete text. A malformed glob matches nothing.
fn glob_matches(glob: &str, text: &str) -> bool {
    let glob: Vec<char> = glob.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut g, mut t) = (0, 0);
    // The position of the last star, and the end of the text that it matches so far. Going back to the last
    // star is enough: an earlier star could only leave a worse start for the later one.
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
    /// The character matches this number of characters of the glob.
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

/// Matches a character class after its `[`. The returned length includes the `]`.
fn class(glob: &[char], c: char) -> Option<(bool, usize)> {
    let negated = glob.first() == Some(&'^');
    let mut at = usize::from(negated);
    let mut is_match = false;
    let mut ranges = 0;
    while ranges == 0 || glob.get(at) != Some(&']') {
        let low = class_char(glob, &mut at)?;
        let high = if glob.get(at) == Some(&'-') {
            at += 1;
            class_char(glob, &mut at)?
        } else {
            low
        };
        is_match |= (low..=high).contains(&c);
        ranges += 1;
    }
    Some((is_match != negated, at + 1))
}

/// Parses one end of a range. An unescaped `-` or `]` makes the class malformed.
fn class_char(glob: &[char], at: &mut usize) -> Option<char> {
    let (c, length) = match glob.get(*at..)? {
        ['\\', c, ..] => (*c, 2),
        ['-' | ']' | '\\', ..] | [] => return None,
        [c, ..] => (*c, 1),
    };
    *at += length;
    // As in Go, an unclosed class is malformed even if a range already matches.
    (*at < glob.len()).then_some(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pattern_for_all_hosts_names_none() {
        for pattern in ["*", "**", "*.*", "?*", "*/*", "*/private", "[a-z]*", "[a-z0-9]*.*/x"] {
            assert!(!names_a_host(pattern), "{pattern}");
        }
        for pattern in ["*.corp.example", "*.example", "git?.*/x", "[ab].example", "github.com/acme/*"] {
            assert!(names_a_host(pattern), "{pattern}");
        }
        let patterns = Patterns::parse("*,*.corp.example");
        assert!(patterns.match_by_host("a.corp.example/x") && !patterns.match_by_host("a.example/x"));
        assert!(patterns.matches("a.example/x") && !patterns.all_name_a_host());
        assert!(Patterns::parse("*.example,a.b").all_name_a_host());
    }

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

    #[test]
    fn patterns_that_never_match_are_errors() {
        for (list, reason) in [
            ("[a", "brackets"),
            ("a.example/[]", "brackets"),
            ("a.example/x[b-", "brackets"),
            ("https://a.example", "scheme"),
            ("/a.example", "empty"),
            ("a.example//x", "empty"),
            ("a.example/x@v1", "letters"),
            ("b.example,a b.example", "letters"),
            ("a.example\\", "backslash"),
        ] {
            let error = Patterns::parse_strict(list).unwrap_err();
            assert!(error.reason.contains(reason), "{list}: {error}");
        }
        let list = " a.example/x , *.corp.example,,b.example/v[0-9]/,c.example/\\~x";
        let patterns = Patterns::parse_strict(list).unwrap();
        assert_eq!(patterns.to_string(), "a.example/x,*.corp.example,b.example/v[0-9],c.example/\\~x");
        assert!(patterns.matches("git.corp.example/y") && patterns.matches("a.example/x/y"));
        assert!(Patterns::parse_strict(" ,").unwrap().is_empty());
    }

    #[test]
    fn the_case_of_letters_may_be_ignored() {
        let patterns = Patterns::parse("github.com/Acme/*,[A-C]*.example");
        let ignoring = patterns.clone().ignoring_case();
        assert_eq!(ignoring.to_string(), patterns.to_string());
        for (path, matches, matches_ignoring) in [
            ("github.com/Acme/x", true, true),
            ("github.com/acme/x/y", false, true),
            ("GitHub.com/ACME/X", false, true),
            ("github.com/acme", false, false),
            ("github.com/acmes/x", false, false),
            ("b.example/x", false, true),
            ("B.example/x", true, true),
            ("d.example/x", false, false),
        ] {
            assert_eq!(patterns.matches(path), matches, "{path}");
            assert_eq!(ignoring.matches(path), matches_ignoring, "{path}");
            assert_eq!(ignoring.match_by_host(path), matches_ignoring, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_module_path_is_a_pattern_that_matches(path in "[a-zA-Z0-9._~-]{1,8}(/[a-zA-Z0-9._~-]{1,4}){0,3}") {
            prop_assert!(Patterns::parse_strict(&path).unwrap().matches(&path));
        }

        #[test]
        fn a_path_matches_itself_and_its_parents(path in "[a-z.]{1,4}(/[a-z.]{1,4}){0,3}", below in "(/[a-z]{1,3}){0,2}") {
            let child = path.clone() + &below;
            prop_assert!(Patterns::parse(&path).matches(&child));
        }

        #[test]
        fn no_input_panics(list in "[a/*?\\[\\]^\\\\,-]{0,20}", path in "[a/-]{0,20}") {
            let _ = Patterns::parse(&list).matches(&path);
        }

        #[test]
        fn many_stars_do_not_slow_matching_down(stars in 1usize..60) {
            prop_assert!(!glob_matches(&"*a".repeat(stars), &"a".repeat(stars * 3).replace("aaa", "aab")));
        }
    }
}
