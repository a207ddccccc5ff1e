//! Homes of the tool manager in `examples/tool_home` at layout v0.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Names and versions, the newest version of each name last.
pub(crate) type Tools<'a> = &'a [(&'a str, &'a str)];

/// The toolchains of an ordinary home.
pub(crate) const TOOLS: Tools<'static> = &[("node", "1.2"), ("node", "1.10"), ("zig", "0.13.0")];

/// Creates a v0 home with settings and odd files.
pub(crate) fn v0(root: &Path) {
    v0_with(root, TOOLS);
    file(&root.join("settings"), "colour = true\n", 0o600);
    file(&root.join("tools/README"), "not a tool\n", 0o644);
    file(&root.join("tools/half-1.0/lib/x"), "incomplete\n", 0o644);
    fs::create_dir_all(root.join("tools/empty/1.0")).unwrap();
    file(&root.join("bin/mine"), "#!/bin/sh\n", 0o755);
    file(&root.join("notes.txt"), "left alone\n", 0o640);
}

/// Creates a v0 home with these toolchains and their shims.
pub(crate) fn v0_with(root: &Path, tools: Tools<'_>) {
    fs::create_dir_all(root.join("tools")).unwrap();
    fs::create_dir_all(root.join("bin")).unwrap();
    for (name, version) in tools {
        let folder = root.join(format!("tools/{name}-{version}"));
        file(&folder.join("bin").join(name), &format!("#!/bin/sh\necho {name} {version}\n"), 0o755);
        file(&folder.join("share/doc"), &format!("about {name}\n"), 0o444);
        let shim = root.join("bin").join(name);
        let _ = fs::remove_file(&shim);
        symlink(format!("../tools/{name}-{version}/bin/{name}"), shim).unwrap();
    }
}

/// Writes a file with its folders, a mode and a fixed time.
pub(crate) fn file(path: &Path, content: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let age = u64::try_from(path.as_os_str().len()).unwrap() % 7;
    // The mode may forbid writing, so the file is opened for reading.
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000 + age);
    File::open(path).unwrap().set_modified(time).unwrap();
}
