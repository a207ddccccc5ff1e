//! Values of keys, read from a text: that of an option, of a variable, of the config file or of a default.
//!
//! Each function returns the reason why a text is not a value. Messages put the key and its origin before the reason.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use stoa_bucket::{BucketUrl, BucketUrlError};
use stoa_gomod::private::Patterns;

use crate::eviction::Free;
use crate::observe::{AccessLogFormat, AccessLogTarget};
use crate::sumdb::Gosumdb;
use crate::sync::is_deployment_name;

/// The maximum number of threads: more than any disk can use.
const MAX_THREADS: usize = 1024;

/// Reads true or false.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// Reads a number of at least 1.
pub(super) fn count(text: &str) -> Result<usize, String> {
    match text.trim().parse() {
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

/// Reads the mode of a folder, in octal. Its owner must be able to use it, and others must not write to it.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| mode & !0o2777 == 0 && digits.len() >= 3);
    match mode {
        Some(mode) if mode & 0o700 != 0o700 => Err("the owner needs all permissions (7)".to_owned()),
        Some(mode) if mode & 0o002 != 0 => Err("others must not write to the store".to_owned()),
        Some(mode) => Ok(mode),
        None => Err("expected a mode in octal such as 0700, 0750 or 2770".to_owned()),
    }
}

/// Reads the mode of a unix socket, in octal.
pub(super) fn socket_mode(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 && mode & 0o600 == 0o600 && digits.len() >= 3 => Ok(mode),
        _ => Err("expected a mode in octal such as 0660 or 0666, with which the owner may read and write"
            .to_owned()),
    }
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
        .ok_or_else(|| "expected a duration such as 500ms, 30s, 5m, 1h or 2d".to_owned())
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
    text.trim().parse().map_err(|error: T::Err| error.to_string())
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

/// Reads a size, or a percentage of a disk: `50G` or `10%`.
pub(super) fn free(text: &str) -> Result<Free, String> {
    let expected = || format!("{text:?} is neither a size, as in 50G, nor a percentage from 1% to 99%");
    match text.trim().strip_suffix('%') {
        Some(number) => {
            let percent = number.trim_end().parse().ok().filter(|percent| (1..=99).contains(percent));
            percent.map(Free::Percent).ok_or_else(expected)
        }
        None => size(text).map(Free::Bytes).map_err(|_| expected()),
    }
}

/// Reads an age in days: `180d` or `12w`.
pub(super) fn age(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let units = [('d', 1), ('w', 7)];
    let found = units.into_iter().find_map(|(unit, days)| Some((text.strip_suffix(unit)?, days)));
    let days = found.and_then(|(number, days)| number.parse::<u32>().ok()?.checked_mul(days));
    // A hundred years.
    let days = days.filter(|days| (1..=36_500).contains(days));
    days.ok_or_else(|| "expected an age of at least one day, such as 180d or 12w".to_owned())
}

/// Reads a number of bytes per second, in the syntax of sizes.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    super::size::parse(text).map(|size| size.bytes)
}

/// Reads a list of address ranges: `10.1.0.0/16`, or a single address.
pub(super) fn ranges(text: &str) -> Result<Vec<IpNet>, String> {
    let range = |part: String| {
        let range = part.parse().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
        range.map_err(|_| format!("{part:?} is not an address range such as 10.1.0.0/16 or 2001:db8::/32"))
    };
    list(text)?.into_iter().map(range).collect()
}

/// Reads a list of patterns that has at least one.
pub(crate) fn some_patterns(text: &str) -> Result<Patterns, String> {
    let patterns = Patterns::parse_strict(text).map_err(|error| error.to_string())?;
    match patterns.is_empty() {
        true => Err("an empty pattern matches no module; * matches all".to_owned()),
        false => Ok(patterns),
    }
}

