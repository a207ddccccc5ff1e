//! A real `go` client with caches of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{built, transcript};

/// Returns the build cache of all clients. It depends on the contents of sources only, and is kept: without it, each client
/// compiles the runtime.
pub fn build_cache() -> PathBuf {
    built::scratch().join("go-build")
}

/// A client with a module cache for each name.
pub struct Go {
    home: PathBuf,
    proxy: String,
    verifies: bool,
}

impl Go {
    pub fn new(home: &Path, proxy: &str) -> Self {
        Self { home: home.to_owned(), proxy: proxy.to_owned(), verifies: true }
    }

    /// Asks no checksum database: for a proxy that does not forward to one.
    pub fn unverified(mut self) -> Self {
        self.verifies = false;
        self
    }

    /// Begins a go command in a folder. Checksums are verified as the go command does by itself.
    pub fn command(&self, folder: &Path, module_cache: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("go");
        command.args(arguments).current_dir(folder);
        for name in
            ["GONOSUMDB", "GONOSUMCHECK", "GONOPROXY", "GOPRIVATE", "GOINSECURE", "GOFLAGS", "GOSUMDB"]
        {
            command.env_remove(name);
        }
        command
            .env("GOENV", "off")
            .env("GOPROXY", &self.proxy)
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-modcacherw -mod=mod -buildvcs=false")
            .env("CGO_ENABLED", "0")
            .env("GOPATH", self.home.join("gopath"))
            .env("GOCACHE", build_cache())
            .env("GOMODCACHE", self.home.join(module_cache));
        if !self.verifies {
            command.env("GOSUMDB", "off");
        }
        command
    }

    /// Runs one that must succeed within some tries, for a proxy that is not ours.
    pub fn run_in_the_end(&self, folder: &Path, module_cache: &str, arguments: &[&str]) -> Output {
        let tries = (0..4).map(|_| self.command(folder, module_cache, arguments).output().expect("go runs"));
        let succeeded = tries.into_iter().find(|output| output.status.success());
        succeeded.unwrap_or_else(|| self.run(folder, module_cache, arguments))
    }

    /// Runs one that must succeed.
    pub fn run(&self, folder: &Path, module_cache: &str, arguments: &[&str]) -> Output {
        let output = self.command(folder, module_cache, arguments).output().expect("go runs");
        assert!(output.status.success(), "go {}: {}", arguments.join(" "), transcript(&output));
        output
    }
}
