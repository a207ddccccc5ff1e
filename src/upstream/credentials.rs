//! Credentials for upstreams.
//!
//! Credentials in the URL of an entry come first, then the configuration for its host, then netrc. They are
//! only sent over https, to their own host, and never shown.

use super::netrc::Netrc;
use reqwest::{RequestBuilder, Url};
use std::fmt;

/// Credentials for one server.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A login with a password.
    Login {
        /// The login.
        login: String,
        /// The password.
        password: String,
    },
    /// A bearer token.
    Bearer(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// Adds the credentials to a request.
    pub(super) fn add_to(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Login { login, password } => request.basic_auth(login, Some(password)),
            Self::Bearer(token) => request.bearer_auth(token),
        }
    }
}

/// The credentials for one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCredentials {
    /// The host, alone or with a port.
    pub host: String,
    /// The credentials.
    pub credentials: Credentials,
}

/// The credentials from the configuration and from netrc.
#[derive(Debug, Default)]
pub(super) struct Keyring {
    pub(super) hosts: Vec<HostCredentials>,
    pub(super) netrc: Netrc,
}

impl Keyring {
    /// Returns the credentials for the host of a URL: those of `host:port` before those of `host`.
    pub(super) fn find(&self, url: &Url) -> Option<Credentials> {
        let host = url.host_str()?;
        let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        let names = with_port.iter().map(String::as_str).chain([host]);
        let mut matching =
            names.flat_map(|name| self.hosts.iter().find(|entry| entry.host.eq_ignore_ascii_case(name)));
        matching.next().map(|entry| entry.credentials.clone()).or_else(|| self.netrc.find(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_takes_precedence_over_netrc() {
        let token = |host: &str, token: &str| HostCredentials {
            host: host.to_owned(),
            credentials: Credentials::Bearer(token.to_owned()),
        };
        let netrc = Netrc::parse("machine a.example login n password n machine c.example login n password n");
        let keyring =
            Keyring { hosts: vec![token("A.example", "all"), token("a.example:8443", "port")], netrc };
        let find = |url: &str| keyring.find(&Url::parse(url).unwrap());
        assert_eq!(find("https://a.example/x"), Some(Credentials::Bearer("all".to_owned())));
        assert_eq!(find("https://a.example:8443/x"), Some(Credentials::Bearer("port".to_owned())));
        assert!(matches!(find("https://c.example"), Some(Credentials::Login { .. })));
        assert_eq!(find("https://b.a.example"), None);
        assert!(!format!("{keyring:?}").contains("all"));
    }
}
