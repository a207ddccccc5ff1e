//! The owner and the modes of what the programs create, whatever the umask, the user and the file system.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testkit::inject;
use testkit::limits::{after, below, give, no_setpriv, not_root, set_mode};
use testkit::programs::{Ended, Programs};
use testkit::server::{Server, get};
use testkit::stores::{Plan, Shape};
use testkit::tree::shape;
use testkit::{Case, missing_tool, trial};

const NOBODY: u32 = 65534;

/// The umasks that every file and folder must be independent of.
const UMASKS: [&str; 3] = ["umask 0", "umask 022", "umask 077"];

pub(crate) fn cases() -> Vec<Case> {
    let no_namespace = || missing_tool("unshare", &["-Ur", "true"]);
    vec![
        trial("a_new_store_is_private_whatever_the_umask", None, a_new_store_is_private),
        trial("store_mode_sets_the_mode_of_a_new_store", None, store_mode_sets_the_mode),
        trial("a_wrong_store_mode_is_refused", None, a_wrong_store_mode_is_refused),
        trial("an_existing_folder_sets_the_modes_in_it", None, an_existing_folder_sets_the_modes),
        trial("an_existing_store_keeps_its_modes", None, an_existing_store_keeps_its_modes),
        trial("an_athens_store_keeps_its_modes", None, an_athens_store_keeps_its_modes),
        trial("an_export_follows_the_umask", None, an_export_follows_the_umask),
        trial("a_shared_store_stays_shared", None, a_shared_store_stays_shared),
        trial("a_killed_process_leaves_a_shared_store_shared", None, a_killed_process_leaves_it_shared)
            .needs(inject::missing),
        trial("a_killed_process_blocks_no_other_user", None, a_killed_process_blocks_no_other_user)
            .needs(no_setpriv)
            .unless(not_root()),
        trial("a_home_stays_with_its_owner_below_sudo", None, a_home_stays_with_its_owner).unless(not_root()),
        trial("root_without_cap_chown_works_and_warns_once", None, root_without_cap_chown)
            .needs(no_setpriv)
            .unless(not_root()),
        trial("root_of_a_user_namespace_works_and_warns_once", None, root_of_a_user_namespace)
            .unless(no_namespace().or_else(not_root)),
        trial("storage_without_owners_works_and_warns_once", None, storage_without_owners)
            .needs(inject::missing)
            .unless(not_root()),
        trial("a_file_of_the_right_owner_is_not_given_again", None, a_file_of_the_right_owner)
            .needs(inject::missing)
            .unless(not_root()),
        trial("a_refused_run_leaves_nothing_behind", None, a_refused_run_leaves_nothing_behind)
            .needs(inject::missing),
        trial("a_refused_program_leaves_no_lock", None, a_refused_program_leaves_no_lock),
        trial("two_refused_runs_leave_no_lock", None, two_refused_runs_leave_no_lock).needs(inject::missing),
    ]
}

/// The modes of everything in a store, the root included.
fn modes(root: &Path) -> BTreeMap<PathBuf, u32> {
    let names = testkit::tree::snapshot(root);
    names.into_iter().map(|(path, entry)| (path, entry.mode & 0o7777)).collect()
}

/// Asserts that a store has these modes of folders and files everywhere.
fn assert_modes(root: &Path, folders: u32, files: u32, what: &str) {
    for (path, mode) in modes(root) {
        let wanted = if root.join(&path).is_dir() { folders } else { files };
        assert_eq!(mode, wanted, "{what}: {mode:o} in place of {wanted:o}: {}", path.display());
    }
}

/// An Athens store with a version, to import.
fn source(programs: &Programs) -> PathBuf {
    let source = programs.folder().join("source");
    if !source.exists() {
        let mut plan = Plan::default();
        plan.version(Shape::V0, "example.com/m", "v1.0.0").version(Shape::V0, "example.com/m/v2", "v2.0.0");
        plan.write(&source);
    }
    source
}

