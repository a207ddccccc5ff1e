//! A deployment that takes over versions and a tombstone of a peer, killed at every system call that changes its store:
//! while it pulls, works off its queue and moves its pointer, and while it takes a notification. Nothing is lost, and a
//! version that is stored is not downloaded again.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use stoa_gomod::zip;
use testkit::server::{self, Server};
use testkit::signing::Signer;
use testkit::sweep::{Observed, Scenario, failed_clearly, only_stderr, trials};
use testkit::upstream::{Module, Script, Upstream};
use testkit::{Case, STOA, client, create, transcript};

pub(crate) fn cases() -> Vec<Case> {
    trials(&[("pull", pull), ("notification", notification)])
}

const INDEX: &str = "0123456789abcdef0123456789abcdef";
const SECRET: &str = "the secret of m and a, which nobody else knows";

/// The version that gets a tombstone.
const FORBIDDEN: &str = "example.com/forbidden@v1.0.0";

/// The peer m: a log with some versions and a tombstone, and their files.
#[derive(Clone)]
struct Peer {
    upstream: Upstream,
    modules: Vec<Module>,
    /// The number of downloads of each version, and whether it was stored, after the disturbed run.
    after_kill: Arc<Mutex<Vec<(usize, bool)>>>,
}

impl Peer {
    fn start(announces: bool) -> Self {
        let modules: Vec<_> = ["example.com/a@v1.0.0", "example.com/a@v1.1.0", "example.com/B/c@v0.1.0"]
            .map(|pair| Module::new(pair, 500))
            .into();
        let log = if announces { log(&modules) } else { Vec::new() };
        let upstream = Upstream::with(move |request| match request.path.as_str() {
            "/sync/v1/events" => Script::Body(page(&log, &request.body)),
            "/sync/v1/digests" => Script::Body(b"{\"end\":true,\"more\":false}\n".to_vec()),
            _ => Script::Status(404, "text/plain", b"not found\n"),
        });
        modules.iter().for_each(|module| upstream.serve(module));
        Self { upstream, modules, after_kill: Arc::default() }
    }

    fn downloads(&self, module: &Module) -> usize {
        self.upstream.count(&module.path("zip"))
    }

    /// Notes what is there after a disturbed run. No version is there that is not whole.
    fn note(&self, root: &Path) {
        let stored = |module: &Module| {
            let found = fs::read(folder(root, module).join("zip"));
            if let Ok(found) = &found {
                assert!(*found == module.zip, "{} has other bytes", module.version);
            }
            found.is_ok()
        };
        *self.after_kill.lock().unwrap() =
            self.modules.iter().map(|module| (self.downloads(module), stored(module))).collect();
    }

    /// Checks that everything is there after the second run, and that no stored version was downloaded again.
    fn check(&self, root: &Path) {
        for module in &self.modules {
            assert!(folder(root, module).join("zip").exists(), "{} is lost", module.version);
        }
        for (module, (before, was_stored)) in
            self.modules.iter().zip(self.after_kill.lock().unwrap().drain(..))
        {
            let again = self.downloads(module) - before;
            assert!(
                again <= usize::from(!was_stored),
                "{} was downloaded {again} times again",
                module.version
            );
        }
    }
}

fn folder(root: &Path, module: &Module) -> PathBuf {
    let (path, version) = (module.version.path().escaped(), module.version.version().escaped());
    root.join(format!("modules/{path}/@v/{version}"))
}

fn published(seq: usize, module: &Module) -> String {
    let h1 = zip::examine(&module.zip, &module.version).unwrap().h1;
    let (path, version) = (module.version.path(), module.version.version());
    format!(
        r#"{{"seq":{seq},"module":"{path}","version":"{version}","kind":"published","time":1,"h1":"{h1}","bytes":1000}}"#
    )
}

fn log(modules: &[Module]) -> Vec<String> {
    let mut log: Vec<_> = modules.iter().enumerate().map(|(n, module)| published(n + 1, module)).collect();
    let (module, version) = FORBIDDEN.split_once('@').unwrap();
    log.push(format!(
        r#"{{"seq":{},"module":"{module}","version":"{version}","kind":"tombstoned","origin":"m","counter":1,"at":"2026-01-02T03:04:05Z","reason":"a key"}}"#,
        log.len() + 1
    ));
    log
}

