//! A peer as the user names it: `host[:port]`.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// Longest host name that the name system can carry.
const MAX_NAME_LEN: usize = 253;

/// Where a direct peer is to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetSpec {
    /// Name or address.
    pub host: Host,
    /// Port, if one was given; ours otherwise.
    pub port: Option<u16>,
}

/// The part before the port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A literal address.
    Address(IpAddr),
    /// A name to be looked up.
    Name(String),
}

/// Not `host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid peer name {text:?}, should be host[:port]: {reason}")]
pub struct BadTarget {
    text: String,
    reason: &'static str,
}

impl TargetSpec {
    /// The host name, if it is one.
    pub fn name(&self) -> Option<&String> {
        match &self.host {
            Host::Address(_) => None,
            Host::Name(name) => Some(name),
        }
    }
}

impl FromStr for TargetSpec {
    type Err = BadTarget;

    /// `name`, `1.2.3.4`, `fe80::1`, `[fe80::1]`, each of them but the third also with `:port`.
    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let bad = |reason| BadTarget {
            text: text.to_owned(),
            reason,
        };
        let parse_port = |port: &str| {
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            match port.parse::<u16>() {
                Ok(port) if port > 0 && digits => Ok(Some(port)),
                _ => Err(bad("the port is a number from 1 to 65535")),
            }
        };
        if let Some(bracketed) = text.strip_prefix('[') {
            let (ip, rest) = bracketed
                .split_once(']')
                .ok_or_else(|| bad("the closing bracket is missing"))?;
            let ip: Ipv6Addr = ip
                .parse()
                .map_err(|_| bad("only an IPv6 address stands in brackets"))?;
            let port = match rest.strip_prefix(':') {
                Some(port) => parse_port(port)?,
                None if rest.is_empty() => None,
                None => return Err(bad("a bracketed address is followed by a colon or nothing")),
            };
            let host = Host::Address(IpAddr::V6(ip).to_canonical());
            return Ok(Self { host, port });
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            let host = Host::Address(ip.to_canonical());
            return Ok(Self { host, port: None });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, parse_port(port)?),
            None => (text, None),
        };
        if host.is_empty() {
            return Err(bad("the host is missing"));
        }
        if host.len() > MAX_NAME_LEN {
            return Err(bad("the host name is too long"));
        }
        if host.starts_with('-') {
            return Err(bad("a host name does not begin with a dash"));
        }
        if !host
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
        {
            return Err(bad(
                "a host name has letters, digits, dots, dashes and underscores",
            ));
        }
        let host = match host.parse::<IpAddr>() {
            Ok(ip) => Host::Address(ip),
            Err(_) => Host::Name(host.to_owned()),
        };
        Ok(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form() {
        let v6 = || Host::Address("fe80::1".parse().unwrap());
        for (text, host, port) in [
            ("host", Host::Name("host".into()), None),
            ("a.b-c_d.", Host::Name("a.b-c_d.".into()), None),
            ("host:6783", Host::Name("host".into()), Some(6783)),
            ("10.0.0.1", Host::Address([10, 0, 0, 1].into()), None),
            ("10.0.0.1:1", Host::Address([10, 0, 0, 1].into()), Some(1)),
            ("::ffff:10.0.0.1", Host::Address([10, 0, 0, 1].into()), None),
            ("fe80::1", v6(), None),
            ("[fe80::1]", v6(), None),
            ("[fe80::1]:65535", v6(), Some(65535)),
        ] {
            assert_eq!(text.parse(), Ok(TargetSpec { host, port }), "{text}");
        }
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "",
            ":6783",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "host:1:2",
            "host:weave",
            "[fe80::1",
            "[host]",
            "[fe80::1]6783",
            "[fe80::1]:",
            "a host",
            "a/b",
            "-initpeercount=5",
            "--ipalloc-init",
        ] {
            let error = text.parse::<TargetSpec>().unwrap_err();
            assert!(error.to_string().contains("should be host[:port]"));
        }
        assert!("x".repeat(254).parse::<TargetSpec>().is_err());
    }
}
