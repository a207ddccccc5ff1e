//! The name by which a client calls the server.
//!
//! A page of another origin could make a browser ask this server under a name of its own (DNS rebinding). With a list of names, only
//! requests with one of these names are answered.

use hyper::header::HOST;
use hyper::{Request, Version};

use super::refusal::Refusal;

/// The names of the server.
#[derive(Debug, Clone, Default)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    /// Begins with names in lower case. Without names, every name is accepted.
    pub(super) fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Checks the name in a request.
    pub(super) fn check<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let mut fields = request.headers().get_all(HOST).iter();
        let (first, is_double) = (fields.next(), fields.next().is_some());
        let is_missing = first.is_none() && request.version() == Version::HTTP_11;
        if is_double || is_missing {
            return Err(Refusal::BadHost);
        }
        // A name in the target of the request, as HTTP/2 has it, counts for more than the header.
        let authority = request.uri().authority().map(|authority| authority.as_str());
        let name = match (authority, first) {
            (Some(name), _) => Some(name),
            (None, Some(value)) => Some(value.to_str().map_err(|_| Refusal::BadHost)?),
            (None, None) => None,
        };
        if self.0.is_empty() || name.is_some_and(|name| self.contains(without_port(name))) {
            return Ok(());
        }
        Err(Refusal::OtherHost)
    }

    fn contains(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        self.0.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

fn without_port(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(known: &[&str], version: Version, uri: &str, hosts: &[&str]) -> u16 {
        let hosts_of_server = Hosts::new(known.iter().map(|name| (*name).to_owned()).collect());
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let checked = hosts_of_server.check(&request.body(()).unwrap());
        checked.map_or_else(|refusal| refusal.answer().status().as_u16(), |()| 200)
    }

    #[test]
    fn a_request_has_one_host_that_the_server_has() {
        let known = &["proxy.example", "[::1]"][..];
        for (known, version, uri, hosts, expected) in [
            (&[][..], Version::HTTP_11, "/", &["any.example"][..], 200),
            (&[], Version::HTTP_11, "/", &[], 400),
            (&[], Version::HTTP_11, "/", &["a.example", "a.example"], 400),
            (&[], Version::HTTP_10, "/", &[], 200),
            (&[], Version::HTTP_2, "https://a.example/", &[], 200),
            (known, Version::HTTP_11, "/", &["Proxy.Example:8443"], 200),
            (known, Version::HTTP_11, "/", &["proxy.example."], 200),
            (known, Version::HTTP_11, "/", &["[::1]:3000"], 200),
            (known, Version::HTTP_11, "/", &["other.example"], 421),
            (known, Version::HTTP_11, "/", &[""], 421),
            (known, Version::HTTP_10, "/", &[], 421),
            (known, Version::HTTP_11, "http://other.example/", &["proxy.example"], 421),
            (known, Version::HTTP_2, "https://proxy.example/", &[], 200),
            (known, Version::HTTP_2, "https://other.example/", &[], 421),
        ] {
            assert_eq!(status(known, version, uri, hosts), expected, "{version:?} {uri} {hosts:?}");
        }
    }
}
