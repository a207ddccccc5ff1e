//! Old stores and the real programs: a server on one, an interrupted step back, what `stoa-migrate` takes.

use std::fs;
use std::path::Path;
use testkit::{Case, cases};

use stoa_layout::{ExclusiveLock, LayoutId, Layouts};

use testkit::programs::{Ended, Programs};
use testkit::server::Server;
use testkit::tree::{shape, snapshot};
use testkit::upstream::Module;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        a_server_upgrades_an_old_store_by_itself_and_serves_it,
        an_interrupted_step_back_is_a_persons_decision,
        a_waiter_makes_way_for_a_step_back,
        a_command_that_waits_does_not_undo_a_downgrade,
        verify_full_migrates_and_seals,
        regenerate_and_no_create_take_an_old_store_along,
        a_person_may_say_what_a_folder_is,
        the_list_of_steps_ends_at_the_layout_of_the_store,
    ]
}

const PAIRS: [&str; 3] = [
    "example.org/Upper/m@v1.0.0",
    "example.org/m/v2@v2.1.0",
    "example.org/m@v0.0.0-20240102030405-abcdefabcdef",
];

fn modules() -> Vec<Module> {
    PAIRS.iter().map(|pair| Module::new(pair, 1000)).collect()
}

fn make_v0(root: &Path) {
    for module in modules() {
        module.put_v0(root);
    }
    fs::write(root.join("home.html"), "<p>").unwrap();
}

fn make_tree(root: &Path) {
    for module in modules() {
        module.put_flat(root);
    }
}

fn a_server_upgrades_an_old_store_by_itself_and_serves_it() {
    for make in [make_v0, make_tree] {
        let programs = Programs::current();
        let root = programs.store();
        make(&root);
        let mut command = programs.command("stoa", ["serve", "--listen", "127.0.0.1:0"]);
        let server = Server::start_with(&mut command);
        for module in modules() {
            let (path, version) = (module.version.path().escaped(), module.version.version().escaped());
            for (ending, body) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
                let answer = server.get(&format!("/{path}/@v/{version}.{ending}"));
                assert_eq!(answer, (200, body.clone()), "{path} {version} {ending}");
            }
        }
        assert_eq!(server.get("/example.org/m/@v/list").0, 200);
        assert!(server.stop().success());
        assert!(root.join("layout.v2").is_file());
        // A server does not seal what it only migrated until it is asked for, and leaves the rest.
        let back = programs.migrate(["--to", if root.join("home.html").exists() { "v0" } else { "tree" }]);
        assert_eq!(back.code, 0, "{back:?}");
        let fresh = Programs::current();
        make(&fresh.store());
        let mut after = shape(&root);
        after.remove(Path::new("store.lock"));
        assert_eq!(after, shape(&fresh.store()));
    }
}

fn an_interrupted_step_back_is_a_persons_decision() {
    for (marker, ways) in [("migrating.v1-v0", ["v0", "v1"]), ("migrating.v2-v1", ["v1", "v2"])] {
        let programs = Programs::current();
        let root = programs.store();
        make_v0(&root);
        let layout = marker[10..].split_once('-').unwrap().0;
        assert_eq!(programs.migrate(["--to", layout]).code, 0);
        fs::rename(root.join(format!("layout.{layout}")), root.join(marker)).unwrap();
        let before = snapshot(&root);
        for arguments in [&["path", PAIRS[0]][..], &["serve", "--listen", "127.0.0.1:0"]] {
            let refused = programs.stoa(arguments);
            assert_eq!(refused.code, 78, "{refused:?}");
            for way in ways {
                assert!(refused.err.contains(&format!("--to {way}")), "{refused:?}");
            }
        }
        assert_eq!(snapshot(&root), before);
        // Either way is open.
        assert_eq!(programs.migrate(["--to", ways[0]]).code, 0);
        assert_eq!(programs.migrate::<&str>([]).code, 0);
        assert_eq!(programs.stoa(["path", PAIRS[0]]).code, 0);
    }
}

fn a_waiter_makes_way_for_a_step_back() {
    let programs = Programs::current();
    let root = programs.store();
    make_v0(&root);
    assert_eq!(programs.migrate(["--to", "v1"]).code, 0);
    let lock = ExclusiveLock::try_acquire(&root, "a person").unwrap().unwrap();
    let mut waiter = programs.command("stoa-migrate", ["--auto", "--to", "v2", "--format", "json"]);
    let mut waiter = waiter.spawn().unwrap();
    // It says whom it waits for, and has looked by then.
    let told = testkit::server::first_line(waiter.stderr.as_mut().unwrap());
    assert!(told.contains("\"waiting\"") && told.contains(&std::process::id().to_string()), "{told}");
    fs::rename(root.join("layout.v1"), root.join("migrating.v1-v0")).unwrap();
    let ended = Ended::from_child(waiter);
    assert_eq!(ended.code, 75, "{ended:?}");
    assert!(ended.err.contains("is downgrading"), "{ended:?}");
    drop(lock);
    assert_eq!(programs.migrate(["--to", "v0"]).code, 0);
}

