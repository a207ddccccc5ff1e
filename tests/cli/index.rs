//! The index of a store and what is answered from it, with the real programs: whatever happened to the index, or to
//! the store behind its back, its rows are the tree's once a server has looked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use testkit::{Case, cases};

use serde_json::Value;
use stoa_gomod::{ModulePath, Version};
use testkit::programs::Programs;
use testkit::server;
use testkit::upstream::Upstream;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = testkit::slow(cases![rows_are_the_trees_whatever_happened]);
    cases.extend(cases![
        pages_of_the_catalog_add_up,
        the_index_answers_valid_and_invalid_queries,
        the_migrator_builds_it_when_asked,
        only_one_server_keeps_the_index_if_configured,
    ]);
    cases
}

/// Module, version, the time of its info, bytes.
type Rows = BTreeSet<(String, String, i64, u64)>;

/// How many versions the store has: more in the nightly form.
fn versions() -> usize {
    if testkit::sweep::tries_all() { 20_000 } else { 5_000 }
}
const A_MODULE: usize = 100;

/// Puts many small versions into a store. The index does not look into them.
fn put_many(root: &Path, versions: usize) {
    for n in 0..versions {
        put(root, &format!("example.com/!org/m{}", n / A_MODULE), &format!("v1.{}.0", n % A_MODULE));
    }
}

fn put(root: &Path, escaped: &str, version: &str) {
    let folder = root.join("modules").join(escaped).join("@v").join(version);
    fs::create_dir_all(&folder).unwrap();
    for name in ["mod", "zip", "info"] {
        fs::write(folder.join(name), format!("{name} of {version}")).unwrap();
    }
}

/// Returns the rows that the index should have.
fn tree(root: &Path) -> Rows {
    let modules = root.join("modules");
    let mut rows = Rows::new();
    let mut open = vec![modules.clone()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if !path.ends_with("@v") {
                open.push(path);
                continue;
            }
            let module = folder.strip_prefix(&modules).unwrap().to_str().unwrap();
            let module = ModulePath::unescape(module).unwrap();
            for version in fs::read_dir(&path).unwrap() {
                let version = version.unwrap();
                let Ok(info) = fs::metadata(version.path().join("info")) else { continue };
                let length = |name| fs::metadata(version.path().join(name)).unwrap().len();
                let bytes = info.len() + length("mod") + length("zip");
                let time = info.mtime() * 1_000_000_000 + info.mtime_nsec();
                let version = Version::unescape(version.file_name().to_str().unwrap()).unwrap();
                rows.insert((module.to_string(), version.to_string(), time, bytes));
            }
        }
    }
    rows
}

/// The database that counts.
fn database(root: &Path) -> PathBuf {
    let numbers = fs::read_dir(root.join("index")).unwrap();
    let newest =
        numbers.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<u32>().unwrap()).max();
    root.join("index").join(newest.unwrap().to_string()).join("index.sqlite")
}

/// Returns the rows of the index.
fn rows(root: &Path) -> Rows {
    let connection = rusqlite::Connection::open(database(root)).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    let mut statement = connection.prepare("SELECT module, version, modified, bytes FROM versions").unwrap();
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, i64>(3)?.cast_unsigned()))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

fn assert_equal(root: &Path, what: &str) {
    let (tree, rows) = (tree(root), rows(root));
    let missing: Vec<_> = tree.difference(&rows).take(3).collect();
    let more: Vec<_> = rows.difference(&tree).take(3).collect();
    assert!(
        tree == rows,
        "{what}: {} of {} rows; missing {missing:?}, too many {more:?}",
        rows.len(),
        tree.len()
    );
}

/// A server whose log is read.
struct Logged {
    child: Child,
    url: String,
    lines: Receiver<String>,
}

impl Logged {
    fn start(root: &Path, options: &[&str]) -> Self {
        let mut command = server::command(root);
        command.args(options).env("STOA_LOG", "info,stoa::upkeep=debug");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let url = server::listening(&mut child)
            .unwrap_or_else(|| panic!("it does not listen: {:?}", lines.iter().collect::<Vec<_>>()));
        Self { child, url, lines }
    }

    /// Starts one that fetches nothing, and waits until it has looked.
    fn looked(root: &Path) -> Self {
        let server = Self::start(root, &["--upstream", "off"]);
        server.wait_for("the index is current");
        server
    }

