//! File systems of a test, in a mount namespace of their own: they are gone when the test is, however it ends.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::transcript;

/// A mounted file system. Only programs that [`Mount::inside`] prepares see it at its path.
pub struct Mount {
    /// A process that keeps the namespace. It ends with its standard input, and so with this process.
    keeper: Child,
    folder: TempDir,
}

impl Mount {
    /// Mounts a file system in memory, with options such as `size=4m,nr_inodes=1000`.
    pub fn tmpfs(options: &str) -> Self {
        Self::new(&format!("mount -t tmpfs -o {options} none \"$1/mounted\""))
    }

    /// Makes and mounts a file system of this size on a loop device, with arguments for `mkfs.ext4`.
    pub fn ext4(mebibytes: u64, arguments: &str) -> Self {
        Self::new(&format!(
            "truncate -s {mebibytes}M \"$1/image\" && mkfs.ext4 -q -m 0 {arguments} \"$1/image\" && \
             mount -o loop \"$1/image\" \"$1/mounted\" && rmdir \"$1/mounted/lost+found\""
        ))
    }

    fn new(line: &str) -> Self {
        Self::try_new(line).unwrap_or_else(|error| panic!("cannot mount: {error}"))
    }

    fn try_new(line: &str) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("stoa-mount-").tempdir().unwrap();
        fs::create_dir(folder.path().join("mounted")).unwrap();
        let mut keeper = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                &format!("{line} && echo ok && exec cat"),
                "sh",
            ])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut answer = [0; 3];
        if keeper.stdout.as_mut().unwrap().read_exact(&mut answer).is_err() {
            return Err(transcript(&keeper.wait_with_output().unwrap()));
        }
        Ok(Self { keeper, folder })
    }

    /// Returns the path of the file system for programs inside.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// Returns the path of the file system for this process.
    pub fn outside(&self) -> PathBuf {
        let inside = self.path();
        Path::new("/proc")
            .join(self.keeper.id().to_string())
            .join("root")
            .join(inside.strip_prefix("/").unwrap())
    }

    /// Returns a command that runs another command inside, in the same environment.
    pub fn inside(&self, command: &Command) -> Command {
        let mut outer = Command::new("nsenter");
        outer.arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.id()));
        outer.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        outer
    }

    /// Runs a command inside to its end.
    pub fn run(&self, command: &Command) -> Output {
        self.inside(command).output().unwrap()
    }

    /// Fills the file system to its last byte and its last inode that a file needs.
    pub fn fill(&self) {
        let folder = self.outside().join("ballast");
        if let Err(error) = fs::create_dir(&folder)
            && error.kind() != ErrorKind::AlreadyExists
        {
            return;
        }
        let mut number = fs::read_dir(&folder).unwrap().count();
        let mut next = || {
            number += 1;
            File::create_new(folder.join(number.to_string()))
        };
        // Small writes last: they take the rest of the space.
        for size in [1 << 20, 1 << 16, 1 << 12, 1] {
            let Ok(mut file) = next() else { break };
            while file.write_all(&vec![7; size]).is_ok() {}
            let _ = file.sync_all();
        }
    }

    /// Takes the last inodes, and little space.
    pub fn fill_inodes(&self) {
        let folder = self.outside().join("ballast");
        let _ = fs::create_dir(&folder);
        let mut number = fs::read_dir(&folder).map_or(0, Iterator::count);
        while File::create_new(folder.join(number.to_string())).is_ok() {
            number += 1;
        }
    }

    /// Takes back what filled the file system.
    pub fn empty(&self) {
        fs::remove_dir_all(self.outside().join("ballast")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Returns why no file system can be mounted, or `None`.
pub fn no_tmpfs() -> Option<String> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    REASON.get_or_init(|| reason("mount -t tmpfs -o size=1m none \"$1/mounted\"")).clone()
}

/// Returns why no image can be mounted, or `None`.
pub fn no_ext4() -> Option<String> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    let line = "truncate -s 4M \"$1/image\" && mkfs.ext4 -q \"$1/image\" && mount -o loop \"$1/image\" \"$1/mounted\"";
    REASON.get_or_init(|| reason(line)).clone()
}

fn reason(line: &str) -> Option<String> {
    Mount::try_new(line).err().map(|error| format!("this user cannot mount here: {error}"))
}