/// Creates a store if it is missing, and lets every writer write: an import, a server with its index and its usage data,
/// and a removal.
fn fill(programs: &Programs, line: &str, variables: &[(&str, &str)]) {
    let (source, before) = (source(programs), modes(&programs.store()));
    let run = |arguments: &[&str]| {
        let mut command = programs.command("stoa", arguments);
        command.envs(variables.iter().copied());
        let ended = Ended::of(after(line, &command));
        assert_eq!(ended.code, 0, "{ended:?}");
    };
    run(&["import", source.to_str().unwrap()]);
    let mut command = programs.command("stoa", ["serve", "--listen", "127.0.0.1:0"]);
    command.envs(variables.iter().copied());
    let server = Server::start_with(&mut after(line, &command));
    assert_eq!(get(&server.url, "/example.com/m/@v/v1.0.0.zip").unwrap().0, 200);
    assert_eq!(get(&server.url, "/catalog").unwrap().0, 200);
    // While it runs, the files of SQLite are all there.
    let while_running = modes(&programs.store());
    for name in ["index/1/index.sqlite-wal", "index/1/index.sqlite-shm"] {
        assert!(while_running.contains_key(Path::new(name)), "{while_running:?}");
    }
    let root = modes(&programs.store())[Path::new("")];
    for (path, mode) in while_running {
        let is_dir = programs.store().join(&path).is_dir();
        let wanted = root & if is_dir { 0o2775 } else { 0o664 };
        let is_new = !path.as_os_str().is_empty() && !before.contains_key(&path);
        assert!(!is_new || mode == wanted, "{line}: {mode:o}: {}", path.display());
    }
    assert!(server.stop().success());
    run(&["remove", "--yes", "example.com/m/v2@v2.0.0"]);
    assert!(programs.store().join("cache/last-use").is_dir());
    assert!(programs.store().join("records").read_dir().unwrap().next().is_some());
}

fn a_new_store_is_private() {
    for line in UMASKS {
        let programs = Programs::current();
        fill(&programs, line, &[]);
        assert_modes(&programs.store(), 0o700, 0o600, line);
    }
}

fn store_mode_sets_the_mode() {
    for (text, folders, files) in [("0750", 0o750, 0o640), ("2770", 0o2770, 0o660), ("755", 0o755, 0o644)] {
        for line in UMASKS {
            let programs = Programs::current();
            fill(&programs, line, &[("STOA_STORE_MODE", text)]);
            assert_modes(&programs.store(), folders, files, line);
        }
    }
    // From the file and from the option, too.
    let programs = Programs::current();
    let file = programs.folder().join("stoa.toml");
    fs::write(&file, "store_mode = \"0750\"\n").unwrap();
    let file = file.to_str().unwrap();
    let source = source(&programs);
    let command = programs.command("stoa", ["--config", file, "import", source.to_str().unwrap()]);
    let ended = Ended::of(after("umask 077", &command));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_modes(&programs.store(), 0o750, 0o640, "the file");
    fs::remove_dir_all(programs.store()).unwrap();
    let ended = Ended::of(programs.command("stoa-migrate", ["--config", file, "--store-mode", "0711"]));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_modes(&programs.store(), 0o711, 0o600, "the option");
}

fn a_wrong_store_mode_is_refused() {
    let programs = Programs::current();
    for (text, reason) in [
        ("rwx", "expected a mode in octal"),
        ("0800", "expected a mode in octal"),
        ("1777", "expected a mode in octal"),
        ("4700", "expected a mode in octal"),
        ("7", "expected a mode in octal"),
        ("0070", "the owner needs all permissions"),
        ("0777", "others must not write"),
    ] {
        let ended = programs.migrate(["--store-mode", text]);
        assert_eq!(ended.code, 64, "{text}: {ended:?}");
        assert!(ended.err.contains("--store-mode") && ended.err.contains(reason), "{text}: {ended:?}");
        assert!(!programs.store().exists());
    }
}

