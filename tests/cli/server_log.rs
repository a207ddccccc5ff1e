//! The log of a server, and the way it stops.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::programs::{Programs, install_script};
use testkit::server;
use testkit::upstream::Upstream;
use testkit::{Case, go::Go, missing_tool, trial};

const PAIR: &str = "example.org/m@v1.0.0";
const ZIP: &str = "/example.org/m/@v/v1.0.0.zip";

pub(crate) fn cases() -> Vec<Case> {
    let go = missing_tool("go", &["version"]);
    vec![
        trial("a server starts with its configuration", None, a_server_starts_with_its_configuration),
        trial("every line has a time a level and fields", None, every_line_has_a_time_a_level_and_fields),
        trial("a go session logs downloads only", go, a_go_session_logs_downloads_only),
        trial("a failure is logged once", None, a_failure_is_logged_once),
        trial("a refused list is not a warning", None, a_refused_list_is_not_a_warning),
        trial("a warning about upstreams is logged once", None, a_warning_about_upstreams_is_logged_once),
        trial("equal warnings are counted", None, equal_warnings_are_counted),
        trial("a server without an upstream is degraded", None, a_server_without_an_upstream_is_degraded),
        trial("an offline server is not degraded", None, an_offline_server_is_not_degraded),
        trial("direct without go is degraded", None, direct_without_go_is_degraded),
        trial("a second signal stops at once", None, a_second_signal_stops_at_once),
        trial("aborted requests are counted at the end", None, aborted_requests_are_counted_at_the_end),
        trial(
            "a lookup in the background does not delay the end",
            None,
            a_lookup_in_the_background_does_not_delay_the_end,
        ),
        trial("a taken port is explained", None, a_taken_port_is_explained),
    ]
}

/// A server whose log is read line by line.
struct Server {
    child: Child,
    url: String,
    lines: Receiver<String>,
}

impl Server {
    fn start(programs: &Programs, prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = programs.command("stoa", ["serve", "--listen", "127.0.0.1:0"]);
        command.env("GOSUMDB", "off");
        prepare(&mut command);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let url = server::listening(&mut child);
        let url = url.unwrap_or_else(|| panic!("{:#?}", lines.iter().collect::<Vec<_>>()));
        Self { child, url, lines }
    }

    fn status(&self, path: &str) -> u16 {
        server::get(&self.url, path).unwrap().0
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    fn wait_for(&self, text: &str) -> String {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_secs(120)) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => before.push(line),
                Err(error) => panic!("{text}: {error}: {before:#?}"),
            }
        }
    }

    /// Waits for the end. Returns the exit code and the remaining lines.
    fn end(mut self) -> (i32, Vec<String>) {
        let lines = self.lines.iter().collect();
        (self.child.wait().unwrap().code().unwrap(), lines)
    }

    fn stop(self) -> Vec<String> {
        self.signal(Signal::SIGTERM);
        let (code, lines) = self.end();
        assert_eq!(code, 0, "{lines:#?}");
        lines
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn containing<'l>(lines: &'l [String], text: &str) -> Vec<&'l String> {
    lines.iter().filter(|line| line.contains(text)).collect()
}

fn a_server_starts_with_its_configuration() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    let with_password = upstream.url().replace("http://", "http://user:secret@");
    let server = Server::start(&programs, |command| {
        command.args(["--upstream", &format!("{with_password}|direct"), "--base-path", "/go"]);
    });
    let url = server.url.clone();
    let lines = server.stop();
    let store = programs.store();
    for text in [
        format!("starting stoa version={}", env!("CARGO_PKG_VERSION")),
        format!("using a store path={} layout=v2 access=read-write", store.display()),
        "using no config file".to_owned(),
        format!("upstream={}/|direct origin=--upstream", upstream.url()),
        "downloads are not verified against a checksum database mode=auto".to_owned(),
        format!("command=\"GOPROXY={url}/go go mod download\""),
    ] {
        assert_eq!(containing(&lines, &text).len(), 1, "{text}: {lines:#?}");
    }
    assert!(containing(&lines, "secret").is_empty(), "{lines:#?}");

    let config = programs.folder().join("config.toml");
    std::fs::write(&config, "offline = true\n").unwrap();
    let server = Server::start(&programs, |command| {
        command.arg("--config").arg(&config);
    });
    let lines = server.stop();
    let text = format!("using a config file path={}", config.display());
    assert_eq!(containing(&lines, &text).len(), 1, "{lines:#?}");
    let text = "offline: only stored modules are served reason=\"the configuration sets offline\"";
    assert_eq!(containing(&lines, text).len(), 1, "{lines:#?}");
}

