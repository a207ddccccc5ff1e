//! What Athens is told, said in our words; and what has no words here.

use std::path::{Path, PathBuf};

use super::athens::{Athens, ReadError, Setting, read_named};
use super::download_mode::{self, DownloadMode, leads_away};
use super::filter::Filter;
use super::ours::Ours;
use super::pattern;
use super::rules::{self, Admission, Change, Effect, List};
use crate::fill::Sumdb;

/// What is done about each key that has no counterpart, where it is set to something of its own.
const INSTEAD: [(&str, &str); 20] = [
    ("BasicAuthUser", "stoa asks nobody for a password: put a reverse proxy in front of it that does"),
    ("CloudRuntime", "logs are written in one form"),
    ("EnablePprof", "there is no profiler in it"),
    ("ForceSSL", "let the reverse proxy in front of it redirect to https"),
    (
        "GithubToken",
        "it is not copied: put it into the netrc file of the user that stoa runs as, as the password for github.com",
    ),
    ("GoBinary", "have that folder first in the PATH that stoa runs with"),
    (
        "GoGetDir",
        "what is being fetched lies in the store's own staging folder; TMPDIR says where the go command works",
    ),
    ("HGRCPath", "make it the .hgrc of the user that stoa runs as"),
    ("HomeTemplatePath", "there is no page to be changed"),
    ("LogFormat", "logs are written in one form"),
    ("LogLevel", "set STOA_LOG instead, to error, warn, info, debug or trace"),
    ("NETRCPath", "set NETRC to that path in the environment of stoa"),
    ("PprofPort", "there is no profiler in it"),
    (
        "ProtocolWorkers",
        "what is in the store waits for no fetch here; max_connections bounds the connections",
    ),
    ("RobotsFile", "have the reverse proxy in front of it answer /robots.txt"),
    ("StashTimeout", "a fetch has limits of its own here"),
    ("StatsExporter", "it is not known here"),
    ("TLSCertFile", "stoa speaks plain HTTP: put a reverse proxy in front of it that has the certificate"),
    ("Timeout", "a fetch has limits of its own here"),
    ("UnixSocket", "stoa listens on an address and a port: see listen"),
];

/// Says in our words what Athens is told. Relative paths start at this folder.
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
                let why = "Stop Athens first: what is there is brought to the layout of stoa at its first start.";
                ours.keys.push(("store", path.display().to_string().into(), Some(why)));
            }
            None => ours.notes.push("StorageType is disk, and Storage.Disk.RootPath is not set: say with `store` where the modules are to be".to_owned()),
        },
        "memory" => ours.notes.push(
            "StorageType is memory, which keeps nothing: stoa keeps what it fetches, in a folder that `store` names".to_owned(),
        ),
        other => ours.notes.push(format!(
            "StorageType is {other}: stoa keeps modules in a folder that `store` names. Copy the bucket to a folder, then `stoa import` it, \
             or let them be fetched again. Its keys and passwords were not copied"
        )),
    }
}

fn listen(athens: &Athens) -> Result<String, ReadError> {
    let port = athens.text("Port");
    let port = port.trim();
    let (host, number) = port.rsplit_once(':').unwrap_or(("", port));
    if number.parse::<u16>().is_err() || host.contains('/') {
        return Err(athens.wrong("Port", "it takes a port, as in 3000 or :3000, or an address and a port"));
    }
    // Athens listens on all addresses unless told otherwise.
    Ok(format!("{}:{number}", if host.is_empty() { "0.0.0.0" } else { host }))
}

/// What Athens tells the go command.
struct Go {
    variables: Vec<(String, String)>,
    whence: String,
    upstream: Option<String>,
    had_credentials: bool,
}

