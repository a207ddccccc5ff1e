//! Fills are verified against a checksum database: a real server, and a scripted database that can lie.

mod bench;
mod carried;
mod go_client;
mod heads;
mod records;
mod stored;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::Case;

use bench::{Bench, another, assert_answered, get};
use testkit::go::Go;
use testkit::server::{self, Server};
use testkit::sumdb;
use testkit::upstream::Module;
use testkit::{missing_tool, transcript, trial};

pub(crate) fn cases() -> Vec<Case> {
    let tests: [(&str, fn()); 31] = [
        ("a version that the database knows is stored with its record", vouched),
        ("a version with a record needs no database", verdict_is_enough),
        ("a zip with other bytes is refused", other_zip),
        ("a long zip with other bytes is aborted", other_long_zip),
        ("a go.mod with other bytes is refused", other_mod),
        ("a wrong go.mod that was served before the record is refused after it", other_mod_before),
        ("a go.mod is compared with an existing record before it is served", other_mod_after),
        ("the record is written even if the zip never arrives", verdict_without_zip),
        ("an unknown version is accepted unless verification is required", unknown),
        ("a cached go.mod is served under require only after its confirmation", cached_mod),
        ("a cached go.mod that the database contradicts is dropped", cached_other_mod),
        ("a database that no upstream forwards is asked only with a configured URL", not_passed_on),
        ("a database that is down blocks fills only if verification is required", down),
        ("unverified versions are not cached for long while the database is down", caching_while_down),
        ("forged answers of the database are refused", forged),
        ("a fork is an alarm", heads::fork),
        ("a fork is noticed after a restart", heads::fork_after_restart),
        ("two heads of one size are a fork", heads::fork_of_one_size),
        ("an older tree head is not a fork and replaces nothing", heads::older_head),
        ("a version copied in by hand must match its record", record_binds),
        ("the database decides about a version that was removed with other content", records::moved_tag),
        ("--forget removes the recorded hash", records::forget),
        ("stored versions are asked about again in the background", stored::background),
        ("verify --checksums asks about stored versions", stored::verify_checksums),
        ("verify --checksums asks about cached pairs", stored::verify_checksums_of_pairs),
        ("a forwarded lookup that contradicts a stored version is proved first", stored::forwarded),
        ("a forwarded lookup that contradicts a cached go.mod is proved first", stored::forwarded_for_pair),
        ("cached go.mods are asked about again in the background", stored::background_for_pairs),
        ("a stored version is verified before it is served if that is required", stored::required),
        ("a version that has the hash of a go.sum counts as verified", stored::go_sum),
        ("a go.mod is not served again after its lookup has failed", records::failed_lookup),
    ];
    let tests = tests.into_iter().map(|(name, test)| trial(name, None, test));
    tests
        .chain([
            trial("two proxies keep one head", None, heads::two_proxies),
            trial("private modules are not named to the database", None, private),
            trial(
                "modules that are private by their rule are not named to the database",
                None,
                private_by_rule,
            ),
            trial("a request does not wait longer than 10 s for a verification", None, stored::slow_database)
                .slow(),
            trial(
                "an export without the database says which records are missing",
                None,
                carried::database_down,
            ),
            trial("a forged record on the way to another network is not taken", None, carried::forged_media),
            trial(
                "a go command without a network verifies what was carried to it",
                None,
                carried::without_network,
            )
            .needs(no_go),
            trial(
                "a later export to another folder proves the earlier tree heads",
                None,
                carried::other_folder,
            )
            .needs(no_go),
            trial("a toolchain is carried to another network and verified", None, carried::toolchain)
                .needs(no_go),
            trial("go gets the vouched content after a correction", None, go_client::corrected).needs(no_go),
            trial("go waits until a stored version is verified", None, go_client::waits).needs(no_go),
            trial("go without a network gets a version that its go.sum confirms", None, go_client::go_sum)
                .needs(no_go),
            trial("go gets the vouched content after a moved tag", None, go_client::moved_tag).needs(no_go),
            trial("a real module is verified by the default database of go", None, real)
                .needs(no_real_upstream)
                .slow(),
        ])
        .collect()
}