/// Returns whether a line is `TIME LEVEL sentence key=value …`.
fn is_well_formed(line: &str) -> bool {
    let mut parts = line.splitn(3, ' ');
    let (Some(time), Some(level), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let is_time = time::OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339).is_ok();
    let is_level = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level);
    is_time && is_level && !rest.trim_start().starts_with('[')
}

fn every_line_has_a_time_a_level_and_fields() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    upstream.offer(PAIR, 1000);
    // The migrator reports a new store in lines of its own.
    programs.make_store();
    for (verbose, shows_debug) in [(None, false), (Some("-v"), true)] {
        let server = Server::start(&programs, |command| {
            command.args(["--upstream", upstream.url()]).args(verbose);
        });
        assert_eq!(server.status(ZIP), 200);
        assert_eq!(server.status("/example.org/none/@v/list"), 404);
        let lines = server.stop();
        let wrong: Vec<_> = lines.iter().filter(|line| !is_well_formed(line)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(!containing(&lines, " DEBUG ").is_empty(), shows_debug, "{lines:#?}");
        for text in ["stoa::", "stoa_store::", "hyper", "reqwest", "h2::", "rustls", "crate="] {
            assert!(containing(&lines, text).is_empty(), "{text}: {lines:#?}");
        }
    }
}

fn a_go_session_logs_downloads_only() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    for pair in [PAIR, "example.org/m@v1.1.0"] {
        upstream.offer(pair, 1000);
    }
    programs.make_store();
    let server = Server::start(&programs, |command| {
        command.args(["--upstream", upstream.url()]);
    });
    server.wait_for("ready to serve");
    let folder = programs.folder().join("program");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("go.mod"), "module example.com/program\n\ngo 1.21\n").unwrap();
    std::fs::write(folder.join("main.go"), "package main\n\nimport _ \"example.org/m\"\n\nfunc main() {}\n")
        .unwrap();
    let go = Go::new(programs.folder(), &server.url).unverified();
    go.run(&folder, "cache", &["mod", "tidy"]);
    // The go command asks for the package path and for every prefix of it as a module.
    let absent = go.command(&folder, "cache", &["get", "example.org/m/deep/package"]).output().unwrap();
    assert!(!absent.status.success());
    assert!(upstream.asked_at("/example.org/m/deep/package/@v/list") > 0);
    server.signal(Signal::SIGTERM);
    let mut lines = Vec::new();
    while let Ok(line) = server.lines.recv_timeout(Duration::from_secs(120)) {
        if line.contains("a second signal") {
            break;
        }
        lines.push(line);
    }
    assert!(lines.iter().all(|line| line.contains("v1.1.0") && line.contains(" INFO ")), "{lines:#?}");
    assert_eq!(lines.len(), 1, "{lines:#?}");
}

fn a_failure_is_logged_once() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    upstream.fail(Some("501 Not Implemented"));
    let server = Server::start(&programs, |command| {
        command.args(["--upstream", upstream.url()]);
    });
    server.wait_for("ready to serve");
    for path in ["m/@v/v1.0.0.info", "list/@v/list", "latest/@latest"] {
        assert_eq!(server.status(&format!("/example.org/{path}")), 502);
    }
    let lines = server.stop();
    for module in ["example.org/m@v1.0.0", "example.org/list", "example.org/latest"] {
        let about = containing(&lines, module);
        assert!(about.len() == 1 && about[0].contains(" WARN "), "{module}: {lines:#?}");
    }
}

