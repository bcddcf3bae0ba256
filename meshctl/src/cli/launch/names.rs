//! Flags about names of containers.
//!
//! Those of Weave Net 2.8.1, with its defaults, or where its script chose others, the script's: the
//! address of Docker's bridge to answer on, and the host's own list of servers upstream.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ArgAction;
use dns::Domain;

use super::go_bool;
use crate::daemon::config::{Listen, NamesConfig};

/// Longest wait for a server upstream: whoever asked has given up before.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// A TTL has 31 bits (RFC 2181, section 8).
const MAX_TTL: i64 = 0x7fff_ffff;
/// The DNS has this port.
const PORT: u16 = 53;

/// The flags.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Names of containers")]
pub struct Names {
    /// Serve no names; other hosts' names are relayed
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", hide_default_value = true, hide_possible_values = true,
          action = ArgAction::Set, value_parser = go_bool, value_name = "BOOL")]
    no_dns: bool,
    /// Domain of all names; the same on all hosts
    #[arg(long, default_value = "weave.local.", value_name = "DOMAIN")]
    dns_domain: Domain,
    /// Where to answer queries [default: port 53 of Docker's bridge, or else of the own bridge]
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = listen_address)]
    dns_listen_address: Option<Given>,
    /// For how many seconds others may remember answers
    #[arg(long, default_value_t = 1, value_name = "SECONDS",
          value_parser = clap::value_parser!(u32).range(0..=MAX_TTL))]
    dns_ttl: u32,
    /// How long to wait for each server upstream, as in 5s or 500ms
    #[arg(long, alias = "dns-upstream-timeout", default_value = "5s", value_name = "DURATION",
          value_parser = duration)]
    dns_fallback_timeout: Duration,
    /// The file that names the servers upstream, which is watched; empty: there are none
    #[arg(long, default_value = "/etc/resolv.conf", value_name = "FILE", value_parser = path)]
    resolv_conf: PathBuf,
    /// Docker's bridge
    #[arg(
        long,
        env = "DOCKER_BRIDGE",
        default_value = "docker0",
        value_name = "NAME"
    )]
    docker_bridge: String,
}

/// An address that may have been left empty.
#[derive(Debug, Clone, Copy)]
struct Given(Option<SocketAddr>);

impl Names {
    /// What the daemon is to do; `None`: nothing.
    pub fn config(self, host_root: &Path) -> Option<NamesConfig> {
        if self.no_dns {
            return None;
        }
        let listen = match self.dns_listen_address {
            Some(Given(Some(address))) => Listen::Given(address),
            _ => Listen::Found {
                docker_bridge: self.docker_bridge,
                port: PORT,
            },
        };
        let resolv_conf = match self.resolv_conf.strip_prefix("/") {
            _ if self.resolv_conf.as_os_str().is_empty() => None,
            // The host's file, wherever the host is.
            Ok(below) if host_root != Path::new("/") => Some(host_root.join(below)),
            _ => Some(self.resolv_conf),
        };
        Some(NamesConfig {
            domain: self.dns_domain,
            listen,
            ttl: self.dns_ttl,
            timeout: self.dns_fallback_timeout,
            resolv_conf,
        })
    }
}

/// `address`, `address:port` or `:port`; empty for the default.
fn listen_address(text: &str) -> Result<Given, String> {
    if text.is_empty() {
        return Ok(Given(None));
    }
    let address = match text.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}").parse().ok(),
        None => text
            .parse::<SocketAddr>()
            .ok()
            .or_else(|| Some(SocketAddr::new(text.parse().ok()?, PORT))),
    };
    address
        .map(|address| Given(Some(address)))
        .ok_or_else(|| "write an address of this host and a port, as in 172.17.0.1:53".to_owned())
}

/// A path, which may be left empty.
fn path(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    Ok(text.into())
}

/// A duration as Go writes it: numbers with units, one after the other.
fn duration(text: &str) -> Result<Duration, String> {
    const HELP: &str = "write a number and a unit, as in 5s, 500ms or 1m30s";
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, tail) = end.and_then(|end| rest.split_at_checked(end)).ok_or(HELP)?;
        let end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end).ok_or(HELP)?;
        let seconds: f64 = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(HELP.to_owned()),
        };
        let number: f64 = number.parse().map_err(|_| HELP)?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| HELP)?;
        total = total.saturating_add(part);
        rest = tail;
    }
    if total < Duration::from_millis(1) || total > MAX_TIMEOUT {
        return Err("it has to lie between 1ms and 1m".to_owned());
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("172.17.0.1:53", "172.17.0.1:53"),
            ("172.17.0.1", "172.17.0.1:53"),
            (":5353", "0.0.0.0:5353"),
            ("[fd00::1]:53", "[fd00::1]:53"),
            ("fd00::1", "[fd00::1]:53"),
        ] {
            let Given(Some(address)) = listen_address(text).unwrap() else {
                panic!("{text}");
            };
            assert_eq!(address.to_string(), expected);
        }
        assert!(listen_address("").unwrap().0.is_none());
        for bad in [
            "localhost:53",
            "172.17.0.1:",
            "172.17.0.1:x",
            ":",
            "172.17.0:53",
        ] {
            assert!(listen_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_as_go_has_them() {
        for (text, millis) in [
            ("5s", 5000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("0m1s500ms", 1500),
            ("1m", 60_000),
            ("2000000ns", 2),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in [
            "",
            "5",
            "s",
            "5x",
            "-1s",
            "0s",
            "1h",
            "1..2s",
            "1s2",
            "999999999999999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
