//! Users, passwords and tokens, and the modules that each user may read: a real server, and every kind of request.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use testkit::client::Reply;
use testkit::server::{self, Server};
use testkit::sumdb::{self, Site};
use testkit::{Case, STOA, cases};

pub(crate) fn cases() -> Vec<Case> {
    cases![
        every_user_pattern_and_endpoint,
        a_token_of_the_catalog_names_no_hidden_module,
        a_server_with_users_is_closed_by_default,
        a_user_without_any_right_gets_403_everywhere,
        names_that_differ_by_case_have_the_same_rights,
        caches_keep_no_restricted_answer,
        a_token_is_printed_with_its_line,
        a_wrong_users_file_ends_the_start,
    ]
}

/// A folder with a store, a users file and a site.
struct Bench {
    folder: tempfile::TempDir,
    site: Site,
    tokens: Vec<String>,
}

/// The bcrypt hash of `right`, with the cost 4.
const RIGHT: &str = "$2b$04$0123456789abcdefABCDEeuVwc4tOgfgd2P8vtzP7jiN0v96p0am2";

const TABLES: &str = "[[access]]\npattern = 'example.org/Red'\nusers = ['ann', 'bob']\n\
                      [[access]]\npattern = '*.blue.example'\nusers = ['bob']\n";

/// The modules of the two patterns, and a public one.
const MODULES: [&str; 3] = ["example.org/Red", "git.blue.example/m", "example.org/open"];

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: testkit::tempdir(), site: Site::start(3), tokens: Vec::new() };
        let tokens = ["bob", "carl"].map(|name| bench.token(name));
        let users = format!("# Users\nann:{RIGHT}\n{}\n{}\n", tokens[0].1, tokens[1].1);
        bench.write_users(&users, 0o640);
        let bench = Self { tokens: tokens.map(|(token, _)| token).to_vec(), ..bench };
        for module in MODULES {
            for version in ["v1.0.0", "v1.1.0"] {
                let module = bench.site.offer(&format!("{module}@{version}"));
                bench.site.record(&module);
            }
            let escaped = escaped(module);
            let mut state = bench.site.state();
            let info = state.files[&format!("/{escaped}/@v/v1.1.0.info")].clone();
            state.files.insert(format!("/{escaped}/@v/list"), b"v1.0.0\nv1.1.0\n".to_vec());
            state.files.insert(format!("/{escaped}/@latest"), info.clone());
            state.files.insert(format!("/{escaped}/@v/main.info"), info);
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_users(&self, text: &str, mode: u32) {
        fs::write(self.path("users"), text).unwrap();
        fs::set_permissions(self.path("users"), Permissions::from_mode(mode)).unwrap();
    }

    /// Returns a new token, and its line.
    fn token(&self, name: &str) -> (String, String) {
        let output = token(&["--format", "json", name]);
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (value["token"].as_str().unwrap().to_owned(), value["line"].as_str().unwrap().to_owned())
    }

    fn command(&self, config: &str) -> Command {
        let keys = format!(
            "upstream = '{}'\ngosumdb = '{}'\nauth.users_file = 'users'\n{config}",
            self.site.url(),
            sumdb::verifier_key()
        );
        fs::write(self.path("config.toml"), keys).unwrap();
        let mut command = server::command(&self.path("store"));
        command.env_remove("GONOSUMDB").env_remove("GOPRIVATE");
        command.arg("--config").arg(self.path("config.toml"));
        command
    }

    fn serve(&self, config: &str) -> Server {
        Server::start_with(&mut self.command(config))
    }

    /// Returns the header of each client.
    fn clients(&self) -> Vec<(&'static str, Option<String>)> {
        let basic = |text: String| Some(format!("Basic {}", BASE64_STANDARD.encode(text)));
        vec![
            ("nobody", None),
            ("carl", Some(format!("Bearer {}", self.tokens[1]))),
            ("ann", basic("ann:right".to_owned())),
            ("bob", basic(format!("bob:{}", self.tokens[0]))),
            ("wrong", basic("ann:wrong".to_owned())),
            ("unknown", basic("eve:right".to_owned())),
            ("malformed", Some("Basic ?".to_owned())),
        ]
    }
}

