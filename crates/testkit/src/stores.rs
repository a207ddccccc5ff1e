//! Stores from before there were markers, made of our own modules, with every odd case that such stores hold
//! in practice, and what must become of each.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use stoa_gomod::ModuleVersion;
use stoa_layout::marker::{Marker, TEMPORARY_PREFIX};

/// How a store without a marker keeps its versions, or one with a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    V0,
    /// Escaped, as a directory cache writes it.
    Tree,
    /// A tree that is not escaped, as a copied bucket.
    Plain,
    V1,
    V2,
}

/// The parts of a version in the order of [`Shape::paths`].
pub const MOD: usize = 0;
pub const ZIP: usize = 1;
pub const INFO: usize = 2;

impl Shape {
    /// Returns the places of mod, zip and info, whether or not the names are valid.
    pub fn paths(self, module: &str, version: &str) -> [PathBuf; 3] {
        let flat = |base: &str, module: &str, version: &str| {
            ["mod", "zip", "info"]
                .map(|ending| PathBuf::from(format!("{base}{module}/@v/{version}.{ending}")))
        };
        match self {
            Self::V0 => ["go.mod", "source.zip", &format!("{version}.info")]
                .map(|name| PathBuf::from(format!("{module}/{version}/{name}"))),
            Self::Tree => flat("", &escape(module), &escape(version)),
            Self::Plain => flat("", module, version),
            Self::V1 => flat("modules/", &escape(module), &escape(version)),
            Self::V2 => ["mod", "zip", "info"].map(|name| {
                PathBuf::from(format!("modules/{}/@v/{}/{name}", escape(module), escape(version)))
            }),
        }
    }
}

/// Writes capitals as `!` and the small letter.
pub fn escape(plain: &str) -> String {
    let mut escaped = String::new();
    for c in plain.chars() {
        if c.is_ascii_uppercase() {
            escaped.push('!');
        }
        escaped.push(c.to_ascii_lowercase());
    }
    escaped
}

/// Returns mod, zip and info of a version. A name that is not valid gets the zip of another.
pub fn contents(module: &str, version: &str) -> [Vec<u8>; 3] {
    let modfile = format!("module {module}\n\ngo 1.21\n").into_bytes();
    let source =
        format!("package m\n\n// Version is what this is.\nconst Version = \"{module} {version}\"\n");
    let pair = ModuleVersion::parse(&format!("{module}@{version}"))
        .unwrap_or_else(|_| ModuleVersion::parse("example.com/other@v1.0.0").unwrap());
    let files = [("go.mod", modfile.as_slice()), ("m.go", source.as_bytes())];
    let zip = stoa_gomod::zip::create(&pair, files).unwrap();
    let info = format!("{{\"Version\":\"{version}\",\"Time\":\"2024-01-02T03:04:05Z\"}}").into_bytes();
    [modfile, zip, info]
}

/// The content of a store, and the expected result.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The entries with their paths, parents before children.
    pub made: Vec<(PathBuf, Made)>,
    /// The versions that move, and the shape that each is in now.
    pub whole: Vec<(&'static str, &'static str, Shape)>,
    /// The expected leftovers, with the beginning of each reason.
    pub left: Vec<(PathBuf, &'static str)>,
}

