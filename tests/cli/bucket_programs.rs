//! The programs on a bucket of any service, and checks of what they leave there.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use testkit::bucket::{TestBucket, athens_key};
use testkit::fault_proxy::FaultProxy;
use testkit::server::{Server, command};
use testkit::upstream::{Module, Upstream};
use testkit::{MIGRATE, STOA, transcript};

/// Takes the lease and the claims away, as the time would that a waiting process must let pass.
pub(super) fn let_time_pass(bucket: &TestBucket) {
    for key in bucket.keys("~stoa/").into_iter().filter(|key| key.contains("/claims/")) {
        bucket.delete(&key);
    }
    let Some(state) = bucket.get(STATE) else { return };
    let text = String::from_utf8(state).unwrap();
    if let Some((head, rest)) = text.split_once("[lease]") {
        let rest = rest.split_once("\n[").map_or(String::new(), |(_, rest)| format!("[{rest}"));
        bucket.put(STATE, format!("{head}{rest}"));
    }
}

/// The marker and the lease.
pub(super) const STATE: &str = "~stoa/state";

/// The variables by which a program finds the service, directly or behind the proxy.
pub(super) type Environment = Vec<(String, String)>;

pub(super) fn behind(bucket: &TestBucket, proxy: &FaultProxy) -> Environment {
    bucket.environment_at(proxy.url())
}

pub(super) fn migrate(bucket: &TestBucket, environment: Environment, to: &str) -> Command {
    let mut command = Command::new(MIGRATE);
    command.args(["--bucket", bucket.url(), "--to", to]).envs(environment).env_remove("STOA_LOG");
    command
}

pub(super) fn stoa(bucket: &TestBucket, environment: Environment, arguments: &[&str]) -> Command {
    let mut command = Command::new(STOA);
    command.args(arguments).args(["--bucket", bucket.url()]).envs(environment).env_remove("STOA_LOG");
    command
}

/// Runs a program that a fault may stop. Returns its exit code, or `None` if it was killed.
pub(super) fn disturbed(proxy: &FaultProxy, command: &mut Command) -> Option<i32> {
    let mut child = proxy.spawn(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let code = child.wait().unwrap().code();
    assert_ne!(code, Some(101), "it has panicked");
    code
}

#[track_caller]
pub(super) fn succeeds(command: &mut Command, what: &str) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{what}: {}", transcript(&output));
}

pub(super) fn upgrade_now(bucket: &TestBucket, what: &str) {
    succeeds(&mut migrate(bucket, bucket.environment(), "b1"), what);
}

pub(super) fn modules() -> Vec<Module> {
    (0..3).map(|n| Module::new(&format!("example.com/Mod@v1.0.{n}"), 500)).collect()
}

/// Fills a bucket as Athens does.
pub(super) fn athens(bucket: &TestBucket) {
    modules().iter().for_each(|module| bucket.save(module));
}

pub(super) fn upgraded(bucket: &TestBucket) {
    athens(bucket);
    upgrade_now(bucket, "the first upgrade");
}

/// Returns the objects that an Athens leaves of some versions.
pub(super) fn as_athens(modules: &[Module]) -> BTreeMap<String, Vec<u8>> {
    let files = |module: &Module| {
        let files = [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)];
        files.map(|(suffix, data)| (athens_key(module, suffix), data.clone()))
    };
    modules.iter().flat_map(files).collect()
}

/// Returns all objects that are not of this program.
pub(super) fn others(bucket: &TestBucket) -> BTreeMap<String, Vec<u8>> {
    let keys = bucket.keys("").into_iter().filter(|key| !key.starts_with("~stoa/"));
    keys.map(|key| (key.clone(), bucket.get(&key).unwrap())).collect()
}

