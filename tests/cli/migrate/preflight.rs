//! Finds before it begins what would stop a step midway, up and back alike, and in a dry run too.
//!
//! Not run here: a file system that ignores case. A unit test of the migrations has one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use testkit::Case;

use super::refused::unchanged;
use super::{NOBODY, as_nobody, give_to_nobody, migrate, small};
use testkit::programs::{Ended, Programs};
use testkit::stores::markers;
use testkit::tree::snapshot;
use testkit::{missing_tool, trial};

/// Somebody else.
const OTHER: u32 = 1234;

pub(crate) fn cases() -> Vec<Case> {
    let is_root = rustix::process::geteuid().is_root();
    let only_root = || (!is_root).then(|| "only root can do this to a folder".to_owned());
    let as_nobody =
        || missing_tool("setpriv", &["--reuid", "65534", "--regid", "65534", "--clear-groups", "true"]);
    let mounting = || missing_tool("unshare", &["-m", "sh", "-c", "mount -t tmpfs none /mnt"]);
    vec![
        trial("a sticky folder of another user is 77 before a step", as_nobody(), sticky).unless(only_root()),
        trial("an unwritable folder is 77 before a step back", as_nobody(), unwritable_on_the_way_back)
            .unless(only_root()),
        trial(
            "flags of chattr are 77 before a step",
            missing_tool("sh", &["-c", "command -v chattr"]),
            flags,
        )
        .unless(only_root().or_else(no_flags)),
        trial("a mount in the store is 73 before a step", mounting(), mounts).unless(only_root()),
        trial(
            "a Btrfs subvolume is 73 before a step",
            mounting().or_else(|| missing_tool("mkfs.btrfs", &["--version"])),
            subvolume,
        )
        .unless(only_root().or_else(no_btrfs)),
        trial("a file in the place of a folder is 73 before a step back", None, file_in_the_place),
    ]
}

/// Returns why this file system has no flags.
fn no_flags() -> Option<String> {
    let dir = testkit::tempdir();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let _flag = Flag::set("a", &folder);
    let statx = fs::remove_dir(&folder);
    statx.is_ok().then(|| "the file system of the temporary folder has no flags".to_owned())
}

fn no_btrfs() -> Option<String> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.ends_with("btrfs")) {
        return Some("this kernel has no Btrfs".to_owned());
    }
    (!Path::new("/dev/loop-control").exists()).then(|| "there are no loop devices".to_owned())
}

/// Makes a store at v2, v1 or v0.
pub(super) fn store_at(programs: &Programs, layout: &str) -> PathBuf {
    let root = programs.store();
    small(&root);
    if layout != "v0" {
        assert_eq!(migrate(programs, &["--to", layout]).code, 0);
    }
    root
}

/// Returns the folder of the version at a layout.
fn version_folder(layout: &str) -> &'static str {
    if layout == "v2" { "modules/example.com/m/@v/v1.0.0" } else { "example.com/m/v1.0.0" }
}

/// Returns the ways from a layout.
fn ways(layout: &str) -> &'static [&'static [&'static str]] {
    if layout == "v2" { &[&["--to", "v1"], &["--to", "v0"]] } else { &[&[]] }
}

/// Fails unless a run and a dry run are refused with this code and these words, before anything is changed.
pub(super) fn refuses(
    root: &Path,
    way: &[&str],
    (code, words): (i32, &[&str]),
    run: impl Fn(&[&str]) -> Ended,
) {
    for arguments in [way.to_vec(), [way, &["--dry-run"]].concat()] {
        let before = snapshot(root);
        let refused = run(&arguments);
        assert_eq!(refused.code, code, "{arguments:?} {refused:?}");
        for word in words {
            assert!(refused.out.contains(word), "{arguments:?}, {word}: {refused:?}");
        }
        assert!(refused.out.contains("nothing was changed"), "{refused:?}");
        unchanged(&before, root);
    }
}

fn sticky() {
    for layout in ["v0", "v2"] {
        let programs = Programs::current();
        let root = store_at(&programs, layout);
        give_to_nobody(&root);
        let folder = root.join(version_folder(layout));
        let open = |path: &Path, mode| {
            chown(path, Some(OTHER), None).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        // The files belong to somebody else, in a folder that everybody may write to.
        open(&folder, 0o1777);
        for file in fs::read_dir(&folder).unwrap() {
            open(&file.unwrap().path(), 0o666);
        }
        for way in ways(layout) {
            refuses(&root, way, (77, &["sticky", "chmod -t"]), |arguments| as_nobody(&programs, arguments));
        }
        // The folder can be emptied. It stays, because it cannot be removed from the one above it.
        open(&folder, 0o777);
        open(folder.parent().unwrap(), 0o1777);
        let done = as_nobody(&programs, ways(layout)[0]);
        assert_eq!(done.code, 0, "{done:?}");
    }
}

fn unwritable_on_the_way_back() {
    let programs = Programs::current();
    let root = store_at(&programs, "v2");
    give_to_nobody(&root);
    // A folder of a shared store, in which the group may not write.
    for folder in ["modules/example.com/m/@v/v1.0.0", "modules/example.com/m/@v", "cache", "."] {
        let folder = root.join(folder);
        chown(&folder, Some(OTHER), Some(NOBODY)).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o2755)).unwrap();
        for way in ways("v2") {
            refuses(&root, way, (77, &["cannot write to"]), |arguments| as_nobody(&programs, arguments));
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o2775)).unwrap();
    }
    let done = as_nobody(&programs, &["--to", "v1"]);
    assert_eq!(done.code, 0, "{done:?}");
    // The place at v0 is in a folder that is not ours.
    let taken = root.join("example.com");
    fs::create_dir(&taken).unwrap();
    refuses(&root, &["--to", "v0"], (77, &[taken.to_str().unwrap()]), |arguments| {
        as_nobody(&programs, arguments)
    });
    fs::remove_dir(&taken).unwrap();
    let done = as_nobody(&programs, &["--to", "v0"]);
    assert_eq!(done.code, 0, "{done:?}");
}

