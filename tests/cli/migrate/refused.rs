//! Folders that are refused, and left as they were.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::small;
use testkit::programs::Programs;
use testkit::stores::{self, INFO, MOD, Plan, Shape, ZIP};
use testkit::tree::{Entry, snapshot};

type Snapshot = std::collections::BTreeMap<PathBuf, Entry>;

/// Fails unless a refused store is as it was. The lock of the run was in the top folder for a while, which has its time.
pub(crate) fn unchanged(before: &Snapshot, root: &Path) {
    let after = snapshot(root);
    let names = |tree: &Snapshot| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(before), names(&after));
    for (path, entry) in before.iter().filter(|(path, _)| !path.as_os_str().is_empty()) {
        assert!(after[path] == *entry, "{} was changed", path.display());
    }
}

/// A folder that is refused.
#[derive(Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) name: &'static str,
    make: fn(&Path),
    code: i32,
    /// A part of the message.
    says: &'static [&'static str],
}

impl Refused {
    pub(crate) fn holds(self) {
        let programs = Programs::current();
        let root = programs.store();
        (self.make)(&root);
        let before = snapshot(&root);
        for arguments in [&[][..], &["--dry-run"], &["--auto"]] {
            let refused = programs.migrate(arguments);
            assert_eq!(refused.code, self.code, "{arguments:?} {refused:?}");
            for text in self.says {
                assert!(refused.err.contains(text), "{arguments:?}, {text}: {refused:?}");
            }
            assert!(refused.err.contains("othing was changed"), "{refused:?}");
            unchanged(&before, &root);
            if self.code == 65 {
                assert!(snapshot(&root) == before, "something was left, be it a lock");
            }
        }
        let gate = programs.stoa(["path", "example.com/m@v1.0.0"]);
        assert_eq!(gate.code, self.code, "{gate:?}");
        unchanged(&before, &root);
    }
}

pub(crate) const REFUSALS: [Refused; 13] = [
    Refused {
        name: "the parent of a store is 65",
        make: |root| {
            small(&root.join("athens"));
            fs::write(root.join("notes"), "x").unwrap();
        },
        code: 65,
        says: &["athens", "not a store"],
    },
    Refused {
        name: "the parent of a store with a marker is 65",
        make: |root| {
            let programs = Programs::current();
            small(&programs.store());
            assert_eq!(programs.migrate(["--to", "v1"]).code, 0);
            stores::copy(&programs.folder().join("store"), &{
                fs::create_dir(root).unwrap();
                root.join("stoa.d")
            });
        },
        code: 65,
        says: &["stoa.d", "not a store"],
    },
    Refused {
        name: "a copy in a sub-folder is 65",
        make: |root| small(&root.join("backup.example/old")),
        code: 65,
        says: &["backup.example", "not a store"],
    },
    Refused {
        name: "a copy of a tree in a sub-folder is 65",
        make: |root| {
            Plan::default()
                .version(Shape::Tree, "example.com/M", "v1.0.0")
                .write(&root.join("backup.example"));
        },
        code: 65,
        says: &["backup.example", "not a store"],
    },
    Refused {
        name: "one partial version is 65",
        make: |root| {
            let mut plan = Plan::default();
            plan.parts(Shape::V0, "example.com/m", "v1.0.0", &[MOD, ZIP, INFO], |part, content| {
                if part == ZIP {
                    content.truncate(content.len() - 1);
                }
            });
            plan.write(root);
        },
        code: 65,
        says: &["example.com", "not a store"],
    },
    Refused {
        name: "a git checkout is 65",
        make: |root| {
            let mut plan = Plan::default();
            for file in
                [".git/HEAD", ".git/config", "go.mod", "main.go", "vendor/example.com/m/v1.0.0/go.mod"]
            {
                plan.file(file, "module example.com/m\n");
            }
            plan.write(root);
        },
        code: 65,
        says: &["not a store"],
    },
    Refused {
        name: "the go command's cache is 65",
        make: go_cache,
        code: 65,
        says: &["stoa import", "cache"],
    },
    Refused {
        name: "the go command's whole module cache is 65",
        make: |root| {
            go_cache(&root.join("cache/download"));
            fs::create_dir_all(root.join("example.com/m@v1.0.0")).unwrap();
        },
        code: 65,
        says: &["stoa import", "cache/download"],
    },
    Refused {
        name: "a module below modules is 73",
        make: |root| {
            small(root);
            let mut plan = Plan::default();
            plan.parts(Shape::V0, "modules/m", "v1.0.0", &[MOD, ZIP, INFO], |_, _| {}).write(root);
        },
        code: 73,
        says: &["modules", "out of the store, then run again"],
    },
    Refused {
        name: "a module below records is 73",
        make: |root| {
            small(root);
            let mut plan = Plan::default();
            plan.parts(Shape::V0, "records", "v1.0.0", &[MOD, ZIP, INFO], |_, _| {}).write(root);
        },
        code: 73,
        says: &["records", "out of the store, then run again"],
    },
    Refused {
        name: "files below cache are 73",
        make: |root| {
            small(root);
            go_cache(&root.join("cache/download"));
        },
        code: 73,
        says: &["cache", "out of the store, then run again"],
    },
    Refused {
        name: "a file named index is 73",
        make: |root| {
            small(root);
            fs::write(root.join("index"), "x").unwrap();
        },
        code: 73,
        says: &["index", "out of the store, then run again"],
    },
    Refused {
        name: "a symlink named staging is 73",
        make: |root| {
            small(root);
            symlink("/tmp", root.join("staging")).unwrap();
        },
        code: 73,
        says: &["staging", "out of the store, then run again"],
    },
];

fn go_cache(root: &Path) {
    let mut plan = Plan::default();
    plan.version(Shape::Tree, "example.com/M", "v1.0.0");
    for name in ["list", "v1.0.0.lock", "v1.0.0.ziphash"] {
        plan.file(format!("example.com/!m/@v/{name}"), "");
    }
    plan.write(root);
}