pub(super) fn serve(
    bucket: &TestBucket,
    environment: Environment,
    store: &Path,
    upstream: Option<&str>,
) -> Server {
    let mut command = command(store);
    command.envs(environment).env("STOA_BUCKET_URL", bucket.url()).env("GOSUMDB", "off");
    match upstream {
        Some(url) => command.args(["--upstream", url]),
        None => command.arg("--offline"),
    };
    Server::start_with(&mut command)
}

/// Serves all versions from the bucket alone, by a server that has none of them.
pub(super) fn served(bucket: &TestBucket, modules: &[Module], what: &str) {
    let dir = testkit::tempdir();
    let server = serve(bucket, bucket.environment(), dir.path(), None);
    for module in modules {
        for (extension, body) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
            let (status, found) = server.get(&module.path(extension));
            let text = String::from_utf8_lossy(&found);
            assert!(
                status == 200 && found == *body,
                "{what}: {} {extension}: {status} {text}",
                module.version
            );
        }
    }
}

/// Asks a server behind the proxy for a zip. A client that gets all of it gets the right one.
pub(super) fn asked_for(
    bucket: &TestBucket,
    proxy: &FaultProxy,
    module: &Module,
    upstream: Option<&str>,
) -> bool {
    let dir = testkit::tempdir();
    let server = serve(bucket, behind(bucket, proxy), dir.path(), upstream);
    proxy.set_process(server.pid());
    let reply = server.ask("GET", &module.path("zip"), &[]);
    // It ends what it does in the background. A killed one has ended.
    server.stop();
    let is_served = reply.status == 200 && reply.is_whole;
    assert!(!is_served || reply.body == module.zip);
    is_served
}

/// Returns what fills a bucket with one version of Athens and two that a server has filled, and these three.
pub(super) fn mixed() -> (impl Fn(&TestBucket), Vec<Module>) {
    let upstream = Upstream::start();
    let filled: Vec<_> =
        (0..2).map(|n| upstream.offer(&format!("example.com/filled@v1.0.{n}"), 500)).collect();
    let all = [&modules()[..1], &filled].concat();
    let prepare = move |bucket: &TestBucket| {
        bucket.save(&modules()[0]);
        let dir = testkit::tempdir();
        let server = serve(bucket, bucket.environment(), dir.path(), Some(upstream.url()));
        for module in &filled {
            assert_eq!(server.get(&module.path("zip")).0, 200);
        }
        assert!(server.stop().success());
    };
    (prepare, all)
}

pub(super) fn downgrade_now(bucket: &TestBucket, what: &str) {
    succeeds(&mut migrate(bucket, bucket.environment(), "athens"), what);
}

/// Writes versions into a folder as Athens does.
pub(super) fn folder(modules: &[Module]) -> tempfile::TempDir {
    let dir = testkit::tempdir();
    modules.iter().for_each(|module| drop(module.put_v0(dir.path())));
    dir
}

pub(super) fn manifests(bucket: &TestBucket) -> Vec<Value> {
    let state = bucket.text(STATE);
    let id = state.lines().find_map(|line| line.strip_prefix("id = \"")).unwrap().trim_end_matches('"');
    let keys = bucket.keys(&format!("~stoa/{id}/m/"));
    keys.iter().map(|key| serde_json::from_str(&bucket.text(key)).unwrap()).collect()
}

/// Checks that the content of every version that exists is there. Returns their number.
pub(super) fn all_contents_exist(bucket: &TestBucket, what: &str) -> usize {
    let present: Vec<_> =
        manifests(bucket).into_iter().filter(|manifest| manifest["state"] == "present").collect();
    for manifest in &present {
        let key = manifest["content"]["zip"]["key"].as_str().unwrap();
        assert!(bucket.get(key).is_some(), "{what}: {key} is gone");
    }
    present.len()
}

/// Returns the keys of the zips that are not of Athens.
pub(super) fn zips(bucket: &TestBucket) -> Vec<String> {
    bucket.keys("~stoa/").into_iter().filter(|key| key.ends_with(".zip")).collect()
}
