//! Migrations on disks that fail: what cannot be read stops a step and is never skipped, what cannot be removed stays,
//! and what cannot be linked is renamed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use testkit::inject::{self, OPENS, REMOVES_FOLDERS, failing, through};
use testkit::programs::{Ended, Programs};
use testkit::stores::{Files, assert_same, files, folders, markers};
use testkit::{Case, Module, missing_tool, trial};

pub(crate) fn cases() -> Vec<Case> {
    let limited = missing_tool("sh", &["-c", "ulimit -n 64"]);
    let mounting =
        || missing_tool("unshare", &["-m", "sh", "-c", "mount -t tmpfs -o nr_inodes=99 none /mnt"]);
    let as_nobody =
        || missing_tool("setpriv", &["--reuid", "65534", "--regid", "65534", "--clear-groups", "true"]);
    vec![
        trial("without file descriptors no version is skipped", limited, without_descriptors),
        trial("an error that concerns no single file stops a step", None, a_read_error_stops)
            .needs(inject::missing)
            .slow(),
        trial("between v1 and v2 even a forbidden folder stops the step", None, a_forbidden_folder_stops)
            .needs(inject::missing),
        trial("what nobody may read in a foreign store is a leftover", None, a_forbidden_folder_is_left)
            .needs(inject::missing),
        trial("a damaged path is moved out by the command of the message", None, the_way_on)
            .needs(inject::missing),
        trial(
            "a damaged path is moved out before the store is recognised",
            None,
            the_way_on_before_the_store_is_recognised,
        )
        .needs(inject::missing),
        trial("leftovers move refuses the parts of the store itself", None, own_parts_are_refused),
        trial("a folder that cannot be removed is a warning", None, a_folder_that_stays)
            .needs(inject::missing),
        trial("a sticky root is left with an empty folder", as_nobody(), a_sticky_root),
        trial("a file system without inodes is named as such", mounting(), no_inodes),
        trial("a removal records the hash of what can be read", None, a_removal_and_the_hash)
            .needs(inject::missing),
        trial("a refused link is replaced by a rename", None, links_are_refused).needs(inject::missing),
        trial("what the system cannot say stops a step before it begins", None, the_system_cannot_say)
            .needs(inject::missing),
        trial("a lock that cannot be examined is not taken", None, a_lock_is_not_examined)
            .needs(inject::missing),
    ]
}

const VERSIONS: [&str; 4] =
    ["example.com/Upper@v1.0.0", "example.com/m@v1.0.0", "example.com/m@v1.1.0", "example.org/a/b@v0.1.0"];

/// The layouts on the way up, and the folder and the file of one version at each.
const PLACES: [(&str, &str, &str); 3] = [
    ("v0", "example.com/m/v1.0.0", "source.zip"),
    ("v1", "modules/example.com/m/@v", "v1.0.0.zip"),
    ("v2", "modules/example.com/m/@v/v1.0.0", "zip"),
];

/// A store of four versions, on its way through the layouts.
struct Store {
    programs: Programs,
}

