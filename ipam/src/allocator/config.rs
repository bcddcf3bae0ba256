//! What an allocator is told at its start.

use std::str::FromStr;
use std::time::Instant;

use proto::{PeerName, PeerUid};
use thiserror::Error;

use crate::range::{BadAddress, Cidr};
use crate::ring::BadRing;

/// A moment, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For timers.
    pub at: Instant,
    /// Unix seconds, for messages. Nobody but very old peers looks at it.
    pub unix: i64,
}

/// What an allocator is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our own name.
    pub name: PeerName,
    /// Random number of this process: the one by which the mesh knows it.
    pub uid: PeerUid,
    /// What people call us.
    pub nickname: String,
    /// All addresses there are. Must be the same for all peers. See [`check_universe`].
    pub universe: Cidr,
    /// Where addresses come from if no subnet is asked for. Must overlap `universe`.
    pub default_subnet: Cidr,
    /// How the ring comes into being.
    pub init: Init,
    /// Addresses found in use on this host.
    pub pre_claims: Vec<PreClaim>,
    /// Whence all random choices come.
    pub rng_seed: [u8; 32],
}

/// An address found in use when the process started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreClaim {
    /// Who has it; [`ANONYMOUS`](super::ANONYMOUS) if that is not known.
    pub ident: String,
    /// The address.
    pub cidr: Cidr,
    /// Whether that is a container, whose death frees it.
    pub is_container: bool,
}

/// How the ring comes into being. Written `consensus`, `consensus=N`, `seed=NAME,...` or
/// `observer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Init {
    /// By agreement of a majority of so many peers; if no number is given, of those we know of
    /// when it comes to it.
    Consensus(Option<usize>),
    /// By division among these, with no agreement. Must be the same for all peers.
    Seed(Vec<PeerName>),
    /// By others.
    Observer,
}

/// Not a way for the ring to come into being. The wording is that of the original.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadInit {
    /// `consensus=` is followed by no number.
    #[error("bad consensus parameter: {0:?} is not a number of peers")]
    Consensus(String),
    /// `seed` without names.
    #[error("seed mode requires peer name list")]
    SeedMissing,
    /// `seed=` is followed by something that is no list of names.
    #[error("bad seed parameter: {0}")]
    Seed(#[from] proto::peer::BadPeerName),
    /// `observer=` anything.
    #[error("observer mode takes no parameter")]
    Observer,
    /// No such mode.
    #[error("unknown mode: {0}")]
    Unknown(String),
}

impl FromStr for Init {
    type Err = BadInit;

    fn from_str(text: &str) -> Result<Self, BadInit> {
        let (mode, parameter) = match text.split_once('=') {
            Some((mode, parameter)) => (mode, Some(parameter)),
            None => (text, None),
        };
        match (mode, parameter) {
            ("consensus", None) => Ok(Self::Consensus(None)),
            ("consensus", Some(count)) => match count.parse() {
                // As if it were not given.
                Ok(0) => Ok(Self::Consensus(None)),
                Ok(count) => Ok(Self::Consensus(Some(count))),
                Err(_) => Err(BadInit::Consensus(count.to_owned())),
            },
            ("seed", None) => Err(BadInit::SeedMissing),
            ("seed", Some(names)) => {
                let names = names.split(',').map(str::parse);
                Ok(Self::Seed(names.collect::<Result<_, _>>()?))
            }
            ("observer", None) => Ok(Self::Observer),
            ("observer", Some(_)) => Err(BadInit::Observer),
            (mode, _) => Err(BadInit::Unknown(mode.to_owned())),
        }
    }
}

/// An allocator cannot start like that.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StartError {
    /// The universe is no subnet, or too small.
    #[error(transparent)]
    Universe(#[from] BadAddress),
    /// The universe has the highest address there is, which the protocol has no room for.
    #[error("range {0} is at the end of the address space; choose one below 255.255.255.255")]
    UniverseTooHigh(Cidr),
    /// The subnet has no address of the universe.
    #[error(
        "IP address allocation default subnet {subnet} does not overlap with allocation range \
         {universe}"
    )]
    NoOverlap {
        /// The default subnet.
        subnet: Cidr,
        /// The universe.
        universe: Cidr,
    },
    /// What is on disk is no ring. Going on without it could give addresses out twice.
    #[error("saved ring is damaged: {0}")]
    DamagedRing(BadRing),
}

/// Checks that addresses can be allocated from `universe`.
pub fn check_universe(universe: Cidr) -> Result<(), StartError> {
    Cidr::parse_subnet(&universe.to_string())?;
    if universe.range().end.0 == u32::MAX {
        return Err(StartError::UniverseTooHigh(universe));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_begin() {
        let parse = |text: &str| text.parse::<Init>();
        let name = |text: &str| text.parse::<PeerName>().unwrap();
        assert_eq!(parse("consensus"), Ok(Init::Consensus(None)));
        assert_eq!(parse("consensus=3"), Ok(Init::Consensus(Some(3))));
        assert_eq!(
            parse("seed=::1,02:00:00:00:00:0b"),
            Ok(Init::Seed(vec![name("::1"), name("2::b")]))
        );
        assert_eq!(parse("observer"), Ok(Init::Observer));
        for (bad, text) in [
            (
                "consensus=x",
                "bad consensus parameter: \"x\" is not a number of peers",
            ),
            ("seed", "seed mode requires peer name list"),
            ("observer=1", "observer mode takes no parameter"),
            ("paxos=1", "unknown mode: paxos"),
        ] {
            assert_eq!(parse(bad).unwrap_err().to_string(), text);
        }
        assert!(matches!(parse("seed=::1,,::2"), Err(BadInit::Seed(_))));
    }

    #[test]
    fn universes() {
        let check = |text: &str| check_universe(text.parse().unwrap());
        assert_eq!(check("10.32.0.0/12"), Ok(()));
        assert!(matches!(
            check("10.32.0.1/12"),
            Err(StartError::Universe(_))
        ));
        assert!(matches!(
            check("10.32.0.0/31"),
            Err(StartError::Universe(_))
        ));
        assert!(matches!(check("0.0.0.0/0"), Err(StartError::Universe(_))));
        for high in ["255.255.255.0/24", "128.0.0.0/1"] {
            assert!(matches!(check(high), Err(StartError::UniverseTooHigh(_))));
        }
    }
}
