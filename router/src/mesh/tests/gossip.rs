//! What is passed on, to whom, and when.

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use proto::PeerName;
use proto::gossip::{GossipChannel, GossipData, GossipRefused};

use super::kit::{Net, Records, SECOND, config, local, peer, records};
use crate::mesh::UnicastError;
use crate::topology::Peers;
use crate::wire::control::{GossipKind, GossipMessage, Message};

/// A set of numbers that only grows.
#[derive(Clone)]
struct Numbers(BTreeSet<u8>);

impl GossipData for Numbers {
    fn merge(&mut self, newer: Box<dyn GossipData>) {
        let newer = newer.into_any().downcast::<Self>().unwrap();
        self.0.extend(newer.0);
    }

    fn encode(&self) -> Vec<u8> {
        self.0.iter().copied().collect()
    }

    fn duplicate(&self) -> Box<dyn GossipData> {
        Box::new(self.clone())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Source and payload.
type Said = (PeerName, Vec<u8>);

/// Owner of a channel of numbers; 255 is refused.
#[derive(Clone, Default)]
struct Owner {
    known: Arc<Mutex<BTreeSet<u8>>>,
    unicasts: Arc<Mutex<Vec<Said>>>,
    broadcasts: Arc<Mutex<Vec<Said>>>,
}

impl Owner {
    fn take(&self, payload: &[u8]) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        if payload.contains(&255) {
            return Err(GossipRefused("255 is no number".to_owned()));
        }
        let mut known = self.known.lock().unwrap();
        let new: BTreeSet<u8> = payload
            .iter()
            .copied()
            .filter(|n| known.insert(*n))
            .collect();
        Ok((!new.is_empty()).then(|| Box::new(Numbers(new)) as Box<dyn GossipData>))
    }
}

impl GossipChannel for Owner {
    fn on_unicast(&mut self, source: PeerName, payload: &[u8]) -> Result<(), GossipRefused> {
        self.unicasts
            .lock()
            .unwrap()
            .push((source, payload.to_vec()));
        Ok(())
    }

    fn on_broadcast(
        &mut self,
        source: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        self.broadcasts
            .lock()
            .unwrap()
            .push((source, payload.to_vec()));
        Ok(Some(Box::new(Numbers(payload.iter().copied().collect()))))
    }

    fn on_gossip(
        &mut self,
        _: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        self.take(payload)
    }

    fn full_state(&mut self) -> Option<Box<dyn GossipData>> {
        let known = self.known.lock().unwrap().clone();
        (!known.is_empty()).then(|| Box::new(Numbers(known)) as Box<dyn GossipData>)
    }

