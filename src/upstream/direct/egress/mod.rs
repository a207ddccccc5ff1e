//! The way to the network for modules that are not covered (see [`super::rules`]).
//!
//! An egress is a proxy on loopback for the go command and git of one run, and ends with it. A password, which only
//! the environment of these two contains, keeps other users out. The egress connects to public addresses only. It
//! connects to the very address that it checked, so a name that resolves differently the second time gains nothing.
//!
//! | client | request | answer |
//! | --- | --- | --- |
//! | git | `CONNECT` | a tunnel to a public address |
//! | go | `CONNECT` | refused, so that it continues with `GET` (by `GOINSECURE`) |
//! | go | `GET http://…?go-get=1` | the allowed tags of the page, see [`super::discovery`] |
//! | go | `GET http://…` below the module proxy that an allowed tag names | the file of that proxy |
//! | the egress itself | `CONNECT` | a tunnel to a public address, to get that page or file over https |
//!
//! If the environment of this process names a proxy, tunnels lead through it. Then only addresses that are written
//! as such can be checked, since that proxy resolves names.

mod message;

use self::message::{Answer, Body, Request, read_head};
use super::super::client::{self, causes};
use super::super::tls;
use super::super::{MAX_MOD_BYTES, MAX_ZIP_BYTES};
use super::discovery::{self, MAX_PAGE_BYTES};
use super::rules::{DirectRules, NOT_COVERED, Repository};
use crate::lock::lock;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Url, redirect};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

const MAX_CONNECTIONS: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 10;
const HTML: &str = "text/html; charset=utf-8";

/// A client of the egress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum User {
    Go,
    Git,
    /// The egress itself.
    Own,
}

impl User {
    fn name(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Git => "git",
            Self::Own => "stoa",
        }
    }
}

/// A running egress.
pub(super) struct Egress {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Egress {
    fn drop(&mut self) {
        // All connections end with it.
        self.task.abort();
    }
}

struct Shared {
    address: SocketAddr,
    password: String,
    rules: Arc<DirectRules>,
    tls: rustls::ClientConfig,
    /// The proxy that the environment names.
    outer: Matcher,
    seen: Mutex<Seen>,
}

/// The events of a run that its errors depend on.
#[derive(Default)]
struct Seen {
    refusal: Option<String>,
    repository: Option<Repository>,
    /// The module proxies that go-import meta tags named.
    proxies: Vec<Url>,
}

/// The reason why there is no tunnel.
#[derive(Debug)]
enum NoTunnel {
    /// The target is not allowed.
    Refused(String),
    TimedOut(String),
    Failed(String),
}

impl Egress {
    /// Starts an egress.
    pub(super) async fn open(rules: Arc<DirectRules>, tls: rustls::ClientConfig) -> io::Result<Self> {
        let loopback =
            [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))];
        let listener = TcpListener::bind(loopback.as_slice()).await?;
        let shared = Arc::new(Shared {
            address: listener.local_addr()?,
            password: password()?,
            rules,
            tls,
            outer: Matcher::from_env(),
            seen: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, task })
    }

    /// Returns the URL of the egress for one of its clients.
    pub(super) fn url(&self, user: User) -> String {
        self.shared.url(user)
    }

    /// Returns why something was refused, if it was.
    pub(super) fn refusal(&self) -> Option<String> {
        self.shared.seen().refusal.clone()
    }

    /// Returns the repository that a go-import meta tag named.
    pub(super) fn repository(&self) -> Option<Repository> {
        self.shared.seen().repository.clone()
    }
}

/// Returns a random password.
fn password() -> io::Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve(stream, Arc::clone(&shared)))),
                // There may be no free file descriptor for a moment.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers the request of a connection.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let Ok(Ok(head)) = tokio::time::timeout(HEAD_TIMEOUT, read_head(&mut stream)).await else { return };
    let answer = match Request::parse(&head) {
        Some(request) => match shared.answer(&request).await {
            Ok(mut tunnel) => {
                if stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.is_ok() {
                    // A broken connection is reported by the client of the egress.
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut tunnel).await;
                }
                return;
            }
            Err(answer) => answer,
        },
        None => Answer::text(400, "Bad Request", "the request is malformed"),
    };
    // A client that gets less than the whole answer notices it.
    let _ = answer.send(&mut stream).await;
    let _ = stream.shutdown().await;
}