/// Some upstreams answer 403 for a module that does not exist, and the go command asks for every prefix of a package path.
fn a_refused_list_is_not_a_warning() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    upstream.fail(Some("403 Forbidden"));
    let server = Server::start(&programs, |command| {
        command.args(["--upstream", upstream.url()]);
    });
    server.wait_for("ready to serve");
    for path in ["m/deep/package/@v/list", "m/deep/@latest", "m/deep/@v/main.info", "m/@v/v1.0.0.zip"] {
        assert_eq!(server.status(&format!("/example.org/{path}")), 403, "{path}");
    }
    let lines = server.stop();
    let warnings = containing(&lines, " WARN ");
    assert!(warnings.len() == 1 && warnings[0].contains("version=example.org/m@v1.0.0"), "{lines:#?}");
}

/// A new store is the case in which a server looks at its configuration twice: before the store is created, and after.
fn a_warning_about_upstreams_is_logged_once() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    let with_password = upstream.url().replace("http://", "http://user:secret@");
    let bin = programs.folder().join("path");
    std::fs::create_dir(&bin).unwrap();
    let runs = programs.folder().join("runs");
    let answer = format!(r#"{{"GOPROXY":"{with_password}","GOSUMDB":"off","GONOSUMDB":""}}"#);
    let script = format!("#!/bin/sh\necho run >>'{}'\necho '{answer}'\n", runs.display());
    install_script(&bin.join("go"), &script);
    let server = Server::start(&programs, |command| {
        command.env_remove("STOA_UPSTREAM").env_remove("GOSUMDB").env("PATH", &bin);
    });
    let lines = server.stop();
    let warnings = containing(&lines, "not sending credentials to a URL without https");
    assert!(warnings.len() == 1 && !warnings[0].contains("repeated="), "{lines:#?}");
    assert_eq!(std::fs::read_to_string(&runs).unwrap(), "run\n");
}

fn equal_warnings_are_counted() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    upstream.fail(Some("501 Not Implemented"));
    let server = Server::start(&programs, |command| {
        command.args(["--upstream", upstream.url()]);
    });
    server.wait_for("ready to serve");
    for _ in 0..5 {
        assert_eq!(server.status("/example.org/m/@v/list"), 502);
    }
    let lines = server.stop();
    let warnings: Vec<_> =
        lines.iter().filter(|line| line.contains("WARN") && line.contains("example.org/m")).collect();
    let count = |line: &str| line.rsplit_once(" repeated=").map_or(1, |(_, n)| n.parse::<u32>().unwrap());
    assert_eq!(warnings.iter().map(|line| count(line)).sum::<u32>(), 5, "{lines:#?}");
    assert!(warnings.len() < 5, "{lines:#?}");
}

fn a_server_without_an_upstream_is_degraded() {
    let programs = Programs::current();
    let server = Server::start(&programs, |command| {
        command.env_remove("STOA_UPSTREAM").env("PATH", programs.folder());
    });
    let (status, body) = server::get(&server.url, "/readyz").unwrap();
    let body = String::from_utf8(body).unwrap();
    assert_eq!(status, 200);
    assert!(body.starts_with("ready\ndegraded: no upstream: "), "{body}");
    let lines = server.stop();
    let warnings = containing(&lines, "degraded: no upstream");
    assert!(
        warnings.len() == 1 && warnings[0].contains("WARN") && warnings[0].contains("help="),
        "{lines:#?}"
    );
}

fn an_offline_server_is_not_degraded() {
    let programs = Programs::current();
    for option in [&["--upstream", "off"][..], &["--offline"], &["--read-only"]] {
        programs.make_store();
        let server = Server::start(&programs, |command| {
            command.args(option).env("PATH", programs.folder());
        });
        assert_eq!(server::get(&server.url, "/readyz").unwrap(), (200, b"ready\n".to_vec()), "{option:?}");
        let lines = server.stop();
        assert!(containing(&lines, "degraded").is_empty(), "{lines:#?}");
    }
}

fn direct_without_go_is_degraded() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    let list = format!("{},direct", upstream.url());
    for (list, is_degraded) in [("direct", true), (list.as_str(), false)] {
        let server = Server::start(&programs, |command| {
            command.args(["--upstream", list]).env("PATH", programs.folder());
        });
        let (status, body) = server::get(&server.url, "/readyz").unwrap();
        let body = String::from_utf8(body).unwrap();
        assert_eq!((status, body.contains("degraded: no upstream")), (200, is_degraded), "{list}: {body}");
        server.stop();
    }
}