fn token(args: &[&str]) -> Output {
    Command::new(STOA).arg("token").args(args).output().unwrap()
}

fn escaped(module: &str) -> String {
    module.replace('R', "!r")
}

fn ask(server: &Server, path: &str, credentials: Option<&str>) -> Reply {
    let headers: Vec<_> = credentials.iter().map(|value| ("Authorization", *value)).collect();
    server.ask("GET", path, &headers)
}

/// Returns whether a client may read a module, or the status of the refusal.
fn right(client: &str, module: &str) -> Result<(), u16> {
    match (client, module) {
        ("wrong" | "unknown" | "malformed", _) => Err(401),
        (_, "example.org/open") | ("ann" | "bob", "example.org/Red") | ("bob", "git.blue.example/m") => {
            Ok(())
        }
        ("nobody", _) => Err(401),
        _ => Err(403),
    }
}

fn every_user_pattern_and_endpoint() {
    let bench = Bench::new();
    let server = bench.serve(&format!("auth.default = ['anyone']\n{TABLES}"));
    let clients = bench.clients();
    let bob = clients.iter().find(|(name, _)| *name == "bob").unwrap().1.as_deref();
    for module in MODULES {
        let path = format!("/{}/@v/v1.0.0.zip", escaped(module));
        assert_eq!(ask(&server, &path, bob).status, 200, "{module}");
    }
    // The clients without rights come first: the others store the second version.
    for is_permitted in [false, true] {
        for (client, credentials) in &clients {
            for module in MODULES {
                let right = right(client, module);
                if right.is_ok() != is_permitted {
                    continue;
                }
                let asked = bench.site.asked(&escaped(module));
                let mut refusals = Vec::new();
                let escaped = escaped(module);
                let lookup = format!("/sumdb/{}/lookup/{escaped}", sumdb::NAME);
                for (path, permitted) in [
                    // Stored, not stored, and nowhere.
                    (format!("/{escaped}/@v/v1.0.0.info"), 200),
                    (format!("/{escaped}/@v/v1.0.0.mod"), 200),
                    (format!("/{escaped}/@v/v1.0.0.zip"), 200),
                    (format!("/{escaped}/@v/v1.1.0.info"), 200),
                    (format!("/{escaped}/@v/v1.1.0.mod"), 200),
                    (format!("/{escaped}/@v/v1.1.0.zip"), 200),
                    (format!("/{escaped}/@v/v1.9.0.info"), 404),
                    (format!("/{escaped}/@v/v1.9.0.mod"), 404),
                    (format!("/{escaped}/@v/v1.9.0.zip"), 404),
                    (format!("/{escaped}/@v/list"), 200),
                    (format!("/{escaped}/@latest"), 200),
                    (format!("/{escaped}/@v/main.info"), 200),
                    (format!("/{escaped}/@v/other.info"), 404),
                    (format!("{lookup}@v1.0.0"), 200),
                    (format!("{lookup}@v1.9.0"), 404),
                ] {
                    let reply = ask(&server, &path, credentials.as_deref());
                    assert_eq!(reply.status, right.err().unwrap_or(permitted), "{client} {path} {reply:?}");
                    if right.is_err() {
                        assert_eq!(reply.header("cache-control"), Some("no-store"), "{client} {path}");
                        let has_challenge = reply.header("www-authenticate").is_some();
                        assert_eq!(has_challenge, reply.status == 401, "{client} {path}");
                        refusals.push((reply.lasting_headers(), reply.body));
                    }
                }
                refusals.dedup();
                assert!(
                    refusals.len() <= 1,
                    "{client} {module}: a refusal depends on the file: {refusals:#?}"
                );
                if !is_permitted {
                    assert_eq!(
                        bench.site.asked(&escaped),
                        asked,
                        "{client} {module}: the upstream was asked"
                    );
                }
            }
        }
    }
    for (client, credentials) in &clients {
        let credentials = credentials.as_deref();
        let is_wrong = right(client, "example.org/open").is_err();
        let seen: Vec<&str> = MODULES.into_iter().filter(|module| right(client, module).is_ok()).collect();
        for path in ["/catalog", "/catalog?pagesize=1", "/index", "/index?limit=1"] {
            let reply = ask(&server, path, credentials);
            assert_eq!(reply.status, if is_wrong { 401 } else { 200 }, "{client} {path}");
            for module in MODULES {
                let is_shown = reply.text().contains(module);
                assert!(!is_shown || seen.contains(&module), "{client} {path} {}", reply.text());
                let is_whole = !path.contains('?');
                assert!(is_shown || !is_whole || !seen.contains(&module), "{client} {path} {}", reply.text());
            }
        }
        for (path, permitted) in [
            ("/".to_owned(), 200),
            (format!("/sumdb/{}/supported", sumdb::NAME), 200),
            // The database of the test has no such page.
            (format!("/sumdb/{}/latest", sumdb::NAME), 404),
            (format!("/sumdb/{}/nothing", sumdb::NAME), 404),
            ("/metricses".to_owned(), 404),
        ] {
            let reply = ask(&server, &path, credentials);
            assert_eq!(reply.status, if is_wrong { 401 } else { permitted }, "{client} {path}");
        }
        for path in ["/healthz", "/readyz", "/version"] {
            assert_eq!(ask(&server, path, credentials).status, 200, "{client} {path}");
        }
        let reply = ask(&server, "/metricses", credentials);
        assert_eq!(reply.status, if is_wrong { 401 } else { 404 }, "{client}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{client}");
    }
}

