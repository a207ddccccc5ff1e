//! Two deployments: the first synchronisation of a store with many versions, and the lag of notifications.
//!
//! The first part measures the rate at which a new deployment learns of all versions of a peer, and looks whether it lists
//! them at once. The second publishes versions one after the other, and measures the time until the other deployment
//! lists each. `--versions N` sets the number of versions of the first part.

#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench makes its own files, and one that cannot run says why and ends"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
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

fn main() {
    testkit::set(testkit::built!());
    let mut arguments = std::env::args();
    let versions = match arguments.find(|argument| argument == "--versions").and_then(|_| arguments.next()) {
        Some(text) => text.parse().expect("a number of versions"),
        None => 100_000,
    };
    let dir = tempfile::tempdir().expect("a temporary folder");
    first_synchronisation(dir.path(), versions);
    lag(dir.path());
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

fn first_synchronisation(root: &Path, versions: usize) {
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
    let last = format!("/{}/@v/list", name(versions / A_MODULE - 1));
    testkit::until("the index is built", || old_server.get("/catalog?limit=1").0 == 200);
    let began = Instant::now();
    let new_server = new.start(&root, &old, "off");
    let learned = || {
        let (status, body) = new_server.get(&last);
        status == 200 && body.iter().filter(|byte| **byte == b'\n').count() == A_MODULE
    };
    while !learned() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let elapsed = began.elapsed().as_secs_f64();
    let rate = versions as f64 / elapsed;
    println!("first synchronisation      {rate:>10.0} events/s, {elapsed:.1} s (aim: at least {RATE})");
    assert!(old_server.stop().success() && new_server.stop().success());
}

fn lag(root: &Path) {
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
}
