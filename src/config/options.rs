//! The options of the command line that set keys.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches};

use super::keys::SERVE;

/// The values of keys on a command line, as they were typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<&'static str, String>);

impl Options {
    /// Sets a key, if there is a value for it.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.0.insert(key, value.to_string());
        }
        self
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// One option for each key of the server.
impl clap::Args for Options {
    fn augment_args(command: clap::Command) -> clap::Command {
        SERVE.iter().fold(command, |command, key| {
            let long = key.option().trim_start_matches("--").to_owned();
            let argument = Arg::new(key.name).long(long).value_name(key.value_name).help(key.help());
            command.arg(match key.is_switch() {
                true => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
                false => argument.action(ArgAction::Set),
            })
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let typed =
            SERVE.iter().filter_map(|key| Some((key.name, matches.get_one::<String>(key.name)?.clone())));
        Ok(Self(typed.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
