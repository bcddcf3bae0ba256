//! The recorded traces of whole allocators.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::super::*;
use crate::testing::{list, peer, ring, vectors};
use crate::wire::tests::{state, unicast};
use crate::wire::{GossipState, Unicast};

/// An allocator with a disk that never fails.
struct Peer {
    allocator: Allocator,
    saved: Saved,
}

enum Message {
    Broadcast,
    Unicast(PeerName, Vec<u8>),
}

struct Net {
    peers: BTreeMap<PeerName, Peer>,
    now: Now,
    /// What is under way, oldest first.
    queue: VecDeque<(PeerName, Message)>,
    answers: BTreeMap<(PeerName, RequestId), Answer>,
    /// Hears no broadcasts.
    deaf: Option<PeerName>,
    /// What was delivered in this step, and which peers refused it.
    log: Vec<Logged>,
}

#[derive(Debug, Clone, PartialEq)]
struct Logged {
    from: PeerName,
    to: Option<PeerName>,
    content: Content,
    refused: BTreeMap<PeerName, String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Content {
    State(GossipState),
    Unicast(Unicast),
}

/// Times are compared nowhere.
fn timeless(mut state: GossipState) -> GossipState {
    state.now = 0;
    state
}

impl Content {
    fn state(state: GossipState) -> Self {
        Self::State(timeless(state))
    }

