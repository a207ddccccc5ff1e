//! The order of a publication on a disk that fails: the client of a large zip needs no store, and the client of a small one
//! is answered after the version is stored.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use testkit::inject::{self, failing_server};
use testkit::server::{self, Server};
use testkit::upstream::Upstream;
use testkit::{Case, Module, create, trial};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        trial("a_large_zip_that_cannot_be_stored_reaches_its_client", None, large_and_not_stored)
            .needs(inject::missing),
        trial("a_zip_of_at_most_64_kib_is_answered_after_it_is_stored", None, small_and_not_stored)
            .needs(inject::missing),
    ]
}

const PAIR: &str = "example.com/m@v1.0.0";

/// The folder of the module, as the store shows it.
const VERSIONS: &str = "modules/example.com/m/@v";

/// A zip of at most this size is withheld until it is stored.
const KEPT_BACK: usize = 64 * 1024;

const RENAME: (&str, &str) = ("?rename,renameat,?renameat2", "error=EIO");

struct Scene {
    dir: TempDir,
    upstream: Upstream,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { dir: testkit::tempdir(), upstream: Upstream::start() };
        create(&scene.root());
        scene
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn command(&self) -> std::process::Command {
        let mut command = server::command(&self.root());
        command.args(["--upstream", self.upstream.url(), "--index-interval", "0"]).env("GOSUMDB", "off");
        command
    }

    /// Starts a server whose calls fail if they name a path, which is relative to the root of the store.
    fn failing(&self, rule: (&str, &str), path: &str) -> Server {
        let mut command = failing_server(&self.command(), &[rule], &self.root().join(path));
        Server::start_with(command.stderr(File::create(self.dir.path().join("log")).unwrap()))
    }

    /// Stops a server and returns its log.
    fn stop(&self, server: Server) -> String {
        assert!(server.stop().success());
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Fails if a draft or a part of one is left.
    fn assert_no_draft(&self) {
        let names = |path: &Path| -> Vec<_> {
            let entries = fs::read_dir(path).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let mut left = names(&self.root().join("staging"));
        left.retain(|name| !["claims", "reserve"].contains(&name.as_str()));
        assert_eq!(left, [""; 0]);
    }

    fn assert_stored(&self, module: &Module) {
        let folder = self.root().join(VERSIONS).join("v1.0.0");
        for (name, content) in [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)] {
            assert!(fs::read(folder.join(name)).unwrap() == *content, "{name}");
        }
    }

    /// A server on a disk that works gives the version and stores it.
    fn heals(&self, module: &Module) {
        let server = Server::start_with(&mut self.command());
        assert!(server.get(&module.path("zip")) == (200, module.zip.clone()));
        assert!(server.stop().success());
        self.assert_stored(module);
    }
}

fn large_and_not_stored() {
    let version = format!("{VERSIONS}/v1.0.0");
    for (what, rule, path, is_renamed) in [
        ("the rename", RENAME, version.as_str(), false),
        ("the last sync", ("fsync", "error=EIO"), VERSIONS, true),
    ] {
        let scene = Scene::new();
        let module = scene.upstream.offer(PAIR, 300_000);
        let server = scene.failing(rule, path);
        assert!(server.get(&module.path("zip")) == (200, module.zip.clone()), "{what}");
        let log = scene.stop(server);
        let is_reported = |line: &str| line.contains("cannot store a version") && line.contains(PAIR);
        assert_eq!(log.lines().filter(|line| is_reported(line)).count(), 1, "{what}: {log}");
        assert!(!log.contains("aborted a transfer"), "{what}: {log}");
        scene.assert_no_draft();
        assert_eq!(scene.root().join(&version).exists(), is_renamed, "{what}");
        if is_renamed {
            scene.assert_stored(&module);
        }
        scene.heals(&module);
    }
}

fn small_and_not_stored() {
    let overhead = Module::new(PAIR, 65_000).zip.len() - 65_000;
    let largest = KEPT_BACK - overhead;
    assert_eq!(Module::new(PAIR, largest).zip.len(), KEPT_BACK);
    for size in [1000, largest] {
        let scene = Scene::new();
        let module = scene.upstream.offer(PAIR, size);
        let server = scene.failing(RENAME, &format!("{VERSIONS}/v1.0.0"));
        assert_eq!(server.get(&module.path("zip")).0, 500, "a zip of {} bytes", module.zip.len());
        let log = scene.stop(server);
        assert!(log.contains("cannot store a version"), "{log}");
        scene.assert_no_draft();
        assert!(!scene.root().join(VERSIONS).join("v1.0.0").exists());
        scene.heals(&module);
    }
}
