//! `HTTPS_PROXY` and `NO_PROXY`: the way to an upstream through a forward proxy on loopback.
//!
//! Needs the system's root certificates, as any https upstream does.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use testkit::Case;

use testkit::server::{self, Server};
use testkit::trial;

pub(crate) fn cases() -> Vec<Case> {
    let roots =
        ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    let is_there = roots.iter().any(|path| std::path::Path::new(path).exists());
    let missing = (!is_there).then(|| "there are no root certificates".to_owned());
    vec![
        trial("an https upstream is reached through HTTPS_PROXY", missing.clone(), through),
        trial("NO_PROXY and loopback go past it", missing, past),
    ]
}

/// A forward proxy that refuses everything, and tells what it was asked for.
fn refusing() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let asked = lines.next().unwrap().unwrap();
            while !lines.next().unwrap().unwrap().is_empty() {}
            let _ = tell.send(asked);
            let _ =
                stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    (url, told)
}

fn ask(upstream: &str, variables: &[(&str, &str)]) -> u16 {
    let dir = tempfile::tempdir().unwrap();
    let mut command = server::command(&dir.path().join("store"));
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_ascii_uppercase());
    }
    command.args(["--upstream", upstream]).envs(variables.iter().copied());
    let server = Server::start_with(&mut command);
    server.get("/example.com/m/@v/v1.0.0.info").0
}

fn through() {
    let (proxy, asked) = refusing();
    assert_eq!(ask("https://upstream.invalid", &[("HTTPS_PROXY", &proxy)]), 502);
    assert_eq!(asked.recv().unwrap(), "CONNECT upstream.invalid:443 HTTP/1.1");
}

fn past() {
    let (proxy, asked) = refusing();
    let variables = [("HTTPS_PROXY", proxy.as_str()), ("NO_PROXY", "other.example,upstream.invalid")];
    assert_eq!(ask("https://upstream.invalid", &variables), 502);
    assert_eq!(ask("https://127.0.0.1:1", &variables), 502);
    assert!(asked.try_recv().is_err(), "the forward proxy was asked");
}
