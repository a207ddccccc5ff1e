//! `stoa serve` as a program: where it listens, how it stops, and what it takes for its upstream.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::{PAIR, lines};
use testkit::ports;
use testkit::programs::{Ended, Programs};
use testkit::server;
use testkit::upstream::{Module, Upstream};

/// Starts `stoa serve` on a free port, and waits until it listens.
fn serving(programs: &Programs, prepare: impl FnOnce(&mut Command)) -> (Child, String) {
    let mut command = programs.command("stoa", ["serve", "--listen", "127.0.0.1:0"]);
    prepare(&mut command);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    match server::listening(&mut child) {
        Some(url) => (child, url),
        None => panic!("{:?}", Ended::from_child(child)),
    }
}

fn stopped(child: Child) -> Ended {
    server::terminate(&child);
    Ended::from_child(child)
}

pub(crate) fn serve_listens_and_stops_at_a_signal() {
    let programs = Programs::current();
    let module = Module::new(PAIR, 10);
    let (child, url) = serving(&programs, |_| {});
    module.put_unsealed(&programs.store());
    let (status, body) = server::get(&url, "/example.org/m/@v/v1.0.0.mod").unwrap();
    assert_eq!((status, body), (200, module.modfile));
    let ended = stopped(child);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.err.contains("INFO")
            && ended.err.contains("stopping: a second signal stops at once signal=SIGTERM"),
        "{ended:?}"
    );
    let (child, _) = serving(&programs, |command| {
        command.args(["-q"]);
    });
    let interrupt = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let ended = Ended::from_child(child);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended:?}");
}

pub(crate) fn serve_holds_the_store() {
    let (current, next) = (Programs::current(), Programs::next());
    let root = current.store();
    let (child, _) = serving(&current, |_| {});
    let pid = child.id();
    let busy = next.migrate(["--store", root.to_str().unwrap(), "--lock-timeout", "1"]);
    assert_eq!(busy.code, 75, "{busy:?}");
    assert!(busy.err.contains(&format!("stoa serve (process {pid}")), "{busy:?}");
    let value = lines(&current.stoa(["status", "--format", "json"]).out).pop().unwrap();
    assert_eq!(
        (&value["holders"][0]["pid"], &value["holders"][0]["program"]),
        (&pid.into(), &"stoa serve".into())
    );
    assert_eq!(stopped(child).code, 0);
    assert_eq!(next.migrate(["--store", root.to_str().unwrap(), "--lock-timeout", "1"]).code, 0);
}

pub(crate) fn serve_reports_why_it_cannot_listen() {
    let programs = Programs::current();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (address, code) in [(address.as_str(), 73), ("192.0.2.1:1", 73), ("not an address:1", 64)] {
        let ended = programs.stoa(["serve", "--listen", address]);
        assert_eq!((ended.code, ended.out.as_str()), (code, ""), "{ended:?}");
        assert!(ended.err.contains(address), "{ended:?}");
    }
}

pub(crate) fn serve_refuses_a_wrong_upstream() {
    let programs = Programs::current();
    let ended = programs.stoa(["serve", "--listen", "127.0.0.1:0", "--upstream", "word"]);
    assert_eq!((ended.code, ended.out.as_str()), (64, ""), "{ended:?}");
    assert!(ended.err.contains("upstream"), "{ended:?}");
}

pub(crate) fn serve_reports_that_its_upstream_is_itself() {
    let programs = Programs::current();
    let free = ports::free().to_string();
    let itself = format!("http://{free}");
    let mut command = programs.command("stoa", ["serve", "--listen", &free, "--upstream", &itself]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let url = server::listening(&mut child).unwrap();
    assert_eq!(server::get(&url, "/example.org/m/@v/v1.0.0.info").unwrap().0, 508);
    let ended = stopped(child);
    assert!(ended.err.contains("is this proxy itself"), "{ended:?}");
}

pub(crate) fn serve_is_offline_without_a_go_command() {
    let programs = Programs::current();
    let (child, url) = serving(&programs, |command| {
        command.env_remove("STOA_UPSTREAM").env("PATH", programs.folder());
    });
    assert_eq!(server::get(&url, "/example.org/m/@v/v1.0.0.info").unwrap().0, 404);
    let ended = stopped(child);
    assert!(ended.err.contains("go env") && ended.err.contains("degraded: no upstream"), "{ended:?}");
}

pub(crate) fn serve_fetches_from_the_upstream_that_go_is_set_up_with() {
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 100);
    for by_variable in [true, false] {
        let programs = Programs::current();
        let (child, url) = serving(&programs, |command| {
            command.env_remove("STOA_UPSTREAM");
            if by_variable {
                command.env("GOPROXY", upstream.url()).env("GOSUMDB", "off").env("PATH", programs.folder());
            } else {
                let env = programs.folder().join("go.env");
                let mut file = fs::File::create(&env).unwrap();
                write!(file, "GOPROXY={}\nGOSUMDB=off\n", upstream.url()).unwrap();
                command.env("GOENV", env);
            }
        });
        let (status, body) = server::get(&url, "/example.org/m/@v/v1.0.0.zip").unwrap();
        assert!(status == 200 && body == module.zip, "{status}");
        assert_eq!(stopped(child).code, 0);
        assert_eq!(programs.stoa(["path", PAIR]).code, 0);
    }
}
