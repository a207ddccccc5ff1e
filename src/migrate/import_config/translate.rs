//! Translates the keys of Athens into those of Stoa, and notes keys that have no counterpart.

use std::path::{Path, PathBuf};

use super::athens::{Athens, ReadError, Setting, read_named};
use super::download_mode::{self, DownloadMode, redirects};
use super::filter::Filter;
use super::ours::Ours;
use super::pattern;
use super::rules::{self, Admission, Change, Effect, List};
use crate::sumdb::Gosumdb;

/// Keys that have no counterpart, with advice. A note is printed if the key differs from its default.
const ADVICE: [(&str, &str); 20] = [
    ("BasicAuthUser", "Stoa has no authentication; put a reverse proxy with authentication in front of it"),
    ("CloudRuntime", "Stoa has one log format"),
    ("EnablePprof", "Stoa has no profiler"),
    ("ForceSSL", "let the reverse proxy in front of Stoa redirect to https"),
    (
        "GithubToken",
        "secrets are not copied; put the token into the netrc file of the user that runs stoa, as the password for github.com",
    ),
    ("GoBinary", "put its folder first in the PATH of stoa"),
    (
        "GoGetDir",
        "Stoa downloads into the staging folder of the store; set TMPDIR to move the work folder of the go command",
    ),
    ("HGRCPath", "make it the .hgrc of the user that runs stoa"),
    ("HomeTemplatePath", "the start page of Stoa cannot be changed"),
    ("LogFormat", "Stoa has one log format"),
    ("LogLevel", "set STOA_LOG to error, warn, info, debug or trace"),
    ("NETRCPath", "set NETRC to this path in the environment of stoa"),
    ("PprofPort", "Stoa has no profiler"),
    (
        "ProtocolWorkers",
        "Stoa serves stored modules without waiting for downloads; max_connections limits the connections",
    ),
    ("RobotsFile", "let the reverse proxy in front of Stoa answer /robots.txt"),
    ("StashTimeout", "Stoa has its own time limits for downloads"),
    ("StatsExporter", "Stoa exports no statistics"),
    ("TLSCertFile", "Stoa serves plain HTTP; put a reverse proxy with the certificate in front of it"),
    ("Timeout", "Stoa has its own time limits for downloads"),
    ("UnixSocket", "Stoa listens on an address and a port (key listen)"),
];

/// Translates the configuration of Athens. Relative paths start at `folder`.
pub(super) fn translate(athens: &Athens, folder: &Path) -> Result<Ours, ReadError> {
    let mut ours = Ours { max_fills: athens.number("GoGetWorkers")?.max(1), ..Ours::default() };
    store(athens, folder, &mut ours);
    ours.keys.push(("listen", listen(athens)?.into(), None));
    if let Some(prefix) = athens.set("PathPrefix") {
        let path = format!("/{}", prefix.text().trim_matches('/'));
        ours.keys.push(("base_path", path.into(), None));
    }
    let grace = i64::try_from(athens.number("ShutdownTimeout")?).unwrap_or(i64::MAX);
    ours.keys.push(("grace", grace.into(), None));
    let go = Go::of(athens)?;
    go.keys(&mut ours);
    sumdbs(athens, &mut ours);
    modules(athens, &go, &mut ours)?;
    notes(athens, &mut ours);
    Ok(ours)
}

fn store(athens: &Athens, folder: &Path, ours: &mut Ours) {
    match athens.text("StorageType").as_str() {
        "disk" => match athens.set("Storage.Disk.RootPath") {
            Some(root) => {
                let path = folder.join(root.text());
                let why = "Stop Athens before the first start: Stoa then upgrades this folder to its own layout.";
                ours.keys.push(("store", path.display().to_string().into(), Some(why)));
            }
            None => ours.note("StorageType", "disk is set without Storage.Disk.RootPath; set the folder with the key `store`"),
        },
        "memory" => ours.note("StorageType", "memory keeps nothing; Stoa keeps modules in the folder that the key `store` names"),
        "s3" => {
            bucket(athens, "s3", "Storage.S3.Bucket", ours);
            for (key, name) in [("bucket.endpoint", "Storage.S3.Endpoint"), ("bucket.region", "Storage.S3.Region")] {
                if let Some(value) = athens.set(name) {
                    ours.keys.push((key, value.text().into(), None));
                }
            }
        }
        "gcp" => bucket(athens, "gs", "Storage.GCP.Bucket", ours),
        "azureblob" => {
            bucket(athens, "az", "Storage.AzureBlob.ContainerName", ours);
            if let Some(account) = athens.set("Storage.AzureBlob.AccountName") {
                ours.keys.push(("bucket.account", account.text().into(), None));
            }
        }
        other => ours.not_translated(
            &athens.origin("StorageType"),
            &format!(
                "Stoa has no {other} storage and keeps modules in the folder that the key `store` names; copy the modules to a folder and \
                 run `stoa import`, or let Stoa download them again (keys and passwords are not copied)"
            ),
        ),
    }
}

