//! Symlinks in the place of folders below `modules/` and `records/`: nothing is written through them, and `stoa verify`
//! reports them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use testkit::inject;
use testkit::programs::{Ended, Programs};
use testkit::server::Server;
use testkit::tree::{self, snapshot};
use testkit::upstream::{Module, Upstream};
use testkit::{Case, trial};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        trial("nothing is written through a symlink", None, || nothing_is_written(false)),
        trial("nothing is written through a symlink without openat2", None, || nothing_is_written(true))
            .needs(inject::missing),
        trial("a record is not written through a symlink", None, a_record_is_not_written),
        trial("a download is not published through a symlink", None, a_download_is_not_published),
        trial("verify reports a symlink and reads the rest", None, verify_reports),
    ]
}

const PAIR: &str = "example.com/m@v1.0.0";

/// A store whose `modules/example.com` is a symlink to a folder with a version and a corrupt version.
fn store() -> (Programs, PathBuf) {
    let programs = Programs::current();
    let root = programs.make_store();
    Module::new(PAIR, 10).put_unsealed(&root);
    let corrupt = Module::new("example.com/corrupt@v1.0.0", 10).put_unsealed(&root);
    testkit::next_write_time();
    fs::write(corrupt.join("zip"), "no zip").unwrap();
    Module::new("example.org/real@v1.0.0", 10).put_unsealed(&root);
    let elsewhere = programs.folder().join("elsewhere");
    let link = root.join("modules/example.com");
    fs::rename(&link, &elsewhere).unwrap();
    symlink(&elsewhere, &link).unwrap();
    (programs, elsewhere)
}

#[track_caller]
fn assert_refused(ended: &Ended, link: &Path) {
    let expected = format!("cannot write below {}: it is a symlink", link.display());
    assert!(ended.err.contains(&expected) || ended.out.contains(&expected), "{ended:?}");
    assert!(
        ended.err.contains("replace the symlink") || ended.out.contains("replace the symlink"),
        "{ended:?}"
    );
}

fn nothing_is_written(is_old_kernel: bool) {
    let (programs, elsewhere) = store();
    let (root, link) = (programs.store(), programs.store().join("modules/example.com"));
    let before = snapshot(&elsewhere);
    let run = |arguments: &[&str]| {
        let command = programs.command("stoa", arguments);
        match is_old_kernel {
            true => Ended::of(inject::failing(&command, &[("openat2", "error=ENOSYS")], None)),
            false => Ended::of(command),
        }
    };
    let removed = run(&["remove", PAIR]);
    assert_refused(&removed, &link);
    assert_eq!(removed.code, 73, "{removed:?}");
    // One version to seal, one to quarantine.
    for pair in [PAIR, "example.com/corrupt@v1.0.0"] {
        let verified = run(&["verify", pair]);
        assert_ne!(verified.code, 0, "{verified:?}");
        assert_refused(&verified, &link);
    }
    let pruned = run(&["prune", "--max-size", "0", "--yes"]);
    assert_eq!(pruned.code, 0, "versions below a symlink are not in the walk: {pruned:?}");
    let source = programs.folder().join("source");
    Module::new("example.com/new@v1.0.0", 10).put_flat(&source);
    let mut import = programs.command("stoa-migrate", ["import", source.to_str().unwrap()]);
    if is_old_kernel {
        import = inject::failing(&import, &[("openat2", "error=ENOSYS")], None);
    }
    let imported = Ended::of(import);
    assert_ne!(imported.code, 0, "{imported:?}");
    assert_refused(&imported, &link);
    assert_eq!(snapshot(&elsewhere), before);
    assert!(
        tree::shape(&root).keys().all(|path| !path.starts_with("quarantine") || path.iter().count() == 1)
    );
}

fn a_record_is_not_written() {
    let programs = Programs::current();
    let root = programs.make_store();
    let elsewhere = programs.folder().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, root.join("records/example.com")).unwrap();
    let forbidden = programs.stoa(["remove", "--tombstone", PAIR]);
    assert_eq!(forbidden.code, 73, "{forbidden:?}");
    assert_refused(&forbidden, &root.join("records/example.com"));
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    let verified = programs.stoa(["verify"]);
    assert_eq!(verified.code, 1, "{verified:?}");
    assert!(verified.err.contains("records/example.com"), "{verified:?}");
}

fn a_download_is_not_published() {
    let (programs, elsewhere) = store();
    let upstream = Upstream::start();
    let module = upstream.offer("example.com/new@v1.0.0", 1000);
    let real = upstream.offer("example.net/new@v1.0.0", 1000);
    let before = snapshot(&elsewhere);
    let server = Server::start(&programs.store(), upstream.url());
    assert_eq!(server.get(&module.path("info")).0, 200);
    let answer = testkit::server::get(&server.url, &module.path("zip"));
    assert!(answer.is_err() || answer.as_ref().unwrap().0 == 500, "{answer:?}");
    assert!(server.get(&real.path("zip")) == (200, real.zip));
    assert_eq!(snapshot(&elsewhere), before);
    assert!(server.stop().success());
}

fn verify_reports() {
    let (programs, _) = store();
    let root = programs.store();
    let verified = programs.stoa(["verify"]);
    assert_eq!(verified.code, 1, "{verified:?}");
    let link = root.join("modules/example.com");
    assert!(verified.err.contains(&format!("symlink {}: ", link.display())), "{verified:?}");
    assert!(root.join("modules/example.org/real/@v/v1.0.0/ziphash").is_file());
    let json = programs.stoa(["verify", "--format", "json"]);
    assert_eq!(json.code, 1);
    let lines: Vec<serde_json::Value> =
        json.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        lines.iter().any(|line| line["event"] == "symlink" && line["path"] == link.to_str().unwrap()),
        "{json:?}"
    );
    assert_eq!(lines.last().unwrap()["symlinks"], 1, "{json:?}");
    // The way out that the message names.
    fs::remove_file(&link).unwrap();
    fs::rename(programs.folder().join("elsewhere"), &link).unwrap();
    fs::remove_dir_all(link.join("corrupt")).unwrap();
    assert_eq!(programs.stoa(["verify"]).code, 0);
}
