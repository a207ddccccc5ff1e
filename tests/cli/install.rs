//! The installer, run as a user would with programs that are built already.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use testkit::{Case, cases};

use testkit::tree::shape;
use testkit::upstream::Module;

pub(crate) fn cases() -> Vec<Case> {
    cases![
        installs_both_side_by_side_and_makes_no_store,
        an_installed_stoa_finds_its_migrator_through_a_symlink,
        a_refused_store_is_reported_and_the_programs_are_installed,
        what_it_says_to_run_can_be_run,
        what_is_in_the_way_stays,
        an_old_store_is_upgraded_and_the_downgrade_is_explained,
        bad_usage_says_so,
    ]
}

fn install(home: &Path, arguments: &[&str]) -> Output {
    let built = testkit::STOA.path().parent().unwrap();
    Command::new("sh")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/installer/install.sh"))
        .arg("--from")
        .arg(built)
        .arg("--prefix")
        .arg(home.join("prefix"))
        .args(arguments)
        .env("HOME", home)
        .env("XDG_DATA_HOME", home.join("data"))
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env_remove("STOA_STORE")
        .env_remove("STOA_CONFIG")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn installs_both_side_by_side_and_makes_no_store() {
    let home = testkit::tempdir();
    for _ in 0..2 {
        let output = install(home.path(), &[]);
        assert!(output.status.success(), "{}", text(&output));
    }
    let mut names: Vec<_> = fs::read_dir(home.path().join("prefix/bin"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["stoa", "stoa-migrate"]);
    assert!(!home.path().join("data").exists(), "the installer made a store");
    let version = Command::new(home.path().join("prefix/bin/stoa")).arg("--version").output().unwrap();
    assert!(version.status.success());
}

fn an_installed_stoa_finds_its_migrator_through_a_symlink() {
    let home = testkit::tempdir();
    assert!(install(home.path(), &[]).status.success());
    let link = home.path().join("stoa");
    std::os::unix::fs::symlink(home.path().join("prefix/bin/stoa"), &link).unwrap();
    let store = home.path().join("store");
    let output =
        Command::new(link).args(testkit::commands::CREATING).arg("--store").arg(&store).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(store.join("layout.v2").is_file());
}

fn a_refused_store_is_reported_and_the_programs_are_installed() {
    let home = testkit::tempdir();
    let store = home.path().join("store");
    fs::create_dir(&store).unwrap();
    fs::write(store.join("letter.txt"), "dear").unwrap();
    let output = install(home.path(), &["--store", store.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(65), "{}", text(&output));
    assert!(text(&output).contains("stoa-migrate --store"), "{}", text(&output));
    assert!(home.path().join("prefix/bin/stoa").is_file());
    assert_eq!(fs::read_dir(&store).unwrap().count(), 1);
}

fn what_it_says_to_run_can_be_run() {
    let home = testkit::tempdir();
    let (prefix, store) = (home.path().join("it's a prefix"), home.path().join("a store"));
    fs::create_dir(&store).unwrap();
    fs::write(store.join("letter.txt"), "dear").unwrap();
    let prefix = format!("--prefix={}", prefix.display());
    let output = install(home.path(), &[&prefix, "--store", store.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(65), "{}", text(&output));
    let told = text(&output);
    let (_, command) = told.trim_end().rsplit_once("run: ").unwrap();
    fs::remove_file(store.join("letter.txt")).unwrap();
    let status = Command::new("sh").args(["-c", command]).current_dir("/").status().unwrap();
    assert!(status.success(), "{command}");
    assert!(store.join("layout.v2").is_file());
}

fn what_is_in_the_way_stays() {
    let home = testkit::tempdir();
    let folder = home.path().join("prefix/bin/stoa");
    fs::create_dir_all(&folder).unwrap();
    let output = install(home.path(), &[]);
    assert_eq!(output.status.code(), Some(73), "{}", text(&output));
    assert!(text(&output).contains(folder.to_str().unwrap()), "{}", text(&output));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let output = install(home.path(), &["--prefix", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(73), "{}", text(&output));
}

fn an_old_store_is_upgraded_and_the_downgrade_is_explained() {
    let home = testkit::tempdir();
    let store = home.path().join("a store's place");
    let pair = "example.org/Upper@v1.0.0";
    let folder = Module::new(pair, 10).put_v0(&store);
    let before = shape(&store);
    let output = install(home.path(), &["--store", store.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(store.join("layout.v2").is_file() && !folder.exists());
    let told = text(&output);
    assert!(told.contains("from layout v0 to v2"), "{told}");
    let command = told
        .lines()
        .find_map(|line| line.split_once("previous release, run: "))
        .expect("the way back is told")
        .1;
    assert!(command.ends_with("--to v0"), "{command}");

    // Where nothing is to be done, there is nothing to go back to.
    let again = install(home.path(), &["--store", store.to_str().unwrap()]);
    assert!(again.status.success() && !text(&again).contains("go back"), "{}", text(&again));

    let back = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(back.status.success(), "{command}: {}", text(&back));
    let mut after = shape(&store);
    after.remove(Path::new("store.lock"));
    assert_eq!(after, before);
}

fn bad_usage_says_so() {
    let home = testkit::tempdir();
    let nothing = home.path().join("nothing");
    let nothing = nothing.to_str().unwrap();
    for arguments in [
        ["--wrong"].as_slice(),
        &["--prefix"],
        &["--prefix="],
        &["--store", ""],
        &["--from", nothing],
        &["word"],
    ] {
        let output = install(home.path(), arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", text(&output));
    }
    assert!(!home.path().join("prefix").exists());
}
