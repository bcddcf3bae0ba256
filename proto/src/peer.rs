//! Who is who in a mesh.
//!
//! A peer is known by its [`PeerName`], a 48-bit number written like a MAC address; each life of
//! its process has a random [`PeerUid`]. The mesh also gives every peer a 12-bit [`ShortId`].

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::MacAddr;

/// Name of a peer: 48 bits, compared as a number, stable over restarts.
///
/// On the wire: 6 bytes, big-endian; inside gob envelopes an unsigned integer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PeerName(u64);

impl PeerName {
    /// Name 0: nobody. Routes use it as the next hop to ourselves.
    pub const UNKNOWN: Self = Self(0);

    /// From the wire's 6 bytes.
    pub const fn from_bytes(bytes: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    /// The wire's 6 bytes.
    pub const fn to_bytes(self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// From a number, if it has no more than 48 bits.
    pub const fn from_u64(number: u64) -> Option<Self> {
        if number >> 48 == 0 {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The name as a number below 2^48.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl From<MacAddr> for PeerName {
    fn from(mac: MacAddr) -> Self {
        Self::from_bytes(mac.0)
    }
}

impl From<PeerName> for MacAddr {
    fn from(name: PeerName) -> Self {
        Self(name.to_bytes())
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&MacAddr::from(*self), f)
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for PeerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Not a peer name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not a peer name; write six groups of hex digits as in 02:00:00:00:00:01, \
     or fewer with one \"::\" as in ::1"
)]
pub struct BadPeerName(String);

impl FromStr for PeerName {
    type Err = BadPeerName;

    /// Six groups of one or two hex digits, any case; or one to four such groups with exactly one
    /// `::` in the place of those missing. Like the original, this takes blanks and tabs before the
    /// digits of a group, and one NUL at the end.
    fn from_str(text: &str) -> Result<Self, BadPeerName> {
        let bad = || BadPeerName(text.to_owned());
        let group = |group: &str| {
            let group = group.trim_start_matches([' ', '\t']);
            let digits = (1..=2).contains(&group.len())
                && group.bytes().all(|byte| byte.is_ascii_hexdigit());
            if digits {
                u8::from_str_radix(group, 16).ok()
            } else {
                None
            }
        };
        let groups = |part: &str| -> Option<Vec<u8>> {
            if part.is_empty() {
                Some(Vec::new())
            } else {
                part.split(':').map(group).collect()
            }
        };
        let mut bytes = [0; 6];
        let trimmed = text.strip_suffix('\0').unwrap_or(text);
        match trimmed.split_once("::") {
            None => {
                let all = groups(trimmed).ok_or_else(bad)?;
                bytes = all.try_into().map_err(|_| bad())?;
            }
            Some((head, tail)) => {
                let (head, tail) = groups(head).zip(groups(tail)).ok_or_else(bad)?;
                if !(1..=4).contains(&(head.len() + tail.len())) {
                    return Err(bad());
                }
                bytes[..head.len()].copy_from_slice(&head);
                bytes[6 - tail.len()..].copy_from_slice(&tail);
            }
        }
        Ok(Self::from_bytes(bytes))
    }
}

/// Random number of one life of a peer's process. 0 stands for "not known yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct PeerUid(pub u64);

impl fmt::Display for PeerUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 12-bit number that stands for a peer where 48 bits are too many. 0 is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ShortId(pub u16);

impl ShortId {
    /// How many there are.
    pub const COUNT: u16 = 1 << 12;
}

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies one connection on both of its ends: the XOR of both ends' random numbers. Of two
/// connections between the same peers the one with the lower number lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionUid(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorthand_fills_the_middle() {
        let name = |text: &str| text.parse::<PeerName>().map(|name| name.to_string());
        assert_eq!(name("::1").unwrap(), "00:00:00:00:00:01");
        assert_eq!(name("1::2").unwrap(), "01:00:00:00:00:02");
        assert_eq!(name("1:2:3:4::").unwrap(), "01:02:03:04:00:00");
        assert_eq!(name("A:b:0c:d:e:F").unwrap(), "0a:0b:0c:0d:0e:0f");
        for bad in [
            "",
            "::",
            "1:2:3:4:5::",
            "1::2::3",
            ":::1",
            "1:2:3:4:5",
            "g::1",
            "1:2:3:4:5:678",
        ] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_the_original_takes_or_refuses() {
        let file: serde_json::Value = serde_json::from_str(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/vectors/peer_names.json"
        )))
        .unwrap();
        let mut parsed = 0;
        for vector in file["vectors"].as_array().unwrap() {
            if vector["inputs"]["op"] != "parse" {
                continue;
            }
            let text = vector["inputs"]["text"].as_str().unwrap();
            let name = text.parse::<PeerName>().ok();
            let meaning = &vector["meaning"];
            let expected = meaning["u64"]
                .as_str()
                .map(|number| number.parse().unwrap());
            assert_eq!(name.map(PeerName::as_u64), expected, "{text:?}");
            assert_eq!(
                name.is_some(),
                meaning["valid"].as_bool().unwrap(),
                "{text:?}"
            );
            if let Some(name) = name {
                assert_eq!(
                    name.to_string(),
                    meaning["canonical_text"].as_str().unwrap()
                );
                assert_eq!(
                    hex::encode(name.to_bytes()),
                    vector["hex"].as_str().unwrap()
                );
            }
            parsed += 1;
        }
        assert!(parsed > 70, "{parsed}");
    }

    #[test]
    fn numbers_and_bytes_agree() {
        let name = PeerName::from_bytes([0x7a, 0x9f, 0xeb, 0xb6, 0x0c, 0x6e]);
        assert_eq!(PeerName::from_u64(0x7a9f_ebb6_0c6e), Some(name));
        assert_eq!(PeerName::from_u64(1 << 48), None);
        assert_eq!(name.to_bytes(), [0x7a, 0x9f, 0xeb, 0xb6, 0x0c, 0x6e]);
    }
}
