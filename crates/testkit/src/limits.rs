//! Commands run below another program: with less than a user usually has.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::inject::through;
use super::missing_tool;

/// Returns a command that runs another command below a program, in the same folder and environment.
pub fn below<'a>(outer: impl IntoIterator<Item = &'a str>, inner: &Command) -> Command {
    let mut words = outer.into_iter();
    through(words.next().expect("a program"), words, inner)
}

/// Returns a command that runs another command after a line of the shell, such as `umask 077`.
pub fn after(line: &str, inner: &Command) -> Command {
    below(["sh", "-c", &format!("{line} && exec \"$@\""), "sh"], inner)
}

/// Returns a command that runs another command as a user with at most so many threads and processes, as root only.
pub fn with_processes(count: usize, user: u32, inner: &Command) -> Command {
    let id = user.to_string();
    // Not `ulimit -u`, which dash does not know.
    let limit = format!("--nproc={count}");
    below(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "prlimit", &limit], inner)
}

/// Returns why this user cannot become others, or `None`.
pub fn not_root() -> Option<String> {
    (!rustix::process::geteuid().is_root()).then(|| "only root can become another user".to_owned())
}

/// Returns why `setpriv` or `prlimit` cannot be used, or `None`.
pub fn no_setpriv() -> Option<String> {
    missing_tool("setpriv", &["--version"]).or_else(|| missing_tool("prlimit", &["--nproc"]))
}

/// Gives a folder and everything below it to a user.
pub fn give(root: &Path, user: u32) {
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        std::os::unix::fs::lchown(&path, Some(user), Some(user)).unwrap();
        if std::fs::symlink_metadata(&path).unwrap().is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

/// Sets the mode of a file.
pub fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
