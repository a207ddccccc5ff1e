//! Generated zips, infos and pages, read by Stoa and by the go command's own code. What Stoa accepts, Go accepts, and reads
//! the same in it.
//!
//! Needs a go toolchain. The libraries of its go command are in its own source, so nothing is downloaded.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use stoa_gomod::go_import::go_imports;
use stoa_gomod::{ModuleVersion, info, zip};
use testkit::{Case, missing_tool, transcript, trial};

mod deflate;
mod infos;
mod pages;
mod random;
mod zips;

use random::Random;

pub(crate) fn cases() -> Vec<Case> {
    let missing = missing_tool("go", &["version"]);
    vec![
        trial("go accepts every zip that Stoa accepts, with the same hash", missing.clone(), same_zips),
        trial("go accepts every info that Stoa accepts, with the same values", missing.clone(), same_infos),
        trial("go finds the same go-import meta tags in a page", missing, same_pages),
    ]
}

const PATH: &str = "example.com/Mod";
const VERSION: &str = "v1.2.3";

/// Builds the program that reads as go does.
fn build(dir: &Path) -> PathBuf {
    let answer = Command::new("go").args(["env", "GOROOT", "GOVERSION"]).output().expect("go runs").stdout;
    let answer = String::from_utf8(answer).unwrap();
    let (goroot, version) = answer.trim().split_once('\n').expect("two lines");
    let (goroot, version) = (Path::new(goroot), version.strip_prefix("go").expect("a release"));
    let (source, library) = (dir.join("readers"), dir.join("mod"));
    copy(&goroot.join("src/cmd/vendor/golang.org/x/mod"), &library);
    fs::write(library.join("go.mod"), format!("module golang.org/x/mod\n\ngo {version}\n")).unwrap();
    fs::create_dir(&source).unwrap();
    fs::write(source.join("main.go"), include_str!("main.go")).unwrap();
    let own = format!(
        "module readers\n\ngo {version}\n\nrequire golang.org/x/mod v0.0.0\n\nreplace golang.org/x/mod => ../mod\n"
    );
    fs::write(source.join("go.mod"), own).unwrap();
    let program = dir.join("readers.program");
    let mut command = Command::new("go");
    command.args(["build", "-o"]).arg(&program).current_dir(&source);
    command.env("GOPROXY", "off").env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local").env("GOWORK", "off");
    let output = command.output().expect("go runs");
    assert!(output.status.success(), "{}", transcript(&output));
    program
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Returns Go's verdicts of these inputs: what it read, or why it refuses.
fn verdicts(program: &Path, kind: &str, inputs: &[Vec<u8>]) -> Vec<Result<String, String>> {
    let mut command = Command::new(program);
    command.args([kind, PATH, VERSION]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            for input in inputs {
                stdin.write_all(&u32::try_from(input.len()).unwrap().to_le_bytes()).unwrap();
                stdin.write_all(input).unwrap();
            }
        });
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{}", transcript(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let verdicts: Vec<_> = text
        .lines()
        .map(|line| match line.split_once(' ') {
            Some(("accepted", read)) => Ok(read.to_owned()),
            _ => Err(line.to_owned()),
        })
        .collect();
    assert_eq!(verdicts.len(), inputs.len());
    verdicts
}