/// Answers a request for events, two at a time.
fn page(log: &[String], request: &[u8]) -> Vec<u8> {
    let request: Value = serde_json::from_slice(request).unwrap();
    let pointer = request["pointers"][INDEX].as_u64();
    let after = pointer.unwrap_or_default() as usize;
    let events = &log[log.len().min(after)..log.len().min(after + 2)];
    let events = if pointer.is_some() { events } else { &[] };
    let (last, known) = (after + events.len(), pointer.is_some());
    let mut lines = vec![format!(r#"{{"index":"{INDEX}","current":{},"known":{known}}}"#, log.len())];
    lines.extend(events.iter().cloned());
    lines.push(format!(r#"{{"end":true,"seq":{last},"more":{}}}"#, known && last < log.len()));
    lines.join("\n").into_bytes().into_iter().chain(*b"\n").collect()
}

fn config(root: &Path) -> PathBuf {
    root.parent().unwrap().join("config.toml")
}

fn prepare(root_folder: &Path, peer: &Peer) {
    let secret = root_folder.join("secret");
    fs::write(&secret, SECRET).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let url = peer.upstream.url();
    // The index and the notes of last use have sweeps of their own.
    let text = format!(
        "upstream = \"off\"\ngosumdb = \"off\"\n[last_use]\ninterval = 0\n[peers]\nname = \"a\"\n[[peer]]\nname = \"m\"\n\
         url = \"{url}\"\nsecret_file = \"secret\"\noffer = []\naccept_tombstones = true\ninterval = \"1h\"\n"
    );
    fs::write(root_folder.join("config.toml"), text).unwrap();
    create(&root_folder.join("store"));
}

fn stoa(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(STOA);
    command.args(arguments).arg("--config").arg(config(root)).arg("--store").arg(root);
    command.env_remove("GOPROXY").env_remove("STOA_STORE").env_remove("STOA_UPSTREAM").env("GOENV", "off");
    command
}

/// Takes over everything, undisturbed.
fn sync(root: &Path) {
    let output = stoa(root, &["peers", "sync", "m"]).output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
    assert!(!root.join("staging").read_dir().unwrap().any(|entry| {
        entry
            .unwrap()
            .path()
            .read_dir()
            .is_ok_and(|mut below| below.any(|file| file.unwrap().path().ends_with("zip")))
    }));
}

fn is_forbidden(root: &Path) -> bool {
    let output = stoa(root, &["remove", "--list"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains(FORBIDDEN)
}

fn pull() -> Scenario {
    let peer = Peer::start(true);
    let (of_prepare, of_check, of_again) = (peer.clone(), peer.clone(), peer);
    Scenario {
        prepare: Box::new(move |folder| prepare(folder, &of_prepare)),
        command: Box::new(|root| stoa(root, &["peers", "sync", "m"])),
        drive: Box::new(only_stderr),
        check: Box::new(move |root, traced, observed, is_kill| {
            of_check.note(root);
            if !is_kill {
                failed_clearly(traced, observed);
            }
        }),
        again: Box::new(move |root| {
            sync(root);
            of_again.check(root);
            assert!(is_forbidden(root), "the tombstone is lost");
        }),
    }
}

/// Starts a command for a server, which stops after it has taken a notification and done the work.
fn notification() -> Scenario {
    // Nothing is announced in the log: if the notification is lost, nobody names the versions again.
    let peer = Peer::start(false);
    let (of_prepare, of_drive, of_check, of_again) = (peer.clone(), peer.clone(), peer.clone(), peer);
    let is_taken = Arc::new(Mutex::new(false));
    let was_taken = Arc::clone(&is_taken);
    Scenario {
        prepare: Box::new(move |folder| prepare(folder, &of_prepare)),
        command: Box::new(|root| stoa(root, &["serve", "--listen", "127.0.0.1:0", "--index-interval", "0"])),
        drive: Box::new(move |child| {
            let mut observed = Observed::default();
            *is_taken.lock().unwrap() = false;
            if let Some(url) = server::listening(child) {
                *is_taken.lock().unwrap() = notify(&url, &of_drive);
                let stored = |module: &Module| {
                    let local = [("Disable-Module-Fetch", "true")];
                    let address = client::address(&url);
                    client::Conversation::try_begin(address, "GET", &module.path("zip"), "HTTP/1.1", &local)
                        .map(|conversation| conversation.finish().status)
                };
                let began = Instant::now();
                while began.elapsed() < Duration::from_secs(20) {
                    let all: Vec<_> = of_drive.modules.iter().map(stored).collect();
                    // The process is gone, or everything is done.
                    if all.iter().any(|status| status.is_err())
                        || all.iter().all(|status| matches!(status, Ok(200)))
                    {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                server::terminate(child);
            }
            child.stderr.take().unwrap().read_to_string(&mut observed.stderr).unwrap();
            observed
        }),
        check: Box::new(move |root, traced, observed, is_kill| {
            of_check.note(root);
            if !is_kill {
                failed_clearly(traced, observed);
            }
        }),
        again: Box::new(move |root| {
            if !std::mem::take(&mut *was_taken.lock().unwrap()) {
                // The sender knows that it was not taken, and a pull would bring the events.
                let server = Server::start_with(&mut stoa(root, &["serve", "--listen", "127.0.0.1:0"]));
                assert!(notify(&server.url, &of_again));
                assert!(server.stop().success());
            }
            sync(root);
            of_again.check(root);
        }),
    }
}

/// Notifies a server of all versions. Returns whether it took the events.
fn notify(url: &str, peer: &Peer) -> bool {
    let events: Vec<_> =
        peer.modules.iter().enumerate().map(|(n, module)| published(n + 1, module)).collect();
    let body = format!(r#"{{"index":"{INDEX}","events":[{}]}}"#, events.join(","));
    let authorization = Signer::new("m", "a", SECRET).sign("POST", "/sync/v1/notify", body.as_bytes());
    let headers = [("Authorization", authorization.as_str())];
    let address = client::address(url);
    let sent = client::try_send(address, "POST", "/sync/v1/notify", &headers, body.as_bytes());
    sent.is_ok_and(|reply| reply.status == 202)
}
