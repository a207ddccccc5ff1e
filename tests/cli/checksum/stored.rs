//! Versions that are stored without the confirmation of a database: they are asked about again.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use testkit::server::Server;
use testkit::sumdb;
use testkit::transcript;
use testkit::upstream::Module;

use super::bench::{Bench, another, assert_answered, get, h1_of_zip};

const PAIR: &str = "example.com/m@v1.0.0";
const OTHER: &str = "example.com/other@v1.0.0";

/// Stores two versions while the database knows neither. Returns them.
fn store_unknown(bench: &Bench) -> [Module; 2] {
    let modules = [PAIR, OTHER].map(|pair| bench.site.offer(pair));
    let server = bench.serve("auto");
    for module in &modules {
        bench.assert_filled(&server, module);
        assert_eq!(bench.record(&module.version), None);
    }
    assert!(server.stop().success());
    modules
}

fn json(bench: &Bench, args: &[&str], policy: &str) -> (Output, Vec<Value>) {
    let mut command = bench.stoa(&[args, &["--format", "json"]].concat());
    let output = command.env("STOA_CHECKSUM", policy).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Returns how many versions `status` and `list` count as unverified, with these variables.
fn unverified(bench: &Bench, variables: &[(&str, &str)]) -> [u64; 2] {
    ["status", "list"].map(|name| {
        let mut command = bench.stoa(&[name, "--format", "json"]);
        let output = command.envs(variables.iter().copied()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        last["unverified"].as_u64().unwrap()
    })
}

fn assert_in_quarantine(bench: &Bench, count: usize) {
    let entries: Vec<_> = fs::read_dir(bench.store().join("quarantine")).unwrap().collect();
    assert_eq!(entries.len(), count);
    for entry in entries {
        let reason = fs::read_to_string(entry.unwrap().path().join("reason.toml")).unwrap();
        assert!(reason.contains(super::RECORDED), "{reason}");
    }
}

/// The database learns about a version, and about another one with other content than is stored. Starts a server that
/// verifies both.
fn verified(bench: &Bench, other: &Module) -> (Server, Module) {
    let right = another(PAIR, 10_000, None);
    bench.site.put(&right);
    bench.site.record(&right);
    bench.site.record(other);
    let server = bench.serve("auto");
    for module in [&right, other] {
        testkit::until("the verdict is recorded", || bench.record(&module.version).is_some());
    }
    (server, right)
}

pub(super) fn background() {
    let bench = Bench::new();
    let [_, other] = store_unknown(&bench);
    let (_, status) = json(&bench, &["status"], "auto");
    assert_eq!(status[0]["unverified"], 2);
    let (_, listed) = json(&bench, &["list"], "auto");
    assert!(listed[0]["verified_by"].is_null() && listed[2]["unverified"] == 2, "{listed:?}");
    // Private modules do not count.
    assert_eq!(unverified(&bench, &[("GONOSUMDB", "example.com/other")]), [1, 1]);
    assert_eq!(unverified(&bench, &[("GOPRIVATE", "example.com")]), [0, 0]);
    assert_eq!(unverified(&bench, &[("STOA_CHECKSUM", "off")]), [0, 0]);
    let rules = bench.store().with_file_name("rules.toml");
    let text = "[[module]]\npattern = \"example.com/m\"\nchecksum = \"off\"\n";
    fs::write(&rules, text).unwrap();
    assert_eq!(unverified(&bench, &[("STOA_CONFIG", rules.to_str().unwrap())]), [1, 1]);
    // With a wrong value the rules are unknown.
    let mut command = bench.stoa(&["status"]);
    let output = command.env("STOA_CHECKSUM", "perhaps").output().unwrap();
    let text = transcript(&output);
    assert!(output.status.success() && text.contains("unverified      2"), "{text}");
    assert!(text.contains("cannot read which modules are private") && text.contains("perhaps"), "{text}");
    // The database learns about both, and about one of them with other content.
    let (server, right) = verified(&bench, &other);
    assert!(bench.log().contains("stored versions were not verified"), "{}", bench.log());
    testkit::until("the difference is logged", || bench.log().contains("SECURITY: a stored version differs"));
    assert_in_quarantine(&bench, 1);
    assert!(!bench.folder(&right.version).exists());
    bench.assert_filled(&server, &right);
    bench.assert_filled(&server, &other);
    let (_, listed) = json(&bench, &["list"], "auto");
    assert!(listed[0]["verified_by"] == sumdb::NAME && listed[2]["unverified"] == 0, "{listed:?}");
}

pub(super) fn verify_checksums() {
    let bench = Bench::new();
    let [_, other] = store_unknown(&bench);
    let counts = |done: &Value| {
        ["confirmed", "differ", "unverified", "unreachable"].map(|key| done[key].as_u64().unwrap())
    };
    let verify = |code| {
        let (output, lines) = json(&bench, &["verify", "--checksums"], "auto");
        assert_eq!(output.status.code(), Some(code), "{}", transcript(&output));
        counts(lines.last().unwrap())
    };
    assert_eq!(verify(0), [0, 0, 2, 0]);
    bench.site.state().is_down = true;
    assert_eq!(verify(69), [0, 0, 0, 2]);
    bench.site.state().is_down = false;
    let right = another(PAIR, 10_000, None);
    bench.site.record(&right);
    bench.site.record(&other);
    let mut private = bench.stoa(&["verify", "--checksums"]);
    assert!(private.env("GONOSUMDB", "example.com").output().unwrap().status.success());
    assert_in_quarantine(&bench, 0);
    assert_eq!(verify(1), [1, 1, 0, 0]);
    assert_in_quarantine(&bench, 1);
    assert_eq!(verify(0), [0, 0, 0, 0]);
}

pub(super) fn verify_checksums_of_pairs() {
    let bench = Bench::new();
    // The mod of both is cached while the database knows neither.
    let wrong = another(PAIR, 0, Some("module example.com/m\n\nrequire evil.example/x v1.0.0\n"));
    bench.site.put(&wrong);
    let other = bench.site.offer(OTHER);
    let server = bench.serve("auto");
    for module in [&wrong, &other] {
        assert_eq!(get(&server, module, "mod"), (200, module.modfile.clone()));
    }
    assert!(server.stop().success());
    let verify = |args: &[&str], code| {
        let (output, lines) = json(&bench, &[&["verify", "--checksums"], args].concat(), "auto");
        let text = transcript(&output);
        assert_eq!(output.status.code(), Some(code), "{text}");
        let counts = |counts: &Value| {
            ["confirmed", "differ", "unverified", "unreachable"].map(|key| counts[key].as_u64().unwrap())
        };
        let done = lines.last().unwrap();
        assert_eq!(counts(done), [0; 4], "none is stored");
        (counts(&done["cached"]), text)
    };
    assert_eq!(verify(&[], 0).0, [0, 0, 2, 0]);
    assert_eq!(verify(&[OTHER], 0).0, [0, 0, 1, 0]);
    assert_eq!(verify(&["example.com/none"], 1).0, [0; 4]);
    bench.site.state().is_down = true;
    assert_eq!(verify(&[], 69).0, [0, 0, 0, 2]);
    bench.site.state().is_down = false;
    let right = another(PAIR, 10_000, None);
    for module in [&right, &other] {
        bench.site.put(module);
        bench.site.record(module);
    }
    let output = bench.stoa(&["verify", "--checksums", PAIR]).output().unwrap();
    let text = transcript(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("of the versions without a zip, 0 confirmed, 1 different, 0 unverified"), "{text}");
    assert!(text.contains("the cached go.mod was removed"), "{text}");
    assert_eq!(verify(&[], 0).0, [1, 0, 0, 0]);
    assert_eq!(verify(&[], 0).0, [0; 4]);
    let server = bench.serve("auto");
    assert_eq!(get(&server, &right, "mod"), (200, right.modfile));
}

pub(super) fn forwarded() {
    let bench = Bench::new();
    let [first, _] = store_unknown(&bench);
    let right = another(PAIR, 10_000, None);
    let lookup = format!("/sumdb/{}/lookup/{PAIR}", sumdb::NAME);
    let assert_unchanged = || {
        assert_eq!(bench.record(&first.version), None);
        assert_in_quarantine(&bench, 0);
        assert!(bench.folder(&first.version).join("zip").is_file());
    };
    // Nothing is compared if the policy is `off`, and nothing is forwarded for private modules.
    let off = bench.serve("off");
    let server = bench.serve("auto");
    testkit::until("the background has asked", || bench.log().contains("asked the checksum database"));
    bench.site.record(&right);
    assert_eq!(off.get(&lookup).0, 200);
    assert!(off.stop().success());
    assert_unchanged();
    // A record without a proof changes nothing. The cache of the other server does not have it either.
    fs::remove_dir_all(bench.store().join("cache")).unwrap();
    bench.site.state().forges_tiles = true;
    assert_eq!(server.get(&lookup).0, 200);
    assert!(bench.log().contains("cannot verify a stored version"), "{}", bench.log());
    assert_unchanged();
    fs::remove_dir_all(bench.store().join("cache")).unwrap();
    bench.site.state().forges_tiles = false;
    bench.site.put(&right);
    assert_eq!(server.get(&lookup).0, 200);
    assert_in_quarantine(&bench, 1);
    assert!(bench.log().contains("SECURITY: a stored version differs"), "{}", bench.log());
    bench.assert_filled(&server, &right);
}

pub(super) fn forwarded_for_pair() {
    let bench = Bench::new();
    // The mod is cached while the database does not know the version, and differs from what it knows later.
    let wrong = another(PAIR, 0, Some("module example.com/m\n\nrequire evil.example/x v1.0.0\n"));
    bench.site.put(&wrong);
    let server = bench.serve("auto");
    let pairs = bench.store().join("cache/pairs");
    let is_cached = || {
        let folders = fs::read_dir(&pairs).into_iter().flatten();
        folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap()).next().is_some()
    };
    assert_eq!(get(&server, &wrong, "mod"), (200, wrong.modfile.clone()));
    testkit::until("the go.mod is cached", is_cached);
    let right = another(PAIR, 10_000, None);
    bench.site.put(&right);
    bench.site.record(&right);
    let lookup = format!("/sumdb/{}/lookup/{PAIR}", sumdb::NAME);
    // A record without a proof changes nothing.
    bench.site.state().forges_tiles = true;
    assert_eq!(server.get(&lookup).0, 200);
    assert_eq!(get(&server, &wrong, "mod"), (200, wrong.modfile.clone()));
    assert_eq!(bench.record(&wrong.version), None);
    fs::remove_dir_all(bench.store().join("cache/sumdb")).unwrap();
    bench.site.state().forges_tiles = false;
    assert_eq!(server.get(&lookup).0, 200);
    assert!(!is_cached() && bench.log().contains("SECURITY: the cached go.mod"), "{}", bench.log());
    assert_eq!(get(&server, &right, "mod"), (200, right.modfile.clone()));
    bench.assert_filled(&server, &right);
}

pub(super) fn background_for_pairs() {
    let bench = Bench::new();
    // Both mods are cached while the database does not know the versions. One differs from what it knows later.
    let wrong = another(PAIR, 0, Some("module example.com/m\n\nrequire evil.example/x v1.0.0\n"));
    bench.site.put(&wrong);
    let other = bench.site.offer(OTHER);
    let server = bench.serve("auto");
    let count = || {
        let folders = fs::read_dir(bench.store().join("cache/pairs")).into_iter().flatten();
        folders.map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count()).sum::<usize>()
    };
    for module in [&wrong, &other] {
        assert_eq!(get(&server, module, "mod"), (200, module.modfile.clone()));
    }
    testkit::until("both are cached", || count() == 2);
    assert!(server.stop().success());
    let (server, right) = verified(&bench, &other);
    testkit::until("the wrong pair is dropped", || count() == 1);
    testkit::until("the difference is logged", || bench.log().contains("SECURITY: the cached go.mod"));
    assert_eq!(get(&server, &right, "mod"), (200, right.modfile.clone()));
    let asked = bench.site.asked("/lookup/");
    assert_eq!(get(&server, &other, "mod"), (200, other.modfile.clone()));
    assert_eq!(bench.site.asked("/lookup/"), asked);
}

