//! Requests, and what becomes of them.

use super::host::{Host, cidr, config, name, talk};
use super::*;
use crate::wire::Unicast;

#[test]
fn priming_alone_needs_no_tick() {
    let mut host = Host::start(config(1, Init::Consensus(Some(1))), None);
    let id = host.call(super::super::Allocator::prime);
    assert_eq!(host.answer(id).unwrap(), "primed");
    assert_eq!(host.allocator.poll_timeout(), None);
}

#[test]
fn the_quorum_is_guessed_from_the_targets() {
    for (targets, quorum) in [(0, 1), (1, 2), (2, 2), (3, 3), (4, 3)] {
        let mut host = Host::start(config(1, Init::Consensus(None)), None);
        host.allocator.handle_target_count(targets);
        host.call(super::super::Allocator::prime);
        let status = host.allocator.status();
        let known = (quorum > 1).then(|| status.paxos.unwrap().quorum);
        assert_eq!(known.unwrap_or(1), quorum, "{targets}");
    }
}

#[test]
fn who_goes_away_is_forgotten_at_once() {
    let mut host = Host::start(config(1, Init::Consensus(Some(3))), None);
    let allocate = host.allocate("a");
    let claim = host.claim("b", "10.32.0.9");
    let prime = host.call(super::super::Allocator::prime);
    assert_eq!(
        host.allocator.status().pending_allocates,
        ["a 10.32.0.0/24"]
    );
    for id in [allocate, claim, prime] {
        host.call(|allocator, now| allocator.cancel(id, now));
    }
    let status = host.allocator.status();
    assert!(status.pending_allocates.is_empty() && status.pending_claims.is_empty());
    assert!(!host.allocator.is_waiting());
    assert!(host.answers.is_empty());
}

#[test]
fn an_answer_on_its_way_can_be_cancelled() {
    let mut host = Host::alone();
    host.saves = false;
    let id = host.allocate("a");
    host.call(|allocator, now| allocator.cancel(id, now));
    host.save();
    assert!(host.is_waiting_for(id));
    // It has the address all the same, and gets it when it asks again.
    host.saves = true;
    let again = host.allocate("a");
    assert_eq!(host.answer(again).unwrap(), "10.32.0.1");
}

#[test]
fn a_freed_address_goes_to_who_waits() {
    let mut host = Host::alone();
    host.exhaust();
    let waiting = host.allocate("new");
    assert!(host.is_waiting_for(waiting));
    assert_eq!(
        host.allocator.status().summary(),
        "waiting for IP(s) to become available"
    );
    host.release_all("x7");
    assert_eq!(host.answer(waiting).unwrap(), "10.32.0.8");
}

#[test]
fn a_dead_containers_address_goes_to_who_waits() {
    let mut host = Host::alone();
    host.exhaust();
    let waiting = host.allocate("new");
    host.call(|allocator, now| allocator.container_died("x3", now));
    host.wait(30);
    assert!(host.is_waiting_for(waiting));
    host.wait(6);
    assert_eq!(host.answer(waiting).unwrap(), "10.32.0.4");
    assert_eq!(host.allocator.poll_timeout(), None);
}

#[test]
fn a_death_cancels_what_the_container_waits_for() {
    let mut host = Host::start(config(1, Init::Consensus(Some(3))), None);
    let allocate = host.allocate("a");
    let claim = host.claim("a", "10.32.0.9");
    let other = host.allocate("b");
    host.call(|allocator, now| allocator.container_died("a", now));
    assert_eq!(
        host.answer(allocate).unwrap(),
        "Allocate request for a cancelled"
    );
    assert_eq!(host.answer(claim).unwrap(), "Claim request for a cancelled");
    assert!(host.is_waiting_for(other));
}

