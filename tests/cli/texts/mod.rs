//! Snapshots of the texts that a person can see. A changed or new text fails here until its snapshot is accepted:
//!
//! ```sh
//! INSTA_UPDATE=always cargo test --test cli texts
//! ```

mod help;
mod messages;
mod refusals;

use testkit::{Case, cases};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = cases![snapshots_are_all_in_use];
    cases.extend(help::cases());
    cases.extend(messages::cases());
    cases.extend(refusals::cases());
    cases
}

/// The names of all snapshots in this folder.
const NAMES: [&str; 6] = ["errors", "help_stoa", "help_stoa_migrate", "logs", "refusals", "texts"];

/// Compares a text with its snapshot.
fn compare(name: &'static str, text: &str) {
    assert!(NAMES.contains(&name), "{name} is not in the list of snapshots");
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn snapshots_are_all_in_use() {
    let folder = testkit::project("tests/cli/texts/snapshots");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".snap.new"))
        .collect();
    names.sort();
    assert_eq!(names, NAMES.map(|name| format!("{name}.snap")));
}