pub(super) fn required() {
    let bench = Bench::new();
    let [first, other] = store_unknown(&bench);
    let (output, _) = json(&bench, &["config", "check"], "require");
    let text = transcript(&output);
    assert!(output.status.success() && text.contains("2 versions in"), "{text}");
    assert!(text.contains("have to be verified before they are served"), "{text}");
    bench.site.state().is_down = true;
    let server = bench.serve("require");
    testkit::until("the count is logged", || bench.log().contains("unverified=2 required=2"));
    for ending in ["info", "mod", "zip"] {
        assert_answered(&server, &first, ending, 503, "cannot verify the stored version");
    }
    let path = "/example.com/m/@v/v1.0.0.zip";
    assert!(server.ask("GET", path, &[]).header("retry-after").is_some());
    bench.site.state().is_down = false;
    for ending in ["info", "mod", "zip"] {
        assert_answered(&server, &first, ending, 403, "no checksum database confirmed it");
    }
    bench.site.record(&first);
    for ending in ["info", "mod", "zip"] {
        assert_eq!(get(&server, &first, ending).0, 200, "{ending}");
    }
    // The verdict is remembered, and nothing of the version is asked again.
    let asked = bench.site.asked("/lookup/example.com/m@");
    bench.assert_filled(&server, &first);
    assert_eq!(bench.site.asked("/lookup/example.com/m@"), asked);
    let right = another(OTHER, 10_000, None);
    bench.site.put(&right);
    bench.site.record(&right);
    assert_eq!(get(&server, &right, "mod").1, right.modfile);
    bench.assert_filled(&server, &right);
    assert_ne!(right.zip, other.zip);
    assert_in_quarantine(&bench, 1);
}

