//! A peer, as the configuration describes it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use ring::hmac;
use rustls::pki_types::CertificateDer;
use stoa_gomod::ModulePath;
use stoa_gomod::private::Patterns;

/// Another deployment that this one exchanges versions with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its base URL.
    pub url: Url,
    /// The secret that it shares with this deployment.
    pub secret: Secret,
    /// The only root certificates that are accepted for it. `None` for those of the system.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// Whether this deployment asks it for events.
    pub pull: bool,
    /// Whether this deployment notifies it of events.
    pub push: bool,
    /// The modules that it may have from this deployment.
    pub offer: Patterns,
    /// The modules that this deployment takes from it.
    pub accept: Patterns,
    /// Whether its tombstones are applied here.
    pub accept_tombstones: bool,
    /// The pause between two requests for events.
    pub interval: Duration,
    /// The maximum number of bytes of zips per second that are downloaded from it. `None` for no maximum.
    pub bandwidth: Option<u64>,
}

impl Peer {
    /// Returns whether the module may go to the peer.
    pub fn is_offered(&self, module: &ModulePath) -> bool {
        self.offer.matches(module.as_str())
    }

    /// Returns whether the module is taken from the peer.
    pub fn accepts(&self, module: &ModulePath) -> bool {
        self.accept.matches(module.as_str())
    }

    /// Returns whether a pattern that names a host accepts the module: `*.corp.example`, but not `*`.
    pub fn accepts_explicitly(&self, module: &ModulePath) -> bool {
        self.accept.match_by_host(module.as_str())
    }
}

/// Returns whether a text is a valid name of a deployment: 1 to 64 lower case letters, digits, dots and hyphens.
pub fn is_deployment_name(text: &str) -> bool {
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(is_plain)
}

/// The secret of two deployments. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// Takes the bytes of a secret.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// Returns the key for signatures.
    pub(super) fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a peer with a name and a secret.
    pub(crate) fn peer(name: &str, secret: &str) -> Peer {
        Peer {
            name: name.to_owned(),
            url: Url::parse("http://127.0.0.1:1").unwrap(),
            secret: Secret::new(secret.as_bytes()),
            ca: None,
            pull: true,
            push: true,
            offer: Patterns::default(),
            accept: Patterns::parse("*"),
            accept_tombstones: false,
            interval: Duration::from_secs(60),
            bandwidth: None,
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert!(!format!("{:?}", peer("a", "hidden")).contains("hidden"));
    }

    #[test]
    fn only_a_pattern_that_names_a_host_accepts_explicitly() {
        let module = |path: &str| ModulePath::new(path).unwrap();
        let of = |accept: &str| Peer { accept: Patterns::parse(accept), ..peer("a", "secret") };
        let private = module("git.corp.example/x");
        for accept in ["*.corp.example", "*,*.corp.example", "git.corp.example/x,[a-z]*"] {
            assert!(of(accept).accepts(&private) && of(accept).accepts_explicitly(&private), "{accept}");
        }
        for accept in ["*", "[a-z]*", "*,github.com/acme"] {
            assert!(of(accept).accepts(&private) && !of(accept).accepts_explicitly(&private), "{accept}");
        }
        assert!(!of("").accepts(&private) && !of("github.com").accepts(&private));
        let offering = Peer { offer: Patterns::parse("*.corp.example"), ..peer("a", "secret") };
        assert!(offering.is_offered(&private) && !offering.is_offered(&module("github.com/acme/x")));
        assert!(!peer("a", "secret").is_offered(&private), "nothing is offered by default");
    }
}