impl Store {
    fn at(layout: &str) -> Self {
        let programs = Programs::current();
        for version in VERSIONS {
            Module::new(version, 10).put_v0(&programs.store());
        }
        // Stores are compared by the times of their files too.
        for file in files(&programs.store()).into_keys() {
            let file = fs::File::options().write(true).open(programs.store().join(file)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
        }
        let store = Self { programs };
        if layout != "v0" {
            store.reaches(layout);
        }
        store
    }

    fn root(&self) -> PathBuf {
        self.programs.store()
    }

    fn to(&self, layout: &str) -> Command {
        self.programs.command("stoa-migrate", ["--threads", "1", "--to", layout])
    }

    #[track_caller]
    fn reaches(&self, layout: &str) -> Ended {
        let ended = Ended::of(self.to(layout));
        assert_eq!(ended.code, 0, "{ended:?}");
        ended
    }
}

/// The files of a store at a layout that was reached without any fault.
fn undisturbed(layout: &str) -> Files {
    files(&Store::at(layout).root())
}

fn without_descriptors() {
    let (up, back) = (undisturbed("v2"), undisturbed("v0"));
    let mut stopped = 0;
    for limit in 5..16 {
        for (from, to, expected) in [("v0", "v2", &up), ("v2", "v0", &back)] {
            let store = Store::at(from);
            let shell = ["-c", &format!("ulimit -n {limit}; exec \"$@\""), "sh"];
            let command = through("sh", shell, &store.to(to));
            let ended = Ended::of(command);
            if ended.code == 0 {
                assert_same(expected, &files(&store.root()), &format!("success with {limit} files"));
                continue;
            }
            stopped += 1;
            // Too few even to start the program or to write the message.
            if !ended.err.contains("store") {
                assert_ne!(markers(&store.root()), [format!("layout.{to}")], "{limit}: {ended:?}");
            } else if ended.code != 127 {
                assert_eq!(ended.code, 74, "{limit}: {ended:?}");
                assert!(ended.err.contains("raise the limit of open files"), "{limit}: {ended:?}");
            }
            store.reaches(to);
            assert_same(expected, &files(&store.root()), &format!("the second run after {limit} files"));
        }
    }
    assert!(stopped > 1, "no limit was low enough");
}

/// Fails every opening of a path, from the Nth on, until a run does not get there, and looks at each run.
fn from_each_open(at: &str, to: &str, errno: &str, path: &str, mut judge: impl FnMut(&Store, &Ended)) {
    let mut hit = 0;
    for n in 1.. {
        let store = Store::at(at);
        let path = store.root().join(path);
        let fault = format!("error={errno}:when={n}+");
        let ended = Ended::of(failing(&store.to(to), &[(OPENS, &fault)], Some(&path)));
        if ended.code == 0 && !ended.out.contains("unreadable") {
            break;
        }
        hit += 1;
        judge(&store, &ended);
    }
    assert!(hit > 0, "{path} was not opened on the way from {at} to {to}");
}

fn a_read_error_stops() {
    for (at, to) in [("v0", "v1"), ("v1", "v2"), ("v2", "v1"), ("v1", "v0")] {
        let expected = undisturbed(to);
        let (_, folder, file) = PLACES.iter().find(|place| place.0 == at).unwrap();
        let zip = format!("{folder}/{file}");
        for errno in ["EIO", "ESTALE", "ENOMEM", "ENFILE", "EMFILE"] {
            let paths = [*folder, zip.as_str()];
            // Only a layout of another program is judged by content.
            for path in &paths[..if at == "v0" { 2 } else { 1 }] {
                from_each_open(at, to, errno, path, |store, ended| {
                    let what = format!("{errno} at {path} from {at} to {to}: {ended:?}");
                    assert_eq!(ended.code, 74, "{what}");
                    assert!(ended.err.contains(&*store.root().join(path).to_string_lossy()), "{what}");
                    assert!(ended.err.contains("run again"), "{what}");
                    let markers = markers(&store.root());
                    assert!(!markers.contains(&format!("layout.{to}")), "{markers:?} {what}");
                    store.reaches(to);
                    assert_same(&expected, &files(&store.root()), &what);
                });
            }
        }
    }
}

fn a_forbidden_folder_stops() {
    for (at, to) in [("v1", "v2"), ("v2", "v1"), ("v1", "v0")] {
        let expected = undisturbed(to);
        let (_, folder, _) = PLACES.iter().find(|place| place.0 == at).unwrap();
        from_each_open(at, to, "EACCES", folder, |store, ended| {
            let what = format!("from {at} to {to}: {ended:?}");
            assert_eq!(ended.code, 77, "{what}");
            assert!(
                ended.err.contains(&format!("cannot list {}", store.root().join(folder).display())),
                "{what}"
            );
            assert!(!markers(&store.root()).contains(&format!("layout.{to}")), "{what}");
            store.reaches(to);
            assert_same(&expected, &files(&store.root()), &what);
        });
    }
}

fn a_forbidden_folder_is_left() {
    let store = Store::at("v0");
    let path = store.root().join("example.com/m/v1.0.0");
    let ended = Ended::of(failing(&store.to("v2"), &[(OPENS, "error=EACCES")], Some(&path)));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains(&format!("{} (0 B): unreadable", path.display())), "{ended:?}");
    assert!(path.join("source.zip").is_file());
}

/// Runs the command that a message names, as it stands, with the path still damaged.
fn run_the_named_command(store: &Store, ended: &Ended, path: &Path) {
    let line = ended.err.split('`').nth(1).unwrap_or_else(|| panic!("no command: {ended:?}"));
    // The command names the program without its folder.
    let program = store.programs.program("stoa-migrate");
    let line = line.replace("stoa-migrate ", &format!("{} ", program.display()));
    let sh = through("sh", ["-c", &line.replace(" DIR ", " out/of/it ")], &store.to("v2"));
    let moved = Ended::of(failing(&sh, &[(OPENS, "error=EIO")], Some(path)));
    assert_eq!(moved.code, 0, "{ended:?} {moved:?}");
    assert!(moved.out.contains("named on the command line"), "{moved:?}");
    assert!(!path.exists(), "{ended:?} {moved:?}");
}

