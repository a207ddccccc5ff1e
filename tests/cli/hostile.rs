//! An upstream that lies, breaks off, drips, floods or is out of order, and a real proxy in front of it.
//!
//! Whatever it does, a client gets neither a clean end of a wrong body nor the whole of one, the store is as it was,
//! the log names the reason, and nothing is remembered of it: when the upstream has become honest, the same request
//! succeeds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use testkit::{Case, cases, trial};

use testkit::Module;
use testkit::client::{self, BROKEN_OFF, Reply};
use testkit::server::{self, Server};
use testkit::tree;
use testkit::upstream::{Script, Upstream, announced, head};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cases![
        zips_that_break_off,
        zips_that_are_others,
        zips_that_swell,
        small_files_that_are_others,
        an_empty_list_is_one,
        redirects_without_an_end,
        what_changes_upstream_does_not_change_here,
    ];
    // Most of the time passes between retries.
    for file in FILES {
        let name = format!("statuses_that_are_no_answer: {file}");
        cases.push(trial(&name, None, move || statuses_that_are_no_answer(file)));
    }
    cases
}

const FILES: [&str; 5] = ["@v/v1.0.0.info", "@v/v1.0.0.mod", "@v/v1.0.0.zip", "@v/list", "@latest"];

/// Offers a version honestly, its list and the latest version included.
fn offer(upstream: &Upstream, module: &Module) {
    let list = format!("{}\n", module.version.version()).into_bytes();
    let base = format!("/{}/@", module.version.path());
    upstream.serve(module);
    upstream.set(&format!("{base}v/list"), ok(&list));
    upstream.set(&format!("{base}latest"), ok(&module.info));
}

fn chunked(body: &[u8], is_ended: bool) -> Vec<u8> {
    let mut bytes = head(200, "Transfer-Encoding: chunked\r\n");
    for chunk in body.chunks(10_000) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    if is_ended {
        bytes.extend_from_slice(b"0\r\n\r\n");
    }
    bytes
}

fn ok(body: &[u8]) -> Script {
    Script::Body(body.to_vec())
}

/// Gets a path. An answer that ended before its head counts as one that began.
fn ask(url: &str, path: &str) -> Reply {
    let mut reply = client::get(client::address(url), path);
    if reply.status == BROKEN_OFF {
        reply.status = 200;
    }
    reply
}

/// Returns the beginning of a body, for messages.
fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body[..reply.body.len().min(1000)]).into_owned()
}

