use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::gossip::GossipData;
use proto::{PeerUid, ShortId};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

fn name(number: u64) -> PeerName {
    PeerName::from_u64(number).unwrap()
}

fn peers(ours: u64) -> Peers {
    Peers::new(
        name(ours),
        "",
        PeerUid(ours),
        ShortId(u16::try_from(ours).unwrap()),
    )
}

const UNICAST_TO_US: GossipKind = GossipKind::Unicast {
    destination: PeerName::UNKNOWN,
};

struct Bench {
    channels: Channels,
    peers: Peers,
    now: Instant,
    rng: RefCell<StdRng>,
}

impl Bench {
    fn new() -> Self {
        Self {
            channels: Channels::new(7),
            peers: peers(1),
            now: Instant::now(),
            rng: RefCell::new(StdRng::seed_from_u64(1)),
        }
    }

    fn receive(
        &mut self,
        channel: &str,
        kind: GossipKind,
        payload: &[u8],
    ) -> Result<Received, GossipRefused> {
        let kind = if kind == UNICAST_TO_US {
            GossipKind::Unicast {
                destination: name(1),
            }
        } else {
            kind
        };
        let message = GossipMessage::new(channel.as_bytes(), kind, name(2), payload);
        let rng = &mut *self.rng.borrow_mut();
        self.channels
            .receive(&message, &mut self.peers, self.now, rng)
    }

    /// What becomes of gossip on a channel without owner.
    fn relays(&mut self, channel: &str, payload: &[u8]) -> bool {
        match self
            .receive(channel, GossipKind::Neighbours, payload)
            .unwrap()
            .verdict
        {
            Verdict::Nothing => false,
            Verdict::Gossip(data) => {
                assert_eq!(payloads(data), [payload]);
                true
            }
            other => panic!("{other:?}"),
        }
    }
}

fn payloads(mut data: Pending) -> Vec<Vec<u8>> {
    let peers = peers(1);
    std::iter::from_fn(|| data.next_payload(&peers)).collect()
}

#[test]
fn topology_goes_to_the_peers() {
    let mut bench = Bench::new();
    let mut teller = peers(2);
    teller.add_connection(name(3), "10.0.0.3:6783", true);
    let payload = teller.encode([name(2)]);
    let received = bench
        .receive("topology", GossipKind::Neighbours, &payload)
        .unwrap();
    let applied = received.topology.unwrap();
    assert_eq!(applied.created, BTreeSet::from([name(2), name(3)]));
    assert!(matches!(
        received.verdict,
        Verdict::Gossip(Pending::Topology(names)) if names == BTreeSet::from([name(2)])
    ));
    // The same again is not news, but as a broadcast it goes on.
    let received = bench
        .receive("topology", GossipKind::Neighbours, &payload)
        .unwrap();
    assert!(received.topology.unwrap().improved.is_empty());
    assert!(matches!(received.verdict, Verdict::Nothing));
    let received = bench
        .receive("topology", GossipKind::Broadcast, &payload)
        .unwrap();
    assert!(matches!(
        received.verdict,
        Verdict::Broadcast(Pending::Topology(names)) if names == BTreeSet::from([name(2)])
    ));
    for kind in [GossipKind::Neighbours, GossipKind::Broadcast] {
        let received = bench.receive("topology", kind, b"").unwrap();
        assert!(matches!(received.verdict, Verdict::Nothing));
        let refused = bench.receive("topology", kind, b"\x03\x01").unwrap_err();
        assert!(refused.0.starts_with("bad topology update"), "{refused}");
    }
    let refused = bench.receive("topology", UNICAST_TO_US, b"").unwrap_err();
    assert_eq!(refused.0, "unexpected topology gossip unicast");
}

