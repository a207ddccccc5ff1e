//! `stoa verify` and `stoa quarantine`, killed at every system call that changes the store, and with each of
//! them failing: while one version is sealed and one put into quarantine, while one is restored, and purged.
//!
//! Nothing is lost at any point: what is broken is at its place or in quarantine, with its reason, and what is
//! restored is at exactly one of both, whole.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use testkit::Case;

use nix::sys::signal::Signal;
use testkit::commands::{run, stoa};
use testkit::programs::{Ended, Programs};
use testkit::sumdb::{self, Site};
use testkit::sweep::{Observed, Scenario, failed_clearly, only_stderr, trials};
use testkit::tracer::{self, Act, Traced};
use testkit::tree::snapshot;
use testkit::upstream::Module;
use testkit::{create, missing_tool, transcript, trial};

pub(crate) fn cases() -> Vec<Case> {
    let mut tests = trials(&[
        ("verify seals", verify_seals),
        ("verify puts into quarantine", verify_puts_into_quarantine),
        ("verify asks the checksum database", verify_asks_the_database),
        ("restore", restore),
        ("purge", purge),
    ]);
    // Its writes are those of quarantine, records and fills: killed only.
    tests.retain(|test| {
        !test.name().starts_with("verify asks") || test.name() == "verify asks the checksum database: SIGKILL"
    });
    tests.push(trial("verify stops at a signal and goes on", tracer::missing(), verify_stops_and_goes_on));
    let mounts = missing_tool("unshare", &["--map-root-user", "--mount", "true"]);
    tests.push(trial("a read-only file system is looked at", mounts, a_read_only_file_system_is_looked_at));
    tests.push(trial("unreadable files are reported", None, unreadable_files_are_reported));
    tests
}

const PAIR: &str = "example.com/Cap/m@v1.0.0";
const FOLDER: &str = "modules/example.com/!cap/m/@v/v1.0.0";
const ID: &str = "20260102T030405Z-1-0";

fn is_whole(folder: &Path, module: &Module) -> bool {
    let files = [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)];
    files.into_iter().all(|(name, content)| fs::read(folder.join(name)).is_ok_and(|is| is == *content))
}

/// The content of the entries in quarantine that have one; each has its reason.
fn kept(root: &Path, traced: &Traced) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(root.join("quarantine")).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = entries.filter(|entry| entry.join("version").exists()).collect();
    for entry in &kept {
        let reason = fs::read_to_string(entry.join("reason.toml")).unwrap_or_default();
        assert!(reason.contains("example.com/Cap/m"), "no reason after {:?}: {reason}", traced.hit);
    }
    kept.into_iter().map(|entry| entry.join("version")).collect()
}

/// A store with this one version, which is not sealed, is verified.
fn verifying(
    module: Module,
    check: impl Fn(&Path, &Traced, &Observed, bool) + 'static,
    again: impl Fn(&Path) + 'static,
) -> Scenario {
    Scenario {
        prepare: Box::new(move |dir| {
            create(&dir.join("store"));
            module.put_unsealed(&dir.join("store"));
        }),
        command: Box::new(|root| stoa(root, &["verify", "--threads", "1"])),
        drive: Box::new(only_stderr),
        check: Box::new(check),
        again: Box::new(again),
    }
}

fn verify_seals() -> Scenario {
    let module = Module::new(PAIR, 20_000);
    let whole = Module::new(PAIR, 20_000);
    verifying(
        module,
        move |root, traced, observed, is_kill| {
            assert!(is_whole(&root.join(FOLDER), &whole), "after {:?}", traced.hit);
            let seal = fs::read_to_string(root.join(FOLDER).join("ziphash"));
            if let Ok(seal) = &seal {
                assert!(seal.starts_with("h1:") && seal.len() == 47, "{seal:?} after {:?}", traced.hit);
            }
            if !is_kill {
                failed_clearly(traced, observed);
                assert!(traced.code != 0 || seal.is_ok(), "success was reported after {:?}", traced.hit);
            }
        },
        |root| {
            let output = run(root, &["verify"]);
            assert!(output.status.success(), "{}", transcript(&output));
        },
    )
}

