//! Addresses, ranges and subnets.
//!
//! An [`Address`] is an IPv4 address as a number, most significant octet first. A [`Range`] is
//! `[start, end)`; since `end` is itself an address, no range can hold 255.255.255.255. A
//! [`Cidr`] is an address with a prefix length: either a subnet (all host bits zero) or one
//! address together with the subnet that it lives in.
//!
//! Source: IPAM protocol, sections 1, 5 and 14.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// An IPv4 address as a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address(pub u32);

impl Address {
    /// The address `offset` further on, or the highest one if that does not exist.
    pub const fn saturating_add(self, offset: u32) -> Self {
        Self(self.0.saturating_add(offset))
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self(address.into())
    }
}

impl From<Address> for Ipv4Addr {
    fn from(address: Address) -> Self {
        address.0.into()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Ipv4Addr::from(*self), f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        text.parse::<Ipv4Addr>()
            .map(Self::from)
            .map_err(|_| BadAddress::Address(text.to_owned()))
    }
}

/// The addresses from `start` up to but not including `end`. Empty if `end <= start`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Range {
    /// The first address.
    pub start: Address,
    /// The address after the last one.
    pub end: Address,
}

impl Range {
    /// From `start` up to but not including `end`.
    pub const fn new(start: Address, end: Address) -> Self {
        Self { start, end }
    }

    /// The `size` addresses from `start`.
    pub const fn sized(start: Address, size: u32) -> Self {
        Self::new(start, start.saturating_add(size))
    }

    /// One address.
    pub const fn single(address: Address) -> Self {
        Self::sized(address, 1)
    }

    /// How many addresses there are.
    pub const fn size(self) -> u32 {
        self.end.0.saturating_sub(self.start.0)
    }

    /// Whether there is no address.
    pub const fn is_empty(self) -> bool {
        self.size() == 0
    }

    /// Whether `address` is among them.
    pub fn contains(self, address: Address) -> bool {
        self.start <= address && address < self.end
    }

    /// The addresses that are in both.
    pub fn intersection(self, other: Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Whether any address is in both.
    pub fn overlaps(self, other: Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The subnet of exactly these addresses, if there is one.
    pub fn as_subnet(self) -> Option<Cidr> {
        let size = self.size();
        let aligned = size.is_power_of_two() && self.start.0 & (size - 1) == 0;
        aligned.then(|| Cidr::new(self.start, prefix_len_of(size)))
    }

    /// A big block within, of a size that is a power of two and starting at a multiple of it:
    /// what is given to a peer that asks for space. Not the biggest there is in every case, but
    /// the one that all peers have always chosen.
    pub fn aligned_block(self) -> Self {
        let size = self.size();
        if size == 0 {
            return self;
        }
        let most = 1 << size.ilog2();
        let surplus = size - most;
        let offset = self.start.0 & (most - 1);
        let (skip, len) = if offset == 0 {
            (0, most)
        } else if most - offset <= surplus {
            (most - offset, most)
        } else {
            let half = most / 2;
            if half >= offset {
                (half - offset, half)
            } else {
                (most - offset, half)
            }
        };
        Self::sized(self.start.saturating_add(skip), len)
    }

    /// The fewest subnets that make up the range, in order.
    pub fn subnets(self) -> Vec<Cidr> {
        let mut subnets = Vec::new();
        let mut rest = self;
        while !rest.is_empty() {
            let aligned = match rest.start.0 {
                0 => 31,
                start => start.trailing_zeros().min(31),
            };
            let size = 1 << aligned.min(rest.size().ilog2());
            subnets.push(Cidr::new(rest.start, prefix_len_of(size)));
            rest.start = rest.start.saturating_add(size);
        }
        subnets
    }

    /// The range as peers write it in messages: `address/length` where its size allows that,
    /// `first-last` otherwise.
    pub fn cidr_text(self) -> String {
        if self.size().is_power_of_two() {
            Cidr::new(self.start, prefix_len_of(self.size())).to_string()
        } else {
            self.to_string()
        }
    }
}

/// Length of the prefix of a subnet of `size` addresses, a power of two.
fn prefix_len_of(size: u32) -> u8 {
    // At most 31, so it fits.
    32_u8.saturating_sub(u8::try_from(size.trailing_zeros()).unwrap_or(32))
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, Address(self.end.0.wrapping_sub(1)))
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Fewest addresses in a subnet: the first and the last of it are not given out.
pub const MIN_SUBNET_SIZE: u32 = 4;

/// An address and how many of its leading bits name the subnet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The address.
    pub address: Address,
    /// Bits that name the subnet; at most 32.
    prefix_len: u8,
}

impl Cidr {
    /// An address in a subnet of `prefix_len` bits; more than 32 count as 32.
    pub const fn new(address: Address, prefix_len: u8) -> Self {
        let prefix_len = if prefix_len > 32 { 32 } else { prefix_len };
        Self {
            address,
            prefix_len,
        }
    }

    /// Bits that name the subnet.
    pub const fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    /// The bits of an address that name the host.
    const fn host_mask(self) -> u32 {
        match u32::MAX.checked_shr(self.prefix_len as u32) {
            Some(mask) => mask,
            None => 0,
        }
    }

    /// The same with all host bits zero.
    #[must_use]
    pub const fn masked(self) -> Self {
        Self::new(Address(self.address.0 & !self.host_mask()), self.prefix_len)
    }

    /// Whether all host bits are zero.
    pub fn is_subnet(self) -> bool {
        self == self.masked()
    }

