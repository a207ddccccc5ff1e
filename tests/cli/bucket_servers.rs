//! Three real servers with one bucket, and a crowd of clients that ask all of them.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::bucket::{Service, TestBucket};
use testkit::client::Reply;
use testkit::server::{self, Server};
use testkit::upstream::{Module, Script, Upstream};
use testkit::{Case, slow, trial};

use super::bucket_programs::{serve, upgrade_now};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for service in [Service::Gcs, Service::S3] {
        let name = format!("a crowd at three servers downloads each version once on {service}");
        cases.push(
            trial(&name, None, move || crowd(&service.start_here().bucket())).needs(service.needs_here()),
        );
    }
    let name = "the downloads of one of three servers are taken over when it is killed on S3";
    let run = || killed(&Service::S3.start_here().bucket());
    cases.push(trial(name, None, run).needs(Service::S3.needs_here()));
    slow(cases)
}

/// Number of clients.
const CLIENTS: usize = 200;

/// Number of servers.
const SERVERS: usize = 3;

/// Sizes of zips, in turn. Fifty of them are 50 MB together. The largest is written in parts.
const SIZES: [usize; 10] =
    [500, 3_000, 20_000, 100_000, 400_000, 800_000, 60_000, 1_300_000, 1_000, 7_000_000];

/// A sequence that looks random and is the same in each run.
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for n in (1..items.len()).rev() {
            items.swap(n, self.below(n + 1));
        }
    }
}

fn offer(upstream: &Upstream, count: usize) -> Vec<Module> {
    let offer =
        |n: usize| upstream.offer(&format!("example.com/Mod{}@v1.0.{n}", n % 7), SIZES[n % SIZES.len()]);
    (0..count).map(offer).collect()
}

fn start(bucket: &TestBucket, dir: &Path, upstream: &Upstream) -> Vec<Server> {
    let store = |n: usize| dir.join(n.to_string());
    (0..SERVERS).map(|n| serve(bucket, bucket.environment(), &store(n), Some(upstream.url()))).collect()
}

#[track_caller]
fn right(module: &Module, reply: &Reply) {
    let text = || String::from_utf8_lossy(&reply.body[..reply.body.len().min(300)]).into_owned();
    assert!(reply.status == 200 && reply.is_whole, "{}: {} {}", module.version, reply.status, text());
    assert!(reply.body == module.zip, "{}: other bytes", module.version);
}

fn crowd(bucket: &TestBucket) {
    let (upstream, dir) = (Upstream::start(), testkit::tempdir());
    let modules = offer(&upstream, 50);
    upgrade_now(bucket, "creation");
    let servers = start(bucket, dir.path(), &upstream);
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (mut modules, servers, refused) = (modules.iter().collect::<Vec<_>>(), &servers, &refused);
            scope.spawn(move || {
                let mut sequence = Sequence(u64::try_from(client).unwrap() + 1);
                sequence.shuffle(&mut modules);
                for module in modules {
                    loop {
                        let reply = servers[sequence.below(SERVERS)].ask("GET", &module.path("zip"), &[]);
                        if reply.status == 503 && reply.header("retry-after").is_some() {
                            refused.fetch_add(1, Ordering::Relaxed);
                            thread::sleep(Duration::from_secs(1));
                            continue;
                        }
                        right(module, &reply);
                        break;
                    }
                }
            });
        }
    });
    assert_eq!(refused.into_inner(), 0, "requests were answered with 503");
    for module in &modules {
        assert_eq!(upstream.count(&module.path("zip")), 1, "{}", module.version);
    }
    servers.into_iter().for_each(|server| assert!(server.stop().success()));
}

/// Number of versions that are downloaded while a server is killed.
const SLOW: usize = 12;

fn killed(bucket: &TestBucket) {
    let (upstream, dir) = (Upstream::start(), testkit::tempdir());
    let modules: Vec<_> =
        (0..SLOW).map(|n| upstream.offer(&format!("example.com/m@v1.0.{n}"), 400_000)).collect();
    for module in &modules {
        // Eight seconds each.
        let slow = Script::Paced(module.zip.clone(), 5_000, Duration::from_millis(100));
        upstream.set(&module.path("zip"), slow);
    }
    upgrade_now(bucket, "creation");
    let mut servers = start(bucket, dir.path(), &upstream);
    let killed = servers.remove(0);
    let downloads = || modules.iter().map(|module| upstream.count(&module.path("zip"))).sum::<usize>();
    thread::scope(|scope| {
        // Each version is downloaded by the server that is killed, and asked for at the others too.
        for (n, module) in modules.iter().enumerate() {
            let url = killed.url.clone();
            scope.spawn(move || {
                // Most of these clients are disconnected.
                if let Ok((status, _)) = server::get(&url, &module.path("zip")) {
                    assert_ne!(status, 200, "a zip was served that was not downloaded");
                }
            });
            upstream.wait_until_asked(&format!("v1.0.{n}.zip"), 1);
        }
        let pid = Pid::from_raw(i32::try_from(killed.pid()).unwrap());
        for client in 0..CLIENTS {
            let (module, server) = (&modules[client % SLOW], &servers[client % servers.len()]);
            scope.spawn(move || right(module, &server.ask("GET", &module.path("zip"), &[])));
        }
        assert_eq!(downloads(), SLOW);
        kill(pid, Signal::SIGKILL).unwrap();
    });
    for module in &modules {
        assert_eq!(upstream.count(&module.path("zip")), 2, "{}", module.version);
        servers.iter().for_each(|server| right(module, &server.ask("GET", &module.path("zip"), &[])));
    }
}
