//! Rules that the compiler does not check: the direction of imports, and forbidden words and calls.

use std::fs;
use std::path::{Path, PathBuf};
use testkit::{Case, cases};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        imports_run_one_way,
        leaves_import_nothing_of_ours,
        rooms_have_no_circles,
        the_engine_has_no_word_of_go,
        only_one_module_writes,
        one_file_names_the_database_of_go,
    ]
}

/// The sources below a folder of the project.
fn sources(below: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(below)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    assert!(!found.is_empty(), "no sources below {below}");
    found
}

fn nobody_below(folder: &str, except: &[&str], names: &[&str]) {
    for (path, text) in sources(folder) {
        if except.iter().any(|except| path.ends_with(except)) {
            continue;
        }
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for name in names {
                assert!(!line.contains(name), "{}:{}: {name} must not be known here", path.display(), n + 1);
            }
        }
    }
}

fn imports_run_one_way() {
    // The upper floors, from the top: the command line, commands, the server, the proxy, fills, upstreams.
    nobody_below("src", &["src/bin/stoa-migrate.rs"], &["stoa_migrations"]);
    nobody_below("src", &[], &["crate::cli"]);
    nobody_below("src/command", &[], &["crate::migrate", "crate::proxy"]);
    // Everything else is below the commands. `sources` reports errors of commands, and log lines move their progress line.
    let above = ["bin", "command", "lib.rs", "logging", "main.rs", "migrate", "sources.rs"];
    let src = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    for name in src.map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
        if !above.contains(&name.as_str()) {
            nobody_below(&format!("src/{name}"), &[], &["crate::command", "crate::migrate"]);
        }
    }
    nobody_below("src/server", &[], &["crate::config", "crate::sources"]);
    nobody_below("src/migrate", &[], &["crate::proxy", "crate::server"]);
    nobody_below("src/config", &[], &["crate::command", "crate::migrate", "crate::proxy", "crate::server"]);
    let middle = ["src/fill", "src/answers", "src/sumdb"];
    let others = ["src/proxy", "src/upstream", "src/policy.rs", "src/tasks", "src/unavailable.rs"];
    for folder in middle.into_iter().chain(others) {
        nobody_below(folder, &[], &["crate::command", "crate::config", "crate::migrate", "crate::server"]);
    }
    nobody_below("src/proxy", &[], &["crate::upstream"]);
    for folder in middle {
        nobody_below(folder, &[], &["crate::proxy", "crate::services", "hyper::"]);
    }
    // Siblings: fills and answers use the checksum database, and nothing else of each other.
    nobody_below("src/fill", &[], &["crate::answers"]);
    nobody_below("src/answers", &[], &["crate::fill"]);
    nobody_below("src/sumdb", &[], &["crate::answers", "crate::fill"]);
    for below in ["src/policy.rs", "src/tasks", "src/unavailable.rs", "src/upstream"] {
        nobody_below(
            below,
            &[],
            &["crate::proxy", "crate::services", "crate::answers", "crate::fill", "crate::sumdb"],
        );
    }
    nobody_below("src/upstream", &[], &["crate::policy", "crate::tasks", "crate::unavailable", "stoa_store"]);
    // The crates.
    nobody_below("crates/layout", &[], &["stoa_gomod", "stoa_store", "stoa_migrations"]);
    nobody_below("crates/gomod/src", &[], &["stoa_layout", "std::fs", "std::net", "std::process"]);
    nobody_below("crates/store/src", &[], &["stoa_migrations", "tokio"]);
    nobody_below("crates/bucket/src", &[], &["stoa_store", "stoa_migrations", "reqwest::"]);
    nobody_below("migrations/src", &[], &["stoa_store"]);
    for folder in ["crates/gomod", "crates/layout", "crates/store", "crates/testkit", "migrations"] {
        nobody_below(folder, &[], &["reqwest::"]);
    }
    for folder in ["crates/gomod", "crates/layout", "crates/store"] {
        nobody_below(folder, &[], &["tokio::"]);
    }
    // The client of object stores is an implementation detail of one crate, and of the tests.
    for folder in ["src", "migrations", "crates/gomod", "crates/layout", "crates/store"] {
        nobody_below(folder, &[], &["object_store::"]);
    }
}

fn leaves_import_nothing_of_ours() {
    for name in ["error", "event", "progress", "report"] {
        nobody_below(&format!("src/command/{name}.rs"), &[], &["crate::"]);
    }
    // The configuration and the upstreams use these.
    for name in ["clock", "nonces", "peer", "signature"] {
        nobody_below(&format!("src/sync/{name}.rs"), &[], &["crate::"]);
    }
}

fn rooms_have_no_circles() {
    for room in ["src/fill", "src/answers", "src/sumdb"] {
        let mut imports: Vec<(String, Vec<String>)> = Vec::new();
        for (path, text) in sources(room) {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            if name == "mod" {
                continue;
            }
            let shipped = text.split("#[cfg(test)]").next().unwrap();
            // An import by way of mod.rs would hide where it leads.
            assert!(!shipped.contains("super::{"), "{}: import from the module itself", path.display());
            let named = shipped.match_indices("super::").map(|(at, found)| {
                let rest = &shipped[at + found.len()..];
                rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned()
            });
            imports.push((name, named.collect()));
        }
        assert!(imports.iter().any(|(_, named)| !named.is_empty()), "{room}: no imports");
        // Whatever imports nothing that is left is taken away; a circle stays.
        loop {
            let names: Vec<String> = imports.iter().map(|(name, _)| name.clone()).collect();
            let before = imports.len();
            imports.retain(|(_, named)| named.iter().any(|named| names.contains(named)));
            if imports.len() == before {
                break;
            }
        }
        assert!(imports.is_empty(), "{room}: a circle among {imports:?}");
    }
}

fn the_engine_has_no_word_of_go() {
    for (path, text) in sources("crates/layout") {
        let text = text.to_lowercase();
        for word in ["golang", "goproxy", "go.mod", "module path", "athens", "gomod"] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}

fn only_one_module_writes() {
    let expectation = "clippy::disallowed_methods";
    // What stands in it holds for the files below it.
    let door = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/layout/src/durable/mod.rs");
    assert!(fs::read_to_string(&door).unwrap().contains(expectation), "{}", door.display());
    for folder in ["src", "crates/layout/src", "crates/gomod/src", "crates/store/src", "migrations/src"] {
        for (path, text) in sources(folder) {
            // Files of tests are compiled for tests only.
            if path == door || path.ends_with("tests.rs") {
                continue;
            }
            // What stands behind it is compiled for tests only.
            let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
            for line in shipped.lines().filter(|line| line.contains(expectation)) {
                assert!(line.contains("cfg_attr(test"), "{}: {line}", path.display());
            }
        }
    }
}

fn one_file_names_the_database_of_go() {
    let name = ["sum", "golang", "org"].join(".");
    let folders = ["src", "crates", "migrations", "tests", "benches"].map(sources);
    let named = folders.into_iter().flatten().filter(|(_, text)| text.contains(&name));
    let named: Vec<_> = named.map(|(path, _)| path).collect();
    assert!(matches!(&named[..], [one] if one.ends_with("src/sumdb/gosumdb.rs")), "{named:?}");
}