#[test]
fn a_claim_that_was_answered_early_is_kept() {
    let mut host = Host::start(config(1, Init::Consensus(Some(2))), None);
    let claimed = cidr("10.32.0.9/24");
    let claim = |allocator: &mut Allocator, now| allocator.claim("a", claimed, true, true, now);
    let id = host.call(claim);
    assert_eq!(host.answer(id).unwrap(), "claimed");
    // The client has its answer and goes.
    host.call(|allocator, now| allocator.cancel(id, now));
    let mut other = Host::start(config(2, Init::Consensus(Some(2))), None);
    for _ in 0..3 {
        other.hear(&host);
        host.hear(&other);
    }
    let again = host.call(|allocator, now| allocator.allocate("a", claimed.masked(), true, now));
    assert_eq!(host.answer(again).unwrap(), "10.32.0.9");
}

#[test]
fn too_many_requests_are_refused() {
    let mut host = Host::start(config(1, Init::Consensus(Some(3))), None);
    for _ in 0..MAX_WAITING {
        host.allocator.prime(host.now);
    }
    let id = host.allocate("a");
    assert_eq!(
        host.answer(id).unwrap(),
        "too many requests are waiting; try again later"
    );
    let id = host.claim("a", "10.32.0.9");
    assert_eq!(
        host.answer(id).unwrap(),
        "too many requests are waiting; try again later"
    );
}

/// Where requests for space went.
fn asked(host: &mut Host) -> Vec<PeerName> {
    let unicasts = std::mem::take(&mut host.unicasts).into_iter();
    unicasts
        .filter(|(_, message)| matches!(message, Unicast::SpaceRequest(_)))
        .map(|(to, _)| to)
        .collect()
}

fn one_of_five() -> Host {
    let peers: Vec<PeerName> = (1..=5).map(name).collect();
    let mut host = Host::start(config(1, Init::Seed(peers.clone())), None);
    let others = peers.into_iter().skip(1).collect();
    host.call(|allocator, now| allocator.handle_reachable(others, now));
    host.exhaust();
    host
}

#[test]
fn one_request_for_space_at_a_time_and_the_next_donor_after_a_denial() {
    let mut host = one_of_five();
    let range = cidr("10.32.0.0/24").range();
    let first = host.allocate("a");
    let second = host.allocate("b");
    let mut donors = asked(&mut host);
    assert_eq!(donors.len(), 1);
    for count in 2..=4 {
        let last = donors[donors.len() - 1];
        host.receive(last, &Unicast::SpaceRequestDenied(range));
        donors.append(&mut asked(&mut host));
        assert_eq!(donors.len(), count);
    }
    donors.sort_unstable();
    assert_eq!(donors, [name(2), name(3), name(4), name(5)]);
    // All have said no. Nobody is bothered until the next interval.
    host.receive(donors[3], &Unicast::SpaceRequestDenied(range));
    host.receive(donors[3], &Unicast::SpaceRequestDenied(range));
    assert_eq!(asked(&mut host), []);
    host.wait(5);
    assert_eq!(asked(&mut host).len(), 1);
    assert!(host.is_waiting_for(first) && host.is_waiting_for(second));
}

#[test]
fn peers_out_of_reach_are_not_asked() {
    let mut host = one_of_five();
    let only = BTreeSet::from([name(4)]);
    host.call(|allocator, now| allocator.handle_reachable(only, now));
    host.allocate("a");
    assert_eq!(asked(&mut host), [name(4)]);
    // It goes away with our request, and another comes.
    let only = BTreeSet::from([name(3)]);
    host.call(|allocator, now| allocator.handle_reachable(only, now));
    assert_eq!(asked(&mut host), [name(3)]);
}

#[test]
fn those_known_to_have_nothing_are_asked_at_last() {
    let mut host = Host::one_of_two(1);
    let mut other = Host::one_of_two(2);
    other.exhaust();
    host.exhaust();
    host.hear(&other);
    // The last address of the other's is the last of the subnet: not to be given out.
    other.claim("last", "10.32.0.255");
    host.hear(&other);
    let id = host.allocate("a");
    assert_eq!(asked(&mut host), []);
    // Meanwhile something has become free there, which we have not heard of.
    other.release_all("x5");
    host.wait(5);
    talk(&mut host, &mut other);
    assert_eq!(host.answer(id).unwrap(), "10.32.0.133");
}