    fn unicast(unicast: Unicast) -> Self {
        Self::Unicast(match unicast {
            Unicast::RingUpdate(state) => Unicast::RingUpdate(timeless(state)),
            other => other,
        })
    }
}

fn cidr(value: &Value) -> Cidr {
    value.as_str().unwrap().parse().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

pub(super) fn config(peer: &Value, seed: u8) -> Config {
    let universe = cidr(&peer["universe"]);
    let quorum = usize::try_from(peer["quorum"].as_u64().unwrap()).unwrap();
    let init = if let Some(seed) = peer.get("seed") {
        Init::Seed(list(seed, crate::testing::peer))
    } else if peer["observer"] == true {
        Init::Observer
    } else {
        Init::Consensus(Some(2 * quorum - 1))
    };
    let pre_claims = peer.get("preclaims").map(|claims| {
        list(claims, |claim| PreClaim {
            ident: text(&claim["ident"]).to_owned(),
            cidr: cidr(&claim["cidr"]),
            is_container: claim["is_container"].as_bool().unwrap(),
        })
    });
    Config {
        name: crate::testing::peer(&peer["name"]),
        uid: proto::PeerUid(peer["uid"].as_u64().unwrap()),
        nickname: text(&peer["nickname"]).to_owned(),
        universe,
        default_subnet: universe,
        init,
        pre_claims: pre_claims.unwrap_or_default(),
        rng_seed: [seed; 32],
    }
}

impl Net {
    fn new(now: Now) -> Self {
        Self {
            peers: BTreeMap::new(),
            now,
            queue: VecDeque::new(),
            answers: BTreeMap::new(),
            deaf: None,
            log: Vec::new(),
        }
    }

    fn add(&mut self, config: Config) {
        let name = config.name;
        let allocator = Allocator::start(config, None, self.now).unwrap();
        let saved = Saved::default();
        self.peers.insert(name, Peer { allocator, saved });
        self.tell_reachable();
    }

    fn tell_reachable(&mut self) {
        let names: BTreeSet<PeerName> = self.peers.keys().copied().collect();
        for (name, peer) in &mut self.peers {
            let mut others = names.clone();
            others.remove(name);
            peer.allocator.handle_reachable(others, self.now);
        }
    }

    fn collect(&mut self, name: PeerName) {
        let peer = self.peers.get_mut(&name).unwrap();
        while let Some(output) = peer.allocator.poll_output() {
            match output {
                Output::Save(save) => {
                    peer.saved.apply(&save.changes);
                    peer.allocator.handle_saved(save.seq, self.now);
                }
                Output::Answer(id, answer) => {
                    assert!(self.answers.insert((name, id), answer).is_none());
                }
                Output::Broadcast => self.queue.push_back((name, Message::Broadcast)),
                Output::Unicast { to, payload } => {
                    self.queue.push_back((name, Message::Unicast(to, payload)));
                }
            }
        }
        peer.allocator.check_consistency().unwrap();
    }

    fn settle(&mut self) {
        let names: Vec<PeerName> = self.peers.keys().copied().collect();
        for name in &names {
            self.collect(*name);
        }
        while let Some((from, message)) = self.queue.pop_front() {
            let mut refused = BTreeMap::new();
            let (to, content) = match message {
                Message::Unicast(to, payload) => {
                    if let Some(peer) = self.peers.get_mut(&to) {
                        let result = peer.allocator.handle_unicast(from, &payload, self.now);
                        refused.extend(result.err().map(|error| (to, error.0)));
                        self.collect(to);
                    }
                    (
                        Some(to),
                        Content::unicast(Unicast::decode(&payload).unwrap()),
                    )
                }
                Message::Broadcast => {
                    let unix = self.now.unix;
                    let deaf = self.deaf;
                    let payload = self.peers[&from].allocator.encode_state(unix);
                    for to in names
                        .iter()
                        .filter(|name| **name != from && deaf != Some(**name))
                    {
                        let peer = self.peers.get_mut(to).unwrap();
                        let result = peer.allocator.handle_broadcast(from, &payload, self.now);
                        refused.extend(result.err().map(|error| (*to, error.0)));
                        self.collect(*to);
                    }
                    (None, Content::state(GossipState::decode(&payload).unwrap()))
                }
            };
            self.log.push(Logged {
                from,
                to,
                content,
                refused,
            });
        }
    }

    /// The recorded form of an answer.
    fn result(&self, name: PeerName, id: RequestId) -> Option<String> {
        let answer = self.answers.get(&(name, id))?;
        Some(match answer {
            Ok(Done::Allocated(cidr)) => cidr.address.to_string(),
            Ok(Done::Claimed(_) | Done::Released | Done::Primed | Done::ShutDown(_)) => "ok".into(),
            Ok(Done::Addresses(cidrs)) => {
                let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
                cidrs.join(" ")
            }
            Ok(Done::TakenOver(count)) => count.to_string(),
            Ok(Done::Owned(_)) => unreachable!(),
            Err(refusal) => format!("ERROR {refusal}"),
        })
    }
}

fn owned(value: &Value, name: &str) -> Value {
    let mut owned = value.clone();
    // Here what was found at the start stays a container's.
    if let Some(found) = owned.get_mut("cc") {
        assert_eq!(name, "preclaims");
        found["is_container"] = true.into();
    }
    owned
}

pub(super) fn owned_of(allocator: &Allocator) -> Value {
    let owned = allocator.owned.iter();
    owned
        .map(|(ident, owned)| {
            let value = json!({"is_container": owned.is_container, "cidrs": owned.cidrs});
            ((**ident).to_owned(), value)
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

pub(super) fn space_text(allocator: &Allocator) -> String {
    let mut text = String::new();
    let runs: [(&str, Vec<Range>); 2] = [
        ("owned:", allocator.space.used().collect()),
        ("free:", allocator.space.free().collect()),
    ];
    for (label, runs) in runs {
        text.push_str(if runs.is_empty() { "" } else { label });
        for run in runs {
            text.push_str(&format!(" {}+{} ", run.start, run.size()));
        }
    }
    if text.is_empty() {
        text.push_str("No address ranges owned");
    }
    text
}

fn check_state(allocator: &Allocator, expected: &Value, scenario: &str, context: &str) {
    assert_eq!(*allocator.ring(), ring(&expected["ring"]), "{context}");
    assert_eq!(
        owned_of(allocator),
        owned(&expected["owned"], scenario),
        "{context}"
    );
    assert_eq!(space_text(allocator), text(&expected["space"]), "{context}");
    assert_eq!(
        allocator.awaiting_consensus, expected["awaiting_consensus"],
        "{context}"
    );
    let pending = json!({
        "allocates": allocator.allocates.len(),
        "claims": allocator.claims.len(),
        "primes": allocator.primes.len(),
    });
    assert_eq!(pending, expected["pending"], "{context}");
    let nicknames = expected["nicknames"].as_object().unwrap().iter();
    let nicknames: BTreeMap<PeerName, Vec<u8>> = nicknames
        .map(|(name, nickname)| (name.parse().unwrap(), text(nickname).into()))
        .collect();
    assert_eq!(allocator.nicknames, nicknames, "{context}");
}

/// Whom to ask is chosen at random. Whether this seed chooses as recorded.
fn play(scenario: &Value, seed: u8) -> bool {
    let scenario_name = text(&scenario["name"]);
    let now = Now {
        at: Instant::now(),
        unix: 1_700_000_000,
    };
    let mut net = Net::new(now);
    let mut pending: Vec<(Value, PeerName, RequestId)> = Vec::new();
    for (at, step) in scenario["steps"].as_array().unwrap().iter().enumerate() {
        let action = &step["action"];
        let context = format!("{scenario_name}, step {at}: {action}");
        let op = text(&action["op"]);
        net.log.clear();
        net.now.at += Duration::from_millis(1);
        if scenario_name == "two-peers-donation" {
            // What the recording does between two steps.
            if action["ident"] == "b1" {
                net.add(config(
                    &json!({
                        "name": "02:00:00:00:00:0b", "uid": 22, "nickname": "host-0b",
                        "quorum": 2, "observer": false, "universe": "10.32.0.0/24",
                    }),
                    seed,
                ));
            } else if action["ident"] == "b9" {
                net.peers.remove(&"02:00:00:00:00:0a".parse().unwrap());
                net.tell_reachable();
            }
        }
        let down = scenario_name == "claim-before-ring" && op != "tick";
        net.deaf = down.then(|| "02:00:00:00:00:0b".parse().unwrap());
        let now = net.now;
        let ident = action.get("ident").map_or("", text);
        let name = action.get("peer").map(peer).unwrap_or_default();
        let mut request = None;
        let mut result = "ok".to_owned();
        if op == "start-all" {
            for peer in scenario["inputs"]["peers"].as_array().unwrap() {
                net.add(config(peer, seed));
            }
        } else {
            let allocator = &mut net.peers.get_mut(&name).unwrap().allocator;
            let is_container = || action["is_container"].as_bool().unwrap();
            match op {
                "allocate" => {
                    let subnet = cidr(&action["subnet"]);
                    request = Some(allocator.allocate(ident, subnet, is_container(), now));
                }
                "claim" => {
                    let quiet = action["no_error_on_unknown"].as_bool().unwrap();
                    let cidr = cidr(&action["cidr"]);
                    request = Some(allocator.claim(ident, cidr, is_container(), quiet, now));
                }
                "free" => {
                    let address = crate::testing::address(&action["address"]);
                    request = Some(allocator.release(ident, address, now));
                }
                "delete" => request = Some(allocator.release_all(ident, now)),
                "lookup" => {
                    let range = cidr(&action["subnet"]).host_range();
                    request = Some(allocator.lookup(ident, range, now));
                }
                "rmpeer" | "rmpeer-nickname" | "rmpeer-unknown" | "rmpeer-self" => {
                    request = Some(allocator.take_over(text(&action["arg"]), true, now));
                }
                "shutdown" => request = Some(allocator.shut_down(now)),
                "container-died" => allocator.container_died(text(&action["arg"]), now),
                "container-started" => allocator.container_started(text(&action["arg"]), now),
                "container-destroyed" => allocator.container_destroyed(text(&action["arg"]), now),
                "prune-owned" => {
                    let alive = text(&action["arg"]).trim_matches(['[', ']']).to_owned();
                    allocator.prune(|ident| alive.split(' ').any(|alive| alive == ident), now);
                }
                "tick" => {
                    // Two of them take a dead container's addresses.
                    net.now.at += Duration::from_secs(16);
                    allocator.handle_timeout(net.now);
                }
                "periodic-gossip-to-all" => {
                    let payload = allocator.encode_state(now.unix);
                    let others: Vec<PeerName> = net.peers.keys().copied().collect();
                    for other in others.into_iter().filter(|other| *other != name) {
                        let allocator = &mut net.peers.get_mut(&other).unwrap().allocator;
                        if let Err(error) = allocator.handle_gossip(&payload, now) {
                            result = format!("{other}: ERROR {error}; ");
                        }
                    }
                }
                other => panic!("{other}"),
            }
        }
        net.settle();

        // Messages.
        let mut expected: Vec<Logged> = step["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| Logged {
                from: peer(&message["from"]),
                to: message.get("to").map(peer),
                content: if message.get("to").is_some() {
                    Content::unicast(unicast(&message["decoded"]))
                } else {
                    Content::state(state(&message["decoded"]))
                },
                refused: message.get("errors").map_or_else(BTreeMap::new, |errors| {
                    let errors = errors.as_object().unwrap().iter();
                    errors
                        .map(|(peer, error)| (peer.parse().unwrap(), text(error).to_owned()))
                        .collect()
                }),
            })
            .collect();
        // The same said twice may be said once.
        expected.dedup();
        net.log.dedup();
        let asked = |log: &[Logged]| -> Vec<Option<PeerName>> {
            let requests = log.iter().filter(|logged| {
                matches!(logged.content, Content::Unicast(Unicast::SpaceRequest(_)))
            });
            requests.map(|logged| logged.to).collect()
        };
        if asked(&expected) != asked(&net.log) {
            return false;
        }
        // Values agreed upon are in no order.
        for logged in net.log.iter_mut().chain(&mut expected) {
            if let Content::State(GossipState {
                paxos: Some(claims),
                ..
            }) = &mut logged.content
            {
                for claims in claims.values_mut() {
                    claims.accepted_value.value.sort_unstable();
                }
            }
        }
        assert_eq!(net.log, expected, "{context}");

        // Results.
        if let Some(id) = request {
            match net.result(name, id) {
                Some(text) => result = text,
                None => {
                    "PENDING".clone_into(&mut result);
                    pending.push((action.clone(), name, id));
                }
            }
        }
        let mut completed = Vec::new();
        pending.retain(|(action, name, id)| {
            let result = net.result(*name, *id);
            completed.extend(
                result
                    .clone()
                    .map(|result| (action["ident"].clone(), result)),
            );
            result.is_none()
        });
        let expected = step
            .get("completed_earlier_actions")
            .map_or_else(Vec::new, |actions| {
                list(actions, |earlier| {
                    let action = text(&earlier["action"]);
                    let ident = action
                        .split("ident:")
                        .nth(1)
                        .unwrap()
                        .split(' ')
                        .next()
                        .unwrap();
                    (Value::from(ident), text(&earlier["result"]).to_owned())
                })
            });
        assert_eq!(completed, expected, "{context}");
        if let Some(expected) = step
            .get("result")
            .map(text)
            .filter(|result| !result.is_empty())
        {
            assert_eq!(result, expected, "{context}");
        } else if op == "lookup" {
            assert_eq!(result, "", "{context}");
        }

        // States.
        for (name, expected) in step["state_after"].as_object().unwrap() {
            let peer = &net.peers[&name.parse().unwrap()];
            check_state(&peer.allocator, expected, scenario_name, &context);
        }
        for peer in net.peers.values() {
            assert!(peer.allocator.is_saved());
            if !peer.allocator.ring_detached {
                assert_eq!(peer.saved.ring, *peer.allocator.ring(), "{context}");
                assert_eq!(peer.allocator.public, peer.saved.ring, "{context}");
            }
            peer.allocator.ring().check().unwrap();
        }
    }
    true
}

#[test]
fn scenarios_as_recorded() {
    let scenarios = vectors("ipam-scenarios.json");
    assert_eq!(scenarios.len(), 10);
    for scenario in &scenarios {
        let seed = (0..64).find(|seed| play(scenario, *seed));
        assert!(seed.is_some(), "{}", scenario["name"]);
    }
}
