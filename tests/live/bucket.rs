//! A bucket on each service, and a real Athens that fills one on a real S3 server.
//!
//! Athens needs a go toolchain and the upstream that it is set up with; what is built is kept for the next run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stoa_gomod::{ModulePath, ModuleVersion, Version};
use testkit::bucket::{Service, TestBucket, athens_key};
use testkit::peer::{self, Peer};
use testkit::s3::{self, S3};
use testkit::server::{Server, command};
use testkit::upstream::{Module, Upstream};
use testkit::{Case, MIGRATE, STOA, go::Go, program, transcript, trial};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for service in Service::ALL {
        let name = format!("servers share a bucket on {service}");
        let run = move || shared(&service.start().bucket());
        cases.push(trial(&name, None, run).needs(service.needs()));
    }
    // The double has no key to sign with.
    for service in [Service::S3, Service::Azure] {
        let name = format!("clients are redirected to {service}");
        let run = move || redirected(&service.start().bucket());
        cases.push(trial(&name, None, run).needs(service.needs()));
    }
    let missing = || peer::missing().or_else(s3::missing);
    let name = "a bucket of a real Athens is upgraded, served and given back";
    cases.push(trial(name, None, athens).needs(missing));
    cases
}

type Environment = Vec<(String, String)>;

fn serve(bucket: (&str, Environment), store: &Path, upstream: Option<&str>) -> Command {
    let (url, environment) = bucket;
    let mut command = command(store);
    command.envs(environment).env("STOA_BUCKET_URL", url).env("GOSUMDB", "off");
    command.env("STOA_FILL_LIST_TTL", "0");
    match upstream {
        Some(url) => command.args(["--upstream", url]),
        None => command.arg("--offline"),
    };
    command
}

fn run(bucket: (&str, Environment), program: testkit::Program, arguments: &[&str]) -> String {
    let (url, environment) = bucket;
    let mut command = Command::new(program);
    command.args(arguments).args(["--bucket", url]).envs(environment);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", transcript(&output));
    transcript(&output)
}

#[track_caller]
fn whole(server: &Server, module: &Module) {
    for (extension, body) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
        let (status, found) = server.get(&module.path(extension));
        assert!(status == 200 && found == *body, "{}: {extension}: {status}", module.version);
    }
}

fn shared(bucket: &TestBucket) {
    let (upstream, dir) = (Upstream::start(), testkit::tempdir());
    // One is written by one request, the other in parts.
    let modules = [
        upstream.offer("example.com/Small@v1.0.0", 500),
        upstream.offer("example.com/Small@v1.1.0", 30 << 20),
    ];
    let found = || (bucket.url(), bucket.environment());
    let start =
        |name: &str, upstream| Server::start_with(&mut serve(found(), &dir.path().join(name), upstream));
    let first = start("first", Some(upstream.url()));
    modules.iter().for_each(|module| whole(&first, module));
    let second = start("second", None);
    modules.iter().for_each(|module| whole(&second, module));
    assert_eq!(second.get("/example.com/!small/@v/list").1, b"v1.0.0\nv1.1.0\n");
    assert!(run(found(), STOA, &["list"]).contains("2 versions of 1 module"));
    assert!(run(found(), STOA, &["verify", "--again"]).contains("2 versions verified"));
    run(found(), STOA, &["remove", "--tombstone", "example.com/Small@v1.0.0"]);
    let third = start("third", Some(upstream.url()));
    assert_eq!(third.get(&modules[0].path("zip")).0, 410);
    whole(&third, &modules[1]);
    for server in [first, second, third] {
        assert!(server.stop().success());
    }
    run(found(), MIGRATE, &["--to", "athens"]);
    let mut left = ["info", "mod", "zip"].map(|suffix| athens_key(&modules[1], suffix)).to_vec();
    left.push("~stoa/state".to_owned());
    assert_eq!(bucket.keys(""), left);
    assert!(bucket.get(&left[2]).unwrap() == modules[1].zip);
}

