//! The client behind a connection: its address and its scheme, as far as a trusted reverse proxy names them.
//!
//! A reverse proxy adds the address of its client at the end of `X-Forwarded-For`. So the value is read from its end, and the
//! first address that is not that of a trusted proxy is the client's. Everything before it was written by the client.

use std::net::IpAddr;

use hyper::header::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// Its address. `None` for a unix socket.
    pub(super) address: Option<IpAddr>,
    /// Whether the connection has TLS.
    pub(super) is_tls: bool,
    /// Whether the headers about its own clients are believed.
    pub(super) is_trusted: bool,
}

impl Peer {
    pub(super) fn new(address: Option<IpAddr>, is_tls: bool, trusted: &[IpNet]) -> Self {
        Self { address, is_tls, is_trusted: address.is_none_or(|address| contains(trusted, address)) }
    }

    /// Returns the address of the client that sent a request, and whether the client used TLS.
    pub(super) fn client(&self, headers: &HeaderMap, trusted: &[IpNet]) -> (Option<IpAddr>, bool) {
        if !self.is_trusted {
            return (self.address, self.is_tls);
        }
        let is_https = match headers.get_all(FORWARDED_PROTO).iter().next_back() {
            Some(proto) => proto.as_bytes().eq_ignore_ascii_case(b"https"),
            None => self.is_tls,
        };
        let values = headers.get_all(FORWARDED_FOR).iter().rev();
        let entries = values.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
        let mut client = self.address;
        for entry in entries {
            // Behind a word that is no address, nothing can be believed.
            let Some(address) = address_of(entry.trim()) else { break };
            client = Some(address);
            if !contains(trusted, address) {
                break;
            }
        }
        (client, is_https)
    }
}

/// Reads an address, with or without a port.
fn address_of(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse().ok().or_else(with_port).or_else(in_brackets).map(|address: IpAddr| address.to_canonical())
}

fn contains(ranges: &[IpNet], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: Option<&str>, headers: &[(&'static str, &str)]) -> (String, bool) {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        let peer = Peer::new(peer.map(|peer| peer.parse().unwrap()), false, &trusted);
        let (address, is_https) = peer.client(&map, &trusted);
        (address.map_or_else(|| "-".to_owned(), |address| address.to_string()), is_https)
    }

    #[test]
    fn only_the_headers_of_trusted_proxies_count() {
        let forwarded = |value| [("x-forwarded-for", value), ("x-forwarded-proto", "https")];
        for (peer, value, expected, is_https) in [
            (Some("192.0.2.1"), "198.51.100.7", "192.0.2.1", false),
            (Some("10.0.0.1"), "198.51.100.7", "198.51.100.7", true),
            (Some("10.0.0.1"), "203.0.113.9, 198.51.100.7,10.0.0.2", "198.51.100.7", true),
            (Some("10.0.0.1"), "10.0.0.3, 10.0.0.2", "10.0.0.3", true),
            (Some("10.0.0.1"), "203.0.113.9, unknown, 10.0.0.2", "10.0.0.2", true),
            (Some("10.0.0.1"), "[2001:db9::1]:4711", "2001:db9::1", true),
            (Some("10.0.0.1"), "198.51.100.7:80", "198.51.100.7", true),
            (None, "198.51.100.7", "198.51.100.7", true),
            (None, "", "-", true),
        ] {
            assert_eq!(client(peer, &forwarded(value)), (expected.to_owned(), is_https), "{peer:?} {value}");
        }
        assert_eq!(client(None, &[]), ("-".to_owned(), false));
        let twice = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "198.51.100.7")];
        assert_eq!(client(Some("10.0.0.1"), &twice).0, "198.51.100.7");
    }
}