/// Begins a request that stays in progress: its version is held by the upstream.
fn request_in_progress(
    server: &Server,
    upstream: &Upstream,
) -> std::thread::JoinHandle<std::io::Result<(u16, Vec<u8>)>> {
    let url = server.url.clone();
    let request = std::thread::spawn(move || server::get(&url, ZIP));
    upstream.wait_until_asked("v1.0.0.zip", 1);
    request
}

fn a_second_signal_stops_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (programs, upstream) = (Programs::current(), Upstream::start());
        let module = upstream.offer(PAIR, 1000);
        upstream.hold("v1.0.0.zip");
        let server = Server::start(&programs, |command| {
            // Longer than any test: only the second signal can end the server.
            command.args(["--upstream", upstream.url(), "--grace", "100000"]);
        });
        let request = request_in_progress(&server, &upstream);
        server.signal(signal);
        let line = server.wait_for("waiting for requests in progress");
        assert!(line.contains("requests=1") && line.contains("grace=100000s"), "{line}");
        server.signal(signal);
        let (code, lines) = server.end();
        assert_eq!(code, 128 + signal as i32, "{lines:#?}");
        assert_eq!(containing(&lines, "stopped at once").len(), 1, "{lines:#?}");
        assert!(request.join().unwrap().is_err());
        upstream.release();
        // The aborted download has left nothing behind that a new server would serve or miss.
        let server = Server::start(&programs, |command| {
            command.args(["--upstream", upstream.url()]);
        });
        assert_eq!(server::get(&server.url, ZIP).unwrap(), (200, module.zip));
        server.stop();
    }
}

fn a_lookup_in_the_background_does_not_delay_the_end() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    upstream.offer(PAIR, 1000);
    let server = Server::start(&programs, |command| {
        command.args(["--upstream", upstream.url()]);
    });
    assert_eq!(server.status(ZIP), 200);
    server.stop();
    upstream.hold("/supported");
    let server = Server::start(&programs, |command| {
        // A lookup may take longer than the grace period.
        command.args(["--upstream", upstream.url(), "--checksum", "require", "--grace", "15"]);
        command.args(["--gosumdb", &testkit::sumdb::verifier_key()]);
    });
    upstream.wait_until_asked("/supported", 1);
    let lines = server.stop();
    assert!(containing(&lines, "did not end within the grace period").is_empty(), "{lines:#?}");
    upstream.release();
}

fn aborted_requests_are_counted_at_the_end() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    upstream.offer(PAIR, 1000);
    upstream.hold("v1.0.0.zip");
    let server = Server::start(&programs, |command| {
        command.args(["--upstream", upstream.url(), "--grace", "0"]);
    });
    let request = request_in_progress(&server, &upstream);
    server.signal(Signal::SIGTERM);
    let (code, lines) = server.end();
    assert_eq!(code, 0, "{lines:#?}");
    assert!(request.join().unwrap().is_err());
    assert_eq!(containing(&lines, "aborted_requests_total=1").len(), 1, "{lines:#?}");
    upstream.release();

    let server = Server::start(&programs, |command| {
        command.args(["--upstream", upstream.url()]);
    });
    assert_eq!(server.status(ZIP), 200);
    let lines = server.stop();
    assert_eq!(containing(&lines, "waiting for requests in progress").len(), 1, "{lines:#?}");
    assert_eq!(containing(&lines, "aborted_requests_total=0").len(), 1, "{lines:#?}");
}

fn a_taken_port_is_explained() {
    let (first, second) = (Programs::current(), Programs::current());
    let server = Server::start(&first, |_| {});
    let address = server.url.strip_prefix("http://").unwrap();
    let ended = second.stoa(["serve", "--listen", address]);
    assert_eq!((ended.code, ended.out.as_str()), (73, ""), "{ended:?}");
    assert!(
        ended.err.contains(&format!("cannot listen on {address}: another program listens there")),
        "{ended:?}"
    );
    assert!(ended.err.contains("\nhelp: ") && ended.err.contains("--listen"), "{ended:?}");
    server.stop();
}
