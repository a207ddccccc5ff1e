//! A store that was built into an image: its folders are in the lower layer of an overlay and cannot be renamed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::commands;
use testkit::inject::{self, failing};
use testkit::mounts::{self, Mounts};
use testkit::programs::{Ended, Programs};
use testkit::server::{self, Server};
use testkit::stores::escape;
use testkit::upstream::{Module, Upstream};
use testkit::{Case, create, trial};

pub(crate) fn cases() -> Vec<Case> {
    [
        trial("versions_of_a_lower_layer_are_removed", None, versions_of_a_lower_layer_are_removed as fn()),
        trial(
            "a_removal_in_a_lower_layer_goes_on_after_a_full_disk",
            None,
            a_removal_in_a_lower_layer_goes_on_after_a_full_disk,
        )
        .needs(inject::missing),
        trial(
            "a_corrupt_version_of_a_lower_layer_is_replaced",
            None,
            a_corrupt_version_of_a_lower_layer_is_replaced,
        ),
        trial("leftovers_of_a_lower_layer_are_moved", None, leftovers_of_a_lower_layer_are_moved),
        trial(
            "the_quarantine_of_a_lower_layer_is_purged_and_restored",
            None,
            the_quarantine_of_a_lower_layer_is_purged_and_restored,
        ),
    ]
    .map(|case| case.unless(mounts::missing_overlay()))
    .into()
}

/// An image with a store, and a container of it.
struct Container {
    programs: Programs,
    upstream: Upstream,
    mounts: Option<Mounts>,
}

impl Container {
    /// Makes the store of the image with some versions of `example.com/Cap/m`.
    fn with(versions: &[&str]) -> (Self, Vec<Module>) {
        let (programs, upstream) = (Programs::current(), Upstream::start());
        let image = programs.folder().join("image/store");
        fs::create_dir(programs.folder().join("image")).unwrap();
        create(&image);
        let server = Server::start(&image, upstream.url());
        let modules: Vec<Module> = versions
            .iter()
            .map(|version| {
                let module = upstream.offer(&format!("example.com/Cap/m@{version}"), 20_000);
                assert!(server.get(&module.path("zip")) == (200, module.zip.clone()));
                module
            })
            .collect();
        assert!(server.stop().success());
        (Self { programs, upstream, mounts: None }, modules)
    }

    fn image(&self) -> PathBuf {
        self.programs.folder().join("image/store")
    }

    /// Returns the store in the container.
    fn store(&self) -> PathBuf {
        self.programs.folder().join("container/store")
    }

    /// Starts the container.
    fn start(&mut self) {
        let [image, layers, container] =
            ["image", "layers", "container"].map(|name| self.programs.folder().join(name));
        for folder in [&layers, &container] {
            fs::create_dir(folder).unwrap();
        }
        let options = match rustix::process::geteuid().is_root() {
            true => "redirect_dir=off",
            // Without redirects too.
            false => "userxattr",
        };
        let script = "mount -t tmpfs tmpfs \"$2\"; mkdir \"$2/upper\" \"$2/work\"
            mount -t overlay overlay -o \"lowerdir=$1,upperdir=$2/upper,workdir=$2/work,$4\" \"$3\"";
        self.mounts = Some(Mounts::new(
            script,
            [image.as_os_str(), layers.as_os_str(), container.as_os_str(), options.as_ref()],
        ));
    }

    fn command(&self, command: &Command) -> Command {
        self.mounts.as_ref().unwrap().command(command)
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = self.command(&commands::stoa(&self.store(), arguments));
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        Ended::of(command)
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
        ended.out
    }

    fn serve(&self) -> Server {
        let mut command = server::command(&self.store());
        Server::start_with(&mut self.command(command.args(["--upstream", self.upstream.url()])))
    }

    /// Returns a path below the store, as seen from outside of the container.
    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.mounts.as_ref().unwrap().outside(&self.store().join(path))
    }
}

