//! Two deployments: the first synchronisation of a store with many versions, and the lag of notifications.
//!
//! The first part measures the rate at which a new deployment lists all versions of a peer, and waits until their content
//! follows. The second publishes versions one after the other, and measures the time until the other deployment lists
//! each. `--versions N` sets the number of versions of the first part. The exit code is 1 if a figure misses its aim.

#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench makes its own files, and one that cannot run says why and ends"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use testkit::server::Server;
use testkit::upstream::{Module, Upstream};

/// The rate of the first part, in events per second.
const RATE: f64 = 20_000.0;

/// The median lag.
const LAG: Duration = Duration::from_millis(100);

/// Number of versions per module.
const A_MODULE: usize = 100;

const LAGS: usize = 101;

/// The number of versions whose content the first part waits for, at most.
const FOLLOWING: usize = 1000;

fn main() -> ExitCode {
    testkit::set(testkit::built!());
    let mut arguments = std::env::args();
    let versions = match arguments.find(|argument| argument == "--versions").and_then(|_| arguments.next()) {
        Some(text) => text.parse().expect("a number of versions"),
        None => 100_000,
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rate = first_synchronisation(dir.path(), versions);
    let median = lag(dir.path());
    if rate >= RATE && median < LAG {
        return ExitCode::SUCCESS;
    }
    println!("a figure misses its aim");
    ExitCode::FAILURE
}

/// A deployment of the bench.
struct Deployment {
    name: &'static str,
    address: SocketAddr,
}

impl Deployment {
    fn new(name: &'static str) -> Self {
        Self { name, address: testkit::ports::free() }
    }

    fn start(&self, root: &Path, other: &Self, upstream: &str) -> Server {
        let folder = root.join(self.name);
        fs::create_dir_all(&folder).expect("a folder");
        let secret = folder.join("secret");
        fs::write(&secret, "a secret of the bench, which is long enough").expect("a secret");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&secret, mode).expect("a mode");
        let config = folder.join("config.toml");
        let text = format!(
            "listen = '{}'\nstore = 'store'\nupstream = '{upstream}'\nchecksum = 'off'\n[peers]\nname = '{}'\n\
             [[peer]]\nname = '{}'\nurl = 'http://{}'\nsecret_file = 'secret'\noffer = ['*']\naccept = ['example.com']\n",
            self.address, self.name, other.name, other.address
        );
        fs::write(&config, text).expect("a config file");
        let mut command = std::process::Command::new(testkit::STOA);
        command.args(["serve", "--config"]).arg(&config).env_remove("GOPROXY").env("STOA_LOG", "warn");
        Server::start_with(&mut command)
    }
}

fn name(number: usize) -> String {
    format!("example.com/organisation{:03}/module{number:06}", number / 97)
}

/// Returns the rate in events per second.
fn first_synchronisation(root: &Path, versions: usize) -> f64 {
    let root = root.join("first");
    let (old, new) = (Deployment::new("old"), Deployment::new("new"));
    let store = root.join("old/store");
    let began = Instant::now();
    // A first start creates the store.
    assert!(old.start(&root, &new, "off").stop().success());
    for number in 0..versions / A_MODULE {
        for version in 0..A_MODULE {
            let module = Module::new(&format!("{}@v1.{}.0", name(number), 100 + version), 1);
            let folder = module.put_unsealed(&store);
            let examined =
                stoa_gomod::zip::examine(module.zip.as_slice(), &module.version).expect("a valid zip");
            fs::write(folder.join("ziphash"), examined.h1.as_str()).expect("a seal");
        }
    }
    println!("made {versions} versions in {:.0?}", began.elapsed());
    let old_server = old.start(&root, &new, "off");
    let modules = versions / A_MODULE;
    assert!(modules > 0, "at least {A_MODULE} versions are needed");
    testkit::until("the index is built", || old_server.get("/catalog?limit=1").0 == 200);
    let began = Instant::now();
    let new_server = new.start(&root, &old, "off");
    // The last module is the last one in the log. Requests for the others meanwhile would take time from the server.
    while !is_listed(&new_server, modules - 1) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let elapsed = began.elapsed().as_secs_f64();
    for number in 0..modules {
        assert!(is_listed(&new_server, number), "{} is not listed completely", name(number));
    }
    let rate = (modules * A_MODULE) as f64 / elapsed;
    println!("first synchronisation      {rate:>10.0} events/s, {elapsed:.1} s (aim: at least {RATE})");
    let expected = FOLLOWING.min(modules * A_MODULE);
    testkit::until("the content follows", || {
        (0..modules).map(|number| stored(&root.join("new/store"), number)).sum::<usize>() >= expected
    });
    println!("content of {expected} versions  {:>10.1} s after the start", began.elapsed().as_secs_f64());
    assert!(old_server.stop().success() && new_server.stop().success());
    rate
}

/// Returns whether a server lists all versions of a module.
fn is_listed(server: &Server, number: usize) -> bool {
    let (status, body) = server.get(&format!("/{}/@v/list", name(number)));
    status == 200 && body.iter().filter(|byte| **byte == b'\n').count() == A_MODULE
}

/// Returns the number of stored versions of a module.
fn stored(store: &Path, number: usize) -> usize {
    fs::read_dir(store.join("modules").join(name(number)).join("@v")).map_or(0, Iterator::count)
}

/// Returns the median.
fn lag(root: &Path) -> Duration {
    let root = root.join("lag");
    let upstream = Upstream::start();
    let (here, there) = (Deployment::new("here"), Deployment::new("there"));
    let here_server = here.start(&root, &there, upstream.url());
    let there_server = there.start(&root, &here, "off");
    let mut lags = Vec::new();
    for number in 0..LAGS {
        let module = upstream.offer(&format!("example.com/lag@v1.0.{number}"), 1000);
        let status = here_server.get(&module.path("zip")).0;
        assert_eq!(status, 200, "{number}");
        let began = Instant::now();
        let version = module.version.version().to_string();
        while !String::from_utf8_lossy(&there_server.get("/example.com/lag/@v/list").1)
            .lines()
            .any(|line| line == version)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        lags.push(began.elapsed());
    }
    lags.sort_unstable();
    let median = lags.get(lags.len() / 2).copied().unwrap_or_default();
    let slowest = lags.last().copied().unwrap_or_default();
    println!(
        "lag of a notification      median {median:.1?}, longest {slowest:.1?} (aim: median below {LAG:?})"
    );
    median
}