/// Replaces the content of one store by the content of another. A lock file that both have stays, because it
/// is held.
fn replace(root: &Path, other: &Path) {
    let names = |folder: &Path| fs::read_dir(folder).unwrap().map(|name| name.unwrap()).collect::<Vec<_>>();
    for name in names(root) {
        if name.file_type().unwrap().is_dir() {
            fs::remove_dir_all(name.path()).unwrap();
        } else if name.file_name() != "store.lock" || !other.join("store.lock").exists() {
            fs::remove_file(name.path()).unwrap();
        }
    }
    for name in names(other) {
        if name.file_name() != "store.lock" {
            fs::rename(name.path(), root.join(name.file_name())).unwrap();
        }
    }
}

fn a_command_that_waits_does_not_undo_a_downgrade() {
    for way in [&["--to", "v0", "--clean"][..], &["--to", "v0"], &["--to", "v1"]] {
        for arguments in [
            &["prune", "--max-size", "0", "--yes"][..],
            &["serve", "--listen", "127.0.0.1:0", "--upstream", "off"],
        ] {
            let (programs, other) = (Programs::current(), Programs::current());
            let root = programs.store();
            for programs in [&programs, &other] {
                make_v0(&programs.store());
                assert_eq!(programs.migrate::<&str>([]).code, 0);
            }
            assert_eq!(other.migrate(way).code, 0);
            let lock = ExclusiveLock::try_acquire(&root, "a person").unwrap().unwrap();
            let mut waiter = programs.command("stoa", arguments).spawn().unwrap();
            // The first check is over by then.
            let line = testkit::server::first_line(waiter.stderr.as_mut().unwrap());
            assert!(line.contains("waiting for the lock of the store"), "{line}");
            replace(&root, &other.store());
            let before = snapshot(&root);
            drop(lock);
            let ended = Ended::from_child(waiter);
            assert_eq!(ended.code, 75, "{way:?} {ended:?}");
            assert!(ended.err.contains("changed it from layout v2 to another layout"), "{ended:?}");
            assert!(snapshot(&root) == before, "{way:?} {arguments:?}");
        }
    }
}

fn verify_full_migrates_and_seals() {
    let programs = Programs::current();
    let root = programs.store();
    make_v0(&root);
    let verified = programs.migrate(["--verify", "full"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    assert!(verified.out.contains("3 versions verified, 0 corrupt"), "{verified:?}");
    let sealed = shape(&root).keys().filter(|path| path.ends_with("ziphash")).count();
    assert_eq!(sealed, 3);
    // What is derived is not taken along to where it has no place.
    assert_eq!(programs.migrate(["--to", "v0"]).code, 0);
    assert!(!shape(&root).keys().any(|path| path.to_string_lossy().contains("ziphash")));
}

fn regenerate_and_no_create_take_an_old_store_along() {
    for option in ["--regenerate", "--no-create"] {
        let programs = Programs::current();
        make_v0(&programs.store());
        let ended = programs.migrate([option]);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(programs.stoa(["path", PAIRS[0]]).code, 0);
    }
}

fn a_person_may_say_what_a_folder_is() {
    let programs = Programs::current();
    let root = programs.store();
    fs::create_dir_all(root.join("example.org/m/v1.0.0")).unwrap();
    fs::write(root.join("example.org/m/v1.0.0/go.mod"), "module example.org/m\n").unwrap();
    let before = snapshot(&root);
    let refused = programs.migrate::<&str>([]);
    assert_eq!(refused.code, 65, "{refused:?}");
    assert_eq!(snapshot(&root), before);
    let listed = programs.stoa(["leftovers", "list", "--from", "v0"]);
    assert!(listed.out.contains("incomplete"), "{listed:?}");
    assert_eq!(snapshot(&root), before);
    let taken = programs.migrate(["--from", "v0"]);
    assert_eq!(taken.code, 0, "{taken:?}");
    assert!(root.join("layout.v2").is_file() && root.join("example.org/m/v1.0.0/go.mod").is_file());
}

fn the_list_of_steps_ends_at_the_layout_of_the_store() {
    let mut layouts = Layouts::new("test", stoa_store::LAYOUT, stoa_store::FOLDERS.to_vec());
    layouts.steps = stoa_migrations::steps();
    for old in ["v0", "tree", "v1"] {
        let way = layouts.way(&LayoutId::fixed(old), &stoa_store::LAYOUT).expect("a way");
        assert_eq!(way.last(), Some(&stoa_store::LAYOUT), "{old}");
    }
}