fn folder(module: &Module) -> PathBuf {
    let (path, version) = (module.version.path().as_str(), module.version.version().as_str());
    PathBuf::from(format!("modules/{}/@v/{}", escape(path), escape(version)))
}

fn versions_of_a_lower_layer_are_removed() {
    let (mut container, modules) = Container::with(&["v1.0.0", "v1.0.1", "v1.0.2", "v1.0.3"]);
    let [removed, forbidden, pruned, half] = &modules[..] else { unreachable!() };
    // A process that died while the image was built.
    fs::create_dir_all(container.image().join("staging/run-dead00/1")).unwrap();
    fs::write(container.image().join("staging/run-dead00/lock"), "").unwrap();
    container.start();
    let server = container.serve();
    assert!(!container.path("staging/run-dead00").exists());
    for module in &modules {
        assert_eq!(server.get(&module.path("info")), (200, module.info.clone()));
    }

    container.done(&["remove", &removed.version.to_string()]);
    assert!(!container.path(folder(removed).join("info")).exists());
    assert!(
        container
            .path(format!("records/{}.toml", folder(removed).strip_prefix("modules").unwrap().display()))
            .exists()
    );
    container.done(&["remove", "--tombstone", &forbidden.version.to_string()]);
    testkit::until("the server notices", || server.get(&forbidden.path("info")).0 == 410);
    assert_eq!(server.get(&forbidden.path("zip")).0, 410);

    assert!(server.get(&removed.path("zip")) == (200, removed.zip.clone()));
    assert_eq!(container.upstream.count(&removed.path("zip")), 2);
    assert!(container.path(folder(removed).join("zip")).exists());
    // The version is in the upper layer now.
    container.done(&["remove", &removed.version.to_string()]);
    assert!(!container.path(folder(removed)).exists());

    // A process that was killed in the middle of a removal has left the files without an info.
    fs::remove_file(container.path(folder(half).join("info"))).unwrap();
    assert!(server.get(&half.path("zip")) == (200, half.zip.clone()));
    assert!(container.path(folder(half).join("info")).exists());

    container.done(&["prune", "--max-size", "0"]);
    for module in [removed, pruned, half] {
        assert!(!container.path(folder(module).join("info")).exists());
    }
    assert!(server.get(&pruned.path("zip")) == (200, pruned.zip.clone()));
    assert!(server.stop().success());
    container.done(&["verify", "--again"]);
    let mut staged: Vec<_> =
        fs::read_dir(container.path("staging")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    staged.sort();
    assert_eq!(staged, ["claims", "reserve"]);
}

fn a_removal_in_a_lower_layer_goes_on_after_a_full_disk() {
    let (mut container, modules) = Container::with(&["v1.0.0"]);
    let module = &modules[0];
    container.start();
    let remove = commands::stoa(&container.store(), &["remove", &module.version.to_string()]);
    let path = container.store().join(folder(module));
    let full = ("fsync,fdatasync", "error=ENOSPC:when=1");
    let mut command = container.command(&failing(&remove, &[full], Some(&path)));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let ended = Ended::of(command);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(!container.path(folder(module).join("info")).exists());
    assert!(!container.path(folder(module).join("zip")).exists());
    let server = container.serve();
    assert!(server.get(&module.path("zip")) == (200, module.zip.clone()));
    assert!(server.stop().success());
}

fn a_corrupt_version_of_a_lower_layer_is_replaced() {
    let (mut container, modules) = Container::with(&["v1.0.0", "v1.0.1"]);
    let [cut, without_mod] = &modules[..] else { unreachable!() };
    let zip = container.image().join(folder(cut)).join("zip");
    testkit::next_write_time();
    fs::write(&zip, &cut.zip[..cut.zip.len() / 2]).unwrap();
    fs::create_dir_all(zip.with_file_name("odd/deeper")).unwrap();
    fs::write(zip.with_file_name("odd/deeper/file"), "kept").unwrap();
    fs::remove_file(container.image().join(folder(without_mod)).join("mod")).unwrap();
    container.start();
    let server = container.serve();
    for module in &modules {
        for (ending, content) in [("zip", &module.zip), ("info", &module.info), ("mod", &module.modfile)] {
            assert!(server.get(&module.path(ending)) == (200, content.clone()), "{ending}");
        }
    }
    assert!(server.stop().success());
    container.done(&["verify", "--again"]);
    let entries: Vec<_> =
        fs::read_dir(container.path("quarantine")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(entries.len(), 2);
    let kept = entries.iter().find(|entry| entry.join("version/odd").exists()).unwrap();
    assert_eq!(fs::read(kept.join("version/odd/deeper/file")).unwrap(), b"kept");
    assert_eq!(fs::read(kept.join("version/zip")).unwrap(), cut.zip[..cut.zip.len() / 2]);
}

fn the_quarantine_of_a_lower_layer_is_purged_and_restored() {
    let (mut container, modules) = Container::with(&["v1.0.0", "v1.0.1"]);
    let [repaired, purged] = &modules[..] else { unreachable!() };
    let image = container.image();
    for module in &modules {
        testkit::next_write_time();
        fs::write(image.join(folder(module)).join("zip"), "no zip").unwrap();
    }
    assert_eq!(commands::run(&image, &["verify"]).status.code(), Some(1));
    let entry_of = |module: &Module| {
        let mut entries = fs::read_dir(image.join("quarantine")).unwrap().map(|entry| entry.unwrap().path());
        let version = format!("\"{}\"", module.version.version());
        entries
            .find(|entry| fs::read_to_string(entry.join("reason.toml")).unwrap().contains(&version))
            .unwrap()
    };
    let [restored_entry, purged_entry] = [repaired, purged].map(entry_of);
    fs::write(restored_entry.join("version/zip"), &repaired.zip).unwrap();
    // A file or a symlink may have been in the place of a version.
    let elsewhere = container.programs.folder().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("info"), "mine").unwrap();
    let odd = ["20260102T030405Z-1-0", "20260102T030405Z-1-1"].map(|id| image.join("quarantine").join(id));
    for entry in &odd {
        fs::create_dir(entry).unwrap();
        fs::copy(purged_entry.join("reason.toml"), entry.join("reason.toml")).unwrap();
    }
    std::os::unix::fs::symlink(&elsewhere, odd[0].join("version")).unwrap();
    fs::write(odd[1].join("version"), "a file").unwrap();
    container.start();
    let id = |entry: &Path| entry.file_name().unwrap().to_str().unwrap().to_owned();
    container.done(&["quarantine", "restore", &id(&restored_entry)]);
    assert_eq!(fs::read(container.path(folder(repaired).join("zip"))).unwrap(), repaired.zip);
    for entry in odd.iter().chain([&purged_entry]) {
        container.done(&["quarantine", "purge", &id(entry)]);
    }
    assert_eq!(fs::read(elsewhere.join("info")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(container.path("quarantine")).unwrap().count(), 0);
    container.done(&["verify", "--again"]);
}

fn leftovers_of_a_lower_layer_are_moved() {
    let (mut container, modules) = Container::with(&["v1.0.0"]);
    let folder = container.image().join(folder(&modules[0]));
    let stray = folder.with_file_name("not a version");
    fs::create_dir_all(stray.join("deeper")).unwrap();
    fs::write(stray.join("deeper/file"), "kept").unwrap();
    container.start();
    let to = container.store().with_file_name("out");
    container.done(&["leftovers", "move", to.to_str().unwrap()]);
    let moved = to.join(stray.strip_prefix(container.image()).unwrap());
    let kept = container.mounts.as_ref().unwrap().outside(&moved.join("deeper/file"));
    assert_eq!(fs::read(kept).unwrap(), b"kept");
    assert!(!container.path(stray.strip_prefix(container.image()).unwrap()).exists());
}
