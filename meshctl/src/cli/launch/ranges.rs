//! Flags about addresses for containers.
//!
//! The classic command line has them in front of the hosts, so they must not keep a router from
//! starting; but this version allocates no addresses, and says so.

use std::net::IpAddr;

use host::netlink::Cidr;
use proto::PeerName;

use crate::cli::Failure;

/// A range has at least this many addresses.
const MIN_LEN: u8 = 30;

/// The flags.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Addresses of containers (noted; this version allocates none)")]
pub struct Ranges {
    /// Range to allocate addresses from; the same on all hosts
    #[arg(long, aliases = ["iprange"], value_name = "CIDR")]
    ipalloc_range: Option<String>,
    /// Subnet to allocate within by default
    #[arg(long, alias = "ipsubnet", value_name = "CIDR")]
    ipalloc_default_subnet: Option<String>,
    /// How the first owners of the range are found: consensus[=COUNT], seed=NAME,... or observer
    #[arg(long, value_name = "MODE", value_parser = mode)]
    ipalloc_init: Option<String>,
    /// The older form of --ipalloc-init consensus=COUNT
    #[arg(long, alias = "init-peer-count", value_name = "COUNT", hide = true)]
    initpeercount: Option<u32>,
}

impl Ranges {
    /// What to tell the user, if the flags make sense.
    pub fn judge(&self) -> Result<Vec<String>, Failure> {
        // The classic environment files call it one thing, their description another.
        let environment = || std::env::var("WEAVE_SUBNET").ok();
        let range = self.ipalloc_range.clone().filter(|text| !text.is_empty());
        self.judge_with(range.or_else(environment).filter(|text| !text.is_empty()))
    }

    fn judge_with(&self, range: Option<String>) -> Result<Vec<String>, Failure> {
        let mut told = Vec::new();
        let subnet = self
            .ipalloc_default_subnet
            .as_deref()
            .filter(|text| !text.is_empty());
        let Some(range) = range else {
            // `-initpeercount` among the hosts is no reason to stop, as it was in Weave 1.0.
            if subnet.is_some() {
                return Err(Failure::usage(
                    "--ipalloc-default-subnet specified without --ipalloc-range.",
                ));
            }
            if self.ipalloc_init.is_some() {
                return Err(Failure::usage(
                    "--ipalloc-init specified without --ipalloc-range.",
                ));
            }
            return Ok(told);
        };
        let range = network("--ipalloc-range", &range, &mut told)?;
        if let Some(subnet) = subnet {
            let subnet = network("--ipalloc-default-subnet", subnet, &mut told)?;
            if !overlap(range, subnet) {
                return Err(Failure::usage(format!(
                    "IP address allocation default subnet {subnet} does not overlap with \
                     allocation range {range}"
                )));
            }
        }
        told.push(format!(
            "address allocation is not part of this version; the range {range} is noted, /ip \
             calls answer 404"
        ));
        Ok(told)
    }
}

/// The network that `text` stands for; host bits are masked, and the user is told.
fn network(flag: &str, text: &str, told: &mut Vec<String>) -> Result<Cidr, Failure> {
    let given: Cidr = text.parse().map_err(|error: host::netlink::BadCidr| {
        let failure = Failure::usage(format!("{flag}: {error}"));
        if text.contains('/') {
            failure
        } else {
            failure.hint(format!(
                "it took {text:?} for its value: is the variable before it empty? {flag}=$VARIABLE \
                 keeps the two apart"
            ))
        }
    })?;
    if !given.address.is_ipv4() {
        return Err(Failure::usage(format!(
            "{flag}: {text} is not an IPv4 network"
        )));
    }
    if given.prefix_len > MIN_LEN {
        let message = format!("{flag}: {text} is too small; it needs four addresses at least");
        return Err(Failure::usage(message));
    }
    let masked = given.masked();
    if masked != given {
        told.push(format!(
            "{flag}: bits after the network prefix of {given} are ignored: {masked}"
        ));
    }
    Ok(masked)
}

fn overlap(one: Cidr, other: Cidr) -> bool {
    let len = one.prefix_len.min(other.prefix_len);
    let cut = |cidr: Cidr| {
        Cidr {
            prefix_len: len,
            ..cidr
        }
        .masked()
        .address
    };
    cut(one) == cut(other) && matches!(one.address, IpAddr::V4(_)) == other.address.is_ipv4()
}

fn mode(text: &str) -> Result<String, String> {
    let (mode, parameter) = match text.split_once('=') {
        Some((mode, parameter)) => (mode, Some(parameter)),
        None => (text, None),
    };
    match (mode, parameter) {
        ("", None) | ("consensus" | "observer", None) => {}
        ("consensus", Some(count)) => {
            count
                .parse::<u32>()
                .map_err(|error| format!("bad consensus parameter: {error}"))?;
        }
        ("seed", Some(names)) => {
            for name in names.split(',').filter(|name| !name.is_empty()) {
                let parsed = name.parse::<PeerName>();
                parsed.map_err(|error| format!("bad seed parameter: {error}"))?;
            }
        }
        ("seed", None) => return Err("seed mode requires peer name list".to_owned()),
        ("observer", Some(_)) => return Err("observer mode takes no parameter".to_owned()),
        _ => return Err(format!("unknown mode: {mode}")),
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(range: &str, subnet: &str) -> Result<Vec<String>, String> {
        let ranges = Ranges {
            ipalloc_range: None,
            ipalloc_default_subnet: Some(subnet.to_owned()),
            ipalloc_init: None,
            initpeercount: Some(5),
        };
        let range = Some(range.to_owned()).filter(|range| !range.is_empty());
        ranges
            .judge_with(range)
            .map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn the_classic_range_has_host_bits() {
        let told = judge("10.2.0.1/16", "").unwrap();
        assert!(
            told[0].contains("10.2.0.1/16 are ignored: 10.2.0.0/16"),
            "{told:?}"
        );
        assert!(told[1].contains("10.2.0.0/16 is noted"), "{told:?}");
        assert_eq!(judge("10.2.0.0/16", "10.2.3.0/24").unwrap().len(), 1);
        assert_eq!(judge("10.2.0.0/16", "10.0.0.0/8").unwrap().len(), 1);
        assert_eq!(judge("", "").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn nonsense_is_refused() {
        for (range, subnet, part) in [
            ("azure-prd-01", "", "variable before it empty"),
            ("10.2.0.0/31", "", "four addresses"),
            ("10.2.0.0/33", "", "10.32.0.1/12"),
            ("fd00::/64", "", "not an IPv4"),
            ("10.2.0.0/16", "10.3.0.0/24", "does not overlap"),
            ("", "10.3.0.0/24", "without --ipalloc-range"),
        ] {
            let error = judge(range, subnet).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn modes() {
        for good in [
            "",
            "consensus",
            "consensus=3",
            "observer",
            "seed=::1,::2",
            "seed=",
        ] {
            assert!(mode(good).is_ok(), "{good}");
        }
        for bad in ["consensus=x", "observer=1", "seed", "seed=x", "vote"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