fn redirected(bucket: &TestBucket) {
    let (upstream, dir) = (Upstream::start(), testkit::tempdir());
    let module = upstream.offer("example.com/m@v1.0.0", 300_000);
    let store = dir.path().join("store");
    let mut command = serve((bucket.url(), bucket.environment()), &store, Some(upstream.url()));
    let server = Server::start_with(command.env("STOA_BUCKET_REDIRECT", "true"));
    assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()));
    testkit::until("the version is stored", || {
        let reply = server.ask("GET", &module.path("zip"), &[]);
        let is_there = |url: &str| bucket.origin().is_none_or(|origin| url.starts_with(origin));
        reply.status == 302 && reply.header("location").is_some_and(is_there)
    });
    // As the go command does.
    let output =
        Command::new("curl").args(["-sSfL", &format!("{}{}", server.url, module.path("zip"))]).output();
    assert!(output.unwrap().stdout == module.zip);
    assert_eq!(server.get(&module.path("info")), (200, module.info.clone()));
}

/// Returns the versions of which the bucket has all three files of Athens, with the sizes of their zips.
fn complete(s3: &S3) -> BTreeMap<ModuleVersion, u64> {
    let keys = s3.keys();
    let zips = keys.iter().filter_map(|key| key.strip_suffix(".zip"));
    let whole =
        zips.filter(|base| ["info", "mod"].iter().all(|suffix| keys.contains(&format!("{base}.{suffix}"))));
    whole
        .filter_map(|base| {
            let (module, version) = base.rsplit_once("/@v/")?;
            let version =
                ModuleVersion::new(ModulePath::new(module).ok()?, Version::new(version).ok()?).ok()?;
            Some((version, fs::metadata(s3.file(&format!("{base}.zip"))).ok()?.len()))
        })
        .collect()
}

fn athens() {
    let (s3, dir) = (S3::start(), testkit::tempdir());
    let url = s3.bucket("");
    let found = || (url.as_str(), s3.environment());
    let folder = dir.path().join("program");
    program::write(&folder);
    let online = Peer::start_athens_on(&s3);
    let go = Go::new(dir.path(), &online.url).unverified();
    go.run_in_the_end(&folder, "first", &["mod", "tidy"]);
    go.run_in_the_end(&folder, "first", &["mod", "download", "all"]);
    // A save that is killed in its middle, and one that looks like it.
    online.kill();
    let before = complete(&s3);
    assert!(before.len() > 10, "{before:?}");
    let (half, _) = before.iter().next().unwrap();
    let half_zip = format!("{}/@v/{}.zip", half.path(), half.version());
    fs::remove_file(s3.file(&half_zip)).unwrap();
    // Its other files are young, so it counts as a save in progress. Time passes.
    for suffix in ["info", "mod"] {
        let file = s3.file(&half_zip.replace(".zip", &format!(".{suffix}")));
        let old = std::time::SystemTime::now() - Duration::from_secs(3600);
        fs::File::options().write(true).open(file).unwrap().set_modified(old).unwrap();
    }
    let files = || -> BTreeMap<String, Vec<u8>> {
        let keys = s3.keys().into_iter().filter(|key| !key.starts_with("~stoa/"));
        keys.map(|key| (key.clone(), fs::read(s3.file(&key)).unwrap())).collect()
    };
    let unchanged = files();

    // Nothing but the server is started: it brings the bucket up by itself.
    let server = Server::start_with(&mut serve(found(), &dir.path().join("store"), None));
    assert!(fs::read_to_string(s3.file("~stoa/state")).unwrap().contains("layout.b1"));
    for version in before.keys().filter(|version| *version != half) {
        for suffix in ["info", "mod", "zip"] {
            let path = format!("/{}/@v/{}.{suffix}", version.path().escaped(), version.version().escaped());
            let key = format!("{}/@v/{}.{suffix}", version.path(), version.version());
            let (status, body) = server.get(&path);
            assert!(status == 200 && body == unchanged[&key], "{path}: {status}");
        }
    }
    let half_path = format!("/{}/@v/{}.zip", half.path().escaped(), half.version().escaped());
    assert_eq!(server.get(&half_path).0, 404);
    assert!(server.stop().success());
    assert_eq!(files(), unchanged);

    // Athens goes on beside it.
    let online = Peer::start_athens_on(&s3);
    Go::new(dir.path(), &online.url).unverified().run_in_the_end(
        &folder,
        "second",
        &["mod", "download", "all"],
    );
    online.stop();
    let with_athens = files();
    run(found(), MIGRATE, &["--to", "athens"]);
    assert_eq!(files(), with_athens);
    assert_eq!(s3.keys().iter().filter(|key| key.starts_with("~stoa/")).count(), 1);
}
