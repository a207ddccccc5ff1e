//! `HTTPS_PROXY` and `NO_PROXY`: the way to an upstream through a forward proxy on loopback.
//!
//! Needs the system's root certificates, as any https upstream does, and openssl.

use std::sync::{Arc, Mutex};

use testkit::Case;

use testkit::server::{self, Server};
use testkit::upstream::{Script, Upstream, head};
use testkit::{missing_tool, trial};

use super::https::{Https, header, reply};

pub(crate) fn cases() -> Vec<Case> {
    let roots =
        ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    let is_there = roots.iter().any(|path| std::path::Path::new(path).exists());
    let missing = (!is_there).then(|| "there are no root certificates".to_owned());
    vec![
        trial("an https upstream is reached through HTTPS_PROXY", missing.clone(), through),
        trial("NO_PROXY and loopback go past it", missing, past),
        trial("a redirect from there to this machine is refused", None, redirected),
        trial(
            "credentials are not sent after a redirect to another host",
            missing_tool("openssl", &["version"]),
            credentials,
        ),
    ]
}

/// Starts a forward proxy that refuses everything.
fn refusing() -> Upstream {
    Upstream::with(|_| Script::Status(403, "text/plain", b""))
}

fn ask(upstream: &str, variables: &[(&str, &str)]) -> u16 {
    answer(upstream, variables, "/example.com/m/@v/v1.0.0.info").0
}

fn answer(upstream: &str, variables: &[(&str, &str)], path: &str) -> (u16, Vec<u8>) {
    let dir = testkit::tempdir();
    let mut command = server::command(&dir.path().join("store"));
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_ascii_uppercase());
    }
    command.args(["--upstream", upstream]).envs(variables.iter().copied());
    let server = Server::start_with(&mut command);
    server.get(path)
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

/// The only upstream here that is at no private address, as far as Stoa knows.
fn redirected() {
    const INFO: &str = "/example.com/m/@v/v1.0.0.info";
    let internal = Upstream::start();
    let module = internal.offer("example.com/m@v1.0.0", 10);
    let port = internal.url().rsplit(':').next().unwrap().to_owned();
    for host in ["localhost", "0x7f.1", "[::ffff:127.0.0.1]", "10.0.0.1", "169.254.169.254", "127.0.0.1"] {
        let target = format!("http://{host}:{port}");
        let location = target.clone();
        let proxy = Upstream::with(move |request| {
            let path = request.path.strip_prefix("http://upstream.invalid").unwrap_or(&request.path);
            Script::Raw(head(302, &format!("Location: {location}{path}\r\nContent-Length: 0\r\n")))
        });
        let variables = [("HTTP_PROXY", proxy.url())];
        let (status, body) = answer("http://upstream.invalid", &variables, INFO);
        assert_eq!(status, 502, "{host}");
        let text = String::from_utf8(body).unwrap();
        assert!(text.contains("which is a loopback, link-local or private address"), "{host}: {text}");
        assert!(internal.requests().is_empty(), "{host}");
        let asked = proxy.requests();
        assert!(
            asked.iter().all(|request| request.path.starts_with("http://upstream.invalid/")),
            "{asked:?}"
        );
        if host == "127.0.0.1" {
            let variables = [variables[0], ("STOA_FILL_ALLOW_PRIVATE_REDIRECTS", "true")];
            assert_eq!(answer("http://upstream.invalid", &variables, INFO), (200, module.info.clone()));
            assert!(!internal.requests().is_empty());
        }
    }
}

fn credentials() {
    const LISTS: [&str; 3] =
        ["/example.com/here/@v/list", "/example.com/port/@v/list", "/example.com/there/@v/list"];
    let dir = testkit::tempdir();
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&requests);
    let https = Https::start(dir.path(), &["home.example", "other.example"], move |head| {
        noted.lock().unwrap().push(head.to_owned());
        let path = head.split(' ').nth(1).unwrap_or_default();
        let target = match path {
            _ if path == LISTS[0] => "https://home.example/moved",
            _ if path == LISTS[1] => "https://home.example:8443/moved",
            _ if path == LISTS[2] => "https://other.example/moved",
            "/moved" => return reply("200 OK", "", b"v1.0.0\n"),
            _ => return reply("404 Not Found", "", b""),
        };
        reply("302 Found", &format!("Location: {target}\r\n"), b"")
    });
    let mut command = server::command(&dir.path().join("store"));
    https.lead_here(command.args(["--upstream", "https://someone:secret@home.example", "--gosumdb", "off"]));
    let server = Server::start_with(&mut command);
    // The first request goes to the upstream, and the second one to the target of its redirect.
    for (path, host, is_sent) in [
        (LISTS[0], "home.example", true),
        (LISTS[1], "home.example:8443", false),
        (LISTS[2], "other.example", false),
    ] {
        assert_eq!(server.get(path), (200, b"v1.0.0\n".to_vec()), "{path}");
        let sent: Vec<_> = std::mem::take(&mut *requests.lock().unwrap())
            .iter()
            .map(|head| (header(head, "Host"), header(head, "Authorization")))
            .collect();
        let login = "Basic c29tZW9uZTpzZWNyZXQ=";
        let expected = if is_sent { login } else { "" };
        let expected = [("home.example", login), (host, expected)];
        assert_eq!(sent, expected.map(|(host, login)| (host.to_owned(), login.to_owned())), "{path}");
    }
}
