//! The records of versions: hashes of removals and of the database, and failed lookups.

use std::process::Output;

use testkit::sumdb;
use testkit::transcript;

use super::bench::{Bench, another, assert_answered, get};
use super::evil;

const PAIR: &str = "example.com/m@v1.0.0";

/// A part of the message for a version that differs from the version that was removed.
const REMOVED: &str = "the hash recorded when it was removed is h1:";

fn run(bench: &Bench, args: &[&str]) -> Output {
    let output = bench.stoa(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", transcript(&output));
    output
}

pub(super) fn moved_tag() {
    let bench = Bench::new();
    // The database does not know the version yet, and its tag is moved afterwards.
    let (first, moved) = evil();
    bench.site.put(&first);
    let server = bench.serve("auto");
    bench.assert_filled(&server, &first);
    run(&bench, &["remove", PAIR]);
    bench.site.put(&moved);
    // Nothing vouches for the new content, so the removal binds.
    for ending in ["mod", "zip"] {
        assert_answered(&server, &moved, ending, 403, REMOVED);
    }
    let refused = bench.log();
    bench.site.record(&moved);
    assert_eq!(get(&server, &moved, "mod"), (200, moved.modfile.clone()), "{refused}");
    bench.assert_filled(&server, &moved);
    let record = bench.record(&moved.version).unwrap();
    assert!(record.contains(sumdb::NAME), "{record}");
    // The verdict of the database stays, whatever comes later.
    run(&bench, &["remove", PAIR]);
    bench.site.put(&first);
    for ending in ["mod", "zip"] {
        bench.assert_other(&server, &moved, ending, super::RECORDED);
    }
}

pub(super) fn forget() {
    let bench = Bench::new();
    let first = bench.site.offer(PAIR);
    let moved = another(PAIR, 10_000, None);
    let server = bench.serve("off");
    bench.assert_filled(&server, &first);
    run(&bench, &["remove", PAIR]);
    bench.site.put(&moved);
    assert_answered(&server, &moved, "zip", 403, REMOVED);
    run(&bench, &["remove", "--forget", PAIR]);
    assert_eq!(bench.record(&moved.version), None);
    bench.assert_filled(&server, &moved);
    run(&bench, &["remove", "--forget", "example.com/m"]);
    assert_eq!(bench.record(&moved.version), None);
    bench.site.put(&first);
    bench.assert_filled(&server, &first);
    // prune records no hash of private modules unless it is asked to.
    for (private, options, is_recorded) in
        [("", &[][..], true), ("example.com/*", &[], false), ("example.com/*", &["--record-private"], true)]
    {
        bench.assert_filled(&server, &first);
        let mut command = bench.stoa(&["prune", "--max-size", "0"]);
        let output = command.args(options).env("GONOSUMDB", private).output().unwrap();
        assert!(output.status.success(), "{}", transcript(&output));
        assert_eq!(bench.record(&first.version).is_some(), is_recorded, "{private} {options:?}");
        bench.assert_not_stored(&first.version);
        if is_recorded {
            run(&bench, &["remove", "--forget", PAIR]);
        }
    }
}

pub(super) fn failed_lookup() {
    let bench = Bench::new();
    let (sent, known) = evil();
    bench.site.put(&sent);
    bench.site.record(&known);
    bench.site.state().forges_tiles = true;
    let server = bench.serve("auto");
    // The lookup runs beside the download, so the first client may get the mod.
    get(&server, &sent, "mod");
    testkit::until("the failure is recorded", || {
        bench.record(&known.version).is_some_and(|record| record.contains("[failed_lookup]"))
    });
    // A client that joins the first download gets the mod, too. The download ends before the server does.
    assert!(server.stop().success());
    let server = bench.serve("auto");
    assert_answered(&server, &sent, "mod", 502, "invalid tiles");
    bench.site.state().forges_tiles = false;
    bench.assert_other(&server, &known, "mod", "checksum mismatch");
    assert!(!bench.record(&known.version).unwrap().contains("failed_lookup"));
}
