//! Serving against nginx with the same files, in alternating rounds of one run: small files at random, and
//! one large zip. nginx is measured with sendfile on and off, and compared with the better of the two.
//!
//! Needs nginx and wrk; says so and ends well where they are not there. `--brief` takes fewer, shorter rounds.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench makes its own files, and one that cannot run says why and ends"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const SMALL_FILES: usize = 10_000;
const ZIP_BYTES: usize = 50 << 20;

fn main() {
    let brief = std::env::args().any(|argument| argument == "--brief");
    let (rounds, seconds) = if brief { (1, 2) } else { (5, 4) };
    for tool in ["nginx", "wrk"] {
        if Command::new(tool).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            println!("{tool} is not here: nothing is measured");
            return;
        }
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let store = dir.path().join("store");
    fill(&store);

    let stoa = Stoa::start(&store);
    let with = Nginx::start(dir.path(), &store, "on");
    let without = Nginx::start(dir.path(), &store, "off");
    // The first request seals the zip.
    let zip = "example.com/large/@v/v1.0.0";
    assert!(
        Command::new("curl")
            .args(["-sf", "-o", "/dev/null", &format!("{}/{zip}.zip", stoa.url)])
            .status()
            .expect("curl")
            .success()
    );

    println!("small files, {SMALL_FILES} at random, requests a second");
    let small = |url: &str, ending: &str| {
        let script = dir.path().join("random.lua");
        let text = format!(
            "request = function() return wrk.format('GET', '/example.com/m' .. math.random(0, {}) .. '/@v/v1.0.0{ending}') end",
            SMALL_FILES - 1
        );
        fs::write(&script, text).expect("a script");
        wrk(url, seconds, 32, Some(&script), "Requests/sec:")
    };
    compare(
        rounds,
        &[
            ("stoa", &|| small(&stoa.url, ".info")),
            ("nginx, sendfile on", &|| small(&with.url, "/info")),
            ("nginx, sendfile off", &|| small(&without.url, "/info")),
        ],
    );

    println!("one zip of 50 MB, bytes a second");
    let large =
        |url: &str, ending: &str| wrk(&format!("{url}/{zip}{ending}"), seconds, 4, None, "Transfer/sec:");
    compare(
        rounds,
        &[
            ("stoa", &|| large(&stoa.url, ".zip")),
            ("nginx, sendfile on", &|| large(&with.url, "/zip")),
            ("nginx, sendfile off", &|| large(&without.url, "/zip")),
        ],
    );
    println!("resident memory of stoa: {} MiB", stoa.resident_mib());
}

fn compare(rounds: usize, servers: &[(&str, &dyn Fn() -> f64)]) {
    let mut rates = vec![Vec::new(); servers.len()];
    for _ in 0..rounds {
        for ((_, measure), rates) in servers.iter().zip(&mut rates) {
            rates.push(measure());
        }
    }
    let medians: Vec<f64> = rates
        .into_iter()
        .map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        })
        .collect();
    let best_peer = medians[1..].iter().copied().fold(0.0, f64::max);
    for ((name, _), rate) in servers.iter().zip(medians) {
        println!("    {name:<20} {rate:>16.0}   {:>5.2} of the better nginx", rate / best_peer);
    }
}

/// Fills a store by hand: the bench measures reading.
fn fill(store: &Path) {
    let made = Command::new(env!("CARGO_BIN_EXE_stoa-migrate")).args(["-q", "--store"]).arg(store).status();
    assert!(made.expect("stoa-migrate runs").success());
    for n in 0..SMALL_FILES {
        put(store, &format!("example.com/m{n}"), b"not asked for");
    }
    let version = stoa_gomod::ModuleVersion::parse("example.com/large@v1.0.0").expect("a valid pair");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(ZIP_BYTES / 8)
    .flatten()
    .collect();
    let files = [("go.mod", b"module example.com/large\n".as_slice()), ("noise", noise.as_slice())];
    put(store, "example.com/large", &stoa_gomod::zip::create(&version, files).expect("a zip"));
}

fn put(store: &Path, module: &str, zip: &[u8]) {
    let folder = store.join("modules").join(module).join("@v/v1.0.0");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("mod"), format!("module {module}\n")).expect("a file");
    fs::write(folder.join("zip"), zip).expect("a file");
    let origin = r#"{"VCS":"git","URL":"https://example.com/m","Ref":"refs/tags/v1.0.0"}"#;
    let info = format!(r#"{{"Version":"v1.0.0","Time":"2024-01-02T03:04:05Z","Origin":{origin}}}"#);
    fs::write(folder.join("info"), info).expect("a file");
}

fn wrk(url: &str, seconds: u32, connections: u32, script: Option<&Path>, figure: &str) -> f64 {
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s")]);
    if let Some(script) = script {
        command.arg("-s").arg(script);
    }
    let output = command.arg(url).output().expect("wrk runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{url} is not served:\n{text}");
    let line = text
        .lines()
        .find(|line| line.starts_with(figure))
        .unwrap_or_else(|| panic!("no {figure} in:\n{text}"));
    let value = line.rsplit(' ').next().unwrap_or_default();
    let unit = [("GB", 1e9), ("MB", 1e6), ("KB", 1e3), ("B", 1.0)]
        .into_iter()
        .find(|(unit, _)| value.ends_with(unit));
    let (number, factor) = unit.map_or((value, 1.0), |(unit, factor)| (value.trim_end_matches(unit), factor));
    number.parse::<f64>().expect("a number") * factor
}

struct Stoa {
    child: Child,
    url: String,
}

impl Stoa {
    fn start(store: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_stoa"))
            .args(["serve", "--listen", "127.0.0.1:0", "--upstream", "off", "-q", "--store"])
            .arg(store)
            .stdout(Stdio::piped())
            .spawn()
            .expect("stoa runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let url = line.trim().strip_prefix("listening on ").expect("it listens").to_owned();
        Self { child, url }
    }

    fn resident_mib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
    }
}

impl Drop for Stoa {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Nginx {
    child: Child,
    url: String,
}

impl Nginx {
    fn start(dir: &Path, store: &Path, sendfile: &str) -> Self {
        let port = testkit::ports::free().port();
        let own = dir.join(format!("nginx-{sendfile}"));
        fs::create_dir(&own).expect("a folder");
        let text = format!(
            "daemon off; worker_processes auto; pid {own}/pid; error_log {own}/error.log; {user}
             events {{ worker_connections 1024; }}
             http {{ access_log off; sendfile {sendfile}; tcp_nopush on; keepalive_requests 1000000; default_type application/json;
                client_body_temp_path {own}/a; proxy_temp_path {own}/b; fastcgi_temp_path {own}/c; uwsgi_temp_path {own}/d; scgi_temp_path {own}/e;
                server {{ listen 127.0.0.1:{port}; root {store}/modules; }} }}",
            own = own.display(),
            store = store.display(),
            user = if rustix::process::geteuid().is_root() { "user root;" } else { "" },
        );
        fs::write(own.join("nginx.conf"), text).expect("a file");
        let mut command = Command::new("nginx");
        command.arg("-c").arg(own.join("nginx.conf")).stderr(Stdio::null());
        let server =
            Self { child: command.spawn().expect("nginx runs"), url: format!("http://127.0.0.1:{port}") };
        let listens = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(listens, "nginx does not listen; see {}", own.display());
        server
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers when asked to, not when killed.
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