fn vouched() {
    for policy in ["auto", "require"] {
        let bench = Bench::new();
        let server = bench.serve(policy);
        let modules = ["example.com/Upper@v1.0.0", "example.com/m@v1.2.3"].map(|pair| bench.site.offer(pair));
        for module in &modules {
            bench.site.record(module);
            bench.site.add_others(100);
        }
        assert_eq!(get(&server, &modules[0], "mod"), (200, modules[0].modfile.clone()));
        for module in &modules {
            bench.assert_filled(&server, module);
            let record = bench.record(&module.version).unwrap();
            assert!(record.contains(&format!("database = {:?}", sumdb::NAME)), "{record}");
            let seal = fs::read_to_string(bench.folder(&module.version).join("ziphash")).unwrap();
            assert!(record.contains(&format!("h1 = {seal:?}")), "{record}");
        }
        assert_eq!(bench.largest(), 502);
        assert_eq!(bench.site.asked("/lookup/"), 2);
        assert!(server.stop().success());
        let log = bench.log();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    }
}

fn verdict_is_enough() {
    let bench = Bench::new();
    let module = bench.site.offer("example.com/m@v1.0.0");
    bench.site.record(&module);
    let server = bench.serve("require");
    bench.assert_filled(&server, &module);
    assert!(server.stop().success());
    fs::remove_dir_all(bench.folder(&module.version)).unwrap();
    bench.site.state().is_down = true;
    let server = bench.serve("require");
    bench.assert_filled(&server, &module);
    assert!(server.stop().success());
    fs::remove_dir_all(bench.folder(&module.version)).unwrap();
    // Whatever the policy says: what was vouched for once binds.
    bench.site.put(&another("example.com/m@v1.0.0", 10_000, None));
    for policy in ["require", "auto", "off"] {
        let server = bench.serve(policy);
        let (status, body) = get(&server, &module, "zip");
        let body = String::from_utf8_lossy(&body);
        assert!(status == 403 && body.contains("h1:"), "{status} {body}");
        assert!(!bench.folder(&module.version).exists());
    }
}

fn other_zip() {
    for policy in ["auto", "require"] {
        let bench = Bench::new();
        let server = bench.serve(policy);
        let module = bench.site.offer("example.com/m@v1.0.0");
        let right = another("example.com/m@v1.0.0", 10_000, None);
        bench.site.record(&right);
        let words = "checksum mismatch: the upstream sent a zip with h1:";
        bench.assert_other(&server, &right, "zip", words);
        // What was sent is not remembered: it is refused each time anew, until the right bytes come.
        bench.assert_other(&server, &right, "zip", words);
        assert!(bench.log().contains("SECURITY") && bench.log().contains(words), "{}", bench.log());
        assert_ne!(module.zip, right.zip);
        bench.site.put(&right);
        bench.assert_filled(&server, &right);
    }
}

fn other_long_zip() {
    let bench = Bench::new();
    let server = bench.serve("auto");
    let sent = another("example.com/m@v1.0.0", 1_000_000, None);
    bench.site.put(&sent);
    let known = another("example.com/m@v1.0.0", 999_999, None);
    bench.site.record(&known);
    // Some of it may have gone out before it was known; never the whole, and never with a clean end.
    match server::get(&server.url, "/example.com/m/@v/v1.0.0.zip") {
        Ok((status, _)) => assert_eq!(status, 403),
        Err(error) => assert!(error.to_string().contains("aborted"), "{error}"),
    }
    bench.assert_recorded(&known);
}

/// Returns a version whose go.mod differs from the database, and the version that the database knows.
pub(crate) fn evil() -> (Module, Module) {
    let pair = "example.com/m@v1.0.0";
    let sent = another(pair, 0, Some("module example.com/m\n\nrequire evil.example/x v1.0.0\n"));
    (sent, Module::new(pair, 20_000))
}

