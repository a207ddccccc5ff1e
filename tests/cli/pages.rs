//! The sample config file and the page about the configuration, made from the declarations.
//!
//! `UPDATE_PAGES=1 cargo test --test cli pages::` writes both files. Without the variable a difference is a failure.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use stoa::config::keys::{self, Default, Key};
use testkit::{Case, cases};

pub(crate) fn cases() -> Vec<Case> {
    cases![the_sample_file_follows_the_declarations, the_page_follows_the_declarations]
}

const SAMPLE: &str = "\
# Configuration of Stoa. The file is $XDG_CONFIG_HOME/stoa/config.toml or /etc/stoa/config.toml, or the file that --config or
# STOA_CONFIG names.
#
# Each key is also an option and an environment variable: `fill.max_concurrent` is --fill-max-concurrent and
# STOA_FILL_MAX_CONCURRENT. In options and variables, lists are separated by commas. Precedence: option, variable, this file,
# default. Unknown keys are errors. `stoa config check` checks this file, and `stoa config show` prints every value with its
# origin.
#
# Durations are written as 500ms, 30s, 5m, 1h or 2d. A bare number is in seconds.
# Sizes are written as 64KiB, 500M or 1.5GiB. K, M, G and T are powers of 1024. KB, MB, GB and TB are powers of 1000. A bare
# number is in bytes.
";

const SAMPLE_TABLES: &str = r##"
# Rules about modules. The first rule whose pattern matches the module path applies. Keys that the rule does not set have the
# values set above. Patterns are those of GOPRIVATE: globs with commas between them, matched against the start of the path.
#
#[[module]]
#pattern = "*.corp.example,github.com/Acme/*"
#mode = "sync"
#redirect_url = "https://proxy.example.org"
#upstream = "https://proxy.corp.example"
#checksum = "off"
# Requests for versions outside of allow, and for versions in deny, get 403 even if the versions are stored. An entry is v1.2.3,
# v1.2.*, v1.*, *, or <, <=, >, >= before a version. All conditions of an entry must hold. One matching entry is enough.
#allow = ["v1.*", ">=v2.1.0 <v3"]
#deny = ["v1.3.0"]

# Credentials for an upstream: login and password, or a bearer token. The secret is in this file or in a file of its own
# (password_file, bearer_file). These credentials take precedence over .netrc and are sent over HTTPS only. Do not let other
# users read this file if it contains a secret.
#
#[[credentials]]
#host = "proxy.corp.example"
#login = "stoa"
#password_file = "/etc/stoa/password"

# The users who may read the modules of a pattern. They are in the file in auth.users_file. The first table that matches
# applies, otherwise auth.default. The pattern ignores the case of letters. The words anyone and authenticated stand for every
# client and for every user.
#
#[[access]]
#pattern = "github.com/Acme/secret"
#users = ["ann", "ci"]

# A peer: another deployment that exchanges versions with this one. Both need a table for the other, and peers.name. The secret
# in secret_file is the same on both sides, has 32 to 1024 bytes, and only the user of the server may read it. Relative paths
# start at the folder of this file. offer has no default: the modules that the peer may have.
#
#[[peer]]
#name = "oslo"
#url = "https://go.oslo.example.org"
#secret_file = "secrets/paris-oslo"
# The only root certificates for this peer, in a PEM file. Default: those of the system.
#ca_file = "oslo.pem"
#offer = ["*.corp.example", "github.com/Acme/*"]
# The modules that are taken from this peer.
#accept = ["*"]
# Whether the tombstones of this peer apply here, too.
#accept_tombstones = false
# Whether this deployment asks the peer for events.
#pull = true
# Whether this deployment notifies the peer of new versions.
#push = true
# Pause between two requests for events, and maximum time that the peer may hold such a request.
#interval = "1m"
# Maximum speed of downloads from this peer in bytes per second; 0 for no maximum.
#bandwidth = 0
"##;

const PAGE: &str = "\
# Configure