/// Translates the storage in a bucket.
fn bucket(athens: &Athens, scheme: &str, name: &str, ours: &mut Ours) {
    match athens.set(name) {
        Some(bucket) => {
            let why = "Stoa upgrades this bucket in place. Set the credentials in the environment variables of the service: secrets are not copied.";
            ours.keys.push(("bucket.url", format!("{scheme}://{}", bucket.text()).into(), Some(why)));
        }
        None => ours.note(
            "StorageType",
            &format!("a bucket is set without {name}; set the bucket with the key `bucket.url`"),
        ),
    }
}

fn listen(athens: &Athens) -> Result<String, ReadError> {
    let port = athens.text("Port");
    let port = port.trim();
    let (host, number) = port.rsplit_once(':').unwrap_or(("", port));
    if number.parse::<u16>().is_err() || host.contains('/') {
        return Err(athens.wrong("Port", "expected a port (3000 or :3000), or an address and a port"));
    }
    // Athens listens on all addresses by default.
    Ok(format!("{}:{number}", if host.is_empty() { "0.0.0.0" } else { host }))
}

/// The environment that Athens sets for the go command.
struct Go {
    variables: Vec<(String, String)>,
    origin: String,
    upstream: Option<String>,
    had_credentials: bool,
}

/// Variables of the go command that are translated into keys.
const TRANSLATED: [&str; 5] = ["GOPROXY", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOSUMDB"];

impl Go {
    fn of(athens: &Athens) -> Result<Self, ReadError> {
        let list = match athens.set("GoBinaryEnvVars") {
            Some(setting) => setting.list(';'),
            None => vec![athens.text("GoBinaryEnvVars")],
        };
        let mut variables: Vec<(String, String)> = Vec::new();
        for part in list.iter().filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                // The rest may be a secret, so the error does not show it.
                let why = "expected NAME=VALUE, separated by ; in a variable".to_owned();
                let origin = athens.origin("GoBinaryEnvVars");
                let value = part.split(':').next().unwrap_or_default().to_owned();
                return Err(ReadError::Value { origin, value, why });
            };
            variables.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        let mut go = Self {
            variables,
            origin: athens.origin("GoBinaryEnvVars"),
            upstream: None,
            had_credentials: false,
        };
        if let Some(list) = go.variable("GOPROXY") {
            let plain = without_credentials(&list);
            go.had_credentials = plain != list;
            go.upstream = Some(plain);
        }
        Ok(go)
    }

    /// Returns the last value of a variable of the go command, unless it is empty.
    fn variable(&self, name: &str) -> Option<String> {
        let found = self.variables.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    }

    fn keys(&self, ours: &mut Ours) {
        let origin = &self.origin;
        if let Some(upstream) = &self.upstream {
            ours.keys.push(("upstream", upstream.as_str().into(), None));
        }
        if self.had_credentials {
            ours.not_translated(
                origin,
                "GOPROXY has credentials or a query, which are not copied; put them into the netrc file of the user that runs stoa",
            );
        }
        for (name, _) in self.variables.iter().filter(|(name, _)| !TRANSLATED.contains(&name.as_str())) {
            ours.not_translated(origin, &format!("set {name} in the environment of stoa"));
        }
        if self.variable("GOSUMDB").is_some_and(|value| value != "off") {
            ours.not_translated(
                origin,
                "set GOSUMDB in the environment of stoa, or add the database to the key sumdbs",
            );
        }
    }
}

