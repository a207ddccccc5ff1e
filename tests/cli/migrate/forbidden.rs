//! Commands that must not upgrade a store say what the folder is. An upgrade says how to go back.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use testkit::{Case, cases};

use super::refused::unchanged;
use super::small;
use testkit::programs::Programs;
use testkit::tree::snapshot;

pub(crate) fn cases() -> Vec<Case> {
    cases![a_forbidden_upgrade_says_what_the_folder_is, an_upgrade_says_how_to_go_back]
}

/// A state of the folder, the exit code, and words of the message.
type State = (fn(&Path), i32, &'static [&'static str]);

fn a_forbidden_upgrade_says_what_the_folder_is() {
    let states: [State; 6] = [
        (
            |root| {
                fs::create_dir(root).unwrap();
                fs::write(root.join("layout.v9"), "").unwrap();
            },
            78,
            &["newer than this program", "layout.v9"],
        ),
        (
            |root| {
                fs::create_dir(root).unwrap();
                fs::write(root.join("notes.txt"), "mine").unwrap();
            },
            65,
            &["is not a store", "notes.txt"],
        ),
        (
            |root| {
                let programs = Programs::current();
                fs::rename(programs.make_store(), root).unwrap();
                fs::remove_file(root.join("layout.v2")).unwrap();
            },
            65,
            &["without its marker", "--from v2"],
        ),
        (small, 78, &["a store at layout v0", "automatic upgrades are off", "stoa-migrate --store"]),
        (
            |root| {
                small(root);
                fs::write(root.join("migrating.v1-v0"), "").unwrap();
            },
            78,
            &["downgrade from v1 to v0"],
        ),
        (|_| {}, 78, &["there is no store", "stoa-migrate --store"]),
    ];
    for (make, code, words) in states {
        for arguments in [
            &["serve", "--no-migrate", "--listen", "127.0.0.1:0"][..],
            &["serve", "--auto-migrate=false", "--listen", "127.0.0.1:0"],
            &["serve", "--read-only", "--listen", "127.0.0.1:0"],
            &["fetch", "example.com/m@v1.0.0", "--upstream", "file:///nowhere", "--no-migrate"],
        ] {
            let programs = Programs::current();
            let root = programs.store();
            make(&root);
            let before = snapshot(&root);
            let refused = programs.stoa(arguments);
            assert_eq!(refused.code, code, "{arguments:?} {refused:?}");
            for word in words {
                assert!(refused.err.contains(word), "{arguments:?}, {word}: {refused:?}");
            }
            if root.exists() {
                unchanged(&before, &root);
            }
        }
    }
}

fn an_upgrade_says_how_to_go_back() {
    let programs = Programs::current();
    small(&programs.store());
    let mut server =
        programs.command("stoa", ["serve", "--listen", "127.0.0.1:0"]).spawn().expect("the server starts");
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("listening"), "{line}");
    server.kill().unwrap();
    server.wait().unwrap();
    let mut log = String::new();
    server.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("from layout v0 to v2"), "{log}");
    assert!(log.contains(&format!("stoa-migrate --store {} --to v0", programs.store().display())), "{log}");
}