/// A part of the message for a go.mod that differs from its record.
const RECORDED: &str = "the hash in the checksum database sum.example.org/test is h1:";

fn other_mod() {
    for policy in ["auto", "require"] {
        let bench = Bench::new();
        let server = bench.serve(policy);
        let (sent, known) = evil();
        bench.site.put(&sent);
        bench.site.record(&known);
        let words = "checksum mismatch: the upstream sent a go.mod with h1:";
        let (status, body) = get(&server, &sent, if policy == "require" { "mod" } else { "zip" });
        let body = String::from_utf8_lossy(&body);
        // Which of the two comes first is not said where the database need not be waited for.
        let has_reason = body.contains(words) || policy == "auto" && body.contains(RECORDED);
        assert!(status == 403 && has_reason, "{status} {body}");
        assert!(bench.log().contains("SECURITY"), "{}", bench.log());
        bench.assert_recorded(&known);
        for ending in ["mod", "zip"] {
            bench.assert_other(&server, &known, ending, RECORDED);
        }
        assert!(server.stop().success());
        // Also where nobody can be asked, and nobody need be.
        bench.site.state().passes_on = false;
        for policy in ["auto", "off"] {
            let server = bench.serve(policy);
            for ending in ["mod", "zip"] {
                bench.assert_other(&server, &known, ending, RECORDED);
            }
        }
    }
}

fn other_mod_before() {
    let bench = Bench::new();
    let server = bench.serve("auto");
    let (sent, known) = evil();
    bench.site.put(&sent);
    bench.site.record(&known);
    bench.site.hold("/lookup/");
    // Nobody waits for a database that need not vouch.
    assert_eq!(get(&server, &sent, "mod"), (200, sent.modfile.clone()));
    bench.site.release();
    let words = "checksum mismatch: the upstream sent a go.mod with h1:";
    testkit::until("the mismatch is found", || bench.log().contains(words));
    bench.assert_other(&server, &known, "mod", RECORDED);
}

fn other_mod_after() {
    let bench = Bench::new();
    let server = bench.serve("auto");
    let (sent, known) = evil();
    bench.site.put(&sent);
    bench.site.record(&known);
    bench.site.hold("v1.0.0.mod");
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| assert_answered(&server, &sent, "mod", 403, RECORDED));
        testkit::until("the verdict is recorded", || bench.record(&known.version).is_some());
        bench.site.release();
        asking.join().unwrap();
    });
    bench.assert_recorded(&known);
}

fn verdict_without_zip() {
    let bench = Bench::new();
    let server = bench.serve("auto");
    let (sent, known) = evil();
    bench.site.put(&sent);
    bench.site.state().files.remove("/example.com/m/@v/v1.0.0.zip");
    bench.site.record(&known);
    bench.site.hold("/lookup/");
    assert_eq!(get(&server, &sent, "mod"), (200, sent.modfile.clone()));
    assert_eq!(get(&server, &sent, "zip").0, 404);
    bench.site.release();
    testkit::until("the verdict is recorded", || bench.record(&known.version).is_some());
    bench.assert_other(&server, &known, "mod", RECORDED);
}

/// Returns whether the info and the mod of a version are cached.
fn is_cached(bench: &Bench) -> bool {
    let folders = fs::read_dir(bench.store().join("cache/pairs")).into_iter().flatten();
    folders.flatten().any(|folder| fs::read_dir(folder.path()).unwrap().next().is_some())
}

