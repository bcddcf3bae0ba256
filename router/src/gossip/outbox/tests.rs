use std::any::Any;
use std::collections::BTreeSet;

use proto::gossip::GossipData;
use proto::{PeerUid, ShortId};

use super::*;

/// Numbers; merging adds them to the list.
struct Numbers(Vec<u8>);

impl GossipData for Numbers {
    fn merge(&mut self, newer: Box<dyn GossipData>) {
        let newer = newer.into_any().downcast::<Self>().unwrap();
        self.0.extend(newer.0);
    }

    fn encode(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn duplicate(&self) -> Box<dyn GossipData> {
        Box::new(Self(self.0.clone()))
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

fn client(numbers: &[u8]) -> Pending {
    Pending::Client(Box::new(Numbers(numbers.to_vec())))
}

fn name(number: u64) -> PeerName {
    PeerName::from_u64(number).unwrap()
}

fn peers() -> Peers {
    Peers::new(name(1), "us", PeerUid(1), ShortId(1))
}

/// Everything that waits, as channel, source of the broadcast, payload.
fn drain(outbox: &mut Outbox) -> Vec<(String, Option<u64>, Vec<u8>)> {
    let peers = peers();
    let next = || outbox.next(&peers);
    let sent = std::iter::from_fn(next).map(|message| {
        let source = match message.kind() {
            GossipKind::Neighbours => {
                assert_eq!(message.source(), name(1), "gossip is from ourselves");
                None
            }
            _ => Some(message.source().as_u64()),
        };
        let channel = String::from_utf8(message.channel().to_vec()).unwrap();
        (channel, source, message.payload().to_vec())
    });
    let sent = sent.collect();
    assert!(outbox.is_empty());
    assert_eq!(
        (outbox.broadcast_count, outbox.relay_len, outbox.unicast_len),
        (0, 0, 0)
    );
    sent
}

fn sent(channel: &str, source: Option<u64>, payload: &[u8]) -> (String, Option<u64>, Vec<u8>) {
    (channel.to_owned(), source, payload.to_vec())
}

#[test]
fn slots_merge_while_they_wait() {
    let mut outbox = Outbox::new();
    let names = ChannelName::from("names");
    outbox.queue_broadcast(&names, name(7), client(&[1]));
    outbox.queue_gossip(&names, client(&[2]));
    outbox.queue_broadcast(&names, name(5), client(&[3]));
    outbox.queue_gossip(&names, client(&[4]));
    outbox.queue_broadcast(&names, name(7), client(&[5]));
    assert!(!outbox.is_empty());
    let expected = [
        sent("names", None, &[2, 4]),
        sent("names", Some(5), &[3]),
        sent("names", Some(7), &[1, 5]),
    ];
    assert_eq!(drain(&mut outbox), expected);
    // Nothing of that is left over.
    outbox.queue_gossip(&names, client(&[6]));
    assert_eq!(drain(&mut outbox), [sent("names", None, &[6])]);
    assert_eq!(outbox.drops(), Drops::default());
}

#[test]
fn channels_take_turns_and_unicasts_wait_for_none() {
    let mut outbox = Outbox::new();
    let (a, b) = (ChannelName::from("a"), ChannelName::from("b"));
    for payload in [&[1], &[2], &[3]] {
        outbox.queue_gossip(&a, Pending::raw(payload));
    }
    outbox.queue_gossip(&b, Pending::raw(&[4]));
    outbox.queue_broadcast(&b, name(9), Pending::raw(&[5]));
    let unicast = GossipMessage::new(
        b"c",
        GossipKind::Unicast {
            destination: name(3),
        },
        name(2),
        b"hello",
    );
    outbox.queue_unicast(unicast.clone());
    assert_eq!(outbox.next(&peers()), Some(unicast));
    let expected = [
        sent("a", None, &[1]),
        sent("b", None, &[4]),
        sent("a", None, &[2]),
        sent("b", Some(9), &[5]),
        sent("a", None, &[3]),
    ];
    assert_eq!(drain(&mut outbox), expected);
}

#[test]
fn topology_is_encoded_when_it_is_sent() {
    let mut outbox = Outbox::new();
    let mut peers = peers();
    let channel = ChannelName::from(ChannelName::TOPOLOGY);
    let pending = |names: &[u64]| Pending::Topology(names.iter().copied().map(name).collect());
    outbox.queue_gossip(&channel, pending(&[1]));
    outbox.queue_gossip(&channel, pending(&[2, 3]));
    peers.add_connection(name(2), "10.0.0.2:6783", true);
    // 3 is not known.
    let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(1);
    let introduced = peers.introduce(name(2), PeerUid(2), "", None, true, &mut rng);
    assert!(introduced.is_ok());
    let message = outbox.next(&peers).unwrap();
    assert_eq!(message.payload(), peers.encode([name(1), name(2)]));
    assert_eq!(outbox.next(&peers), None);
    // A set of forgotten peers sends nothing, and does not keep others from being sent.
    outbox.queue_gossip(&channel, pending(&[3]));
    outbox.queue_gossip(&"z".into(), client(&[1]));
    assert_eq!(outbox.next(&peers).unwrap().channel(), b"z");
    assert_eq!(outbox.next(&peers), None);
    assert!(outbox.is_empty());
    outbox.queue_gossip(&channel, pending(&[]));
    assert!(outbox.is_empty());
}

#[test]
fn a_large_topology_takes_several_messages() {
    let mut outbox = Outbox::new();
    let mut teller = peers();
    let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(1);
    for number in 2..3000 {
        let nickname = "n".repeat(1000);
        let introduced = teller.introduce(name(number), PeerUid(1), nickname, None, true, &mut rng);
        assert!(introduced.is_ok());
    }
    outbox.queue_gossip(
        &ChannelName::TOPOLOGY.into(),
        Pending::Topology(teller.names()),
    );
    let mut learner = Peers::new(name(4000), "", PeerUid(1), ShortId(2));
    let mut parts = 0;
    while let Some(message) = outbox.next(&teller) {
        learner.apply(message.payload(), &mut rng).unwrap();
        parts += 1;
    }
    assert_eq!((parts, learner.len()), (3, 3000));
}

#[test]
fn unicasts_are_bounded() {
    let mut outbox = Outbox::new();
    let destination = name(3);
    let unicast = |len: usize| {
        let kind = GossipKind::Unicast { destination };
        GossipMessage::new(b"c", kind, name(2), &vec![0; len])
    };
    for _ in 0..=MAX_OUTBOX_UNICASTS {
        outbox.queue_unicast(unicast(1));
    }
    assert_eq!(outbox.unicasts.len(), MAX_OUTBOX_UNICASTS);
    assert_eq!(outbox.drops().unicasts, 1);
    assert_eq!(drain(&mut outbox).len(), MAX_OUTBOX_UNICASTS);
    outbox.queue_unicast(unicast(10 * 1024 * 1024));
    outbox.queue_unicast(unicast(10 * 1024 * 1024));
    assert_eq!((outbox.unicasts.len(), outbox.drops().unicasts), (1, 2));
}

#[test]
fn broadcast_slots_are_bounded() {
    let mut outbox = Outbox::new();
    let channel = ChannelName::from("a");
    let count = MAX_OUTBOX_BROADCASTS as u64;
    for source in 0..count {
        outbox.queue_broadcast(&channel, name(source), client(&[1]));
    }
    outbox.queue_broadcast(&channel, name(count), client(&[1]));
    assert_eq!(outbox.drops().broadcasts, 1);
    // Filled slots still merge, and gossip has a slot of its own.
    outbox.queue_broadcast(&channel, name(0), client(&[2]));
    outbox.queue_gossip(&channel, client(&[3]));
    let all = drain(&mut outbox);
    assert_eq!(all.len() as u64, count + 1);
    assert_eq!(
        all[..2],
        [sent("a", None, &[3]), sent("a", Some(0), &[1, 2])]
    );
}

#[test]
fn relayed_payloads_are_bounded() {
    let mut outbox = Outbox::new();
    let (a, b) = (ChannelName::from("a"), ChannelName::from("b"));
    let mega = 1024 * 1024;
    let payload = |mark: u8, len: usize| Pending::raw(&vec![mark; len]);
    let marks = |all: &[(String, Option<u64>, Vec<u8>)]| -> Vec<u8> {
        all.iter().map(|(_, _, payload)| payload[0]).collect()
    };
    for mark in 1..=15 {
        outbox.queue_gossip(&a, payload(mark, mega));
    }
    // The oldest two of the slot make room.
    outbox.queue_gossip(&a, payload(16, 2 * mega));
    assert_eq!(outbox.drops().relayed, 2);
    // Another slot has nothing that could make room.
    outbox.queue_gossip(&b, payload(17, 2 * mega));
    outbox.queue_broadcast(&a, name(5), payload(18, 2 * mega));
    assert_eq!(outbox.drops().relayed, 4);
    assert_eq!(marks(&drain(&mut outbox)), (3..=16).collect::<Vec<_>>());
    outbox.queue_gossip(&b, payload(17, 2 * mega));
    assert_eq!(marks(&drain(&mut outbox)), [17]);
}

#[test]
fn an_owner_registered_meanwhile_knows_better() {
    let mut outbox = Outbox::new();
    let channel = ChannelName::from("a");
    outbox.queue_gossip(&channel, Pending::raw(b"old"));
    outbox.queue_gossip(&channel, client(&[1]));
    assert_eq!(drain(&mut outbox), [sent("a", None, &[1])]);
}

#[test]
fn duplicates_are_independent() {
    let mut one = client(&[1]);
    let other = one.clone();
    one.merge(client(&[2]));
    let mut outbox = Outbox::new();
    outbox.queue_gossip(&"a".into(), one);
    outbox.queue_gossip(&"b".into(), other);
    let topology: BTreeSet<_> = [name(1)].into();
    let _ = Pending::Topology(topology).clone();
    let expected = [sent("a", None, &[1, 2]), sent("b", None, &[1])];
    assert_eq!(drain(&mut outbox), expected);
}
