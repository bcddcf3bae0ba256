//! Why the data half drops frames and datagrams, and how often it did.

/// Declares the reasons with their names once, so that list, names and count cannot disagree.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a frame or a datagram went no further. The names are those of the metrics and
        /// do not change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of the metrics.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Stable name, in snake case.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

reasons! {
    /// Shorter than an Ethernet header.
    FrameTooShort = "frame_too_short",
    /// A frame from the local bridge that claims to be one of the overlay's own.
    SpecialFromBridge = "special_from_bridge",
    /// Spanning tree, which ends at each bridge.
    SpanningTree = "spanning_tree",
    /// The source address is a group's, or zero.
    InvalidSource = "invalid_source",
    /// From the local bridge, but the source address was just heard at another peer.
    SourceElsewhere = "source_elsewhere",
    /// From the local bridge to an address on it.
    LocalDestination = "local_destination",
    /// To all neighbours, and more than may go there.
    FloodLimit = "flood_limit",
    /// A question that was answered here.
    Answered = "answered",
    /// The routes lead nowhere.
    NoRoute = "no_route",
    /// The next hop of the route has no working link.
    NoLink = "no_link",
    /// The address of the neighbour's datagrams is not known yet.
    NoAddress = "no_address",
    /// The route leads back to the neighbour that the frame came from.
    SentBack = "sent_back",
    /// Too long for the link and not to be fragmented; its sender was told.
    FragmentationNeeded = "fragmentation_needed",
    /// Too long for the link and not to be fragmented, in a flood: nobody is told.
    FloodTooBig = "flood_too_big",
    /// From the local bridge, but not what its offload header says.
    OffloadMismatch = "offload_mismatch",
    /// Does not fit a datagram of the link.
    TooBig = "too_big",
    /// More datagrams are ready than may wait.
    TransmitQueueFull = "transmit_queue_full",
    /// More frames of our own wait for the local bridge than may.
    InjectQueueFull = "inject_queue_full",
    /// The sequence numbers of a link are used up.
    SequenceExhausted = "sequence_exhausted",
    /// A datagram shorter than the header of its packet.
    DatagramTooShort = "datagram_too_short",
    /// A datagram with the name of no neighbour.
    UnknownSender = "unknown_sender",
    /// A sealed packet seen before, or too old to tell.
    Replayed = "replayed",
    /// A packet of a session that does not exist.
    UnknownSession = "unknown_session",
    /// A packet sealed with a key that is not, or no longer, in use.
    UnknownKey = "unknown_key",
    /// A sealed packet that does not open.
    NotAuthentic = "not_authentic",
    /// The rest of a packet that ends within a record.
    Malformed = "malformed",
    /// Origin or destination is no known peer.
    UnknownPeer = "unknown_peer",
    /// A frame of the overlay's own that is not from the neighbour to us.
    SpecialMisdirected = "special_misdirected",
    /// A frame of the overlay's own with the wrong number, size or content.
    SpecialInvalid = "special_invalid",
    /// More frames wait to go over TCP than may.
    StreamFull = "stream_full",
    /// A test that would earn an answer while too many answers wait.
    AnswerQueueFull = "answer_queue_full",
}

/// How often each reason came up.
#[derive(Debug, Clone)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl Drops {
    /// One more.
    #[inline]
    pub fn count(&mut self, reason: DropReason) {
        // The discriminants are the positions in `ALL`, which gives the array its length.
        let count = &mut self.0[reason as usize];
        *count = count.wrapping_add(1);
        tracing::trace!(reason = reason.name(), "dropped");
    }

    /// How many for this reason.
    pub const fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// How many in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Every reason with its count, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().copied().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_counter() {
        let mut drops = Drops::default();
        let mut names = BTreeSet::new();
        for (index, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert!(names.insert(reason.name()), "{}", reason.name());
            assert!(
                reason
                    .name()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_')
            );
            for _ in 0..=index {
                drops.count(reason);
            }
        }
        for (index, (reason, count)) in drops.iter().enumerate() {
            assert_eq!((count, drops.of(reason)), (index as u64 + 1, count));
        }
        assert_eq!(drops.total(), (1..=names.len() as u64).sum::<u64>());
    }
}
