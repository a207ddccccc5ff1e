//! Copies of a running store, and restores that lack something or bring something back. Whatever a copy holds, no wrong
//! byte is served from it, and `stoa verify` leaves only whole versions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use testkit::{Case, missing_tool, transcript, trial};

use testkit::commands::run;
use testkit::server::Server;
use testkit::upstream::{Gate, Module, Script, Upstream};
use testkit::{MIGRATE, client};

pub(crate) fn cases() -> Vec<Case> {
    let no_rsync = missing_tool("rsync", &["--version"]);
    let not_root =
        (!rustix::process::geteuid().is_root()).then(|| "only root can mount a snapshot".to_owned());
    vec![
        trial("a copy of a running store holds only whole versions", no_rsync, copies).slow(),
        trial("a snapshot of a file system holds only whole versions", None, snapshot)
            .needs(|| missing_tool("mkfs.ext4", &["-V"]).or_else(|| missing_tool("fsfreeze", &["-V"])))
            .unless(not_root.or_else(no_loop_device)),
        trial("an incomplete restore is recognised or repaired", None, restores).slow(),
        trial("restoring an older copy makes no forbidden version available", None, older_copy),
    ]
}

fn no_loop_device() -> Option<String> {
    let output = Command::new("losetup").arg("--find").output();
    (!output.is_ok_and(|output| output.status.success())).then(|| "there is no loop device".to_owned())
}

/// Runs a shell script with some variables. Whether it fails is up to the caller.
fn shell(script: &str, variables: &[(&str, &Path)]) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("set -e\n{script}")]);
    command.envs(variables.iter().map(|(name, value)| (name, value.as_os_str())));
    command.output().expect("sh runs")
}

fn must(script: &str, variables: &[(&str, &Path)]) {
    let output = shell(script, variables);
    assert!(output.status.success(), "{script}: {}", transcript(&output));
}

/// Checks what a store serves without an upstream. Returns which of the versions it has.
fn check_served(store: &Path, modules: &[Module], what: &str) -> Vec<bool> {
    let server = Server::start(store, "off");
    let has = |module: &Module| {
        let files = [("info", &module.info), ("mod", &module.modfile), ("zip", &module.zip)];
        files.map(|(file, content)| {
            let reply = server.ask("GET", &module.path(file), &[]);
            let is_there = reply.status == 200;
            assert!(!is_there || reply.body == *content, "{what}: {} {file} is wrong", module.version);
            assert!(
                is_there || [404, 410].contains(&reply.status),
                "{what}: {} {file}: {}",
                module.version,
                reply.text()
            );
            is_there
        })[2]
    };
    let served = modules.iter().map(has).collect();
    assert!(server.stop().success(), "{what}");
    served
}

fn is_served(server: &Server, module: &Module) -> bool {
    server.get(&module.path("zip")) == (200, module.zip.clone())
}

/// Verifies a store twice. After the first time only whole versions are left.
fn check_verified(store: &Path, what: &str) {
    let first = run(store, &["verify"]);
    assert!(matches!(first.status.code(), Some(0 | 1)), "{what}: {}", transcript(&first));
    let second = run(store, &["verify", "--again"]);
    assert!(second.status.success(), "{what}: {}\n{}", transcript(&first), transcript(&second));
}