/// Each run with a damaged path names a command that moves exactly this path. The upgrade then goes on without it.
fn the_way_on() {
    let mut states = Vec::new();
    for (at, to, folder) in [
        ("v0", "v2", "example.com/m"),
        ("v0", "v2", PLACES[0].1),
        ("v1", "v2", PLACES[1].1),
        ("v2", "v0", PLACES[2].1),
        ("v2", "v1", "index"),
    ] {
        let clean = Store::at(at);
        fs::remove_dir_all(clean.root().join(folder)).unwrap();
        clean.reaches(to);
        let expected = files(&clean.root());
        from_each_open(at, to, "EIO", folder, |store, ended| {
            let root = store.root();
            let path = root.join(folder);
            let (before, what) = (files(&root), format!("from {at} to {to}: {ended:?}"));
            states.push(markers(&root));
            run_the_named_command(store, ended, &path);
            let below = Path::new(folder);
            let (gone, stays): (Files, Files) =
                before.into_iter().partition(|(file, _)| file.starts_with(below));
            assert_same(&gone, &files(&store.programs.folder().join("out/of/it")), &what);
            let mut left = files(&root);
            left.remove(Path::new("records/audit/current"));
            assert_same(&stays, &left, &what);
            let rest = Ended::of(failing(&store.to(to), &[(OPENS, "error=EIO")], Some(&path)));
            assert_eq!(rest.code, 0, "{what} {rest:?}");
            // A version that had moved before the damage is there too.
            let found = files(&root);
            let missing = expected.keys().find(|file| !found.contains_key(*file));
            assert_eq!(missing, None, "{what}");
        });
    }
    for state in [&[][..], &["migrating.v0-v1"], &["layout.v1"], &["migrating.v1-v2"], &["layout.v2"]] {
        assert!(states.iter().any(|found| found == state), "{state:?} was not among {states:?}");
    }
}

/// The mounted file systems and the open files of other programs are read from `/proc`.
fn the_system_cannot_say() {
    for path in ["/proc/self/mountinfo".to_owned(), format!("/proc/{}/fd", std::process::id())] {
        let store = Store::at("v0");
        let before = files(&store.root());
        for (errno, code) in [("EMFILE", 74), ("EIO", 74)] {
            let rule = format!("error={errno}");
            let ended = Ended::of(failing(&store.to("v2"), &[(OPENS, &rule)], Some(Path::new(&path))));
            assert_eq!(ended.code, code, "{path}: {ended:?}");
            assert!(ended.err.contains(&path), "{path}: {ended:?}");
            assert_same(&before, &files(&store.root()), &path);
            assert_eq!(markers(&store.root()), [""; 0]);
        }
        // A process that ends meanwhile, or that belongs to another user, stops nothing.
        let ended = Ended::of(failing(&store.to("v2"), &[(OPENS, "error=EACCES")], Some(Path::new(&path))));
        assert_eq!(ended.code, 0, "{path}: {ended:?}");
    }
}

/// A folder without a marker is recognised by its content, which is damaged.
fn the_way_on_before_the_store_is_recognised() {
    let programs = Programs::current();
    Module::new(VERSIONS[1], 10).put_v0(&programs.store());
    let store = Store { programs };
    let path = store.root().join(PLACES[0].1);
    let ended = Ended::of(failing(&store.to("v2"), &[(OPENS, "error=EIO")], Some(&path)));
    assert_eq!(ended.code, 74, "{ended:?}");
    assert!(!store.root().join("store.lock").exists());
    run_the_named_command(&store, &ended, &path);
    assert!(store.programs.folder().join("out/of/it").join(PLACES[0].1).join("source.zip").is_file());
    assert_eq!(store.reaches("v2").code, 0);
    // Any other path of a folder that is not recognised stays where it is.
    let programs = Programs::current();
    fs::create_dir_all(programs.store().join("photos")).unwrap();
    fs::write(programs.store().join("photos/one"), "mine").unwrap();
    let refused = programs.migrate(["leftovers", "move", "out", "store/photos"]);
    assert_eq!(refused.code, 65, "{refused:?}");
    assert!(programs.store().join("photos/one").is_file() && !programs.store().join("store.lock").exists());
}

