//! Stores that other proxies wrote, the real ones: each upgrades itself, serves the same build offline, every
//! file byte for byte what it was, and goes back to the proxy that wrote it.
//!
//! Needs a go toolchain and the upstream that it is set up with; what is built is kept for the next run.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::Case;

use sha2::{Digest, Sha256};
use stoa_gomod::{ModulePath, ModuleVersion, Version};
use testkit::peer::{self, Peer};
use testkit::server::Server;
use testkit::{MIGRATE, go::Go, program, transcript, trial};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        trial("a store of a real Athens is upgraded, served and downgraded", None, || {
            there_and_back(Peer::Athens, "v0");
        })
        .needs(peer::missing),
        trial("a tree of a real goproxy is upgraded, served and downgraded", None, || {
            there_and_back(Peer::Goproxy, "tree");
        })
        .needs(peer::missing),
    ]
}

fn there_and_back(peer: Peer, layout: &str) {
    let dir = testkit::tempdir();
    let (store, folder) = (dir.path().join("store"), dir.path().join("program"));
    program::write(&folder);

    let online = peer.start(&store, true);
    let go = Go::new(dir.path(), &online.url).unverified();
    // Athens answers 404 whenever its own upstream fails for a moment, and go believes that.
    go.run_in_the_end(&folder, "first", &["mod", "tidy"]);
    go.run_in_the_end(&folder, "first", &["mod", "download", "all"]);
    go.run(&folder, "first", &["build", "-trimpath", "-o", "program", "."]);
    online.stop();
    let before = manifest(&store);
    let versions = versions_of(peer, &before);
    assert_varied(&versions);
    println!("{} files, {} whole versions", before.len(), versions.len());

    // Nothing but the server is started: it brings the store up by itself.
    let server = Server::start(&store, "off");
    assert!(store.join("layout.v2").is_file());
    for (version, files) in &versions {
        for (name, digest) in ["info", "mod", "zip"].into_iter().zip(files) {
            let path = format!("/{}/@v/{}.{name}", version.path().escaped(), version.version().escaped());
            let (status, body) = server.get(&path);
            assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
            assert_eq!(hex(&body), *digest, "{path} is served with other bytes");
        }
    }
    builds_again(dir.path(), &folder, &server.url, "second");
    assert!(server.stop().success());
    for (version, files) in &versions {
        let (path, name) = (version.path().escaped(), version.version().escaped());
        let at = store.join("modules").join(path).join("@v").join(name);
        for (name, digest) in ["info", "mod", "zip"].into_iter().zip(files) {
            assert_eq!(hex(&fs::read(at.join(name)).unwrap()), *digest, "{}", at.join(name).display());
        }
    }

    let mut back = Command::new(MIGRATE);
    back.args(["--to", layout, "--store"]).arg(&store);
    let output = back.output().unwrap();
    assert!(output.status.success(), "{}", transcript(&output));
    let mut after = manifest(&store);
    after.remove(Path::new("store.lock")).expect("the lock file stays");
    assert_same(&before, &after);

    let cut_off = peer.start(&store, false);
    builds_again(dir.path(), &folder, &cut_off.url, "third");
    cut_off.stop();
}

/// Builds the program from an empty module cache through a proxy; it must come out the same.
fn builds_again(home: &Path, folder: &Path, url: &str, module_cache: &str) {
    let go = Go::new(home, url).unverified();
    go.run(folder, module_cache, &["mod", "download", "all"]);
    go.run(folder, module_cache, &["mod", "verify"]);
    go.run(folder, module_cache, &["build", "-trimpath", "-o", "again", "."]);
    let same = fs::read(folder.join("program")).unwrap() == fs::read(folder.join("again")).unwrap();
    assert!(same, "the program built through {url} is another one");
}

/// The state that must come back: names, kinds, modes, and of files the time and the bytes. Moves change the times of
/// folders, whoever makes them.
#[derive(Debug, PartialEq, Eq)]
struct Was {
    mode: u32,
    file: Option<((i64, i64), String)>,
}

fn manifest(root: &Path) -> BTreeMap<PathBuf, Was> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let file =
                meta.is_file().then(|| ((meta.mtime(), meta.mtime_nsec()), hex(&fs::read(&path).unwrap())));
            found.insert(path.strip_prefix(root).unwrap().to_owned(), Was { mode: meta.mode(), file });
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    found
}

fn assert_same(before: &BTreeMap<PathBuf, Was>, after: &BTreeMap<PathBuf, Was>) {
    let gone: Vec<_> = before.keys().filter(|path| !after.contains_key(*path)).collect();
    let new: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert!(gone.is_empty() && new.is_empty(), "gone: {gone:?}\nnew: {new:?}");
    for (path, was) in before {
        assert_eq!(after[path], *was, "{}", path.display());
    }
}

/// Returns the versions with all three files, with the digests of info, mod and zip as the peer wrote them.
fn versions_of(peer: Peer, manifest: &BTreeMap<PathBuf, Was>) -> BTreeMap<ModuleVersion, [String; 3]> {
    let digest = |path: &Path| manifest.get(path)?.file.as_ref().map(|(_, digest)| digest.clone());
    let mut versions = BTreeMap::new();
    for path in manifest.keys().filter(|path| path.extension().is_some_and(|ending| ending == "info")) {
        let (folder, stem) = (path.parent().unwrap(), path.file_stem().unwrap().to_str().unwrap());
        let (module, version, others) = match peer {
            Peer::Athens => {
                let module = folder.parent().unwrap().to_str().unwrap();
                let others = [folder.join("go.mod"), folder.join("source.zip")];
                (ModulePath::new(module).unwrap(), Version::new(stem).unwrap(), others)
            }
            Peer::Goproxy => {
                let module = folder.parent().unwrap().to_str().unwrap();
                let others =
                    [path.with_file_name(format!("{stem}.mod")), path.with_file_name(format!("{stem}.zip"))];
                // What it keeps of a query (`latest.info`, a branch) is no version.
                let Ok(version) = Version::unescape(stem) else { continue };
                (ModulePath::unescape(module).unwrap(), version, others)
            }
        };
        if let [Some(info), Some(modfile), Some(zip)] = [digest(path), digest(&others[0]), digest(&others[1])]
        {
            versions.insert(ModuleVersion::new(module, version).unwrap(), [info, modfile, zip]);
        }
    }
    versions
}

fn assert_varied(versions: &BTreeMap<ModuleVersion, [String; 3]>) {
    let names: Vec<String> = versions.keys().map(ToString::to_string).collect();
    let count = |of: &dyn Fn(&str) -> bool| names.iter().filter(|name| of(name)).count();
    assert!(names.len() >= 40, "{} versions", names.len());
    let is_pseudo = |name: &str| {
        name.rsplit_once('-').is_some_and(|(rest, hash)| {
            hash.len() == 12 && rest.len() > 14 && rest[rest.len() - 14..].bytes().all(|b| b.is_ascii_digit())
        })
    };
    let has_major = |name: &str| {
        let path = name.split('@').next().unwrap();
        path.rsplit('/').next().is_some_and(|last| last.starts_with('v') && last[1..].parse::<u32>().is_ok())
    };
    let kinds = [
        ("capitals", count(&|name| name.split('@').next().unwrap().bytes().any(|b| b.is_ascii_uppercase()))),
        ("+incompatible", count(&|name| name.ends_with("+incompatible"))),
        ("pseudo-versions", count(&is_pseudo)),
        ("majors in folders", count(&has_major)),
    ];
    println!("{kinds:?}");
    assert!(kinds.iter().all(|(_, count)| *count > 0), "{kinds:?}");
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
