//! The download mode of Athens: a mode, or an HCL file with a mode for each pattern.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hcl::{Block, Body, Expression, Structure};

/// The modes of Athens. Stoa uses the same words.
const MODES: [&str; 5] = ["sync", "async", "redirect", "async_redirect", "none"];

/// The modes of all modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DownloadMode {
    /// The mode of modules that no pattern matches.
    pub(super) mode: &'static str,
    /// The target of redirections.
    pub(super) url: Option<String>,
    /// The patterns, in order. The first that matches decides.
    pub(super) paths: Vec<ModeOfPath>,
}

/// The mode of the modules that a pattern matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModeOfPath {
    pub(super) pattern: String,
    pub(super) mode: &'static str,
    pub(super) url: Option<String>,
}

/// The file is malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModeError {
    /// Line number, counted from one.
    pub(super) line: usize,
    pub(super) why: String,
}

/// Returns the mode of a word.
pub(super) fn mode(word: &str) -> Option<&'static str> {
    MODES.into_iter().find(|mode| *mode == word)
}

/// Returns whether a mode redirects clients.
pub(super) fn redirects(mode: &str) -> bool {
    matches!(mode, "redirect" | "async_redirect")
}

/// Decodes the base64 after `custom:`.
pub(super) fn decode(base64: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(base64).ok()?).ok()
}

/// Parses the HCL file.
pub(super) fn parse(text: &str) -> Result<DownloadMode, ModeError> {
    let body: Body = hcl::parse(text).map_err(|error| match &error {
        hcl::Error::Parse(parse) => {
            ModeError { line: parse.location().line(), why: parse.message().to_owned() }
        }
        other => ModeError { line: 1, why: other.to_string() },
    })?;
    let mut paths = Vec::new();
    for block in body.blocks() {
        paths.push(path(text, block)?);
    }
    let whole = Attributes { text, body: &body, begins: 1 };
    whole.check()?;
    Ok(DownloadMode { mode: whole.mode()?, url: whole.text_of("downloadURL")?, paths })
}

fn path(text: &str, block: &Block) -> Result<ModeOfPath, ModeError> {
    let pattern = match block.labels.as_slice() {
        [pattern] => pattern.as_str().to_owned(),
        _ => String::new(),
    };
    let begins = line_with(text, &format!("\"{pattern}\""), 1);
    if block.identifier.as_str() != "download" || block.labels.len() != 1 {
        let name = block.identifier.as_str();
        let begins = line_with(text, name, 1);
        let why = format!("unexpected block {name}, expected download \"PATTERN\" {{ … }}");
        return Err(ModeError { line: begins, why });
    }
    let inner = Attributes { text, body: &block.body, begins };
    inner.check()?;
    Ok(ModeOfPath { mode: inner.mode()?, url: inner.text_of("downloadURL")?, pattern })
}

/// The attributes of the file, or of a block of it.
struct Attributes<'a> {
    text: &'a str,
    body: &'a Body,
    /// The line at which the block begins.
    begins: usize,
}

impl Attributes<'_> {
    /// Rejects unknown attributes.
    fn check(&self) -> Result<(), ModeError> {
        for structure in self.body.iter() {
            let name = match structure {
                Structure::Attribute(attribute) => attribute.key.as_str(),
                Structure::Block(_) => continue,
            };
            if !matches!(name, "mode" | "downloadURL") {
                return Err(
                    self.wrong(name, format!("unknown attribute {name}, expected mode or downloadURL"))
                );
            }
        }
        Ok(())
    }

    fn mode(&self) -> Result<&'static str, ModeError> {
        let word = self.text_of("mode")?.unwrap_or_default();
        mode(&word).ok_or_else(|| {
            self.wrong("mode", format!("mode is {word:?}, expected one of {}", MODES.join(", ")))
        })
    }

    /// Returns the text of an attribute, unless it is missing or empty.
    fn text_of(&self, name: &str) -> Result<Option<String>, ModeError> {
        let found = self.body.attributes().find(|attribute| attribute.key.as_str() == name);
        match found.map(|attribute| &attribute.expr) {
            None => Ok(None),
            Some(Expression::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(_) => Err(self.wrong(name, format!("{name} is not a quoted string"))),
        }
    }

    fn wrong(&self, name: &str, why: String) -> ModeError {
        ModeError { line: line_with(self.text, name, self.begins), why }
    }
}

/// Returns the number of the first line from `from` on that contains a word, or `from`.
fn line_with(text: &str, word: &str, from: usize) -> usize {
    let lines = (1..).zip(text.lines()).skip(from - 1);
    lines.into_iter().find(|(_, line)| line.contains(word)).map_or(from, |(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = "# ours\ndownloadURL = \"https://proxy.example\"\nmode = \"async_redirect\"\n\n\
        download \"github.com/acme/*\" {\n  mode = \"sync\"\n}\n\
        download \"*.corp.example\" {\n  mode = \"redirect\"\n  downloadURL = \"https://corp.example\"\n}\n";

    #[test]
    fn each_pattern_has_its_mode() {
        let parsed = parse(FILE).unwrap();
        assert_eq!((parsed.mode, parsed.url.as_deref()), ("async_redirect", Some("https://proxy.example")));
        let paths: Vec<_> =
            parsed.paths.iter().map(|path| (path.pattern.as_str(), path.mode, path.url.as_deref())).collect();
        let expected = [
            ("github.com/acme/*", "sync", None),
            ("*.corp.example", "redirect", Some("https://corp.example")),
        ];
        assert_eq!(paths, expected);
        assert_eq!(decode(&STANDARD.encode(FILE)).as_deref(), Some(FILE));
        assert_eq!(decode("not base64!"), None);
    }

    #[test]
    fn a_malformed_file_is_named_by_its_line() {
        for (text, line, word) in [
            ("mode = \"sync\"\nmode\n", 2, ""),
            ("mode = \"sometimes\"\n", 1, "sometimes"),
            ("downloadURL = \"\"\n", 1, "mode"),
            ("mode = \"sync\"\nurl = \"x\"\n", 2, "url"),
            ("mode = \"sync\"\n\ndownload \"a.b\" {\n}\n", 3, "mode"),
            ("mode = \"sync\"\n\ndownload \"a.b\" {\n  mode = \"x\"\n}\n", 4, "\"x\""),
            ("mode = \"sync\"\nupload \"a.b\" {\n  mode = \"sync\"\n}\n", 2, "upload"),
            ("mode = \"sync\"\ndownload \"a.b\" \"c\" {\n  mode = \"sync\"\n}\n", 2, "PATTERN"),
            ("mode = 1\n", 1, "quoted"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error:?}");
            assert!(error.why.contains(word), "{text}: {error:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gets_an_answer(text in "(mode|download|downloadURL|=|\"|sync|a\\.b|[{} \n$\\\\-]){0,24}") {
            let _ = parse(&text);
        }
    }
}