fn cached_mod() {
    let bench = Bench::new();
    let module = bench.site.offer("example.com/m@v1.0.0");
    bench.site.record(&module);
    bench.site.state().is_down = true;
    let server = bench.serve("auto");
    assert_eq!(get(&server, &module, "mod"), (200, module.modfile.clone()));
    testkit::until("the mod is cached", || is_cached(&bench));
    assert!(server.stop().success());
    let server = bench.serve("require");
    assert_ne!(get(&server, &module, "mod").0, 200);
    assert_ne!(get(&server, &module, "info").0, 200);
    assert!(is_cached(&bench), "nothing is wrong with it");
    assert!(server.stop().success());
    bench.site.state().is_down = false;
    let server = bench.serve("require");
    assert_eq!(get(&server, &module, "mod"), (200, module.modfile.clone()));
    bench.assert_recorded(&module);
    assert!(server.stop().success());
    // The verdict is recorded, so the database is not needed any more.
    bench.site.state().is_down = true;
    let server = bench.serve("require");
    assert_eq!(get(&server, &module, "mod"), (200, module.modfile.clone()));
    assert!(server.stop().success());
}

fn cached_other_mod() {
    let bench = Bench::new();
    let (sent, known) = evil();
    bench.site.put(&sent);
    bench.site.record(&known);
    bench.site.state().is_down = true;
    let server = bench.serve("auto");
    assert_eq!(get(&server, &sent, "mod"), (200, sent.modfile.clone()));
    testkit::until("the mod is cached", || is_cached(&bench));
    assert!(server.stop().success());
    bench.site.state().is_down = false;
    let server = bench.serve("auto");
    assert_answered(&server, &sent, "zip", 403, "h1:");
    testkit::until("the pair is dropped", || !is_cached(&bench));
    bench.assert_other(&server, &known, "mod", RECORDED);
}

fn unknown() {
    let bench = Bench::new();
    let module = bench.site.offer("example.com/m@v1.0.0");
    let server = bench.serve("require");
    for ending in ["mod", "zip"] {
        bench.assert_refused(&server, &module, ending, 403, "no checksum database confirmed it");
    }
    let log = bench.log();
    assert!(log.contains("WARN") && !log.contains("ERROR") && !log.contains("SECURITY"), "{log}");
    let server = bench.serve("auto");
    bench.assert_filled(&server, &module);
    assert_eq!(bench.record(&module.version), None);
    assert!(bench.site.asked("/lookup/") > 1);
    let other = bench.site.offer("example.com/m@v1.0.1");
    let asked = bench.site.asked("/lookup/");
    let server = bench.serve("off");
    bench.assert_filled(&server, &other);
    assert_eq!(bench.site.asked("/lookup/"), asked);
}

fn not_passed_on() {
    let bench = Bench::new();
    bench.site.state().passes_on = false;
    let module = bench.site.offer("example.com/m@v1.0.0");
    bench.site.record(&module);
    let server = bench.serve("require");
    bench.assert_refused(&server, &module, "zip", 502, "no upstream forwards the checksum database");
    let server = bench.serve("auto");
    bench.assert_filled(&server, &module);
    assert_eq!(bench.site.asked("/lookup/"), 0);
    let other = bench.site.offer("example.com/m@v1.0.1");
    bench.site.record(&other);
    let sumdb = format!("{} {}/db", sumdb::verifier_key(), bench.site.url());
    let server = Server::start_with(&mut bench.command("require", &sumdb));
    bench.assert_filled(&server, &other);
    assert_eq!(bench.site.asked("/db/lookup/example.com/m@v1.0.1"), 1);
    assert!(bench.record(&other.version).is_some());
    let client = bench.site.offer("example.com/m@v1.0.2");
    bench.site.record(&client);
    let sumdb = format!("/sumdb/{}", sumdb::NAME);
    assert_eq!(server.get(&format!("{sumdb}/supported")).0, 200);
    let (status, body) = server.get(&format!("{sumdb}/lookup/example.com/m@v1.0.2"));
    assert_eq!(status, 200);
    assert!(String::from_utf8_lossy(&body).contains("example.com/m v1.0.2 h1:"));
    assert_eq!(bench.site.asked("/db/lookup/example.com/m@v1.0.2"), 1);
}

