//! SIGHUP: a new configuration for a running server.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::limits::{after, below};
use testkit::programs::Programs;
use testkit::upstream::{Module, Upstream};
use testkit::{Case, client, missing_tool, server, trial};

use crate::tls_client::Certificate;

pub(crate) fn cases() -> Vec<Case> {
    let no_setsid = || missing_tool("setsid", &["--version"]);
    vec![
        trial("changed rules apply from the next request", no_setsid(), changed_rules),
        trial("a wrong file keeps the earlier configuration", no_setsid(), a_wrong_file),
        trial("a renewed certificate is used by the next connection", no_setsid(), a_renewed_certificate),
        trial("a hangup that was ignored stays ignored", no_setsid(), an_ignored_hangup),
        trial(
            "a hangup of a terminal stops the server",
            missing_tool("script", &["--version"]),
            of_a_terminal,
        ),
    ]
}

/// A server with a config file and without a terminal.
struct Running {
    child: Child,
    address: SocketAddr,
    log: Receiver<String>,
}

impl Running {
    fn start(programs: &Programs, config: &Path, wrap: impl FnOnce(&Command) -> Command) -> Self {
        let mut command = programs.command("stoa", ["serve", "--listen", "127.0.0.1:0", "--config"]);
        command.arg(config).env_remove("STOA_UPSTREAM");
        let outer = ["setsid"].into_iter().chain(hearing().iter().copied());
        let mut command = below(outer, &wrap(&command));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (send, log) = channel();
        let err = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || err.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let url = server::listening(&mut child);
        let url = url.unwrap_or_else(|| panic!("it does not listen: {:?}", log.iter().collect::<Vec<_>>()));
        let address = url.rsplit("://").next().unwrap().parse().unwrap();
        Self { child, address, log }
    }

    fn hang_up(&self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGHUP).unwrap();
    }

    /// Waits for a line of the log with a text.
    fn wait_for(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(Duration::from_secs(60)) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no line with {text:?} in {seen:#?}"),
            }
        }
    }

    fn stop(mut self) {
        server::terminate(&self.child);
        assert!(self.child.wait().unwrap().success());
    }
}

/// Returns the program below which a server hears a hangup, even if the tests run below `nohup`.
fn hearing() -> &'static [&'static str] {
    if cfg!(target_os = "linux") { &["env", "--default-signal=HUP"] } else { &[] }
}

fn plain(command: &Command) -> Command {
    after("true", command)
}

const OFF: &str = "upstream = 'off'\nchecksum = 'off'\n";

fn changed_rules() {
    let programs = Programs::current();
    let store = programs.make_store();
    let module = Module::new("example.org/m@v1.0.0", 10);
    module.put_unsealed(&store);
    let upstream = Upstream::start();
    let other = upstream.offer("example.org/other@v1.0.0", 10);
    let config = programs.folder().join("config.toml");
    fs::write(&config, OFF).unwrap();
    let running = Running::start(&programs, &config, plain);
    let status = |path: String| client::get(running.address, &path).status;
    assert_eq!((status(module.path("mod")), status(other.path("zip"))), (200, 404));
    let rule = "[[module]]\npattern = 'example.org/m'\ndeny = ['*']\n";
    let text = format!("upstream = '{}'\nchecksum = 'off'\ngrace = '7s'\n{rule}", upstream.url());
    fs::write(&config, text).unwrap();
    running.hang_up();
    running.wait_for("reloaded the configuration rules=1");
    assert!(running.wait_for("only after a restart").contains("keys=grace"));
    assert_eq!((status(module.path("mod")), status(other.path("zip"))), (403, 200));
    fs::write(&config, OFF).unwrap();
    running.hang_up();
    running.wait_for("reloaded the configuration rules=0");
    assert_eq!(status(module.path("mod")), 200);
    running.stop();
}

