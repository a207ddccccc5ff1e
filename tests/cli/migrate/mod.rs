//! The real migrator on stores from before there were markers: what it moves and tells, what it refuses and
//! leaves as it was to the byte and the mtime, and the way back.

mod forbidden;
mod killed;
mod marker_lost;
mod names;
mod preflight;
mod refused;
mod way_back;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use testkit::Case;

use refused::{REFUSALS, unchanged};
use serde_json::Value;
use testkit::programs::{Ended, Programs, install};
use testkit::stores::{self, INFO, MOD, Plan, Shape, ZIP, assert_same, contents, files, folders, markers};
use testkit::tree::snapshot;
use testkit::{missing_tool, trial};

const NOBODY: u32 = 65534;

pub(crate) fn cases() -> Vec<Case> {
    let as_nobody =
        missing_tool("setpriv", &["--reuid", "65534", "--regid", "65534", "--clear-groups", "true"]);
    let mounting = missing_tool("unshare", &["-m", "sh", "-c", "mount -t tmpfs none /mnt"]);
    let mut tests = vec![
        trial("v0: every odd case is decided and reported", None, || odd(&stores::v0(), "v0", Shape::V0)),
        trial("tree: every odd case is decided and reported", None, || {
            odd(&stores::tree(Shape::Tree), "tree", Shape::Tree);
        }),
        trial("plain tree: every odd case is decided and reported", None, || {
            odd(&stores::tree(Shape::Plain), "tree", Shape::Tree);
        }),
        trial("the gate upgrades what is there", None, the_gate_upgrades_what_is_there),
        trial("a hole in a zip moves, and the seal finds it", None, the_seal_finds_a_hole),
        trial("from v0 identifies a store without whole versions", None, from_says_what_it_is),
        trial("a v0 store with a tree in it is v0", None, v0_goes_before_tree),
        trial("the programs themselves do not count as users", None, our_programs_do_not_count),
        trial("files left by an earlier downgrade are adopted", None, what_was_left_is_taken_over),
        trial("an occupied place blocks the downgrade", None, a_taken_place),
        trial("an interrupted downgrade ends right", None, a_version_filled_since_goes_down_too),
        trial("new files belong to the owner of the root", as_nobody.clone(), owner_is_kept),
        trial("a folder that cannot be written to is 77", as_nobody.clone(), unwritable),
        trial("folders that stay need not be writable", as_nobody, unwritable_leftovers),
        trial("another file system below is 73", mounting, mounted),
    ];
    tests.extend(forbidden::cases());
    tests.extend(killed::cases());
    tests.extend(marker_lost::cases());
    tests.extend(names::cases());
    tests.extend(preflight::cases());
    tests.extend(way_back::cases());
    tests.extend(REFUSALS.map(|refusal| trial(refusal.name, None, move || refusal.holds())));
    tests
}

fn migrate(programs: &Programs, more: &[&str]) -> Ended {
    programs.migrate([&["--format", "json"], more].concat())
}

/// Returns the leftovers that the first step reported, with their reasons.
fn leftovers(told: &Ended) -> Vec<(String, String)> {
    let events = told.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON lines"));
    events
        .take_while(|event| event["event"] != "step" || event["state"] != "done")
        .filter(|event| event["event"] == "leftover")
        .map(|event| {
            assert!(event["bytes"].is_u64(), "{event}");
            (event["path"].as_str().unwrap().to_owned(), event["reason"].as_str().unwrap().to_owned())
        })
        .collect()
}

fn compare_leftovers(plan: &Plan, root: &Path, told: &Ended) {
    let mut found = leftovers(told);
    for (path, begins) in &plan.left {
        let path = root.join(path).to_string_lossy().into_owned();
        let at = found.iter().position(|(other, _)| *other == path);
        let (_, reason) = found.swap_remove(at.unwrap_or_else(|| panic!("{path} is not told")));
        assert!(reason.starts_with(begins), "{path}: {reason}, not {begins}");
    }
    assert_eq!(found, [], "told twice, or not expected");
}

