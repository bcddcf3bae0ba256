use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::testing::{claims, node_id, number, proposal_id, vectors};

/// Values have no order on the wire.
fn sorted(claims: &Claims) -> Claims {
    let mut sorted = claims.clone();
    for claims in sorted.values_mut() {
        claims.accepted_value.value.sort_unstable();
    }
    sorted
}

#[test]
fn traces_as_recorded() {
    // Where the original sees an agreement among acceptances of different proposals.
    let mut stricter = Vec::new();
    for vector in vectors("ipam-paxos.json") {
        let name = vector["name"].as_str().unwrap();
        let inputs = &vector["inputs"];
        let quorum = number(&inputs["quorum"]) as usize;
        let mut nodes: Vec<Elector> = inputs["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| Elector::new(node_id(id.as_str().unwrap())))
            .collect();
        for node in &mut nodes {
            node.set_quorum(quorum);
        }
        for (at, step) in vector["expected"].as_array().unwrap().iter().enumerate() {
            let context = format!("{name} step {at}");
            let index = number(&step["node"]) as usize;
            if step["op"] == "propose" {
                nodes[index].propose();
            } else {
                let from = nodes[number(&step["from"]) as usize].claims().clone();
                let changed = nodes[index].update(&from);
                assert_eq!(
                    changed,
                    step["update_changed"].as_bool().unwrap(),
                    "{context}"
                );
                let changed = changed && nodes[index].think();
                assert_eq!(
                    changed,
                    step["think_changed"].as_bool().unwrap(),
                    "{context}"
                );
            }
            let node = &nodes[index];
            if let Some(after) = step.get("knows_after") {
                assert_eq!(sorted(node.claims()), sorted(&claims(after)), "{context}");
            }
            let agreed = node.agreed().map(|value| (value.origin, value.peers()));
            let expected = &step["consensus"];
            if agreed.is_none() && !expected.is_null() {
                stricter.push(context);
                continue;
            }
            let expected = (!expected.is_null()).then(|| {
                let peers = crate::testing::list(&expected["value_sorted"], crate::testing::peer);
                (proposal_id(&expected["origin"]), peers)
            });
            assert_eq!(agreed, expected, "{context}");
        }
    }
    assert_eq!(stricter, ["random-5 step 45"]);
}

#[test]
fn agreement_on_one_value_across_proposals_does_not_count() {
    // Five electors, quorum three. Proposal 1 by A is accepted by A and B; 2 by E, promised by C
    // and D, by E alone; 3 by C, promised by A and B, by C alone, with the value of 1. Now three
    // have accepted the value of 1. Yet proposal 4 by E, promised by D and A, must bring that of 2.
    let id = |name: u64| NodeId {
        name: PeerName::from_u64(name).unwrap(),
        uid: PeerUid(name),
    };
    let [a, b, c, d, e] = [1, 2, 3, 4, 5].map(|name| {
        let mut elector = Elector::new(id(name));
        elector.set_quorum(3);
        elector
    });
    let (mut a, mut b, mut c, mut d, mut e) = (a, b, c, d, e);
    let hear = |to: &mut Elector, from: &Elector| {
        to.update(from.claims());
        to.think();
    };
    a.propose();
    hear(&mut b, &a);
    hear(&mut c, &a);
    hear(&mut a, &b);
    hear(&mut a, &c); // accepts 1
    hear(&mut b, &a); // accepts 1
    e.update(c.claims());
    e.propose(); // 2
    hear(&mut c, &e);
    hear(&mut d, &e);
    hear(&mut e, &c);
    hear(&mut e, &d); // accepts 2
    assert_eq!(e.own_claims().unwrap().accepted.round, 2);
    let a_before = a.clone();
    c.propose(); // 3
    hear(&mut a, &c);
    hear(&mut b, &c);
    hear(&mut c, &a);
    hear(&mut c, &b); // accepts 3
    let accepted = c.own_claims().unwrap();
    assert_eq!(
        (
            accepted.accepted.round,
            accepted.accepted_value.origin.round
        ),
        (3, 1)
    );
    assert_eq!(c.agreed(), None);
    // A has promised 3, but not heard that it was accepted when E asks.
    e.update(a_before.claims());
    e.propose();
    e.propose(); // 4 or more
    hear(&mut a, &e);
    hear(&mut d, &e);
    hear(&mut e, &a);
    hear(&mut e, &d);
    hear(&mut a, &e);
    hear(&mut d, &e);
    hear(&mut e, &a);
    hear(&mut e, &d);
    assert_eq!(e.agreed().unwrap().origin.round, 2);
}

#[test]
fn without_a_quorum_nothing_is_accepted_or_agreed() {
    let id = NodeId {
        name: PeerName::from_u64(1).unwrap(),
        uid: PeerUid(9),
    };
    let mut first = Elector::new(id);
    first.set_quorum(2);
    first.propose();
    let mut second = Elector::resume(id, first.own_claims().unwrap().clone());
    assert!(!second.think());
    assert_eq!(second.agreed(), None);
    second.set_quorum(1);
    second.propose();
    assert_eq!(second.own_claims().unwrap().accepted.round, 2);
    assert_eq!(second.agreed().unwrap().peers(), [id.name]);
}

#[derive(Debug, Clone)]
enum Event {
    Propose(usize),
    Hear { to: usize, from: usize },
    Restart(usize),
}

fn event(count: usize) -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => (0..count).prop_map(Event::Propose),
        12 => (0..count, 0..count).prop_map(|(to, from)| Event::Hear { to, from }),
        1 => (0..count).prop_map(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn never_two_agreements(
        count in 1_usize..6,
        events in proptest::collection::vec(event(5), 0..250),
    ) {
        let mut nodes: Vec<Elector> = (1..=count as u64)
            .map(|name| {
                let name = PeerName::from_u64(name).unwrap();
                let mut node = Elector::new(NodeId { name, uid: PeerUid(7) });
                node.set_quorum(count / 2 + 1);
                node
            })
            .collect();
        let mut agreed = BTreeSet::new();
        for event in events {
            match event {
                Event::Propose(at) => nodes[at % count].propose(),
                Event::Hear { to, from } => {
                    let heard = nodes[from % count].claims().clone();
                    let to = &mut nodes[to % count];
                    if to.update(&heard) {
                        to.think();
                    }
                }
                Event::Restart(at) => {
                    // All but its own claims is gone.
                    let node = &mut nodes[at % count];
                    let claims = node.own_claims().cloned().unwrap_or_default();
                    let quorum = node.quorum();
                    *node = Elector::resume(node.id(), claims);
                    node.set_quorum(quorum);
                }
            }
            for node in &nodes {
                agreed.extend(node.agreed().map(AcceptedValue::peers));
            }
            prop_assert!(agreed.len() <= 1, "{agreed:?}");
        }
    }
}

#[test]
fn too_many_electors_are_ignored() {
    let mut elector = Elector::new(NodeId::default());
    let received: Claims = (0..2 * MAX_ELECTORS as u64)
        .map(|uid| {
            let id = NodeId {
                name: PeerName::UNKNOWN,
                uid: PeerUid(uid),
            };
            (id, NodeClaims::default())
        })
        .collect();
    assert!(elector.update(&received));
    assert_eq!(elector.claims().len(), MAX_ELECTORS);
    assert!(!elector.update(&received));
}
