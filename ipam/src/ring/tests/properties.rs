//! Merging, in histories such as peers make them: each peer changes nothing but entries that its
//! own copy says are its own.

use proptest::prelude::*;

use super::*;

const SIZE: u32 = 64;
const PEERS: usize = 4;

fn name(index: usize) -> PeerName {
    PeerName::from_u64(index as u64 + 1).unwrap()
}

/// Nobody's copy: one that just follows what it hears.
const BYSTANDER: PeerName = PeerName::UNKNOWN;

#[derive(Debug, Clone)]
enum Event {
    /// A peer gives a part of one of its ranges away.
    Grant {
        from: usize,
        to: usize,
        which: usize,
        start: u32,
        len: u32,
    },
    /// A peer counts its free addresses.
    Report {
        peer: usize,
        which: usize,
        free: u32,
    },
    /// A peer hears from another.
    Hear { peer: usize, from: usize },
    /// A peer leaves and hands everything over. It hears and says nothing any more.
    Leave { peer: usize, heir: usize },
}

fn event() -> impl Strategy<Value = Event> {
    let peer = 0..PEERS;
    prop_oneof![
        4 => (peer.clone(), peer.clone(), 0_usize..8, 0..SIZE, 1..SIZE)
            .prop_map(|(from, to, which, start, len)| Event::Grant { from, to, which, start, len }),
        2 => (peer.clone(), 0_usize..8, 0..SIZE)
            .prop_map(|(peer, which, free)| Event::Report { peer, which, free }),
        4 => (peer.clone(), peer.clone()).prop_map(|(peer, from)| Event::Hear { peer, from }),
        1 => (peer.clone(), peer).prop_map(|(peer, heir)| Event::Leave { peer, heir }),
    ]
}

/// The copies of all peers after these events, and all copies there ever were on the way.
fn play(events: Vec<Event>) -> (Vec<Ring>, Vec<Ring>) {
    let start = Address(1000);
    let mut first = Ring::new(Range::sized(start, SIZE));
    let peers: Vec<PeerName> = (0..PEERS).map(name).collect();
    first.divide(&peers).unwrap();
    let mut copies = vec![first.clone(); PEERS];
    let mut all = vec![first];
    let mut left = [false; PEERS];
    for event in events {
        let changed = match event {
            Event::Grant {
                from,
                to,
                which,
                start,
                len,
            } => {
                let ours = copies[from].owned_by(name(from));
                if left[from] || from == to || ours.is_empty() {
                    continue;
                }
                let range = ours[which % ours.len()];
                let first = range.start.0 + start % range.size();
                let end = first.saturating_add(len).min(range.end.0);
                let part = Range::new(Address(first), Address(end));
                copies[from].grant(part, name(from), name(to)).unwrap();
                from
            }
            Event::Report { peer, which, free } => {
                let ours = copies[peer].owned_by(name(peer));
                if left[peer] || ours.is_empty() {
                    continue;
                }
                let range = ours[which % ours.len()];
                let free = free % (range.size() + 1);
                let known = copies[peer].entry_of(range.start).unwrap().free;
                let change = i64::from(free) - i64::from(known);
                let changes = BTreeMap::from([(range.start, change)]);
                copies[peer].adjust_free(&changes, name(peer));
                peer
            }
            Event::Hear { peer, from } => {
                if left[peer] {
                    continue;
                }
                let theirs = copies[from].clone();
                let before = copies[peer].clone();
                copies[peer].merge(&theirs, name(peer), |_| true).unwrap();
                check_monotonic(&before, &copies[peer]);
                peer
            }
            Event::Leave { peer, heir } => {
                if left[peer] || peer == heir || left[heir] {
                    continue;
                }
                copies[peer].transfer(name(peer), name(heir));
                left[peer] = true;
                peer
            }
        };
        copies[changed].check().unwrap();
        all.push(copies[changed].clone());
    }
    (copies, all)
}