fn an_existing_folder_sets_the_modes() {
    for (root, folders, files) in [(0o755, 0o755, 0o644), (0o777, 0o775, 0o664), (0o700, 0o700, 0o600)] {
        for line in UMASKS {
            let programs = Programs::current();
            fs::create_dir(programs.store()).unwrap();
            set_mode(&programs.store(), root);
            fill(&programs, line, &[("STOA_STORE_MODE", "0750")]);
            assert_eq!(modes(&programs.store())[Path::new("")], root);
            set_mode(&programs.store(), folders);
            assert_modes(&programs.store(), folders, files, line);
        }
    }
}

fn an_existing_store_keeps_its_modes() {
    let programs = Programs::current();
    programs.make_store();
    set_mode(&programs.store(), 0o755);
    let before = modes(&programs.store());
    fill(&programs, "umask 077", &[("STOA_STORE_MODE", "0750")]);
    let after = modes(&programs.store());
    for (path, mode) in &before {
        assert_eq!(after.get(path), Some(mode), "{}", path.display());
    }
    let added = after.iter().filter(|(path, _)| !before.contains_key(*path)).collect::<Vec<_>>();
    assert!(added.len() > 10, "{added:?}");
    for (path, mode) in added {
        let wanted = if programs.store().join(path).is_dir() { 0o755 } else { 0o644 };
        assert_eq!(*mode, wanted, "{}", path.display());
    }
}

fn an_athens_store_keeps_its_modes() {
    for (line, root, folders, files) in [("umask 077", 0o755, 0o755, 0o644), ("umask 0", 0o700, 0o700, 0o600)]
    {
        let programs = Programs::current();
        fs::rename(source(&programs), programs.store()).unwrap();
        let before = modes(&programs.store());
        set_mode(&programs.store(), root);
        let command = programs.command::<&str>("stoa-migrate", []);
        let ended = Ended::of(after(line, &command));
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(modes(&programs.store())[Path::new("")], root);
        for (path, mode) in modes(&programs.store()).into_iter().filter(|(path, _)| path.iter().count() > 0) {
            let is_moved =
                matches!(path.file_name().and_then(|name| name.to_str()), Some("info" | "mod" | "zip"));
            let wanted = match programs.store().join(&path).is_dir() {
                true => folders,
                false if is_moved => before[Path::new("example.com/m/v1.0.0/go.mod")],
                false => files,
            };
            assert_eq!(mode, wanted, "{line}: {mode:o}: {}", path.display());
        }
    }
}

fn an_export_follows_the_umask() {
    let programs = Programs::current();
    fill(&programs, "umask 022", &[]);
    for (line, folders, files) in
        [("umask 022", 0o755, 0o644), ("umask 077", 0o700, 0o600), ("umask 0", 0o777, 0o666)]
    {
        let tree = programs.folder().join("a/tree");
        let command = programs.command("stoa", ["export", tree.to_str().unwrap()]);
        let ended = Ended::of(after(line, &command));
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_modes(&programs.folder().join("a"), folders, files, line);
        fs::remove_dir_all(programs.folder().join("a")).unwrap();
    }
}

fn a_shared_store_stays_shared() {
    let programs = Programs::current();
    fs::create_dir(programs.store()).unwrap();
    let group = if not_root().is_none() { 65533 } else { rustix::process::getegid().as_raw() };
    chown(programs.store(), None, Some(group)).unwrap();
    set_mode(&programs.store(), 0o2770);
    fill(&programs, "umask 022", &[]);
    assert_modes(&programs.store(), 0o2770, 0o660, "shared");
    for path in modes(&programs.store()).into_keys() {
        assert_eq!(
            fs::symlink_metadata(programs.store().join(&path)).unwrap().gid(),
            group,
            "{}",
            path.display()
        );
    }
}

fn shared(programs: &Programs) {
    let ended = Ended::of(after("umask 0", &programs.command("stoa-migrate", ["--store-mode", "2770"])));
    assert_eq!(ended.code, 0, "{ended:?}");
}

