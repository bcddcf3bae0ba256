//! Messages of a control connection, as they stand within the framing and the seal of
//! [`crate::connection`].
//!
//! ```text
//! 0                            heartbeat; anything after the tag is ignored
//! 1 | 2 | 3 u16                overlay control, to and from ends that know one overlay only
//! 4 gob: channel source payload               gossip, from a neighbour
//! 5 gob: channel source destination payload   gossip, to one peer
//! 6 gob: channel source payload               gossip, to all peers
//! 7 index tag rest             overlay control: position of the overlay in the common list,
//!                              tag within the overlay
//! ```
//!
//! In the gob streams the channel is a string, source and destination are uints, the payload is
//! `[]byte`; types are never defined. The source of tag 4 is the neighbour, that of 5 and 6 the
//! originator. All other tags are to be ignored, which leaves room for new ones.
//!
//! Source: Weave mesh protocol, sections 2, 3.5 and 9; data plane, section 3.

use std::ops::Range;

use proto::gob::{self, Decoder, Encoder};
use proto::{PeerName, gob::Limits};
use thiserror::Error;

use crate::dataplane::OverlayControl;

mod tag {
    pub(super) const HEARTBEAT: u8 = 0;
    pub(super) const OVERLAY_FIRST: u8 = 1;
    pub(super) const OVERLAY_LAST: u8 = 3;
    pub(super) const GOSSIP: u8 = 4;
    pub(super) const GOSSIP_UNICAST: u8 = 5;
    pub(super) const GOSSIP_BROADCAST: u8 = 6;
    pub(super) const OVERLAY_CONTROL: u8 = 7;
}

/// How overlay control messages are written. Both ends of a connection agree on it by their
/// introductions, and the wrong one crashes a 2.8.1 peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlForm {
    /// Tags 1, 2 and 3: an end has named no overlays, so that there is only sleeve.
    Legacy,
    /// Tag 7: both ends have named their overlays.
    Switch,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The other end is there.
    Heartbeat,
    /// For the overlay of this connection.
    Overlay(OverlayControl),
    /// For a gossip channel.
    Gossip(GossipMessage),
    /// Must be ignored: an unknown tag, or a message that makes no sense to this end.
    Unknown {
        /// Its tag.
        tag: u8,
    },
}

/// What becomes of a gossip message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GossipKind {
    /// State of a neighbour, merged hop by hop.
    Neighbours,
    /// For one peer; relayed as it is.
    Unicast {
        /// That peer.
        destination: PeerName,
    },
    /// For all peers.
    Broadcast,
}

/// A message on a gossip channel, together with its bytes: a unicast that is relayed must stay
/// what it was, bit by bit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipMessage {
    encoded: Vec<u8>,
    kind: GossipKind,
    source: PeerName,
    channel: Range<usize>,
    payload: Range<usize>,
}

impl GossipMessage {
    /// Writes a message. The name of the channel is any bytes.
    pub fn new(channel: &[u8], kind: GossipKind, source: PeerName, payload: &[u8]) -> Self {
        let mut stream = Encoder::new();
        let tag = match kind {
            GossipKind::Neighbours => tag::GOSSIP,
            GossipKind::Unicast { .. } => tag::GOSSIP_UNICAST,
            GossipKind::Broadcast => tag::GOSSIP_BROADCAST,
        };
        stream.raw(&[tag]).string(channel);
        let channel_end = stream.len();
        stream.uint(source.as_u64());
        if let GossipKind::Unicast { destination } = kind {
            stream.uint(destination.as_u64());
        }
        stream.bytes(payload);
        let encoded = stream.finish();
        Self {
            kind,
            source,
            channel: channel_end - channel.len()..channel_end,
            payload: encoded.len() - payload.len()..encoded.len(),
            encoded,
        }
    }

    /// The channel.
    pub fn channel(&self) -> &[u8] {
        &self.encoded[self.channel.clone()]
    }

    /// What becomes of it.
    pub fn kind(&self) -> GossipKind {
        self.kind
    }

    /// The neighbour it came from, or, unless it is for neighbours, its originator.
    pub fn source(&self) -> PeerName {
        self.source
    }

    /// What the channel's owner sent.
    pub fn payload(&self) -> &[u8] {
        &self.encoded[self.payload.clone()]
    }

    /// The whole message, tag included: as received, if it was.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Like [`encoded`](Self::encoded).
    pub fn into_encoded(self) -> Vec<u8> {
        self.encoded
    }

