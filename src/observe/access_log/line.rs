//! A line of the log of requests.

use std::fmt::{self, Display, Formatter, Write};
use std::time::SystemTime;

use serde::Serialize;
use stoa_gomod::route::{self, Route};

use super::{AccessLogFormat, Head};
use crate::logging::timestamp;
use crate::observe::Observed;
use crate::request::{Identity, Source};

/// A request that has ended.
#[derive(Debug)]
pub(super) struct Entry {
    at: SystemTime,
    client: Option<std::net::IpAddr>,
    identity: Identity,
    head: Head,
    kind: &'static str,
    status: u16,
    bytes: u64,
    seconds: f64,
    source: Source,
    id: String,
}

impl Entry {
    /// Returns the entry of a request. `None` if its head was not kept.
    pub(super) fn of(request: &Observed) -> Option<Self> {
        let Head { method, path, agent } = request.head.as_deref()?;
        let info = &request.info;
        Some(Self {
            at: SystemTime::now(),
            client: info.caller.address,
            identity: info.caller.identity.clone(),
            head: Head { method: method.clone(), path: path.clone(), agent: agent.clone() },
            kind: info.kind().word(),
            status: request.status,
            bytes: request.bytes,
            seconds: info.began.elapsed().as_secs_f64(),
            source: info.source(),
            id: info.id.to_string(),
        })
    }
}

/// The form of lines, and the addresses of the server.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) format: AccessLogFormat,
    pub(super) base_path: String,
    pub(super) sumdbs: Vec<String>,
}

/// The fields of a line, in their order.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    client: Option<String>,
    user: Option<String>,
    method: &'a str,
    module: Option<String>,
    version: Option<String>,
    file: &'a str,
    status: u16,
    bytes: u64,
    seconds: f64,
    cache: Option<&'a str>,
    id: &'a str,
    agent: Option<&'a str>,
    path: &'a str,
}

impl Form {
    /// Returns the line of an entry, with its end.
    pub(super) fn line(&self, entry: &Entry) -> String {
        let Head { method, path, agent } = &entry.head;
        let (module, version) = self.names(path);
        let line = Line {
            time: timestamp(entry.at),
            client: entry.client.map(|address| address.to_canonical().to_string()),
            user: match &entry.identity {
                Identity::Anonymous => None,
                Identity::User(name) => Some(name.to_string()),
                Identity::Peer(name) => Some(format!("peer {name}")),
            },
            method: method.as_str(),
            module,
            version,
            file: entry.kind,
            status: entry.status,
            bytes: entry.bytes,
            seconds: (entry.seconds * 1e6).round() / 1e6,
            cache: Some(entry.source.word()).filter(|_| entry.source != Source::None),
            id: &entry.id,
            agent: agent.as_deref(),
            path,
        };
        let mut text = match self.format {
            AccessLogFormat::Json => serde_json::to_string(&line).unwrap_or_default(),
            AccessLogFormat::Text => line.to_string(),
        };
        text.push('\n');
        text
    }

    /// Returns the module and the version in a path.
    fn names(&self, path: &str) -> (Option<String>, Option<String>) {
        let of_version = |version: &stoa_gomod::ModuleVersion| {
            (Some(version.path().to_string()), Some(version.version().to_string()))
        };
        match route::classify("GET", path, &self.base_path, &self.sumdbs) {
            Route::Info(version) | Route::Mod(version) | Route::Zip(version) => of_version(&version),
            Route::SumdbLookup { module, .. } => of_version(&module),
            Route::List(module) | Route::Latest(module) => (Some(module.to_string()), None),
            Route::Query(module, revision) => (Some(module.to_string()), Some(revision.as_str().to_owned())),
            _ => (None, None),
        }
    }
}

/// The form for people and for `awk`: fields between spaces, and `-` for none.
impl Display for Line<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let plain =
            |text: Option<&str>| Plain(text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned());
        write!(
            f,
            "{} {} {} {} {} {} {} {} {} {:.6} {} {} {} {}",
            self.time,
            plain(self.client.as_deref()),
            plain(self.user.as_deref()),
            plain(Some(self.method)),
            plain(self.module.as_deref()),
            plain(self.version.as_deref()),
            self.file,
            self.status,
            self.bytes,
            self.seconds,
            self.cache.unwrap_or("-"),
            self.id,
            Quoted(self.agent.unwrap_or("-")),
            plain(Some(self.path)),
        )
    }
}

/// A field without spaces, or in quotes if it has some.
struct Plain(String);

impl Display for Plain {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') {
            true => Quoted(&self.0).fmt(f),
            false => f.write_str(&self.0),
        }
    }
}

/// A field in quotes. Line ends and other control characters are escaped: a client must not make lines of its own.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                    write!(f, "{}", c.escape_default())?
                }
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::*;

    fn entry(path: &str, agent: Option<&str>, user: Option<&str>) -> Entry {
        Entry {
            at: SystemTime::UNIX_EPOCH,
            client: Some([127, 0, 0, 1].into()),
            identity: user.map_or(Identity::Anonymous, |name| Identity::User(name.into())),
            head: Head { method: Method::GET, path: path.to_owned(), agent: agent.map(str::to_owned) },
            kind: "zip",
            status: 200,
            bytes: 1234,
            seconds: 0.012_345_678,
            source: Source::Miss,
            id: "0000002a".to_owned(),
        }
    }

    fn line(format: AccessLogFormat, entry: &Entry) -> String {
        let form = Form { format, base_path: "/go".to_owned(), sumdbs: vec!["sum.example".to_owned()] };
        form.line(entry)
    }

    #[test]
    fn a_line_has_the_fields_in_both_forms() {
        let zip = entry("/go/example.com/!a/@v/v1.0.0.zip", Some("Go-http-client/1.1"), Some("ann"));
        assert_eq!(
            line(AccessLogFormat::Text, &zip),
            "1970-01-01T00:00:00.000Z 127.0.0.1 ann GET example.com/A v1.0.0 zip 200 1234 0.012346 miss 0000002a \
             \"Go-http-client/1.1\" /go/example.com/!a/@v/v1.0.0.zip\n"
        );
        let json: serde_json::Value = serde_json::from_str(&line(AccessLogFormat::Json, &zip)).unwrap();
        assert_eq!(json["module"], "example.com/A");
        assert_eq!((&json["seconds"], &json["cache"]), (&0.012346.into(), &"miss".into()));
        let none = Entry { source: Source::None, ..entry("/nothing", None, None) };
        assert_eq!(
            line(AccessLogFormat::Text, &none),
            "1970-01-01T00:00:00.000Z 127.0.0.1 - GET - - zip 200 1234 0.012346 - 0000002a \"-\" /nothing\n"
        );
        let lookup = entry("/go/sumdb/sum.example/lookup/a.b/c@v1.0.0", None, None);
        assert!(line(AccessLogFormat::Text, &lookup).contains(" GET a.b/c v1.0.0 "));
    }

    #[test]
    fn a_client_cannot_make_a_line() {
        let forged = entry("/x", Some("a\nb\"c\\"), Some("two words"));
        for format in [AccessLogFormat::Text, AccessLogFormat::Json] {
            assert_eq!(line(format, &forged).matches('\n').count(), 1);
        }
        let text = line(AccessLogFormat::Text, &forged);
        assert!(text.contains(r#" "two words" GET "#) && text.contains(r#" "a\nb\"c\\" /x"#), "{text}");
    }
}
