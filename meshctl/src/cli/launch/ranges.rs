//! Flags about addresses for containers.
//!
//! As with Weave's script there is a range unless the user says otherwise: `--ipalloc-range=` turns
//! allocation off. A host that only relays has no containers, and takes part when it is told to.
//!
//! Bits after the network prefix are masked, with a warning: the classic command lines have them,
//! and Weave 1.0 masked them as well.
//!
//! Source: feature inventory, I01 to I08.

use ipam::allocator::{Init, check_universe};
use ipam::range::Cidr;

use crate::cli::Failure;
use crate::daemon::config::Allocation;

/// The range, unless told otherwise.
const RANGE: &str = "10.32.0.0/12";

/// The flags.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Addresses of containers")]
pub struct Ranges {
    /// Range to allocate addresses from; the same on all hosts. Empty: allocate none
    /// [default: 10.32.0.0/12; with --relay-only: none]
    #[arg(long, aliases = ["iprange"], value_name = "CIDR")]
    ipalloc_range: Option<String>,
    /// Subnet to allocate within by default [default: the range]
    #[arg(long, alias = "ipsubnet", value_name = "CIDR")]
    ipalloc_default_subnet: Option<String>,
    /// How the first owners of the range are found: consensus[=COUNT], seed=NAME,... or observer
    #[arg(long, value_name = "MODE", value_parser = mode)]
    ipalloc_init: Option<Init>,
    /// The older form of --ipalloc-init consensus=COUNT
    #[arg(long, alias = "init-peer-count", value_name = "COUNT", hide = true)]
    initpeercount: Option<usize>,
}

impl Ranges {
    /// What the flags ask for, if they make sense, and what to tell the user.
    pub fn judge(&self, relay_only: bool) -> Result<(Option<Allocation>, Vec<String>), Failure> {
        // The classic environment files call it one thing, their description another.
        let environment = std::env::var("WEAVE_SUBNET").ok();
        self.judge_with(relay_only, environment.as_deref())
    }

    fn judge_with(
        &self,
        relay_only: bool,
        environment: Option<&str>,
    ) -> Result<(Option<Allocation>, Vec<String>), Failure> {
        let mut told = Vec::new();
        let given = |text: &&str| !text.is_empty();
        let subnet = self.ipalloc_default_subnet.as_deref().filter(given);
        let flag = self.ipalloc_range.as_deref();
        let asked = flag.filter(given).or(environment.filter(given)).or(flag);
        let range = match asked {
            Some(range) => range,
            None if relay_only => "",
            None => RANGE,
        };
        if range.is_empty() {
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
            return Ok((None, told));
        }
        let range = network("--ipalloc-range", range, &mut told)?;
        check_universe(range)
            .map_err(|error| Failure::usage(format!("--ipalloc-range: {error}")))?;
        let default_subnet = match subnet {
            Some(subnet) => network("--ipalloc-default-subnet", subnet, &mut told)?,
            None => range,
        };
        if !range.range().overlaps(default_subnet.range()) {
            return Err(Failure::usage(format!(
                "IP address allocation default subnet {default_subnet} does not overlap with \
                 allocation range {range}"
            )));
        }
        let older = self.initpeercount.filter(|count| *count > 0);
        let init = match (&self.ipalloc_init, older) {
            (Some(init), None) => init.clone(),
            (None, older) => Init::Consensus(older),
            (Some(init), Some(count)) => {
                if *init != Init::Consensus(Some(count)) {
                    told.push(format!(
                        "--ipalloc-init is given as well: --initpeercount={count} has no effect"
                    ));
                }
                init.clone()
            }
        };
        let allocation = Allocation {
            range,
            is_default: asked.is_none(),
            default_subnet,
            init,
        };
        Ok((Some(allocation), told))
    }
}

