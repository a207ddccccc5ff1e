//! Sockets of every kind, TLS, and clients behind reverse proxies.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use testkit::programs::{Ended, Programs};
use testkit::{Case, client, missing_tool, ports, server, trial};

use crate::tls_client::{Certificate, ask};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        trial("several addresses and a unix socket", None, several_addresses),
        trial("a unix socket that nobody listens on is replaced", None, stale_unix_socket),
        trial(
            "an inherited socket",
            missing_tool("systemd-socket-activate", &["--version"]),
            inherited_socket,
        ),
        trial("operators have an address of their own", None, admin_address),
        trial("TLS with HTTP/1.1 and HTTP/2, and HTTP/2 only there", None, tls),
        trial("a wrong certificate stops the start", None, wrong_certificate),
        trial("a request needs one host that the server has", None, hosts),
    ]
}

/// Starts a server, and returns what it says about its sockets.
fn serve(command: &mut Command, lines: usize) -> (Child, Vec<String>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let lines = (0..lines).map_while(|_| output.next()).map(Result::unwrap).collect::<Vec<_>>();
    if lines.is_empty() {
        panic!("{:?}", Ended::from_child(child));
    }
    (child, lines)
}

fn stop(child: Child) -> Ended {
    server::terminate(&child);
    let ended = Ended::from_child(child);
    assert_eq!(ended.code, 0, "{ended:?}");
    ended
}

fn tcp(line: &str) -> SocketAddr {
    line.rsplit("://").next().unwrap().parse().unwrap()
}

fn several_addresses() {
    let programs = Programs::current();
    programs.make_store();
    let path = programs.folder().join("stoa.sock");
    let listen = format!("127.0.0.1:0,127.0.0.1:0,unix:{}", path.display());
    let mut command = programs.command("stoa", ["serve", "--listen", &listen, "--listen-mode", "0666"]);
    let (child, lines) = serve(&mut command, 3);
    assert_eq!(lines[2], format!("listening on unix:{}", path.display()), "{lines:?}");
    for line in &lines[..2] {
        assert_eq!(client::get(tcp(line), "/healthz").text(), "ok\n");
    }
    assert_ne!(lines[0], lines[1]);
    let meta = path.metadata().unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o666);
    let answer = ask(&mut UnixStream::connect(&path).unwrap(), "/healthz").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{answer}");
    // Somebody listens there.
    let second = programs.stoa(["serve", "--listen", &format!("unix:{}", path.display())]);
    assert_eq!(second.code, 73, "{second:?}");
    assert!(second.err.contains("another program listens there"), "{second:?}");
    stop(child);
    assert!(!path.exists());
    assert_eq!(names(programs.folder()).iter().filter(|name| name.contains("sock")).count(), 0);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn stale_unix_socket() {
    let programs = Programs::current();
    programs.make_store();
    let path = programs.folder().join("stale.sock");
    drop(UnixListener::bind(&path).unwrap());
    let listen = format!("unix:{}", path.display());
    let (child, _) = serve(&mut programs.command("stoa", ["serve", "--listen", &listen]), 1);
    assert!(ask(&mut UnixStream::connect(&path).unwrap(), "/healthz").unwrap().contains(" 200 "));
    stop(child);
    fs::write(&path, "mine").unwrap();
    let ended = programs.stoa(["serve", "--listen", &listen]);
    assert_eq!((ended.code, fs::read_to_string(&path).unwrap().as_str()), (73, "mine"), "{ended:?}");
}

