//! The text of a log line: a sentence and its fields, in the two forms.

use std::fmt::{self, Display, Formatter, Write};

use log::Record;
use log::kv::{Error, Key, Value, VisitSource};

/// The start of the line of help in the text of an error.
const HELP: &str = "\nhelp: ";

/// A sentence and its fields, in the order in which the code names them.
#[derive(Debug, Default)]
pub(super) struct Line {
    sentence: String,
    fields: Vec<(String, String)>,
}

impl Line {
    pub(super) fn of(record: &Record<'_>) -> Self {
        let mut line = Self { sentence: on_one_line(&record.args().to_string()), fields: Vec::new() };
        // Collecting strings does not fail.
        let _ = record.key_values().visit(&mut line);
        let source = record.target().split("::").next().unwrap_or_default();
        if !source.starts_with(super::OURS) {
            line.fields.push(("crate".to_owned(), source.to_owned()));
        }
        line
    }

    /// Returns the form for services, which is easy to search: `sentence key=value key="a value"`.
    pub(super) fn for_services(&self) -> impl Display {
        Service(self)
    }

    /// Returns the form for commands: `sentence: reason (key: value, key: value)`, and the help in a line of its own.
    pub(super) fn for_commands(&self) -> impl Display {
        Command(self)
    }

    /// Returns the text by which a repetition is recognised: the line without fields that count or measure.
    pub(super) fn identity(&self) -> String {
        let fields = self.fields.iter().filter(|(key, _)| !is_measure(key)).cloned().collect();
        Self { sentence: self.sentence.clone(), fields }.for_services().to_string()
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Returns whether a field differs each time although the fact is the same.
fn is_measure(key: &str) -> bool {
    key.ends_with("_total") || ["attempt", "bytes", "elapsed", "pause"].contains(&key)
}

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let (key, mut value) = (key.to_string(), value.to_string());
        // Errors have a second line for the help, see `CommandError`.
        let help = value.find(HELP).map(|at| value.split_off(at).split_off(HELP.len()));
        self.fields.push((key, value));
        self.fields.extend(help.map(|help| ("help".to_owned(), help)));
        Ok(())
    }
}

struct Service<'l>(&'l Line);

impl Display for Service<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.sentence)?;
        for (key, value) in &self.0.fields {
            let is_plain = !value.is_empty() && !value.contains(needs_quotes);
            match is_plain {
                true => write!(f, " {key}={value}")?,
                false => write!(f, " {key}={value:?}")?,
            }
        }
        Ok(())
    }
}

fn needs_quotes(c: char) -> bool {
    c.is_whitespace() || is_unprintable(c) || matches!(c, '"' | '=')
}

struct Command<'l>(&'l Line);

impl Display for Command<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(line) = self;
        f.write_str(&line.sentence)?;
        if let Some(reason) = line.field("reason") {
            write!(f, ": {}", on_one_line(reason))?;
        }
        let others = line.fields.iter().filter(|(key, _)| key != "reason" && key != "help");
        for (at, (key, value)) in others.clone().enumerate() {
            let before = if at == 0 { " (" } else { ", " };
            write!(f, "{before}{}: {}", key.replace('_', " "), on_one_line(value))?;
        }
        if others.count() > 0 {
            f.write_char(')')?;
        }
        match line.field("help") {
            Some(help) => write!(f, "\nhelp: {}", on_one_line(help)),
            None => Ok(()),
        }
    }
}

/// Escapes line ends and other control characters: text of an upstream or a file name must not make a line of its own,
/// and must not steer a terminal.
pub(crate) fn on_one_line(text: &str) -> String {
    if !text.contains(is_unprintable) {
        return text.to_owned();
    }
    let escaped =
        text.chars().map(|c| if is_unprintable(c) { c.escape_default().to_string() } else { c.into() });
    escaped.collect()
}

/// Returns whether a character ends a line, steers a terminal, or changes the direction of the text around it.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(sentence: &str, fields: &[(&str, &str)]) -> Line {
        let record =
            |args| Line::of(&Record::builder().target("stoa::fill").key_values(&fields).args(args).build());
        record(format_args!("{sentence}"))
    }

    #[test]
    fn a_service_line_is_a_sentence_and_fields() {
        let fields =
            [("version", "a.b/c@v1.0.0"), ("reason", "no \"space\" left"), ("count", "3"), ("list", "")];
        assert_eq!(
            line("cannot fill a version", &fields).for_services().to_string(),
            r#"cannot fill a version version=a.b/c@v1.0.0 reason="no \"space\" left" count=3 list="""#
        );
    }

    #[test]
    fn a_command_line_reads_like_a_sentence() {
        let of = |fields: &[(&str, &str)]| line("cannot fetch", fields).for_commands().to_string();
        assert_eq!(of(&[]), "cannot fetch");
        assert_eq!(of(&[("reason", "timed out")]), "cannot fetch: timed out");
        assert_eq!(
            of(&[
                ("version", "a.b@v1.0.0"),
                ("reason", "timed out"),
                ("retry_after", "5 s"),
                ("help", "try again")
            ]),
            "cannot fetch: timed out (version: a.b@v1.0.0, retry after: 5 s)\nhelp: try again"
        );
    }

    #[test]
    fn the_help_of_an_error_is_a_field_of_its_own() {
        let line = line("not ready", &[("reason", "cannot read /s: gone\nhelp: mount it"), ("path", "/s")]);
        let text = r#"not ready reason="cannot read /s: gone" help="mount it" path=/s"#;
        assert_eq!(line.for_services().to_string(), text);
        assert_eq!(
            line.for_commands().to_string(),
            "not ready: cannot read /s: gone (path: /s)\nhelp: mount it"
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        let evil = line("got\nINFO all is well", &[("reason", "\u{1b}[2Jx\n")]);
        assert_eq!(evil.for_services().to_string(), r#"got\nINFO all is well reason="\u{1b}[2Jx\n""#);
        assert_eq!(evil.for_commands().to_string(), r"got\nINFO all is well: \u{1b}[2Jx\n");
        let turned = line("got", &[("reason", "a\u{202e}b\u{2028}c\u{9b}2J")]);
        assert_eq!(turned.for_services().to_string(), r#"got reason="a\u{202e}b\u{2028}c\u{9b}2J""#);
        assert_eq!(turned.for_commands().to_string(), r"got: a\u{202e}b\u{2028}c\u{9b}2J");
    }

    #[test]
    fn lines_of_other_crates_name_the_crate() {
        let record = Record::builder().target("h2::codec").args(format_args!("send")).build();
        assert_eq!(Line::of(&record).for_services().to_string(), "send crate=h2");
    }

    #[test]
    fn measures_do_not_make_a_line_another() {
        let one = line("aborted a transfer", &[("version", "a.b@v1.0.0"), ("aborted_total", "1")]);
        let two = line("aborted a transfer", &[("version", "a.b@v1.0.0"), ("aborted_total", "2")]);
        let other = line("aborted a transfer", &[("version", "a.b@v1.1.0"), ("aborted_total", "2")]);
        assert_eq!(one.identity(), two.identity());
        assert_ne!(one.identity(), other.identity());
    }
}