fn down() {
    let bench = Bench::new();
    bench.site.state().is_down = true;
    let module = bench.site.offer("example.com/m@v1.0.0");
    bench.site.record(&module);
    let server = bench.serve("require");
    for ending in ["mod", "zip"] {
        bench.assert_refused(&server, &module, ending, 502, "cannot verify");
    }
    bench.site.state().is_down = false;
    bench.assert_filled(&server, &module);
    let other = bench.site.offer("example.com/m@v1.0.1");
    bench.site.state().is_down = true;
    let server = bench.serve("auto");
    bench.assert_filled(&server, &other);
    assert_eq!(bench.record(&other.version), None);
}

fn caching_while_down() {
    let bench = Bench::new();
    let modules = ["v1.0.0", "v1.0.1", "v1.0.2"].map(|version| {
        let module = bench.site.offer(&format!("example.com/m@{version}"));
        bench.site.record(&module);
        module
    });
    let server = bench.serve("auto");
    let assert_caching = |module: &Module, expected: &str| {
        for ending in ["info", "mod", "zip"] {
            let reply = server.ask("GET", &module.path(ending), &[]);
            let caching = (reply.status, reply.header("cache-control"));
            assert_eq!(caching, (200, Some(expected)), "{} {ending}", module.version);
        }
    };
    let (week, minute) = ("public, max-age=604800", "public, max-age=60");
    bench.assert_filled(&server, &modules[0]);
    bench.site.state().is_down = true;
    bench.assert_filled(&server, &modules[1]);
    assert_caching(&modules[0], week);
    assert_caching(&modules[1], minute);
    // The records are remembered, so they are not read for each request.
    fs::remove_dir_all(bench.store().join("records/example.com")).unwrap();
    assert_caching(&modules[0], week);
    bench.site.state().is_down = false;
    bench.assert_filled(&server, &modules[2]);
    for module in &modules {
        assert_caching(module, week);
    }
}

fn forged() {
    type Forge = fn(&mut sumdb::State, bool);
    let forges: [(&str, Forge); 3] = [
        ("invalid tree head", |state, on| state.forges_signatures = on),
        ("invalid tiles", |state, on| state.forges_tiles = on),
        ("invalid record", |state, on| state.forges_records = on),
    ];
    for (words, forge) in forges {
        for policy in ["auto", "require"] {
            let bench = Bench::new();
            let module = bench.site.offer("example.com/m@v1.0.0");
            bench.site.record(&module);
            let server = bench.serve(policy);
            forge(&mut bench.site.state(), true);
            assert_answered(&server, &module, "zip", 502, words);
            bench.assert_not_stored(&module.version);
            // Under `auto` the failure is recorded, see `failed_lookup`.
            let record = bench.record(&module.version).unwrap_or_default();
            assert_eq!(record.contains("failed_lookup"), policy == "auto", "{record}");
            assert!(!record.contains("h1"), "{record}");
            assert!(bench.log().contains(words), "{}", bench.log());
            // It is asked again, and nothing of what was forged is remembered.
            forge(&mut bench.site.state(), false);
            bench.assert_filled(&server, &module);
            assert!(bench.record(&module.version).is_some());
        }
    }
}

fn private() {
    let bench = Bench::new();
    let module = bench.site.offer("corp.example/secret@v1.0.0");
    bench.site.record(&module);
    for name in ["GOPRIVATE", "GONOSUMDB"] {
        let serve = |policy: &str| {
            let mut command = bench.command(policy, &sumdb::verifier_key());
            Server::start_with(command.env(name, "*.corp.example,corp.example"))
        };
        let server = serve("require");
        bench.assert_refused(&server, &module, "zip", 403, "it is private");
        let server = serve("auto");
        bench.assert_filled(&server, &module);
        assert!(server.stop().success());
        fs::remove_dir_all(bench.folder(&module.version)).unwrap();
    }
    assert_eq!(bench.site.asked("/lookup/"), 0);
}