    fn wait_for(&self, text: &str) -> String {
        let mut heard = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_secs(120)) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => heard.push(line),
                Err(error) => panic!("{text}: {error}: {heard:#?}"),
            }
        }
    }

    /// Waits until a look that began later than now has ended.
    fn wait_for_look(&self) {
        while self.lines.try_recv().is_ok() {}
        // The first may have begun before.
        self.wait_for("the index is current");
        self.wait_for("the index is current");
    }

    fn client(&self) -> Client {
        Client(BufReader::new(TcpStream::connect(self.url.strip_prefix("http://").unwrap()).unwrap()))
    }

    fn stop(mut self) -> ExitStatus {
        server::terminate(&self.child);
        self.child.wait().unwrap()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection that is kept.
struct Client(BufReader<TcpStream>);

impl Client {
    fn ask(&mut self, method: &str, target: &str) -> (u16, BTreeMap<String, String>, Vec<u8>) {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: stoa\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = if method == "HEAD" { 0 } else { headers["content-length"].parse().unwrap() };
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (status, headers, body)
    }

    fn get(&mut self, target: &str) -> Vec<u8> {
        let (status, _, body) = self.ask("GET", target);
        assert_eq!(status, 200, "{target}: {}", String::from_utf8_lossy(&body));
        body
    }

    /// Follows the catalog to its end.
    fn catalog(&mut self, size: usize) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let body = self.get(&format!("/catalog?pagesize={size}&token={token}"));
            let page: Value = serde_json::from_slice(&body).unwrap();
            let modules = page["modules"].as_array().unwrap();
            assert!(modules.len() <= size && (!modules.is_empty() || token.is_empty()), "a page too many");
            for entry in modules {
                let text = |key: &str| entry[key].as_str().unwrap().to_owned();
                found.push((text("module"), text("version")));
            }
            match page.get("next") {
                Some(next) => token = next.as_str().unwrap().replace('|', "%7C"),
                None => return found,
            }
        }
    }

    /// Follows the feed as its readers do: from the last instant on, dropping what was there already.
    fn feed(&mut self, limit: usize) -> Vec<(String, String, String)> {
        let mut found: Vec<(String, String, String)> = Vec::new();
        loop {
            let since = found.last().map_or(String::new(), |last| last.2.replace('+', "%2B"));
            let body = self.get(&format!("/index?limit={limit}&since={since}"));
            let before = found.len();
            for line in String::from_utf8(body).unwrap().lines() {
                let entry: Value = serde_json::from_str(line).unwrap();
                let text = |key: &str| entry[key].as_str().unwrap().to_owned();
                let entry = (text("Path"), text("Version"), text("Timestamp"));
                if found.last() != Some(&entry) {
                    found.push(entry);
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }
}

fn pairs(rows: &Rows) -> Vec<(String, String)> {
    rows.iter().map(|(module, version, ..)| (module.clone(), version.clone())).collect()
}

fn rows_are_the_trees_whatever_happened() {
    let programs = Programs::current();
    let root = programs.make_store();
    put_many(&root, versions());
    let server = Logged::looked(&root);
    assert_equal(&root, "at first");
    assert!(server.stop().success());
    let kept = programs.folder().join("kept.sqlite");
    fs::copy(database(&root), &kept).unwrap();

    let upstream = Upstream::start();
    let offered: Vec<String> = (0..120).map(|n| format!("example.com/filled{}@v1.{n}.0", n % 7)).collect();
    for pair in &offered {
        upstream.offer(pair, 3000);
    }
    let zip = |pair: &str| {
        let (module, version) = pair.split_once('@').unwrap();
        format!("/{module}/@v/{version}.zip")
    };

    // Killed during fills, each time after another number of answers.
    let mut rest = offered[..60].chunks(12);
    for answers in [1, 3, 5, 8, 11] {
        let mut server = Logged::start(&root, &["--upstream", upstream.url(), "--index-interval", "1"]);
        let (sender, answered) = channel();
        for pair in rest.next().unwrap() {
            let (url, target, sender) = (server.url.clone(), zip(pair), sender.clone());
            std::thread::spawn(move || sender.send(server::get(&url, &target).is_ok()));
        }
        drop(sender);
        for _ in 0..answers {
            answered.recv().unwrap();
        }
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        drop(server);
        let server = Logged::looked(&root);
        assert_equal(&root, &format!("killed after {answers} answers"));
        assert!(server.stop().success());
    }

    // Two servers fill one store, some versions both.
    {
        let options = ["--upstream", upstream.url(), "--index-interval", "1"];
        let servers = [Logged::start(&root, &options), Logged::start(&root, &options)];
        std::thread::scope(|scope| {
            for (n, pair) in offered[60..].iter().enumerate() {
                for (which, server) in servers.iter().enumerate() {
                    if n % 3 == 2 || n % 3 == which {
                        let (url, target) = (&server.url, zip(pair));
                        scope
                            .spawn(move || assert_eq!(server::get(url, &target).unwrap().0, 200, "{target}"));
                    }
                }
            }
        });
        for server in &servers {
            server.wait_for_look();
        }
        assert_equal(&root, "two servers filled");

        // Copied in and removed by hand while both run.
        put(&root, "example.com/by!hand", "v1.0.0");
        put(&root, "example.com/!org/m7", "v1.999.0");
        fs::remove_dir_all(root.join("modules/example.com/!org/m8")).unwrap();
        fs::remove_dir_all(root.join("modules/example.com/!org/m9/@v/v1.3.0")).unwrap();
        for server in &servers {
            server.wait_for_look();
        }
        assert_equal(&root, "changed by hand");

        // Deleted under their hands: both go on with the one that is built.
        fs::remove_dir_all(root.join("index")).unwrap();
        for server in &servers {
            server.wait_for_look();
        }
        assert_equal(&root, "deleted while in use");
        let mut client = servers[0].client();
        assert_eq!(client.catalog(1000), pairs(&tree(&root)));
    }

    type Harm<'a> = (&'a str, &'a dyn Fn(&Path));
    let harms: [Harm<'_>; 5] = [
        ("deleted", &|_| fs::remove_dir_all(root.join("index")).unwrap()),
        ("cut", &|file| {
            let half = fs::metadata(file).unwrap().len() / 2;
            fs::OpenOptions::new().write(true).open(file).unwrap().set_len(half).unwrap();
        }),
        ("replaced by garbage", &|file| fs::write(file, [0xa5; 70_000]).unwrap()),
        ("old", &|file| assert!(fs::copy(&kept, file).unwrap() > 0)),
        ("with garbage in the middle", &|file| {
            let mut bytes = fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle..middle + 5000].fill(0xa5);
            fs::write(file, bytes).unwrap();
        }),
    ];
    for (harm, inflict) in harms {
        inflict(&database(&root));
        let server = Logged::looked(&root);
        assert_equal(&root, harm);
        assert!(server.stop().success(), "{harm}");
    }
}

fn pages_of_the_catalog_add_up() {
    let programs = Programs::current();
    let root = programs.make_store();
    put_many(&root, 2500);
    for escaped in ["example.com/a-b", "example.com/a", "example.com/a/v2.0.0/c", "example.com/!z"] {
        put(&root, escaped, "v1.0.0");
        put(&root, escaped, "v1.0.0-!r!c1");
    }
    let server = Logged::looked(&root);
    let all = pairs(&tree(&root));
    assert_eq!(all.len(), 2508);
    let mut client = server.client();
    for size in [1, 2, 3, 1000] {
        let found = client.catalog(size);
        assert!(found == all, "pages of {size}: {} of {}", found.len(), all.len());
    }
    // The feed, too: every version once, oldest first, each at an instant of its own.
    let feed = client.feed(99);
    assert!(
        feed.is_sorted_by(
            |a, b| a.2.trim_end_matches('Z').len() != b.2.trim_end_matches('Z').len() || a.2 < b.2
        )
    );
    let mut found: Vec<_> = feed.into_iter().map(|(module, version, _)| (module, version)).collect();
    found.sort();
    assert_eq!(found.len(), all.len());
    assert!(found == all);
    assert!(server.stop().success());
}

fn the_index_answers_valid_and_invalid_queries() {
    let programs = Programs::current();
    let root = programs.make_store();
    let instant = std::time::UNIX_EPOCH + Duration::from_secs(1_704_164_645);
    for n in 0..5u32 {
        put(&root, "example.com/!cap", &format!("v1.{n}.0"));
        let info = root.join(format!("modules/example.com/!cap/@v/v1.{n}.0/info"));
        fs::File::open(info).unwrap().set_modified(instant + Duration::from_secs((n / 2).into())).unwrap();
    }
    // Not waited for: the first question waits for the index.
    let server = Logged::start(&root, &["--upstream", "off", "--base-path", "/go"]);
    let mut client = server.client();
    let page = |version: u32, next: &str| {
        format!("{{\"modules\":[{{\"module\":\"example.com/Cap\",\"version\":\"v1.{version}.0\"}}]{next}}}\n")
    };
    let next = ",\"next\":\"example.com/Cap|v1.3.0\"";
    for base in ["", "/go"] {
        let target = format!("{base}/catalog?token=example.com/Cap%7Cv1.2.0&pagesize=1");
        let (status, headers, body) = client.ask("GET", &target);
        assert_eq!((status, headers["content-type"].as_str()), (200, "application/json; charset=utf-8"));
        assert_eq!(String::from_utf8(body).unwrap(), page(3, next));
        let (status, headers, _) = client.ask("HEAD", &target);
        assert_eq!(
            (status, headers["content-length"].as_str()),
            (200, page(3, next).len().to_string().as_str())
        );
        let last = client.get(&format!("{base}/catalog?token=example.com/Cap|v1.3.0&pagesize=1"));
        assert_eq!(String::from_utf8(last).unwrap(), page(4, ""), "a full page with nothing behind it");
        assert_eq!(client.ask("POST", &target).0, 405);
        let (_, headers, body) =
            client.ask("GET", &format!("{base}/index?limit=2&since=2024-01-02T03:04:06Z"));
        assert_eq!(headers["content-type"], "application/json; charset=utf-8");
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "{\"Path\":\"example.com/Cap\",\"Version\":\"v1.2.0\",\"Timestamp\":\"2024-01-02T03:04:06Z\"}\n\
             {\"Path\":\"example.com/Cap\",\"Version\":\"v1.3.0\",\"Timestamp\":\"2024-01-02T03:04:06.000000001Z\"}\n"
        );
    }
    assert_eq!(client.get("/index?since=2030-01-01T00:00:00Z"), b"");
    for bad in
        ["/catalog?pagesize=0", "/catalog?pagesize=x", "/catalog?token=x", "/index?since=x", "/index?limit=0"]
    {
        let (status, _, body) = client.ask("GET", bad);
        assert_eq!(status, 400, "{bad}");
        assert!(body.starts_with(b"bad request: "), "{bad}");
    }
    assert!(server.stop().success());
    // Where nothing may be written: from the index as it is, and clearly where there is none.
    let reader = Logged::start(&root, &["--read-only"]);
    assert_eq!(reader.client().catalog(2).len(), 5);
    fs::remove_dir_all(root.join("index")).unwrap();
    let (status, headers, _) = reader.client().ask("GET", "/catalog");
    assert_eq!((status, headers["retry-after"].as_str()), (503, "5"));
    reader.wait_for("stoa-migrate --regenerate");
    assert!(reader.stop().success());
}