fn verify_puts_into_quarantine() -> Scenario {
    let mut module = Module::new(PAIR, 20_000);
    let middle = module.zip.len() / 2;
    module.zip[middle] ^= 1;
    let broken = module.zip.clone();
    verifying(
        module,
        move |root, traced, observed, is_kill| {
            let mut places = kept(root, traced);
            places.push(root.join(FOLDER));
            let found =
                places.iter().filter(|place| fs::read(place.join("zip")).is_ok_and(|zip| zip == broken));
            assert_eq!(found.count(), 1, "where the broken version is after {:?}", traced.hit);
            assert!(!root.join(FOLDER).join("ziphash").exists(), "sealed after {:?}", traced.hit);
            // 1: it was found, and is away.
            if !is_kill && traced.code == 1 {
                assert!(!root.join(FOLDER).exists(), "said to be in quarantine after {:?}", traced.hit);
            } else if !is_kill {
                assert_ne!(traced.code, 0, "nothing was found after {:?}", traced.hit);
                failed_clearly(traced, observed);
            }
        },
        |root| {
            // Found by this run or by the one before.
            assert!(run(root, &["verify"]).status.code().is_some_and(|code| code <= 1));
            let output = run(root, &["verify"]);
            assert!(output.status.success(), "{}", transcript(&output));
        },
    )
}

/// A store with a version that differs from the database. It never stays together with the verdict.
fn verify_asks_the_database() -> Scenario {
    let site = Arc::new(Site::start(20));
    let right = Module::new(PAIR, 10_000);
    site.put(&right);
    site.record(&right);
    let module = Module::new(PAIR, 20_000);
    let whole = Module::new(PAIR, 20_000);
    let url = site.url().to_owned();
    let with_site = move |root: &Path, arguments: &[&str]| {
        let mut command = stoa(root, arguments);
        command.env("STOA_UPSTREAM", &url).env("STOA_GOSUMDB", sumdb::verifier_key());
        command.env_remove("GONOSUMDB").env_remove("GOPRIVATE");
        command
    };
    const VERIFY: [&str; 4] = ["verify", "--checksums", "--threads", "1"];
    let again = with_site.clone();
    let has_verdict = |root: &Path| {
        let record = fs::read_to_string(root.join("records/example.com/!cap/m/@v/v1.0.0.toml"));
        record.is_ok_and(|record| record.contains("[verdict]"))
    };
    Scenario {
        prepare: Box::new(move |dir| {
            // The database lives as long as the scenario.
            let _site = &site;
            create(&dir.join("store"));
            module.put_unsealed(&dir.join("store"));
        }),
        command: Box::new(move |root| with_site(root, &VERIFY)),
        drive: Box::new(only_stderr),
        check: Box::new(move |root, traced, observed, is_kill| {
            let folder = root.join(FOLDER);
            let mut places = kept(root, traced);
            places.push(folder.clone());
            let found = places.iter().filter(|place| is_whole(place, &whole)).count();
            assert_eq!(found, 1, "where the version is after {:?}", traced.hit);
            assert!(
                !(folder.exists() && has_verdict(root)),
                "it stays with a verdict after {:?}",
                traced.hit
            );
            if !is_kill && traced.code != 1 {
                failed_clearly(traced, observed);
            }
        }),
        again: Box::new(move |root| {
            let output = again(root, &VERIFY).output().unwrap();
            // 1: it differs, and was found by this run.
            assert!(output.status.code().is_some_and(|code| code <= 1), "{}", transcript(&output));
            assert!(!root.join(FOLDER).exists());
            // The next download brings the right version and its verdict, whatever the first run came to.
            let output = again(root, &["fetch", PAIR]).output().unwrap();
            assert!(output.status.success(), "{}", transcript(&output));
            assert!(is_whole(&root.join(FOLDER), &right) && has_verdict(root));
        }),
    }
}

