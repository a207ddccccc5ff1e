//! Processes wait for each other, and no process works without the lock.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Barrier;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use stoa_layout::{Cancel, Event, Events, ExclusiveLock, Exit, Runner};

use crate::layouts::layouts;
use crate::run::{self, Options, auto, done, markers, nothing, to};
use crate::run::{code, stderr};
use crate::support::homes;
use crate::support::programs::{example, migrator};
use crate::support::tree::settled;

/// A program that uses the home until its input ends.
struct User(Child);

impl User {
    fn start(home: &Path) -> Self {
        let mut child = Command::new(example("tool_home"))
            .arg("--store")
            .arg(home)
            .args(["run", "waiter"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn stop(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

fn home_with_a_user(root: &Path) -> User {
    homes::v0(root);
    let bin = root.join("tools/waiter-1/bin");
    std::fs::create_dir_all(&bin).unwrap();
    testkit::programs::install_script(&bin.join("waiter"), "#!/bin/sh\necho ready\nread line\n");
    run::run(root, &to("v2"));
    User::start(root)
}

#[test]
fn a_store_in_use_is_busy_and_names_its_user() {
    let dir = testkit::tempdir();
    let user = home_with_a_user(dir.path());
    let before = settled(dir.path());
    let words = ["tool_home (process ", "store.lock", "--lock-timeout", "nothing was changed"];
    run::run(dir.path(), &to("v0")).assert_failed(Exit::BUSY, &words);
    let regenerate = Options { regenerate: true, ..to("v2") };
    run::run(dir.path(), &regenerate).assert_failed(Exit::BUSY, &words);
    let output = migrator(dir.path()).args(["--to", "v1", "--lock-timeout", "0.1"]).output().unwrap();
    assert_eq!(code(&output), 75, "{output:?}");
    assert!(stderr(&output).contains(&format!("process {}", user.0.id())), "{output:?}");
    run::assert_same(&before, &settled(dir.path()), "a home in use");
    user.stop();
    assert_eq!(run::run(dir.path(), &to("v0")), done("v0"));
}

#[test]
fn a_waiting_run_continues_when_the_user_is_gone() {
    let dir = testkit::tempdir();
    let user = home_with_a_user(dir.path());
    let patient = Options { lock_timeout: Duration::from_secs(30), ..to("v1") };
    thread::scope(|scope| {
        let (told, waits) = mpsc::channel();
        let waiter = scope.spawn(|| run_telling(dir.path(), &patient, Teller::when_waiting(told)));
        waits.recv().unwrap();
        user.stop();
        assert_eq!(waiter.join().unwrap(), 0);
    });
    assert_eq!(markers(dir.path()), ["layout.v1"]);
}

#[test]
fn one_of_many_starters_migrates() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    for n in 0..30 {
        homes::file(&dir.path().join(format!("tools/many-{n}/bin/many")), "", 0o755);
    }
    let barrier = Barrier::new(20);
    let runs: Vec<(u32, Output)> = thread::scope(|scope| {
        let starters: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    let child = migrator(dir.path()).arg("--auto").stderr(Stdio::piped()).spawn().unwrap();
                    (child.id(), child.wait_with_output().unwrap())
                })
            })
            .collect();
        starters.into_iter().map(|starter| starter.join().unwrap()).collect()
    });
    for (_, output) in &runs {
        assert_eq!(code(output), 0, "{output:?}");
    }
    let winners: Vec<u32> =
        runs.iter().filter(|(_, output)| stderr(output).contains("done,")).map(|(pid, _)| *pid).collect();
    assert_eq!(winners.len(), 1, "{runs:#?}");
    // The losers write nothing, not even their names into the lock file.
    let lock = fs::read_to_string(dir.path().join("store.lock")).unwrap();
    assert!(lock.contains(&format!("pid = {}\n", winners[0])), "{lock} {winners:?}");
    assert_eq!(markers(dir.path()), ["layout.v2"]);
}

/// Names may change while they are read. Only a look under the lock counts while another process works.
#[test]
fn a_look_during_the_work_of_another_process_does_not_count() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    run::run(dir.path(), &to("v2"));
    let lock = locked(dir.path());
    homes::file(&dir.path().join("layout.v1"), "", 0o644);
    thread::scope(|scope| {
        let (told, waits) = mpsc::channel();
        let root = dir.path();
        let waiter = scope.spawn(move || run_telling(root, &auto(), Teller::when_waiting(told)));
        waits.recv().unwrap();
        fs::remove_file(dir.path().join("layout.v1")).unwrap();
        assert_eq!(waiter.join().unwrap(), 0);
    });
    drop(lock);
}

