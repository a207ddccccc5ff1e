//! File systems that are mounted for one test, in a mount namespace of its own.
//!
//! Everything in the namespace ends with the value: the mounts, and the programs of the script that made them.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::missing_tool;

/// A mount namespace.
pub struct Mounts {
    holder: Child,
}

impl Mounts {
    /// Makes a namespace and runs a script in it as root, which gets the arguments as `$1`, `$2`, … Programs that it starts
    /// in the background stay until the end.
    pub fn new<A: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = A>) -> Self {
        let script = format!("set -e\n{script}\necho ready\nexec sleep infinity >/dev/null 2>&1");
        let mut command = unshare();
        command.args(["--pid", "--fork", "--kill-child", "sh", "-c"]).arg(script).arg("sh").args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().expect("unshare runs");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line != "ready\n" {
            let mut reason = String::new();
            let _ = holder.kill();
            holder.stderr.take().unwrap().read_to_string(&mut reason).unwrap();
            panic!("the script that mounts failed: {line}{reason}");
        }
        Self { holder }
    }

    /// Returns the same command, to run in the namespace. Its working folder is the root there.
    pub fn command(&self, inner: &Command) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder.id())).arg("--mount");
        if !is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Returns the path by which this process reaches a path in the namespace.
    pub fn outside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").expect("an absolute path"))
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Returns why nothing can be mounted here, if so.
pub fn missing() -> Option<String> {
    let output = unshare().args(["sh", "-c", "mount -t tmpfs tmpfs /tmp"]).output();
    match output {
        Ok(output) if output.status.success() => missing_tool("nsenter", &["--version"]),
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr);
            Some(format!("this user cannot mount anything: {}", reason.trim()))
        }
        Err(_) => Some("unshare is not installed".to_owned()),
    }
}

/// Returns why no overlay can be mounted here, if so.
pub fn missing_overlay() -> Option<String> {
    let mount = "mount -t tmpfs tmpfs /tmp; mkdir /tmp/l /tmp/u /tmp/w /tmp/m; mount -t overlay overlay \
                 -o lowerdir=/tmp/l,upperdir=/tmp/u,workdir=/tmp/w$0 /tmp/m";
    let option = if is_root() { "" } else { ",userxattr" };
    missing().or_else(|| match unshare().args(["sh", "-ec", mount, option]).output() {
        Ok(output) if output.status.success() => None,
        _ => Some("this kernel or this user cannot mount an overlay".to_owned()),
    })
}

/// Returns why no FUSE file system can be mounted here, if so. What a package supplies is not asked here.
pub fn missing_fuse() -> Option<String> {
    if !is_root() {
        return Some("only root can mount a FUSE file system that others see".to_owned());
    }
    let is_there = Path::new("/dev/fuse").exists();
    missing().or_else(|| (!is_there).then(|| "/dev/fuse does not exist".to_owned()))
}

/// Returns why bindfs cannot be used.
pub fn missing_bindfs() -> Option<String> {
    missing_tool("bindfs", &["--version"])
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
