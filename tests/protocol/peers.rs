//! Requests to a peer: signatures, the time of the peer, and what happens if the peer has no answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stoa::server::ServeOptions;
use stoa::services::{FlightOptions, ServiceOptions};
use stoa::sync::{Clock, Gatekeeper, PEER_TIME, Peer, Refusal, Secret, sha256};
use stoa::upstream::{
    Instance, PeerClient, RetryOptions, Upstream as List, UpstreamError, UpstreamOptions, Via,
};
use stoa_gomod::ModuleVersion;
use stoa_gomod::private::Patterns;
use stoa_layout::gate::Mode;

use super::site::{self, Site};
use testkit::upstream::{Module, Request, Script, Upstream, announced, head};

const SECRET: &[u8] = b"a secret of at least 32 characters";
const HOUR_MS: i64 = 3_600_000;

fn peer(url: &str) -> Peer {
    Peer {
        name: "there".to_owned(),
        url: url.parse().unwrap(),
        secret: Secret::new(SECRET),
        ca: None,
        pull: true,
        push: true,
        offer: Patterns::default(),
        accept: Patterns::parse("*"),
        accept_tombstones: false,
        interval: Duration::from_secs(60),
        bandwidth: None,
    }
}

fn client(peer: Peer) -> PeerClient {
    let retry = RetryOptions { pause: Duration::from_millis(1), ..RetryOptions::default() };
    let options = UpstreamOptions { retry, instance: site::INSTANCE, ..UpstreamOptions::default() };
    PeerClient::new("here", &Arc::new(peer), &options).unwrap()
}

/// The list of a peer.
fn list(url: &str) -> List {
    client(peer(url)).upstream().clone()
}

fn version() -> ModuleVersion {
    ModuleVersion::parse("example.com/m@v1.0.0").unwrap()
}

/// A peer that accepts signed requests only. Its clock differs by some time, and its base path is `/go`.
struct Checking {
    server: Upstream,
    refused: Arc<Mutex<Vec<Refusal>>>,
}

impl Checking {
    fn start(module: &Module, clock_ms: i64) -> Self {
        let from_here = Peer { name: "here".to_owned(), ..peer("http://here.example") };
        let clock = Clock::start();
        let started_ms = clock.began_ms() + clock_ms;
        let gatekeeper = Gatekeeper::new("there", [Arc::new(from_here)], started_ms);
        let (module, refused) = (module.clone(), Arc::<Mutex<Vec<Refusal>>>::default());
        let noted = Arc::clone(&refused);
        let server = Upstream::with(move |request: &Request| {
            let target = request.path.strip_prefix("/go").unwrap();
            let authorization = request.header("authorization").unwrap_or_default();
            let body = if request.method == "POST" { sha256(b"{}") } else { sha256(b"") };
            let now = clock.now_ms() + clock_ms;
            let checked = gatekeeper.check(&request.method, target, authorization, now);
            assert!(checked.as_ref().is_ok_and(|(_, hash)| *hash == body) || checked.is_err());
            if let Err(refusal) = checked {
                noted.lock().unwrap().push(refusal.clone());
                let time = match refusal {
                    Refusal::WrongTime { header, .. } => format!("{PEER_TIME}: {header}\r\n"),
                    _ => String::new(),
                };
                return Script::Raw(head(401, &format!("{time}Content-Length: 0\r\n")));
            }
            let body = match target.rsplit_once('.').map(|(_, extension)| extension) {
                Some("info") => module.info.as_slice(),
                Some("mod") => module.modfile.as_slice(),
                Some("zip") => module.zip.as_slice(),
                _ => b"{}",
            };
            Script::Raw(announced(body.len(), body))
        });
        Self { server, refused }
    }

    fn url(&self) -> String {
        format!("{}/go/", self.server.url())
    }
}

