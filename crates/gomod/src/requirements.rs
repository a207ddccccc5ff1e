//! The modules that a go.mod requires, for downloading them.
//!
//! The syntax is that of the [Go Modules Reference](https://go.dev/ref/mod#go-mod-file), parsed line by
//! line: words, quoted strings, blocks and `//` comments. Only `require` and `replace` count. The
//! replacement of a required module is returned instead of the module, unless it is a folder. A version
//! need not be canonical, for example an unresolved branch.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::modfile::unquote;
use crate::path::ModulePath;
use crate::revision::Revision;

/// A module that a go.mod requires, or its replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The line number, starting at 1.
    pub line: usize,
    /// The module.
    pub path: ModulePath,
    /// The version or query.
    pub version: Revision,
}

/// A go.mod is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct RequirementsError {
    /// The line number, starting at 1.
    pub line: usize,
    /// The fault.
    pub why: String,
}

/// Returns the modules that a go.mod requires, in the order of its lines, without duplicates.
pub fn requirements(body: &[u8]) -> Result<Vec<Requirement>, RequirementsError> {
    let text = str::from_utf8(body).map_err(|error| {
        let before = body.get(..error.valid_up_to()).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        RequirementsError { line, why: "it is not UTF-8".to_owned() }
    })?;
    let Directives { required, replaced } = parse_directives(text)?;
    let mut wanted: Vec<Named> = Vec::new();
    for named in required {
        let exact = (named.path.clone(), Some(named.version.clone()));
        let any = (named.path.clone(), None);
        if !replaced.contains_key(&exact) && !replaced.contains_key(&any) {
            wanted.push(named);
        }
    }
    // A replacement of a module that is not required here may be needed for requirements of other modules.
    wanted.extend(replaced.into_values().flatten());
    wanted.sort_by_key(|named| named.line);
    let mut seen = std::collections::HashSet::new();
    wanted.retain(|named| seen.insert((named.path.clone(), named.version.clone())));
    wanted.into_iter().map(Named::checked).collect()
}

/// A module and a version, as written.
struct Named {
    line: usize,
    path: String,
    version: String,
}

impl Named {
    fn checked(self) -> Result<Requirement, RequirementsError> {
        let line = self.line;
        let wrong = |why: String| RequirementsError { line, why };
        let path = ModulePath::new(&self.path).map_err(|error| wrong(error.to_string()))?;
        let version = Revision::new(&self.version).map_err(|error| wrong(error.to_string()))?;
        Ok(Requirement { line, path, version })
    }
}

/// A replaced path, and the replaced version. `None` stands for all versions.
type Replaced = (String, Option<String>);

#[derive(Default)]
struct Directives {
    required: Vec<Named>,
    /// The replacements. `None` is a folder.
    replaced: HashMap<Replaced, Option<Named>>,
}

fn parse_directives(text: &str) -> Result<Directives, RequirementsError> {
    let mut directives = Directives::default();
    let mut block: Option<String> = None;
    for (line, text) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let wrong = |why: &str| RequirementsError { line, why: why.to_owned() };
        let words = words(text).map_err(wrong)?;
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        match (&block, words.as_slice()) {
            (_, []) => {}
            (Some(_), [")"]) => block = None,
            (Some(verb), arguments) => directives.add(line, verb, arguments)?,
            (None, [_, "(", ")"]) => {}
            (None, [verb, "("]) => block = Some((*verb).to_owned()),
            (None, [verb, arguments @ ..]) => directives.add(line, verb, arguments)?,
        }
    }
    match block {
        Some(verb) => {
            let line = text.lines().count();
            Err(RequirementsError { line, why: format!("unclosed block of {verb}") })
        }
        None => Ok(directives),
    }
}

impl Directives {
    fn add(&mut self, line: usize, verb: &str, arguments: &[&str]) -> Result<(), RequirementsError> {
        let named =
            |path: &str, version: &str| Named { line, path: path.to_owned(), version: version.to_owned() };
        match (verb, arguments) {
            ("require", [path, version]) => self.required.push(named(path, version)),
            ("replace", [path, "=>", target @ ..]) => {
                self.replace(line, (path, None), target, named)?;
            }
            ("replace", [path, version, "=>", target @ ..]) => {
                self.replace(line, (path, Some(version)), target, named)?;
            }
            ("require" | "replace", _) => {
                let form = match verb {
                    "require" => "require MODULE VERSION",
                    _ => "replace MODULE [VERSION] => MODULE VERSION, or a folder",
                };
                return Err(RequirementsError { line, why: format!("expected `{form}`") });
            }
            _ => {}
        }
        Ok(())
    }

    fn replace(
        &mut self,
        line: usize,
        (path, version): (&str, Option<&str>),
        target: &[&str],
        named: impl Fn(&str, &str) -> Named,
    ) -> Result<(), RequirementsError> {
        let target = match target {
            [_folder] => None,
            [path, version] => Some(named(path, version)),
            _ => {
                let why = "expected a folder, or a module and its version, after =>";
                return Err(RequirementsError { line, why: why.to_owned() });
            }
        };
        self.replaced.insert((path.to_owned(), version.map(str::to_owned)), target);
        Ok(())
    }
}