/// Variables of the go command that are told in the config, not handed on.
const OF_CONFIG: [&str; 5] = ["GOPROXY", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOSUMDB"];

impl Go {
    fn of(athens: &Athens) -> Result<Self, ReadError> {
        let list = match athens.set("GoBinaryEnvVars") {
            Some(setting) => setting.list(';'),
            None => vec![athens.text("GoBinaryEnvVars")],
        };
        let mut variables: Vec<(String, String)> = Vec::new();
        for part in list.iter().filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                // The rest may be secret.
                let why = "it takes NAME=VALUE, with ; between in a variable".to_owned();
                let whence = athens.whence("GoBinaryEnvVars");
                let value = part.split(':').next().unwrap_or_default().to_owned();
                return Err(ReadError::Value { whence, value, why });
            };
            variables.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        let mut go = Self {
            variables,
            whence: athens.whence("GoBinaryEnvVars"),
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

    /// Is the value of a variable of the go command that is not empty; the last one counts.
    fn variable(&self, name: &str) -> Option<String> {
        let found = self.variables.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    }

    fn keys(&self, ours: &mut Ours) {
        let whence = &self.whence;
        if let Some(upstream) = &self.upstream {
            ours.keys.push(("upstream", upstream.as_str().into(), None));
        }
        if self.had_credentials {
            ours.notes.push(format!(
                "{whence}: GOPROXY holds credentials or a query, which are not copied: put them into the netrc file of the user that stoa runs as"
            ));
        }
        for (name, _) in self.variables.iter().filter(|(name, _)| !OF_CONFIG.contains(&name.as_str())) {
            ours.notes
                .push(format!("{whence}: {name} is for the go command: set it in the environment of stoa"));
        }
        if self.variable("GOSUMDB").is_some_and(|value| value != "off") {
            ours.notes.push(format!("{whence}: GOSUMDB names a checksum database: set it in the environment of stoa, or name it in sumdbs"));
        }
    }
}

/// Takes user and password, and the query, which may be a token, out of the URLs of a list in the syntax of `GOPROXY`.
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
                let what = "is passed on by a URL with credentials or a query, which are not copied";
                let host = plain.split_once("://").map_or(plain.as_str(), |(_, host)| host);
                ours.notes.push(format!("{}: {host} {what}", setting.whence));
            }
            let (scheme, rest) = plain.split_once("://").unwrap_or(("https", plain.as_str()));
            let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
            if !path.is_empty() {
                ours.notes.push(format!(
                    "{}: the path in {plain} counts for nothing in Athens, and is left out",
                    setting.whence
                ));
            }
            names.push((name.to_owned(), format!("{scheme}://{name}")));
        }
        let urls = names.clone();
        ours.keys.push(("sumdbs", names.into_iter().map(|(name, _)| name).collect::<Vec<_>>().into(), None));
        // Athens asks a database itself; here an upstream does, unless the URL is known.
        match &urls[..] {
            [(name, url)] if Sumdb::parse(name).is_ok_and(|known| known.is_some()) => {
                ours.keys.push(("gosumdb", format!("{name} {url}").into(), None));
            }
            _ => ours.notes.extend(urls.iter().map(|(name, url)| {
                format!(
                    "{}: {name} is asked where an upstream carries it, not at {url}; for one database gosumdb can say                      NAME+HASH+KEY and its URL",
                    setting.whence
                )
            })),
        }
    }
    let Some(setting) = athens.set("NoSumPatterns") else { return };
    let mut patterns: Vec<String> = Vec::new();
    for written in setting.list(',').iter().filter(|pattern| !pattern.is_empty()) {
        let refused = refused(written, setting, &mut ours.notes);
        patterns.extend(refused);
    }
    patterns.dedup();
    if !patterns.is_empty() {
        ours.keys.push(("sumdb_refuse", patterns.into(), None));
    }
}

/// Is a pattern of lookups that Athens refuses, as one of module paths: there it is matched against the escaped
/// path with `@` and the version behind, here against the path as it is.
fn refused(written: &str, setting: &Setting, notes: &mut Vec<String>) -> Option<String> {
    let mut note = |what: &str| notes.push(format!("{}: {written}: {what}", setting.whence));
    let path = written.split('@').next().unwrap_or_default();
    if path.len() < written.len() {
        note("a lookup is refused whatever its version here");
    }
    let mut plain = String::new();
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '!' => plain.extend(chars.next().map(|c| c.to_ascii_uppercase())),
            c => plain.push(c),
        }
    }
    if pattern::is_void(&plain) {
        note("it matches nothing, and is left out");
        return None;
    }
    if path.len() == written.len() && !path.ends_with(['*', '?', ']']) {
        note("Athens refuses only lookups of modules below that path; here that of the path itself too");
    }
    if path != plain || plain.chars().any(|c| c.is_ascii_uppercase()) {
        note(
            "capitals stand for themselves here, so that modules are protected which Athens may not protect",
        );
    }
    Some(plain)
}

