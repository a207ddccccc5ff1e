//! The `Via` header: the proxies that a request has passed, for loop detection.
//!
//! RFC 9110, section 7.6.3. Each server appends its own name. A server that finds its own name has received its
//! own request.
//!
//! Upstreams get only names of Stoa servers, written again from their numbers. The `Via` of a client may name
//! hosts of its network, which concern no upstream. The names of other Stoa servers must be passed on: in a
//! circle of two servers, the first one recognizes its request only by its own name. Such a name is a random
//! number, so it reveals nothing. A client can invent names, but it can neither add text to a header nor make it
//! longer than [`MAX_HOPS`] names. Invented names are no loop: other clients may wait for the same download. Only the last
//! names are passed on, so a circle of up to [`MAX_HOPS`] servers is always found.

use reqwest::header::HeaderValue;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;

/// Maximum number of Stoa servers in a `Via` to an upstream, this one included.
const MAX_HOPS: usize = 16;

const PREFIX: &str = "stoa-";

/// The name of a server in `Via`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance(u64);

impl Instance {
    /// Returns the name with this number. It must be unique: two servers with one name detect a loop.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns a random name.
    pub fn random() -> Self {
        // The hasher has random keys.
        Self(RandomState::new().hash_one("via"))
    }

    fn parse(name: &str) -> Option<Self> {
        let (prefix, number) = name.split_at_checked(PREFIX.len())?;
        let is_number = number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_number || !prefix.eq_ignore_ascii_case(PREFIX) {
            return None;
        }
        u64::from_str_radix(number, 16).ok().map(Self)
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:016x}", self.0)
    }
}

/// The Stoa servers in the `Via` of the client's request. Empty for requests that this server makes for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Via(Vec<Instance>);

impl Via {
    /// Returns the empty `Via`.
    pub fn none() -> Self {
        Self::default()
    }

    /// Creates a `Via` from all `Via` headers of a request, in order.
    pub fn from_header_values<V: AsRef<[u8]>>(values: impl IntoIterator<Item = V>) -> Self {
        let names = values.into_iter().flat_map(|value| {
            let hops = hops(&String::from_utf8_lossy(value.as_ref()));
            hops.into_iter().filter_map(|hop| Instance::parse(hop.split_whitespace().nth(1)?))
        });
        let names: Vec<_> = names.collect();
        Self(names[names.len().saturating_sub(MAX_HOPS)..].to_vec())
    }

    /// Returns whether the request has passed this server.
    pub fn is_loop_at(&self, instance: Instance) -> bool {
        self.0.contains(&instance)
    }

    /// Returns the header to send, with this server appended.
    pub(super) fn appended(&self, instance: Instance) -> Option<HeaderValue> {
        // The HTTP version of the received request is unknown here. All of them support 1.1.
        let last = &self.0[self.0.len().saturating_sub(MAX_HOPS - 1)..];
        let hops = last.iter().chain([&instance]).map(|name| format!("1.1 {name}"));
        HeaderValue::try_from(hops.collect::<Vec<_>>().join(", ")).ok()
    }
}

/// Splits a header at its commas and drops comments, which may contain commas, too.
fn hops(value: &str) -> Vec<String> {
    let mut hops = vec![String::new()];
    let mut depth = 0u32;
    let mut quoted = false;
    for c in value.chars() {
        match c {
            _ if quoted => quoted = false,
            '\\' if depth > 0 => quoted = true,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            ',' => hops.push(String::new()),
            c => {
                if let Some(hop) = hops.last_mut() {
                    hop.push(c);
                }
            }
        }
    }
    hops
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Instance = Instance::new(0xa5);

    #[test]
    fn a_server_finds_its_own_name() {
        let headers = [
            "1.0 fred, HTTP/2 Stoa-00000000000000A5 (a, 1.1 stoa-0000000000000001 \\) b)",
            "1.1 stoa-0000000000000002",
        ];
        let via = Via::from_header_values(headers);
        assert!(via.is_loop_at(US) && via.is_loop_at(Instance::new(2)));
        assert!(!via.is_loop_at(Instance::new(1)), "it is in a comment");
        assert!(!Via::none().is_loop_at(US));
        assert_ne!(Instance::random(), Instance::random());
    }

    #[test]
    fn only_names_of_stoa_servers_are_passed_on() {
        let headers = [
            "1.0 fred, 1.1 b\n\u{e9}, stoa-0000000000000003, 1.1 stoa-3, 1.1 stoa-00000000000000030",
            "1.1 stoa-0000000000000004:80, 1.1 stoa-+000000000000004",
            "1.1 stoa-00000000deadBEEF (secret), 1.1 stoa-000000000000000g, , 1.1",
        ];
        let via = Via::from_header_values(headers);
        assert_eq!(via.appended(US).unwrap(), "1.1 stoa-00000000deadbeef, 1.1 stoa-00000000000000a5");
        assert_eq!(Via::none().appended(US).unwrap(), "1.1 stoa-00000000000000a5");
    }

    #[test]
    fn the_last_names_are_passed_on() {
        let header = |numbers: std::ops::Range<u64>| {
            let names = numbers.map(|number| format!("1.1 {}", Instance::new(number)));
            names.collect::<Vec<_>>().join(", ")
        };
        let via = Via::from_header_values([header(0x100..0x500), "1.1 fred".to_owned()]);
        assert!(!via.is_loop_at(US) && via.is_loop_at(Instance::new(0x4ff)));
        let expected = format!("{}, 1.1 {US}", header(0x4f1..0x500));
        assert_eq!(via.appended(US).unwrap(), expected.as_str());
    }
}