fn a_token_of_the_catalog_names_no_hidden_module() {
    let bench = Bench::new();
    let server = bench.serve(&format!("auth.default = ['anyone']\n{TABLES}"));
    let clients = bench.clients();
    let bob = clients.iter().find(|(name, _)| *name == "bob").unwrap().1.as_deref();
    for module in MODULES {
        for version in ["v1.0.0", "v1.1.0"] {
            let path = format!("/{}/@v/{version}.zip", escaped(module));
            assert_eq!(ask(&server, &path, bob).status, 200, "{path}");
        }
    }
    for (client, credentials) in &clients {
        let mut expected: Vec<String> = MODULES
            .into_iter()
            .filter(|module| right(client, module).is_ok())
            .flat_map(|module| ["v1.0.0", "v1.1.0"].map(|version| format!("{module}@{version}")))
            .collect();
        expected.sort();
        if expected.is_empty() {
            continue;
        }
        for size in 1..=expected.len() + 1 {
            let (mut found, mut token) = (Vec::new(), String::new());
            loop {
                let path = format!("/catalog?pagesize={size}&token={token}");
                let page: serde_json::Value =
                    serde_json::from_slice(&ask(&server, &path, credentials.as_deref()).body).unwrap();
                let modules = page["modules"].as_array().unwrap();
                assert!(modules.len() == size || page["next"].is_null(), "{client} {size}: {page}");
                found.extend(modules.iter().map(|one| {
                    format!("{}@{}", one["module"].as_str().unwrap(), one["version"].as_str().unwrap())
                }));
                let Some(next) = page["next"].as_str() else { break };
                assert_eq!(next.replace('|', "@"), *found.last().unwrap(), "{client} {size}");
                token = next.replace('|', "%7C");
            }
            assert_eq!(found, expected, "{client} {size}");
        }
    }
}

fn a_server_with_users_is_closed_by_default() {
    let bench = Bench::new();
    let server = bench.serve(TABLES);
    for (client, credentials) in bench.clients() {
        let status = if ["ann", "bob", "carl"].contains(&client) { 200 } else { 401 };
        let lookup = format!("/sumdb/{}/lookup/example.org/open@v1.0.0", sumdb::NAME);
        let supported = format!("/sumdb/{}/supported", sumdb::NAME);
        for path in ["/", "/catalog", "/index", "/example.org/open/@v/v1.0.0.mod", &lookup, &supported] {
            assert_eq!(ask(&server, path, credentials.as_deref()).status, status, "{client} {path}");
        }
        for path in ["/nothing", "/example.org/Open/@v/list", "/sumdb/other.example/supported"] {
            let status = if status == 200 { 404 } else { status };
            assert_eq!(ask(&server, path, credentials.as_deref()).status, status, "{client} {path}");
        }
        assert_eq!(ask(&server, "/healthz", credentials.as_deref()).status, 200, "{client}");
    }
}