impl Shared {
    fn url(&self, user: User) -> String {
        format!("http://{}:{}@{}", user.name(), self.password, self.address)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Returns a tunnel, or the answer to a request.
    async fn answer(&self, request: &Request<'_>) -> Result<TcpStream, Answer> {
        let Some(user) = self.user(request) else {
            return Err(Answer::text(407, "Proxy Authentication Required", "wrong password"));
        };
        match (request.method, user) {
            ("CONNECT", User::Git | User::Own) => self.connect(request.target).await.map_err(|error| {
                let answer = error.answer();
                if let NoTunnel::Refused(reason) = error {
                    self.seen().refusal = Some(format!("{reason}{NOT_COVERED}"));
                }
                answer
            }),
            ("GET", User::Go) => Err(self.get(request.target).await),
            _ => Err(Answer::text(403, "Forbidden", "only git over https is used")),
        }
    }

    fn user(&self, request: &Request<'_>) -> Option<User> {
        let sent = BASE64_STANDARD.decode(request.authorization?).ok()?;
        let is_of = |user: &User| sent == format!("{}:{}", user.name(), self.password).into_bytes();
        [User::Go, User::Git, User::Own].into_iter().find(is_of)
    }

    /// Connects to `host:port`.
    async fn connect(&self, target: &str) -> Result<TcpStream, NoTunnel> {
        let malformed = || NoTunnel::Refused(format!("{target} is not a host with a port"));
        // The URL library understands all ways to write an address.
        let url = Url::parse(&format!("https://{target}/")).map_err(|_| malformed())?;
        let host = url.host_str().ok_or_else(malformed)?.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default().ok_or_else(malformed)?;
        let literal = host.parse::<IpAddr>().ok();
        if literal.is_some_and(|address| !self.rules.allow_address(address)) {
            return Err(NoTunnel::Refused(format!("{host} is not a public address")));
        }
        let name = host.trim_end_matches('.');
        let is_local = literal.is_some_and(|address| address.is_loopback())
            || name == "localhost"
            || name.ends_with(".localhost");
        let outer = url.as_str().parse().ok().and_then(|uri| self.outer.intercept(&uri));
        match outer.filter(|_| !is_local) {
            Some(outer) => {
                let authorization = outer.basic_auth().and_then(|value| value.to_str().ok());
                within(CONNECT_TIMEOUT * 3, host, through(outer.uri(), authorization, host, port)).await
            }
            None => self.connect_directly(host, port).await,
        }
    }

    async fn connect_directly(&self, host: &str, port: u16) -> Result<TcpStream, NoTunnel> {
        let resolved = async {
            let found = tokio::net::lookup_host((host, port)).await;
            let found = found.map_err(|error| NoTunnel::Failed(format!("cannot resolve {host}: {error}")))?;
            Ok(found.collect::<Vec<_>>())
        };
        let all = within(CONNECT_TIMEOUT, host, resolved).await?;
        let allowed = all.iter().filter(|address| self.rules.allow_address(address.ip()));
        let mut outcome = Err(match all.is_empty() {
            true => NoTunnel::Failed(format!("{host} has no address")),
            // The address itself would describe the network to clients.
            false => NoTunnel::Refused(format!("{host} has no public address")),
        });
        for address in allowed {
            let connected = async {
                let address = SocketAddr::new(address.ip().to_canonical(), port);
                let connected = TcpStream::connect(address).await;
                connected.map_err(|error| NoTunnel::Failed(format!("cannot connect to {host}: {error}")))
            };
            outcome = within(CONNECT_TIMEOUT, host, connected).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Answers a request for `http://…` with what is at that URL over https.
    async fn get(&self, target: &str) -> Answer {
        // The rest of the text may contain a port that is the default of one of the schemes.
        let url = target.strip_prefix("http://").and_then(|rest| Url::parse(&format!("https://{rest}")).ok());
        match url {
            Some(url) if is_page(&url) => self.page(url).await,
            Some(url) if self.seen().proxies.iter().any(|proxy| is_below(&url, proxy)) => {
                self.file(url).await
            }
            _ => Answer::text(
                403,
                "Forbidden",
                "this URL is neither a page with go-import meta tags nor at a module proxy that such a page names",
            ),
        }
    }

    /// Gets the page at which the go command looks for a module, and returns what is allowed of it.
    async fn page(&self, url: Url) -> Answer {
        let import_path = format!("{}{}", url.host_str().unwrap_or_default(), url.path());
        let downloaded = async {
            let mut response = self.client(url)?.timeout(PAGE_TIMEOUT).send().await?;
            let mut page = Vec::new();
            while page.len() < MAX_PAGE_BYTES
                && let Some(chunk) = response.chunk().await?
            {
                page.extend_from_slice(&chunk);
            }
            Ok((response.status(), page))
        };
        let (status, page) = match downloaded.await {
            Ok(downloaded) => downloaded,
            Err(error) => return self.failed(error),
        };
        let selected = match discovery::select(&page, import_path.trim_end_matches('/'), &self.rules) {
            Ok(selected) => selected,
            Err(reason) => return self.refuse(reason),
        };
        let is_error = status.is_client_error() || status.is_server_error();
        let status = if is_error && selected.repository.is_none() { status } else { reqwest::StatusCode::OK };
        if selected.repository.is_some() {
            let mut seen = self.seen();
            seen.repository = selected.repository;
            seen.proxies.extend(selected.proxy);
        }
        Answer::new(status, HTML, Body::Text(selected.page))
    }

    /// Gets a file of a module proxy.
    async fn file(&self, url: Url) -> Answer {
        let limit = if url.path().ends_with(".zip") { MAX_ZIP_BYTES } else { MAX_MOD_BYTES };
        let requested = async { self.client(url)?.send().await };
        match requested.await {
            Ok(response) => {
                let content_type = response.headers().get(CONTENT_TYPE);
                let content_type =
                    content_type.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
                Answer::new(response.status(), &content_type, Body::Of(response, limit))
            }
            Err(error) => self.failed(error),
        }
    }

    /// Returns the answer after a failed request of the egress itself.
    fn failed(&self, error: reqwest::Error) -> Answer {
        let refusal = self.seen().refusal.clone();
        if let Some(reason) = refusal {
            return self.refuse(reason);
        }
        let is_timeout = error.is_timeout();
        let reason = causes(&error.without_url());
        if is_timeout { NoTunnel::TimedOut(reason) } else { NoTunnel::Failed(reason) }.answer()
    }

    fn refuse(&self, reason: String) -> Answer {
        self.seen().refusal = Some(reason.clone());
        NoTunnel::Refused(reason).answer()
    }

    /// Prepares a request through this egress itself.
    fn client(&self, url: Url) -> Result<reqwest::RequestBuilder, reqwest::Error> {
        let own = reqwest::Proxy::all(self.url(User::Own))?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .proxy(own)
            .redirect(redirect::Policy::custom(follow))
            .referer(false)
            .read_timeout(PAGE_TIMEOUT)
            .user_agent(concat!("stoa/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(client.get(url))
    }
}

/// Returns whether a URL is one at which the go command looks for a module.
fn is_page(url: &Url) -> bool {
    let is_plain = url.username().is_empty() && url.password().is_none() && url.port().is_none();
    url.query() == Some("go-get=1") && is_plain
}

/// Returns whether a URL is that of a file of a module proxy.
fn is_below(url: &Url, proxy: &Url) -> bool {
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    let rest = url.path().strip_prefix(proxy.path().trim_end_matches('/'));
    is_plain && client::is_same_origin(url, proxy) && rest.is_some_and(|rest| rest.starts_with('/'))
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error(format!("redirected more than {MAX_REDIRECTS} times"));
    }
    match attempt.url().scheme() {
        "https" => attempt.follow(),
        scheme => {
            let reason = format!("redirected from https to {scheme}");
            attempt.error(reason)
        }
    }
}

/// Connects to a host through the proxy that the environment names.
async fn through(
    proxy: &hyper::Uri,
    authorization: Option<&str>,
    host: &str,
    port: u16,
) -> Result<TcpStream, NoTunnel> {
    let failed = |reason: &dyn std::fmt::Display| {
        NoTunnel::Failed(format!("cannot connect to {host} through the proxy of the environment: {reason}"))
    };
    if proxy.scheme_str() != Some("http") {
        return Err(failed(&"its URL must begin with http:// for direct"));
    }
    let address = (proxy.host().unwrap_or_default().trim_matches(['[', ']']), proxy.port_u16().unwrap_or(80));
    let mut stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = authorization {
        request += &format!("Proxy-Authorization: {authorization}\r\n");
    }
    request += "\r\n";
    stream.write_all(request.as_bytes()).await.map_err(|error| failed(&error))?;
    let head = read_head(&mut stream).await.map_err(|error| failed(&error))?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(stream),
        status => Err(failed(&format_args!("it answered {}", status.unwrap_or("nothing")))),
    }
}

async fn within<T>(
    limit: Duration,
    host: &str,
    work: impl Future<Output = Result<T, NoTunnel>>,
) -> Result<T, NoTunnel> {
    let timed_out = |_| NoTunnel::TimedOut(format!("{host} did not answer within {limit:?}"));
    tokio::time::timeout(limit, work).await.map_err(timed_out)?
}

impl NoTunnel {
    fn answer(&self) -> Answer {
        match self {
            Self::Refused(reason) => Answer::text(403, "Forbidden", reason),
            Self::TimedOut(reason) => Answer::text(504, "Gateway Timeout", reason),
            Self::Failed(reason) => Answer::text(502, "Bad Gateway", reason),
        }
    }
}

/// Returns the TLS configuration for pages.
pub(super) fn tls() -> Result<rustls::ClientConfig, String> {
    tls::config(tls::Roots::OfSystem(None)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn egress(allowed: &[&str]) -> Egress {
        let allow_addresses = allowed.iter().map(|text| text.parse().unwrap()).collect();
        let rules = DirectRules { allow_addresses, ..DirectRules::default() };
        Egress::open(Arc::new(rules), tls().unwrap()).await.unwrap()
    }

    /// Sends a request and returns the answer up to `end`.
    async fn ask(egress: &Egress, user: &str, password: &str, request: &str) -> String {
        let mut stream = TcpStream::connect(egress.shared.address).await.unwrap();
        let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
        let text = format!("{request} HTTP/1.1\r\nproxy-authorization: Basic {credentials}\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        read_head(&mut stream).await.unwrap()
    }

    fn password_of(egress: &Egress) -> &str {
        &egress.shared.password
    }

    #[tokio::test]
    async fn a_tunnel_needs_the_password() {
        let egress = egress(&["127.0.0.0/8"]).await;
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let request = format!("CONNECT {}", target.local_addr().unwrap());
        for (user, password) in [("git", "wrong"), ("other", password_of(&egress))] {
            assert!(ask(&egress, user, password, &request).await.starts_with("HTTP/1.1 407 "), "{user}");
        }
        assert!(ask(&egress, "git", password_of(&egress), &request).await.starts_with("HTTP/1.1 200 "));
        let for_go = ask(&egress, "go", password_of(&egress), &request).await;
        assert!(for_go.starts_with("HTTP/1.1 403 "), "{for_go}");
        assert_eq!(egress.refusal(), None, "the go command continues with http");
    }

    #[tokio::test]
    async fn tunnels_lead_to_public_and_allowed_addresses_only() {
        let egress = egress(&["127.0.0.1/32"]).await;
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = target.local_addr().unwrap().port();
        let status = async |host: &str| {
            let head = ask(&egress, "git", password_of(&egress), &format!("CONNECT {host}:{port}")).await;
            head.split(' ').nth(1).unwrap().to_owned()
        };
        assert_eq!(status("127.0.0.1").await, "200");
        // All names of one address.
        assert_eq!(status("127.1").await, "200");
        assert_eq!(status("[::ffff:127.0.0.1]").await, "200");
        for host in
            ["127.0.0.2", "127.2", "0x7f000002", "2130706434", "[::1]", "[::ffff:127.0.0.2]", "10.0.0.1", "0"]
        {
            assert_eq!(status(host).await, "403", "{host}");
        }
        assert!(egress.refusal().unwrap().contains("not a public address"));
    }

    #[tokio::test]
    async fn a_name_is_judged_by_its_address() {
        let egress = egress(&[]).await;
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let request = format!("CONNECT localhost:{}", target.local_addr().unwrap().port());
        let head = ask(&egress, "git", password_of(&egress), &request).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert!(egress.refusal().unwrap().starts_with("localhost has no public address, and "));
    }

    #[tokio::test]
    async fn only_pages_of_modules_and_named_proxies_are_read() {
        let egress = egress(&["127.0.0.0/8"]).await;
        egress.shared.seen().proxies.push(Url::parse("https://m.example:80/proxy/").unwrap());
        for target in [
            "http://v.example/x",
            "http://v.example/x?go-get=1&y",
            "http://v.example:8080/x?go-get=1",
            "http://u:p@v.example/x?go-get=1",
            "https://v.example/x?go-get=1",
            "/x?go-get=1",
            "http://m.example:80/proxy/x/@v/list?x",
            "http://m.example:80/proxy",
            "http://m.example:80/proxy/../x",
            "http://m.example:80/other/x",
            "http://m.example/proxy/x",
            "http://u:p@m.example:80/proxy/x",
        ] {
            let head = ask(&egress, "go", password_of(&egress), &format!("GET {target}")).await;
            assert!(head.starts_with("HTTP/1.1 403 "), "{target}: {head}");
        }
        let head = ask(&egress, "git", password_of(&egress), "GET http://v.example/x?go-get=1").await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        let proxy = Url::parse("https://m.example:80/proxy/").unwrap();
        assert!(is_below(&Url::parse("https://m.example:80/proxy/x/@v/list").unwrap(), &proxy));
    }
}