fn the_migrator_builds_it_when_asked() {
    let programs = Programs::current();
    let root = programs.make_store();
    for n in 0..30 {
        put(&root, &format!("example.com/m{}", n % 3), &format!("v1.{n}.0"));
    }
    assert_eq!(
        fs::read_dir(root.join("index")).unwrap().count(),
        0,
        "a new store is left to the first server"
    );
    let regenerate = || {
        let ended = programs.migrate(["--regenerate"]);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(!ended.err.contains("not built"), "{ended:?}");
        assert_equal(&root, "regenerated");
        assert_eq!(fs::read_dir(root.join("index")).unwrap().count(), 1, "older ones are removed");
        assert_eq!(fs::read_dir(root.join("staging")).unwrap().count(), 0);
        database(&root)
    };
    let first = regenerate();
    fs::write(&first, "garbage").unwrap();
    let second = regenerate();
    assert_ne!(first, second, "one that may be in use is never replaced");
    // Read-only, and never served before.
    let reader = Logged::start(&root, &["--read-only"]);
    assert_eq!(reader.client().catalog(7).len(), 30);
    assert!(reader.stop().success());
    // The way back takes it away, the way up leaves it to the server.
    for target in ["v1", "v2"] {
        let ended = programs.migrate(["--to", target]);
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    assert!(!root.join("index/2").exists());
    let server = Logged::looked(&root);
    assert_equal(&root, "up again");
    assert!(server.stop().success());
}

fn only_one_server_keeps_the_index_if_configured() {
    let programs = Programs::current();
    let root = programs.make_store();
    put(&root, "example.com/m", "v1.0.0");
    let server = Logged::start(&root, &["--upstream", "off", "--index-interval", "0"]);
    assert_eq!(server.client().ask("GET", "/catalog").0, 503);
    let keeper = Logged::looked(&root);
    assert_eq!(server.client().catalog(5).len(), 1);
    assert!(keeper.stop().success() && server.stop().success());
}
