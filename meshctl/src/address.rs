//! Where the control API is served and called: `host:port`, or the path of a Unix socket.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// An address as the flags `--http-addr`, `--status-addr` and `--metrics-addr` take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Not served at all: the empty text.
    Off,
    /// `host:port`; an empty host serves on all IPv4 addresses and is called on loopback.
    Tcp {
        /// Name or address, without brackets; empty for all.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// An absolute path.
    Unix(PathBuf),
}

/// Not an address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not an address to serve on; write host:port as in 127.0.0.1:6784, or the absolute \
     path of a Unix socket"
)]
pub struct BadAddress(String);

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if text.is_empty() {
            return Ok(Self::Off);
        }
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self::Unix(path.into()));
        }
        let bad = || BadAddress(text.to_owned());
        let rest = text.strip_prefix("tcp://").unwrap_or(text);
        let (host, port) = rest.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        // An IPv6 address without brackets leaves open where the port begins.
        if bare.is_none() && host.contains([':', '[', ']', '/']) {
            return Err(bad());
        }
        let host = bare.unwrap_or(host).to_owned();
        Ok(Self::Tcp { host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => Ok(()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Address {
    /// What to bind: the host, with an empty one made "all".
    pub fn host_to_bind(&self) -> Option<(&str, u16)> {
        match self {
            Self::Tcp { host, port } if host.is_empty() => Some(("0.0.0.0", *port)),
            Self::Tcp { host, port } => Some((host, *port)),
            _ => None,
        }
    }

    /// What to call: the host, with "all" made loopback.
    pub fn host_to_call(&self) -> Option<(&str, u16)> {
        match self {
            Self::Tcp { host, port } if host.is_empty() || host == "0.0.0.0" => {
                Some(("127.0.0.1", *port))
            }
            Self::Tcp { host, port } if host == "::" => Some(("::1", *port)),
            Self::Tcp { host, port } => Some((host, *port)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Result<Address, BadAddress> {
        Ok(Address::Tcp {
            host: host.to_owned(),
            port,
        })
    }

    #[test]
    fn forms() {
        assert_eq!("".parse(), Ok(Address::Off));
        assert_eq!("127.0.0.1:6784".parse(), tcp("127.0.0.1", 6784));
        assert_eq!("tcp://localhost:1".parse(), tcp("localhost", 1));
        assert_eq!(":6784".parse(), tcp("", 6784));
        assert_eq!("[::1]:6784".parse(), tcp("::1", 6784));
        let socket = Ok(Address::Unix("/run/mesh.sock".into()));
        assert_eq!("/run/mesh.sock".parse(), socket);
        assert_eq!("unix:///run/mesh.sock".parse(), socket);
        for bad in [
            "6784",
            "::1:6784",
            "localhost",
            "a:b",
            "a:70000",
            "run/sock:1",
            "[::1:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn all_addresses_are_called_on_loopback() {
        for (text, bind, call) in [
            (":1", "0.0.0.0", "127.0.0.1"),
            ("0.0.0.0:1", "0.0.0.0", "127.0.0.1"),
            ("[::]:1", "::", "::1"),
            ("10.0.0.1:1", "10.0.0.1", "10.0.0.1"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.host_to_bind(), Some((bind, 1)));
            assert_eq!(address.host_to_call(), Some((call, 1)));
        }
    }
}
