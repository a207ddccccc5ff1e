//! The real programs, killed at every system call that changes the store, and with each of them failing:
//! while a store is made, a version published, sealed, and put into quarantine by a server.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, clippy::panic, reason = "a test")]

mod support;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Arguments;
use support::server::{self, Server};
use support::sweep::{Prepare, Scenario, Told, failed_clearly, only_stderr, trials};
use support::tracer::Traced;
use support::tree::snapshot;
use support::upstream::{Module, Upstream};
use support::{MIGRATE, STOA, create, told};

fn main() {
    let tests = trials(&[
        ("creation", creation),
        ("creation through the gate", creation_through_the_gate),
        ("publish", publish),
        ("seal", seal),
        ("quarantine", quarantine),
    ]);
    libtest_mimic::run(&Arguments::from_args(), tests).exit();
}

type CheckTree = Box<dyn Fn(&Path, &Traced)>;

fn creation() -> Scenario {
    Scenario {
        prepare: Box::new(|_| {}),
        command: Box::new(|root| {
            let mut command = Command::new(MIGRATE);
            command.arg("--store").arg(root);
            command
        }),
        drive: Box::new(only_stderr),
        check: Box::new(|root, traced, told, is_kill| {
            if !is_kill {
                failed_clearly(traced, told);
                assert!(
                    traced.code != 0 || root.join("layout.v2").exists(),
                    "success was told after {:?}",
                    traced.hit
                );
            }
        }),
        again: Box::new(|root| {
            create(root);
            let before = snapshot(root);
            create(root);
            assert_eq!(snapshot(root), before, "a run with nothing to do wrote something");
        }),
    }
}

fn creation_through_the_gate() -> Scenario {
    let path = |root: &Path| {
        let mut command = Command::new(STOA);
        command.args(["path", "example.com/m@v1.0.0", "--store"]).arg(root);
        command
    };
    Scenario {
        prepare: Box::new(|_| {}),
        command: Box::new(path),
        drive: Box::new(only_stderr),
        check: Box::new(|root, traced, told, is_kill| {
            // 1: the gate was passed, and the version is not there.
            if !is_kill && traced.code != 1 {
                assert_ne!(traced.code, 0, "a version was found after {:?}", traced.hit);
                failed_clearly(traced, told);
            }
            assert!(
                traced.code != 1 || root.join("layout.v2").exists(),
                "the gate was passed after {:?}",
                traced.hit
            );
        }),
        again: Box::new(move |root| {
            let output = path(root).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{}", self::told(&output));
        }),
    }
}

const PAIR: &str = "example.com/Cap/m@v1.0.0";
const FOLDER: &str = "modules/example.com/!cap/m/@v/v1.0.0";
const ZIP: &str = "/example.com/!cap/m/@v/v1.0.0.zip";

/// A server that is asked once for the zip, and then to stop.
fn serving(
    upstream: Option<Upstream>,
    prepare: Prepare,
    expected: (u16, Vec<u8>),
    check: CheckTree,
) -> Scenario {
    let url = upstream.as_ref().map_or("off".to_owned(), |upstream| upstream.url().to_owned());
    let (again_url, expected_again) = (url.clone(), expected.clone());
    Scenario {
        prepare,
        command: Box::new(move |root| {
            // The upstream lives as long as the scenario.
            let _ = &upstream;
            let mut command = server::command(root);
            command.args(["--upstream", &url]);
            command
        }),
        drive: Box::new(|child| {
            let mut told = Told::default();
            if let Some(url) = server::listening(child) {
                told.answers.push(server::get(&url, ZIP).map_err(|error| error.to_string()));
                server::terminate(child);
            }
            child.stderr.take().unwrap().read_to_string(&mut told.stderr).unwrap();
            told
        }),
        check: Box::new(move |root, traced, told, is_kill| {
            for answer in &told.answers {
                match answer {
                    Ok((200, body)) => assert!(*body == expected.1, "wrong bytes after {:?}", traced.hit),
                    Ok((404, _)) if expected.0 == 404 => {}
                    Ok((status, body)) => {
                        assert_eq!(*status, 500, "after {:?}: {}", traced.hit, String::from_utf8_lossy(body));
                        assert!(
                            told.stderr.contains("cannot "),
                            "no reason in the log after {:?}: {}",
                            traced.hit,
                            told.stderr
                        );
                    }
                    Err(_) => {}
                }
            }
            if !is_kill {
                failed_clearly(traced, told);
            }
            check(root, traced);
        }),
        again: Box::new(move |root| {
            let server = Server::start(root, &again_url);
            let (status, body) = server.get(ZIP);
            assert_eq!(status, expected_again.0, "{}", String::from_utf8_lossy(&body));
            assert!(status != 200 || body == expected_again.1, "the second run serves wrong bytes");
            assert!(server.stop().success());
        }),
    }
}

fn whole_or_absent(module: &Module) -> CheckTree {
    let (info, modfile, zip) = (module.info.clone(), module.modfile.clone(), module.zip.clone());
    Box::new(move |root, traced| {
        let folder = root.join(FOLDER);
        if !folder.exists() {
            return;
        }
        for (name, content) in [("info", &info), ("mod", &modfile), ("zip", &zip)] {
            let is = fs::read(folder.join(name))
                .unwrap_or_else(|error| panic!("{name} after {:?}: {error}", traced.hit));
            assert!(is == *content, "{name} is not whole after {:?}", traced.hit);
        }
    })
}

fn publish() -> Scenario {
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 200_000);
    let check = whole_or_absent(&module);
    serving(Some(upstream), Box::new(|dir| create(&dir.join("store"))), (200, module.zip), check)
}

fn seal() -> Scenario {
    let module = Module::new(PAIR, 20_000);
    let check = whole_or_absent(&module);
    let expected = (200, module.zip.clone());
    let prepare = Box::new(move |dir: &Path| {
        create(&dir.join("store"));
        module.put_unsealed(&dir.join("store"));
    });
    serving(None, prepare, expected, check)
}

fn quarantine() -> Scenario {
    let module = Module::new(PAIR, 20_000);
    let cut = module.zip[..module.zip.len() - 100].to_vec();
    let kept = cut.clone();
    let prepare = Box::new(move |dir: &Path| {
        create(&dir.join("store"));
        let folder = module.put_unsealed(&dir.join("store"));
        fs::write(folder.join("zip"), &cut).unwrap();
    });
    let check = Box::new(move |root: &Path, traced: &Traced| {
        // Nothing is lost: the broken version is at its place or in quarantine, with its reason.
        let mut places = vec![root.join(FOLDER)];
        for entry in fs::read_dir(root.join("quarantine")).unwrap() {
            let entry = entry.unwrap().path();
            if entry.join("version").exists() {
                let reason = fs::read_to_string(entry.join("reason.toml")).unwrap_or_default();
                assert!(reason.contains("example.com/Cap/m"), "no reason after {:?}: {reason}", traced.hit);
            }
            places.push(entry.join("version"));
        }
        let found =
            places.iter().filter(|place| fs::read(place.join("zip")).is_ok_and(|zip| zip == kept)).count();
        assert_eq!(found, 1, "the broken version is {found} times there after {:?}", traced.hit);
    });
    serving(None, prepare, (404, Vec::new()), check)
}