    /// `encoded` is a whole message. `None`: a name that no peer can have.
    fn decode(tag: u8, encoded: Vec<u8>) -> Result<Option<Self>, gob::Error> {
        let body = encoded.get(1..).unwrap_or_default();
        let mut stream = Decoder::new(body, Limits::GOSSIP);
        let channel_len = stream.require_value()?.string()?.len();
        let channel_end = 1 + stream.position();
        let source = PeerName::from_u64(stream.require_value()?.uint()?);
        let destination = if tag == tag::GOSSIP_UNICAST {
            PeerName::from_u64(stream.require_value()?.uint()?).map(Some)
        } else {
            Some(None)
        };
        let payload_len = stream.require_value()?.bytes()?.len();
        let payload_end = 1 + stream.position();
        let (Some(source), Some(destination)) = (source, destination) else {
            return Ok(None);
        };
        let kind = match (tag, destination) {
            (tag::GOSSIP, _) => GossipKind::Neighbours,
            (_, Some(destination)) => GossipKind::Unicast { destination },
            (_, None) => GossipKind::Broadcast,
        };
        Ok(Some(Self {
            encoded,
            kind,
            source,
            channel: channel_end - channel_len..channel_end,
            payload: payload_end - payload_len..payload_end,
        }))
    }
}

/// A message that its sender cannot mean. The connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadMessage {
    /// Not even a tag.
    #[error("message without a tag")]
    Empty,
    /// A gossip message that is not what its tag says.
    #[error("bad gossip message: {0}")]
    Gossip(#[from] gob::Error),
}

impl Message {
    /// Reads a message off the connection.
    pub fn decode(bytes: Vec<u8>, form: ControlForm) -> Result<Self, BadMessage> {
        let Some((&tag, body)) = bytes.split_first() else {
            return Err(BadMessage::Empty);
        };
        Ok(match (tag, form, body) {
            (tag::HEARTBEAT, _, _) => Self::Heartbeat,
            (tag::OVERLAY_FIRST..=tag::OVERLAY_LAST, ControlForm::Legacy, body) => {
                Self::Overlay(OverlayControl {
                    index: 0,
                    tag,
                    body: body.to_vec(),
                })
            }
            (tag::OVERLAY_CONTROL, ControlForm::Switch, &[index, tag, ref body @ ..]) => {
                Self::Overlay(OverlayControl {
                    index,
                    tag,
                    body: body.to_vec(),
                })
            }
            (tag::GOSSIP..=tag::GOSSIP_BROADCAST, _, _) => {
                match GossipMessage::decode(tag, bytes)? {
                    Some(message) => Self::Gossip(message),
                    None => Self::Unknown { tag },
                }
            }
            _ => Self::Unknown { tag },
        })
    }

    /// The bytes of the message.
    pub fn encode(&self, form: ControlForm) -> Vec<u8> {
        match self {
            Self::Heartbeat => vec![tag::HEARTBEAT],
            Self::Overlay(control) => {
                let mut bytes = match form {
                    ControlForm::Legacy => vec![control.tag],
                    ControlForm::Switch => vec![tag::OVERLAY_CONTROL, control.index, control.tag],
                };
                bytes.extend_from_slice(&control.body);
                bytes
            }
            Self::Gossip(message) => message.encoded.clone(),
            Self::Unknown { tag } => vec![*tag],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;

    macro_rules! vectors {
        ($file:literal) => {
            serde_json::from_str::<Json>(include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../tests/vectors/",
                $file
            )))
            .unwrap()["vectors"]
                .as_array()
                .unwrap()
        };
    }

    fn bytes(value: &Json) -> Vec<u8> {
        hex::decode(value.as_str().unwrap()).unwrap()
    }

    #[test]
    fn gossip_envelopes() {
        for vector in vectors!("gossip_envelopes.json") {
            let inputs = &vector["inputs"];
            let name = |key: &str| inputs[key].as_str().map(|name| name.parse().unwrap());
            let encoded = bytes(&vector["hex"]);
            let kind = match encoded[0] {
                4 => GossipKind::Neighbours,
                5 => GossipKind::Unicast {
                    destination: name("destination").unwrap(),
                },
                _ => GossipKind::Broadcast,
            };
            let channel = inputs["channel"].as_str().unwrap().as_bytes();
            let payload = bytes(&inputs["payload"]);
            let message = GossipMessage::new(channel, kind, name("source").unwrap(), &payload);
            assert_eq!(hex::encode(message.encoded()), hex::encode(&encoded));
            let decoded = Message::decode(encoded, ControlForm::Switch).unwrap();
            assert_eq!(decoded, Message::Gossip(message.clone()));
            assert_eq!(message.channel(), channel);
            assert_eq!(message.payload(), payload);
        }
    }

