//! Values of keys, read from a text: that of an option, of a variable, of the config file or of a default.
//!
//! Each function returns the reason why a text is not a value. Messages put the key and its origin before the reason.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use stoa_gomod::private::Patterns;

use crate::fill::Sumdb;

/// The maximum number of threads: more than any disk can use.
const MAX_THREADS: usize = 1024;

/// Reads true or false.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// Reads a number of at least 1.
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number of at least 1".to_owned()),
        Ok(count) => Ok(count),
    }
}

/// Reads a number of threads or processes.
pub(super) fn threads(text: &str) -> Result<usize, String> {
    count(text)
        .ok()
        .filter(|count| *count <= MAX_THREADS)
        .ok_or_else(|| format!("expected a number from 1 to {MAX_THREADS}"))
}

/// Reads a duration: `500ms`, `30s`, `5m`, `1h` or `2d`. A bare number is in seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let millis: Option<u64> = match unit.trim() {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60 * 1000),
        "h" => Some(60 * 60 * 1000),
        "d" => Some(24 * 60 * 60 * 1000),
        _ => None,
    };
    let total = millis.and_then(|millis| number.parse::<u64>().ok()?.checked_mul(millis));
    total
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a duration such as 500ms, 30s, 5m or 1h".to_owned())
}

/// Reads a duration that is not zero.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("expected a duration longer than 0".to_owned()),
        duration => Ok(duration),
    }
}

/// Reads one of several words.
pub(super) fn word<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Reads a list with commas.
pub(super) fn list(text: &str) -> Result<Vec<String>, String> {
    Ok(text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect())
}

/// Reads a list of patterns. Malformed patterns would silently match nothing.
pub(super) fn patterns(text: &str) -> Result<Vec<String>, String> {
    Patterns::parse_strict(text).map_err(|error| error.to_string())?;
    list(text)
}

/// Reads a size: `500M`, `1.5GiB` or `20GB`. A bare number is in bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    match super::size::parse(text)?.bytes {
        0 => Err("expected a size larger than 0".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Reads a list of address ranges: `10.1.0.0/16`, or a single address.
pub(super) fn ranges(text: &str) -> Result<Vec<IpNet>, String> {
    let range = |part: String| {
        let range = part.parse().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
        range.map_err(|_| format!("{part:?} is not an address range such as 10.1.0.0/16 or 2001:db8::/32"))
    };
    list(text)?.into_iter().map(range).collect()
}

/// Reads a path.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("expected the path of a folder".to_owned());
    }
    if text.starts_with('~') {
        return Err("the shell did not expand the ~; write the whole path".to_owned());
    }
    Ok(text.into())
}

/// Reads an address to listen on. Without a host it stands for all addresses.
pub(super) fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some((_, Ok(_))) => Ok(text.to_owned()),
        _ => {
            Err("expected an address and a port, as in 127.0.0.1:3000, or :3000 for all addresses".to_owned())
        }
    }
}

/// Reads a path below which requests are answered. A client or a proxy would rewrite `..`, `//` or `%`.
pub(super) fn base_path(text: &str) -> Result<String, String> {
    let elements = || text.strip_suffix('/').unwrap_or(text).split('/').skip(1);
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '%' | '\\');
    let is_valid = text.starts_with('/')
        && text.chars().all(is_plain)
        && elements().all(|element| !matches!(element, "" | "." | ".."));
    if is_valid { Ok(text.to_owned()) } else { Err("expected a path such as / or /go".to_owned()) }
}

/// Reads a list of upstreams. Each URL is checked later, by the code that uses it.
pub(super) fn upstream(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("the list is empty; write off to download nothing, or remove the key".to_owned());
    }
    let mut entries = text.split([',', '|']).map(str::trim);
    let last = entries.by_ref().find(|entry| matches!(*entry, "direct" | "off"));
    if let (Some(last), Some(never)) = (last, entries.find(|entry| !entry.is_empty())) {
        let never = super::shown::masked(never);
        return Err(format!("{never} is never asked, because {last} ends the list; put {last} last"));
    }
    Ok(text.to_owned())
}

/// Reads a checksum database.
pub(super) fn gosumdb(text: &str) -> Result<String, String> {
    Sumdb::parse(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// Reads the base of a redirect. Every client sees it, so it has no credentials.
pub(super) fn redirect_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).map_err(|_| "expected a URL such as https://proxy.example.org")?;
    let is_plain = matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
    if !is_plain || url.query().is_some() || url.fragment().is_some() {
        return Err("expected an http or https URL without a query".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("every client sees this URL; remove the credentials".to_owned());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("0", 0),
            ("30", 30_000),
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("2 d", 172_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "1.5h", "5 minutes", "99999999999999999999s", "soon"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(timeout("0s").is_err());
    }

    #[test]
    fn entries_behind_the_end_of_a_list_are_errors() {
        for text in [
            "direct",
            "off",
            "https://a.example,direct",
            "https://a.example|off",
            "https://a.example,direct,",
        ] {
            assert_eq!(upstream(text).as_deref(), Ok(text));
        }
        let error = upstream("direct,https://me:hidden@a.example").unwrap_err();
        assert!(error.contains("never asked") && !error.contains("hidden"), "{error}");
        assert!(upstream("off|direct").is_err() && upstream(" ").is_err());
    }

    #[test]
    fn a_colon_and_a_port_stand_for_all_addresses() {
        assert_eq!(address(":3000").as_deref(), Ok(":3000"));
        assert_eq!(address("[::1]:0").as_deref(), Ok("[::1]:0"));
        for text in ["3000", "localhost", "127.0.0.1:70000", ""] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn address_ranges_and_sizes_have_a_form() {
        let found = ranges("10.1.0.0/16, 192.0.2.7,2001:db8::/32").unwrap();
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32"]
        );
        assert_eq!(ranges("").unwrap(), []);
        for text in ["10.1.0.0/33", "localhost", "10.1", "*"] {
            assert!(ranges(text).unwrap_err().contains("address range"), "{text}");
        }
        assert_eq!(size("2GiB"), Ok(2 << 30));
        assert!(size("0").is_err() && size("2X").is_err());
    }

    #[test]
    fn a_tilde_is_not_a_path() {
        assert!(path("~/stoa").unwrap_err().contains("shell"));
        assert!(path("").is_err());
        assert_eq!(path("a~"), Ok("a~".into()));
    }
}