async fn read_all(list: &List, module: &Module) {
    let none = Via::none();
    assert_eq!(list.info(&version(), &none).await.unwrap(), module.info);
    assert_eq!(list.modfile(&version(), &none).await.unwrap(), module.modfile);
    assert_eq!(read_zip(list).await.unwrap(), module.zip);
}

async fn read_zip(list: &List) -> Result<Vec<u8>, UpstreamError> {
    let (mut zip, mut bytes) = (list.zip(&version(), &Via::none()).await?, Vec::new());
    while let Some(chunk) = zip.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[tokio::test]
async fn every_request_to_a_peer_is_signed() {
    let module = Module::new("example.com/m@v1.0.0", 1000);
    let peer = Checking::start(&module, 0);
    read_all(&list(&peer.url()), &module).await;
    let posted = client(self::peer(&peer.url()));
    let answer = posted.post("/sync/v1/events?x=y", b"{}".to_vec(), Duration::from_secs(30)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "{}"));
    assert_eq!(*peer.refused.lock().unwrap(), []);
    assert_eq!(peer.server.requests().last().unwrap().header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn a_client_learns_the_time_of_a_peer_once() {
    let module = Module::new("example.com/m@v1.0.0", 1000);
    for clock in [-3 * HOUR_MS, 3 * HOUR_MS] {
        let peer = Checking::start(&module, clock);
        let client = client(self::peer(&peer.url()));
        let post = || client.post("/sync/v1/events", b"{}".to_vec(), Duration::from_secs(30));
        assert_eq!(post().await.unwrap().status(), 200);
        assert_eq!(post().await.unwrap().status(), 200);
        read_all(client.upstream(), &module).await;
        assert!(matches!(peer.refused.lock().unwrap().as_slice(), [Refusal::WrongTime { .. }]), "{clock}");
    }
}

#[tokio::test]
async fn a_wrong_time_of_a_peer_is_not_learned() {
    let forged = format!("{PEER_TIME}: 1700000000000 {}\r\n", "0".repeat(64));
    for header in [forged, String::new(), format!("{PEER_TIME}: \r\n")] {
        let answer = head(401, &format!("{header}Content-Length: 0\r\n"));
        let server = Upstream::with(move |_| Script::Raw(answer.clone()));
        let client = client(peer(server.url()));
        let answer = client.post("/sync/v1/events", Vec::new(), Duration::from_secs(30)).await.unwrap();
        assert_eq!((answer.status().as_u16(), server.requests().len()), (401, 1));
    }
}

#[tokio::test]
async fn a_peer_that_never_accepts_the_time_is_asked_twice() {
    let gatekeeper = Gatekeeper::new(
        "there",
        [Arc::new(Peer { name: "here".to_owned(), ..peer("http://here.example") })],
        i64::MAX,
    );
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let server = Upstream::with(move |request| {
        let authorization = request.header("authorization").unwrap();
        let now = 1_000_000_000 * counted.fetch_add(1, Ordering::SeqCst) as i64;
        let refused = gatekeeper.check("GET", &request.path, authorization, now).unwrap_err();
        let Refusal::WrongTime { header, .. } = refused else { panic!("{refused}") };
        Script::Raw(head(401, &format!("{PEER_TIME}: {header}\r\nContent-Length: 0\r\n")))
    });
    let error = list(server.url()).info(&version(), &Via::none()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Refused { status: 401, .. }), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_wrong_answer_of_a_peer_is_an_error_and_no_redirect_is_followed() {
    let elsewhere = Upstream::start();
    let module = elsewhere.offer("example.com/m@v1.0.0", 1000);
    let location = format!("Location: {}{}\r\nContent-Length: 0\r\n", elsewhere.url(), module.path("info"));
    let none = "Content-Length: 0\r\n";
    let html = announced(6, b"<html>");
    for (answer, is_absent) in [
        (head(404, none), true),
        (head(401, none), false),
        (head(500, none), false),
        (head(302, &location), false),
        (head(307, &location), false),
        (html, false),
    ] {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        let peer = Upstream::with(move |_| Script::Raw(answer.clone()));
        let error = list(peer.url()).info(&version(), &Via::none()).await.unwrap_err();
        assert_eq!(error.is_absent(), is_absent, "{shown}: {error}");
        assert!(!peer.requests().is_empty(), "{shown}");
    }
    assert!(elsewhere.requests().is_empty(), "a redirect of a peer was followed");
}

#[tokio::test]
async fn a_request_that_comes_back_from_a_peer_is_found() {
    let server = Upstream::with(|_| Script::Status(404, "text/plain", b""));
    let (upstream, other) = (list(server.url()), Instance::new(7));
    let _ = upstream.info(&version(), &Via::from_header_values([format!("1.1 {other}")])).await;
    let expected = format!("1.1 {other}, 1.1 {}", site::INSTANCE);
    assert_eq!(server.requests()[0].header("via"), Some(expected.as_str()));
    let own = Via::from_header_values([format!("1.1 {}", site::INSTANCE)]);
    let error = upstream.info(&version(), &own).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Loop { .. }), "{error}");
}

#[tokio::test]
async fn a_post_is_sent_once_and_to_the_peer_only() {
    let elsewhere = Upstream::with(|_| Script::Status(200, "text/plain", b""));
    let location = format!("Location: {}/x\r\nContent-Length: 0\r\n", elsewhere.url());
    for (status, headers) in [(500, "Content-Length: 0\r\n"), (503, "Retry-After: 0\r\n"), (307, &location)] {
        let answer = head(status, headers);
        let server = Upstream::with(move |_| Script::Raw(answer.clone()));
        let client = client(peer(server.url()));
        let answer = client.post("/sync/v1/notify", b"{}".to_vec(), Duration::from_secs(30)).await.unwrap();
        assert_eq!((answer.status().as_u16(), server.requests().len()), (status, 1));
    }
    assert!(elsewhere.requests().is_empty());
    let silent = Upstream::with(|_| Script::Stall(Vec::new()));
    let client = client(peer(silent.url()));
    let error = client.post("/sync/v1/notify", Vec::new(), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Timeout { .. }), "{error}");
}

