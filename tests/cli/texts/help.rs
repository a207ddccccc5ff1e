//! The `--help` of every command of both programs.

use std::process::{Command, Stdio};

use testkit::{Case, MIGRATE, Program, STOA, cases};

pub(super) fn cases() -> Vec<Case> {
    cases![every_help_of_stoa, every_help_of_stoa_migrate]
}

fn every_help_of_stoa() {
    super::compare("help_stoa", &tree(STOA, "stoa"));
}

fn every_help_of_stoa_migrate() {
    super::compare("help_stoa_migrate", &tree(MIGRATE, "stoa-migrate"));
}

/// Collects the help of a program and, recursively, of the commands that each help lists.
fn tree(program: Program, name: &str) -> String {
    let mut text = String::new();
    let mut open = vec![Vec::new()];
    while let Some(command) = open.pop() {
        let help = help(program, &command);
        text += &format!("$ {} --help\n{help}\n", [&[name.to_owned()], &command[..]].concat().join(" "));
        let listed = listed(&help).into_iter().rev().filter(|name| name != "help");
        open.extend(listed.map(|name| [&command[..], &[name]].concat()));
    }
    text
}

fn help(program: Program, command: &[String]) -> String {
    let mut help = Command::new(program);
    help.args(command).arg("--help").env_clear().env("COLUMNS", "100").stdin(Stdio::null());
    help.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = help.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", testkit::transcript(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    // Lines without an end of blanks: an editor would take them away.
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Returns the commands that a help lists.
fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| line.starts_with(' ') || line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect()
}