Every key in the table below can be set in the config file or by an environment variable. [Rules](#rules-module),
[credentials](#credentials-credentials), [access rights](#access-access) and [peers](#peers-peer) can be set only in the config file. Almost every key is also an option of
`stoa serve`. The exceptions are `lock_timeout` and `store_mode`, which are options of `stoa-migrate`, and `threads`,
which is an option of `stoa-migrate` and of commands such as `stoa verify`. The option and the variable follow from
the name of the key: `fill.list_ttl` is `--fill-list-ttl` and `STOA_FILL_LIST_TTL`.

Precedence: option, variable, config file, default.

`--config` or `STOA_CONFIG` names the config file. Otherwise it is `$XDG_CONFIG_HOME/stoa/config.toml`, or
`/etc/stoa/config.toml` if the first does not exist. [The sample file](../installer/sample-config.toml) lists all keys.

```sh
stoa config show      # every value and its origin
stoa config check     # check everything that `stoa serve` would read
```

`stoa config check` reports every wrong key with its file, line and text, and exits with 64. Unknown keys are errors. For an
unknown `STOA_` variable the command warns and suggests the nearest name. Secrets are never printed.

Durations are written as `500ms`, `30s`, `5m`, `1h` or `2d`. A bare number is in seconds. Sizes are written as `64KiB`, `500M` or
`1.5GiB`. K, M, G and T are powers of 1024. KB, MB, GB and TB are powers of 1000. A bare number is in bytes. NAMES, PATTERNS
and RANGES are arrays in the file, and comma-separated in options and variables.

## Keys

| key | value | default | meaning |
| --- | --- | --- | --- |
";

const PAGE_TABLES: &str = r#"
`STOA_CONFIG` and `STOA_LOG` are variables without a key. `STOA_LOG` sets the log level, for example `STOA_LOG=debug`.

## Rules: `[[module]]`

Each table is a rule. The first rule whose pattern matches the module path applies. Keys that the rule does not set have the
values from the top level.

| key | meaning |
| --- | --- |
| `pattern` | patterns as in `GOPRIVATE`, with commas between them |
| `mode`, `redirect_url`, `upstream`, `checksum` | as above |
| `allow` | version ranges; all other versions are answered with 403, even if they are stored |
| `deny` | version ranges that are answered with 403, even if they are stored or in `allow` |

A version range is `v1.2.3`, `v1.2.*`, `v1.*`, `*`, or conditions such as `>=v2.1.0 <v3`. All conditions of a range must hold. One
matching range is enough.

```toml
[[module]]
pattern = "*.corp.example,github.com/Acme/*"
upstream = "direct"
checksum = "off"
deny = ["v1.3.0", ">=v2.0.0 <v2.1.4"]
```

## Credentials: `[[credentials]]`

| key | meaning |
| --- | --- |
| `host` | the host of an upstream, with or without a port |
| `login`, `password` or `password_file` | login name and password |
| `bearer` or `bearer_file` | a bearer token |

Stoa sends credentials over HTTPS only. Stoa also reads `.netrc`, but the config file takes precedence. Stoa warns if the config
file contains a secret and every user can read it.

## Access: `[[access]]`

Each table names the users who may read the modules of a pattern. The first table whose pattern matches the module path
applies. `auth.default` applies to all other modules.

| key | meaning |
| --- | --- |
| `pattern` | patterns as in `GOPRIVATE`, with commas between them; the case of letters is ignored |
| `users` | names of users in `auth.users_file`, or the word `anyone` or `authenticated`; `[]` permits nobody |

```toml
[auth]
users_file = "users"
default = ["authenticated"]

[[access]]
pattern = "github.com/Acme/secret"
users = ["ann", "ci"]
```

A relative `auth.users_file` starts at the folder of the config file. A file that every user of the machine may use is refused.
A server with a name that is not in the file does not start. [TLS and access](tls-and-access.md) explains passwords and tokens.

## Peers: `[[peer]]`

A peer is another deployment that exchanges versions with this one. [Several deployments](several-deployments.md) explains the
keys and three set-ups. If there is a peer, `peers.name` is required.

| key | value | default | meaning |
| --- | --- | --- | --- |
| `name` | NAME | required | the `peers.name` of the peer |
| `url` | URL | required | the base URL of the peer, without credentials and without a query |
| `secret_file` | PATH | required | a file with the secret of the two deployments: 32 to 1024 bytes, not counting spaces and line ends around it |
| `ca_file` | PATH | the roots of the system | a PEM file with the only root certificates that are accepted for this peer |
| `offer` | PATTERNS | required | the modules that the peer may have; `[]` offers nothing |
| `accept` | PATTERNS | `["*"]` | the modules that are taken from the peer |
| `accept_tombstones` | BOOL | `false` | whether the tombstones of the peer apply here, too |
| `pull` | BOOL | `true` | whether this deployment asks the peer for events |
| `push` | BOOL | `true` | whether this deployment notifies the peer of new versions |
| `interval` | DURATION | `1m` | the pause between two requests for events; with 0, the peer holds each request until it has an event, for at most 50 seconds |
| `bandwidth` | SIZE | `0` | the maximum speed of downloads of zips from the peer in bytes per second; 0 for no maximum |

`secret_file` and `ca_file` may be relative to the folder of the config file. A secret that other users may read is refused. Two
peers need different names and different secrets. A server with a wrong `[[peer]]` does not start, and `stoa config check` reports
everything that is wrong.

```toml
[peers]
name = "paris"

[[peer]]
name = "oslo"
url = "https://go.oslo.example.org"
secret_file = "secrets/paris-oslo"
offer = ["*.corp.example"]
```
"#;

fn value(key: &Key) -> String {
    let text = match key.default {
        Default::Value(text) | Default::Unset(_, text) => text,
    };
    if key.is_list() {
        let parts: Vec<String> = text.split(',').map(|part| format!("{part:?}")).collect();
        return format!("[{}]", parts.join(", "));
    }
    // A number with a leading zero is no number in TOML.
    let is_plain = text.parse::<u64>().is_ok_and(|number| number.to_string() == text) || key.is_switch();
    if is_plain { text.to_owned() } else { format!("{text:?}") }
}

fn wrapped(text: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < 120 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("# {word}")),
        }
    }
    lines.join("\n")
}