fn a_user_without_any_right_gets_403_everywhere() {
    let bench = Bench::new();
    let server = bench.serve("auth.default = ['ann']\n");
    for (client, credentials) in bench.clients() {
        let status = match client {
            "ann" => 200,
            "bob" | "carl" => 403,
            _ => 401,
        };
        for path in ["/", "/catalog", "/index", "/example.org/open/@v/v1.0.0.mod"] {
            let reply = ask(&server, path, credentials.as_deref());
            assert_eq!(reply.status, status, "{client} {path}");
            assert!(status != 403 || reply.text().starts_with(&format!("forbidden: {client} may not read")));
        }
    }
}

fn names_that_differ_by_case_have_the_same_rights() {
    let bench = Bench::new();
    let server = bench.serve(&format!("auth.default = ['anyone']\n{TABLES}"));
    for module in ["example.org/red", "example.org/!r!e!d", "example.org/r!e!d/v2", "git.blue.example/!m"] {
        for file in ["@v/list", "@latest", "@v/v1.0.0.info"] {
            let reply = ask(&server, &format!("/{module}/{file}"), None);
            assert_eq!(reply.status, 401, "{module} {file}");
        }
    }
    assert_eq!(bench.site.asked("example"), 0);
}

fn caches_keep_no_restricted_answer() {
    let bench = Bench::new();
    let rule = "[[module]]\npattern = 'example.org/open'\nchecksum = 'off'\n";
    let is_private = |reply: &Reply| {
        let cache = reply.header("cache-control").unwrap();
        cache == "no-store" || cache.starts_with("private")
    };
    for (config, credentials, open) in [
        (format!("auth.default = ['anyone']\n{TABLES}"), None, "public, max-age=604800"),
        (format!("auth.default = ['anyone']\n{TABLES}{rule}"), None, "private, max-age=604800"),
        (TABLES.to_owned(), Some("carl"), "private, max-age=604800"),
    ] {
        let server = bench.serve(&config);
        let clients = bench.clients();
        let of = |name: &str| clients.iter().find(|(client, _)| *client == name).unwrap().1.clone();
        let reply = ask(&server, "/example.org/open/@v/v1.0.0.zip", credentials.and_then(of).as_deref());
        assert_eq!((reply.status, reply.header("cache-control")), (200, Some(open)), "{config}");
        let lookup = format!("/sumdb/{}/lookup/example.org/!red@v1.0.0", sumdb::NAME);
        for path in ["@v/v1.0.0.info", "@v/v1.0.0.zip", "@v/list", "@latest", "@v/main.info", "@v/v1.9.0.mod"]
            .map(|file| format!("/example.org/!red/{file}"))
            .iter()
            .chain([&lookup])
        {
            // The second answer comes from the store.
            for _ in 0..2 {
                let reply = ask(&server, path, of("ann").as_deref());
                assert!(is_private(&reply), "{path}: {reply:?}");
                let vary = reply.header("vary").unwrap_or_default();
                assert!(vary.contains("Authorization"), "{path}: {vary}");
            }
        }
    }
}

fn a_token_is_printed_with_its_line() {
    let output = token(&["ann"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let token_of = |text: &str| text.split_whitespace().last().unwrap().to_owned();
    assert!(
        lines[0].starts_with("token for the client:") && token_of(lines[0]).starts_with("stoa_"),
        "{text}"
    );
    assert!(token_of(lines[1]).starts_with("ann:{SHA256}"), "{text}");
    assert!(!lines[1].contains(&token_of(lines[0])), "{text}");
    for name in ["", "a b", "anyone", "a:b"] {
        let output = token(&[name]);
        assert_eq!(output.status.code(), Some(64), "{name:?}");
    }
}

fn a_wrong_users_file_ends_the_start() {
    let bench = Bench::new();
    for (text, mode, part) in [
        ("ann:hidden\n", 0o600, "line 1: expected a bcrypt hash"),
        ("ann:{SHA256}00\n", 0o600, "64 hex digits"),
        ("", 0o600, "has no user ann"),
        ("", 0o644, "chmod o-rwx"),
    ] {
        bench.write_users(text, mode);
        let output = bench.command(TABLES).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{error}");
        assert!(error.contains(part) && !error.contains("hidden"), "{part}: {error}");
        assert!(!bench.path("store").exists(), "{part}: the store was made");
    }
}