fn a_wrong_file() {
    let programs = Programs::current();
    let store = programs.make_store();
    let module = Module::new("example.org/m@v1.0.0", 10);
    module.put_unsealed(&store);
    let config = programs.folder().join("config.toml");
    let (cert, key) = Certificate::new().write(programs.folder());
    let rule = format!("{OFF}[[module]]\npattern = 'example.org/m'\ndeny = ['*']\n");
    let tls = format!("tls.cert = '{}'\ntls.key = '{}'\n", cert.display(), key.display());
    fs::write(&config, &rule).unwrap();
    let running = Running::start(&programs, &config, plain);
    for (text, reason) in [
        ("this is not TOML".to_owned(), "line 1"),
        (format!("{OFF}listen_on = 'b'\n"), "listen_on"),
        (format!("{OFF}grace = 'soon'\n"), "grace"),
        ("upstream = 'word'\n".to_owned(), "upstream"),
        (format!("{OFF}[[module]]\npattern = ''\n"), "pattern"),
        (
            format!("{OFF}tls.cert = '/nonexistent/cert.pem'\ntls.key = '/nonexistent/key.pem'\n"),
            "/nonexistent/cert.pem",
        ),
    ] {
        fs::write(&config, text).unwrap();
        running.hang_up();
        let line = running.wait_for("cannot reload: keeping the configuration");
        assert!(line.contains("ERROR") && line.contains(reason) && line.contains("help="), "{line}");
        assert_eq!(client::get(running.address, &module.path("mod")).status, 403);
    }
    fs::write(&config, format!("{tls}{OFF}")).unwrap();
    running.hang_up();
    // The address that it listens on stays as it is.
    assert!(running.wait_for("only after a restart").contains("tls.cert"));
    assert_eq!(client::get(running.address, &module.path("mod")).status, 200);
    running.stop();
}

fn a_renewed_certificate() {
    let programs = Programs::current();
    programs.make_store();
    let (one, other) = (Certificate::new(), Certificate::new());
    let (cert, key) = one.write(programs.folder());
    let config = programs.folder().join("config.toml");
    let tls = format!("{OFF}tls.cert = '{}'\ntls.key = '{}'\n", cert.display(), key.display());
    fs::write(&config, tls).unwrap();
    let running = Running::start(&programs, &config, plain);
    assert!(one.get(running.address, "/healthz").unwrap().contains(" 200 "));
    // A connection goes on with the certificate that it began with.
    let mut open = one.connect(running.address, &["http/1.1"]).unwrap();
    fs::write(&key, "half a renewal").unwrap();
    running.hang_up();
    assert!(running.wait_for("cannot reload").contains("key.pem"));
    assert!(one.get(running.address, "/healthz").unwrap().contains(" 200 "));
    other.write(programs.folder());
    running.hang_up();
    running.wait_for("reloaded the configuration");
    assert!(one.get(running.address, "/healthz").is_err());
    assert!(other.get(running.address, "/healthz").unwrap().contains(" 200 "));
    assert!(crate::tls_client::ask(&mut open, "/healthz").unwrap().contains(" 200 "));
    running.stop();
}

fn an_ignored_hangup() {
    let programs = Programs::current();
    programs.make_store();
    let config = programs.folder().join("config.toml");
    fs::write(&config, OFF).unwrap();
    let running = Running::start(&programs, &config, |command| after("trap '' HUP", command));
    fs::write(&config, "this is not TOML").unwrap();
    running.hang_up();
    assert_eq!(client::get(running.address, "/healthz").status, 200);
    server::terminate(&running.child);
    let lines: Vec<String> = running.log.iter().collect();
    assert!(!lines.iter().any(|line| line.contains("reload") || line.contains("SIGHUP")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("signal=SIGTERM")), "{lines:#?}");
}

fn of_a_terminal() {
    let programs = Programs::current();
    programs.make_store();
    let config = programs.folder().join("config.toml");
    fs::write(&config, OFF).unwrap();
    let log = programs.folder().join("log");
    let line = format!(
        "exec {} {} serve --listen 127.0.0.1:0 --config {} --store {} 2>{}",
        hearing().join(" "),
        programs.program("stoa").display(),
        config.display(),
        programs.store().display(),
        log.display()
    );
    let mut command = Command::new("script");
    command.args(["-qefc", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.env("HOME", programs.folder()).env_remove("STOA_LOG").spawn().unwrap();
    let url = server::listening(&mut child).unwrap();
    assert!(url.starts_with("http://"), "{url}");
    let text = fs::read_to_string(&log).unwrap();
    let pid = text.split("pid=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGHUP).unwrap();
    assert!(child.wait().unwrap().success());
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("stopping: a second signal stops at once signal=SIGHUP"), "{text}");
}
