//! Deployments that exchange their versions: real servers, each with an upstream of its own, and lines between them that
//! lose requests.

mod bucket;
mod command;
mod conflicts;
mod history;
mod lying;
mod paged;
mod queue;
mod refused;
mod review;
mod ring;
mod sources;

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use testkit::link::Link;
use testkit::server::Server;
use testkit::signing::Signer;
use testkit::upstream::{Module, Upstream};
use testkit::{Case, STOA, ports, transcript};

pub(crate) fn cases() -> Vec<Case> {
    let all = [
        bucket::cases(),
        command::cases(),
        conflicts::cases(),
        history::cases(),
        lying::cases(),
        paged::cases(),
        queue::cases(),
        refused::cases(),
        review::cases(),
        ring::cases(),
        sources::cases(),
    ];
    all.into_iter().flatten().collect()
}

/// A pause between pulls that no test waits for.
const NEVER: &str = "interval = \"1h\"";

/// Pulls that follow each other closely.
const OFTEN: &str = "interval = \"1s\"";

/// A deployment: a store with one server, and an upstream that nobody else has.
struct Site {
    name: String,
    folder: TempDir,
    address: SocketAddr,
    upstream: Upstream,
    peers: String,
    variables: Vec<(String, String)>,
    server: Option<Server>,
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
            variables: Vec::new(),
            server: None,
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

    /// Sets a variable of the commands and the server.
    fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
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
        command.env("GOENV", "off").envs(self.variables.iter().cloned());
        command
    }

    fn start(&mut self) {
        assert!(self.server.is_none(), "{} runs already", self.name);
        let server = Server::start_with(&mut self.command(&["serve"]));
        // Requests that were signed before this answer may be older than the server.
        assert_eq!(server.get("/healthz").0, 200);
        self.server = Some(server);
    }

    /// Kills the server.
    fn kill(&mut self) {
        self.server = None;
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("the server runs")
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

    /// Returns the state of a peer, as `stoa peers` prints it.
    #[track_caller]
    fn peer(&self, name: &str) -> Value {
        let all = self.json(&["peers"]);
        all.into_iter().find(|line| line["peer"] == name).expect("the peer is listed")
    }

    /// Returns the conflicts, as `stoa peers conflicts` prints them.
    #[track_caller]
    fn conflicts(&self) -> Vec<Value> {
        let mut all = self.json(&["peers", "conflicts"]);
        all.pop();
        all
    }

    /// Offers a version at the upstream, and lets a client ask the server for it.
    #[track_caller]
    fn publish(&self, pair: &str) -> Module {
        let module = self.upstream.offer(pair, 1000);
        let (status, body) = self.server().get(&module.path("zip"));
        assert!(status == 200 && body == module.zip, "{status} {}", String::from_utf8_lossy(&body));
        module
    }

    /// Returns the zip of a version in the store.
    fn stored(&self, module: &Module) -> Option<Vec<u8>> {
        let (path, version) = (module.version.path().escaped(), module.version.version().escaped());
        fs::read(self.store().join(format!("modules/{path}/@v/{version}/zip"))).ok()
    }

    #[track_caller]
    fn wait_for(&self, module: &Module) {
        let what = format!("{} has {}", self.name, module.version);
        testkit::until(&what, || self.stored(module).is_some());
        assert!(self.stored(module).as_ref() == Some(&module.zip), "{what}, but with other bytes");
    }

    /// Waits until everything of a peer is here.
    #[track_caller]
    fn wait_until_current(&self, peer: &str) {
        testkit::until(&format!("{} is current with {peer}", self.name), || {
            self.peer(peer)["state"] == "current"
        });
    }

    /// Returns the versions that the server lists.
    fn list(&self, module: &Module) -> Vec<String> {
        let (_, body) = self.server().get(&format!("/{}/@v/list", module.version.path().escaped()));
        String::from_utf8(body).unwrap().lines().map(str::to_owned).collect()
    }

    /// Signs requests to this deployment for one of its peers.
    fn signer(&self, from: &str) -> Signer {
        Signer::new(from, &self.name, &secret(&self.name, from))
    }
}

/// Makes two deployments peers of each other. Returns the lines from the first to the second, and back.
fn connect(one: &mut Site, other: &mut Site, lines: &[&str]) -> (Link, Link) {
    let (there, back) = (Link::to(other.address), Link::to(one.address));
    one.add_peer(&other.name, there.url(), lines);
    other.add_peer(&one.name, back.url(), lines);
    (there, back)
}

/// Returns the URL of a deployment.
fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}
