use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use stoa_store::VersionFile;

use super::*;
use crate::bucket::testing::{put, store};
use crate::policy::Rule;
use crate::services::{ServiceOptions, Services};
use crate::upstream::{Upstream, UpstreamOptions};

const NAMES: [&str; 6] =
    ["a.example/m", "b.example/m", "c.example/m", "d.example/m", "e.example/m", "f.example/m"];

fn version(module: &str) -> ModuleVersion {
    ModuleVersion::parse(&format!("{module}@v1.0.0")).unwrap()
}

fn rule(mode: Mode) -> Rule {
    let upstream = Upstream::new("http://127.0.0.1:9", UpstreamOptions::default()).unwrap();
    Rule { mode, ..Rule::fetching_from(upstream) }
}

/// A store with a version per name, each published a day after the one before.
struct Fixture {
    _dir: tempfile::TempDir,
    evictor: Evictor,
    /// The bytes of a version.
    bytes: u64,
}

impl Fixture {
    async fn new(policy: Policy, options: EvictionOptions) -> Self {
        let dir = testkit::tempdir();
        let store = store(&dir.path().join("store"));
        store.usage().start();
        store.usage().flush().unwrap();
        let mut bytes = 0;
        for (n, name) in NAMES.into_iter().enumerate() {
            put(&store, &version(name));
            let info = store.locate(&version(name), VersionFile::Info).unwrap().unwrap();
            let age = Duration::from_secs(24 * 3600 * (100 - n as u64));
            std::fs::File::open(info).unwrap().set_modified(SystemTime::now() - age).unwrap();
            bytes = store.footprint(&version(name)).unwrap().unwrap().bytes;
        }
        let services = Services::new(store, policy, ServiceOptions::default());
        let evictor = Evictor {
            store: Arc::clone(&services.store),
            policy: Arc::clone(&services.policy),
            meters: Arc::default(),
            sending: Arc::clone(&services.sending),
            options,
            stop: Stop::default(),
            is_closed: Mutex::default(),
            bell: Condvar::new(),
        };
        Self { _dir: dir, evictor, bytes }
    }

    fn left(&self) -> String {
        let store = &self.evictor.store;
        let is_left = |name: &&str| store.footprint(&version(name)).unwrap().is_some();
        NAMES
            .into_iter()
            .filter(is_left)
            .map(|name| &name[..1])
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}

fn of_size(max: u64) -> EvictionOptions {
    EvictionOptions::new(Limits { max_size: Some(max), ..Limits::default() })
}

#[tokio::test]
async fn the_oldest_go_first() {
    let policy = || Policy::new(Vec::new(), rule(Mode::Sync));
    let mut fixture = Fixture::new(policy(), of_size(1)).await;
    let bytes = fixture.bytes;
    fixture.evictor.options = of_size(bytes * 6);
    assert_eq!((fixture.evictor.run().versions, fixture.left().as_str()), (0, "abcdef"));
    // Five percent less than the maximum stay.
    fixture.evictor.options = of_size(bytes * 5);
    let report = fixture.evictor.run();
    assert_eq!((report.versions, report.bytes, report.excess), (2, bytes * 2, 0));
    assert_eq!((fixture.left().as_str(), report.limits.as_str()), ("cdef", "store.max_size"));
    assert_eq!(fixture.evictor.run().versions, 0, "it is within its limit");
}

#[tokio::test]
async fn private_pinned_and_sent_versions_stay_and_so_do_those_that_cannot_return() {
    let pattern = |text| Patterns::parse(text);
    let mut denied = rule(Mode::Sync);
    denied.deny = vec!["v1.0.0".parse().unwrap()];
    let private = Rule { is_private: true, ..rule(Mode::Sync) };
    let rules = vec![
        (pattern("a.example"), private),
        (pattern("b.example"), rule(Mode::None)),
        (pattern("c.example"), denied),
    ];
    let mut options = of_size(1);
    options.keep = pattern("d.example");
    options.private = pattern("e.example");
    let fixture = Fixture::new(Policy::new(rules, rule(Mode::Sync)), options).await;
    let sent = fixture.evictor.sending.begin(&version("f.example/m"));
    let report = fixture.evictor.run();
    assert_eq!(
        (report.versions, report.excess, fixture.left().as_str()),
        (0, fixture.bytes * 6 - 1, "abcdef")
    );
    drop(sent);
    let report = fixture.evictor.run();
    assert_eq!((report.versions, fixture.left().as_str()), (1, "abcde"));
    // An offline server could download nothing again.
    let offline = Policy::new(Vec::new(), Rule { upstream: Upstream::offline(), ..rule(Mode::Sync) });
    fixture.evictor.policy.replace(offline);
    assert_eq!(fixture.evictor.run().versions, 0);
}

#[tokio::test]
async fn a_disk_that_is_too_full_loses_the_oldest() {
    let fixture = Fixture::new(Policy::new(Vec::new(), rule(Mode::Sync)), of_size(1)).await;
    let bytes = fixture.bytes;
    let limits = Limits { min_free: Some(Free::Percent(10)), ..Limits::default() };
    let run = |free| {
        let mut report = Report::default();
        let disk = Some(Disk { free, size: bytes * 100 });
        let store = &fixture.evictor.store;
        let run = Run { store, limits, may_go: &|_| true, disk, stop: &Stop::default() };
        run.run(&mut report).unwrap();
        report
    };
    assert_eq!((run(bytes * 10).versions, fixture.left().as_str()), (0, "abcdef"));
    // One more percent of the disk than the minimum is free then.
    let report = run(bytes * 9);
    assert_eq!((report.versions, report.excess, fixture.left().as_str()), (2, 0, "cdef"));
    assert_eq!(report.limits, "store.min_free");
    let report = run(0);
    assert_eq!((report.versions, report.excess, fixture.left().as_str()), (4, bytes * 6, ""));
}

#[tokio::test]
async fn a_stopped_run_ends_and_its_line_names_the_removed_versions() {
    let fixture = Fixture::new(Policy::new(Vec::new(), rule(Mode::Sync)), of_size(1)).await;
    let audit = || {
        let path = fixture.evictor.store.root().join("records/audit/current");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    fixture.evictor.stop.ask();
    assert_eq!((fixture.evictor.run().versions, audit().as_str()), (0, ""));
    let (stop, left) = (Stop::default(), std::cell::Cell::new(2_u32));
    let may_go = |_: &ModuleVersion| {
        if left.replace(left.get().saturating_sub(1)) == 0 {
            stop.ask();
        }
        true
    };
    let limits = Limits { max_size: Some(1), ..Limits::default() };
    let mut report = Report::default();
    // The count alone asks six times.
    left.set(8);
    let run = Run { store: &fixture.evictor.store, limits, may_go: &may_go, disk: None, stop: &stop };
    assert!(matches!(run.run(&mut report), Err(RunError::Stopped)));
    assert_eq!(report.versions, 3);
    let (audit, bytes) = (audit(), fixture.bytes * 3);
    let last: serde_json::Value = serde_json::from_str(audit.lines().last().unwrap()).unwrap();
    assert_eq!((&last["act"], &last["path"]), (&"evict".into(), &"modules".into()));
    assert_eq!(last["reason"], format!("3 versions, {bytes} bytes: store.max_size"));
    assert_eq!(audit.lines().count(), 4, "{audit}");
}