fn inherited_socket() {
    let programs = Programs::current();
    programs.make_store();
    let address = ports::free();
    let mut command = Command::new("systemd-socket-activate");
    command.args(["-l", &address.to_string(), "-E", &format!("HOME={}", programs.folder().display())]);
    command.arg(programs.program("stoa")).args(["serve", "--listen", "systemd", "--upstream", "off"]);
    command.arg("--store").arg(programs.store()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The program starts with the first connection.
    let answer = loop {
        match TcpStream::connect(address) {
            Ok(mut stream) => break ask(&mut stream, "/healthz").unwrap(),
            Err(_) => {
                assert!(child.try_wait().unwrap().is_none(), "{:?}", Ended::from_child(child));
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    };
    assert!(answer.contains(" 200 "), "{answer}");
    assert!(stop(child).out.contains(&format!("listening on http://{address}")));
    let alone = programs.stoa(["serve", "--listen", "systemd"]);
    assert_eq!(alone.code, 64, "{alone:?}");
    assert!(alone.err.contains("LISTEN_FDS"), "{alone:?}");
}

fn admin_address() {
    let programs = Programs::current();
    programs.make_store();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let mut command = programs.command("stoa", arguments);
    let (child, lines) = serve(command.args(["--hosts", "proxy.example", "--max-connections", "1"]), 2);
    let (public, admin) = (tcp(&lines[0]), tcp(&lines[1]));
    assert!(lines[1].starts_with("listening for operators on http://"), "{lines:?}");
    // It takes the only place, for as long as it lives.
    let mut holder = TcpStream::connect(public).unwrap();
    write!(holder, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_ne!(holder.read(&mut [0; 1000]).unwrap(), 0);
    for (path, status) in
        [("/healthz", 200), ("/readyz", 200), ("/version", 200), ("/catalog", 404), ("/", 404)]
    {
        let reply = client::get(admin, path);
        assert_eq!(reply.status, status, "{path}");
        if status == 404 {
            assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
        }
    }
    write!(holder, "GET /metrics HTTP/1.1\r\nHost: proxy.example\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    holder.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 404 ") && answer.contains("cache-control: no-store"), "{answer}");
    stop(child);
}

fn tls() {
    let programs = Programs::current();
    programs.make_store();
    let ours = Certificate::new();
    let (cert, key) = ours.write(programs.folder());
    let path = programs.folder().join("plain.sock");
    let listen = format!("127.0.0.1:0,unix:{}", path.display());
    let mut command = programs.command("stoa", ["serve", "--listen", &listen]);
    command.arg("--tls-cert").arg(&cert).arg("--tls-key").arg(&key);
    let (child, lines) = serve(&mut command, 2);
    assert!(lines[0].starts_with("listening on https://127.0.0.1:"), "{lines:?}");
    let address = tcp(&lines[0]);
    assert!(ours.get(address, "/healthz").unwrap().contains(" 200 "));
    assert!(Certificate::new().get(address, "/healthz").is_err());
    // A unix socket stays without TLS.
    assert!(ask(&mut UnixStream::connect(&path).unwrap(), "/healthz").unwrap().contains(" 200 "));
    let curl = |arguments: &[&str], url: &str| {
        let mut command = Command::new("curl");
        command.args(["-sS", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", "--cacert"]).arg(&cert);
        let output = command.args(arguments).arg(url).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let url = format!("https://{address}/healthz");
    if missing_tool("curl", &["--version"]).is_none() {
        assert_eq!(curl(&["--http1.1"], &url), "1.1 200");
        assert_eq!(curl(&["--http2"], &url), "2 200");
        // Without TLS there is no HTTP/2, not even for a client that insists.
        let plain = ["--http2-prior-knowledge", "--unix-socket", path.to_str().unwrap()];
        assert!(!curl(&plain, "http://localhost/healthz").contains("200"));
        assert_eq!(curl(&["--http2", plain[1], plain[2]], "http://localhost/healthz"), "1.1 200");
    }
    let mut plain = TcpStream::connect(address).unwrap();
    assert!(!ask(&mut plain, "/healthz").unwrap_or_default().contains("200"));
    stop(child);
}

fn wrong_certificate() {
    let programs = Programs::current();
    let (one, other) = (Certificate::new(), Certificate::new());
    let (cert, key) = one.write(programs.folder());
    let start = || {
        let mut command = programs.command("stoa", ["serve", "--listen", "127.0.0.1:0"]);
        Ended::of({
            command.arg("--tls-cert").arg(&cert).arg("--tls-key").arg(&key);
            command
        })
    };
    fs::write(&key, &other.key).unwrap();
    let ended = start();
    assert_eq!(ended.code, 64, "{ended:?}");
    assert!(ended.err.contains("cannot use the certificate") && ended.err.contains("help: "), "{ended:?}");
    fs::write(&key, "nothing").unwrap();
    let ended = start();
    assert!(ended.code == 64 && ended.err.contains("key.pem"), "{ended:?}");
    fs::remove_file(&cert).unwrap();
    let ended = start();
    assert!(ended.code == 64 && ended.err.contains("cert.pem"), "{ended:?}");
    // Nothing was made for a server that cannot start.
    assert!(!programs.store().exists());
    let half = programs.stoa(["serve", "--tls-cert", cert.to_str().unwrap()]);
    assert!(half.code == 64 && half.err.contains("tls.key"), "{half:?}");
}

fn hosts() {
    let programs = Programs::current();
    programs.make_store();
    let mut command = programs.command("stoa", ["serve", "--listen", "127.0.0.1:0"]);
    let (child, lines) = serve(command.args(["--hosts", "proxy.example"]), 1);
    let address = tcp(&lines[0]);
    for (head, status) in [
        ("GET / HTTP/1.1\r\nHost: Proxy.example:3000\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: other.example\r\n", 421),
        ("GET / HTTP/1.1\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: proxy.example\r\nHost: proxy.example\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: 10.0.0.1\r\n", 200),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "{head}Connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
    }
    stop(child);
}