/// Removes credentials and queries from the URLs of a list in the syntax of `GOPROXY`. A query may be a token.
fn without_credentials(list: &str) -> String {
    let mut plain = String::new();
    for part in list.split_inclusive([',', '|']) {
        let (entry, separator) = part.split_at(part.trim_end_matches([',', '|']).len());
        match entry.split_once("://") {
            Some((scheme, rest)) => {
                let end = rest.find('/').unwrap_or(rest.len());
                let (host, path) = rest.split_at(end);
                let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
                plain.push_str(&format!("{scheme}://{}", without_query(&format!("{host}{path}"))));
            }
            None => plain.push_str(entry),
        }
        plain.push_str(separator);
    }
    plain
}

fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

fn sumdbs(athens: &Athens, ours: &mut Ours) {
    if let Some(setting) = athens.set("SumDBs") {
        let mut names = Vec::new();
        for url in setting.list(',').iter().filter(|url| !url.is_empty()) {
            let with_scheme = if url.contains("://") { url.clone() } else { format!("https://{url}") };
            let plain = without_credentials(&with_scheme);
            if plain != with_scheme {
                let host = plain.split_once("://").map_or(plain.as_str(), |(_, host)| host);
                let what = format!("the URL of {host} has credentials or a query, which are not copied");
                ours.not_translated(&setting.origin, &what);
            }
            let (scheme, rest) = plain.split_once("://").unwrap_or(("https", plain.as_str()));
            let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
            if !path.is_empty() {
                ours.note(&setting.origin, &format!("Athens ignores the path of {plain}; it is omitted"));
            }
            names.push((name.to_owned(), format!("{scheme}://{name}")));
        }
        let urls = names.clone();
        ours.keys.push(("sumdbs", names.into_iter().map(|(name, _)| name).collect::<Vec<_>>().into(), None));
        // Athens asks a database itself. Stoa asks through an upstream, unless it knows the database's URL.
        match &urls[..] {
            [(name, url)] if Gosumdb::parse(name).is_ok_and(|known| known.is_some()) => {
                ours.keys.push(("gosumdb", format!("{name} {url}").into(), None));
            }
            _ => urls.iter().for_each(|(name, url)| {
                let what = format!(
                    "Stoa asks {name} through an upstream, not at {url}; to set a URL, write NAME+HASH+KEY and the URL of \
                     one database into the key gosumdb"
                );
                ours.note(&setting.origin, &what);
            }),
        }
    }
    let Some(setting) = athens.set("NoSumPatterns") else { return };
    let mut patterns: Vec<String> = Vec::new();
    for written in setting.list(',').iter().filter(|pattern| !pattern.is_empty()) {
        patterns.extend(refused(written, setting, ours));
    }
    patterns.dedup();
    if !patterns.is_empty() {
        ours.keys.push(("sumdb_refuse", patterns.into(), None));
    }
}

/// Translates a pattern of refused lookups. Athens matches it against the escaped path followed by `@` and the
/// version, Stoa against the plain module path.
fn refused(written: &str, setting: &Setting, ours: &mut Ours) -> Option<String> {
    let mut note = |what: &str| ours.note(&setting.origin, &format!("{written}: {what}"));
    let path = written.split('@').next().unwrap_or_default();
    if path.len() < written.len() {
        note("Stoa refuses lookups of all versions");
    }
    let mut plain = String::new();
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '!' => plain.extend(chars.next().map(|c| c.to_ascii_uppercase())),
            c => plain.push(c),
        }
    }
    if pattern::matches_nothing(&plain) {
        note("the pattern matches nothing and is omitted");
        return None;
    }
    if path.len() == written.len() && !path.ends_with(['*', '?', ']']) {
        note("Athens refuses only lookups below this path; Stoa also refuses the lookup of the path itself");
    }
    if path != plain || plain.chars().any(|c| c.is_ascii_uppercase()) {
        note("Stoa matches capital letters as written, so it may refuse lookups that Athens allows");
    }
    Some(plain)
}

