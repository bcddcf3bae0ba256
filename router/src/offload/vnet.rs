//! The virtio-net header, by which a TAP device says and hears what is left to do.
//!
//! The layout is in [`super`]. Twelve bytes, as virtio 1 has them.

use thiserror::Error;

use super::{Checksum, Gso, GsoKind, Offload};

/// Bytes of the header.
pub const LEN: usize = 12;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// The header says something that was not agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unknown {
    /// A kind of segmentation.
    #[error("segmentation of kind {0}")]
    Kind(u8),
    /// Segments without payload.
    #[error("segments of length 0")]
    Size,
}

/// Reads a header.
#[inline]
pub const fn decode(header: &[u8; LEN]) -> Result<Offload, Unknown> {
    let [flags, kind, _, _, a, b, c, d, e, f, _, _] = *header;
    let checksum = if flags & NEEDS_CHECKSUM == 0 {
        Checksum::Complete
    } else {
        Checksum::Partial {
            start: u16::from_ne_bytes([c, d]),
            offset: u16::from_ne_bytes([e, f]),
        }
    };
    let ecn = kind & GSO_ECN != 0;
    let kind = match kind & !GSO_ECN {
        GSO_NONE => {
            return Ok(Offload {
                checksum,
                gso: None,
            });
        }
        GSO_TCP4 => GsoKind::Tcp4,
        GSO_TCP6 => GsoKind::Tcp6,
        GSO_UDP => GsoKind::Udp,
        kind => return Err(Unknown::Kind(kind)),
    };
    let size = u16::from_ne_bytes([a, b]);
    if size == 0 {
        return Err(Unknown::Size);
    }
    Ok(Offload {
        checksum,
        gso: Some(Gso { kind, size, ecn }),
    })
}

/// Writes a header for a frame whose headers together have `header_len` bytes; that is only looked
/// at if the frame is to be cut.
#[inline]
#[must_use]
pub const fn encode(offload: &Offload, header_len: u16) -> [u8; LEN] {
    let (flags, start, offset) = match offload.checksum {
        Checksum::Complete => (0, 0, 0),
        Checksum::Partial { start, offset } => (NEEDS_CHECKSUM, start, offset),
    };
    let (kind, size, header_len) = match offload.gso {
        None => (GSO_NONE, 0, 0),
        Some(gso) => {
            let kind = match gso.kind {
                GsoKind::Tcp4 => GSO_TCP4,
                GsoKind::Tcp6 => GSO_TCP6,
                GsoKind::Udp => GSO_UDP,
            };
            let ecn = if gso.ecn { GSO_ECN } else { 0 };
            (kind | ecn, gso.size, header_len)
        }
    };
    let [a, b] = header_len.to_ne_bytes();
    let [c, d] = size.to_ne_bytes();
    let [e, f] = start.to_ne_bytes();
    let [g, h] = offset.to_ne_bytes();
    [flags, kind, a, b, c, d, e, f, g, h, 0, 0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_left_is_all_zero() {
        assert_eq!(encode(&Offload::NONE, 54), [0; LEN]);
        assert_eq!(decode(&[0; LEN]), Ok(Offload::NONE));
        // "Verified" and the hint say nothing new.
        assert_eq!(
            decode(&[2, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]),
            Ok(Offload::NONE)
        );
    }

    #[test]
    fn what_was_not_agreed_on_is_refused() {
        for kind in [2, 3, 6, 0x7f] {
            let header = [1, kind, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0];
            assert_eq!(decode(&header), Err(Unknown::Kind(kind)));
        }
        assert_eq!(
            decode(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            Err(Unknown::Size)
        );
    }

    fn any_offload() -> impl Strategy<Value = Offload> {
        let checksum = prop_oneof![
            Just(Checksum::Complete),
            any::<(u16, u16)>().prop_map(|(start, offset)| Checksum::Partial { start, offset }),
        ];
        let kind = prop::sample::select(vec![GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp]);
        let gso = (kind, 1..=u16::MAX, any::<bool>()).prop_map(|(kind, size, ecn)| Gso {
            kind,
            size,
            ecn,
        });
        (checksum, prop::option::of(gso)).prop_map(|(checksum, gso)| Offload { checksum, gso })
    }

    proptest! {
        #[test]
        fn there_and_back(offload in any_offload(), header_len in any::<u16>()) {
            prop_assert_eq!(decode(&encode(&offload, header_len)), Ok(offload));
        }

        #[test]
        fn anything_decodes_or_is_refused(header in any::<[u8; LEN]>()) {
            let _ = decode(&header);
        }
    }
}