/// A running server whose downloads never end before the gate opens.
struct Running {
    upstream: Upstream,
    server: Server,
    /// The versions that are stored, then those that are downloaded now.
    modules: Vec<Module>,
    stored: usize,
    gate: Gate,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(store: &Path) -> Self {
        let (upstream, gate) = (Upstream::start(), Gate::default());
        let server = Server::start(store, upstream.url());
        let mut modules: Vec<_> = (0..12)
            .map(|n| upstream.offer(&format!("example.com/stored{}@v1.{n}.0", n % 3), 20_000))
            .collect();
        let stored = modules.len();
        for module in &modules {
            assert_eq!(server.get(&module.path("zip")).0, 200);
        }
        modules.extend((0..4).map(|n| upstream.offer(&format!("example.com/slow{n}@v1.0.0"), 300_000)));
        for module in &modules[stored..] {
            upstream.set(&module.path("zip"), Script::Gated(module.zip.clone(), 150_000, gate.clone()));
        }
        let clients = modules[stored..].iter().map(|module| {
            let (url, path) = (server.url.clone(), module.path("zip"));
            std::thread::spawn(move || drop(client::get(client::address(&url), &path)))
        });
        let clients = clients.collect();
        for module in &modules[stored..] {
            while upstream.count(&module.path("zip")) == 0 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        Self { upstream, server, modules, stored, gate, clients }
    }

    /// Publishes small versions while a copy is made.
    fn copy_meanwhile(&mut self, round: usize, copy: impl FnOnce() + Send) {
        let more: Vec<_> = (0..15)
            .map(|n| self.upstream.offer(&format!("example.com/round{round}@v1.{n}.0"), 2000))
            .collect();
        std::thread::scope(|scope| {
            let copying = scope.spawn(copy);
            for module in &more {
                assert_eq!(self.server.get(&module.path("zip")).0, 200);
            }
            copying.join().unwrap();
        });
        self.modules.extend(more);
    }

    fn check_copy(&self, copy: &Path, what: &str) {
        let served = check_served(copy, &self.modules, what);
        assert!(served[..self.stored].iter().all(|is_there| *is_there), "{what}: {served:?}");
        check_verified(copy, what);
        let served = check_served(copy, &self.modules, what);
        assert!(served[..self.stored].iter().all(|is_there| *is_there), "{what}: {served:?}");
    }

    /// Lets the downloads end, and returns the upstream for the copies.
    fn finish(self) -> (Upstream, Vec<Module>) {
        self.gate.open();
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        assert!(self.server.stop().success());
        (self.upstream, self.modules)
    }
}

fn copies() {
    let dir = testkit::tempdir();
    let store = dir.path().join("store");
    let mut running = Running::start(&store);
    // A tool may report files that vanish while it runs. Hard links share their files with the running server, so
    // the databases are left out.
    let methods = [
        ("cp -r", r#"cp -r "$FROM" "$TO" || true"#),
        ("cp -a", r#"cp -a "$FROM" "$TO" || true"#),
        ("rsync", r#"rsync -a "$FROM/" "$TO/" || true"#),
        (
            "rsync of the least",
            r#"rsync -a --exclude=/index --exclude=/cache --exclude=/staging --exclude=/store.lock "$FROM/" "$TO/""#,
        ),
        ("tar", r#"mkdir "$TO"; (tar -C "$FROM" -cf - . || true) | tar -C "$TO" -xf -"#),
        (
            "cp -al",
            r#"mkdir "$TO"; cp -al "$FROM/modules" "$FROM/layout.v2" "$TO"; cp -a "$FROM/records" "$TO" || true"#,
        ),
    ];
    let mut copies = Vec::new();
    for (round, (what, script)) in methods.into_iter().enumerate() {
        let to = dir.path().join(format!("copy{round}"));
        running.copy_meanwhile(round, || must(script, &[("FROM", &store), ("TO", &to)]));
        copies.push((what, to));
    }
    for (what, copy) in &copies {
        running.check_copy(copy, what);
    }
    let (upstream, modules) = running.finish();
    for (what, copy) in &copies {
        let server = Server::start(copy, upstream.url());
        for module in &modules {
            assert_eq!(
                server.get(&module.path("zip")),
                (200, module.zip.clone()),
                "{what}: {}",
                module.version
            );
        }
    }
    check_verified(&store, "the store that was copied");
}

/// A file system in a file, which is unmounted when it is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(image: &Path, at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        must(r#"mount -o loop "$IMAGE" "$AT""#, &[("IMAGE", image), ("AT", at)]);
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        shell(r#"fsfreeze -u "$AT" || true; umount "$AT" || umount -l "$AT""#, &[("AT", &self.0)]);
    }
}

/// A copy of the block device while the file system is frozen stands for a snapshot by a volume manager.
fn snapshot() {
    let dir = testkit::tempdir();
    let [image, taken, at, restored] =
        ["image", "taken", "mounted", "restored"].map(|name| dir.path().join(name));
    must(r#"truncate -s 64M "$IMAGE"; mkfs.ext4 -q "$IMAGE""#, &[("IMAGE", &image)]);
    let mount = Mount::new(&image, &at);
    let store = at.join("store");
    let mut running = Running::start(&store);
    running.copy_meanwhile(0, || {
        let script = r#"fsfreeze -f "$AT"; cp --sparse=always "$IMAGE" "$TAKEN" || failed=1; fsfreeze -u "$AT"; [ -z "$failed" ]"#;
        must(script, &[("AT", &at), ("IMAGE", &image), ("TAKEN", &taken)]);
    });
    {
        let snapshot = Mount::new(&taken, &restored);
        running.check_copy(&snapshot.0.join("store"), "snapshot");
    }
    drop(running.finish());
    check_verified(&store, "the store that was copied");
    drop(mount);
}

/// A store with some versions that was filled two days ago, and a backup of it.
struct Backup {
    dir: tempfile::TempDir,
    upstream: Upstream,
    modules: Vec<Module>,
}

impl Backup {
    fn new() -> Self {
        let (dir, upstream) = (testkit::tempdir(), Upstream::start());
        let pairs = ["example.com/a@v1.0.0", "example.com/a@v1.1.0", "example.com/b@v1.0.0"];
        let modules: Vec<_> = pairs.iter().map(|pair| upstream.offer(pair, 3000)).collect();
        let backup = dir.path().join("backup");
        let server = Server::start(&backup, upstream.url());
        for module in &modules {
            assert_eq!(server.get(&module.path("zip")).0, 200);
        }
        assert!(server.stop().success());
        must(r#"find "$BACKUP" -exec touch -d "2 days ago" {} +"#, &[("BACKUP", &backup)]);
        Self { dir, upstream, modules }
    }

    /// Runs a script that makes a store of the backup, at `$STORE` from `$BACKUP`.
    fn restore(&self, name: &str, script: &str) -> PathBuf {
        let (store, backup) = (self.dir.path().join(name), self.dir.path().join("backup"));
        must(script, &[("STORE", &store), ("BACKUP", &backup)]);
        store
    }
}

fn restores() {
    let backup = Backup::new();
    let of_a = r#"A="$STORE/modules/example.com/a/@v/v1.0.0"; "#;
    // What was done to the restored store, and how many of the versions it has without an upstream.
    for (n, (script, expected)) in [
        ("", 3),
        (r#"rm "$STORE/store.lock""#, 3),
        (r#"rm -r "$STORE/staging" "$STORE/cache" "$STORE/index""#, 3),
        (r#"rm -r "$STORE/records""#, 3),
        // All times are lost.
        (r#"rm -r "$STORE"; cp -r "$BACKUP" "$STORE""#, 3),
        (r#"find "$STORE" -exec touch -d @-1000000000 {} +"#, 3),
        (r#"find "$STORE" -exec touch -d @4000000000 {} +"#, 3),
        (r#"find "$STORE" -name ziphash -exec touch -d @0 {} +"#, 3),
        (r#"find "$STORE" -name ziphash -exec touch -d @4000000000 {} +"#, 3),
        (r#"touch "$A/zip""#, 3),
        (r#"rm "$A/ziphash""#, 3),
        (r#": > "$A/ziphash""#, 3),
        // A restore that was interrupted within a version.
        (r#"rm "$A/mod" "$A/zip" "$A/ziphash""#, 2),
        (r#"rm "$A/zip""#, 2),
        (r#"rm "$A/info""#, 2),
        (r#"rm "$A/ziphash"; truncate -s -100 "$A/zip""#, 2),
        (r#"rm "$A/zip"; head -c 1000 "$BACKUP/modules/example.com/a/@v/v1.0.0/zip" > "$A/zip""#, 2),
        // The zip of another version in its place.
        (r#"rm "$A/zip"; cp "$BACKUP/modules/example.com/b/@v/v1.0.0/zip" "$A/zip""#, 2),
        // The marker of a store that is not there, and of one that is.
        (r#"rm -r "$STORE/modules""#, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let whole = format!("cp -a \"$BACKUP\" \"$STORE\"; {of_a} {script}");
        let store = backup.restore(&format!("restored{n}"), &whole);
        let served = check_served(&store, &backup.modules, script);
        assert_eq!(served.iter().filter(|is_there| **is_there).count(), expected, "{script}");
        if script.contains("/info") {
            let output = run(&store, &["verify"]);
            assert!(transcript(&output).contains("it is a leftover"), "{}", transcript(&output));
        } else {
            check_verified(&store, script);
        }
        let server = Server::start(&store, backup.upstream.url());
        for module in &backup.modules {
            assert!(is_served(&server, module), "{script}: {}", module.version);
        }
        assert!(server.stop().success());
        check_verified(&store, script);
    }
    let store = backup.restore("no-marker", r#"cp -a "$BACKUP" "$STORE"; rm "$STORE/layout.v2""#);
    let refused = run(&store, &["verify"]);
    assert_eq!(refused.status.code(), Some(65), "{}", transcript(&refused));
    assert!(transcript(&refused).contains("--from v2"), "{}", transcript(&refused));
    let named = Command::new(MIGRATE).args(["--from", "v2", "--store"]).arg(&store).output().unwrap();
    assert!(named.status.success(), "{}", transcript(&named));
    assert_eq!(check_served(&store, &backup.modules, "no marker"), [true; 3]);
    check_verified(&store, "no marker");
}

fn older_copy() {
    let backup = Backup::new();
    let [forbidden, removed, kept] = [1, 2, 0].map(|n| &backup.modules[n]);
    // The times of the copy are kept or lost, and a server or `stoa verify` looks first.
    for (name, copy, verifies_first) in [
        ("kept-served", "cp -a", false),
        ("kept-verified", "cp -a", true),
        ("rsync", "rsync -a", true),
        ("lost-verified", "cp -r", true),
    ] {
        if copy.starts_with("rsync") && missing_tool("rsync", &["--version"]).is_some() {
            continue;
        }
        let store = backup.restore(name, r#"cp -a "$BACKUP" "$STORE""#);
        for (arguments, module) in [(&["remove", "--tombstone"][..], forbidden), (&["remove"], removed)] {
            let output = run(&store, &[arguments, &[&module.version.to_string()]].concat());
            assert!(output.status.success(), "{}", transcript(&output));
        }
        backup.restore(name, &format!("{copy} \"$BACKUP/modules/.\" \"$STORE/modules/\""));
        if verifies_first {
            let output = run(&store, &["verify"]);
            assert_eq!(output.status.code(), Some(1), "{name}: {}", transcript(&output));
            assert!(transcript(&output).contains("forbidden since"), "{name}: {}", transcript(&output));
        }
        let server = Server::start(&store, backup.upstream.url());
        for file in ["info", "mod", "zip"] {
            let reply = server.ask("GET", &forbidden.path(file), &[]);
            assert_eq!(reply.status, 410, "{name} {file}: {}", reply.text());
        }
        for module in [kept, removed] {
            assert!(is_served(&server, module), "{name}: {}", module.version);
        }
        assert!(server.stop().success());
        assert_eq!(fs::read_dir(store.join("quarantine")).unwrap().count(), 1, "{name}");
        check_verified(&store, name);
    }
}