pub(super) fn slow_database() {
    let bench = Bench::new();
    let [first, _] = store_unknown(&bench);
    bench.site.hold("/lookup/");
    let server = bench.serve("require");
    assert_answered(&server, &first, "mod", 503, "there is no answer after 10s");
    bench.site.record(&first);
    bench.site.release();
    testkit::until("the verification has ended", || get(&server, &first, "mod").0 == 200);
}

fn write_go_sum(path: &Path, modules: &[&Module]) {
    let lines = modules.iter().map(|module| {
        let (path, version) = (module.version.path(), module.version.version());
        let (zip, modfile) = (h1_of_zip(module), stoa_gomod::h1::hash_mod(&module.modfile));
        format!("{path} {version} {zip}\n{path} {version}/go.mod {modfile}\n")
    });
    fs::write(path, lines.collect::<String>()).unwrap();
}

pub(super) fn go_sum() {
    let bench = Bench::new();
    let [first, other] = store_unknown(&bench);
    let serve_offline = || {
        let mut command = bench.command("require", &sumdb::verifier_key());
        Server::start_with(command.env("STOA_OFFLINE", "true"))
    };
    let server = serve_offline();
    for ending in ["info", "mod", "zip"] {
        assert_answered(&server, &first, ending, 403, "stoa fetch --from go.sum");
    }
    let folder = testkit::tempdir();
    let sums = folder.path().join("go.sum");
    let fetch = |offline: &str| {
        let mut command = bench.stoa(&["fetch", "--from", sums.to_str().unwrap()]);
        command.env("STOA_OFFLINE", offline).env("STOA_CHECKSUM", "require").output().unwrap()
    };
    // A go.sum with another hash confirms nothing.
    write_go_sum(&sums, &[&first, &another(OTHER, 10_000, None)]);
    let output = fetch("true");
    assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
    assert_eq!(bench.record(&other.version), None);
    let record = bench.record(&first.version).unwrap();
    assert!(record.contains("database = \"go.sum\""), "{record}");
    for ending in ["info", "mod", "zip"] {
        assert_eq!(get(&server, &first, ending).0, 200, "{ending}");
    }
    assert_answered(&server, &other, "mod", 403, "stoa fetch --from go.sum");
    // A version that the database does not know is stored too, and keeps the hash of the go.sum.
    let new = bench.site.offer("example.com/new@v1.0.0");
    write_go_sum(&sums, &[&new]);
    let output = fetch("false");
    assert!(output.status.success(), "{}", transcript(&output));
    bench.assert_filled(&server, &new);
    // It binds like a verdict of the database.
    let output = bench.stoa(&["remove", "example.com/new@v1.0.0"]).output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
    let moved = another("example.com/new@v1.0.0", 10_000, None);
    bench.site.put(&moved);
    assert_answered(&bench.serve("auto"), &moved, "zip", 403, "the hash in a go.sum is");
}
