//! Credentials for upstreams, `[[credentials]]` in the config file.

use std::fmt;
use std::path::PathBuf;

use stoa_layout::PathError;

use super::file::File;
use super::table::Table;
use super::{ConfigError, Settings, parse};
use crate::upstream::{Credentials, HostCredentials};

/// One of the tables `[[credentials]]`.
#[derive(Debug, Clone)]
pub(super) struct CredentialsTable {
    host: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Login { login: String, password: Secret },
    Bearer(Secret),
}

/// A secret, which is never printed.
#[derive(Clone)]
enum Secret {
    /// In the config file.
    Here(String),
    /// In a file of its own, which this line of the config file names.
    InFile(PathBuf, usize),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl CredentialsTable {
    /// The keys of a table.
    pub(super) const KEYS: [&str; 6] =
        ["host", "login", "password", "password_file", "bearer", "bearer_file"];

    /// Reads a table. The faults stay in the table.
    pub(super) fn read(table: &mut Table<'_>) -> Option<Self> {
        let any = |text: &str| Ok(text.to_owned());
        let host = table.required("host", parse::host);
        let login = table.text("login", any);
        let password = Secret::read(table, "password", "password_file");
        let bearer = Secret::read(table, "bearer", "bearer_file");
        let has = |keys: &[&str]| keys.iter().any(|key| table.line_of_key(key).is_some());
        let kind =
            match (has(&["login"]), has(&["password", "password_file"]), has(&["bearer", "bearer_file"])) {
                (true, true, false) => Kind::Login { login: login?, password: password? },
                (false, false, true) => Kind::Bearer(bearer?),
                _ => {
                    table.incomplete("expected either login and password, or bearer");
                    return None;
                }
            };
        Some(Self { host: host?, kind })
    }

    /// Reads the secret, if it is in a file of its own.
    pub(super) fn resolve(&self, file: &File) -> Result<HostCredentials, ConfigError> {
        let credentials = match &self.kind {
            Kind::Login { login, password } => {
                Credentials::Login { login: login.clone(), password: password.resolve(file)? }
            }
            Kind::Bearer(token) => Credentials::Bearer(token.resolve(file)?),
        };
        Ok(HostCredentials { host: self.host.clone(), credentials })
    }
}

impl Secret {
    fn read(table: &mut Table<'_>, key: &str, key_of_file: &str) -> Option<Self> {
        let here = table.text(key, |text| Ok(Self::Here(text.to_owned())));
        let path = table.text(key_of_file, parse::path);
        match (table.line_of_key(key), table.line_of_key(key_of_file)) {
            (Some(_), Some(line)) => {
                table.faults.push((line, format!("expected either {key} or {key_of_file}, not both")));
                None
            }
            (None, Some(line)) => path.map(|path| Self::InFile(path, line)),
            _ => here,
        }
    }

    fn resolve(&self, file: &File) -> Result<String, ConfigError> {
        match self {
            Self::Here(text) => Ok(text.clone()),
            Self::InFile(path, line) => {
                let path = file.folder().join(path);
                let text =
                    std::fs::read_to_string(&path).map_err(|error| PathError::new("read", &path, error));
                let text = text.map_err(|error| file.wrong(*line, &error.to_string()))?;
                Ok(text.trim_end_matches(['\r', '\n']).to_owned())
            }
        }
    }
}

impl Settings<'_> {
    /// Resolves the credentials for upstreams.
    pub(super) fn credentials(&self) -> Result<Vec<HostCredentials>, ConfigError> {
        let file = self.file()?;
        file.credentials.iter().map(|table| table.resolve(file)).collect()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests write config files")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Options, ServeConfig, World};

    fn resolve(text: &str) -> Result<ServeConfig, String> {
        let dir = testkit::tempdir();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::write(dir.path().join("token"), "from a file\n").unwrap();
        let world = World { variable: Box::new(|_| None), names: Vec::new(), system_file: path };
        Settings::new(&world, None).serve(&Options::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn credentials_are_of_one_kind() {
        let config = "[[credentials]]\nhost = 'a.example'\nlogin = 'me'\npassword = 'mine'\n\
                      [[credentials]]\nhost = 'b.example:8443'\nbearer_file = 'token'\n";
        let config = resolve(config).unwrap();
        let of = |host: &str, credentials| HostCredentials { host: host.to_owned(), credentials };
        let login = Credentials::Login { login: "me".to_owned(), password: "mine".to_owned() };
        assert_eq!(config.credentials[0], of("a.example", login));
        assert_eq!(
            config.credentials[1],
            of("b.example:8443", Credentials::Bearer("from a file".to_owned()))
        );
        assert!(!format!("{config:?}").contains("mine"));
        for wrong in [
            "host = 'https://a.example'\nbearer = 'topsecret'",
            "host = 'a.example'\nlogin = 'me'",
            "host = 'a.example'\nlogin = 'me'\npassword = 'topsecret'\nbearer = 'topsecret'",
            "host = 'a.example'\nbearer = 'topsecret'\nbearer_file = 'token'",
            "host = 'a.example'\nbearer_file = 'missing'",
            "host = 'a.example'\npassword = 'topsecret' 5",
            "host = 'a.example'\npassword = ['topsecret']",
            "host = 'a.example'\nbearer = 'topsecret'\nfor = 5",
        ] {
            let message = resolve(&format!("[[credentials]]\n{wrong}\n")).unwrap_err();
            assert!(!message.contains("topsecret"), "{message}");
        }
    }

    #[test]
    fn bounds_are_not_zero() {
        assert_eq!(resolve("").unwrap().direct_timeout, Duration::from_secs(600));
        assert_eq!(resolve("[direct]\ntimeout = 5").unwrap().direct_timeout, Duration::from_secs(5));
        for wrong in ["upstream_idle_timeout = 0", "[direct]\ntimeout = 0", "[direct]\nmax_concurrent = 0"] {
            assert!(resolve(wrong).is_err(), "{wrong}");
        }
    }
}