fn own_parts_are_refused() {
    let store = Store::at("v2");
    let before = files(&store.root());
    for path in [
        "store/modules",
        "store/records",
        "store/layout.v2",
        "store/store.lock",
        "store",
        "bin",
        "store/../home",
    ] {
        let ended = store.programs.migrate(["leftovers", "move", "out", path]);
        assert_eq!(ended.code, 64, "{path}: {ended:?}");
        assert!(ended.err.contains(path) && ended.err.contains("nothing was changed"), "{path}: {ended:?}");
    }
    let missing = store.programs.migrate(["leftovers", "move", "out", "store/modules/no"]);
    assert_eq!(missing.code, 74, "{missing:?}");
    assert_same(&before, &files(&store.root()), "refused");
    let one = "modules/example.com/m/@v/v1.0.0/zip";
    let moved = store.programs.stoa(["leftovers", "move", "out", &format!("store/{one}")]);
    assert_eq!(moved.code, 0, "{moved:?}");
    assert!(store.programs.folder().join("out").join(one).is_file());
}

fn a_folder_that_stays() {
    for (at, to, folder) in [
        ("v0", "v2", "example.com/m"),
        ("v2", "v1", "modules/example.com/m/@v/v1.0.0"),
        ("v1", "v0", "modules"),
        ("v2", "v1", "index"),
    ] {
        for errno in ["EPERM", "EACCES", "EBUSY"] {
            let (store, expected) = (Store::at(at), undisturbed(to));
            let path = store.root().join(folder);
            let fault = format!("error={errno}");
            let ended = Ended::of(failing(&store.to(to), &[(REMOVES_FOLDERS, &fault)], Some(&path)));
            let what = format!("{errno} at {folder} from {at} to {to}: {ended:?}");
            assert_eq!(ended.code, 0, "{what}");
            let warning = format!("cannot remove the empty folder {}", path.display());
            assert_eq!(ended.err.matches(&warning).count(), 1, "{what}");
            assert_same(&expected, &files(&store.root()), &what);
            assert!(folders(&store.root()).contains(&PathBuf::from(folder)), "{what}");
        }
    }
    // Any other error stops, because it may be gone on the next run.
    let store = Store::at("v0");
    let path = store.root().join("example.com/m");
    let ended = Ended::of(failing(&store.to("v2"), &[(REMOVES_FOLDERS, "error=EIO")], Some(&path)));
    assert_eq!(ended.code, 74, "{ended:?}");
    store.reaches("v2");
    assert_same(&undisturbed("v2"), &files(&store.root()), "the second run");
}

