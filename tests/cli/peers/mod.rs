//! Deployments that exchange their versions: real servers, each with an upstream of its own, and lines between them that
//! lose requests.

mod command;

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use testkit::upstream::Upstream;
use testkit::{Case, STOA, ports, transcript};

pub(crate) fn cases() -> Vec<Case> {
    let all = [command::cases()];
    all.into_iter().flatten().collect()
}

/// A deployment: a store with one server, and an upstream that nobody else has.
struct Site {
    name: String,
    folder: TempDir,
    address: SocketAddr,
    upstream: Upstream,
    peers: String,
}

/// Returns the secret of two deployments.
fn secret(one: &str, other: &str) -> String {
    let (first, second) = if one < other { (one, other) } else { (other, one) };
    format!("the secret of {first} and {second}, which nobody else knows")
}

impl Site {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            folder: testkit::tempdir(),
            address: ports::free(),
            upstream: Upstream::start(),
            peers: String::new(),
        }
    }

    /// Adds a peer. `lines` are further keys of its table, among them `offer`.
    fn add_peer(&mut self, name: &str, url: &str, lines: &[&str]) {
        let path = self.folder.path().join(format!("secret-{name}"));
        fs::write(&path, secret(&self.name, name)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let lines = lines.join("\n");
        writeln!(
            self.peers,
            "\n[[peer]]\nname = \"{name}\"\nurl = \"{url}\"\nsecret_file = \"secret-{name}\"\n{lines}"
        )
        .unwrap();
    }

    fn config(&self) -> PathBuf {
        let path = self.folder.path().join("config.toml");
        let (address, upstream, name) = (self.address, self.upstream.url(), &self.name);
        let text = format!(
            "listen = \"{address}\"\nupstream = \"{upstream}\"\ngosumdb = \"off\"\n\n[peers]\nname = \"{name}\"\n{}",
            self.peers
        );
        fs::write(&path, text).unwrap();
        path
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Prepares a command with the configuration and the store of the deployment.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(STOA);
        command.args(arguments).arg("--config").arg(self.config()).arg("--store").arg(self.store());
        for name in ["GOPROXY", "STOA_STORE", "STOA_UPSTREAM", "GOSUMDB", "GOPRIVATE", "GONOSUMDB"] {
            command.env_remove(name);
        }
        command.env("GOENV", "off");
        command
    }

    /// Runs `stoa` to its end.
    fn stoa(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.stoa(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", transcript(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns the lines of a command in JSON.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.done(&[arguments, &["--format", "json"]].concat());
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns the conflicts, as `stoa peers conflicts` prints them.
    #[track_caller]
    fn conflicts(&self) -> Vec<Value> {
        let mut all = self.json(&["peers", "conflicts"]);
        all.pop();
        all
    }
}
