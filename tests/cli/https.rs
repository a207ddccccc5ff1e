//! An HTTPS server at names that lead to this machine, through a forward proxy.
//!
//! Needs openssl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use testkit::transcript;

pub(crate) struct Https {
    /// The address of the server itself, for which its certificate is valid, too.
    pub(crate) address: SocketAddr,
    /// The forward proxy, which leads every name to the server.
    pub(crate) proxy: SocketAddr,
    /// The targets that the forward proxy was asked for.
    pub(crate) targets: Arc<Mutex<Vec<String>>>,
    pub(crate) certificate: PathBuf,
}

impl Https {
    /// Starts a server with a certificate for some names. `answer` gets the head of a request and returns the whole
    /// answer.
    pub(crate) fn start(
        folder: &Path,
        names: &[&str],
        answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
        let names = names.iter().map(|name| format!("DNS:{name}")).collect::<Vec<_>>().join(",");
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(["-days", "2", "-subj", "/CN=test", "-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.args(["-addext", &format!("subjectAltName={names},IP:127.0.0.1")]);
        let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate).output().unwrap();
        assert!(made.status.success(), "{}", transcript(&made));
        let address = serve(answer, &key, &certificate);
        let (proxy, targets) = forward_proxy(address);
        Self { address, proxy, targets, certificate }
    }

    /// Lets a program reach the server, and nothing else.
    pub(crate) fn lead_here(&self, command: &mut Command) {
        for name in ["https_proxy", "http_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_ascii_uppercase());
        }
        command
            .env("HTTPS_PROXY", format!("http://{}", self.proxy))
            .env("SSL_CERT_FILE", &self.certificate)
            .env("GIT_SSL_CAINFO", &self.certificate);
    }
}

/// Makes an answer. Each header ends with `\r\n`.
pub(crate) fn reply(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Returns the value of a header of a request. Empty if there is none.
pub(crate) fn header(head: &str, name: &str) -> String {
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    let found = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map_or("", |(_, value)| value).to_owned()
}

fn read_head(stream: &mut impl Read) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn serve(
    answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    key: &Path,
    certificate: &Path,
) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(certificate).unwrap()],
            PrivateKeyDer::from_pem_file(key).unwrap(),
        )
        .unwrap();
    let (config, answer) = (Arc::new(config), Arc::new(answer));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, config) = (Arc::clone(&answer), Arc::clone(&config));
            std::thread::spawn(move || {
                let connection = rustls::ServerConnection::new(config).unwrap();
                let mut stream = rustls::StreamOwned::new(connection, stream);
                if let Ok(head) = read_head(&mut stream) {
                    let _ = stream.write_all(&answer(&head));
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                }
            });
        }
    });
    address
}

/// Starts a forward proxy that leads every name to one server.
fn forward_proxy(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let targets: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&targets);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let noted = Arc::clone(&noted);
            std::thread::spawn(move || {
                let Ok(head) = read_head(&mut stream) else { return };
                noted.lock().unwrap().push(head.split(' ').nth(1).unwrap_or_default().to_owned());
                let Ok(server) = TcpStream::connect(to) else { return };
                let _ = stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n");
                let (mut from, mut back) = (stream.try_clone().unwrap(), server.try_clone().unwrap());
                let sent = std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut back);
                    let _ = back.shutdown(std::net::Shutdown::Write);
                });
                let (mut server, mut stream) = (server, stream);
                let _ = std::io::copy(&mut server, &mut stream);
                let _ = stream.shutdown(std::net::Shutdown::Both);
                let _ = sent.join();
            });
        }
    });
    (address, targets)
}