/// Builds the rules for modules.
fn modules(athens: &Athens, go: &Go, ours: &mut Ours) -> Result<(), ReadError> {
    let modes = download(athens, ours)?;
    let filter = filter(athens, ours)?;
    let (verdicts, inexact) = filter.rules();
    inexact.iter().for_each(|why| ours.note("FilterFile", why));
    let base = Effect {
        mode: modes.mode,
        url: modes.url.as_deref().and_then(|url| checked_url(url, "DownloadURL", ours)),
        is_unchecked: go.variable("GOSUMDB").as_deref() == Some("off"),
        ..Effect::default()
    };
    let otherwise = filter.otherwise();
    let mut endpoint = None;
    if otherwise.redirects || verdicts.iter().any(|(_, verdict)| verdict.redirects) {
        let what = "Stoa serves modules marked with D if they are stored, and redirects the others with 302 instead of 303";
        ours.note("FilterFile", what);
        endpoint = checked_url(&athens.text("GlobalEndpoint"), "GlobalEndpoint", ours);
    }
    let list_of = verdicts.into_iter().map(|(path, verdict)| (path, Change::Admits(verdict)));
    let admission = Admission { list: list_of.collect(), otherwise, endpoint };
    let modes_of = modes.paths.iter().map(|path| (path.pattern.clone(), Change::Mode(path.mode)));
    let mut lists: Vec<List> = vec![modes_of.collect()];
    let urls = modes.paths.iter().filter_map(|path| Some((path.pattern.clone(), path.url.clone()?)));
    lists.push(urls.map(|(pattern, url)| (pattern, Change::RedirectsTo(url))).collect());
    let private = go.variable("GOPRIVATE");
    let no_proxy = go.variable("GONOPROXY").or_else(|| private.clone());
    if go.upstream.as_deref() != Some("direct") {
        lists.push(list(no_proxy.as_deref(), &Change::Direct));
    }
    let no_sum = athens.set("NoSumPatterns").map(|setting| setting.list(',').join(","));
    let no_sum = go.variable("GONOSUMDB").or(no_sum).or(private);
    if !base.is_unchecked {
        lists.push(list(no_sum.as_deref(), &Change::Unchecked));
    }
    let has_no_target =
        |mode: &str, url: &Option<String>| redirects(mode) && url.is_none() && base.url.is_none();
    if has_no_target(base.mode, &None) || modes.paths.iter().any(|path| has_no_target(path.mode, &path.url)) {
        let what = "it is not set, so Athens redirects to itself endlessly; the mode `none` replaces these redirections";
        ours.note("DownloadURL", what);
    }
    let combined = rules::combine(&admission, &lists, &base);
    for (one, other) in &combined.unclear {
        let what = format!(
            "the setting for {other} does not apply to modules that also match {one}; add a [[module]] rule for these \
             modules before the other rules"
        );
        ours.not_translated(other, &what);
    }
    ours.rules = combined.rules;
    ours.refuses_rest = combined.otherwise.admits.refuses_all();
    ours.base = if ours.refuses_rest { base.settled() } else { combined.otherwise };
    Ok(())
}

/// Returns a list of rules for a comma-separated list of patterns.
fn list(patterns: Option<&str>, change: &Change) -> List {
    let patterns =
        patterns.unwrap_or_default().split(',').map(|pattern| pattern.trim().trim_end_matches('/'));
    let patterns = patterns.filter(|pattern| !pattern::matches_nothing(pattern));
    patterns.map(|pattern| (pattern.to_owned(), change.clone())).collect()
}