/// Reads a text that clients see at the end of an error message.
pub(super) fn reason(text: &str) -> Result<String, String> {
    const MAX_BYTES: usize = 500;
    let text = text.trim();
    match !text.is_empty() && text.len() <= MAX_BYTES && !text.chars().any(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err(format!("expected one line of 1 to {MAX_BYTES} bytes")),
    }
}

/// Reads a path.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("expected a path".to_owned());
    }
    if text.starts_with('~') {
        return Err("Stoa does not expand ~; write the whole path".to_owned());
    }
    Ok(text.into())
}

/// Reads the target of the log of requests.
pub(super) fn access_log(text: &str) -> Result<Option<AccessLogTarget>, String> {
    match text.trim() {
        "off" => Ok(None),
        "stdout" => Ok(Some(AccessLogTarget::Stdout)),
        path if path.starts_with('/') => Ok(Some(AccessLogTarget::File(path.into()))),
        _ => Err("expected off, stdout or an absolute path".to_owned()),
    }
}

/// Reads the form of the log of requests.
pub(super) fn access_log_format(text: &str) -> Result<AccessLogFormat, String> {
    match text.trim() {
        "text" => Ok(AccessLogFormat::Text),
        "json" => Ok(AccessLogFormat::Json),
        _ => Err("expected text or json".to_owned()),
    }
}

/// Reads an absolute path.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = path(text.trim())?;
    match path.is_absolute() {
        true => Ok(path),
        false => Err("expected an absolute path".to_owned()),
    }
}

/// Reads a list of hosts without ports.
pub(super) fn hosts(text: &str) -> Result<Vec<String>, String> {
    let host = |name: String| match host_and_port(&name)? {
        Some((host, None)) if !host.is_empty() => Ok(host.to_ascii_lowercase()),
        _ => Err(format!("{name:?} is not a name without a port, as in goproxy.corp.example")),
    };
    list(text)?.into_iter().map(host).collect()
}

/// Reads an address to listen on. Without a host it stands for all addresses.
pub(super) fn address(text: &str) -> Result<String, String> {
    match host_and_port(text.trim())? {
        Some((_, Some(port))) if port.parse::<u16>().is_ok() => Ok(text.trim().to_owned()),
        _ => {
            Err("expected an address and a port, as in 127.0.0.1:3000, or :3000 for all addresses".to_owned())
        }
    }
}

/// Reads the host of an upstream, with or without a port.
pub(super) fn host(text: &str) -> Result<String, String> {
    match host_and_port(text.trim())? {
        Some((host, port)) if !host.is_empty() && port.is_none_or(|port| port.parse::<u16>().is_ok()) => {
            Ok(text.trim().to_owned())
        }
        _ => Err("expected a host, with or without a port, as in proxy.example.org:8443".to_owned()),
    }
}

/// Splits `HOST:PORT` or `HOST`. Returns `None` if the host is malformed. It may be empty.
fn host_and_port(text: &str) -> Result<Option<(&str, Option<&str>)>, String> {
    let is_ipv6 = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if is_ipv6(host) || is_ipv6(text) {
        let meant = match port.filter(|_| is_ipv6(host)) {
            Some(port) => format!("[{host}]:{port}"),
            None => format!("[{text}]"),
        };
        return Err(format!("an IPv6 address needs brackets, as in {meant}"));
    }
    let is_valid = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        // The number of an interface may follow.
        Some(inner) => inner.split('%').next().is_some_and(is_ipv6),
        None => host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    Ok(is_valid.then_some((host, port)))
}

/// Reads a path below which requests are answered. A client or a proxy would rewrite `..`, `//` or `%`.
pub(super) fn base_path(text: &str) -> Result<String, String> {
    let text = text.trim();
    let elements = || text.strip_suffix('/').unwrap_or(text).split('/').skip(1);
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '%' | '\\');
    let is_valid = text.starts_with('/')
        && text.chars().all(is_plain)
        && elements().all(|element| !matches!(element, "" | "." | ".."));
    if is_valid { Ok(text.to_owned()) } else { Err("expected a path such as / or /go".to_owned()) }
}