fn a_killed_process_leaves_it_shared() {
    for path in [
        "modules/example.com",
        "modules/example.com/m",
        "modules/example.com/m/@v",
        "modules/example.com/m/v2/@v",
        "staging/claims",
    ] {
        let programs = Programs::current();
        shared(&programs);
        let inner = programs.command("stoa", ["import", source(&programs).to_str().unwrap()]);
        let rules = [("?chmod,?fchmodat,?fchmodat2,fchmod", "error=EINTR:signal=KILL")];
        let killed = after("umask 077", &inject::failing(&inner, &rules, Some(&programs.store().join(path))));
        assert_ne!(Ended::of(killed).code, 0, "{path}");
        assert!(programs.store().join(path).exists(), "killed after it was created: {path}");
        let ended = Ended::of(after("umask 077", &inner));
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_modes(&programs.store(), 0o2770, 0o660, &format!("killed at {path}"));
    }
}

fn a_killed_process_blocks_no_other_user() {
    let programs = Programs::current();
    shared(&programs);
    let (root, source) = (programs.store(), source(&programs));
    give(&root, NOBODY);
    set_mode(programs.folder(), 0o755);
    // As a process of that user leaves it which is killed between creating the folder and setting its mode.
    let folder = root.join("modules/example.com");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    set_mode(&folder, 0o2750);
    let inner = programs.command("stoa", ["import", source.to_str().unwrap()]);
    let group = format!("--regid={NOBODY}");
    let ended = Ended::of(below(["setpriv", "--reuid=65533", &group, "--clear-groups"], &inner));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(root.join("modules/example.com/m/@v/v1.0.0/info").is_file());
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o2770);
}

