//! The config file of Stoa that the command prints.

use std::fmt::Write;

use super::rules::{Effect, Rule};

/// The content of the config file.
#[derive(Debug, Default)]
pub(super) struct Ours {
    /// The sources, for a comment at the top.
    pub(super) sources: Vec<String>,
    /// Notes about settings that have no exact counterpart.
    pub(super) notes: Vec<String>,
    /// Keys with their values, in order, some with a comment.
    pub(super) keys: Vec<(&'static str, toml::Value, Option<&'static str>)>,
    pub(super) max_fills: u64,
    /// The effect on modules that no rule matches.
    pub(super) base: Effect,
    /// Whether modules that no rule matches are refused.
    pub(super) refuses_rest: bool,
    pub(super) rules: Vec<Rule>,
}

impl Ours {
    /// Notes that a setting is not translated, with advice.
    pub(super) fn not_translated(&mut self, origin: &str, advice: &str) {
        self.notes.push(format!("not translated: {origin}: {advice}"));
    }

    /// Notes that a setting is translated with a difference.
    pub(super) fn note(&mut self, origin: &str, difference: &str) {
        self.notes.push(format!("note: {origin}: {difference}"));
    }

    /// Formats the config file.
    pub(super) fn to_toml(&self) -> String {
        let mut text = String::from("# A config file for Stoa, made by `stoa import-config` from:\n");
        for source in &self.sources {
            comment(&mut text, &format!("  {source}"));
        }
        if !self.notes.is_empty() {
            text.push_str("#\n");
            for note in &self.notes {
                comment(&mut text, note);
            }
        }
        text.push('\n');
        for (key, value, why) in &self.keys {
            if let Some(why) = why {
                comment(&mut text, why);
            }
            line(&mut text, key, value);
        }
        let Effect { mode, url, is_unchecked, .. } = &self.base;
        line(&mut text, "mode", &(*mode).into());
        if let Some(url) = url {
            line(&mut text, "redirect_url", &url.as_str().into());
        }
        if *is_unchecked {
            line(&mut text, "checksum", &"off".into());
        }
        text.push_str("\n[fill]\n");
        let most = i64::try_from(self.max_fills).unwrap_or(i64::MAX);
        line(&mut text, "max_concurrent", &most.into());
        for (patterns, effect) in &self.rules {
            text.push_str("\n[[module]]\n");
            line(&mut text, "pattern", &patterns.as_str().into());
            self.rule(&mut text, effect);
        }
        if self.refuses_rest {
            text.push_str("\n[[module]]\npattern = \"*\"\ndeny = [\"*\"]\n");
        }
        text
    }

    /// Writes the settings of a rule that differ from the base.
    fn rule(&self, text: &mut String, effect: &Effect) {
        let Effect { admits, mode, url, is_direct, is_unchecked } = effect;
        if !admits.refuses_all() {
            if *mode != self.base.mode {
                line(text, "mode", &(*mode).into());
            }
            if let Some(url) = url.as_ref().filter(|url| self.base.url.as_ref() != Some(*url)) {
                line(text, "redirect_url", &url.as_str().into());
            }
            if *is_direct {
                line(text, "upstream", &"direct".into());
            }
            if *is_unchecked != self.base.is_unchecked {
                line(text, "checksum", &(if *is_unchecked { "off" } else { "auto" }).into());
            }
        }
        for (key, ranges) in [("allow", &admits.allow), ("deny", &admits.deny)] {
            if !ranges.is_empty() {
                line(text, key, &ranges.clone().into());
            }
        }
    }
}

fn line(text: &mut String, key: &str, value: &toml::Value) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{key} = {value}");
}

/// Writes a comment on one line. Control characters become spaces.
fn comment(text: &mut String, what: &str) {
    let what = what.replace(|c: char| c.is_control(), " ");
    let _ = writeln!(text, "# {what}");
}