/// Reads a list of upstreams.
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
    crate::upstream::check_list(text)?;
    Ok(text.to_owned())
}

/// Reads a checksum database.
pub(super) fn gosumdb(text: &str) -> Result<String, String> {
    let sumdb = Gosumdb::parse(text).map_err(|error| error.to_string())?;
    if let Some(url) = sumdb.as_ref().and_then(Gosumdb::url) {
        crate::upstream::check_list(url)?;
    }
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

/// Parses the URL of a bucket.
pub(super) fn bucket(text: &str) -> Result<BucketUrl, String> {
    // The lines of help are those of the configuration.
    text.parse().map_err(|error: BucketUrlError| error.reason().to_owned())
}

/// Parses the URL of a service.
pub(super) fn http_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).map_err(|_| "expected a URL such as https://s3.example.org")?;
    if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() {
        return Err("expected an http or https URL without a query".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong into this URL".to_owned());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Parses a name that a service gave.
pub(super) fn name(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("expected a name".to_owned()),
        name if name.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            Err("a name has no spaces".to_owned())
        }
        name => Ok(name.to_owned()),
    }
}

/// Reads the name of a deployment among its peers.
pub(super) fn peer_name(text: &str) -> Result<String, String> {
    let text = text.trim();
    match is_deployment_name(text) {
        true => Ok(text.to_owned()),
        false => {
            Err("expected a name of 1 to 64 characters: lower case letters, digits, dots and hyphens"
                .to_owned())
        }
    }
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
        assert_eq!(address(" :3000 ").as_deref(), Ok(":3000"));
        for text in [":3000", "[::1]:0", "[fe80::1%2]:3000", "localhost:3000", "host_1.example:1"] {
            assert_eq!(address(text).as_deref(), Ok(text));
        }
        for text in
            ["3000", "localhost", "127.0.0.1:70000", "", "[::1]", "[x]:3000", "a b:3000", "http://a:3000"]
        {
            assert!(address(text).unwrap_err().contains("expected an address"), "{text}");
        }
    }

    #[test]
    fn an_ipv6_address_needs_brackets() {
        for (text, meant) in [
            ("::1:3000", "[::1]:3000"),
            ("fe80::1:8443", "[fe80::1]:8443"),
            ("1:2:3:4:5:6:7:8:3000", "[1:2:3:4:5:6:7:8]:3000"),
            ("::1", "[::1]"),
        ] {
            for error in [address(text).unwrap_err(), host(text).unwrap_err()] {
                assert!(error.ends_with(&format!("needs brackets, as in {meant}")), "{text}: {error}");
            }
        }
        for text in ["[::1]", "[::1]:8443", "a.example", "a.example:8443"] {
            assert_eq!(host(text).as_deref(), Ok(text));
        }
        for text in ["", ":3000", "a.example:port", "https://a.example", "me@a.example"] {
            assert!(host(text).unwrap_err().contains("expected a host"), "{text}");
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
    fn free_space_and_ages_have_a_form() {
        assert_eq!(free("50G"), Ok(Free::Bytes(50 << 30)));
        assert_eq!(free(" 10% "), Ok(Free::Percent(10)));
        for text in ["", "%", "0%", "100%", "-1%", "1.5%", "0", "ten"] {
            assert!(free(text).unwrap_err().contains("percentage"), "{text}");
        }
        assert_eq!((age("180d"), age("12w")), (Ok(180), Ok(84)));
        for text in ["", "0d", "180", "1h", "d", "-1d", "2026-01-31", "99999999w"] {
            assert!(age(text).unwrap_err().contains("180d"), "{text}");
        }
    }

    #[test]
    fn a_tilde_is_not_a_path() {
        assert!(path("~/stoa").unwrap_err().contains("does not expand"));
        assert!(path("").is_err());
        assert_eq!(path("a~"), Ok("a~".into()));
    }
}