fn a_home_stays_with_its_owner() {
    let programs = Programs::current();
    let home = programs.folder().join("home");
    give(&home, NOBODY);
    let mut command = programs.command::<&str>("stoa-migrate", []);
    command.env_remove("STOA_STORE");
    let ended = Ended::of(after("umask 0", &command));
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(home.join(".local/share/stoa/layout.v2").is_file());
    for path in modes(&home).into_keys() {
        let meta = fs::symlink_metadata(home.join(&path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (NOBODY, NOBODY), "{}", path.display());
    }
    assert_eq!(fs::metadata(home.join(".local/share")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(home.join(".local/share/stoa")).unwrap().mode() & 0o7777, 0o700);
}

/// A folder that belongs to another user and that everybody may write to.
fn of_another_user() -> Programs {
    let programs = Programs::current();
    fs::create_dir(programs.store()).unwrap();
    set_mode(&programs.store(), 0o777);
    give(&programs.store(), NOBODY);
    programs
}

const WARNING: &str = "new files do not get the owner or the mode of the store";

/// Creates a store and imports into it, below another program. Each program warns once, and the store is whole.
fn works_and_warns_once(programs: &Programs, wrapped: impl Fn(&Command) -> Command) {
    let source = source(programs);
    for (name, arguments) in [
        ("stoa-migrate", &[][..]),
        ("stoa", &["import", source.to_str().unwrap()]),
        ("stoa", &["verify", "--again"]),
    ] {
        let ended = Ended::of(wrapped(&programs.command(name, arguments)));
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
        let warnings = ended.err.matches(WARNING).count();
        assert_eq!(warnings, 1, "{arguments:?}: {ended:?}");
    }
    let other = Programs::current();
    assert_eq!(other.stoa(["import", source.to_str().unwrap()]).code, 0);
    assert_eq!(
        shape(&programs.store()).keys().collect::<Vec<_>>(),
        shape(&other.store()).keys().collect::<Vec<_>>()
    );
}

fn root_without_cap_chown() {
    let programs = of_another_user();
    works_and_warns_once(&programs, |inner| below(["setpriv", "--bounding-set=-chown"], inner));
}

fn root_of_a_user_namespace() {
    let programs = of_another_user();
    works_and_warns_once(&programs, |inner| below(["unshare", "-Ur"], inner));
}

fn storage_without_owners() {
    for errno in ["EPERM", "EINVAL", "EOPNOTSUPP"] {
        let programs = of_another_user();
        let inject = format!("inject=chown,lchown,fchown,fchownat:error={errno}");
        works_and_warns_once(&programs, |inner| {
            below(
                [
                    "strace",
                    "-f",
                    "-qq",
                    "-o",
                    "/dev/null",
                    "-e",
                    "trace=chown,lchown,fchown,fchownat",
                    "-e",
                    &inject,
                ],
                inner,
            )
        });
    }
}

fn a_file_of_the_right_owner() {
    // As with a squashing NFS: the storage gives new files to the owner of the folder.
    let programs = Programs::current();
    fs::create_dir(programs.store()).unwrap();
    chown(programs.store(), None, Some(65533)).unwrap();
    set_mode(&programs.store(), 0o2770);
    let log = programs.folder().join("calls");
    let source = source(&programs);
    let inner = programs.command("stoa-migrate", ["import", source.to_str().unwrap()]);
    let trace = "trace=chown,lchown,fchown,fchownat";
    let strace = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", trace, "-e", "signal=none"];
    let ended = Ended::of(below(strace, &inner));
    assert_eq!(ended.code, 0, "{ended:?}");
    let calls = fs::read_to_string(&log).unwrap();
    assert!(!calls.contains("chown"), "{calls}");
}

fn a_refused_run_leaves_nothing_behind() {
    // Storage without locks, and storage on which changing the owner fails in another way.
    for (inject, code) in [("flock:error=ENOLCK", 74), ("mkdir,mkdirat:error=ENOSPC:when=3", 74)] {
        let programs = Programs::current();
        let store = programs.folder().join("a/b/store");
        let mut inner = programs.command::<&str>("stoa-migrate", []);
        inner.env("STOA_STORE", &store);
        let inject = format!("inject={inject}");
        let ended = Ended::of(below(["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject], &inner));
        assert_eq!(ended.code, code, "{ended:?}");
        assert!(!programs.folder().join("a").exists(), "{inject}: {ended:?}");
    }
    // A folder that was there stays.
    let programs = Programs::current();
    fs::create_dir(programs.store()).unwrap();
    let inner = programs.command::<&str>("stoa-migrate", []);
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=flock:error=ENOLCK"];
    let ended = Ended::of(below(strace, &inner));
    assert_eq!(ended.code, 74, "{ended:?}");
    assert_eq!(modes(&programs.store()).len(), 1);
}

fn a_refused_program_leaves_no_lock() {
    // A store that was copied without its lock and its empty folders, and a symlink in the place of a folder.
    let programs = Programs::current();
    let root = programs.make_store();
    for folder in ["staging", "quarantine", "records"] {
        fs::remove_dir(root.join(folder)).unwrap();
    }
    fs::remove_file(root.join("store.lock")).unwrap();
    std::os::unix::fs::symlink("/tmp", root.join("records")).unwrap();
    let before = shape(&root);
    for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["verify"], &["remove", "a.b/c"]] {
        let refused = programs.stoa(arguments);
        assert_ne!(refused.code, 0, "{refused:?}");
        assert_eq!(shape(&root), before, "{refused:?}");
    }
    // Leftovers that cannot be moved into the store.
    let programs = Programs::current();
    Plan::default().version(Shape::V0, "example.com/m", "v1.0.0").write(&programs.store());
    let before = shape(&programs.store());
    let inside = programs.store().join("out");
    let refused = programs.migrate(["leftovers", "move", inside.to_str().unwrap()]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert_eq!(shape(&programs.store()), before, "{refused:?}");
}

fn two_refused_runs_leave_no_lock() {
    let programs = Programs::current();
    let root = programs.store();
    Plan::default().version(Shape::V0, "example.com/m", "v1.0.0").write(&root);
    fs::write(root.join("index"), "in the way").unwrap();
    let lock = root.join("store.lock");
    // The first run stops for a while before it removes the lock. The second waits for it meanwhile.
    let inner = programs.command::<&str>("stoa-migrate", []);
    let slow =
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=?unlink,unlinkat:delay_enter=1500000"];
    let mut first = below(slow, &inner);
    let first = first.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !lock.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let second = programs.migrate::<&str>([]);
    let first = Ended::from_child(first);
    assert_eq!((first.code, second.code), (73, 73), "{first:?} {second:?}");
    assert!(!lock.exists(), "{first:?} {second:?}");
}