/// What is done about which module.
fn modules(athens: &Athens, go: &Go, ours: &mut Ours) -> Result<(), ReadError> {
    let modes = download(athens, ours)?;
    let filter = filter(athens, ours)?;
    let (verdicts, inexact) = filter.rules();
    ours.notes.extend(inexact.into_iter().map(|why| format!("FilterFile: {why}")));
    let base = Effect {
        mode: modes.mode,
        url: modes.url.as_deref().and_then(|url| checked_url(url, "DownloadURL", ours)),
        is_unchecked: go.variable("GOSUMDB").as_deref() == Some("off"),
        ..Effect::default()
    };
    let otherwise = filter.otherwise();
    let mut endpoint = None;
    if otherwise.leads_away || verdicts.iter().any(|(_, verdict)| verdict.leads_away) {
        let what = "what it marks with D and is in the store is served from there; what is not leads away, with 302 in place of 303";
        ours.notes.push(format!("FilterFile: {what}"));
        endpoint = checked_url(&athens.text("GlobalEndpoint"), "GlobalEndpoint", ours);
    }
    let list_of = verdicts.into_iter().map(|(path, verdict)| (path, Change::Admits(verdict)));
    let admission = Admission { list: list_of.collect(), otherwise, endpoint };
    let modes_of = modes.paths.iter().map(|path| (path.pattern.clone(), Change::Mode(path.mode)));
    let mut lists: Vec<List> = vec![modes_of.collect()];
    let urls = modes.paths.iter().filter_map(|path| Some((path.pattern.clone(), path.url.clone()?)));
    lists.push(urls.map(|(pattern, url)| (pattern, Change::Leads(url))).collect());
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
    let leads_nowhere =
        |mode: &str, url: &Option<String>| leads_away(mode) && url.is_none() && base.url.is_none();
    if leads_nowhere(base.mode, &None) || modes.paths.iter().any(|path| leads_nowhere(path.mode, &path.url)) {
        let what = "it is not set, so that redirections lead to Athens itself, for ever: `none` stands in their place";
        ours.notes.push(format!("DownloadURL: {what}"));
    }
    let combined = rules::combine(&admission, &lists, &base);
    for (one, other) in &combined.unclear {
        ours.notes.push(format!(
            "no pattern says what {one} and {other} have in common: where both match, what is said of {other} does not hold; \
             write a rule for these modules by hand, before the others"
        ));
    }
    ours.rules = combined.rules;
    ours.refuses_rest = combined.otherwise.admits.refuses_all();
    ours.base = if ours.refuses_rest { base.settled() } else { combined.otherwise };
    Ok(())
}

/// Takes a comma list of patterns for a list of rules.
fn list(patterns: Option<&str>, change: &Change) -> List {
    let patterns =
        patterns.unwrap_or_default().split(',').map(|pattern| pattern.trim().trim_end_matches('/'));
    let patterns = patterns.filter(|pattern| !pattern::is_void(pattern));
    patterns.map(|pattern| (pattern.to_owned(), change.clone())).collect()
}

