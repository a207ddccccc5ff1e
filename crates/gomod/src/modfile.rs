//! The few parts of a go.mod that a proxy needs, and the generated go.mod of a version without one.
//!
//! There is no full parser: the module path is found line by line, like
//! `golang.org/x/mod/modfile.ModulePath` does, and so is the `go` line. The bytes of a go.mod are part of
//! hashes and are never changed.

use crate::path::ModulePath;
use std::borrow::Cow;

/// Returns the module path that a go.mod declares. `None` if it is missing or malformed.
///
/// The path is returned as written and may be invalid.
pub fn module_path(body: &[u8]) -> Option<String> {
    for line in lines(body) {
        let Some(rest) = line.strip_prefix("module") else { continue };
        let path = rest.trim();
        if path.len() == rest.len() || path.is_empty() {
            continue;
        }
        let path = match path.starts_with(['"', '`']) {
            true => unquote(path)?,
            false => path.to_owned(),
        };
        return (!path.is_empty()).then_some(path);
    }
    None
}

/// Returns whether a line starts with the word `module`, as in every go.mod.
///
/// More lenient than [`module_path()`]: a block (`module (`) and a leading byte order mark are accepted,
/// too.
pub fn has_module_directive(body: &[u8]) -> bool {
    lines(body).any(|line| {
        let rest = line.trim_start_matches('\u{feff}').trim_start().strip_prefix("module");
        rest.is_some_and(|rest| match rest.chars().next() {
            Some(next) => next.is_whitespace() || matches!(next, '(' | '"' | '`'),
            None => true,
        })
    })
}

/// Returns the Go version of the `go` line, as written (`1.21`, `1.24.3`, `1.24rc1`).
pub fn go_version(body: &[u8]) -> Option<String> {
    directive(body, "go", |version| version.starts_with(|c: char| c.is_ascii_digit()))
}

/// Returns the toolchains that the `go` and `toolchain` lines of a go.mod name, as in `go1.24.3`. Omits names that are
/// no toolchain that can be downloaded.
pub fn toolchains(body: &[u8]) -> Vec<String> {
    let named = directive(body, "toolchain", |name| name.starts_with("go1."));
    let line = go_version(body).map(|version| format!("go{version}"));
    let mut all: Vec<_> = [line, named].into_iter().flatten().filter(|name| is_release(name)).collect();
    all.dedup();
    all
}

/// Returns whether this is a released toolchain. Language versions (`go1.22`) are none, and those before 1.21 cannot be
/// downloaded.
fn is_release(name: &str) -> bool {
    let number =
        |digits: &str| digits.parse::<u32>().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()));
    let Some(rest) = name.strip_prefix("go1.") else { return false };
    let Some(end) = rest.find(|c: char| !c.is_ascii_digit()) else { return false };
    let (minor, rest) = rest.split_at(end);
    let patch = ["beta", "rc", "."].iter().find_map(|word| rest.strip_prefix(word));
    number(minor).is_some_and(|minor| minor >= 21) && patch.and_then(number).is_some()
}

/// Returns the argument of the first line outside of blocks with this verb and a suitable argument.
fn directive(body: &[u8], verb: &str, is_suitable: impl Fn(&str) -> bool) -> Option<String> {
    let mut within_block = false;
    for line in lines(body) {
        if within_block {
            within_block = !line.starts_with(')');
            continue;
        }
        let mut words = line.split_whitespace();
        if words.next() == Some(verb)
            && let Some(argument) = words.next()
            && is_suitable(argument)
        {
            return Some(argument.to_owned());
        }
        within_block = line.ends_with('(');
    }
    None
}

/// Returns the go.mod of a version without one: only the module line.
///
/// Clients recognize exactly these bytes. Valid module paths need no quotes.
pub fn synthesize(path: &ModulePath) -> String {
    format!("module {path}\n")
}

/// Returns the lines without comments and surrounding white space.
fn lines(body: &[u8]) -> impl Iterator<Item = Cow<'_, str>> {
    body.split(|&b| b == b'\n').map(|line| {
        let code = line.windows(2).position(|pair| pair == b"//").map_or(line, |at| &line[..at]);
        match String::from_utf8_lossy(code) {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
            Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
        }
    })
}

