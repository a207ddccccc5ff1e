//! The `Via` header: the proxies that a request has passed, for loop detection.
//!
//! RFC 9110, section 7.6.3. Each proxy appends its own name. A proxy that finds its own name has received
//! its own request.

use reqwest::header::HeaderValue;

/// The `Via` of the client's request. Empty for requests that this proxy makes for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Via(Vec<String>);

impl Via {
    /// Returns the empty `Via`.
    pub fn none() -> Self {
        Self::default()
    }

    /// Creates a `Via` from all `Via` headers of a request, in order.
    pub fn from_header_values<V: AsRef<[u8]>>(values: impl IntoIterator<Item = V>) -> Self {
        let readable = |value: V| {
            let bytes = value.as_ref().iter();
            bytes.map(|&b| if b == b' ' || b.is_ascii_graphic() { char::from(b) } else { '?' }).collect()
        };
        Self(values.into_iter().map(readable).collect())
    }

    /// Returns whether the request has passed the proxy with this name.
    pub fn contains(&self, instance: &str) -> bool {
        let received_by = |hop: &str| hop.split_whitespace().nth(1).map(str::to_owned);
        self.0
            .iter()
            .flat_map(|value| hops(value))
            .any(|hop| received_by(&hop).is_some_and(|name| name.eq_ignore_ascii_case(instance)))
    }

    /// Returns the header to send, with this proxy appended.
    pub(super) fn appended(&self, instance: &str) -> Option<HeaderValue> {
        // The HTTP version of the received request is unknown here. All of them support 1.1.
        let own = format!("1.1 {instance}");
        let hops = self.0.iter().filter(|value| !value.trim().is_empty()).map(String::as_str);
        let value = hops.chain([own.as_str()]).collect::<Vec<_>>().join(", ");
        HeaderValue::from_str(&value).ok()
    }
}

/// Returns whether a name can be in a `Via` header.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic() && !"(),;\"\\".contains(c))
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

    #[test]
    fn a_proxy_finds_its_own_name() {
        let via =
            Via::from_header_values(["1.0 fred, HTTP/2 Stoa-1 (a, 1.1 hidden \\) b)", "1.1 p.example:80"]);
        for name in ["fred", "stoa-1", "p.example:80"] {
            assert!(via.contains(name), "{name}");
        }
        for name in ["hidden", "1.1", "stoa", "p.example", ""] {
            assert!(!via.contains(name), "{name}");
        }
        assert!(!Via::none().contains("fred"));
    }

    #[test]
    fn the_own_name_is_appended() {
        let via = Via::from_header_values(["1.0 fred", "", "1.1 b\n\u{e9}"]);
        assert_eq!(via.appended("us").unwrap(), "1.0 fred, 1.1 b???, 1.1 us");
        assert_eq!(Via::none().appended("us").unwrap(), "1.1 us");
        assert!(via.contains("fred"));
    }

    #[test]
    fn names_that_would_break_the_header_are_invalid() {
        assert!(is_name("stoa-0af3") && is_name("proxy.example:3000"));
        for bad in ["", "a b", "a,b", "a(b", "a\"b", "é", "a\n"] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