/// A flag of a file or folder, for the life of the value.
pub(super) struct Flag<'a>(&'a str, &'a Path);

impl<'a> Flag<'a> {
    pub(super) fn set(flag: &'a str, path: &'a Path) -> Self {
        let _ = Command::new("chattr").arg(format!("+{flag}")).arg(path).stderr(Stdio::null()).status();
        Self(flag, path)
    }
}

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        let Self(flag, path) = self;
        let _ = Command::new("chattr").arg(format!("-{flag}")).arg(path).stderr(Stdio::null()).status();
    }
}

fn flags() {
    for layout in ["v0", "v2"] {
        let programs = Programs::current();
        let root = store_at(&programs, layout);
        let folder = root.join(version_folder(layout));
        let file = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        for path in [file.as_path(), &folder, folder.parent().unwrap(), &root] {
            for (flag, name) in [("i", "immutable"), ("a", "append-only")] {
                for way in ways(layout) {
                    // Nothing can be created in an immutable root, not even the lock.
                    if path == root && layout == "v0" {
                        continue;
                    }
                    let _flag = Flag::set(flag, path);
                    let help = format!("chattr -{flag} {}", path.display());
                    // In an immutable root the lock file cannot be opened.
                    let words: &[&str] =
                        if path == root && flag == "i" { &["cannot"] } else { &[name, &help] };
                    refuses(&root, way, (77, words), |arguments| migrate(&programs, arguments));
                }
            }
        }
        let done = migrate(&programs, ways(layout)[0]);
        assert_eq!(done.code, 0, "{done:?}");
    }
}

/// Runs the migrator after `prepare`, a command of a shell, in a mount namespace of its own.
fn apart(programs: &Programs, prepare: &str, at: &Path, arguments: &[&str]) -> Ended {
    let inner = programs.command("stoa-migrate", [&["--format", "json"], arguments].concat());
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("at=$1; shift; {prepare} && exec \"$@\""), "sh"]).arg(at);
    command.arg(inner.get_program()).args(inner.get_args()).env_clear();
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ended::of(command)
}

fn mounts() {
    for (layout, folders) in [
        ("v0", &["example.com/m", "modules", "cache"][..]),
        ("v2", &["modules/example.com/m/@v/v1.0.0", "modules/example.com", "modules", "cache", "index"]),
    ] {
        for folder in folders {
            let programs = Programs::current();
            let root = store_at(&programs, layout);
            let at = root.join(folder);
            fs::create_dir_all(&at).unwrap();
            for way in ways(layout) {
                // The folder itself is mounted on itself, so that everything in it is still there.
                refuses(&root, way, (73, &[at.to_str().unwrap(), "mount"]), |arguments| {
                    apart(&programs, "mount --bind \"$at\" \"$at\"", &at, arguments)
                });
            }
            let markers = markers(&root);
            assert_eq!(markers, if layout == "v2" { vec!["layout.v2"] } else { vec![] });
        }
    }
}

fn subvolume() {
    let programs = Programs::current();
    let image = programs.folder().join("image");
    fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
    let made = Command::new("mkfs.btrfs").arg("-q").arg(&image).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    small(&programs.folder().join("small"));
    let root = programs.store();
    fs::create_dir(&root).unwrap();
    // The module is a subvolume, which is no mount.
    let prepare = "mount -o loop \"$at/image\" \"$at/store\" && mkdir \"$at/store/example.com\" \
                   && btrfs subvolume create \"$at/store/example.com/m\" >/dev/null \
                   && cp -a \"$at/small/example.com/m/.\" \"$at/store/example.com/m\"";
    let refused = apart(&programs, prepare, programs.folder(), &[]);
    assert_eq!(refused.code, 73, "{refused:?}");
    let named = root.join("example.com/m");
    assert!(refused.out.contains(&*named.to_string_lossy()), "{refused:?}");
    assert!(refused.out.contains("subvolume"), "{refused:?}");
    // Nothing was moved.
    let look = "mount -o loop \"$at/image\" \"$at/store\" && test -f \"$at/store/example.com/m/v1.0.0/v1.0.0.info\" \
                && test ! -e \"$at/store/modules\"";
    let refused = apart(&programs, look, programs.folder(), &["--dry-run"]);
    assert_eq!(refused.code, 73, "{refused:?}");
}

fn file_in_the_place() {
    let programs = Programs::current();
    let root = store_at(&programs, "v2");
    fs::write(root.join("example.com"), "mine").unwrap();
    refuses(&root, &["--to", "v0"], (73, &["example.com", "out of the store"]), |arguments| {
        migrate(&programs, arguments)
    });
    fs::remove_file(root.join("example.com")).unwrap();
    assert_eq!(migrate(&programs, &["--to", "v0"]).code, 0);
}
