//! The `Via` of requests to upstreams.

use std::net::{SocketAddr, TcpListener};

use stoa::server::{self, ServeOptions};
use stoa::upstream::{Instance, Upstream as List, UpstreamOptions};
use stoa_layout::gate::Mode;
use testkit::client;
use tokio::sync::oneshot;

use super::site::{self, INSTANCE, Site};
use testkit::upstream::{Module, Script, Upstream};

#[test]
fn an_upstream_gets_nothing_of_a_clients_via() {
    let folder = site::folder();
    let upstream = Upstream::start();
    let module = upstream.offer("example.com/m@v1.0.0", 10);
    let site = Site::start(folder.path(), upstream.url());
    let other = Instance::new(7);
    let via = format!("1.1 build-7.corp.example (squid, internal), 1.0 fred\r\nVia: 1.1 {other} (secret), x");
    for path in [module.path("zip"), "/example.com/m/@v/list".to_owned(), "/example.com/m/@latest".to_owned()]
    {
        site.ask("GET", &path, &[("Via", &via)]);
    }
    let requests = upstream.requests();
    assert!(requests.len() >= 5, "{requests:?}");
    for request in requests {
        assert_eq!(request.header("via"), Some(format!("1.1 {other}, 1.1 {INSTANCE}").as_str()));
        assert!(!["corp", "fred", "squid", "secret"].iter().any(|word| request.headers.contains(word)));
    }
}

/// Starts a server on a known address, which its upstream may therefore have as its own upstream.
fn start(
    runtime: &tokio::runtime::Runtime,
    root: &std::path::Path,
    listener: TcpListener,
    upstream: SocketAddr,
) -> (oneshot::Sender<()>, tokio::task::JoinHandle<Result<(), server::ServeError>>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let list = List::new(&format!("http://{upstream}"), UpstreamOptions::default()).unwrap();
    let store = site::open(root, Mode::ReadWrite);
    listener.set_nonblocking(true).unwrap();
    let serving = runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let shutdown = async {
            let _ = stopped.await;
        };
        server::run(listener, store, list, ServeOptions::default(), shutdown).await
    });
    (stop, serving)
}

#[test]
fn a_circle_of_three_servers_ends() {
    let folders = [0; 3].map(|_| site::folder());
    let listeners = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses: Vec<SocketAddr> =
        listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let next = |number: usize| addresses[(number + 1) % addresses.len()];
    let servers: Vec<_> = listeners
        .into_iter()
        .enumerate()
        .map(|(number, listener)| start(&runtime, folders[number].path(), listener, next(number)))
        .collect();
    for path in ["/example.com/m/@v/v1.0.0.zip", "/example.com/m/@v/list", "/example.com/m/@latest"] {
        let reply = client::ask(addresses[0], "GET", path, &[("Via", "1.1 fred")]);
        assert_eq!(reply.status, 508, "{path}: {}", reply.text());
    }
    for (stop, serving) in servers {
        stop.send(()).unwrap();
        runtime.block_on(serving).unwrap().unwrap();
    }
}

#[test]
fn invented_servers_are_no_loop() {
    let (front, back) = (site::folder(), site::folder());
    let upstream = Upstream::start();
    let module = upstream.offer("example.com/m@v1.0.0", 10);
    upstream.put("/example.com/m/@v/list", "v1.0.0\n");
    // A server behind a server, since each adds its name.
    let options = UpstreamOptions { instance: Instance::new(0x7777), ..UpstreamOptions::default() };
    let last = List::new(upstream.url(), options).unwrap();
    let last = Site::with(site::open(back.path(), Mode::ReadWrite), last, site::asking_each_time());
    let site = Site::start(front.path(), &format!("http://{}", last.address));
    let invented = (0..40).map(|n| format!("1.1 {}", Instance::new(n))).collect::<Vec<_>>().join(", ");
    // A client without a `Via` waits for the same download.
    upstream.hold("mod");
    let ask = |ending: &'static str, via: &[(&str, &str)]| {
        (ending, site.ask("GET", &module.path(ending), via).status)
    };
    std::thread::scope(|scope| {
        let naming = scope.spawn(|| ask("mod", &[("Via", &invented)]));
        upstream.wait_until_asked("mod", 1);
        let joined = scope.spawn(|| ask("zip", &[]));
        upstream.release();
        assert_eq!([naming.join().unwrap(), joined.join().unwrap()], [("mod", 200), ("zip", 200)]);
    });
    for path in ["/example.com/m/@v/list", "/example.com/m/@latest"] {
        assert_eq!(site.ask("GET", path, &[("Via", &invented)]).status, 200, "{path}");
    }
    let own = format!("1.1 {INSTANCE}");
    assert_eq!(site.ask("GET", "/example.com/m/@v/list", &[("Via", &own)]).status, 508);
}

#[test]
fn a_loop_of_one_client_concerns_no_other() {
    let folder = site::folder();
    let known = Instance::new(0x7777);
    let name = known.to_string();
    let module = Module::new("example.com/m@v1.0.0", 10);
    let bodies = module.clone();
    // An upstream that has the name which the client sends.
    let upstream = Upstream::with(move |request| {
        if request.header("via").is_some_and(|via| via.contains(&name)) {
            return Script::Status(508, "text/plain", b"loop");
        }
        match request.path.rsplit('.').next() {
            Some("info") => Script::Body(bodies.info.clone()),
            Some("mod") => Script::Body(bodies.modfile.clone()),
            Some("zip") => Script::Body(bodies.zip.clone()),
            _ => Script::Body(b"v1.0.0\n".to_vec()),
        }
    });
    let site = Site::start(folder.path(), upstream.url());
    let via = format!("1.1 {known}");
    let ask = |path: &str, via: Option<&str>| {
        let headers: Vec<_> = via.map(|via| ("Via", via)).into_iter().collect();
        site.ask("GET", path, &headers).status
    };
    let ask = &ask;
    let (info, zip) = (module.path("info"), module.path("zip"));
    let list = "/example.com/other/@v/list";
    for (named, joined) in [(info.as_str(), vec![info.as_str(), zip.as_str()]), (list, vec![list])] {
        upstream.hold(named);
        std::thread::scope(|scope| {
            let naming = scope.spawn(|| ask(named, Some(&via)));
            upstream.wait_until_asked(named, 1);
            let joined: Vec<_> = joined.iter().map(|path| scope.spawn(|| ask(path, None))).collect();
            // A client that comes later than this asks by itself, which succeeds, too.
            std::thread::sleep(std::time::Duration::from_millis(500));
            upstream.release();
            assert_eq!(naming.join().unwrap(), 508, "{named}");
            for client in joined {
                assert_eq!(client.join().unwrap(), 200, "{named}");
            }
        });
    }
}
