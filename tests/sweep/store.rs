//! The real programs, killed at every system call that changes the store, and with each of them failing:
//! while a store is made, a version published, sealed, and put into quarantine by a server, and the index built.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command};
use testkit::Case;

use testkit::server::{self, Server};
use testkit::sumdb::{self, Site};
use testkit::sweep::{
    Observed, Prepare, Scenario, failed_clearly, only_stderr, trials, trials_of_all_faults,
};
use testkit::tracer::Traced;
use testkit::tree::snapshot;
use testkit::upstream::{Module, Upstream};
use testkit::{MIGRATE, STOA, create, transcript};

pub(crate) fn cases() -> Vec<Case> {
    let mut tests = trials(&[
        ("creation", creation),
        ("creation through the gate", creation_through_the_gate),
        ("seal", seal),
        ("quarantine", quarantine),
        ("index, regenerated", index_regenerated),
        ("index, kept by a server", index_kept),
    ]);
    // A full disk and a broken one in the middle of a publish are what a server meets.
    tests.extend(trials_of_all_faults(&[("publish", publish)]));
    tests.extend(trials(&[("publish, vouched for", publish_vouched_for)]));
    tests
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
        check: Box::new(|root, traced, observed, is_kill| {
            if !is_kill {
                failed_clearly(traced, observed);
                assert!(
                    traced.code != 0 || root.join("layout.v2").exists(),
                    "success was reported after {:?}",
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
        command.args(testkit::commands::CREATING).arg("--store").arg(root);
        command
    };
    Scenario {
        prepare: Box::new(|_| {}),
        command: Box::new(path),
        drive: Box::new(only_stderr),
        check: Box::new(|root, traced, observed, is_kill| {
            // 1: the gate was passed, and the version is not there.
            if !is_kill && traced.code != 1 {
                assert_ne!(traced.code, 0, "a version was found after {:?}", traced.hit);
                failed_clearly(traced, observed);
            }
            assert!(
                traced.code != 1 || root.join("layout.v2").exists(),
                "the gate was passed after {:?}",
                traced.hit
            );
        }),
        again: Box::new(move |root| {
            let output = path(root).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{}", self::transcript(&output));
        }),
    }
}

const PAIR: &str = "example.com/Cap/m@v1.0.0";
const FOLDER: &str = "modules/example.com/!cap/m/@v/v1.0.0";
const ZIP: &str = "/example.com/!cap/m/@v/v1.0.0.zip";

/// A server that is asked once for the zip, and then to stop.
fn serving(url: &str, prepare: Prepare, expected: (u16, Vec<u8>), check: CheckTree) -> Scenario {
    let (url, again_url, expected_again) = (url.to_owned(), url.to_owned(), expected.clone());
    Scenario {
        prepare,
        command: Box::new(move |root| {
            let mut command = server::command(root);
            // The index and the notes of last use have sweeps of their own.
            command.args(["--upstream", &url, "--index-interval", "0", "--last-use-interval", "0"]);
            command
        }),
        drive: Box::new(|child| {
            let mut observed = Observed::default();
            if let Some(url) = server::listening(child) {
                observed.answers.push(server::get(&url, ZIP).map_err(|error| error.to_string()));
                server::terminate(child);
            }
            child.stderr.take().unwrap().read_to_string(&mut observed.stderr).unwrap();
            observed
        }),
        check: Box::new(move |root, traced, observed, is_kill| {
            for answer in &observed.answers {
                match answer {
                    Ok((200, body)) => {
                        assert!(*body == expected.1, "wrong bytes after {:?}", traced.hit);
                        // A client has a large zip before it is stored.
                        assert!(
                            is_kill
                                || root.join(FOLDER).exists()
                                || observed.stderr.contains("cannot store a version"),
                            "neither stored nor a reason in the log after {:?}: {}",
                            traced.hit,
                            observed.stderr
                        );
                    }
                    Ok((404, _)) if expected.0 == 404 => {}
                    Ok((status, body)) => {
                        let text = String::from_utf8_lossy(body);
                        assert!(matches!(*status, 500 | 507), "{status} after {:?}: {text}", traced.hit);
                        assert!(
                            observed.stderr.contains("cannot "),
                            "no reason in the log after {:?}: {}",
                            traced.hit,
                            observed.stderr
                        );
                    }
                    Err(_) => {}
                }
            }
            if !is_kill {
                failed_clearly(traced, observed);
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
    let prepare = Box::new(|dir: &Path| create(&dir.join("store")));
    let Scenario { prepare, command, drive, check, again } =
        serving(upstream.url(), prepare, (200, module.zip), check);
    let command = Box::new(move |root: &Path| {
        // The upstream lives as long as the scenario.
        let _ = &upstream;
        command(root)
    });
    Scenario { prepare, command, drive, check, again }
}

/// The same with a checksum database, whose verdict, tree head and tiles are kept.
fn publish_vouched_for() -> Scenario {
    let site = Site::start(300);
    let module = site.offer(PAIR);
    site.record(&module);
    let whole = whole_or_absent(&module);
    let seal = stoa_gomod::zip::examine(&module.zip.as_slice(), &module.version).unwrap().h1.to_string();
    let check = Box::new(move |root: &Path, traced: &Traced| {
        whole(root, traced);
        let record = root.join("records/example.com/!cap/m/@v/v1.0.0.toml");
        match fs::read_to_string(record) {
            Ok(record) => assert!(
                record.contains(&seal) && record.contains(sumdb::NAME),
                "after {:?}: {record}",
                traced.hit
            ),
            Err(_) => {
                assert!(!root.join(FOLDER).exists(), "published without a record after {:?}", traced.hit)
            }
        }
    });
    let prepare = Box::new(|dir: &Path| create(&dir.join("store")));
    let Scenario { prepare, command, drive, check, .. } =
        serving(site.url(), prepare, (200, module.zip.clone()), check);
    let asks_the_database = |command: &mut Command| {
        command.env("STOA_GOSUMDB", sumdb::verifier_key()).env_remove("GONOSUMDB").env_remove("GOPRIVATE");
    };
    Scenario {
        prepare,
        command: Box::new(move |root| {
            let mut command = command(root);
            asks_the_database(&mut command);
            command
        }),
        drive,
        check,
        again: Box::new(move |root| {
            let mut command = server::command(root);
            command.args(["--upstream", site.url()]);
            asks_the_database(&mut command);
            let server = Server::start_with(&mut command);
            let (status, body) = server.get(ZIP);
            assert_eq!((status, body == module.zip), (200, true), "{}", String::from_utf8_lossy(&body));
            assert!(server.stop().success());
            // Whoever finds the verdict in the record asks for none of it.
            let _ = fs::remove_dir_all(root.join("cache/sumdb"));
        }),
    }
}

fn seal() -> Scenario {
    let module = Module::new(PAIR, 20_000);
    let check = whole_or_absent(&module);
    let expected = (200, module.zip.clone());
    let prepare = Box::new(move |dir: &Path| {
        create(&dir.join("store"));
        module.put_unsealed(&dir.join("store"));
    });
    serving("off", prepare, expected, check)
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
    serving("off", prepare, (404, Vec::new()), check)
}

/// Puts versions that no index knows of.
fn put_without_index(dir: &Path) {
    let root = dir.join("store");
    create(&root);
    for n in 0..6 {
        Module::new(&format!("example.com/m{}@v1.{n}.0", n % 2), 100).put_unsealed(&root);
    }
}

/// Module and version of everything that the index has, in order.
fn indexed(root: &Path) -> Vec<(String, String)> {
    let numbers = fs::read_dir(root.join("index")).unwrap();
    let newest = numbers.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok()).max();
    let file = root.join("index").join(newest.unwrap().to_string()).join("index.sqlite");
    let connection = rusqlite::Connection::open(file).unwrap();
    let mut statement = connection.prepare("SELECT module, version FROM versions ORDER BY 1, 2").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

fn expected_rows(with_filled: bool) -> Vec<(String, String)> {
    let mut rows: Vec<_> = (0..6).map(|n| (format!("example.com/m{}", n % 2), format!("v1.{n}.0"))).collect();
    rows.extend(with_filled.then(|| ("example.com/Cap/m".to_owned(), "v1.0.0".to_owned())));
    rows.sort();
    rows
}

fn index_regenerated() -> Scenario {
    let regenerate = |root: &Path| {
        let mut command = Command::new(MIGRATE);
        command.args(["--regenerate", "--store"]).arg(root);
        command
    };
    Scenario {
        prepare: Box::new(put_without_index),
        command: Box::new(regenerate),
        drive: Box::new(only_stderr),
        check: Box::new(|root, traced, observed, is_kill| {
            if is_kill {
                return;
            }
            failed_clearly(traced, observed);
            // The program does without it, and says so.
            if traced.code == 0 && !observed.stderr.contains("was not built") {
                assert_eq!(
                    indexed(root),
                    expected_rows(false),
                    "after {:?}: {}",
                    traced.hit,
                    observed.stderr
                );
            }
        }),
        again: Box::new(move |root| {
            let output = regenerate(root).output().unwrap();
            assert!(
                output.status.success() && root.join("layout.v2").exists(),
                "{}",
                self::transcript(&output)
            );
            assert_eq!(indexed(root), expected_rows(false));
            assert_eq!(fs::read_dir(root.join("index")).unwrap().count(), 1, "an older one stays");
            assert_eq!(fs::read_dir(root.join("staging")).unwrap().count(), 0, "something stays in staging");
        }),
    }
}

/// Waits for the first look of a server at its index, and hands back what it said until then.
fn look(child: &mut Child) -> String {
    use std::io::{BufRead, BufReader};
    let mut said = String::new();
    let Some(stderr) = child.stderr.take() else { return said };
    let mut stderr = BufReader::new(stderr);
    let is_over = |log: &str| log.contains("the index is current") || log.contains("cannot update the index");
    while !is_over(&said) && stderr.read_line(&mut said).is_ok_and(|n| n > 0) {}
    child.stderr = Some(stderr.into_inner());
    said
}

fn index_kept() -> Scenario {
    let upstream = Upstream::start();
    let module = upstream.offer(PAIR, 3000);
    let url = upstream.url().to_owned();
    let check = whole_or_absent(&module);
    let expected = module.zip;
    let command = |url: &str, root: &Path| {
        let mut command = server::command(root);
        command.args(["--upstream", url]).env("STOA_LOG", "info,stoa::upkeep=debug");
        command
    };
    let again_url = url.clone();
    Scenario {
        prepare: Box::new(put_without_index),
        command: Box::new(move |root| {
            // The upstream lives as long as the scenario.
            let _ = &upstream;
            command(&url, root)
        }),
        drive: Box::new(|child| {
            let mut observed = Observed::default();
            if let Some(url) = server::listening(child) {
                observed.stderr = look(child);
                observed.answers.push(server::get(&url, ZIP).map_err(|error| error.to_string()));
                server::terminate(child);
            }
            child.stderr.take().unwrap().read_to_string(&mut observed.stderr).unwrap();
            observed
        }),
        check: Box::new(move |root, traced, observed, is_kill| {
            for answer in observed.answers.iter().flatten() {
                assert!([200, 500].contains(&answer.0), "{} after {:?}", answer.0, traced.hit);
                assert!(answer.0 != 200 || answer.1 == expected, "wrong bytes after {:?}", traced.hit);
            }
            let is_of_index = traced.hit.as_ref().is_some_and(|hit| hit.contains("index.sqlite"));
            if !is_kill && is_of_index {
                // What is derived fails no fill and no server.
                assert_eq!(traced.code, 0, "after {:?}: {}", traced.hit, observed.stderr);
            }
            check(root, traced);
        }),
        again: Box::new(move |root| {
            let mut command = command(&again_url, root);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            let mut child = command.spawn().unwrap();
            let url = server::listening(&mut child).unwrap();
            let said = look(&mut child);
            assert!(said.contains("the index is current"), "{said}");
            assert_eq!(server::get(&url, ZIP).unwrap().0, 200);
            server::terminate(&child);
            assert!(child.wait().unwrap().success());
            assert_eq!(indexed(root), expected_rows(true));
        }),
    }
}
