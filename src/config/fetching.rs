//! How upstreams are asked, whoever they are.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use stoa_layout::PathError;

use super::shown::redacted;
use super::{ConfigError, Settings};
use crate::upstream::{Credentials, Direct, DirectOptions, HostCredentials, UpstreamOptions};

/// What was typed of it. `None` where nothing was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypedFetching {
    /// The key `upstream_idle_timeout`.
    pub idle_timeout: Option<u64>,
    /// The key `direct.max_concurrent`.
    pub direct_max_concurrent: Option<usize>,
    /// The key `direct.timeout`.
    pub direct_timeout: Option<u64>,
}

/// How upstreams are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetching {
    /// How long an upstream may keep silent.
    pub idle_timeout: Duration,
    /// How many go commands may run at a time for `direct`.
    pub direct_max_concurrent: usize,
    /// How long one of them may take.
    pub direct_timeout: Duration,
    /// Who we are to which host.
    pub credentials: Vec<HostCredentials>,
}

impl Fetching {
    /// Puts it into the terms of those who ask; `netrc` is where that file would be.
    pub fn options(&self, netrc: Option<PathBuf>) -> UpstreamOptions {
        UpstreamOptions {
            idle_timeout: self.idle_timeout,
            direct: Direct::new(DirectOptions {
                max_concurrent: self.direct_max_concurrent,
                timeout: self.direct_timeout,
                ..DirectOptions::default()
            }),
            credentials: self.credentials.clone(),
            netrc,
            ..UpstreamOptions::default()
        }
    }
}

/// The table `direct`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DirectTable {
    pub(super) max_concurrent: Option<usize>,
    pub(super) timeout: Option<u64>,
}

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

/// What is never shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl Settings<'_> {
    /// Resolves how upstreams are asked.
    pub(super) fn fetching(&self, typed: TypedFetching) -> Result<Fetching, ConfigError> {
        let is_typed = typed.idle_timeout.is_some();
        let idle_timeout =
            self.pick("upstream_idle_timeout", typed.idle_timeout, |file| file.upstream_idle_timeout, 60)?;
        if idle_timeout == 0 {
            return Err(self.wrong("upstream_idle_timeout", is_typed, "0", "it takes a number from 1 on"));
        }
        let is_typed = typed.direct_timeout.is_some();
        let direct_timeout =
            self.pick("direct.timeout", typed.direct_timeout, |file| file.direct.timeout, 600)?;
        if direct_timeout == 0 {
            return Err(self.wrong("direct.timeout", is_typed, "0", "it takes a number from 1 on"));
        }
        let tables = self.file()?.keys.credentials.iter();
        Ok(Fetching {
            idle_timeout: Duration::from_secs(idle_timeout),
            direct_max_concurrent: self.count(
                "direct.max_concurrent",
                typed.direct_max_concurrent,
                |file| file.direct.max_concurrent,
                4,
                1024,
            )?,
            direct_timeout: Duration::from_secs(direct_timeout),
            credentials: tables.map(|table| self.credentials(table)).collect::<Result<_, _>>()?,
        })
    }

    fn credentials(&self, table: &CredentialsTable) -> Result<HostCredentials, ConfigError> {
        let host = table.host.trim().to_owned();
        let wrong = |why: &str| ConfigError::Value {
            whence: "the host of a [[credentials]] table in the config file".to_owned(),
            value: redacted(&host),
            why: why.to_owned(),
        };
        let is_host = !host.is_empty() && !host.contains(['/', '@']) && !host.contains(char::is_whitespace);
        if !is_host {
            return Err(wrong("it takes a host, alone or with a port, as in proxy.example.org:8443"));
        }
        let password =
            self.secret(table.password.as_ref(), table.password_file.as_ref(), "password", &wrong)?;
        let bearer = self.secret(table.bearer.as_ref(), table.bearer_file.as_ref(), "bearer", &wrong)?;
        let credentials = match (&table.login, password, bearer) {
            (Some(login), Some(password), None) => Credentials::Login { login: login.clone(), password },
            (None, None, Some(token)) => Credentials::Bearer(token),
            _ => return Err(wrong("its table takes login and password, or bearer, and not both")),
        };
        Ok(HostCredentials { host, credentials })
    }

    /// Finds a secret, which stands in the config file or in a file of its own.
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
                let path = self.file()?.folder().join(path);
                let text =
                    std::fs::read_to_string(&path).map_err(|error| PathError::new("read", &path, error))?;
                Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
            (Some(_), Some(_)) => Err(wrong(&format!("its table has both {key} and {key}_file"))),
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests write config files")]
mod tests {
    use super::*;
    use crate::config::World;

    fn resolve(text: &str) -> Result<Fetching, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::write(dir.path().join("token"), "from a file\n").unwrap();
        let world = World { variable: Box::new(|_| None), system_file: path };
        Settings::new(&world, None).fetching(TypedFetching::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn credentials_are_of_one_kind() {
        let config = "[[credentials]]\nhost = 'a.example'\nlogin = 'me'\npassword = 'mine'\n\
                      [[credentials]]\nhost = 'b.example:8443'\nbearer_file = 'token'\n";
        let fetching = resolve(config).unwrap();
        let of = |host: &str, credentials| HostCredentials { host: host.to_owned(), credentials };
        let login = Credentials::Login { login: "me".to_owned(), password: "mine".to_owned() };
        assert_eq!(fetching.credentials[0], of("a.example", login));
        assert_eq!(
            fetching.credentials[1],
            of("b.example:8443", Credentials::Bearer("from a file".to_owned()))
        );
        assert!(!format!("{fetching:?}").contains("mine"));
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