#[test]
fn unicasts_to_others_are_relayed_on_every_channel() {
    let mut bench = Bench::new();
    let destination = name(9);
    for channel in ["topology", "unheard of"] {
        let kind = GossipKind::Unicast { destination };
        let received = bench.receive(channel, kind, b"x").unwrap();
        assert!(matches!(received.verdict, Verdict::Relay(to) if to == destination));
    }
    let received = bench.receive("unheard of", UNICAST_TO_US, b"x").unwrap();
    assert!(matches!(received.verdict, Verdict::Nothing));
}

struct Data(Vec<u8>);

impl GossipData for Data {
    fn merge(&mut self, _: Box<dyn GossipData>) {}

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

/// Takes down what it is told; `bad` is refused and `old` is not news.
#[derive(Clone, Default)]
struct Owner(Arc<Mutex<Vec<String>>>);

impl Owner {
    fn note(
        &self,
        what: &str,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        let text = String::from_utf8_lossy(payload);
        self.0.lock().unwrap().push(format!("{what} {text}"));
        match payload {
            b"bad" => Err(GossipRefused("bad payload".to_owned())),
            b"old" => Ok(None),
            news => Ok(Some(Box::new(Data(news.to_vec())))),
        }
    }
}

impl GossipChannel for Owner {
    fn on_unicast(&mut self, source: PeerName, payload: &[u8]) -> Result<(), GossipRefused> {
        self.note(&format!("unicast of {source}"), payload)
            .map(|_| ())
    }

    fn on_broadcast(
        &mut self,
        source: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        self.note(&format!("broadcast of {source}"), payload)
    }

    fn on_gossip(
        &mut self,
        neighbour: PeerName,
        payload: &[u8],
    ) -> Result<Option<Box<dyn GossipData>>, GossipRefused> {
        self.note(&format!("gossip of {neighbour}"), payload)
    }

    fn full_state(&mut self) -> Option<Box<dyn GossipData>> {
        self.note("full state", b"all").unwrap()
    }

    fn on_peer_learnt(&mut self, peer: PeerName) {
        self.0.lock().unwrap().push(format!("learnt {peer}"));
    }