/// The network that `text` stands for; host bits are masked, and the user is told.
fn network(flag: &str, text: &str, told: &mut Vec<String>) -> Result<Cidr, Failure> {
    let given: Cidr = text.parse().map_err(|error: ipam::range::BadAddress| {
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
    let masked = given.masked();
    Cidr::parse_subnet(&masked.to_string())
        .map_err(|error| Failure::usage(format!("{flag}: {error}")))?;
    if masked != given {
        told.push(format!(
            "{flag}: bits after the network prefix of {given} are ignored: {masked}"
        ));
    }
    Ok(masked)
}

/// Nothing said is said by an empty text, too.
fn mode(text: &str) -> Result<Init, String> {
    if text.is_empty() {
        return Ok(Init::Consensus(None));
    }
    text.parse()
        .map_err(|error: ipam::allocator::BadInit| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(range: Option<&str>, subnet: &str) -> Ranges {
        Ranges {
            ipalloc_range: range.map(str::to_owned),
            ipalloc_default_subnet: Some(subnet.to_owned()),
            ipalloc_init: None,
            initpeercount: None,
        }
    }

    fn judge(range: &str, subnet: &str) -> Result<(Option<Allocation>, Vec<String>), String> {
        ranges(Some(range), subnet)
            .judge_with(false, None)
            .map_err(|failure| format!("{failure:?}"))
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn the_classic_range_has_host_bits() {
        let (allocation, told) = judge("10.2.0.1/16", "").unwrap();
        assert_eq!(allocation.unwrap().range, cidr("10.2.0.0/16"));
        assert!(
            told[0].contains("10.2.0.1/16 are ignored: 10.2.0.0/16"),
            "{told:?}"
        );
        let (allocation, told) = judge("10.2.0.0/16", "10.2.3.4/24").unwrap();
        assert_eq!(allocation.unwrap().default_subnet, cidr("10.2.3.0/24"));
        assert_eq!(told.len(), 1);
        // It may be larger than the range.
        assert_eq!(judge("10.2.0.0/16", "10.0.0.0/8").unwrap().1.len(), 0);
    }

    #[test]
    fn there_is_a_range_unless_told_otherwise() {
        let none = ranges(None, "");
        let environment = Some("10.2.0.0/16");
        let of = |ranges: &Ranges, relay_only, environment| {
            let (allocation, _) = ranges.judge_with(relay_only, environment).unwrap();
            allocation.map(|allocation| (allocation.range, allocation.is_default))
        };
        assert_eq!(of(&none, false, None), Some((cidr("10.32.0.0/12"), true)));
        assert_eq!(of(&none, true, None), None);
        assert_eq!(
            of(&none, true, environment),
            Some((cidr("10.2.0.0/16"), false))
        );
        // A unit whose variable is not set gives an empty flag.
        let empty = ranges(Some(""), "");
        assert_eq!(of(&empty, false, None), None);
        assert_eq!(
            of(&empty, false, environment),
            Some((cidr("10.2.0.0/16"), false))
        );
        let given = ranges(Some("10.3.0.0/16"), "");
        assert_eq!(
            of(&given, true, environment),
            Some((cidr("10.3.0.0/16"), false))
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for (range, subnet, part) in [
            ("azure-prd-01", "", "variable before it empty"),
            ("10.2.0.0/31", "", "smaller than minimum size 4"),
            ("10.2.0.0/33", "", "invalid CIDR address"),
            ("0.0.0.0/0", "", "smaller than minimum"),
            ("255.255.255.0/24", "", "end of the address space"),
            ("fd00::/64", "", "Non-IPv4"),
            ("10.2.0.0/16", "10.3.0.0/24", "does not overlap"),
            ("", "10.3.0.0/24", "without --ipalloc-range"),
        ] {
            let error = judge(range, subnet).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn modes_of_all_eras() {
        for (mode, older, init, told_count) in [
            (None, None, Init::Consensus(None), 0),
            (None, Some(5), Init::Consensus(Some(5)), 0),
            (None, Some(0), Init::Consensus(None), 0),
            (Some("consensus=3"), Some(3), Init::Consensus(Some(3)), 0),
            (Some("consensus=3"), Some(5), Init::Consensus(Some(3)), 1),
            (Some("observer"), Some(5), Init::Observer, 1),
            (Some(""), None, Init::Consensus(None), 0),
        ] {
            let ranges = Ranges {
                ipalloc_init: mode.map(|text| super::mode(text).unwrap()),
                initpeercount: older,
                ..ranges(None, "")
            };
            let (allocation, told) = ranges.judge_with(false, None).unwrap();
            assert_eq!(allocation.unwrap().init, init);
            assert_eq!(told.len(), told_count, "{told:?}");
        }
        for bad in ["consensus=x", "observer=1", "seed", "seed=x", "vote"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