    /// All addresses of the subnet, from this one on if host bits are set. A subnet that reaches
    /// to the end of the address space lacks its last address.
    pub const fn range(self) -> Range {
        let end = self.address.0.saturating_add(self.host_mask());
        Range::new(self.address, Address(end).saturating_add(1))
    }

    /// The addresses of the subnet that are given out: all but the first and the last.
    pub const fn host_range(self) -> Range {
        let last = self.address.0.saturating_add(self.host_mask());
        Range::new(self.address.saturating_add(1), Address(last))
    }

    /// A subnet to allocate from: all host bits zero, and at least [`MIN_SUBNET_SIZE`] addresses.
    pub fn parse_subnet(text: &str) -> Result<Self, BadAddress> {
        let cidr: Self = text.parse()?;
        let size = u64::from(cidr.host_mask()) + 1;
        // No range can hold all addresses there are.
        if size < MIN_SUBNET_SIZE.into() || size > u32::MAX.into() {
            return Err(BadAddress::TooSmall(text.to_owned()));
        }
        if !cidr.is_subnet() {
            return Err(BadAddress::HostBits(text.to_owned()));
        }
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Cidr {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress::Cidr(text.to_owned());
        let (address, len) = text.split_once('/').ok_or_else(bad)?;
        if len.is_empty() || !len.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        let len: u8 = len.parse().map_err(|_| bad())?;
        if let Ok(address) = address.parse::<Ipv4Addr>() {
            if len > 32 {
                return Err(bad());
            }
            return Ok(Self::new(address.into(), len));
        }
        match address.parse::<std::net::Ipv6Addr>() {
            Ok(_) if len <= 128 => Err(BadAddress::NotIpv4(text.to_owned())),
            _ => Err(bad()),
        }
    }
}

/// A text that names no address, or not one that can be used. The wording is known to scripts.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadAddress {
    /// Not an address.
    #[error("invalid IP Address: {0}")]
    Address(String),
    /// Not an address with a prefix length.
    #[error("invalid CIDR address: {0}")]
    Cidr(String),
    /// An IPv6 address; this protocol has room for IPv4 only.
    #[error("invalid Non-IPv4 address not supported: {0}")]
    NotIpv4(String),
    /// A subnet with host bits set.
    #[error("invalid subnet - bits after network prefix are not all zero: {0}")]
    HostBits(String),
    /// A subnet of too few addresses, or of all there are.
    #[error("invalid subnet - smaller than minimum size {MIN_SUBNET_SIZE}: {0}")]
    TooSmall(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_and_their_hosts() {
        let net = cidr("10.32.0.0/12");
        assert!(net.is_subnet());
        assert_eq!(net.range().to_string(), "10.32.0.0-10.47.255.255");
        assert_eq!(net.range().size(), 1 << 20);
        assert_eq!(net.host_range().to_string(), "10.32.0.1-10.47.255.254");
        assert_eq!(cidr("10.2.3.4/16").masked(), cidr("10.2.0.0/16"));
        assert_eq!(cidr("10.0.0.7/32").range().size(), 1);
        assert!(cidr("10.0.0.7/32").host_range().is_empty());
        assert!(cidr("10.0.0.6/31").host_range().is_empty());
        // The top of the address space: the last address is out of reach.
        assert_eq!(cidr("255.255.255.0/24").range().size(), 255);
        assert_eq!(cidr("255.255.255.0/24").host_range().size(), 254);
        assert_eq!(cidr("128.0.0.0/1").range().size(), (1 << 31) - 1);
    }

    #[test]
    fn a_subnet_to_allocate_from() {
        let text = |text: &str| Cidr::parse_subnet(text).unwrap_err().to_string();
        assert_eq!(Cidr::parse_subnet("10.32.8.0/30"), Ok(cidr("10.32.8.0/30")));
        assert_eq!(
            text("10.32.8.5/24"),
            "invalid subnet - bits after network prefix are not all zero: 10.32.8.5/24"
        );
        for small in ["10.32.8.0/31", "10.32.8.1/32", "0.0.0.0/0"] {
            assert_eq!(
                text(small),
                format!("invalid subnet - smaller than minimum size 4: {small}")
            );
        }
        for bad in [
            "10.32.8.0/33",
            "notanip/24",
            "10.0.0.0",
            "1.2.3.4/+8",
            "1.2.3.4/",
        ] {
            assert_eq!(text(bad), format!("invalid CIDR address: {bad}"));
        }
        assert_eq!(
            text("fd00::/64"),
            "invalid Non-IPv4 address not supported: fd00::/64"
        );
        assert_eq!(
            "zzz".parse::<Address>().unwrap_err().to_string(),
            "invalid IP Address: zzz"
        );
    }

    #[test]
    fn blocks_are_aligned_and_within() {
        for start in 0..70_u32 {
            for size in 1..70_u32 {
                let range = Range::sized(Address(start), size);
                let block = range.aligned_block();
                assert!(
                    block.size().is_power_of_two() && block.start.0.is_multiple_of(block.size())
                );
                assert_eq!(range.intersection(block), block, "{range}");
                let subnets = range.subnets();
                assert!(subnets.iter().all(|subnet| subnet.is_subnet()));
                let mut at = range.start;
                for subnet in subnets {
                    assert_eq!(subnet.address, at);
                    at = subnet.range().end;
                }
                assert_eq!(at, range.end);
            }
        }
    }

    #[test]
    fn empty_ranges_are_harmless() {
        let inverted = Range::new(Address(9), Address(3));
        assert!(inverted.is_empty() && inverted.subnets().is_empty());
        assert!(!inverted.overlaps(Range::new(Address(0), Address(100))));
        assert!(!inverted.contains(Address(5)));
        assert!(inverted.aligned_block().is_empty());
    }
}