    fn on_peer_forgotten(&mut self, _: PeerName) {}
}

fn own(net: &mut Net, host: usize) -> Owner {
    let owner = Owner::default();
    let boxed = Box::new(owner.clone());
    net.call(host, |mesh, _| mesh.register_channel("numbers", boxed))
        .unwrap();
    owner
}

/// Hosts 1 to `count` in a row, without discovery.
fn chain(count: usize) -> Net {
    let mut net = Net::new();
    for host in 1..=count {
        let mut config = config(host);
        config.discovery = false;
        net.add(host, config);
    }
    for host in 2..=count {
        net.join(host - 1, host);
    }
    net.pass(10 * SECOND);
    net
}

/// Host 1 with two scripted neighbours, 8 and 9, behind which there is nobody.
fn between_two_probes() -> (Net, usize, usize) {
    let mut net = Net::with_hosts(1);
    let one = net.probe(1, "10.9.0.8:1".parse().unwrap(), &local(8));
    let two = net.probe(1, "10.9.0.9:1".parse().unwrap(), &local(9));
    net.pass(5 * SECOND);
    net.taken(one);
    net.taken(two);
    (net, one, two)
}

/// Lets a probe tell that it is connected to host 1. Before that nobody knows how a broadcast of
/// it would spread.
fn describe(net: &mut Net, probe: usize, number: usize) {
    let local = local(number);
    let short_id = local.short_id.unwrap();
    let mut peers = Peers::new(local.name, local.nickname, local.uid, short_id);
    peers.add_connection(peer(1), "10.0.0.1:6783", true);
    let payload = peers.encode([local.name]);
    let message = gossip("topology", GossipKind::Neighbours, number, &payload);
    net.probe_sends(probe, &message);
    net.pass(SECOND);
}

fn gossip(channel: &str, kind: GossipKind, source: usize, payload: &[u8]) -> Message {
    let message = GossipMessage::new(channel.as_bytes(), kind, peer(source), payload);
    Message::Gossip(message)
}

fn topology(message: &Message) -> (GossipKind, PeerName, Records) {
    let Message::Gossip(message) = message else {
        panic!("{message:?}");
    };
    assert_eq!(message.channel(), b"topology");
    (message.kind(), message.source(), records(message.payload()))
}

#[test]
fn channels_without_owner_are_relayed() {
    let (mut net, one, two) = between_two_probes();
    describe(&mut net, one, 8);
    net.taken(two);
    let unicast = GossipKind::Unicast {
        destination: peer(9),
    };
    let broadcast = GossipKind::Broadcast;
    let neighbours = GossipKind::Neighbours;

    // Unicasts bit by bit, also with bytes at the end that mean nothing.
    let mut bytes = vec![0; 4];
    let body = GossipMessage::new(b"strange", unicast, peer(8), b"hello").into_encoded();
    bytes.extend(body);
    bytes.extend(b"???");
    let len = u32::try_from(bytes.len() - 4).unwrap();
    bytes[..4].copy_from_slice(&len.to_be_bytes());
    net.probes[two].bytes.clear();
    net.probe_sends_bytes(one, bytes.clone());
    assert_eq!(net.probes[two].bytes, bytes);
    net.taken(two);
    // To us: dropped. To nobody: dropped.
    for destination in [peer(1), peer(77)] {
        let kind = GossipKind::Unicast { destination };
        net.probe_sends(one, &gossip("strange", kind, 8, b"hello"));
    }
    assert_eq!(net.taken(two), []);

    // Broadcasts every time, source unchanged.
    let message = gossip("strange", broadcast, 8, b"all");
    net.probe_sends(one, &message);
    net.probe_sends(one, &message);
    assert_eq!(net.taken(two), [message.clone(), message]);

    // Gossip once, as from us.
    let message = gossip("strange", neighbours, 8, b"some");
    net.probe_sends(one, &message);
    net.probe_sends(one, &message);
    net.probe_sends(two, &gossip("strange", neighbours, 9, b"some"));
    assert_eq!(net.taken(two), [gossip("strange", neighbours, 1, b"some")]);
    assert_eq!(net.taken(one), []);
}

#[test]
fn owners_meet_through_a_middle_that_has_none() {
    let mut net = chain(4);
    let (one, four) = (own(&mut net, 1), own(&mut net, 4));
    net.call(1, |mesh, _| {
        mesh.gossip("numbers", Box::new(Numbers([1, 2].into())));
    });
    net.pass(SECOND);
    assert_eq!(*four.known.lock().unwrap(), [1, 2].into());
    net.call(4, |mesh, _| {
        mesh.broadcast("numbers", Box::new(Numbers([7].into())));
    });
    assert_eq!(*one.broadcasts.lock().unwrap(), [(peer(4), vec![7])]);
    assert!(four.broadcasts.lock().unwrap().is_empty());
    net.call(1, |mesh, _| mesh.unicast("numbers", peer(4), b"hi"))
        .unwrap();
    assert_eq!(*four.unicasts.lock().unwrap(), [(peer(1), b"hi".to_vec())]);
    let nobody = net.call(1, |mesh, _| mesh.unicast("numbers", peer(9), b"hi"));
    assert_eq!(nobody, Err(UnicastError::NoRoute(peer(9))));
    let ourselves = net.call(1, |mesh, _| mesh.unicast("numbers", peer(1), b"hi"));
    assert_eq!(ourselves, Err(UnicastError::NoRoute(peer(1))));
    // Both names are taken.
    for name in ["numbers", "topology"] {
        let second = Box::new(Owner::default());
        net.call(1, |mesh, _| mesh.register_channel(name, second))
            .unwrap_err();
    }
}

#[test]
fn new_neighbours_get_the_whole_state_of_every_channel() {
    let mut net = Net::with_hosts(1);
    let owner = own(&mut net, 1);
    owner.known.lock().unwrap().extend([3, 4]);
    let probe = net.probe(1, "10.9.0.9:1".parse().unwrap(), &local(9));
    let first = net.taken(probe);
    let states: Vec<_> = first
        .iter()
        .map(|message| match message {
            Message::Gossip(message) => {
                (message.channel().to_vec(), message.kind(), message.source())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(states.len(), 2);
    assert!(
        states
            .iter()
            .all(|state| (state.1, state.2) == (GossipKind::Neighbours, peer(1)))
    );
    assert!(first.contains(&gossip("numbers", GossipKind::Neighbours, 1, &[3, 4])));
    let described = first
        .iter()
        .find(|m| matches!(m, Message::Gossip(m) if m.channel() == b"topology"));
    let expected = [(peer(1), 1, vec![(peer(9), false)]), (peer(9), 0, vec![])];
    assert_eq!(topology(described.unwrap()).2, expected.into());
}

#[test]
fn every_half_minute_the_whole_state_goes_round() {
    let (mut net, one, two) = between_two_probes();
    let owner = own(&mut net, 1);
    owner.known.lock().unwrap().insert(5);
    net.pass(24 * SECOND);
    assert_eq!((net.taken(one), net.taken(two)), (vec![], vec![]));
    for _ in 0..3 {
        net.pass(2 * SECOND);
        for probe in [one, two] {
            let messages = net.taken(probe);
            assert_eq!(messages.len(), 2);
            assert!(messages.contains(&gossip("numbers", GossipKind::Neighbours, 1, &[5])));
        }
        net.pass(28 * SECOND);
        assert_eq!((net.taken(one), net.taken(two)), (vec![], vec![]));
    }
    // After a long sleep one round is enough.
    net.now += 1000 * SECOND;
    net.call(1, |mesh, now| {
        let before = mesh.poll_timeout();
        mesh.handle_timeout(now);
        assert!(before < mesh.poll_timeout());
    });
}

#[test]
fn own_changes_are_told_after_a_second_and_together() {
    let (mut net, one, two) = between_two_probes();
    let version = net.mesh(1).peers().ours().version;
    let third = net.probe(1, "10.9.0.7:1".parse().unwrap(), &local(7));
    net.pass(SECOND / 2);
    let fourth = net.probe(1, "10.9.0.6:1".parse().unwrap(), &local(6));
    net.taken(third);
    net.taken(fourth);
    net.pass(SECOND * 2 / 5);
    assert_eq!(net.taken(one), []);
    net.pass(SECOND / 5);
    let all = [6, 7, 8, 9].map(|n| (peer(n), true)).to_vec();
    let expected: Records = [
        (peer(1), version + 4, all), // two added, two established
        (peer(6), 0, vec![]),
        (peer(7), 0, vec![]),
    ]
    .into();
    for probe in [one, two, third, fourth] {
        let messages = net.taken(probe);
        assert_eq!(messages.len(), 1);
        assert_eq!(
            topology(&messages[0]),
            (GossipKind::Neighbours, peer(1), expected.clone())
        );
    }
    net.pass(10 * SECOND);
    assert_eq!(net.taken(one), []);
}

#[test]
fn improvements_wait_for_the_routes_and_spare_the_sender() {
    let (mut net, one, two) = between_two_probes();
    let mut far = Peers::new(peer(8), "probe8", local(8).uid, proto::ShortId(8));
    far.add_connection(peer(1), "10.0.0.1:6783", true);
    far.add_connection(peer(20), "10.9.0.20:6783", true);
    let payload = far.encode([peer(8)]);
    let message = gossip("topology", GossipKind::Neighbours, 8, &payload);
    net.probe_sends(one, &message);
    assert_eq!(net.taken(two), [], "the routes are to be calculated");
    assert!(net.mesh(1).peers().get(peer(20)).is_some(), "a placeholder");
    net.pass(SECOND / 10);
    let messages = net.taken(two);
    assert_eq!(messages.len(), 1);
    let listed = vec![(peer(1), false), (peer(20), false)];
    let expected: Records = [(peer(8), 2, listed)].into();
    assert_eq!(
        topology(&messages[0]),
        (GossipKind::Neighbours, peer(1), expected)
    );
    assert_eq!(net.taken(one), []);
    // Nothing new: nobody is told.
    net.probe_sends(one, &message);
    net.pass(SECOND);
    assert_eq!((net.taken(one), net.taken(two)), (vec![], vec![]));
    // As a broadcast it goes on in any case, along the tree of its source.
    net.probe_sends(one, &gossip("topology", GossipKind::Broadcast, 8, &payload));
    let messages = net.taken(two);
    assert_eq!(messages.len(), 1);
    assert_eq!(topology(&messages[0]).0, GossipKind::Broadcast);
    assert_eq!(topology(&messages[0]).1, peer(8));
}

#[test]
fn what_a_channel_refuses_ends_the_connection() {
    for (channel, kind, payload) in [
        ("numbers", GossipKind::Neighbours, &[1, 255][..]),
        ("topology", GossipKind::Neighbours, &[1, 2, 3]),
        ("topology", GossipKind::Broadcast, &[1, 2, 3]),
        (
            "topology",
            GossipKind::Unicast {
                destination: peer(1),
            },
            &[],
        ),
    ] {
        let (mut net, one, two) = between_two_probes();
        own(&mut net, 1);
        net.probe_sends(one, &gossip(channel, kind, 8, payload));
        assert!(net.probes[one].closed.is_some());
        assert_eq!(net.probes[two].closed, None);
        assert_eq!(net.established(1), [peer(9)]);
        assert!(net.mesh(1).peers().get(peer(8)).is_none());
    }
}

/// As when address ranges differ: each end refuses what the other has to say, and so can show the
/// reason.
#[test]
fn both_ends_learn_that_they_do_not_fit() {
    for from in [1, 2] {
        let mut net = Net::new();
        for host in [1, 2] {
            let mut config = config(host);
            config.discovery = false;
            net.add(host, config);
            own(&mut net, host).known.lock().unwrap().insert(255);
        }
        for _ in 0..3 {
            net.join(from, 3 - from);
            assert_eq!(net.established(1), []);
            for host in [1, 2] {
                assert!(net.logged(host, "due to error: 255 is no number"));
            }
        }
    }
}

#[test]
fn unknown_tags_are_ignored() {
    let (mut net, one, _) = between_two_probes();
    for tag in [8, 99, 255] {
        net.probe_sends_bytes(one, vec![0, 0, 0, 2, tag, 1]);
    }
    net.probe_sends_bytes(one, vec![0, 0, 0, 0]);
    net.probe_sends_bytes(one, vec![0, 0, 0, 1, 7]);
    assert_eq!(net.probes[one].closed, None);
    assert_eq!(net.established(1), [peer(8), peer(9)]);
}

#[test]
fn a_flood_of_gossip_does_not_wait_without_bound() {
    let (mut net, one, two) = between_two_probes();
    let calculations = |net: &Net| {
        let commands = net.host(1).commands.iter();
        commands
            .filter(|command| matches!(command, crate::dataplane::Command::Routes(_)))
            .count()
    };
    net.cut(1, 9);
    let two_again = net.probe(1, "10.9.0.9:2".parse().unwrap(), &local(9));
    assert!(net.probes[two].closed.is_some());
    let before = calculations(&net);
    let payload = vec![0; 4 << 20];
    for number in 0..8 {
        let mut payload = payload.clone();
        payload[0] = number;
        net.probe_sends(one, &gossip("strange", GossipKind::Neighbours, 8, &payload));
    }
    assert_eq!(
        calculations(&net),
        before + 1,
        "done early, and waited for no more"
    );
    assert!(net.taken(two_again).len() >= 4);
}
