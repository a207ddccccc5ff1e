//! Credentials from a netrc file, parsed as by the go command.
//!
//! Only `machine`, `login`, `password` and `macdef` count, each with its value on the same line. A macro
//! ends at an empty line. `default` ends the file: a password for every host must not be sent to an
//! upstream. Words are separated by white space, without quoting: a `"` or `\` belongs to the password.
//! General netrc parsers differ in this, and reject the whole file for one unknown word.

use super::credentials::Credentials;
use reqwest::Url;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Returns the path of the go command's netrc file: `NETRC`, or else `.netrc` in `HOME`.
///
/// `var` looks up an environment variable.
pub fn netrc_path(var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let named = |name| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("NETRC").or_else(|| Some(named("HOME")?.join(".netrc")))
}

/// The entries of a netrc file.
#[derive(Debug, Default)]
pub(super) struct Netrc(Vec<(String, Credentials)>);

impl Netrc {
    /// Reads the file. A missing file has no entries. An unreadable file has no entries and is logged.
    pub(super) fn read(path: Option<&Path>) -> Self {
        let Some(path) = path else { return Self::default() };
        match std::fs::read(path) {
            Ok(bytes) => Self::parse(&String::from_utf8_lossy(&bytes)),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    log::warn!(path:% = path.display(), reason:% = error; "ignoring a netrc file that cannot be read");
                }
                Self::default()
            }
        }
    }

    /// Returns the credentials for the host of a URL: those of `host:port` before those of `host`.
    pub(super) fn find(&self, url: &Url) -> Option<Credentials> {
        let host = url.host_str()?;
        let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        let named = |name: &str| self.0.iter().find(|(machine, _)| machine == name);
        with_port
            .and_then(|name| named(&name))
            .or_else(|| named(host))
            .map(|(_, credentials)| credentials.clone())
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut lines = Vec::new();
        let (mut machine, mut login, mut password) = ("", "", "");
        let mut within_macro = false;
        for line in text.lines() {
            if within_macro {
                within_macro = !line.trim().is_empty();
                continue;
            }
            let mut words = line.split_whitespace();
            while let Some(word) = words.next() {
                if word == "default" {
                    return Self(lines);
                }
                let Some(value) = words.next() else { break };
                match word {
                    "machine" => (machine, login, password) = (value, "", ""),
                    "login" => login = value,
                    "password" => password = value,
                    "macdef" => within_macro = true,
                    _ => {}
                }
                if !machine.is_empty() && !login.is_empty() && !password.is_empty() {
                    let credentials =
                        Credentials::Login { login: login.to_owned(), password: password.to_owned() };
                    lines.push((machine.to_owned(), credentials));
                    (machine, login, password) = ("", "", "");
                }
            }
        }
        Self(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
# machine comment.example login no password no
machine a.example login al password se"c\r#et account x
machine b.example
	password pb
	login bob
macdef init
machine macro.example login m password m

machine b.example:8443 login port password pp
machine half.example login only
machine c.example login carl password pc
default login any password any
machine late.example login l password l
"#;

    fn find(url: &str) -> Option<(String, String)> {
        let found = Netrc::parse(FILE).find(&Url::parse(url).unwrap());
        found.map(|credentials| match credentials {
            Credentials::Login { login, password } => (login, password),
            Credentials::Bearer(token) => panic!("{token}"),
        })
    }

    #[test]
    fn entries_are_found_by_host_name() {
        let pair = |login: &str, password: &str| Some((login.to_owned(), password.to_owned()));
        assert_eq!(find("https://a.example/x"), pair("al", r#"se"c\r#et"#));
        assert_eq!(find("https://b.example"), pair("bob", "pb"));
        assert_eq!(find("https://b.example:8443"), pair("port", "pp"));
        assert_eq!(find("https://c.example:1"), pair("carl", "pc"));
    }

    #[test]
    fn macros_incomplete_entries_and_default_are_ignored() {
        for host in ["macro.example", "half.example", "late.example", "other.example", "sub.a.example"] {
            assert_eq!(find(&format!("https://{host}/")), None, "{host}");
        }
        assert!(Netrc::read(Some(Path::new("/nonexistent/netrc"))).0.is_empty());
    }

    #[test]
    fn the_environment_names_the_file() {
        let with = |vars: &[(&str, &str)]| {
            let vars: Vec<_> =
                vars.iter().map(|&(name, value)| (name.to_owned(), OsString::from(value))).collect();
            netrc_path(|name| vars.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
        };
        assert_eq!(with(&[("NETRC", "/n"), ("HOME", "/h")]), Some(PathBuf::from("/n")));
        assert_eq!(with(&[("NETRC", ""), ("HOME", "/h")]), Some(PathBuf::from("/h/.netrc")));
        assert_eq!(with(&[]), None);
    }

    #[test]
    fn debug_output_contains_no_secrets() {
        assert!(!format!("{:?}", Netrc::parse(FILE)).contains("pb"));
    }
}
