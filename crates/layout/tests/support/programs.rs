//! The example programs, run as people run them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the path of an example program. `cargo test` builds them all before it runs a test; `cargo test --test`
/// does not, and must not test an old one.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(
        is_fresh(&path),
        "{} is missing or old: run cargo build -p stoa-layout --examples",
        path.display()
    );
    path
}

/// Whether a program is younger than all that it was made of, which cargo lists in a file beside it.
fn is_fresh(program: &Path) -> bool {
    let time = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified());
    let (Ok(built), Ok(list)) = (time(program), fs::read_to_string(program.with_extension("d"))) else {
        return false;
    };
    let list = list.replace("\\ ", "\0");
    let (_, sources) = list.split_once(':').unwrap();
    let mut sources = sources.split_whitespace().map(|source| source.replace('\0', " "));
    sources.all(|source| time(Path::new(&source)).is_ok_and(|changed| changed <= built))
}

/// Returns the migrator on a home.
pub(crate) fn migrator(home: &Path) -> Command {
    let mut command = Command::new(example("tool_home_migrate"));
    command.env_remove("TOOL_HOME").arg("--store").arg(home);
    command
}