    #[test]
    fn overlay_control() {
        for vector in vectors!("control_messages.json") {
            let encoded = bytes(&vector["hex"]);
            let name = vector["name"].as_str().unwrap();
            let form = if name.starts_with("switch") {
                ControlForm::Switch
            } else {
                ControlForm::Legacy
            };
            let expected = match (form, &encoded[..]) {
                (ControlForm::Switch, [7, index, tag, body @ ..]) => OverlayControl {
                    index: *index,
                    tag: *tag,
                    body: body.to_vec(),
                },
                (_, [tag, body @ ..]) => OverlayControl {
                    index: 0,
                    tag: *tag,
                    body: body.to_vec(),
                },
                _ => panic!("{name}"),
            };
            let message = Message::decode(encoded.clone(), form).unwrap();
            assert_eq!(message, Message::Overlay(expected), "{name}");
            assert_eq!(message.encode(form), encoded, "{name}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_ignored() {
        let decode = |bytes: &[u8], form| Message::decode(bytes.to_vec(), form);
        for tag in 8..=255 {
            let message = decode(&[tag, 1, 2], ControlForm::Switch);
            assert_eq!(message, Ok(Message::Unknown { tag }));
        }
        // Too short, or in the form not agreed on.
        for bytes in [&[7][..], &[7, 0], &[1], &[2], &[3, 5, 0x9e]] {
            let message = decode(bytes, ControlForm::Switch);
            assert_eq!(message, Ok(Message::Unknown { tag: bytes[0] }));
        }
        let message = decode(&[7, 0, 1], ControlForm::Legacy);
        assert_eq!(message, Ok(Message::Unknown { tag: 7 }));
        // A source of 49 bits: whoever relayed it is not to blame.
        let message = "05 040c000178 0a0600f901000000000000 03060005 030a0000";
        let message = bytes(&Json::from(message.replace(' ', "")));
        assert_eq!(
            decode(&message, ControlForm::Switch),
            Ok(Message::Unknown { tag: 5 })
        );
        // Without its payload.
        let cut_short = decode(&message[..message.len() - 4], ControlForm::Switch);
        assert_eq!(cut_short, Err(BadMessage::Gossip(gob::Error::Truncated)));
        assert_eq!(
            decode(&[0, 1, 2], ControlForm::Switch),
            Ok(Message::Heartbeat)
        );
        assert_eq!(decode(&[], ControlForm::Switch), Err(BadMessage::Empty));
    }

    #[test]
    fn a_unicast_keeps_its_bytes() {
        // Long forms of integers, and surplus bytes in a message and behind the last.
        let odd = "05 06 0c 00 fe 00 01 78 05 06 00 00 ff ff 03 06 00 05 05 0a 00 01 aa 63 ff";
        let odd = bytes(&Json::from(odd.replace(' ', "")));
        let Message::Gossip(message) = Message::decode(odd.clone(), ControlForm::Switch).unwrap()
        else {
            panic!()
        };
        assert_eq!(message.channel(), b"x");
        assert_eq!(message.source(), PeerName::UNKNOWN);
        assert_eq!(message.payload(), [0xaa]);
        assert_eq!(message.encoded(), odd);
        let message = Message::Gossip(message);
        assert_eq!(message.encode(ControlForm::Legacy), odd);
    }

    proptest! {
        #[test]
        fn anything_decodes_or_not(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            tag in 0..9_u8,
            legacy in any::<bool>(),
        ) {
            let form = if legacy { ControlForm::Legacy } else { ControlForm::Switch };
            let bytes = [&[tag], &bytes[..]].concat();
            if let Ok(Message::Gossip(message)) = Message::decode(bytes.clone(), form) {
                prop_assert_eq!(message.encoded(), &bytes);
                let again = GossipMessage::new(
                    message.channel(), message.kind(), message.source(), message.payload(),
                );
                prop_assert_eq!(again.payload(), message.payload());
                prop_assert_eq!(again.channel(), message.channel());
            }
        }

        #[test]
        fn gossip_round_trips(
            channel in prop::collection::vec(any::<u8>(), 0..300),
            payload in prop::collection::vec(any::<u8>(), 0..300),
            source in 0..1_u64 << 48,
            kind in 0..3,
            destination in 0..1_u64 << 48,
        ) {
            let name = |number| PeerName::from_u64(number).unwrap();
            let kind = match kind {
                0 => GossipKind::Neighbours,
                1 => GossipKind::Unicast { destination: name(destination) },
                _ => GossipKind::Broadcast,
            };
            let message = GossipMessage::new(&channel, kind, name(source), &payload);
            prop_assert_eq!(message.channel(), &channel);
            prop_assert_eq!(message.payload(), &payload);
            let decoded = Message::decode(message.encoded().to_vec(), ControlForm::Switch);
            prop_assert_eq!(decoded, Ok(Message::Gossip(message)));
        }
    }
}
