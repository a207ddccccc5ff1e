//! Credentials for upstreams, `[[credentials]]` in the config file.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use stoa_layout::PathError;

use super::shown::masked;
use super::{ConfigError, Settings, parse};
use crate::upstream::{Credentials, HostCredentials};

/// One of the tables `[[credentials]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialsTable {
    host: String,
    login: Option<String>,
    password: Option<Secret>,
    password_file: Option<PathBuf>,
    bearer: Option<Secret>,
    bearer_file: Option<PathBuf>,
}

/// A text that is never printed.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl Settings<'_> {
    /// Resolves the credentials for upstreams.
    pub(super) fn credentials(&self) -> Result<Vec<HostCredentials>, ConfigError> {
        self.file()?.credentials.iter().map(|table| self.host_credentials(table)).collect()
    }

    fn host_credentials(&self, table: &CredentialsTable) -> Result<HostCredentials, ConfigError> {
        let host = table.host.trim().to_owned();
        let wrong = |why: &str| ConfigError::Value {
            origin: "the host of a [[credentials]] table in the config file".to_owned(),
            value: masked(&host),
            reason: why.to_owned(),
        };
        let is_host = !host.is_empty() && !host.contains(['/', '@']) && !host.contains(char::is_whitespace);
        if !is_host {
            return Err(wrong("expected a host, with or without a port, as in proxy.example.org:8443"));
        }
        let password =
            self.secret(table.password.as_ref(), table.password_file.as_ref(), "password", &wrong)?;
        let bearer = self.secret(table.bearer.as_ref(), table.bearer_file.as_ref(), "bearer", &wrong)?;
        let credentials = match (&table.login, password, bearer) {
            (Some(login), Some(password), None) => Credentials::Login { login: login.clone(), password },
            (None, None, Some(token)) => Credentials::Bearer(token),
            _ => return Err(wrong("expected either login and password, or bearer")),
        };
        Ok(HostCredentials { host, credentials })
    }

    /// Reads a secret from the config file, or from a file of its own.
    fn secret(
        &self,
        own: Option<&Secret>,
        path: Option<&PathBuf>,
        key: &str,
        wrong: &dyn Fn(&str) -> ConfigError,
    ) -> Result<Option<String>, ConfigError> {
        match (own, path) {
            (None, None) => Ok(None),
            (Some(secret), None) => Ok(Some(secret.0.clone())),
            (None, Some(path)) => {
                let written = parse::path(&path.to_string_lossy())
                    .map_err(|reason| wrong(&format!("{key}_file: {reason}")))?;
                let path = self.file()?.folder().join(written);
                let text =
                    std::fs::read_to_string(&path).map_err(|error| PathError::new("read", &path, error))?;
                Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
            (Some(_), Some(_)) => Err(wrong(&format!("expected either {key} or {key}_file"))),
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests write config files")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Options, ServeConfig, World};

    fn resolve(text: &str) -> Result<ServeConfig, String> {
        let dir = tempfile::tempdir().unwrap();
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
