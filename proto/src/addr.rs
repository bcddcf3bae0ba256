//! Link-layer addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use thiserror::Error;

/// A 48-bit Ethernet address, in the order in which it stands on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All bits zero: no station's address; marks the special frames of sleeve.
    pub const ZERO: Self = Self([0; 6]);
    /// All bits one.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// The spanning tree group address.
    pub const STP: Self = Self([0x01, 0x80, 0xc2, 0, 0, 0]);

    /// Whether the address names a group (multicast or broadcast).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Not six colon-separated groups of two hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a MAC address; write six groups of hex digits, as in 02:42:ac:11:00:02")]
pub struct BadMac(String);

impl FromStr for MacAddr {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut groups = text.split(':');
        for byte in &mut bytes {
            let group = groups.next().ok_or_else(bad)?;
            if group.is_empty() || group.len() > 2 || !group.bytes().all(|b| b.is_ascii_hexdigit())
            {
                return Err(bad());
            }
            *byte = u8::from_str_radix(group, 16).map_err(|_| bad())?;
        }
        if groups.next().is_some() {
            return Err(bad());
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let mac = MacAddr([0x7a, 0x9f, 0xeb, 0xb6, 0x0c, 0x6e]);
        assert_eq!(mac.to_string(), "7a:9f:eb:b6:0c:6e");
        assert_eq!("7A:9f:eb:b6:c:6e".parse(), Ok(mac));
        for bad in [
            "",
            "7a:9f:eb:b6:0c",
            "7a:9f:eb:b6:0c:6e:1",
            "+1:2:3:4:5:6",
            "100:2:3:4:5:6",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn group_addresses() {
        assert!(MacAddr::BROADCAST.is_group() && MacAddr::STP.is_group());
        assert!(!MacAddr([2, 0, 0, 0, 0, 1]).is_group());
    }
}
