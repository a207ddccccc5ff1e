//! Fails chosen system calls of a program, by strace.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};

use super::missing_tool;

/// Returns why no call can be failed here.
pub fn missing() -> Option<String> {
    missing_tool("strace", &["-f", "-o", "/dev/null", "-e", "inject=getppid:error=EIO", "true"])
}

/// The calls that open a file or a folder.
pub const OPENS: &str = "?open,openat";

/// The calls that remove a folder.
pub const REMOVES_FOLDERS: &str = "?rmdir,unlinkat";

/// Runs a command with calls failing, in the same environment. `rules` are pairs of calls and `error=ERRNO` with an optional
/// `:when=`. If `path` is given, only calls that name it fail.
pub fn failing(command: &Command, rules: &[(&str, &str)], path: Option<&Path>) -> Command {
    strace(&[], command, rules, path)
}

/// Does the same as [`failing`] for a program that is stopped by a signal: the child is the program, and not strace.
pub fn failing_server(command: &Command, rules: &[(&str, &str)], path: &Path) -> Command {
    strace(&["-D"], command, rules, Some(path))
}

fn strace(options: &[&str], command: &Command, rules: &[(&str, &str)], path: Option<&Path>) -> Command {
    let own = ["-qq", "-f", "-o", "/dev/null"];
    let mut arguments: Vec<OsString> = own.iter().chain(options).map(OsString::from).collect();
    if let Some(path) = path {
        arguments.extend(["-P".into(), path.into()]);
    }
    for (calls, fault) in rules {
        arguments.extend(["-e".into(), format!("inject={calls}:{fault}").into()]);
    }
    through("strace", arguments, command)
}

/// Runs a command by another program, which gets the command as its last arguments, in the environment of the command.
pub fn through(
    program: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    command: &Command,
) -> Command {
    let mut outer = Command::new(program);
    outer.args(arguments).arg(command.get_program()).args(command.get_args()).env_clear();
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    outer.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    outer
}
