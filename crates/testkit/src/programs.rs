//! The real programs, side by side in a folder of their own, run in an environment of their own.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::{MIGRATE, STOA};

/// The two programs of one release, a home for them, and a folder for a store that is not there yet.
pub struct Programs {
    folder: TempDir,
    /// The folder of the programs, to which `folder` has a symlink.
    bin: TempDir,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Programs {
    /// Returns the programs of this release.
    pub fn current() -> Self {
        Self::of(STOA.path(), MIGRATE.path())
    }

    /// Returns the programs of a release with one more layout.
    pub fn next() -> Self {
        let (stoa, migrate) = built_next();
        Self::of(stoa, migrate)
    }

    fn of(stoa: &Path, migrate: &Path) -> Self {
        let folder = crate::tempdir();
        // Where the build is, perhaps: hard links are made faster than copies.
        let bin = tempfile::Builder::new().prefix("stoa-test-").tempdir().unwrap();
        std::os::unix::fs::symlink(bin.path(), folder.path().join("bin")).unwrap();
        fs::create_dir(folder.path().join("home")).unwrap();
        for (from, name) in [(stoa, "stoa"), (migrate, "stoa-migrate")] {
            let to = bin.path().join(name);
            if fs::hard_link(from, &to).is_err() {
                install(from, &to);
            }
        }
        Self { folder, bin }
    }

    /// Returns the folder that holds everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.path().join(name)
    }

    /// Returns the path of the store, which may not exist yet.
    pub fn store(&self) -> PathBuf {
        self.folder().join("store")
    }

    /// Prepares a program with its home in this folder, that nothing of the environment reaches and that
    /// fetches nothing.
    pub fn command<A: AsRef<OsStr>>(&self, name: &str, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(self.program(name));
        command.args(arguments).env_clear().env("HOME", self.folder().join("home"));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("STOA_STORE", self.store()).env("STOA_UPSTREAM", "off");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.current_dir(self.folder());
        command
    }

    /// Runs `stoa` to its end.
    pub fn stoa<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ended {
        Ended::of(self.command("stoa", arguments))
    }

    /// Runs `stoa-migrate` to its end.
    pub fn migrate<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ended {
        Ended::of(self.command("stoa-migrate", arguments))
    }

    /// Makes an empty store.
    pub fn make_store(&self) -> PathBuf {
        let made = self.migrate::<&str>([]);
        assert_eq!(made.code, 0, "{made:?}");
        self.store()
    }
}

impl Ended {
    /// Runs a command to its end.
    pub fn of(mut command: Command) -> Self {
        Self::from_child(command.spawn().expect("the program starts"))
    }

    /// Waits for the end of a command.
    pub fn from_child(child: Child) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("programs write UTF-8");
        let code = output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or(0));
        Self { code, out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Has the fixture built once, by the cargo and in the way that built the test.
fn built_next() -> &'static (PathBuf, PathBuf) {
    static BUILT: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let own = STOA.path();
        let mut build = Command::new(env!("CARGO"));
        // With the dependencies that `cargo test --workspace` has built: those of one package have fewer features.
        build.args([
            "test",
            "--workspace",
            "--no-run",
            "--test",
            "next_programs",
            "--message-format",
            "json",
        ]);
        build.current_dir(super::project("")).stderr(Stdio::inherit());
        // What cargo told this test of its own package would make build scripts run again, both ways.
        let told = |name: &str| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|own| name.starts_with(own))
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(told)) {
            build.env_remove(name);
        }
        let profile_folder = own.parent().unwrap();
        if profile_folder.ends_with("release") {
            build.arg("--release");
        }
        build.arg("--target-dir").arg(profile_folder.parent().unwrap());
        let output = build.output().expect("cargo runs");
        assert!(output.status.success(), "the fixture with one layout more is built");
        let executable = |name: &str| {
            let messages = String::from_utf8_lossy(&output.stdout);
            let mut executables = messages.lines().filter_map(|line| {
                let message: serde_json::Value = serde_json::from_str(line).ok()?;
                Some(PathBuf::from(message["executable"].as_str()?))
            });
            executables.rfind(|path| path.ends_with(name)).expect("cargo names the program")
        };
        (executable("next-stoa"), executable("next-stoa-migrate"))
    })
}

/// Copies a program.
///
/// This process must not open the copy for writing: a child that another thread starts meanwhile would keep it open, and
/// the system executes no file that is open for writing.
pub fn install(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("--").args([from, to]).status().unwrap();
    assert!(status.success(), "cannot copy {}", from.display());
}

/// Writes a program that is a script.
pub fn install_script(path: &Path, script: &str) {
    let source = path.with_extension("source");
    fs::write(&source, script).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
    install(&source, path);
    fs::remove_file(source).unwrap();
}