fn odd(plan: &Plan, old: &str, back_to: Shape) {
    let programs = Programs::current();
    let root = programs.store();
    plan.write(&root);
    let before = files(&root);
    let untouched = snapshot(&root);

    let planned = migrate(&programs, &["--dry-run"]);
    assert_eq!(planned.code, 0, "{planned:?}");
    compare_leftovers(plan, &root, &planned);
    assert!(planned.out.lines().last().unwrap().contains("\"pending\":true"), "{planned:?}");
    assert!(snapshot(&root) == untouched, "a dry run wrote something");

    let up = migrate(&programs, &[]);
    assert_eq!(up.code, 0, "{up:?}");
    compare_leftovers(plan, &root, &up);
    let moved = format!("\"versions\":{}}}", plan.whole.len());
    assert!(up.out.lines().filter(|line| line.contains(&moved)).count() >= 2, "not all moved: {}", up.out);
    assert_same(&plan.expected(&before, Shape::V2), &files(&root), "at v2");
    assert_eq!(markers(&root), ["layout.v2"]);

    let upgraded = snapshot(&root);
    let again = migrate(&programs, &[]);
    assert_eq!((again.code, again.out.contains("\"changed\":false")), (0, true), "{again:?}");
    assert!(snapshot(&root) == upgraded, "a second run wrote something");

    let back = migrate(&programs, &["--to", old]);
    assert_eq!(back.code, 0, "{back:?}");
    assert_same(&plan.expected(&before, back_to), &files(&root), "back");
    assert_eq!(markers(&root), [] as [&str; 0]);
    let returned = snapshot(&root);
    let again = migrate(&programs, &["--to", old]);
    assert_eq!(again.code, 0, "{again:?}");
    assert!(snapshot(&root) == returned, "a second run back wrote something");
}

/// A small store with one version, which is what is looked for in refusals.
fn small(root: &Path) {
    Plan::default().version(Shape::V0, "example.com/m", "v1.0.0").write(root);
}

fn the_gate_upgrades_what_is_there() {
    let programs = Programs::current();
    small(&programs.store());
    let path = programs.stoa(["path", "example.com/m@v1.0.0"]);
    assert_eq!(path.code, 0, "{path:?}");
    assert_eq!(fs::read(path.out.trim()).unwrap(), contents("example.com/m", "v1.0.0")[ZIP]);
    assert_eq!(markers(&programs.store()), ["layout.v2"]);
}

fn the_seal_finds_a_hole() {
    let programs = Programs::current();
    let root = programs.store();
    let plan = stores::v0();
    plan.write(&root);
    let before = files(&root);
    let verified = migrate(&programs, &["--verify", "full"]);
    assert_eq!(verified.code, 1, "{verified:?}");
    let broken: Vec<&str> =
        verified.out.lines().filter(|line| line.contains("\"event\":\"broken\"")).collect();
    assert!(broken.len() == 1 && broken[0].contains("example.com/hole"), "{broken:?}");
    // It is in quarantine, byte for byte, and everything else is where it was to be, sealed.
    let mut found = files(&root);
    let seals = found.keys().filter(|path| path.ends_with("ziphash") && path.starts_with("modules")).count();
    assert_eq!(seals, plan.whole.len() - 1);
    let kept: Vec<PathBuf> = found.keys().filter(|path| path.ends_with("version/zip")).cloned().collect();
    let hole = Shape::V0.paths("example.com/hole", "v1.0.0")[ZIP].clone();
    assert_eq!((kept.len(), &found[&kept[0]].content), (1, &before[&hole].content));
    found.retain(|path, _| {
        !path.ends_with("ziphash") && !path.starts_with("quarantine") && !path.starts_with("staging")
    });
    assert!(found.remove(Path::new("records/audit/current")).is_some());
    let mut expected = plan.expected(&before, Shape::V2);
    expected.retain(|path, _| !path.starts_with("modules/example.com/hole"));
    let index: Vec<PathBuf> = found.keys().filter(|path| path.starts_with("index")).cloned().collect();
    found.retain(|path, _| !index.contains(path));
    assert_same(&expected, &found, "verified");
}

fn from_says_what_it_is() {
    let programs = Programs::current();
    let mut plan = Plan::default();
    plan.parts(Shape::V0, "example.com/m", "v1.0.0", &[MOD, INFO], |_, _| {});
    plan.left("example.com/m/v1.0.0", "incomplete").write(&programs.store());
    let before = files(&programs.store());
    let up = migrate(&programs, &["--from", "v0"]);
    assert_eq!(up.code, 0, "{up:?}");
    compare_leftovers(&plan, &programs.store(), &up);
    assert_same(&before, &files(&programs.store()), "at v2");
    let wrong = migrate(&programs, &["--from", "v0"]);
    assert_eq!(wrong.code, 0, "{wrong:?}");
}