/// A store with a version in quarantine that somebody has mended.
fn with_a_mended_one(dir: &Path, module: &Module) {
    let root = dir.join("store");
    create(&root);
    let entry = root.join("quarantine").join(ID);
    fs::create_dir_all(&entry).unwrap();
    fs::rename(module.put_unsealed(&root), entry.join("version")).unwrap();
    fs::remove_dir_all(root.join("modules/example.com")).unwrap();
    let reason = format!(
        "module = 'example.com/Cap/m'\nversion = 'v1.0.0'\npath = '{FOLDER}'\nat = '2026-01-02T03:04:05Z'\nreason = 'its zip'\n"
    );
    fs::write(entry.join("reason.toml"), reason).unwrap();
}

fn restore() -> Scenario {
    let module = Module::new(PAIR, 20_000);
    let whole = Module::new(PAIR, 20_000);
    Scenario {
        prepare: Box::new(move |dir| with_a_mended_one(dir, &module)),
        command: Box::new(|root| stoa(root, &["quarantine", "restore", ID])),
        drive: Box::new(only_stderr),
        check: Box::new(move |root, traced, observed, is_kill| {
            let is_back = root.join(FOLDER).exists();
            let place =
                if is_back { root.join(FOLDER) } else { root.join("quarantine").join(ID).join("version") };
            assert!(is_whole(&place, &whole), "not whole after {:?}", traced.hit);
            assert!(
                !is_back || place.join("ziphash").is_file(),
                "published without a seal after {:?}",
                traced.hit
            );
            assert_eq!(kept(root, traced).len(), usize::from(!is_back), "after {:?}", traced.hit);
            if !is_kill {
                failed_clearly(traced, observed);
                assert!(traced.code != 0 || is_back, "success was reported after {:?}", traced.hit);
            }
        }),
        again: Box::new(|root| {
            let output = run(root, &["quarantine", "restore", ID]);
            // 1: it is back since the run before, and its entry is gone.
            assert!(output.status.code().is_some_and(|code| code <= 1), "{}", transcript(&output));
            assert!(root.join(FOLDER).join("info").is_file(), "{}", transcript(&output));
        }),
    }
}

fn purge() -> Scenario {
    let module = Module::new(PAIR, 20_000);
    let whole = Module::new(PAIR, 20_000);
    Scenario {
        prepare: Box::new(move |dir| with_a_mended_one(dir, &module)),
        command: Box::new(|root| stoa(root, &["quarantine", "purge", ID])),
        drive: Box::new(only_stderr),
        check: Box::new(move |root, traced, observed, is_kill| {
            let entry = root.join("quarantine").join(ID);
            // An entry is there with all of it, or not at all.
            let is_there = entry.exists();
            assert!(!is_there || is_whole(&entry.join("version"), &whole), "after {:?}", traced.hit);
            assert_eq!(kept(root, traced).len(), usize::from(is_there), "after {:?}", traced.hit);
            if !is_kill {
                failed_clearly(traced, observed);
                assert!(traced.code != 0 || !is_there, "success was reported after {:?}", traced.hit);
            }
        }),
        again: Box::new(|root| {
            let output = run(root, &["quarantine", "purge", ID]);
            assert!(output.status.code().is_some_and(|code| code <= 1), "{}", transcript(&output));
            assert!(!root.join("quarantine").join(ID).exists(), "{}", transcript(&output));
        }),
    }
}

fn put_versions(root: &Path, count: usize) {
    for n in 0..count {
        Module::new(&format!("example.com/m@v1.{n}.0"), 1000).put_unsealed(root);
    }
}