fn sentences(key: &Key) -> String {
    let mut lines = key.doc.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let rest: Vec<&str> = lines.collect();
    format!("{first}. {}", rest.join(" ")).trim().to_owned()
}

/// Returns the table of a key in the file. The folder of the store is in the table of its limits: TOML has no key that is both
/// a value and a table.
fn table_of(key: &Key) -> Option<&'static str> {
    match key.name {
        "store" => Some("store"),
        name => name.split_once('.').map(|(table, _)| table),
    }
}

fn sample() -> String {
    let mut text = SAMPLE.to_owned();
    let mut tables: Vec<Option<&str>> = Vec::new();
    for key in keys::all() {
        if !tables.contains(&table_of(key)) {
            tables.push(table_of(key));
        }
    }
    tables.sort_by_key(Option::is_some);
    for name in tables {
        if let Some(name) = name {
            let _ = write!(text, "\n[{name}]\n");
        }
        for (n, key) in keys::all().filter(|key| table_of(key) == name).enumerate() {
            let default = match key.default {
                Default::Unset("none", _) => " No default.".to_owned(),
                Default::Unset(text, _) => format!(" Default: {text}."),
                Default::Value(_) => String::new(),
            };
            let short = match key.name {
                "store" => "path",
                name => name.rsplit('.').next().unwrap_or_default(),
            };
            let gap = if n > 0 || name.is_none() { "\n" } else { "" };
            let _ =
                write!(text, "{gap}{}\n#{short} = {}\n", wrapped(&(sentences(key) + &default)), value(key));
        }
    }
    text + SAMPLE_TABLES
}

fn page() -> String {
    let mut text = PAGE.to_owned();
    for key in keys::all() {
        let default = match key.default {
            Default::Value(value) => format!("`{value}`"),
            Default::Unset(described, _) => described.to_owned(),
        };
        let (name, kind, meaning) = (key.name, key.value_name, sentences(key));
        let _ = writeln!(text, "| `{name}` | {kind} | {default} | {meaning} |");
    }
    text + PAGE_TABLES
}

fn holds(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_PAGES").is_some() {
        fs::write(&path, text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "{} differs from the declarations; run with UPDATE_PAGES=1", path.display());
}

fn the_sample_file_follows_the_declarations() {
    holds("installer/sample-config.toml", &sample());
}

fn the_page_follows_the_declarations() {
    holds("docs/configure.md", &page());
}