/// The root belongs to another user and is sticky, as `/srv` of some machines: files below may move, folders at the top may
/// not be removed.
fn a_sticky_root() {
    let store = Store::at("v0");
    let root = store.root();
    let folder = store.programs.folder();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let chown = |path: &Path, user| std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
    for below in folders(&root) {
        let mode = if below.iter().count() == 1 { 0o777 } else { 0o755 };
        chown(&root.join(&below), if mode == 0o777 { 0 } else { 65534 });
        fs::set_permissions(root.join(&below), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(&root, fs::Permissions::from_mode(0o1777)).unwrap();
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let command = through("setpriv", user, &store.to("v2"));
    let ended = Ended::of(command);
    assert_eq!(ended.code, 0, "{ended:?}");
    for stays in ["example.com", "example.org"] {
        let warning = format!("cannot remove the empty folder {}", root.join(stays).display());
        assert_eq!(ended.err.matches(&warning).count(), 1, "{ended:?}");
    }
    assert_same(&undisturbed("v2"), &files(&root), "a sticky root");
}

fn no_inodes() {
    let store = Store::at("v0");
    let root = store.root();
    // The store needs some inodes, and the upgrade needs more folders than there are inodes left.
    let script = "mount -t tmpfs -o nr_inodes=200 none \"$1\" && cp -r \"$1.source\"/. \"$1\" || exit 99
        used=$(df --output=iused \"$1\" | tail -n 1)
        mount -o remount,nr_inodes=$((used + 4)) \"$1\" || exit 99
        store=$1; shift
        \"$@\"; first=$?
        mount -o remount,nr_inodes=200 \"$store\" || exit 99
        \"$@\" >/dev/null 2>&1 && [ -e \"$store/layout.v2\" ] || exit 98
        exit $first";
    fs::rename(&root, store.programs.folder().join("store.source")).unwrap();
    fs::create_dir(&root).unwrap();
    let command =
        through("unshare", ["-m", "sh", "-c", script, "sh", root.to_str().unwrap()], &store.to("v2"));
    let ended = Ended::of(command);
    assert_eq!(ended.code, 74, "{ended:?}");
    assert!(
        ended.err.contains(": no inodes left\n") && ended.err.contains("help: remove files"),
        "{ended:?}"
    );
    assert!(ended.err.contains(&*root.to_string_lossy()), "{ended:?}");
}

/// A lack of memory or of open files, or a lost server, stops a removal, because the hash can be read later. What is
/// damaged or forbidden is removed without its hash.
fn a_removal_and_the_hash() {
    const FOLDER: &str = "modules/example.com/m/@v/v1.0.0";
    let removed_with = |is_sealed: bool, file: &str, errno: &str| {
        let programs = Programs::current();
        let root = programs.make_store();
        Module::new(VERSIONS[1], 10).put_unsealed(&root);
        if is_sealed {
            assert_eq!(programs.stoa(["verify"]).code, 0);
        }
        let remove = programs.command("stoa", ["remove", VERSIONS[1]]);
        let path = root.join(FOLDER).join(file);
        let ended = Ended::of(failing(&remove, &[(OPENS, &format!("error={errno}"))], Some(&path)));
        (programs, ended)
    };
    let record = |programs: &Programs| {
        let path = programs.store().join("records/example.com/m/@v/v1.0.0.toml");
        fs::read_to_string(path).unwrap_or_default()
    };
    let cases = [(false, "zip"), (false, "info"), (true, "info"), (true, "mod"), (true, "ziphash")];
    for (is_sealed, file) in cases {
        for errno in ["ESTALE", "ENOMEM", "ENFILE", "EMFILE"] {
            let (programs, ended) = removed_with(is_sealed, file, errno);
            let what = format!("{errno} at {file}: {ended:?}");
            assert_eq!(ended.code, 74, "{what}");
            assert!(ended.err.contains(&format!("{FOLDER}/{file}")), "{what}");
            assert!(programs.store().join(FOLDER).join("zip").is_file(), "{what}");
            assert_eq!(programs.stoa(["remove", VERSIONS[1]]).code, 0, "{what}");
            assert!(record(&programs).contains("h1 = \"h1:"), "{what}");
        }
        for errno in ["EIO", "EUCLEAN", "EACCES"] {
            let (programs, ended) = removed_with(is_sealed, file, errno);
            let what = format!("{errno} at {file}: {ended:?} {:?}", record(&programs));
            assert_eq!(ended.code, 0, "{what}");
            assert!(ended.err.contains("removing a version without recording a hash"), "{what}");
            assert!(!programs.store().join(FOLDER).exists(), "{what}");
            // The seal says it without the mod.
            assert_eq!(record(&programs).contains("h1 = \"h1:"), file == "mod", "{what}");
        }
    }
}

fn links_are_refused() {
    let (up, back) = (undisturbed("v2"), undisturbed("v0"));
    let no_flag = ("renameat2", "error=EINVAL");
    for errno in ["EPERM", "EOPNOTSUPP", "EMLINK", "ENOSYS"] {
        let store = Store::at("v0");
        let fault = format!("error={errno}");
        let rules = [no_flag, ("?link,linkat", &*fault)];
        for (to, expected) in [("v2", &up), ("v0", &back)] {
            let ended = Ended::of(failing(&store.to(to), &rules, None));
            assert_eq!(ended.code, 0, "{errno} to {to}: {ended:?}");
            assert_same(expected, &files(&store.root()), errno);
        }
    }
    // Links across file systems say that a rename would not work either.
    let store = Store::at("v0");
    let ended = Ended::of(failing(&store.to("v2"), &[no_flag, ("?link,linkat", "error=EXDEV")], None));
    assert_eq!(ended.code, 74, "{ended:?}");
    // A file that is in the way is never replaced.
    let store = Store::at("v0");
    let taken = store.root().join("modules/example.com/m/@v/v1.0.0.zip");
    fs::create_dir_all(taken.parent().unwrap()).unwrap();
    fs::write(&taken, "mine").unwrap();
    let ended = Ended::of(failing(&store.to("v1"), &[no_flag, ("?link,linkat", "error=EPERM")], None));
    assert_eq!((ended.code, fs::read(&taken).unwrap()), (0, b"mine".to_vec()), "{ended:?}");
}

fn a_lock_is_not_examined() {
    let store = Store::at("v2");
    let lock = store.root().join("store.lock");
    let ended = Ended::of(failing(&store.to("v1"), &[("statx", "error=EIO")], Some(&lock)));
    assert_eq!(ended.code, 74, "{ended:?}");
    assert!(ended.err.contains(&format!("cannot stat {}: ", lock.display())), "{ended:?}");
    assert_eq!(markers(&store.root()), ["layout.v2"]);
    store.reaches("v1");
}
