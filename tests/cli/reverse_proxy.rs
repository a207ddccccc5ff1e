//! The configurations of reverse proxies in the documentation, cut out of the page and run.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use testkit::nginx::Nginx;
use testkit::programs::Programs;
use testkit::upstream::Module;
use testkit::{Case, missing_tool, ports, server, trial};

use crate::tls_client::Certificate;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        trial("nginx with the snippet of the page", missing_tool("nginx", &["-v"]), nginx),
        trial("Caddy accepts the snippet of the page", missing_tool("caddy", &["version"]), caddy),
        trial("the page has one snippet for each reverse proxy", None, snippets),
    ]
}

/// Cuts a block of code out of the page.
fn snippet(language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tls-and-access.md");
    let text = fs::read_to_string(page).unwrap();
    let blocks: Vec<&str> = text.split(&format!("```{language}\n")).skip(1).collect();
    assert_eq!(blocks.len(), 1, "{language}");
    blocks[0].split("```").next().unwrap().to_owned()
}

fn snippets() {
    for (language, words) in
        [("nginx", ["proxy_pass", "X-Forwarded-For"]), ("caddyfile", ["reverse_proxy", "unix//"])]
    {
        let text = snippet(language);
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no {from} in {text}");
    text.replace(from, to)
}

fn nginx() {
    let programs = Programs::current();
    let store = programs.make_store();
    let module = Module::new("example.org/m@v1.0.0", 3 << 20);
    module.put_unsealed(&store);
    let socket = programs.folder().join("stoa.sock");
    let listen = format!("unix:{}", socket.display());
    let arguments = ["-v", "serve", "--listen", &listen, "--hosts", "localhost", "--listen-mode", "0666"];
    let mut stoa = programs.command("stoa", arguments).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(stoa.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("listening on unix:"), "{line}");

    let certificate = Certificate::new();
    let (cert, key) = certificate.write(programs.folder());
    let address = ports::free();
    let text = snippet("nginx");
    let text = replaced(&text, "/run/stoa/stoa.sock", &socket.display().to_string());
    let text = replaced(&text, "listen 443 ssl", &format!("listen {address} ssl"));
    let text = replaced(&text, "goproxy.corp.example", "localhost");
    let text = replaced(&text, "/etc/stoa/tls/cert.pem", &cert.display().to_string());
    let text = replaced(&text, "/etc/stoa/tls/key.pem", &key.display().to_string());
    let _nginx = Nginx::with(programs.folder(), address, &text);
    let answer = certificate.get(address, &module.path("mod")).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("module example.org/m"), "{answer}");
    let zip = certificate.get(address, &module.path("zip")).unwrap();
    assert!(zip.contains(&format!("{}: {}", "Content-Length", module.zip.len())), "{}", &zip[..300]);
    server::terminate(&stoa);
    assert!(stoa.wait().unwrap().success());
}

fn caddy() {
    let folder = testkit::tempdir();
    let file = folder.path().join("Caddyfile");
    fs::write(&file, snippet("caddyfile")).unwrap();
    let output = Command::new("caddy").arg("validate").arg("--config").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