/// Compares the verdicts: of `Ok` here and there, with the same text.
fn compare(
    names: &[String],
    inputs: &[Vec<u8>],
    ours: &[Result<String, String>],
    go: &[Result<String, String>],
) {
    let (mut both, mut stricter) = (0, BTreeMap::<String, (usize, String)>::new());
    let mut wrong = Vec::new();
    for (((name, input), ours), go) in names.iter().zip(inputs).zip(ours).zip(go) {
        match (ours, go) {
            (Ok(ours), Ok(go)) if ours == go => both += 1,
            (Ok(ours), go) => wrong.push((name, ours, go, input)),
            // A made input without a fault must pass here too.
            (Err(_), Ok(_)) if name.is_empty() => wrong.push((name, ours.as_ref().unwrap_err(), go, input)),
            (Err(reason), Ok(_)) => {
                let reason = reason.rsplit(':').next().unwrap().trim().to_owned();
                stricter.entry(reason).or_insert((0, name.clone())).0 += 1;
            }
            (Err(_), Err(_)) => {}
        }
    }
    println!("{} inputs, {both} accepted by both; stricter than go:", inputs.len());
    stricter.iter().for_each(|(reason, (count, name))| println!("{count:7} {reason} ({name})"));
    for (name, ours, go, input) in wrong.iter().take(10) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("go-readers-{}", input.len()));
        fs::write(&path, input).unwrap();
        eprintln!("{name}: here {ours}, go {go:?}: {}", path.display());
    }
    assert!(wrong.is_empty(), "{} of {} inputs are read differently by go", wrong.len(), inputs.len());
    assert!(both > inputs.len() / 10, "only {both} of {} inputs are accepted", inputs.len());
}

fn same_zips() {
    let dir = testkit::tempdir();
    let program = build(dir.path());
    let module = ModuleVersion::parse(&format!("{PATH}@{VERSION}")).unwrap();
    let mut random = Random::new(17);
    let (names, inputs): (Vec<_>, Vec<_>) =
        (0..20_000).map(|_| zips::generate(&mut random)).chain(zips::with_many_entries()).unzip();
    let ours: Vec<_> = inputs
        .iter()
        .map(|input: &Vec<u8>| match zip::examine(input, &module) {
            Ok(examined) => {
                zip::check_structure(input, &module).expect("a valid zip has a valid structure");
                Ok(examined.h1.to_string())
            }
            Err(error) => Err(error.to_string()),
        })
        .collect();
    compare(&names, &inputs, &ours, &verdicts(&program, "zips", &inputs));
}

fn same_infos() {
    let dir = testkit::tempdir();
    let program = build(dir.path());
    let module = ModuleVersion::parse(&format!("{PATH}@{VERSION}")).unwrap();
    let mut random = Random::new(17);
    let (names, inputs): (Vec<_>, Vec<_>) =
        (0..50_000).map(|_| infos::generate(&mut random)).chain(infos::nested()).unzip();
    // The zero time of go stands for none.
    let zero = -62_135_596_800_i64;
    let ours: Vec<_> = inputs
        .iter()
        .map(|input: &Vec<u8>| match info::parse_answer(module.path(), VERSION, input) {
            Ok(read) => {
                let (secs, nanos) =
                    read.time.map_or((zero, 0), |time| (time.unix_timestamp(), time.nanosecond()));
                let hash = info::commit(input).unwrap_or_default().replace('\u{fffd}', "");
                let hex: String = hash.bytes().map(|byte| format!("{byte:02x}")).collect();
                Ok(format!("{secs}.{nanos:09} {hex}"))
            }
            Err(error) => Err(error.to_string()),
        })
        .collect();
    compare(&names, &inputs, &ours, &verdicts(&program, "infos", &inputs));
}

fn same_pages() {
    let dir = tempfile::tempdir().unwrap();
    let program = build(dir.path());
    let mut random = Random::new(17);
    let inputs: Vec<_> = (0..200_000).map(|_| pages::generate(&mut random)).collect();
    let names = vec![String::new(); inputs.len()];
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let ours: Vec<_> = inputs
        .iter()
        .map(|page| {
            let tags = go_imports(page);
            let tags = tags
                .iter()
                .map(|tag| hex(format!("{} {} {} {}", tag.prefix, tag.vcs, tag.root, tag.folder).trim_end()));
            Ok(tags.collect::<Vec<_>>().join(" "))
        })
        .collect();
    let found = ours.iter().filter(|tags| tags.as_ref().is_ok_and(|tags| !tags.is_empty())).count();
    compare(&names, &inputs, &ours, &verdicts(&program, "pages", &inputs));
    assert!(found > inputs.len() / 10, "only {found} of {} pages have tags", inputs.len());
}
