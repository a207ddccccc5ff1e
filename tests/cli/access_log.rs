//! The log of requests of the real server: its forms, its file, and that it adds up with the metrics.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use testkit::go::Go;
use testkit::metrics::Scrape;
use testkit::server::{self, Server};
use testkit::upstream::Upstream;
use testkit::{Case, cases};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        adds_up_with_the_metrics,
        the_file_is_opened_again_after_a_rename,
        lines_go_to_stdout_after_the_first,
        lines_that_do_not_fit_are_counted,
        a_file_that_cannot_be_opened_stops_the_start,
    ]
}

fn start(store: &Path, upstream: &Upstream, log: &Path, format: &str) -> Server {
    let mut command = server::command(store);
    command.args(["--upstream", upstream.url(), "--gosumdb", "off"]);
    command.arg("--log-access").arg(log).args(["--log-access-format", format]);
    Server::start_with(&mut command)
}

fn lines(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect()
}

/// `go mod download` of two modules, once from the upstream and once from the store.
fn adds_up_with_the_metrics() {
    let dir = testkit::tempdir();
    let (upstream, log) = (Upstream::start(), dir.path().join("access.log"));
    let pairs = ["example.com/one@v1.0.0", "example.com/Two@v1.2.3"];
    for pair in pairs {
        upstream.offer(pair, 50_000);
    }
    let server = start(&dir.path().join("store"), &upstream, &log, "json");
    let go = Go::new(dir.path(), &server.url).unverified();
    for cache in ["first", "second"] {
        go.run(dir.path(), cache, &[&["mod", "download"], &pairs[..]].concat());
    }
    assert_eq!(server.get("/example.com/one/@v/list").0, 200);
    assert_eq!(server.get("/nothing").0, 404);
    let mut scrape = Scrape::default();
    let is_counted = |scrape: &Scrape, logged: &[Value]| {
        let counted = scrape.sum("stoa_requests_total", &[]);
        // The scrape itself is counted and logged after its answer.
        logged.iter().any(|line| line["file"] == "other") && counted == logged.len() as f64
    };
    let mut logged = Vec::new();
    testkit::until("all requests are logged", || {
        logged = lines(&log);
        scrape = Scrape::of(&server.url);
        is_counted(&scrape, &logged)
    });
    let mut groups: BTreeMap<[String; 3], (f64, f64)> = BTreeMap::new();
    for line in &logged {
        let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
        let group = groups.entry([text("file"), line["status"].to_string(), text("cache")]).or_default();
        *group = (group.0 + 1.0, group.1 + line["bytes"].as_f64().unwrap());
    }
    for ([kind, status, cache], (count, _)) in &groups {
        let labels =
            [format!("kind=\"{kind}\""), format!("status=\"{status}\""), format!("cache=\"{cache}\"")];
        let labels: Vec<_> = labels.iter().map(String::as_str).collect();
        assert_eq!(scrape.sum("stoa_requests_total", &labels), *count, "{labels:?}");
    }
    for kind in ["info", "mod", "zip", "list", "other"] {
        let bytes: f64 = groups.iter().filter(|([of, ..], _)| of == kind).map(|(_, (_, bytes))| bytes).sum();
        let label = format!("kind=\"{kind}\"");
        assert_eq!(scrape.sum("stoa_response_bytes_total", &[&label]), bytes, "{kind}");
    }
    let zips: Vec<_> = logged.iter().filter(|line| line["file"] == "zip").collect();
    assert_eq!(zips.len(), 4, "{logged:#?}");
    for (module, version) in [("example.com/one", "v1.0.0"), ("example.com/Two", "v1.2.3")] {
        let of: Vec<_> = zips.iter().filter(|line| line["module"] == module).collect();
        assert!(of.iter().all(|line| line["version"] == version && line["method"] == "GET"), "{of:?}");
        assert!(of.iter().any(|line| line["cache"] == "hit"), "{of:?}");
        assert!(of.iter().any(|line| line["cache"] != "hit"), "{of:?}");
        assert!(of[0]["agent"].as_str().unwrap().starts_with("Go-http-client/"));
        assert_eq!((of[0]["client"].as_str(), &of[0]["user"]), (Some("127.0.0.1"), &Value::Null));
        assert!(of[0]["seconds"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777 & !0o640, 0);
}

fn the_file_is_opened_again_after_a_rename() {
    let dir = testkit::tempdir();
    let (upstream, log) = (Upstream::start(), dir.path().join("access.log"));
    let old = dir.path().join("access.log.1");
    let server = start(&dir.path().join("store"), &upstream, &log, "text");
    assert_eq!(server.get("/healthz").0, 200);
    testkit::until("a line is written", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains(" health 200 "))
    });
    fs::rename(&log, &old).unwrap();
    testkit::until("the file is there again", || {
        assert_eq!(server.get("/version").0, 200);
        fs::read_to_string(&log).is_ok_and(|text| text.contains("/version"))
    });
    // As `logrotate` does with `copytruncate`.
    fs::File::options().write(true).open(&log).unwrap().set_len(0).unwrap();
    assert_eq!(server.get("/readyz").0, 200);
    testkit::until("the next line is at the begin", || {
        fs::read_to_string(&log).is_ok_and(|text| text.starts_with("20") && text.contains("/readyz"))
    });
    let text = fs::read_to_string(&log).unwrap();
    assert!(!text.contains('\0'), "there is a hole in the file");
}

fn lines_go_to_stdout_after_the_first() {
    let dir = testkit::tempdir();
    let mut command = server::command(&dir.path().join("store"));
    command.args(["--upstream", "off", "--log-access", "stdout"]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();
    assert_eq!(server::get(&url, "/healthz").unwrap().0, 200);
    line.clear();
    output.read_line(&mut line).unwrap();
    let fields: Vec<_> = line.split(' ').collect();
    assert_eq!(&fields[1..8], ["127.0.0.1", "-", "GET", "-", "-", "health", "200"], "{line}");
    assert!(line.trim_end().ends_with("/healthz"), "{line}");
    server::terminate(&child);
    assert!(child.wait().unwrap().success());
}

/// The file is a device on which each write fails.
fn lines_that_do_not_fit_are_counted() {
    let dir = testkit::tempdir();
    let upstream = Upstream::start();
    let server = start(&dir.path().join("store"), &upstream, Path::new("/dev/full"), "text");
    assert_eq!(Scrape::of(&server.url).sum("stoa_access_log_dropped_total", &[]), 0.0);
    assert_eq!(server.get("/healthz").0, 200);
    let mut asked = 2.0;
    testkit::until("the lost lines are counted", || {
        let dropped = Scrape::of(&server.url).sum("stoa_access_log_dropped_total", &[]);
        asked += 1.0;
        assert!(dropped < asked, "{dropped} of {asked}");
        dropped >= 2.0
    });
}

fn a_file_that_cannot_be_opened_stops_the_start() {
    let dir = testkit::tempdir();
    let mut command = server::command(&dir.path().join("store"));
    let log = dir.path().join("missing/access.log");
    let output = command.args(["--upstream", "off", "--log-access"]).arg(&log).output().unwrap();
    let text = testkit::transcript(&output);
    assert!(!output.status.success() && text.contains("cannot open the access log"), "{text}");
    assert!(text.contains(log.to_str().unwrap()), "{text}");
}
