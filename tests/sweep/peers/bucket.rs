//! The turn to pull among the servers of a bucket: one server is killed at every request that changes the bucket, and
//! another server continues from the pointers in the bucket.
//!
//! The other server has compared all modules with the peer shortly before, as a server does that runs for a long time. In
//! one case the peer answers no comparison, so that only the pointers show what is left. The work for a lifted version comes
//! by a question about its module, which no pointer knows. So this case does not expect it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use testkit::bucket::{RunningService, Service, TestBucket};
use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::gcs::Asked;
use testkit::request_sweep::lasts;
use testkit::server::Server;
use testkit::{Case, MIGRATE, STOA, create, transcript, trial};

use super::partner::{Partner, stoa};

pub(super) fn cases() -> Vec<Case> {
    let needs = Service::Gcs.needs_here();
    [("and compares", true), ("by the pointers alone", false)]
        .map(|(how, has_digests)| {
            let name = format!("bucket: another server takes the turn to pull over {how}");
            trial(&name, None, move || taken_over(has_digests)).needs(needs)
        })
        .into()
}

/// Number of runs at the same time. A run waits most of its time.
const AT_ONCE: usize = 6;

/// The longest time of a run: a turn that was lost is taken over after 30 seconds, and noted every 10 seconds.
const PATIENCE: Duration = Duration::from_secs(240);

fn taken_over(has_digests: bool) {
    let service = Service::Gcs.start_here();
    let found = Run::new(&service, has_digests).undisturbed();
    assert!(found.iter().any(|asked| asked.key.contains("/peers/")), "no request notes the turn: {found:?}");
    let left = Mutex::new((1..).zip(&found));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((n, asked)) = left.lock().unwrap().next() else { return };
                    let what =
                        format!("a kill at change {n} of {}: {} {}", found.len(), asked.method, asked.key);
                    println!("{what}");
                    Run::new(&service, has_digests).killed_at(n, &what);
                }
            });
        }
    });
}

/// A peer, and a bucket with two servers.
struct Run {
    partner: Partner,
    bucket: TestBucket,
    proxy: FaultProxy,
    folder: tempfile::TempDir,
    has_digests: bool,
}

impl Run {
    fn new(service: &RunningService, has_digests: bool) -> Self {
        let (partner, bucket, folder) = (Partner::start(), service.bucket(), testkit::tempdir());
        let proxy = FaultProxy::start(&bucket, lasts);
        let run = Self { partner, bucket, proxy, folder, has_digests };
        for root in [run.root(0), run.root(1)] {
            run.partner.configure(root.parent().unwrap(), "1s");
            create(&root);
        }
        let mut upgrade = Command::new(MIGRATE);
        upgrade.args(["--bucket", run.bucket.url(), "--to", "b1"]).envs(run.bucket.environment());
        run.done(&mut upgrade);
        let source = run.folder.path().join("source");
        create(&source);
        run.partner.put_all(&source);
        let mut import = Command::new(STOA);
        import.arg("import").arg(&source).args(["--bucket", run.bucket.url()]);
        run.done(import.envs(run.bucket.environment()));
        let lifted = run.partner.lifted().version.to_string();
        let mut remove = Command::new(STOA);
        remove.args(["remove", "--tombstone", "--yes", &lifted, "--bucket", run.bucket.url()]);
        run.done(remove.envs(run.bucket.environment()));
        // The comparison of the second server.
        run.partner.be_silent(true);
        run.done(&mut run.stoa(&run.root(1), false, &["peers", "sync", "m", "--compare"]));
        run.partner.be_silent(false);
        run.partner.answer_digests(has_digests);
        run
    }

    fn root(&self, server: usize) -> PathBuf {
        self.folder.path().join(["first", "second"][server]).join("store")
    }

    fn stoa(&self, root: &Path, is_behind: bool, arguments: &[&str]) -> Command {
        let mut command = stoa(root, arguments);
        let environment =
            if is_behind { self.bucket.environment_at(self.proxy.url()) } else { self.bucket.environment() };
        command.envs(environment).env("STOA_BUCKET_URL", self.bucket.url());
        command
    }

    fn done(&self, command: &mut Command) {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", transcript(&output));
    }

    fn serve(&self, server: usize) -> Command {
        self.stoa(&self.root(server), server == 0, &["serve", "--listen", "127.0.0.1:0"])
    }

    /// Lets the first server do everything. Returns the requests that changed the bucket.
    fn undisturbed(&self) -> Vec<Asked> {
        let server = Server::start_with(&mut self.serve(0));
        self.wait_until_done(&server, "without a kill");
        let found = self.proxy.counted();
        self.partner.check_each_downloaded(self.has_digests);
        assert!(server.stop().success());
        self.check(1, "without a kill");
        found
    }

    /// Kills the first server at a request, and lets the second one continue.
    fn killed_at(&self, n: usize, what: &str) {
        self.proxy.inject(n, Fault::Kill, || unreachable!());
        let mut child = self.proxy.spawn(&mut self.serve(0));
        let began = Instant::now();
        // The first server may make a request less, because its threads interleave.
        while !self.proxy.is_hit() && !self.is_done() {
            assert!(began.elapsed() < PATIENCE, "{what}: neither killed nor done");
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        child.wait().unwrap();
        let server = Server::start_with(&mut self.serve(1));
        self.wait_until_done(&server, what);
        assert!(server.stop().success(), "{what}");
        // The first server may have been killed after each of its downloads.
        self.check(2, what);
    }

    /// Returns whether the pointer in the bucket is behind all events.
    fn is_done(&self) -> bool {
        let keys = self.bucket.keys("~stoa/");
        let Some(key) = keys.iter().find(|key| key.ends_with("/peers/m.json")) else { return false };
        let turn: serde_json::Value = serde_json::from_slice(&self.bucket.get(key).unwrap()).unwrap();
        turn["pointers"] == self.partner.last_pointer()
    }

    fn wait_until_done(&self, server: &Server, what: &str) {
        let began = Instant::now();
        while !(self.is_done() && self.is_complete(server)) {
            assert!(
                began.elapsed() < PATIENCE,
                "{what}: not done. The pointer is at its end: {}. Versions: {:?}",
                self.is_done(),
                self.statuses(server)
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Returns whether all versions are in the bucket, and the tombstone.
    fn is_complete(&self, server: &Server) -> bool {
        let (new, gone) = self.statuses(server);
        let expected = if self.has_digests { new.len() } else { new.len() - 1 };
        new.iter().take(expected).all(|status| *status == 200) && gone == 410
    }

    /// Returns the statuses of the versions of the peer, and that of the forbidden one, without a download.
    fn statuses(&self, server: &Server) -> (Vec<u16>, u16) {
        let (new, forbidden) = self.partner.versions();
        let status = |module: &testkit::Module| {
            server.ask("GET", &module.path("zip"), &[("Disable-Module-Fetch", "true")]).status
        };
        (new.iter().map(status).collect(), status(forbidden))
    }

    /// Checks that nothing is downloaded more often than the kill explains, that nothing is overwritten, and that the
    /// conflict is noted by one of the servers.
    fn check(&self, most: usize, what: &str) {
        self.partner.check_downloads(most, what);
        let conflicts = [0, 1].map(|server| {
            let output =
                self.stoa(&self.root(server), false, &["peers", "--format", "json"]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let state: serde_json::Value =
                text.lines().next().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
            state["conflicts"].as_u64().unwrap_or_default()
        });
        assert!(conflicts.contains(&1), "{what}: nobody has noted the conflict: {conflicts:?}");
    }
}
