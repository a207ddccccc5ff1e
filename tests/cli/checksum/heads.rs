//! Heads of the database's tree: forks, and what is older.

use super::bench::Bench;

pub(super) fn fork() {
    let bench = Bench::new();
    let modules = [0, 1, 2, 3].map(|n| bench.site.offer(&format!("example.com/m@v1.0.{n}")));
    bench.site.record(&modules[0]);
    let server = bench.serve("auto");
    bench.assert_filled(&server, &modules[0]);
    let honest = bench.site.state().records.clone();
    bench.site.state().records[5].1 = "example.org/other5 v1.0.0 h1:another\n".to_owned();
    modules[1..].iter().for_each(|module| bench.site.record(module));
    let words = "two contradicting trees";
    bench.assert_refused(&server, &modules[1], "zip", 502, words);
    let asked = bench.site.asked("/lookup/");
    // From now on it is not even asked.
    bench.site.state().records = honest;
    modules[1..].iter().for_each(|module| bench.site.record(module));
    bench.assert_refused(&server, &modules[2], "zip", 502, words);
    assert_eq!(bench.site.asked("/lookup/"), asked);
    assert_eq!(bench.largest(), 301);
    let [fork] = bench.forks().try_into().unwrap();
    for part in
        ["go.sum database tree\n301\n", "go.sum database tree\n304\n", "\u{2014} ", "tile/8/1/000.p/1 "]
    {
        assert!(fork.contains(part), "{fork}");
    }
    let log = bench.log();
    let heads = log.matches("go.sum database tree").count();
    assert!(log.contains("SECURITY") && heads == 2 && log.contains("fork-"), "{log}");
    assert!(server.stop().success());
    // Nothing of the other story was kept.
    let server = bench.serve("require");
    bench.assert_filled(&server, &modules[1]);
    bench.assert_filled(&server, &modules[3]);
    assert_eq!((bench.largest(), bench.forks().len()), (304, 1));
}

pub(super) fn fork_after_restart() {
    let bench = Bench::new();
    let modules = [0, 1].map(|n| bench.site.offer(&format!("example.com/m@v1.0.{n}")));
    bench.site.record(&modules[0]);
    let server = bench.serve("auto");
    bench.assert_filled(&server, &modules[0]);
    assert!(server.stop().success());
    bench.site.state().records[299].1 = "example.org/other299 v1.0.0 h1:another\n".to_owned();
    bench.site.record(&modules[1]);
    let server = bench.serve("auto");
    bench.assert_refused(&server, &modules[1], "zip", 502, "two contradicting trees");
    assert_eq!(bench.forks().len(), 1);
    assert_eq!(bench.largest(), 301);
}

pub(super) fn fork_of_one_size() {
    let bench = Bench::new();
    let modules = [0, 1].map(|n| bench.site.offer(&format!("example.com/m@v1.0.{n}")));
    bench.site.record(&modules[0]);
    let server = bench.serve("auto");
    bench.assert_filled(&server, &modules[0]);
    bench.site.state().records.pop();
    bench.site.record(&modules[1]);
    bench.assert_refused(&server, &modules[1], "zip", 502, "two contradicting trees");
    assert_eq!(bench.forks().len(), 1);
}

pub(super) fn older_head() {
    let bench = Bench::new();
    let modules = [0, 1, 2].map(|n| bench.site.offer(&format!("example.com/m@v1.0.{n}")));
    modules.iter().for_each(|module| bench.site.record(module));
    bench.site.add_others(600);
    let server = bench.serve("require");
    bench.assert_filled(&server, &modules[0]);
    assert_eq!(bench.largest(), 903);
    bench.site.state().signed = Some(303);
    bench.assert_filled(&server, &modules[1]);
    assert!(server.stop().success());
    let server = bench.serve("require");
    bench.assert_filled(&server, &modules[2]);
    assert_eq!(bench.largest(), 903);
    assert!(bench.forks().is_empty());
}

pub(super) fn two_proxies() {
    let bench = Bench::new();
    let modules = [0, 1, 2, 3].map(|n| bench.site.offer(&format!("example.com/m@v1.0.{n}")));
    modules.iter().for_each(|module| bench.site.record(module));
    let (one, two) = (bench.serve("require"), bench.serve("require"));
    bench.assert_filled(&one, &modules[0]);
    bench.site.add_others(500);
    bench.assert_filled(&two, &modules[1]);
    assert_eq!(bench.largest(), 804);
    // News for the first, and older than what the second has kept.
    bench.site.state().signed = Some(500);
    bench.assert_filled(&one, &modules[2]);
    assert_eq!(bench.largest(), 804);
    // One of them meets a tree that does not go on from what the other one has kept.
    let mut state = bench.site.state();
    state.signed = None;
    state.records[700].1 = "example.org/other700 v1.0.0 h1:another\n".to_owned();
    drop(state);
    bench.site.add_others(1);
    bench.assert_refused(&one, &modules[3], "zip", 502, "two contradicting trees");
    assert_eq!((bench.largest(), bench.forks().len()), (804, 1));
}
