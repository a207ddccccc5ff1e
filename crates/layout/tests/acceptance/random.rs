//! Random homes, and random mixtures of the two sides of a step. Each is a valid start in both directions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::run::{self, done, to};
use crate::support::homes;
use crate::support::tree::{self, settled};

#[derive(Debug, Clone)]
struct Home {
    /// The versions of each tool, in order.
    tools: BTreeMap<String, Vec<String>>,
    /// Foreign files below the home.
    odd: Vec<String>,
    has_settings: bool,
}

impl Home {
    fn make(&self, root: &Path) {
        homes::v0_with(root, &self.pairs());
        for path in &self.odd {
            homes::file(&root.join(path), path, 0o604);
        }
        if self.has_settings {
            homes::file(&root.join("settings"), "a = 1\n", 0o640);
        }
    }

    fn pairs(&self) -> Vec<(&str, &str)> {
        self.tools
            .iter()
            .flat_map(|(name, versions)| versions.iter().map(|version| (name.as_str(), version.as_str())))
            .collect()
    }

    /// Returns the moves of a step, from the older to the newer side.
    fn moves(&self, step: (&str, &str)) -> Vec<(PathBuf, PathBuf)> {
        let mut moves: Vec<(String, String)> = self
            .pairs()
            .into_iter()
            .map(|(name, version)| match step {
                ("v0", _) => (format!("tools/{name}-{version}"), format!("tools/{name}/{version}")),
                _ => (format!("tools/{name}/{version}"), format!("toolchains/{name}/{version}")),
            })
            .collect();
        if step.0 == "v1" && self.has_settings {
            moves.push(("settings".to_owned(), "settings.toml".to_owned()));
        }
        moves.into_iter().map(|(from, to)| (from.into(), to.into())).collect()
    }
}

fn homes() -> impl Strategy<Value = Home> {
    let versions = prop::collection::btree_set((0u64..20, 0u64..20), 1..4)
        .prop_map(|all| all.into_iter().map(|(major, minor)| format!("{major}.{minor}")).collect());
    let tools = prop::collection::btree_map("[a-d]", versions, 1..4);
    let odd = prop::sample::subsequence(
        vec![
            "tools/README",
            "tools/half-1.0/lib/x",
            "tools/Upper-1.0/bin/Upper",
            "tools/x-01/bin/x",
            "tools/y-1.0/bin/other",
            "tools/two-1-2/bin/two",
            "bin/mine",
            "toolchains.txt",
            ".hidden/deep/file",
        ],
        0..9,
    )
    .prop_map(|all| all.into_iter().map(str::to_owned).collect());
    (tools, odd, any::<bool>()).prop_map(|(tools, odd, has_settings)| Home { tools, odd, has_settings })
}

/// Returns the undisturbed home at a layout.
fn undisturbed(home: &Home, layout: &str) -> tree::Tree {
    let dir = testkit::tempdir();
    home.make(dir.path());
    run::run(dir.path(), &to(layout));
    settled(dir.path())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn up_and_back_is_the_same(home in homes()) {
        let dir = testkit::tempdir();
        home.make(dir.path());
        let before = settled(dir.path());
        prop_assert_eq!(run::run(dir.path(), &to("v2")), done("v2"));
        prop_assert_eq!(run::run(dir.path(), &to("v0")), done("v0"));
        run::assert_same(&before, &settled(dir.path()), "up and back");
    }

    #[test]
    fn any_mixture_ends_right_in_both_directions(
        home in homes(),
        step in prop::sample::select(vec![("v0", "v1"), ("v1", "v2")]),
        was_back in any::<bool>(),
        moved in any::<u32>(),
        end in prop::sample::select(vec!["v0", "v1", "v2"]),
    ) {
        let dir = testkit::tempdir();
        let root = dir.path();
        home.make(root);
        run::run(root, &to(step.0));
        for (n, (from, to)) in home.moves(step).into_iter().enumerate() {
            if moved >> (n % 32) & 1 == 1 {
                fs::create_dir_all(root.join(&to).parent().unwrap()).unwrap();
                fs::rename(root.join(from), root.join(to)).unwrap();
            }
        }
        let (from, to_layout) = if was_back { (step.1, step.0) } else { step };
        let marker = root.join(format!("migrating.{from}-{to_layout}"));
        match step.0 {
            "v0" => fs::write(marker, "").unwrap(),
            _ => fs::rename(root.join("layout.v1"), marker).unwrap(),
        }
        prop_assert_eq!(run::run(root, &to(end)), done(end));
        run::assert_same(&undisturbed(&home, end), &settled(root), "a mixture");
    }
}
