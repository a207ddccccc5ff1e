//! `HTTPS_PROXY` and `NO_PROXY`: the way to an upstream through a forward proxy on loopback.
//!
//! Needs the system's root certificates, as any https upstream does.

use testkit::Case;

use testkit::server::{self, Server};
use testkit::trial;
use testkit::upstream::{Script, Upstream};

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

/// Starts a forward proxy that refuses everything.
fn refusing() -> Upstream {
    Upstream::with(|_| Script::Status(403, "text/plain", b""))
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
    let proxy = refusing();
    assert_eq!(ask("https://upstream.invalid", &[("HTTPS_PROXY", proxy.url())]), 502);
    let first = &proxy.requests()[0];
    assert_eq!((first.method.as_str(), first.path.as_str()), ("CONNECT", "upstream.invalid:443"));
}

fn past() {
    let proxy = refusing();
    let variables = [("HTTPS_PROXY", proxy.url()), ("NO_PROXY", "other.example,upstream.invalid")];
    assert_eq!(ask("https://upstream.invalid", &variables), 502);
    assert_eq!(ask("https://127.0.0.1:1", &variables), 502);
    assert!(proxy.requests().is_empty(), "the forward proxy was asked");
}