fn check_monotonic(before: &Ring, after: &Ring) {
    for entry in before.entries() {
        let at = after.find(entry.token).expect("tokens are never removed");
        assert!(after.entries()[at].version >= entry.version);
    }
}

fn merged(a: &Ring, b: &Ring) -> Ring {
    let mut result = a.clone();
    result.merge(b, BYSTANDER, |_| false).unwrap();
    check_monotonic(a, &result);
    check_monotonic(b, &result);
    result
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn copies_merge_in_any_order(
        events in proptest::collection::vec(event(), 0..60),
        picks in proptest::collection::vec(0_usize..1000, 3),
    ) {
        let (_, all) = play(events);
        let [a, b, c] = [0, 1, 2].map(|pick| &all[picks[pick] % all.len()]);
        prop_assert_eq!(&merged(a, a), a);
        prop_assert_eq!(merged(a, b), merged(b, a));
        prop_assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
        prop_assert_eq!(&merged(&merged(a, b), a), &merged(a, b));
    }

    #[test]
    fn everybody_ends_up_the_same(events in proptest::collection::vec(event(), 0..60)) {
        let (copies, all) = play(events);
        let result = copies.iter().skip(1).fold(copies[0].clone(), |a, b| merged(&a, b));
        // Nothing that ever was adds anything.
        for old in &all {
            prop_assert_eq!(&merged(&result, old), &result);
        }
        // The owners see it no other way.
        for (index, copy) in copies.iter().enumerate() {
            let mut own = copy.clone();
            own.merge(&result, name(index), |_| true).unwrap();
            prop_assert_eq!(&own, &result);
        }
    }

    #[test]
    fn never_two_owners(events in proptest::collection::vec(event(), 0..60)) {
        let (copies, _) = play(events);
        let mut owned = BTreeMap::new();
        for (index, copy) in copies.iter().enumerate() {
            for range in copy.owned_by(name(index)) {
                for address in range.start.0..range.end.0 {
                    prop_assert_eq!(owned.insert(address, index), None);
                }
            }
        }
    }

    #[test]
    fn no_address_in_use_is_ever_lost(
        mine in ring_of_anything(),
        theirs in ring_of_anything(),
        used in proptest::collection::btree_set(0..SIZE, 0..8),
        me in 0..PEERS,
    ) {
        let me = name(me);
        let used: Vec<Address> = used
            .into_iter()
            .map(|offset| Address(1000 + offset))
            .filter(|address| mine.owner(*address) == Some(me))
            .collect();
        let mut result = mine.clone();
        let busy = |ranges: &[Range]| {
            used.iter().any(|at| ranges.iter().any(|range| range.contains(*at)))
        };
        let outcome = result.merge(&theirs, me, busy);
        prop_assert!(!lost_in_use(&mine, &result, me, &used));
        prop_assert_eq!(result.check(), Ok(()));
        check_monotonic(&mine, &result);
        if outcome.is_ok() {
            check_monotonic(&theirs, &result);
            // What has changed is known.
            let changed = result.take_changed();
            for entry in result.entries() {
                let same = mine.entries().contains(entry);
                prop_assert!(same || changed.contains(entry), "{entry:?}");
            }
            // And to merge it again changes nothing.
            let mut again = result.clone();
            again.merge(&theirs, me, busy).unwrap();
            prop_assert_eq!(again, result);
        }
    }
}

/// Any ring, with no sensible history.
fn ring_of_anything() -> impl Strategy<Value = Ring> {
    let entry = (0..PEERS, 0_u32..4, 0..=SIZE);
    proptest::collection::btree_map(0..SIZE, entry, 0..8).prop_map(|entries| {
        let universe = Range::sized(Address(1000), SIZE);
        let mut ring = Ring::new(universe);
        let entries: Vec<Entry> = entries
            .into_iter()
            .map(|(offset, (peer, version, free))| Entry {
                token: Address(1000 + offset),
                peer: name(peer),
                version,
                free,
            })
            .collect();
        ring.overlay(&entries, &[]);
        ring.take_changed();
        ring
    })
}
