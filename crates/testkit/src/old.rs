//! Stores as other proxies wrote them, made here: many small, whole versions.

use std::fs;
use std::path::Path;

use super::upstream::Module;

/// How many versions a module has.
pub const VERSIONS: usize = 10;

/// Makes an Athens disk store of this many versions, three files each, in folders like those of real stores:
/// some capitals, some majors.
pub fn athens(root: &Path, versions: usize) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for module in (thread..versions.div_ceil(VERSIONS)).step_by(threads) {
                    let count = VERSIONS.min(versions - module * VERSIONS);
                    (0..count).for_each(|version| write(root, module, version));
                }
            });
        }
    });
}

/// Returns the name of a version of such a store, as `MODULE@VERSION`.
pub fn pair(module: usize, version: usize) -> String {
    let owner = if module.is_multiple_of(7) { "Owner" } else { "owner" };
    let (major, folder) = if module.is_multiple_of(5) { (2, "/v2") } else { (1, "") };
    format!("example.com/{owner}{}/module{module}{folder}@v{major}.{version}.0", module % 100)
}

fn write(root: &Path, module: usize, version: usize) {
    let made = Module::new(&pair(module, version), 100);
    let name = made.version.version().as_str();
    let folder = root.join(made.version.path().as_str()).join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("go.mod"), &made.modfile).unwrap();
    fs::write(folder.join("source.zip"), &made.zip).unwrap();
    fs::write(folder.join(format!("{name}.info")), &made.info).unwrap();
}
