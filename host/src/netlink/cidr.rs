//! An address and the length of its network prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use thiserror::Error;

/// An address with the length of its network prefix, as in `10.32.0.1/12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The address; host bits may be set.
    pub address: IpAddr,
    /// Length of the prefix in bits: at most 32, or 128 for IPv6.
    pub prefix_len: u8,
}

impl Cidr {
    /// All of IPv4: the destination of a default route.
    pub const ANY: Self = Self {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        prefix_len: 0,
    };
    /// All IPv4 multicast groups.
    pub const MULTICAST: Self = Self {
        address: IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)),
        prefix_len: 4,
    };

    /// The network: the same with all host bits zero.
    #[must_use]
    pub fn masked(&self) -> Self {
        let len = u32::from(self.prefix_len);
        let address = match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - len.min(32)).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - len.min(128)).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        };
        Self { address, ..*self }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// Not an address with a prefix length.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not an address with prefix length; write it as in 10.32.0.1/12")]
pub struct BadCidr(String);

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> std::result::Result<Self, BadCidr> {
        let parse = || {
            let (address, len) = text.split_once('/')?;
            let address = address.parse::<IpAddr>().ok()?;
            let digits = (1..=3).contains(&len.len()) && len.bytes().all(|b| b.is_ascii_digit());
            let prefix_len = len.parse().ok().filter(|_| digits)?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            (prefix_len <= most).then_some(Self {
                address,
                prefix_len,
            })
        };
        parse().ok_or_else(|| BadCidr(text.to_owned()))
    }
}