/// Splits a line into words. Parentheses, brackets and commas are words of their own.
fn words(line: &str) -> Result<Vec<Cow<'_, str>>, &'static str> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if rest.starts_with("//") => break,
            '"' | '`' => {
                let length = quoted_length(rest, first).ok_or("unclosed quote")?;
                let (quoted, _) = rest.split_at(length);
                words.push(Cow::Owned(unquote(quoted).ok_or("invalid quoted string")?));
                rest = rest[length..].trim_start();
                continue;
            }
            _ if is_mark(first) => first.len_utf8(),
            _ if rest.starts_with("=>") => 2,
            _ => word_length(rest),
        };
        let (word, after) = rest.split_at(length);
        words.push(Cow::Borrowed(word));
        rest = after.trim_start();
    }
    Ok(words)
}

fn is_mark(c: char) -> bool {
    matches!(c, '(' | ')' | '[' | ']' | '{' | '}' | ',')
}

/// Returns the length of a word, which ends at white space, a mark or a comment.
fn word_length(text: &str) -> usize {
    let end = text
        .char_indices()
        .find(|(at, c)| *at > 0 && (c.is_whitespace() || is_mark(*c) || text[*at..].starts_with("//")));
    end.map_or(text.len(), |(at, _)| at)
}

/// Returns the length of a quoted string, including the quotes.
fn quoted_length(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listed(body: &str) -> Vec<String> {
        let show = |one: Requirement| format!("{}: {}@{}", one.line, one.path, one.version);
        requirements(body.as_bytes()).unwrap().into_iter().map(show).collect()
    }

    const BODY: &str = "\u{feff}module example.com/me // me\n\ngo 1.24\n\nrequire example.com/One v1.0.0\n\
        require (\n\texample.com/two/v2 v2.0.1 // indirect\n\t\"example.com/three\" `v0.0.0-20240102030405-abcdefabcdef`\n\
        \n\t// a comment\n\texample.com/one v1.0.0\r\n)\nrequire()\n\n\
        exclude example.com/two/v2 v2.0.0\nretract [v1.0.0, v1.1.0] // sorry\ntool example.com/two/v2/cmd\n\
        godebug (\n\tdefault=go1.21\n)\n";

    #[test]
    fn requirements_are_listed_in_order() {
        assert_eq!(
            listed(BODY),
            [
                "5: example.com/One@v1.0.0",
                "7: example.com/two/v2@v2.0.1",
                "8: example.com/three@v0.0.0-20240102030405-abcdefabcdef",
                "11: example.com/one@v1.0.0",
            ]
        );
        assert!(listed("module a.b\n").is_empty());
        assert!(listed("").is_empty());
    }

    #[test]
    fn replacements_are_listed_instead_of_requirements() {
        let body = "require (\n  here v0.0.0\n  a.b/all v1.0.0\n  a.b/one v1.0.0\n  a.b/other v1.1.0\n)\n\
            replace here => ../here\nreplace (\n  a.b/all => c.d/all v1.5.0\n  a.b/one v1.0.0 => c.d/one v1.6.0\n\
            \ta.b/other v1.0.0 => c.d/other main\n  a.b/far v0.1.0 => \"./with space\"\n)\n";
        assert_eq!(
            listed(body),
            ["5: a.b/other@v1.1.0", "9: c.d/all@v1.5.0", "10: c.d/one@v1.6.0", "11: c.d/other@main"]
        );
    }

    #[test]
    fn duplicates_are_listed_once() {
        assert_eq!(listed("require a.b v1.0.0\nrequire a.b v1.0.0\nrequire a.b v1.1.0\n").len(), 2);
    }

    #[test]
    fn errors_name_the_line() {
        for (body, line) in [
            ("module a.b\nrequire a.b\n", 2),
            ("require a.b v1.0.0 v2.0.0\n", 1),
            ("require (\n\ta.b\n)\n", 2),
            ("require (\n\ta.b v1.0.0\n", 2),
            ("replace a.b v1.0.0 c.d v1.0.0\n", 1),
            ("replace a.b =>\n", 1),
            ("\nrequire \"a.b v1.0.0\n", 2),
            ("require nodot v1.0.0\n", 1),
            ("require a.b feature/x\n", 1),
            ("module a.b\n\nrequire a.b v1.0.0 // \u{e9}\n", 3),
        ] {
            // The last one is Latin-1.
            let bytes: Vec<u8> = match body.contains('\u{e9}') {
                true => body.chars().map(|c| c as u8).collect(),
                false => body.as_bytes().to_vec(),
            };
            let error = requirements(&bytes).unwrap_err();
            assert_eq!(error.line, line, "{body}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(body in "(require|replace|a\\.b|v1\\.0\\.0|=>|[()\"`, \t\n/é\\\\-]){0,30}") {
            if let Ok(directives) = requirements(body.as_bytes()) {
                let lines = body.lines().count();
                prop_assert!(directives.iter().all(|one| one.line >= 1 && one.line <= lines));
            }
        }

        #[test]
        fn no_input_panics(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = requirements(&body);
        }

        #[test]
        fn written_requirements_are_parsed(paths in proptest::collection::vec("[a-z]{1,4}\\.[a-z]{2}(/[a-zA-Z0-9]{1,4}x){0,2}", 0..6)) {
            let lines: String = paths.iter().map(|path| format!("\t{path} v1.2.3 // indirect\n")).collect();
            let directives = requirements(format!("module a.b\n\nrequire (\n{lines})\n").as_bytes());
            let mut distinct = paths.clone();
            distinct.sort();
            distinct.dedup();
            if let Ok(directives) = directives {
                prop_assert_eq!(directives.len(), distinct.len());
            } else {
                // A name that no file system of every kind takes.
                prop_assert!(paths.iter().any(|path| ModulePath::new(path).is_err()));
            }
        }
    }
}