    fn on_peer_forgotten(&mut self, peer: PeerName) {
        self.0.lock().unwrap().push(format!("forgotten {peer}"));
    }
}

#[test]
fn owners_get_what_is_on_their_channel() {
    let mut bench = Bench::new();
    let owner = Owner::default();
    bench
        .channels
        .register("names", Box::new(owner.clone()))
        .unwrap();
    for taken in ["names", "topology"] {
        let again = bench.channels.register(taken, Box::new(owner.clone()));
        assert_eq!(again, Err(ChannelTaken(taken.into())));
    }
    let received = bench.receive("names", UNICAST_TO_US, b"one").unwrap();
    assert!(matches!(received.verdict, Verdict::Nothing));
    let received = bench
        .receive("names", GossipKind::Broadcast, b"two")
        .unwrap();
    assert!(
        matches!(received.verdict, Verdict::Broadcast(data) if payloads(data.clone()) == [b"two"])
    );
    let received = bench
        .receive("names", GossipKind::Neighbours, b"three")
        .unwrap();
    assert!(
        matches!(received.verdict, Verdict::Gossip(data) if payloads(data.clone()) == [b"three"])
    );
    for kind in [GossipKind::Broadcast, GossipKind::Neighbours] {
        let received = bench.receive("names", kind, b"old").unwrap();
        assert!(matches!(received.verdict, Verdict::Nothing));
    }
    for kind in [GossipKind::Broadcast, GossipKind::Neighbours, UNICAST_TO_US] {
        assert_eq!(
            bench.receive("names", kind, b"bad").unwrap_err().0,
            "bad payload"
        );
    }
    let states = bench.channels.full_state(&bench.peers);
    let channels: Vec<_> = states
        .iter()
        .map(|(channel, _)| channel.to_string())
        .collect();
    assert_eq!(channels, ["topology", "names"]);
    bench.channels.peer_learnt(name(9));
    bench.channels.peer_forgotten(name(9));
    let two = name(2);
    let expected = [
        format!("unicast of {two} one"),
        format!("broadcast of {two} two"),
        format!("gossip of {two} three"),
        format!("broadcast of {two} old"),
        format!("gossip of {two} old"),
        format!("broadcast of {two} bad"),
        format!("gossip of {two} bad"),
        format!("unicast of {two} bad"),
        "full state all".to_owned(),
        format!("learnt {}", name(9)),
        format!("forgotten {}", name(9)),
    ];
    assert_eq!(*owner.0.lock().unwrap(), expected);
    assert_eq!(bench.channels.relayed().count(), 0);
}

#[test]
fn gossip_without_owner_is_relayed_once() {
    let mut bench = Bench::new();
    assert!(bench.relays("a", b"one"));
    assert!(!bench.relays("a", b"one"));
    // Another channel, another payload, and where one ends and the other begins.
    assert!(bench.relays("b", b"one"));
    assert!(bench.relays("a", b"two"));
    assert!(bench.relays("ao", b"ne"));
    assert!(bench.relays("a", b"") && !bench.relays("a", b""));
    // Broadcasts have a tree that keeps them from circling.
    for _ in 0..2 {
        let received = bench.receive("a", GossipKind::Broadcast, b"one").unwrap();
        assert!(
            matches!(received.verdict, Verdict::Broadcast(data) if payloads(data.clone()) == [b"one"])
        );
    }
    let relayed: Vec<_> = bench.channels.relayed().map(ToString::to_string).collect();
    assert_eq!(relayed, ["a", "ao", "b"]);
    // Surrogates have nothing to tell of their own.
    assert_eq!(bench.channels.full_state(&bench.peers).len(), 1);
}

#[test]
fn what_was_relayed_is_forgotten_when_something_new_comes_later() {
    let mut bench = Bench::new();
    assert!(bench.relays("a", b"one"));
    bench.now += SURROGATE_MEMORY - Duration::from_millis(1);
    assert!(!bench.relays("a", b"one"));
    assert!(bench.relays("a", b"two"));
    bench.now += Duration::from_millis(1);
    // Only something new makes old things forgotten.
    assert!(!bench.relays("a", b"one"));
    assert!(bench.relays("a", b"three"));
    assert!(bench.relays("a", b"one"));
    assert!(!bench.relays("a", b"two"));
    assert_eq!(
        bench.channels.memory.order.len(),
        bench.channels.memory.known.len()
    );
}

#[test]
fn a_full_memory_relays_nothing_new() {
    let mut bench = Bench::new();
    for number in 0..MAX_RELAY_MEMORY {
        assert!(bench.relays("a", &number.to_be_bytes()));
    }
    assert!(!bench.relays("a", b"one too many"));
    assert_eq!(bench.channels.dropped(), 1);
    assert!(!bench.relays("a", &0_usize.to_be_bytes()), "still known");
    bench.now += SURROGATE_MEMORY;
    assert!(bench.relays("a", b"one too many"));
    assert_eq!(bench.channels.memory.order.len(), 1);
}

#[test]
fn names_of_channels_are_bounded() {
    let mut bench = Bench::new();
    for number in 0..2 * MAX_RELAYED_CHANNELS {
        assert!(bench.relays(&number.to_string(), b"x"));
    }
    assert_eq!(bench.channels.relayed().count(), MAX_RELAYED_CHANNELS);
    assert!(bench.relays(&"n".repeat(MAX_CHANNEL_NAME_LEN), b"x"));
    assert!(!bench.relays(&"n".repeat(MAX_CHANNEL_NAME_LEN + 1), b"x"));
    assert_eq!(bench.channels.dropped(), 1);
    // An owner that comes later takes over.
    bench
        .channels
        .register("0", Box::new(Owner::default()))
        .unwrap();
    assert_eq!(bench.channels.relayed().count(), MAX_RELAYED_CHANNELS - 1);
    assert_eq!(ChannelName::from(&b"a\n\xff"[..]).to_string(), r"a\n\xff");
}
