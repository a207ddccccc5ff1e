//! Addresses to listen on.

use std::fmt::{self, Display};
use std::path::PathBuf;

use super::parse;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A host and a port. Without a host: all addresses of the machine.
    Tcp(String),
    /// The path of a unix socket.
    Unix(PathBuf),
    /// The sockets that the service manager passed on.
    Inherited,
}

/// The sign of the sockets of the service manager.
const INHERITED: &str = "systemd";

impl ListenAddress {
    /// Reads a list of addresses that has at least one.
    pub(super) fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        let all = parse::list(text)?.iter().map(|text| Self::parse(text)).collect::<Result<Vec<_>, _>>()?;
        match all.is_empty() {
            true => Err("expected an address and a port, as in 127.0.0.1:3000".to_owned()),
            false => Ok(all),
        }
    }

    /// Reads a list of addresses that are not those of the service manager.
    pub(super) fn parse_own(text: &str) -> Result<Vec<Self>, String> {
        let all = Self::parse_list(text)?;
        match all.contains(&Self::Inherited) {
            true => Err("systemd is possible in listen only".to_owned()),
            false => Ok(all),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text == INHERITED {
            return Ok(Self::Inherited);
        }
        let Some(path) = text.strip_prefix("unix:") else { return parse::address(text).map(Self::Tcp) };
        let path = PathBuf::from(path);
        match path.is_absolute() && path.file_name().is_some() {
            true => Ok(Self::Unix(path)),
            false => Err("expected the absolute path of a socket, as in unix:/run/stoa/stoa.sock".to_owned()),
        }
    }
}

impl Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inherited => f.write_str(INHERITED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_addresses_paths_and_the_sockets_of_the_service_manager() {
        let text = "127.0.0.1:3000, unix:/run/stoa.sock,systemd";
        let all = ListenAddress::parse_list(text).unwrap();
        let shown: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.1:3000", "unix:/run/stoa.sock", "systemd"]);
        for text in ["", "unix:relative", "unix:/", "systemd:web", "127.0.0.1:1,localhost"] {
            assert!(ListenAddress::parse_list(text).unwrap_err().contains("expected"), "{text}");
        }
        assert!(ListenAddress::parse_own("systemd").unwrap_err().contains("listen only"));
    }
}