/// Parses a quoted Go string. Returns `None` if the text is anything else.
pub(crate) fn unquote(quoted: &str) -> Option<String> {
    if let Some(rest) = quoted.strip_prefix('`') {
        let raw = rest.strip_suffix('`')?;
        // Go drops carriage returns from raw strings.
        return (!raw.contains('`')).then(|| raw.replace('\r', ""));
    }
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' | '\n' => return None,
            '\\' => unescape(&mut rest, &mut bytes)?,
            _ => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    String::from_utf8(bytes).ok()
}

/// Parses the escape sequence after a backslash.
fn unescape(rest: &mut std::str::Chars<'_>, bytes: &mut Vec<u8>) -> Option<()> {
    let simple = match rest.next()? {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' => b'\\',
        '"' => b'"',
        'x' => u8::try_from(digits(rest, 16, 2, 0)?).ok()?,
        first @ '0'..='7' => u8::try_from(digits(rest, 8, 2, first.to_digit(8)?)?).ok()?,
        long @ ('u' | 'U') => {
            let code = digits(rest, 16, if long == 'u' { 4 } else { 8 }, 0)?;
            bytes.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(());
        }
        _ => return None,
    };
    bytes.push(simple);
    Some(())
}

fn digits(rest: &mut std::str::Chars<'_>, radix: u32, count: usize, start: u32) -> Option<u32> {
    (0..count)
        .try_fold(start, |value, _| value.checked_mul(radix)?.checked_add(rest.next()?.to_digit(radix)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quoted_paths_may_contain_escapes() {
        let path = |line: &str| module_path(line.as_bytes());
        assert_eq!(path(r#"module "a\x2eb/\u0063""#).as_deref(), Some("a.b/c"));
        assert_eq!(path(r#"module "\141""#).as_deref(), Some("a"));
        assert_eq!(path(r#"module "a\q""#), None);
        assert_eq!(path(r#"module "a" b"#), None);
        assert_eq!(path("module `a`b`"), None);
        assert_eq!(path(r#"module "\xff""#), None);
    }

    #[test]
    fn the_go_line_is_found_outside_of_blocks() {
        let go = |text: &str| go_version(text.as_bytes());
        assert_eq!(go("module a.b\n\ngo 1.24.3 // now\n").as_deref(), Some("1.24.3"));
        assert_eq!(go("require (\n\tgo 1.2\n)\ngo 1.20\r\n").as_deref(), Some("1.20"));
        assert_eq!(go("module a.b\n"), None);
        assert_eq!(go("go\n"), None);
        assert_eq!(go("gopher 1.2\n"), None);
    }

    #[test]
    fn the_go_and_toolchain_lines_name_toolchains() {
        let cases: [(&str, &[&str]); 10] = [
            ("go 1.24.1\ntoolchain go1.24.3\n", &["go1.24.1", "go1.24.3"]),
            ("go 1.25.0\ntoolchain go1.24.10\n", &["go1.25.0", "go1.24.10"]),
            ("go 1.24.3\ntoolchain go1.24.3\n", &["go1.24.3"]),
            ("go 1.24rc2\n", &["go1.24rc2"]),
            ("go 1.24\ntoolchain go1.24.0\n", &["go1.24.0"]),
            ("go 1.22\ntoolchain default\n", &[]),
            ("go 1.20.5\n", &[]),
            ("go 1.22\ntoolchain go1.22.1-custom\n", &[]),
            ("go 1.21beta1\ntoolchain go1.x.1\n", &["go1.21beta1"]),
            ("module m\n", &[]),
        ];
        for (body, names) in cases {
            assert_eq!(toolchains(body.as_bytes()), names, "{body}");
        }
    }

    #[test]
    fn a_module_directive_is_a_word_at_the_start_of_a_line() {
        for good in
            ["module a.b", "\u{feff}module a.b\n", "// x\n  module \"a.b\"\r\n", "module (\n\ta.b\n)\n"]
        {
            assert!(has_module_directive(good.as_bytes()), "{good}");
        }
        for bad in ["", "\0\0\0", "// module a.b", "modulea.b", "<html>module</html>"] {
            assert!(!has_module_directive(bad.as_bytes()), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_generated_go_mod_declares_its_path(path in "[a-z]\\.[a-z]{1,3}(/[a-zA-Z0-9._~-]{1,5}){0,2}") {
            if let Ok(path) = ModulePath::new(&path) {
                let body = synthesize(&path);
                prop_assert_eq!(module_path(body.as_bytes()), Some(path.to_string()));
                prop_assert!(has_module_directive(body.as_bytes()));
            }
        }

        #[test]
        fn no_input_panics(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (module_path(&body), go_version(&body), has_module_directive(&body));
        }
    }
}