/// Reads the download mode.
fn download(athens: &Athens, ours: &mut Ours) -> Result<DownloadMode, ReadError> {
    let (text, origin) = (athens.text("DownloadMode"), athens.origin("DownloadMode"));
    if let Some(mode) = download_mode::mode(&text) {
        let url = athens.set("DownloadURL").map(Setting::text);
        return Ok(DownloadMode { mode, url, paths: Vec::new() });
    }
    let (name, hcl) = if let Some(path) = text.strip_prefix("file:") {
        (path.to_owned(), read_named(Path::new(path), &origin)?)
    } else if let Some(base64) = text.strip_prefix("custom:") {
        let why = "the part after custom: is not the base64 of a text";
        (origin.clone(), download_mode::decode(base64).ok_or_else(|| athens.wrong("DownloadMode", why))?)
    } else {
        let why = "expected sync, async, redirect, async_redirect, none, file:PATH or custom:BASE64";
        return Err(athens.wrong("DownloadMode", why));
    };
    let parsed = download_mode::parse(&hcl);
    let mut modes =
        parsed.map_err(|error| ReadError::Syntax { file: name.clone(), line: error.line, why: error.why })?;
    ours.sources.push(format!("the download mode {name}"));
    if athens.set("DownloadURL").is_some() {
        ours.note(&athens.origin("DownloadURL"), "the URL in the download mode file takes precedence");
    }
    modes.paths.retain(|path| {
        let matches_nothing = pattern::matches_nothing(&path.pattern);
        if matches_nothing {
            ours.note(&name, &format!("the pattern {:?} matches no module and is omitted", path.pattern));
        }
        !matches_nothing
    });
    for path in &mut modes.paths {
        path.url = path.url.take().and_then(|url| checked_url(&url, &name, ours));
    }
    Ok(modes)
}

/// Reads the filter file, if one is set.
fn filter(athens: &Athens, ours: &mut Ours) -> Result<Filter, ReadError> {
    let Some(setting) = athens.set("FilterFile") else { return Ok(Filter::default()) };
    let path = PathBuf::from(setting.text());
    let name = path.display().to_string();
    let text = read_named(&path, &setting.origin)?;
    let filter = Filter::parse(&text).map_err(|error| ReadError::Syntax {
        file: name.clone(),
        line: error.line,
        why: error.why.to_owned(),
    })?;
    ours.sources.push(format!("the filter file {name}"));
    filter.odd.iter().for_each(|odd| ours.note(&name, odd));
    Ok(filter)
}

/// Returns the base URL of redirections, without credentials. `None` if the URL is invalid.
fn checked_url(url: &str, origin: &str, ours: &mut Ours) -> Option<String> {
    let plain = without_credentials(url);
    if plain != without_query(url) {
        // Every client would see them.
        ours.not_translated(origin, "the credentials in the URL are not copied");
    }
    match reqwest::Url::parse(&plain) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && without_query(url) == url => {
            Some(plain.trim_end_matches('/').to_owned())
        }
        _ => {
            ours.not_translated(
                origin,
                &format!("{plain} is not an http or https URL without a query; it is omitted"),
            );
            None
        }
    }
}

fn notes(athens: &Athens, ours: &mut Ours) {
    for (name, advice) in ADVICE {
        if let Some(setting) = athens.changed(name) {
            ours.not_translated(&setting.origin, advice);
        }
    }
    let mut note = |name: &str, what: &str| ours.not_translated(&athens.origin(name), what);
    if let Some(hook) = athens.set("ValidatorHook") {
        let what = format!(
            "Stoa does not call a hook ({}); limit versions with allow and deny in [[module]]",
            without_credentials(&hook.text())
        );
        note("ValidatorHook", &what);
    }
    match athens.text("NetworkMode").as_str() {
        "offline" => note(
            "NetworkMode",
            "Athens downloads missing modules even in this mode, so the key offline is not set; set it to forbid all downloads",
        ),
        "fallback" => note("NetworkMode", "Stoa always serves stored versions when an upstream fails"),
        _ => {}
    }
    if athens.changed("SingleFlightType").is_some() {
        note("SingleFlightType", "servers that share a store coordinate their downloads themselves");
    }
    if athens.changed("IndexType").is_some_and(|setting| setting.text() != "memory") {
        note("IndexType", "the index is part of the store and needs no database");
    }
    for unknown in &athens.unknown {
        ours.not_translated(unknown, "unknown key of Athens");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_behind() {
        for (list, plain) in [
            ("https://u:p@proxy.example/x,direct", "https://proxy.example/x,direct"),
            ("https://a@b.example|http://c.example", "https://b.example|http://c.example"),
            ("direct", "direct"),
            ("https://proxy.example/a@b", "https://proxy.example/a@b"),
            ("https://proxy.example/x?token=t,direct", "https://proxy.example/x,direct"),
            (
                "https://u:p@proxy.example?token=t|https://b.example#t",
                "https://proxy.example|https://b.example",
            ),
        ] {
            assert_eq!(without_credentials(list), plain, "{list}");
        }
    }
}