/// A proxy in front of the hostile upstream.
struct Scene {
    hostile: Upstream,
    server: Server,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let hostile = Upstream::start();
        let dir = testkit::tempdir();
        let mut command = server::command(&dir.path().join("store"));
        command
            .args(["--upstream", hostile.url(), "--upstream-idle-timeout", "1"])
            // An honest answer follows each wrong zip at once.
            .args(["--fill-wrong-pause", "0"])
            .stderr(File::create(dir.path().join("log")).unwrap());
        let server = Server::start_with(&mut command);
        let scene = Self { hostile, server, dir };
        // The index of the new store is built in staging.
        testkit::until("the index is built", || {
            scene.dir.path().join("store/index/1").is_dir() && scene.is_at_rest()
        });
        scene
    }

    fn ask(&self, path: &str) -> Reply {
        ask(&self.server.url, path)
    }

    /// Whether nothing is under way in the store.
    fn is_at_rest(&self) -> bool {
        let shape = self.stored();
        let staged = shape.keys().filter(|path| path.starts_with("staging") && path.components().count() > 2);
        staged.into_iter().all(|path| path.ends_with("lock"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Returns the content of the store without derived files.
    fn stored(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut shape = tree::shape(&self.dir.path().join("store"));
        // The file that claims are locks on stays.
        shape.remove(Path::new("staging/claims"));
        shape.retain(|path, _| !path.starts_with("staging/reserve"));
        shape.retain(|path, _| {
            ["modules", "staging", "quarantine", "records"].iter().any(|top| path.starts_with(top))
        });
        shape
    }

    /// Waits until the store is as it was: what a failed fill made is removed a moment after its end.
    fn is_as_before(&self, what: &str, before: &BTreeMap<PathBuf, Vec<u8>>) {
        let began = Instant::now();
        while self.stored() != *before {
            let now = self.stored();
            let of = |one: &BTreeMap<PathBuf, Vec<u8>>, other: &BTreeMap<PathBuf, Vec<u8>>| -> Vec<PathBuf> {
                one.iter()
                    .filter(|(path, bytes)| other.get(*path) != Some(*bytes))
                    .map(|(path, _)| path.clone())
                    .collect()
            };
            let (came, went) = (of(&now, before), of(before, &now));
            assert!(began.elapsed() < Duration::from_secs(20), "{what}: came {came:?}, went {went:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Has one file of a module answered by `reply`, asks for it, and looks at all that must hold then.
    fn suffers(&self, what: &str, module: &Module, file: &str, reply: Script, status: u16, words: &str) {
        let path = format!("/{}/{file}", module.version.path());
        let before = self.stored();
        offer(&self.hostile, module);
        let Some(Script::Body(honest)) = self.hostile.script(&path) else { unreachable!("offered") };
        self.hostile.set(&path, reply);

        let got = self.ask(&path);
        if got.status == 200 {
            // It had begun before the fault was seen; that may only be so for a zip.
            assert!(file.ends_with(".zip"), "{what}: {}", text(&got));
            assert!(!got.is_whole, "{what}: a clean end");
            assert!(got.body.len() + 60_000 < honest.len(), "{what}: {} bytes", got.body.len());
        } else {
            assert_eq!(got.status, status, "{what}: {}", text(&got));
            assert!(got.is_whole && text(&got).contains(words), "{what}: {}", text(&got));
        }
        self.is_as_before(what, &before);
        let log = self.log();
        let name = module.version.path().as_str();
        let is_logged = log.lines().any(|line| line.contains(name) && line.contains(words));
        // The go command asks for lists and the latest version of every prefix of a package path. A refusal is normal there.
        let is_normal = status == 403 && !file.starts_with("@v/v1");
        assert_eq!(is_logged, !is_normal, "{what}: lines of {name} with {words:?} in the log:\n{log}");

        offer(&self.hostile, module);
        let got = self.ask(&path);
        assert!(
            got.status == 200 && got.is_whole && got.body == honest,
            "{what}, then honest: {}",
            text(&got)
        );
        if file.starts_with("@v/v1") {
            let zip = self.ask(&format!("/{}/@v/v1.0.0.zip", module.version.path()));
            assert!(zip.is_whole && zip.body == module.zip, "{what}, its zip: {}", zip.text());
            // A client has a large zip before it is stored. The next comparison needs the store at rest.
            let info = PathBuf::from(format!("modules/{}/@v/v1.0.0/info", module.version.path()));
            testkit::until("the version is stored", || {
                self.stored().contains_key(&info) && self.is_at_rest()
            });
        }
    }
}

/// Small enough to be held back whole, and large enough to be begun.
const SIZES: [(&str, usize); 2] = [("small", 5_000), ("large", 400_000)];

fn suffers_zip(scene: &Scene, name: &str, status: u16, words: &str, reply: impl Fn(&Module) -> Script) {
    for (size, bytes) in SIZES {
        let module = Module::new(&format!("example.com/{name}/{size}@v1.0.0"), bytes);
        let reply = reply(&module);
        scene.suffers(&format!("{name}, {size}"), &module, "@v/v1.0.0.zip", reply, status, words);
    }
}

fn zips_that_break_off() {
    let scene = Scene::new();
    suffers_zip(&scene, "short", 502, "cannot download", |module| {
        Script::Raw(announced(module.zip.len() + 1000, &module.zip))
    });
    suffers_zip(&scene, "cut-chunks", 502, "cannot download", |module| {
        Script::Raw(chunked(&module.zip[..module.zip.len() - 500], false))
    });
    suffers_zip(&scene, "no-last-chunk", 502, "cannot download", |module| {
        Script::Raw(chunked(&module.zip, false))
    });
    suffers_zip(&scene, "reset", 502, "cannot download", |module| {
        Script::Reset(announced(module.zip.len(), &module.zip[..module.zip.len() / 2]))
    });
    suffers_zip(&scene, "stall", 504, "timed out", |module| {
        Script::Stall(announced(module.zip.len(), &module.zip[..module.zip.len() / 2]))
    });
    suffers_zip(&scene, "drip", 504, "timed out", |module| {
        Script::Drip(announced(module.zip.len(), &module.zip[..1000]))
    });
}

fn zips_that_are_others() {
    let scene = Scene::new();
    suffers_zip(&scene, "cut", 502, "invalid version", |module| ok(&module.zip[..module.zip.len() - 300]));
    suffers_zip(&scene, "longer", 502, "invalid version", |module| {
        Script::Raw(announced(module.zip.len() - 1000, &module.zip))
    });
    suffers_zip(&scene, "crc", 502, "invalid version", |module| {
        let mut zip = module.zip.clone();
        let middle = zip.len() / 2;
        zip[middle] ^= 0x55;
        ok(&zip)
    });
    suffers_zip(&scene, "hole", 502, "invalid version", |module| {
        let mut zip = module.zip.clone();
        let middle = zip.len() / 2;
        zip[middle..middle + 1000].fill(0);
        Script::Raw(chunked(&zip, true))
    });
    suffers_zip(&scene, "prefix", 502, "invalid version", |module| {
        ok(&Module::new("example.com/another@v1.0.0", module.zip.len()).zip)
    });
    suffers_zip(&scene, "version-in-zip", 502, "invalid version", |module| {
        ok(&Module::new(&format!("{}@v1.0.1", module.version.path()), module.zip.len()).zip)
    });
    suffers_zip(&scene, "page", 502, "it is not a zip", |_| ok(b"<html>Please log in</html>"));
    suffers_zip(&scene, "empty", 502, "it is not a zip", |_| ok(b""));
    suffers_zip(&scene, "huge", 502, "exceeds the limit", |module| {
        Script::Raw(announced(600 << 20, &module.zip))
    });
}

fn zips_that_swell() {
    let scene = Scene::new();
    for (name, size) in [("liar", 100_u32), ("bomb", 0xf000_0000)] {
        let module = Module::new(&format!("example.com/{name}@v1.0.0"), 1000);
        let zeros = vec![0; 8 << 20];
        let files = [("go.mod", module.modfile.as_slice()), ("zeros", zeros.as_slice())];
        let mut zip = stoa_gomod::zip::create(&module.version, files).unwrap();
        assert!(zip.len() < 1 << 20, "it shrinks well");
        assert_eq!(redeclare(&mut zip, zeros.len() as u32, size), 1);
        scene.suffers(name, &module, "@v/v1.0.0.zip", ok(&zip), 502, "invalid version");
    }
}

/// Changes the size that a zip declares for what has this size, in the directory; how often it did.
fn redeclare(zip: &mut [u8], from: u32, to: u32) -> usize {
    let mut changed = 0;
    for at in 0..zip.len().saturating_sub(46) {
        if zip[at..].starts_with(b"PK\x01\x02") && zip[at + 24..at + 28] == from.to_le_bytes() {
            zip[at + 24..at + 28].copy_from_slice(&to.to_le_bytes());
            changed += 1;
        }
    }
    changed
}

fn small_files_that_are_others() {
    let scene = Scene::new();
    let page = || ok(b"\n<!DOCTYPE html><html>Please log in</html>");
    let cut = |body: &[u8]| Script::Raw(announced(1000, body));
    let flood = || Script::Flood(head(200, "Transfer-Encoding: chunked\r\n"));
    let info = br#"{"Version":"v1.0.1","Time":"2024-01-02T03:04:05Z"}"#;
    let (other, odd) = ("invalid answer", "invalid version");
    for (name, file, reply, status, words) in [
        ("info-version", "@v/v1.0.0.info", ok(info), 502, "v1.0.1"),
        ("info-page", "@v/v1.0.0.info", page(), 502, other),
        ("info-empty", "@v/v1.0.0.info", ok(b""), 502, other),
        ("info-array", "@v/v1.0.0.info", ok(b"[]"), 502, other),
        ("info-cut", "@v/v1.0.0.info", cut(info), 502, "cannot download"),
        ("info-nothing", "@v/v1.0.0.info", Script::Raw(head(200, "")), 502, other),
        ("info-reset", "@v/v1.0.0.info", Script::Reset(announced(500, b"{")), 502, "cannot download"),
        ("info-stall", "@v/v1.0.0.info", Script::Stall(announced(50, b"{")), 504, "timed out"),
        ("info-drip", "@v/v1.0.0.info", Script::Drip(announced(50_000, b"{")), 504, "timed out"),
        ("info-flood", "@v/v1.0.0.info", flood(), 502, "exceeds the limit"),
        ("mod-page", "@v/v1.0.0.mod", page(), 502, other),
        ("mod-empty", "@v/v1.0.0.mod", ok(b""), 502, other),
        ("mod-flood", "@v/v1.0.0.mod", flood(), 502, "exceeds the limit"),
        ("mod-stall", "@v/v1.0.0.mod", Script::Stall(announced(50, b"module")), 504, "timed out"),
        ("list-page", "@v/list", page(), 502, other),
        ("list-flood", "@v/list", flood(), 502, "exceeds the limit"),
        ("list-stall", "@v/list", Script::Stall(announced(50, b"v1")), 504, "timed out"),
        ("latest-page", "@latest", page(), 502, other),
        ("latest-empty", "@latest", ok(b""), 502, other),
    ] {
        let module = Module::new(&format!("example.com/{name}@v1.0.0"), 1000);
        scene.suffers(name, &module, file, reply, status, words);
    }
    // The go.mod in the zip is another one. The mod itself had been told before that could be known.
    let module = Module::new("example.com/mod-other@v1.0.0", 1000);
    let lie = ok(b"module example.com/mod-other\n\nrequire example.com/evil v1.0.0\n");
    let before = scene.stored();
    offer(&scene.hostile, &module);
    scene.hostile.set("/example.com/mod-other/@v/v1.0.0.mod", lie);
    let got = scene.ask("/example.com/mod-other/@v/v1.0.0.zip");
    assert!(got.status == 502 && text(&got).contains(odd), "{}", text(&got));
    scene.is_as_before("mod-other", &before);
    offer(&scene.hostile, &module);
    assert_eq!(scene.ask("/example.com/mod-other/@v/v1.0.0.zip").body, module.zip);
    assert_eq!(scene.ask("/example.com/mod-other/@v/v1.0.0.mod").body, module.modfile);
}

fn an_empty_list_is_one() {
    let scene = Scene::new();
    let module = Module::new("example.com/untagged@v1.0.0", 1000);
    offer(&scene.hostile, &module);
    scene.hostile.set("/example.com/untagged/@v/list", ok(b""));
    let got = scene.ask("/example.com/untagged/@v/list");
    assert_eq!((got.status, got.body.len()), (200, 0), "{}", text(&got));
}

fn statuses_that_are_no_answer(file: &str) {
    let scene = Scene::new();
    for (status, passed_on, tries) in
        [(429, 429, 3), (500, 502, 3), (503, 502, 3), (504, 504, 1), (403, 403, 1)]
    {
        let name = format!("example.com/s{status}");
        let module = Module::new(&format!("{name}@v1.0.0"), 1000);
        let reply = Script::Failing(status, usize::MAX, Vec::new());
        scene.suffers(&name, &module, file, reply, passed_on, &format!("status {status}"));
        // And once more when it was honest.
        assert_eq!(scene.hostile.count(&format!("/{name}/{file}")), tries + 1, "{name}");
    }
    // Twice out of order, then fine: nobody notices.
    let module = Module::new("example.com/twice@v1.0.0", 1000);
    offer(&scene.hostile, &module);
    let path = format!("/{}/{file}", module.version.path());
    let Some(Script::Body(body)) = scene.hostile.script(&path) else { unreachable!("offered") };
    scene.hostile.set(&path, Script::Failing(500, 2, body.clone()));
    let got = scene.ask(&path);
    assert!(got.status == 200 && got.body == body, "{path}: {}", text(&got));
    assert_eq!(scene.hostile.count(&path), 3);
    if file.starts_with("@v/v1") {
        // The rest of the version follows by itself; this is had when it is stored.
        assert_eq!(scene.ask(&format!("/{}/@v/v1.0.0.zip", module.version.path())).body, module.zip);
    }
}

fn redirects_without_an_end() {
    let scene = Scene::new();
    for (n, file) in FILES.iter().enumerate() {
        let module = Module::new(&format!("example.com/circle/f{n}@v1.0.0"), 1000);
        let headers = format!("Location: /{}/{file}\r\nContent-Length: 0\r\n", module.version.path());
        let reply = Script::Raw(head(302, &headers));
        scene.suffers("redirects", &module, file, reply, 502, "redirected more than 10 times");
    }
}

fn what_changes_upstream_does_not_change_here() {
    let scene = Scene::new();
    let module = Module::new("example.com/moved@v1.0.0", 5_000);
    offer(&scene.hostile, &module);
    let path = "/example.com/moved/@v/v1.0.0.zip";
    assert_eq!(scene.ask(path).body, module.zip);
    let before = scene.stored();
    let other = Module::new("example.com/moved@v1.0.0", 9_000);
    scene.hostile.set(path, ok(&other.zip));
    assert_eq!(scene.ask(path).body, module.zip);
    assert_eq!(scene.hostile.count(path), 1);
    assert_eq!(scene.stored(), before);
    // Another process on the same store sees the same.
    let second = Server::start(Path::new(&scene.dir.path().join("store")), scene.hostile.url());
    assert_eq!(second.get(path), (200, module.zip));
    assert_eq!(scene.hostile.count(path), 1);
}