fn v0_goes_before_tree() {
    let programs = Programs::current();
    let mut plan = Plan::default();
    plan.version(Shape::V0, "example.com/m", "v1.0.0");
    let paths = Shape::Tree.paths("example.com/other", "v1.0.0");
    for (path, content) in paths.iter().zip(contents("example.com/other", "v1.0.0")) {
        plan.stray(path, content);
    }
    plan.write(&programs.store());
    let before = files(&programs.store());
    let up = migrate(&programs, &[]);
    assert_eq!(up.code, 0, "{up:?}");
    compare_leftovers(&plan, &programs.store(), &up);
    assert_same(&plan.expected(&before, Shape::V2), &files(&programs.store()), "at v2");
}

/// Holds a file of the store open under a name, for the life of the value.
struct Holder(std::process::Child, #[expect(dead_code, reason = "the program lies in it")] tempfile::TempDir);

impl Holder {
    fn start(file: &Path, name: &str) -> Self {
        let dir = testkit::tempdir();
        let program = dir.path().join(name);
        let sleep = Command::new("sh").args(["-c", "command -v sleep"]).output().unwrap();
        let sleep = PathBuf::from(String::from_utf8(sleep.stdout).unwrap().trim());
        install(&fs::canonicalize(sleep).unwrap(), &program);
        let mut command = Command::new(&program);
        // A multi-call program goes by its own name.
        std::os::unix::process::CommandExt::arg0(&mut command, "sleep");
        command.arg("600").stdin(Stdio::from(fs::File::open(file).unwrap()));
        Self(command.spawn().unwrap(), dir)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn our_programs_do_not_count() {
    let programs = Programs::current();
    small(&programs.store());
    let file = programs.store().join("example.com/m/v1.0.0/source.zip");
    let holder = Holder::start(&file, "athens-proxy");
    let before = snapshot(&programs.store());
    let refused = migrate(&programs, &[]);
    assert_eq!(refused.code, 75, "{refused:?}");
    assert!(
        refused.out.contains("athens-proxy") && refused.out.contains(&holder.0.id().to_string()),
        "{refused:?}"
    );
    unchanged(&before, &programs.store());
    drop(holder);
    // One that waits for its turn looks at what the store is.
    let _waiting = Holder::start(&file, "stoa-migrate");
    let up = migrate(&programs, &[]);
    assert_eq!(up.code, 0, "{up:?}");
}

fn what_was_left_is_taken_over() {
    let programs = Programs::current();
    let root = programs.store();
    small(&root);
    // Something of no version below modules/, as a step back leaves it.
    fs::create_dir_all(root.join("modules/example.com/m/@v")).unwrap();
    fs::write(root.join("modules/example.com/m/@v/v0.9.0.mod"), "left").unwrap();
    fs::create_dir_all(root.join("quarantine/20260102T030405Z-1-0/version")).unwrap();
    fs::write(root.join("quarantine/20260102T030405Z-1-0/version/info"), "left").unwrap();
    let before = files(&root);
    assert_eq!(migrate(&programs, &[]).code, 0);
    let back = migrate(&programs, &["--to", "v0"]);
    assert_eq!(back.code, 0, "{back:?}");
    assert_same(&before, &files(&root), "back");
}

fn a_taken_place() {
    let programs = Programs::current();
    let root = programs.store();
    small(&root);
    let mut plan = Plan::default();
    plan.parts(Shape::V0, "example.com/part", "v1.0.0", &[MOD], |_, _| {}).write(&root);
    assert_eq!(migrate(&programs, &[]).code, 0);
    // Filled since.
    let mut filled = Plan::default();
    filled.version(Shape::V2, "example.com/part", "v1.0.0").write(&root);
    assert_eq!(migrate(&programs, &["--to", "v1"]).code, 0);
    let before = snapshot(&root);
    let refused = migrate(&programs, &["--to", "v0"]);
    assert_eq!(refused.code, 73, "{refused:?}");
    assert!(
        refused.out.contains("example.com/part@v1.0.0") && refused.out.contains("leftovers move"),
        "{refused:?}"
    );
    unchanged(&before, &root);
    fs::remove_file(root.join("example.com/part/v1.0.0/go.mod")).unwrap();
    assert_eq!(migrate(&programs, &["--to", "v0"]).code, 0);
    assert!(root.join("example.com/part/v1.0.0/v1.0.0.info").is_file());
}

fn a_version_filled_since_goes_down_too() {
    let programs = Programs::current();
    let root = programs.store();
    small(&root);
    assert_eq!(migrate(&programs, &[]).code, 0);
    let long: &'static str = format!("v1.0.0-{}", "a".repeat(242)).leak();
    let mut filled = Plan::default();
    filled.version(Shape::V2, "example.com/New", "v1.0.0").version(Shape::V2, "example.com/New", long);
    for version in ["v1.0.0", long] {
        // The seal of the long one has no place at v1: it is derived, and goes.
        let paths = Shape::V2.paths("example.com/New", version);
        filled.file(paths[MOD].with_file_name("ziphash"), "h1:x");
    }
    filled.write(&root);
    let before = files(&root);
    let back = migrate(&programs, &["--to", "v0"]);
    assert_eq!(back.code, 0, "{back:?}");
    let mut expected = filled.expected(&before, Shape::V0);
    let mut own = Plan::default();
    own.whole.push(("example.com/m", "v1.0.0", Shape::V2));
    expected = own.expected(&expected, Shape::V0);
    expected.retain(|path, _| !path.ends_with("ziphash"));
    assert_same(&expected, &files(&root), "back");
}

fn give_to_nobody(root: &Path) {
    for path in [PathBuf::new()].into_iter().chain(folders(root)).chain(files(root).into_keys()) {
        std::os::unix::fs::lchown(root.join(path), Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// Runs the migrator as somebody who is not root.
fn as_nobody(programs: &Programs, arguments: &[&str]) -> Ended {
    for folder in [programs.folder(), &programs.folder().join("bin"), &programs.folder().join("home")] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = programs.command("setpriv", [] as [&str; 0]);
    let inner = programs.command("stoa-migrate", [&["--format", "json"], arguments].concat());
    let mut outer = Command::new("setpriv");
    outer.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(inner.get_program());
    outer
        .args(inner.get_args())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command = outer;
    Ended::of(command)
}

fn owner_is_kept() {
    let programs = Programs::current();
    let root = programs.store();
    stores::v0().write(&root);
    give_to_nobody(&root);
    let owners = |root: &Path| {
        for path in fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()) {
            assert_eq!(fs::symlink_metadata(&path).unwrap().uid(), NOBODY, "{}", path.display());
        }
        for path in folders(root).into_iter().chain(files(root).into_keys()) {
            let meta = fs::symlink_metadata(root.join(&path)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (NOBODY, NOBODY), "{}", path.display());
        }
    };
    assert_eq!(migrate(&programs, &[]).code, 0);
    owners(&root);
    assert_eq!(migrate(&programs, &["--to", "v0"]).code, 0);
    owners(&root);
}

fn unwritable() {
    let programs = Programs::current();
    let root = programs.store();
    small(&root);
    give_to_nobody(&root);
    for folder in ["example.com/m/v1.0.0", "example.com/m", "example.com"] {
        let folder = root.join(folder);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
        let before = snapshot(&root);
        let refused = as_nobody(&programs, &[]);
        assert_eq!(refused.code, 77, "{refused:?}");
        assert!(refused.out.contains(&format!("{}:", folder.display())), "{refused:?}");
        unchanged(&before, &root);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(as_nobody(&programs, &[]).code, 0);
}

fn unwritable_leftovers() {
    let programs = Programs::current();
    let root = programs.store();
    small(&root);
    // What go leaves in a scratch folder, what a file system has at its top, and what is not ours to read.
    for (path, mode) in [("athens123/pkg", 0o555), ("lost+found", 0o700), ("example.com/secret", 0o700)] {
        fs::create_dir_all(root.join(path)).unwrap();
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    give_to_nobody(&root);
    for path in ["lost+found", "example.com/secret"] {
        chown(root.join(path), Some(0), Some(0)).unwrap();
    }
    let up = as_nobody(&programs, &[]);
    assert_eq!(up.code, 0, "{up:?}");
    let told = leftovers(&up);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].0.ends_with("example.com/secret") && told[0].1.starts_with("unreadable"), "{told:?}");
    assert_eq!(markers(&root), ["layout.v2"]);
}

fn mounted() {
    let programs = Programs::current();
    let root = programs.store();
    small(&root);
    let mount = root.join("example.com/a b");
    fs::create_dir(&mount).unwrap();
    let before = snapshot(&root);
    let inner = programs.command("stoa-migrate", ["--format", "json"]);
    let mut command = Command::new("unshare");
    command.args([
        "-m",
        "sh",
        "-c",
        "mount -t tmpfs none \"$1\" && exec \"$2\" --format json --store \"$3\"",
        "sh",
    ]);
    command.arg(&mount).arg(inner.get_program()).arg(&root);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let refused = Ended::of(command);
    assert_eq!(refused.code, 73, "{refused:?}");
    assert!(refused.out.contains(&*mount.to_string_lossy()), "{refused:?}");
    unchanged(&before, &root);
}
