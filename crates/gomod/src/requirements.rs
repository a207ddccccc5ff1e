//! What a go.mod requires, as far as it is to be fetched.
//!
//! The syntax is that of the [Go Modules Reference](https://go.dev/ref/mod#go-mod-file), read line by line:
//! words, quoted strings, blocks and `//` comments. Only `require` and `replace` count. What is required and
//! replaced is not needed itself: what stands in its place is, unless that is a folder. A version need not be
//! canonical there (a branch that nobody has resolved yet).

use std::borrow::Cow;
use std::collections::HashMap;

use crate::modfile::unquote;
use crate::path::ModulePath;
use crate::revision::Revision;

/// A module that a go.mod requires, or has put in the place of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The line that says so, counted from one.
    pub line: usize,
    /// The module.
    pub path: ModulePath,
    /// The version, or what stands for one.
    pub version: Revision,
}

/// A go.mod says something that the go command would not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct RequirementsError {
    /// The line, counted from one.
    pub line: usize,
    /// What is wrong there.
    pub why: String,
}

/// Lists what a go.mod requires, in the order of its lines, once each.
pub fn requirements(body: &[u8]) -> Result<Vec<Requirement>, RequirementsError> {
    let text = str::from_utf8(body).map_err(|error| {
        let before = body.get(..error.valid_up_to()).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        RequirementsError { line, why: "it is not UTF-8".to_owned() }
    })?;
    let Directives { required, replaced } = directives(text)?;
    let mut wanted: Vec<Named> = Vec::new();
    for named in required {
        let exact = (named.path.clone(), Some(named.version.clone()));
        let any = (named.path.clone(), None);
        if !replaced.contains_key(&exact) && !replaced.contains_key(&any) {
            wanted.push(named);
        }
    }
    // One that replaces what is not required itself may be needed for what is required by others.
    wanted.extend(replaced.into_values().flatten());
    wanted.sort_by_key(|named| named.line);
    let mut seen = std::collections::HashSet::new();
    wanted.retain(|named| seen.insert((named.path.clone(), named.version.clone())));
    wanted.into_iter().map(Named::checked).collect()
}

/// A module and a version as they are written.
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

/// A path, and the one version that is meant if it is not all.
type Replaced = (String, Option<String>);

#[derive(Default)]
struct Directives {
    required: Vec<Named>,
    /// What stands in the place of what; nothing to be fetched where that is a folder.
    replaced: HashMap<Replaced, Option<Named>>,
}

fn directives(text: &str) -> Result<Directives, RequirementsError> {
    let mut found = Directives::default();
    let mut block: Option<String> = None;
    for (line, text) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let wrong = |why: &str| RequirementsError { line, why: why.to_owned() };
        let words = words(text).map_err(wrong)?;
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        match (&block, words.as_slice()) {
            (_, []) => {}
            (Some(_), [")"]) => block = None,
            (Some(verb), arguments) => found.add(line, verb, arguments)?,
            (None, [_, "(", ")"]) => {}
            (None, [verb, "("]) => block = Some((*verb).to_owned()),
            (None, [verb, arguments @ ..]) => found.add(line, verb, arguments)?,
        }
    }
    match block {
        Some(verb) => {
            let line = text.lines().count();
            Err(RequirementsError { line, why: format!("the block of {verb} is not closed") })
        }
        None => Ok(found),
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
                return Err(RequirementsError { line, why: format!("it is not of the form `{form}`") });
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
                let why = "what stands behind => is neither a folder nor a module and its version";
                return Err(RequirementsError { line, why: why.to_owned() });
            }
        };
        self.replaced.insert((path.to_owned(), version.map(str::to_owned)), target);
        Ok(())
    }
}

/// Splits a line into its words; parentheses, brackets and commas stand for themselves.
fn words(line: &str) -> Result<Vec<Cow<'_, str>>, &'static str> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if rest.starts_with("//") => break,
            '"' | '`' => {
                let length = quoted_length(rest, first).ok_or("a quote is not closed")?;
                let (quoted, _) = rest.split_at(length);
                words.push(Cow::Owned(unquote(quoted).ok_or("what is quoted cannot be read")?));
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

/// A word ends at white space, at a mark and at a comment.
fn word_length(text: &str) -> usize {
    let end = text
        .char_indices()
        .find(|(at, c)| *at > 0 && (c.is_whitespace() || is_mark(*c) || text[*at..].starts_with("//")));
    end.map_or(text.len(), |(at, _)| at)
}

/// Is the length of a quoted string with its quotes.
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
    fn what_is_required_is_listed_in_order() {
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
    fn what_is_replaced_gives_way_to_what_stands_for_it() {
        let body = "require (\n  here v0.0.0\n  a.b/all v1.0.0\n  a.b/one v1.0.0\n  a.b/other v1.1.0\n)\n\
            replace here => ../here\nreplace (\n  a.b/all => c.d/all v1.5.0\n  a.b/one v1.0.0 => c.d/one v1.6.0\n\
            \ta.b/other v1.0.0 => c.d/other main\n  a.b/far v0.1.0 => \"./with space\"\n)\n";
        assert_eq!(
            listed(body),
            ["5: a.b/other@v1.1.0", "9: c.d/all@v1.5.0", "10: c.d/one@v1.6.0", "11: c.d/other@main"]
        );
    }

    #[test]
    fn what_is_said_twice_is_listed_once() {
        assert_eq!(listed("require a.b v1.0.0\nrequire a.b v1.0.0\nrequire a.b v1.1.0\n").len(), 2);
    }

    #[test]
    fn what_the_go_command_would_not_take_is_named_by_its_line() {
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
        fn any_text_gets_an_answer(body in "(require|replace|a\\.b|v1\\.0\\.0|=>|[()\"`, \t\n/é\\\\-]){0,30}") {
            if let Ok(found) = requirements(body.as_bytes()) {
                let lines = body.lines().count();
                prop_assert!(found.iter().all(|one| one.line >= 1 && one.line <= lines));
            }
        }

        #[test]
        fn any_bytes_get_an_answer(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = requirements(&body);
        }

        #[test]
        fn what_is_written_is_read(paths in proptest::collection::vec("[a-z]{1,4}\\.[a-z]{2}(/[a-zA-Z0-9]{1,4}x){0,2}", 0..6)) {
            let lines: String = paths.iter().map(|path| format!("\t{path} v1.2.3 // indirect\n")).collect();
            let found = requirements(format!("module a.b\n\nrequire (\n{lines})\n").as_bytes());
            let mut distinct = paths.clone();
            distinct.sort();
            distinct.dedup();
            if let Ok(found) = found {
                prop_assert_eq!(found.len(), distinct.len());
            } else {
                // A name that no file system of every kind takes.
                prop_assert!(paths.iter().any(|path| ModulePath::new(path).is_err()));
            }
        }
    }
}