#[test]
fn the_list_of_a_peer_has_a_tag_of_its_own() {
    let tags = [
        list("http://a.example"),
        list("http://b.example"),
        // Without signatures, the same server may have other versions.
        site::upstream("http://a.example"),
    ];
    let tags: std::collections::BTreeSet<_> =
        tags.iter().map(|list| list.tag().unwrap().to_owned()).collect();
    assert_eq!(tags.len(), 3);
    assert_eq!(list("http://a.example").to_string(), "http://a.example/");
}

#[test]
fn a_download_that_this_server_slows_down_keeps_its_slot() {
    let (folder, upstream) = (site::folder(), Upstream::start());
    let large = upstream.offer("example.com/large@v1.0.0", 50_000);
    let small = upstream.offer("example.com/m@v1.0.0", 1000);
    // Without a limit here, such a download would be far below the minimum rate, and would end for the next one.
    let slow = Peer { bandwidth: Some(30_000), ..peer(upstream.url()) };
    let list = client(slow).upstream().clone();
    let rate_window = Duration::from_millis(300);
    let flights =
        FlightOptions { max_concurrent: 1, rate_window, min_rate: 1 << 20, ..FlightOptions::default() };
    let services = ServiceOptions { flights, ..ServiceOptions::default() };
    let options = ServeOptions { services, ..ServeOptions::default() };
    let site = Site::with(site::open(folder.path(), Mode::ReadWrite), list, options);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| site.get(&large.path("zip")));
        upstream.wait_until_asked("/large/@v/v1.0.0.zip", 1);
        assert_eq!(site.get(&small.path("zip")).body, small.zip);
        let first = first.join().unwrap();
        assert!(first.status == 200 && first.is_whole && first.body == large.zip, "{}", first.status);
    });
    assert_eq!(upstream.count(&large.path("zip")), 1);
}
