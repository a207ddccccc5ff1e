//! A store on FUSE, and file systems that report less or something else than a local disk does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use testkit::commands;
use testkit::inject;
use testkit::mounts::{self, Mounts};
use testkit::programs::{Ended, Programs};
use testkit::server::{self, Server};
use testkit::tree::names;
use testkit::upstream::{Module, Script, Upstream};
use testkit::{Case, MIGRATE, create, trial};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        trial("staging_stays_empty_on_fuse", None, staging_stays_empty_on_fuse)
            .unless(mounts::missing_fuse())
            .needs(mounts::missing_bindfs),
        trial(
            "times_that_the_file_system_does_not_report_are_not_trusted",
            None,
            times_that_the_file_system_does_not_report_are_not_trusted,
        )
        .needs(inject::missing),
        trial(
            "a_change_time_that_moves_after_a_read_is_tried_again",
            None,
            a_change_time_that_moves_after_a_read_is_tried_again,
        )
        .needs(inject::missing),
    ]
}

fn staging_stays_empty_on_fuse() {
    let (programs, upstream) = (Programs::current(), Upstream::start());
    let [disk, store] = ["disk", "store"].map(|name| programs.folder().join(name));
    for folder in [&disk, &store] {
        fs::create_dir(folder).unwrap();
    }
    let script = "bindfs -f \"$1\" \"$2\" >/dev/null 2>&1 &
        for n in $(seq 500); do mountpoint -q \"$2\" && break; sleep 0.02; done; mountpoint -q \"$2\"";
    let mounts = Mounts::new(script, [&disk, &store]);
    let run = |mut command: Command| {
        command.arg("--store").arg(&store);
        let mut command = mounts.command(&command);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let ended = Ended::of(command);
        assert_eq!(ended.code, 0, "{ended:?}");
    };
    let migrate = |arguments: &[&str]| {
        let mut command = Command::new(MIGRATE);
        command.args(arguments);
        run(command);
    };
    migrate(&[]);
    let module = upstream.offer("example.com/m@v1.0.0", 20_000);
    for round in 0..3 {
        let mut command = server::command(&store);
        let server = Server::start_with(&mut mounts.command(command.args(["--upstream", upstream.url()])));
        assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()));
        // A client that has part of the zip is disconnected, and the draft is removed.
        let broken = Module::new(&format!("example.com/broken@v1.0.{round}"), 300_000);
        upstream.serve(&broken);
        upstream.set(&broken.path("zip"), Script::Cut(broken.zip.clone(), broken.zip.len() / 2));
        let answer = server::get(&server.url, &broken.path("zip"));
        assert!(!answer.is_ok_and(|(status, _)| status == 200));
        let own: Vec<String> =
            names(&disk.join("staging")).into_iter().filter(|name| name.starts_with("run-")).collect();
        let [own] = &own[..] else { panic!("not one folder of a process: {own:?}") };
        testkit::until("the draft is removed", || names(&disk.join("staging").join(own)) == ["lock"]);
        assert!(server.stop().success());
        assert_eq!(names(&disk.join("staging")), ["claims", "reserve"], "after server {round}");
        run(commands::bare(&["verify", "--again"]));
        migrate(&["--regenerate"]);
        run(commands::bare(&["remove", "example.com/m@v1.0.0"]));
        assert_eq!(names(&disk.join("staging")), ["claims", "reserve"], "after round {round}");
    }
}

/// Makes a store with one version.
fn store_with(module: &Module, upstream: &Upstream, root: &Path) {
    create(root);
    upstream.serve(module);
    let server = Server::start(root, upstream.url());
    assert_eq!(server.get(&module.path("zip")), (200, module.zip.clone()));
    assert!(server.stop().success());
}

fn times_that_the_file_system_does_not_report_are_not_trusted() {
    let dir = testkit::tempdir();
    let module = Module::new("example.com/m@v1.0.0", 20_000);
    store_with(&module, &Upstream::start(), dir.path());
    let verify = commands::stoa(dir.path(), &["verify"]);
    assert_eq!(Ended::of(inject::failing(&verify, &[], None)).code, 0);
    // The first field is `stx_mask`: without STATX_MTIME and STATX_CTIME.
    let without_times = [("statx", "poke_exit=@arg5=3f070000")];
    let ended = Ended::of(inject::failing(&verify, &without_times, None));
    assert_ne!(ended.code, 0, "{ended:?}");
    assert!((ended.out + &ended.err).contains("the file system does not report its inode, size and times"));
}

fn a_change_time_that_moves_after_a_read_is_tried_again() {
    let dir = testkit::tempdir();
    let root = dir.path();
    let module = Module::new("example.com/m@v1.0.0", 20_000);
    store_with(&module, &Upstream::start(), root);
    let folder = root.join("modules/example.com/m/@v/v1.0.0");
    fs::remove_file(folder.join("ziphash")).unwrap();
    // The seal is synced after the zip was read and before it is put in place.
    let slow = [("fsync", "delay_enter=3000000:when=1")];
    let verify = inject::failing(&commands::stoa(root, &["verify"]), &slow, None).spawn().unwrap();
    let is_sealing = || {
        let runs = names(&root.join("staging")).into_iter().filter(|name| name.starts_with("run-"));
        runs.into_iter().any(|run| {
            let run = root.join("staging").join(run);
            run.is_dir() && names(&run).iter().any(|name| name != "lock")
        })
    };
    testkit::until("the seal is written", is_sealing);
    fs::set_permissions(folder.join("zip"), fs::Permissions::from_mode(0o640)).unwrap();
    let ended = Ended::from_child(verify);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(folder.join("ziphash").exists());
}
