//! The way it stops: what is under way ends, within bounds.

use std::io::{Read, Write};
use std::time::Duration;

use stoa::server::ServeOptions;
use stoa_layout::gate::Mode;

use super::site::{self, Site};
use testkit::client::Conversation;
use testkit::upstream::{Gate, Module, Script, Upstream};

fn gated(upstream: &Upstream) -> (Module, Gate) {
    let module = Module::new("example.com/m@v1.0.0", 1_000_000);
    let gate = Gate::default();
    upstream.serve(&module);
    upstream.set(&module.path("zip"), Script::Gated(module.zip.clone(), 500_000, gate.clone()));
    (module, gate)
}

#[test]
fn requests_in_progress_end_before_the_server() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let mut site = Site::start(folder.path(), upstream.url());
    let (module, gate) = gated(&upstream);
    let mut client = Conversation::begin(site.address, "GET", &module.path("zip"), "HTTP/1.1", &[]);
    let head = client.head();
    site.begin_stop();
    testkit::until("it listens no more", || std::net::TcpStream::connect(site.address).is_err());
    gate.open();
    let reply = client.body(head);
    assert!(reply.is_whole && reply.body == module.zip);
    site.join();
    assert!(site.has(&module.version));
}

#[test]
fn a_fill_that_nobody_waits_for_any_more_ends_too() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let mut site = Site::start(folder.path(), upstream.url());
    let (module, gate) = gated(&upstream);
    let mut client = Conversation::begin(site.address, "GET", &module.path("zip"), "HTTP/1.1", &[]);
    client.head();
    drop(client);
    site.begin_stop();
    gate.open();
    site.join();
    assert!(site.has(&module.version));
}

#[test]
fn what_does_not_end_is_broken_off() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let options = ServeOptions { grace: Duration::from_millis(50), ..ServeOptions::default() };
    let mut site =
        Site::with(site::open(folder.path(), Mode::ReadWrite), site::upstream(upstream.url()), options);
    let (module, gate) = gated(&upstream);
    let mut client = Conversation::begin(site.address, "GET", &module.path("zip"), "HTTP/1.1", &[]);
    let head = client.head();
    site.begin_stop();
    site.join();
    let reply = client.body(head);
    assert!(!reply.is_whole && reply.body.len() < module.zip.len());
    site.assert_holds_nothing();
    gate.open();
}

#[test]
fn an_idle_connection_does_not_hold_it_up() {
    let folder = site::folder();
    let options = ServeOptions { grace: Duration::from_secs(3600), ..ServeOptions::default() };
    let mut site = Site::with(site::open(folder.path(), Mode::ReadWrite), site::upstream("off"), options);
    let _silent = std::net::TcpStream::connect(site.address).unwrap();
    let mut idle = std::net::TcpStream::connect(site.address).unwrap();
    write!(idle, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    site.begin_stop();
    site.join();
}