#[test]
fn an_automatic_run_stops_waiting_for_a_step_back() {
    // One run waits before the step begins, the other while the step is under way.
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    run::run(dir.path(), &to("v1"));
    let back = to("v0");
    thread::scope(|scope| {
        let (told, moving) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let person = scope.spawn(|| run_telling(dir.path(), &back, Teller::when_moving(told, may_go_on)));
        moving.recv().unwrap();
        run::run(dir.path(), &auto()).assert_failed(Exit::BUSY, &["is downgrading"]);
        go_on.send(()).unwrap();
        assert_eq!(person.join().unwrap(), 0);
    });
    assert_eq!(markers(dir.path()), Vec::<String>::new());
    // The end of a step back counts too: the layout is older than at first.
    run::run(dir.path(), &to("v1"));
    let lock = locked(dir.path());
    thread::scope(|scope| {
        let (told, waits) = mpsc::channel();
        let root = dir.path();
        let waiter = scope.spawn(move || run_telling(root, &auto(), Teller::when_waiting(told)));
        waits.recv().unwrap();
        fs::rename(dir.path().join("tools/zig/0.13.0"), dir.path().join("tools/zig-0.13.0")).unwrap();
        fs::remove_file(dir.path().join("layout.v1")).unwrap();
        assert_eq!(waiter.join().unwrap(), Exit::BUSY.code());
    });
    drop(lock);
}

/// Takes the lock. The child of another test may hold a copy of a released lock between its fork and its exec.
fn locked(root: &Path) -> ExclusiveLock {
    loop {
        if let Some(lock) = ExclusiveLock::try_acquire(root, "test").unwrap() {
            return lock;
        }
        thread::yield_now();
    }
}

#[test]
fn a_waiter_can_be_stopped() {
    let dir = testkit::tempdir();
    homes::v0(dir.path());
    let _lock = locked(dir.path());
    let before = settled(dir.path());
    thread::scope(|scope| {
        let (told, waits) = mpsc::channel();
        let teller = Teller::when_waiting(told);
        let cancel = teller.cancel.clone();
        let root = dir.path();
        let waiter = scope.spawn(move || run_telling(root, &auto(), teller));
        waits.recv().unwrap();
        cancel.cancel(15);
        assert_eq!(waiter.join().unwrap(), 143);
    });
    run::assert_same(&before, &settled(dir.path()), "stopped while waiting");
}

/// Reports the progress of a run to a test, and holds the run there.
struct Teller {
    waiting: Option<mpsc::Sender<()>>,
    moving: Option<(mpsc::Sender<()>, std::sync::Mutex<mpsc::Receiver<()>>)>,
    cancel: Cancel,
}

impl Teller {
    fn when_waiting(told: mpsc::Sender<()>) -> Self {
        Self { waiting: Some(told), moving: None, cancel: Cancel::new() }
    }

    fn when_moving(told: mpsc::Sender<()>, go_on: mpsc::Receiver<()>) -> Self {
        Self { waiting: None, moving: Some((told, go_on.into())), cancel: Cancel::new() }
    }
}

impl Events for Teller {
    fn event(&self, event: Event<'_>) {
        match (event, &self.waiting, &self.moving) {
            (Event::Waiting { .. }, Some(told), _) => {
                let _ = told.send(());
            }
            (Event::Progress { items: 1, .. }, _, Some((told, go_on))) => {
                told.send(()).unwrap();
                go_on.lock().unwrap().recv().unwrap();
            }
            _ => {}
        }
    }
}

fn run_telling(root: &Path, options: &Options, teller: Teller) -> u8 {
    let layouts = layouts();
    let runner = Runner { root, layouts: &layouts, options, events: &teller, cancel: &teller.cancel };
    runner.run().map_or_else(|error| error.exit().code(), |_| 0)
}

#[test]
fn a_dead_process_leaves_no_lock_behind() {
    let dir = testkit::tempdir();
    let mut user = home_with_a_user(dir.path());
    user.0.kill().unwrap();
    user.0.wait().unwrap();
    assert_eq!(run::run(dir.path(), &auto()), nothing("v2"));
    assert_eq!(run::run(dir.path(), &to("v1")), done("v1"));
}
