//! The limits of a server for its clients.

use std::net::IpAddr;

/// The limits of a server for its clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Maximum number of open connections.
    pub connections: usize,
    /// Maximum number of open connections of one address.
    pub connections_per_address: usize,
    /// Maximum number of requests under way of one address. Further requests wait.
    pub requests_per_address: usize,
    /// Maximum number of zips that are being sent.
    pub open_zips: usize,
    /// The same, of one connection.
    pub open_zips_per_connection: usize,
    /// Bytes per second, below which a client loses its place if another client needs it. Zero: no client does.
    pub min_send_rate: u64,
}

impl Limits {
    /// Returns the usual limits for a number of connections.
    pub fn of(connections: usize) -> Self {
        Self {
            connections,
            connections_per_address: (connections / 2).max(1),
            requests_per_address: 1024,
            open_zips: 1024,
            open_zips_per_connection: 16,
            min_send_rate: 8 * 1024,
        }
    }

    /// Returns the maximum number of zips that are being sent to one address: three quarters, so that no address has all.
    pub(super) fn open_zips_per_address(&self) -> usize {
        (self.open_zips - self.open_zips / 4).max(1)
    }
}

/// The clients that share limits: an address of IPv4, or a network of IPv6 with a prefix of 64 bits, which is what one host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClientKey(IpAddr);

impl ClientKey {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                Self(IpAddr::V6(network.into()))
            }
            address => Self(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_host_share_limits() {
        let key = |text: &str| ClientKey::of(text.parse().unwrap());
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    }
}