#[test]
fn the_edges_of_a_subnet_are_of_no_use_to_others() {
    let mut host = Host::one_of_two(1);
    host.exhaust();
    let subnet = cidr("10.32.0.0/24").range();
    assert_eq!(host.allocator.space().free_count_within(subnet), 1);
    host.receive(name(2), &Unicast::SpaceRequest(subnet));
    let [
        (_, Unicast::SpaceRequestDenied(denied)),
        (_, Unicast::RingUpdate(_)),
    ] = &host.unicasts[..]
    else {
        panic!("{:?}", host.unicasts);
    };
    assert_eq!(*denied, subnet);
    // But whoever wants exactly that address can have it.
    let edge = Range::single(subnet.start);
    host.receive(name(2), &Unicast::SpaceRequest(edge));
    assert_eq!(host.allocator.ring().owner(subnet.start), Some(name(2)));
}

#[test]
fn a_claim_of_anothers_address() {
    let mut host = Host::one_of_two(1);
    let mut other = Host::one_of_two(2);
    let id = host.claim("a", "10.32.0.200");
    talk(&mut host, &mut other);
    assert_eq!(host.answer(id).unwrap(), "claimed");
    assert_eq!(
        other.allocator.ring().owner("10.32.0.200".parse().unwrap()),
        Some(name(1))
    );
    other.claim("b", "10.32.0.201");
    let id = host.claim("c", "10.32.0.201");
    talk(&mut host, &mut other);
    let refusal = "address 10.32.0.201/24 is owned by other peer 00:00:00:00:00:02 (host-2)";
    assert_eq!(host.answer(id).unwrap(), refusal);
    // Out of reach.
    host.call(|allocator, now| allocator.handle_reachable(BTreeSet::new(), now));
    let id = host.claim("d", "10.32.0.202");
    host.wait(24);
    assert!(host.is_waiting_for(id));
    host.wait(2);
    assert_eq!(
        host.answer(id).unwrap(),
        "address 10.32.0.202/24 is owned by other peer 00:00:00:00:00:02 (host-2) - \
         unknown relay destination: 00:00:00:00:00:02"
    );
}

#[test]
fn meaningless_unicasts_are_ignored() {
    let mut host = Host::alone();
    for payload in [&[][..], &[3], &[255, 1, 2]] {
        let result = host.call(|allocator, now| allocator.handle_unicast(name(2), payload, now));
        assert_eq!(result, Ok(()));
    }
    let result = host.call(|allocator, now| allocator.handle_unicast(name(2), &[0, 1], now));
    assert!(result.is_err());
    // An inverted or foreign range is denied.
    for range in ["10.33.0.0/24", "10.0.0.0/8"] {
        let range = cidr(range).range();
        let inverted = Range::new(range.end, range.start);
        host.receive(name(2), &Unicast::SpaceRequest(inverted));
        assert!(
            matches!(host.unicasts[0].1, Unicast::SpaceRequestDenied(denied) if denied == inverted)
        );
        host.unicasts.clear();
    }
}

#[test]
fn a_smaller_quorum_elsewhere_is_noticed() {
    let mut other = Host::start(config(1, Init::Consensus(Some(1))), None);
    other.allocate("a");
    let mut host = Host::start(config(2, Init::Consensus(Some(5))), None);
    host.allocate("b");
    assert_eq!(host.allocator.status().quorum_warning, None);
    host.hear(&other);
    assert_eq!(
        host.allocator.status().quorum_warning.unwrap(),
        "the ring was agreed upon among 1 peers where it takes 3 here; \
         give all hosts the same number of peers"
    );
}