/// One thing in a store.
#[derive(Debug, Clone)]
pub enum Made {
    File(Vec<u8>, u32),
    Folder,
    Symlink(&'static str),
    HardLink(PathBuf),
}

impl Plan {
    pub fn file(&mut self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> &mut Self {
        self.made.push((path.as_ref().to_owned(), Made::File(content.as_ref().to_vec(), 0o644)));
        self
    }

    pub fn left(&mut self, path: impl AsRef<Path>, reason: &'static str) -> &mut Self {
        self.left.push((path.as_ref().to_owned(), reason));
        self
    }

    pub fn stray(&mut self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> &mut Self {
        self.left(path.as_ref(), "foreign: it belongs to no version").file(path, content)
    }

    fn folder(&mut self, path: impl AsRef<Path>) -> &mut Self {
        self.made.push((path.as_ref().to_owned(), Made::Folder));
        self
    }

    fn symlink(&mut self, path: impl AsRef<Path>, target: &'static str) -> &mut Self {
        self.made.push((path.as_ref().to_owned(), Made::Symlink(target)));
        self
    }

    /// Adds some parts of a version, each with what `change` makes of it.
    pub fn parts(
        &mut self,
        shape: Shape,
        module: &str,
        version: &str,
        parts: &[usize],
        change: impl Fn(usize, &mut Vec<u8>),
    ) -> &mut Self {
        let (paths, contents) = (shape.paths(module, version), contents(module, version));
        for part in parts {
            let mut content = contents[*part].clone();
            change(*part, &mut content);
            self.file(&paths[*part], content);
        }
        self
    }

    /// Adds a version that moves.
    pub fn version(&mut self, shape: Shape, module: &'static str, version: &'static str) -> &mut Self {
        self.whole.push((module, version, shape));
        self.parts(shape, module, version, &[MOD, ZIP, INFO], |_, _| {})
    }

    /// Adds parts of a version that stays.
    fn broken(
        &mut self,
        shape: Shape,
        version: &str,
        parts: &[usize],
        reason: &'static str,
        change: impl Fn(usize, &mut Vec<u8>),
    ) -> &mut Self {
        let module = "example.com/part";
        let paths = shape.paths(module, version);
        // A version's folder names it, or one of its files where all versions are in one, the info if it is there.
        let named = if parts.contains(&INFO) { INFO } else { parts[0] };
        let shown = if shape == Shape::V0 { paths[INFO].parent().unwrap() } else { &paths[named] };
        self.left(shown, reason).parts(shape, module, version, parts, change)
    }

    fn mode(&mut self, module: &str, version: &str, shape: Shape, mode: u32) -> &mut Self {
        let paths = shape.paths(module, version);
        for (path, made) in &mut self.made {
            if let Made::File(_, own) = made
                && paths.contains(path)
            {
                *own = mode;
            }
        }
        self
    }

    /// Writes it all, each file with a time of its own.
    pub fn write(&self, root: &Path) {
        fs::create_dir_all(root).unwrap();
        for (n, (path, made)) in self.made.iter().enumerate() {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match made {
                Made::Folder => fs::create_dir_all(&path).unwrap(),
                Made::Symlink(target) => symlink(target, &path).unwrap(),
                Made::HardLink(other) => fs::hard_link(root.join(other), &path).unwrap(),
                Made::File(content, mode) => {
                    fs::write(&path, content).unwrap();
                    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000 + n as u64);
                    fs::File::open(&path).unwrap().set_modified(time).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                }
            }
        }
    }

    /// Returns the expected content of the store at a layout, folders aside, given what it held before.
    pub fn expected(&self, before: &Files, to: Shape) -> Files {
        let mut files = before.clone();
        for (module, version, from) in &self.whole {
            for (old, new) in from.paths(module, version).into_iter().zip(to.paths(module, version)) {
                let file = files.remove(&old).unwrap_or_else(|| panic!("{} is there", old.display()));
                assert!(files.insert(new, file).is_none());
            }
        }
        files
    }

    /// Returns the files of a tree as if all versions were escaped, as a way back writes them. The three files of each
    /// must be in one spelling.
    pub fn escaped(&self, mut found: Files) -> Files {
        for (module, version, shape) in &self.whole {
            let (plain, escaped) = (shape.paths(module, version), Shape::Tree.paths(module, version));
            if *shape != Shape::Plain || plain == escaped {
                continue;
            }
            let there = plain.iter().filter(|path| found.contains_key(*path)).count();
            assert!([0, 3].contains(&there), "{module}@{version} is torn apart between two spellings");
            for (plain, escaped) in plain.iter().zip(escaped) {
                if let Some(file) = found.remove(plain) {
                    assert!(found.insert(escaped, file).is_none(), "{module}@{version} is in two spellings");
                }
            }
        }
        found
    }
}

const ALL: &[usize] = &[MOD, ZIP, INFO];

fn same(_: usize, _: &mut Vec<u8>) {}

/// Empties one part.
fn empty(part: usize) -> impl Fn(usize, &mut Vec<u8>) {
    move |at, content| {
        if at == part {
            content.clear()
        }
    }
}

/// Cuts one part in half.
fn half(part: usize) -> impl Fn(usize, &mut Vec<u8>) {
    move |at, content| {
        if at == part {
            content.truncate(content.len() / 2)
        }
    }
}

/// The versions that are whole, in one shape.
fn whole(plan: &mut Plan, shape: Shape) {
    for (module, version) in [
        ("github.com/Azure/sdk", "v1.0.0-RC1"),
        ("github.com/Azure/sdk", "v1.1.0"),
        ("github.com/Azure/sdk/v2", "v2.0.1"),
        ("example.com/old", "v2.0.0+incompatible"),
        ("example.com/old", "v0.0.0-20240102030405-abcdefabcdef"),
        ("gopkg.in/yaml.v2", "v2.4.0"),
        ("corp.example", "v1.0.0"),
        ("example.com/x", "v1.2.3"),
        ("example.com/x/v1.2.3/sub", "v1.0.0"),
    ] {
        plan.version(shape, module, version);
    }
    plan.mode("github.com/Azure/sdk", "v1.1.0", shape, 0o755);
    plan.mode("corp.example", "v1.0.0", shape, 0o444);
    // A hole in the data, which only a read of all of it finds.
    plan.whole.push(("example.com/hole", "v1.0.0", shape));
    plan.parts(shape, "example.com/hole", "v1.0.0", ALL, |part, content| {
        if part == ZIP {
            let data = 30 + "example.com/hole@v1.0.0/go.mod".len();
            content[data + 1..data + 9].fill(0);
        }
    });
    plan.made.push((
        "keep/hardlink".into(),
        Made::HardLink(shape.paths("example.com/hole", "v1.0.0")[ZIP].clone()),
    ));
    plan.left("keep/hardlink", "foreign: it belongs to no version");
}

/// Leftovers that are the same in all shapes.
fn broken(plan: &mut Plan, shape: Shape) {
    plan.broken(shape, "v0.0.2", &[MOD], "incomplete", empty(MOD));
    plan.broken(shape, "v0.0.3", &[MOD, ZIP], "incomplete", empty(ZIP));
    plan.broken(shape, "v0.0.4", &[MOD, ZIP], "incomplete", half(ZIP));
    plan.broken(shape, "v0.0.5", &[MOD, ZIP], "incomplete", same);
    plan.broken(shape, "v0.0.6", ALL, "incomplete: its info", empty(INFO));
    plan.broken(shape, "v0.0.7", &[INFO], "incomplete", same);
    plan.broken(shape, "v0.0.8", ALL, "incomplete: its zip", half(ZIP));
    plan.broken(shape, "v0.0.9", ALL, "incomplete: its go.mod", empty(MOD));
    plan.broken(shape, "v0.0.10", ALL, "incomplete: its info", |part, content| {
        if part == INFO {
            *content = br#"{"Version":"v9.9.9","Time":"2024-01-02T03:04:05Z"}"#.to_vec();
        }
    });
    plan.broken(shape, "v0.0.11", ALL, "incomplete: its zip", |part, content| {
        if part == ZIP {
            *content = contents("example.com/other", "v1.0.0")[ZIP].clone();
        }
    });
    plan.broken(shape, "v0.0.12", ALL, "incomplete: its go.mod", |part, content| {
        if part == MOD {
            *content = b"go 1.21\n".to_vec();
        }
    });
    plan.broken(shape, "v0.0.13", ALL, "incomplete: its zip", empty(ZIP));
    plan.broken(shape, "v0.0.14", ALL, "incomplete: its info", half(INFO));
    plan.stray("home.html", "<p>hello");
    plan.file(".DS_Store", "x").file("lost+found/inode", "x");
    plan.folder("example.com/empty/folder");
    plan.left("example.com/link", "symlink").symlink("example.com/link", "x");
}

/// An Athens disk store with every odd case.
pub fn v0() -> Plan {
    let mut plan = Plan::default();
    let shape = Shape::V0;
    whole(&mut plan, shape);
    broken(&mut plan, shape);
    plan.folder("example.com/part/v0.0.1");
    // Others in the folder of a whole version do not hold it back.
    plan.stray("example.com/x/v1.2.3/v1.2.3.zip", "prefilled beside")
        .stray("example.com/x/v1.2.3/notes", "mine");
    for alias in ["master", "0123456789ab", "v1", "v1.2"] {
        let folder = format!("example.com/part/{alias}");
        plan.left(folder, "alias").parts(shape, "example.com/part", alias, ALL, same);
    }
    plan.broken(shape, "v0.1.0", &[MOD, INFO], "prefilled", same);
    plan.stray("example.com/part/v0.1.0/v0.1.0.zip", "prefilled");
    for name in ["list", "v1.0.0.lock", "v1.0.0.ziphash", "v1.0.0.mod", "v1.0.0.zip", "v1.0.0.info"] {
        plan.stray(format!("example.com/cached/@v/{name}"), name);
    }
    plan.left("example.com/part/v0.3.0", "symlink").symlink("example.com/part/v0.3.0", "../x/v1.2.3");
    plan.broken(shape, "v0.4.0", &[MOD, INFO], "symlink", same);
    plan.symlink("example.com/part/v0.4.0/source.zip", "../v0.0.5/source.zip");
    for name in ["go.mod", "source.zip", "v0.4.1.info"] {
        let path = format!("example.com/part/v0.4.1/{name}");
        plan.left(&path, "symlink").symlink(&path, "nowhere");
    }
    let strange = Path::new("example.com").join(OsStr::from_bytes(b"b\xff")).join("v1.0.0");
    plan.left(&strange, "foreign");
    for (name, content) in
        ["go.mod", "source.zip", "v1.0.0.info"].into_iter().zip(contents("example.com/b", "v1.0.0"))
    {
        plan.file(strange.join(name), content);
    }
    let long = format!("example.com/{}", "A".repeat(200));
    plan.left(format!("{long}/v1.0.0"), "its name has").parts(shape, &long, "v1.0.0", ALL, same);
    plan.broken(shape, &format!("v1.0.0-{}", "A".repeat(130)), ALL, "its name has", same);
    plan.broken(shape, "v2.0.0", ALL, "foreign", same);
    plan.left("nodot/m/v1.0.0", "foreign").parts(shape, "nodot/m", "v1.0.0", ALL, same);
    plan.broken(shape, "v0.5.0", &[MOD, INFO], "incomplete", same);
    plan.stray("example.com/part/v0.5.0/source.zip/inside", "x");
    plan
}

/// A GOPROXY file tree with every odd case: escaped, or not escaped, or both where `shape` is escaped.
pub fn tree(shape: Shape) -> Plan {
    let mut plan = Plan::default();
    whole(&mut plan, shape);
    broken(&mut plan, shape);
    if shape == Shape::Tree {
        // Not escaped among escaped ones.
        plan.version(Shape::Plain, "github.com/BurntSushi/toml", "v1.0.0-Beta");
    }
    for spelling in [Shape::Tree, Shape::Plain] {
        let paths = spelling.paths("github.com/Two/two", "v1.0.0");
        plan.left(&paths[INFO], "two spellings").parts(spelling, "github.com/Two/two", "v1.0.0", ALL, same);
    }
    plan.stray("example.com/x/@v/list", "v1.2.3\n")
        .stray("example.com/x/@v/v1.2.3.ziphash", "h1:not believed");
    plan.stray("example.com/x/@v/v1.2.3.txt", "mine").stray("@v/v1.0.0.info", "{}");
    for alias in ["master", "0123456789ab", "v1", "v1.2"] {
        for (part, path) in shape.paths("example.com/part", alias).into_iter().enumerate() {
            plan.left(&path, "alias").file(&path, &contents("example.com/part", alias)[part]);
        }
    }
    plan.broken(shape, "v0.4.0", &[MOD, INFO], "symlink", same);
    plan.symlink("example.com/part/@v/v0.4.0.zip", "v0.0.5.zip");
    plan.left("example.com/part/@v/v0.4.1.info", "symlink");
    for ending in ["mod", "zip", "info"] {
        plan.symlink(format!("example.com/part/@v/v0.4.1.{ending}"), "nowhere");
    }
    let strange = Path::new("example.com").join(OsStr::from_bytes(b"b\xff")).join("@v");
    for (ending, content) in ["mod", "zip", "info"].into_iter().zip(contents("example.com/b", "v1.0.0")) {
        plan.stray(strange.join(format!("v1.0.0.{ending}")), content);
    }
    if shape == Shape::Plain {
        let long = format!("example.com/{}", "A".repeat(200));
        plan.left(format!("{long}/@v/v1.0.0.info"), "its name has").parts(shape, &long, "v1.0.0", ALL, same);
        plan.broken(shape, &format!("v1.0.0-{}", "A".repeat(130)), ALL, "its name has", same);
    }
    plan.broken(shape, "v2.0.0", ALL, "foreign", same);
    for path in shape.paths("nodot/m", "v1.0.0") {
        plan.stray(path, "x");
    }
    plan
}

/// One thing in a store, folders aside, with all that a move must keep.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    pub mode: u32,
    pub modified: (i64, i64),
    pub content: Vec<u8>,
}

/// Returns the content of a store without folders, marker and lock.
pub type Files = BTreeMap<PathBuf, Kept>;

/// Looks at what a store holds.
pub fn files(root: &Path) -> Files {
    let mut found = Files::new();
    walk(root, &mut |path, meta| {
        let content = match meta {
            meta if meta.is_dir() => return,
            meta if meta.is_symlink() => fs::read_link(path).unwrap().into_os_string().into_encoded_bytes(),
            _ => fs::read(path).unwrap(),
        };
        // The time of a symlink is of no use to anybody.
        let modified = if meta.is_symlink() { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) };
        let kept = Kept { mode: meta.mode(), modified, content };
        found.insert(path.strip_prefix(root).unwrap().to_owned(), kept);
    });
    found
}

