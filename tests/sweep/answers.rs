//! A server that keeps an answer of its upstream, disturbed at every call.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use testkit::server::{self, Server};
use testkit::sweep::{Observed, Scenario, failed_clearly, trials};
use testkit::upstream::{Module, Upstream};
use testkit::{Case, create};

pub(crate) fn cases() -> Vec<Case> {
    trials(&[("an answer, kept by a server", kept), ("an info and a mod, kept by a server", kept_pair)])
}

const ASKED: &str = "/example.com/!cap/m/@v/list";

/// Begins a server that asks each time.
fn asking_each_time(store: &Path, upstream: &str) -> std::process::Command {
    let mut command = server::command(store);
    command.args(["--upstream", upstream, "--fill-list-ttl", "0"]);
    command
}

/// A server that is asked for a list of which it keeps an older answer.
fn kept() -> Scenario {
    const OLDER: &str = "v1.0.0\n";
    const NEWER: &str = "v1.0.0\nv1.1.0\n";
    let offered = Arc::new(Upstream::start());
    offered.put(ASKED, NEWER);
    let url = offered.url().to_owned();
    let (upstream, failing, its_url) = (Arc::clone(&offered), offered, url.clone());
    Scenario {
        prepare: Box::new(move |dir| {
            let store = dir.join("store");
            create(&store);
            upstream.put(ASKED, OLDER);
            let server = Server::start_with(&mut asking_each_time(&store, upstream.url()));
            assert_eq!(server.get(ASKED).1, OLDER.as_bytes());
            assert!(server.stop().success());
            upstream.put(ASKED, NEWER);
        }),
        command: Box::new({
            let url = url.clone();
            move |root| {
                let mut command = asking_each_time(root, &url);
                command.args(["--index-interval", "0"]);
                command
            }
        }),
        drive: Box::new(|child| {
            let mut observed = Observed::default();
            if let Some(url) = server::listening(child) {
                observed.answers.push(server::get(&url, ASKED).map_err(|error| error.to_string()));
                server::terminate(child);
            }
            child.stderr.take().unwrap().read_to_string(&mut observed.stderr).unwrap();
            observed
        }),
        check: Box::new(move |root, traced, observed, is_kill| {
            // That it cannot be kept is no reason not to answer.
            for answer in observed.answers.iter().flatten() {
                assert_eq!(*answer, (200, NEWER.as_bytes().to_vec()), "after {:?}", traced.hit);
            }
            if !is_kill {
                failed_clearly(traced, observed);
            }
            // What is kept is one of the two, whole, or nothing where the old one had to give way.
            failing.fail(Some("403 Forbidden"));
            let outage = Server::start_with(&mut asking_each_time(root, &its_url));
            let (status, list) = outage.get(ASKED);
            failing.fail(None);
            let is_known = list == OLDER.as_bytes() || list == NEWER.as_bytes();
            assert!(status == 200 && is_known, "{status} after {:?}", traced.hit);
        }),
        again: Box::new(move |root| {
            let server = Server::start_with(&mut asking_each_time(root, &url));
            assert_eq!(server.get(ASKED).1, NEWER.as_bytes());
            assert!(server.stop().success());
        }),
    }
}

/// A server that is asked for the go.mod of a version whose zip nobody asks for.
fn kept_pair() -> Scenario {
    let offered = Arc::new(Upstream::start());
    let module = Arc::new(offered.offer("example.com/Cap/m@v1.0.0", 1000));
    let url = offered.url().to_owned();
    let ask = |url: &str, module: &Module| server::get(url, &module.path("mod"));
    let (asked, known, again, its_url) = (Arc::clone(&module), Arc::clone(&module), module, url.clone());
    Scenario {
        prepare: Box::new(|dir| create(&dir.join("store"))),
        command: Box::new(move |root| {
            let mut command = server::command(root);
            command.args(["--upstream", &url, "--gosumdb", "off", "--index-interval", "0"]);
            command
        }),
        drive: Box::new(move |child| {
            let mut observed = Observed::default();
            if let Some(url) = server::listening(child) {
                observed.answers.push(ask(&url, &asked).map_err(|error| error.to_string()));
                server::terminate(child);
            }
            child.stderr.take().unwrap().read_to_string(&mut observed.stderr).unwrap();
            observed
        }),
        check: Box::new(move |root, traced, observed, is_kill| {
            for answer in observed.answers.iter().flatten() {
                assert_eq!(*answer, (200, known.modfile.clone()), "after {:?}", traced.hit);
            }
            if !is_kill {
                failed_clearly(traced, observed);
            }
            // The pair is there as a whole, or not at all.
            let offline = Server::start_with(server::command(root).arg("--offline"));
            for (extension, body) in [("info", &known.info), ("mod", &known.modfile)] {
                let (status, found) = offline.get(&known.path(extension));
                assert!(status == 404 || (status, &found) == (200, body), "{status} after {:?}", traced.hit);
            }
            assert!(offline.stop().success());
        }),
        again: Box::new(move |root| {
            let server =
                Server::start_with(server::command(root).args(["--upstream", &its_url, "--gosumdb", "off"]));
            assert_eq!(server.get(&again.path("mod")), (200, again.modfile.clone()));
            assert_eq!(server.get(&again.path("zip")).0, 200);
            assert!(server.stop().success());
            // The request for the zip may have joined the flight before that kept the pair.
            if root.join("cache/pairs").exists() {
                fs::remove_dir_all(root.join("cache/pairs")).unwrap();
            }
        }),
    }
}