fn sealed(root: &Path, count: usize) -> usize {
    let folder = |n: usize| root.join(format!("modules/example.com/m/@v/v1.{n}.0/ziphash"));
    (0..count).filter(|n| folder(*n).is_file()).count()
}

fn verify_stops_and_goes_on() {
    let mut stopped = 0;
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        for at in 1.. {
            let dir = testkit::tempdir();
            let root = dir.path().join("store");
            create(&root);
            put_versions(&root, 4);
            let mut command = stoa(&root, &["verify", "--threads", "1"]);
            let (traced, observed) = tracer::run(&mut command, &root, Act::Signal(at, signal), only_stderr);
            if traced.hit.is_none() {
                break;
            }
            match traced.code {
                // At the end it has done all that it was asked for.
                0 => assert_eq!(sealed(&root, 4), 4, "after {:?}", traced.hit),
                // Before it begins a signal ends it as it ends any program.
                _ if traced.code == -(signal as i32) => {
                    assert_eq!(sealed(&root, 4), 0, "after {:?}", traced.hit)
                }
                _ => {
                    assert_eq!(traced.code, code, "after {:?}: {}", traced.hit, observed.stderr);
                    assert!(observed.stderr.contains("run again to continue"), "{}", observed.stderr);
                    stopped += 1;
                }
            }
            let done = sealed(&root, 4);
            let output = run(&root, &["verify"]);
            assert!(output.status.success(), "{}", testkit::transcript(&output));
            assert!(
                testkit::transcript(&output).contains(&format!("; {done} already verified;")),
                "{}",
                testkit::transcript(&output)
            );
        }
    }
    println!("stopped at {stopped} calls");
    assert!(stopped > 10, "stopped at {stopped} calls only");
}

fn a_read_only_file_system_is_looked_at() {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    create(&root);
    put_versions(&root, 3);
    assert!(run(&root, &["verify", "example.com/m@v1.0.0"]).status.success());
    fs::write(root.join("modules/example.com/m/@v/v1.2.0/zip"), "no zip").unwrap();
    let before = snapshot(&root);
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"";
    let there = |arguments: &[&str]| {
        let plain = stoa(&root, arguments);
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(&root);
        command.arg(plain.get_program()).args(plain.get_args()).env_remove("STOA_STORE").output().unwrap()
    };
    let output = there(&["verify"]);
    assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
    for said in [
        "1 version verified",
        "1 already verified",
        "1 corrupt",
        "the results are not recorded",
        "corrupt example.com/m@v1.2.0",
    ] {
        assert!(transcript(&output).contains(said), "{said}: {}", transcript(&output));
    }
    for refused in [&["quarantine", "purge", "x"][..], &["quarantine", "restore", "x"]] {
        let output = there(refused);
        assert_eq!(output.status.code(), Some(77), "{}", transcript(&output));
    }
    assert!(there(&["quarantine"]).status.success());
    assert_eq!(snapshot(&root), before);
}

fn unreadable_files_are_reported() {
    let programs = Programs::current();
    let root = programs.make_store();
    put_versions(&root, 3);
    let mut command = programs.command("stoa", ["verify"]);
    if rustix::process::geteuid().is_root() {
        // Root reads everything.
        for path in [programs.folder(), &programs.folder().join("bin")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for path in snapshot(&root).keys() {
            std::os::unix::fs::lchown(root.join(path), Some(65534), Some(65534)).unwrap();
        }
        command.uid(65534).gid(65534);
    }
    let zip = root.join("modules/example.com/m/@v/v1.1.0/zip");
    fs::set_permissions(&zip, fs::Permissions::from_mode(0o000)).unwrap();
    let ended = Ended::of(command);
    assert_eq!(ended.code, 74, "{ended:?}");
    for said in ["unreadable example.com/m@v1.1.0: cannot open ", "2 versions verified", "1 unreadable"] {
        assert!(ended.out.contains(said), "{said}: {ended:?}");
    }
    assert!(zip.is_file() && sealed(&root, 3) == 2);
}