/// Looks at the folders of a store.
pub fn folders(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(root, &mut |path, meta| {
        if meta.is_dir() {
            found.push(path.strip_prefix(root).unwrap().to_owned());
        }
    });
    found.sort();
    found
}

fn walk(root: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap_or_default();
            let is_ours =
                name == "store.lock" || name.starts_with(TEMPORARY_PREFIX) || Marker::parse(name).is_some();
            if folder == root && is_ours {
                continue;
            }
            let meta = fs::symlink_metadata(&path).unwrap();
            visit(&path, &meta);
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
}

/// Returns the markers in a root.
pub fn markers(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let mut markers: Vec<String> = names.filter(|name| Marker::parse(name).is_some()).collect();
    markers.sort();
    markers
}

/// Copies a store with its times, modes and symlinks.
pub fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Says how two stores differ, in a form that can be read.
pub fn difference(expected: &Files, found: &Files) -> String {
    let mut lines = Vec::new();
    for (path, kept) in expected {
        match found.get(path) {
            None => lines.push(format!("- {}", path.display())),
            Some(other) if other != kept => lines.push(format!(
                "~ {}: mode {:o} for {:o}, time {:?} for {:?}, {} for {} bytes",
                path.display(),
                other.mode,
                kept.mode,
                other.modified,
                kept.modified,
                other.content.len(),
                kept.content.len()
            )),
            Some(_) => {}
        }
    }
    lines.extend(
        found.keys().filter(|path| !expected.contains_key(*path)).map(|path| format!("+ {}", path.display())),
    );
    lines.join("\n")
}

/// Fails with what differs.
pub fn assert_same(expected: &Files, found: &Files, what: &str) {
    assert!(expected == found, "{what}:\n{}", difference(expected, found));
}