/// Reads what is done about what is not there.
fn download(athens: &Athens, ours: &mut Ours) -> Result<DownloadMode, ReadError> {
    let (text, whence) = (athens.text("DownloadMode"), athens.whence("DownloadMode"));
    if let Some(mode) = download_mode::mode(&text) {
        let url = athens.set("DownloadURL").map(Setting::text);
        return Ok(DownloadMode { mode, url, paths: Vec::new() });
    }
    let (name, hcl) = if let Some(path) = text.strip_prefix("file:") {
        (path.to_owned(), read_named(Path::new(path), &whence)?)
    } else if let Some(base64) = text.strip_prefix("custom:") {
        let why = "what stands behind custom: is not base64 of a text";
        (whence.clone(), download_mode::decode(base64).ok_or_else(|| athens.wrong("DownloadMode", why))?)
    } else {
        let why = "it takes sync, async, redirect, async_redirect, none, file:PATH or custom:BASE64";
        return Err(athens.wrong("DownloadMode", why));
    };
    let parsed = download_mode::parse(&hcl);
    let mut modes =
        parsed.map_err(|error| ReadError::Syntax { file: name.clone(), line: error.line, why: error.why })?;
    ours.sources.push(format!("the download mode of {name}"));
    if athens.set("DownloadURL").is_some() {
        ours.notes.push(format!(
            "{}: the download mode has a URL of its own, which counts",
            athens.whence("DownloadURL")
        ));
    }
    modes.paths.retain(|path| {
        let is_void = pattern::is_void(&path.pattern);
        if is_void {
            ours.notes.push(format!("{name}: no module matches {:?}, which is left out", path.pattern));
        }
        !is_void
    });
    for path in &mut modes.paths {
        path.url = path.url.take().and_then(|url| checked_url(&url, &name, ours));
    }
    Ok(modes)
}

/// Reads the filter file, if there is one.
fn filter(athens: &Athens, ours: &mut Ours) -> Result<Filter, ReadError> {
    let Some(setting) = athens.set("FilterFile") else { return Ok(Filter::default()) };
    let path = PathBuf::from(setting.text());
    let name = path.display().to_string();
    let text = read_named(&path, &setting.whence)?;
    let filter = Filter::parse(&text).map_err(|error| ReadError::Syntax {
        file: name.clone(),
        line: error.line,
        why: error.why.to_owned(),
    })?;
    ours.sources.push(format!("the filter file {name}"));
    ours.notes.extend(filter.odd.iter().map(|odd| format!("{name}, {odd}")));
    Ok(filter)
}

/// Is the base of a redirection, which every client gets to see.
fn checked_url(url: &str, whence: &str, ours: &mut Ours) -> Option<String> {
    let plain = without_credentials(url);
    if plain != without_query(url) {
        ours.notes.push(format!(
            "{whence}: every client gets to see where it is sent, so the credentials in the URL are left out"
        ));
    }
    match reqwest::Url::parse(&plain) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && without_query(url) == url => {
            Some(plain.trim_end_matches('/').to_owned())
        }
        _ => {
            ours.notes
                .push(format!("{whence}: {plain} is no http or https URL without a query, and is left out"));
            None
        }
    }
}

fn notes(athens: &Athens, ours: &mut Ours) {
    for (name, instead) in INSTEAD {
        if let Some(setting) = athens.changed(name) {
            ours.notes.push(format!("{}: {instead}", setting.whence));
        }
    }
    let mut note = |name: &str, what: &str| ours.notes.push(format!("{}: {what}", athens.whence(name)));
    if let Some(hook) = athens.set("ValidatorHook") {
        let what = format!(
            "nobody is asked before a version is served ({}): say with allow and deny of [[module]] what is to be had",
            without_credentials(&hook.text())
        );
        note("ValidatorHook", &what);
    }
    match athens.text("NetworkMode").as_str() {
        "offline" => note(
            "NetworkMode",
            "Athens still downloads what is missing then, so `offline` is not set, which fetches nothing at all; set it if that is meant",
        ),
        "fallback" => note(
            "NetworkMode",
            "an upstream that fails never hides what is stored here, so there is nothing to set",
        ),
        _ => {}
    }
    if athens.changed("SingleFlightType").is_some() {
        note("SingleFlightType", "servers on one store need nothing else to fetch each version once");
    }
    if athens.changed("IndexType").is_some_and(|setting| setting.text() != "memory") {
        note("IndexType", "the index is part of the store here, and needs no database");
    }
    for unknown in &athens.unknown {
        ours.notes.push(format!("{unknown}: it is no key of Athens that is known here, and was passed over"));
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