fn private_by_rule() {
    let bench = Bench::new();
    let module = bench.site.offer("corp.example/secret@v1.0.0");
    bench.site.record(&module);
    assert!(bench.serve("auto").stop().success());
    module.put_unsealed(&bench.store());
    let config = tempfile::NamedTempFile::new().unwrap();
    fs::write(&config, "[[module]]\npattern = \"corp.example\"\nmode = \"none\"\n").unwrap();
    let sumdb = format!("{} {}/db", sumdb::verifier_key(), bench.site.url());
    let server =
        Server::start_with(bench.command("require", &sumdb).env("STOA_CONFIG", config.path().as_os_str()));
    for ending in ["info", "mod", "zip"] {
        assert_answered(&server, &module, ending, 403, "it is private by its rule");
    }
    assert_eq!(bench.site.asked("/lookup/"), 0);
}

fn record_binds() {
    let bench = Bench::new();
    let module = bench.site.offer("example.com/m@v1.0.0");
    bench.site.record(&module);
    let server = bench.serve("auto");
    bench.assert_filled(&server, &module);
    assert!(server.stop().success());
    fs::remove_dir_all(bench.folder(&module.version)).unwrap();
    // As a migration or a restored backup would.
    another("example.com/m@v1.0.0", 10_000, None).put_unsealed(&bench.store());
    let server = bench.serve("auto");
    bench.assert_filled(&server, &module);
    let [entry] =
        fs::read_dir(bench.store().join("quarantine")).unwrap().collect::<Vec<_>>().try_into().unwrap();
    let reason = fs::read_to_string(entry.unwrap().path().join("reason.toml")).unwrap();
    assert!(reason.contains(RECORDED), "{reason}");
}

/// A small module that will not change.
const REAL: &str = "rsc.io/quote@v1.5.2";

fn no_go() -> Option<String> {
    missing_tool("go", &["version"])
}

fn no_real_upstream() -> Option<String> {
    missing_tool("go", &["version"]).or_else(|| {
        let dir = testkit::tempdir();
        let list = Command::new("go").args(["env", "GOPROXY"]).current_dir(dir.path()).output().unwrap();
        let go = Go::new(dir.path(), String::from_utf8_lossy(&list.stdout).trim());
        let output = go.command(dir.path(), "probe", &["mod", "download", REAL]).output().unwrap();
        (!output.status.success())
            .then(|| format!("cannot reach the upstream of the go command: {}", transcript(&output)))
    })
}

fn real() {
    let dir = testkit::tempdir();
    let store = dir.path().join("store");
    let serve = || {
        let mut command = server::command(&store);
        for name in ["GOPROXY", "GOSUMDB"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        Server::start_with(command.env("STOA_CHECKSUM", "require"))
    };
    let server = serve();
    for (ending, words) in [("info", "v1.5.2"), ("mod", "module \"rsc.io/quote\"")] {
        let (status, body) = server.get(&format!("/rsc.io/quote/@v/v1.5.2.{ending}"));
        let body = String::from_utf8_lossy(&body);
        assert!(status == 200 && body.contains(words), "{status} {body}");
    }
    let (status, _) = server.get("/rsc.io/quote/@v/v1.5.2.zip");
    assert_eq!(status, 200);
    let record = fs::read_to_string(store.join("records/rsc.io/quote/@v/v1.5.2.toml")).unwrap();
    assert!(
        record.contains("tree_size") && record.contains("h1:w5fcysjrx7yqtD/aO+QwRjYZOKnaM9Uh2b40tElTs3Y="),
        "{record}"
    );
    assert!(server.stop().success());
    // The head that was kept is one that the next start goes on from.
    let server = serve();
    assert_eq!(server.get("/rsc.io/sampler/@v/v1.3.0.zip").0, 200);
    let heads = only_entry(&store.join("records/sumdb"));
    assert!(heads.join("latest").is_file());
    assert!(
        fs::read_dir(heads).unwrap().all(|entry| !entry.unwrap().path().to_string_lossy().contains("fork"))
    );
}

fn only_entry(folder: &Path) -> PathBuf {
    let mut entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let first = entries.next().unwrap();
    assert!(entries.next().is_none());
    first
}
