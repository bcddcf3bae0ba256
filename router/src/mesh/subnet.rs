//! Subnets in which peers are trusted.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// All addresses that share the leading bits of one: `10.1.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// Lowest address; the bits beyond the prefix are 0.
    base: IpAddr,
    prefix_len: u8,
}

/// Not a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a subnet; write an address and the length of its prefix, as in 10.1.0.0/16")]
pub struct BadSubnet(String);

impl Subnet {
    /// Whether `ip` lies within.
    pub fn contains(&self, ip: IpAddr) -> bool {
        mask(ip.to_canonical(), self.prefix_len) == Some(self.base)
            && ip.to_canonical().is_ipv4() == self.base.is_ipv4()
    }
}

/// `ip` with all bits but the first `prefix_len` cleared; `None` if it does not have so many.
fn mask(ip: IpAddr, prefix_len: u8) -> Option<IpAddr> {
    let prefix_len = u32::from(prefix_len);
    Some(match ip {
        IpAddr::V4(ip) => {
            let host_len = 32_u32.checked_sub(prefix_len)?;
            let mask = u32::MAX.checked_shl(host_len).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let host_len = 128_u32.checked_sub(prefix_len)?;
            let mask = u128::MAX.checked_shl(host_len).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    })
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_len)
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;

    /// `address/prefix length`. Bits of the address beyond the prefix do not matter.
    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let parse = || {
            let (ip, prefix_len) = text.split_once('/')?;
            if !prefix_len.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let prefix_len = prefix_len.parse().ok()?;
            let base = mask(ip.parse().ok()?, prefix_len)?;
            Some(Self { base, prefix_len })
        };
        parse().ok_or_else(|| BadSubnet(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_inside() {
        for (text, inside, outside) in [
            ("10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "255.255.255.255", "fd00::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "::1", "10.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
        ] {
            assert!(subnet(text).contains(inside.parse().unwrap()), "{text}");
            assert!(!subnet(text).contains(outside.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn text_form() {
        assert_eq!(subnet("10.1.2.3/16").to_string(), "10.1.0.0/16");
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/+8",
            "a/8",
            "10.0.0.0/",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
