//! The services of buckets, as the client in the programs sees them. The suites of buckets stand on this.

use testkit::bucket::{Service, TestBucket};
use testkit::server::{Server, command};
use testkit::upstream::{Module, Upstream};
use testkit::{Case, bucket_suite, slow, trial};

use super::bucket_read_only::prepare;
use super::bucket_sweep::{as_athens, downgrade_now, others, serve, served, stoa, succeeds, upgrade_now};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for service in Service::ALL {
        let name = format!("{service} passes the suite of object_store");
        cases.push(
            trial(&name, None, move || bucket_suite::run(&service.start().bucket())).needs(service.needs()),
        );
        let run = move || {
            let service = service.start();
            [true, false].into_iter().for_each(|is_saved| alike(&service.bucket(), is_saved));
        };
        let name = format!("versions whose names begin alike are kept apart on {service}");
        cases.push(trial(&name, None, run).needs(service.needs()));
        let name = format!("a read-only server sends files, ranges and lists from {service}");
        cases.push(trial(&name, None, move || read_only(&service.start().bucket())).needs(service.needs()));
    }
    slow(cases)
}

/// Versions that Athens saved, or that a server downloads. A key of one begins with a part of a key of another.
fn alike(bucket: &TestBucket, is_saved: bool) {
    let upstream = Upstream::start();
    let pairs = ["x@v1.0.0", "x@v1.0.0-pre", "x@v1.2.3", "x/v1.2.3/sub@v0.1.0"];
    let all: Vec<Module> =
        pairs.iter().map(|pair| upstream.offer(&format!("example.com/{pair}"), 500)).collect();
    if is_saved {
        all.iter().for_each(|module| bucket.save(module));
    }
    upgrade_now(bucket, "the upgrade");
    let dir = testkit::tempdir();
    let server = serve(bucket, bucket.environment(), dir.path(), Some(upstream.url()));
    for module in &all {
        assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()), "{}", module.version);
        assert_eq!(upstream.count(&module.path("zip")), usize::from(!is_saved));
    }
    assert!(server.stop().success());
    let lists = || {
        let dir = testkit::tempdir();
        let server = serve(bucket, bucket.environment(), dir.path(), None);
        // It has no version itself. A service that does not sort its listings would be found.
        let (status, catalog) = server.get("/catalog");
        assert_eq!(status, 200);
        let catalog: serde_json::Value = serde_json::from_slice(&catalog).unwrap();
        let named = |module: &str| {
            let entries = catalog["modules"].as_array().unwrap().iter();
            let of_module = entries.filter(|entry| entry["module"] == module);
            let names: Vec<&str> = of_module.map(|entry| entry["version"].as_str().unwrap()).collect();
            names.join(" ")
        };
        ["example.com/x", "example.com/x/v1.2.3/sub"].map(|module| {
            let (status, text) = server.get(&format!("/{module}/@v/list"));
            assert_eq!(status, 200);
            let text = String::from_utf8(text).unwrap();
            let mut versions: Vec<String> = text.lines().map(str::to_owned).collect();
            versions.sort();
            let versions = versions.join(" ");
            assert_eq!(named(module), versions);
            versions
        })
    };
    assert_eq!(lists(), ["v1.0.0 v1.0.0-pre v1.2.3", "v0.1.0"]);
    served(bucket, &all, "all");
    let rest = [all[1].clone(), all[3].clone()];
    for (pair, left) in
        [("example.com/x@v1.0.0", "v1.0.0-pre v1.2.3"), ("example.com/x@v1.2.3", "v1.0.0-pre")]
    {
        succeeds(&mut stoa(bucket, bucket.environment(), &["remove", pair]), pair);
        assert_eq!(lists(), [left, "v0.1.0"]);
        served(bucket, &rest, pair);
    }
    let is_sign = |key: &&String| key.contains("/servers/");
    bucket.keys("~stoa/").iter().filter(is_sign).for_each(|key| bucket.delete(key));
    downgrade_now(bucket, "the way back");
    assert_eq!(others(bucket), as_athens(&rest));
}

/// A version that Athens saved, and one that a server downloaded.
fn read_only(bucket: &TestBucket) {
    let upstream = Upstream::start();
    let [saved, own] = ["v1.0.0", "v1.1.0"].map(|v| upstream.offer(&format!("example.com/Mod@{v}"), 3 << 20));
    bucket.save(&saved);
    upgrade_now(bucket, "the upgrade");
    let dir = testkit::tempdir();
    let server = serve(bucket, bucket.environment(), &dir.path().join("writes"), Some(upstream.url()));
    assert_eq!(server.get(&own.path("zip")), (200, own.zip.clone()));
    assert!(server.stop().success());
    let store = dir.path().join("read-only");
    prepare(&store);
    let mut command = command(&store);
    command.envs(bucket.environment()).env("STOA_BUCKET_URL", bucket.url()).arg("--read-only");
    let server = Server::start_with(&mut command);
    let keys = bucket.keys("");
    for module in [&saved, &own] {
        for (extension, body) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
            let path = module.path(extension);
            assert_eq!(server.get(&path), (200, body.clone()), "{path}");
            let part = server.ask("GET", &path, &[("Range", "bytes=7-11")]);
            assert_eq!((part.status, &part.body[..]), (206, &body[7..12]), "{path}");
            let head = server.ask("HEAD", &path, &[]);
            assert_eq!(head.header("content-length"), Some(&*body.len().to_string()), "{path}");
        }
    }
    assert_eq!(server.get("/example.com/!mod/@v/list"), (200, b"v1.0.0\nv1.1.0\n".to_vec()));
    assert_eq!(server.get("/example.com/!mod/@latest"), (200, own.info.clone()));
    assert_eq!(server.get("/example.com/!mod/@v/v1.2.0.info").0, 404);
    assert!(server.stop().success());
    assert_eq!(bucket.keys(""), keys);
}
