//! Folders of the store that a person removes beside a running server.

use std::fs;
use std::path::Path;
use std::time::Duration;

use testkit::server::Server;
use testkit::upstream::Upstream;
use testkit::{Case, cases, create};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        a_removed_staging_folder_is_created_again_by_the_next_download,
        a_store_that_is_not_mounted_any_more_gets_no_new_folders,
    ]
}

fn run_folder(root: &Path) -> Option<std::path::PathBuf> {
    let entries = fs::read_dir(root.join("staging")).ok()?.map(|entry| entry.unwrap().path());
    entries.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("run-"))
}

fn a_removed_staging_folder_is_created_again_by_the_next_download() {
    let dir = testkit::tempdir();
    let root = dir.path();
    create(root);
    let upstream = Upstream::start();
    let server = Server::start(root, upstream.url());
    let ready = || {
        let (status, body) = server.get("/readyz");
        assert_eq!(status, 200);
        String::from_utf8(body).unwrap()
    };
    // Building the index would create the folder again.
    testkit::until("the index is built", || server.get("/catalog").0 == 200);
    for (n, whole) in [true, false].into_iter().enumerate() {
        assert_eq!(ready(), "ready\n");
        let run = run_folder(root).unwrap();
        fs::remove_dir_all(if whole { root.join("staging") } else { run.clone() }).unwrap();
        let name = run.file_name().unwrap().to_str().unwrap();
        assert_eq!(
            ready(),
            format!("ready\ndegraded: staging/{name} is missing, the next download creates it again\n")
        );
        let module = upstream.offer(&format!("example.com/m{n}@v1.0.0"), 20_000);
        assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()));
        assert!(root.join(format!("modules/example.com/m{n}/@v/v1.0.0/zip")).exists());
        assert_eq!(ready(), "ready\n");
    }
    // The same for folders that only some downloads use.
    for folder in ["records", "quarantine", "cache", "index", "modules"] {
        fs::remove_dir_all(root.join(folder)).unwrap();
    }
    let module = upstream.offer("example.com/again@v1.0.0", 20_000);
    assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()));
    let folder = root.join("modules/example.com/again/@v/v1.0.0");
    testkit::next_write_time();
    fs::write(folder.join("zip"), "no zip").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()));
    assert_eq!(fs::read_dir(root.join("quarantine")).unwrap().count(), 1);
    assert!(server.stop().success());
    assert!(run_folder(root).is_none());
}

fn a_store_that_is_not_mounted_any_more_gets_no_new_folders() {
    let dir = testkit::tempdir();
    let root = dir.path().join("store");
    create(&root);
    let upstream = Upstream::start();
    let module = upstream.offer("example.com/m@v1.0.0", 20_000);
    let server = Server::start(&root, upstream.url());
    // The index is built in the background.
    testkit::until("the index is built", || server.get("/catalog").0 == 200);
    // As after an unmount: the empty folder below.
    fs::rename(&root, dir.path().join("away")).unwrap();
    fs::create_dir(&root).unwrap();
    assert_ne!(server.get(&module.path("zip")).0, 200);
    assert_eq!(server.get("/readyz").0, 503);
    let made: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(made.is_empty(), "{made:?}");
}
