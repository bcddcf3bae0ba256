//! Peers that leave for good.

use super::host::{Host, config, name};
use super::*;

fn take_over(host: &mut Host, who: &str, force: bool) -> String {
    let id = host.call(|allocator, now| allocator.take_over(who, force, now));
    host.answer(id).unwrap()
}

#[test]
fn the_living_are_not_robbed() {
    let mut host = Host::one_of_two(1);
    let other = Host::one_of_two(2);
    host.hear(&other);
    let plan = host.allocator.plan_take_over("host-2");
    assert_eq!(plan.peer, Some(name(2)));
    assert_eq!(plan.ranges, other.allocator.space().ours());
    let refusal = "00:00:00:00:00:02(host-2) is still reachable; stop it first, or reset it so \
                   that it hands its ranges over itself";
    assert_eq!(plan.refusal.unwrap().to_string(), refusal);
    assert_eq!(take_over(&mut host, "host-2", false), refusal);
    assert_eq!(host.allocator.space().free_count(), 128);
    host.call(|allocator, now| allocator.handle_reachable(BTreeSet::new(), now));
    assert_eq!(take_over(&mut host, "host-2", false), "128");
    assert_eq!(host.allocator.space().free_count(), 256);
    assert_eq!(host.broadcasts, 1);
    assert_eq!(take_over(&mut host, "::2", false), "0");
}

#[test]
fn force_takes_from_the_living_too() {
    let mut host = Host::one_of_two(1);
    assert_eq!(take_over(&mut host, "::2", true), "128");
}

#[test]
fn unknown_peers_and_ourselves_have_nothing_to_take() {
    let mut host = Host::one_of_two(1);
    for who in ["nobody", "::9", "::1", "host-1"] {
        assert_eq!(take_over(&mut host, who, false), "0");
    }
    assert_eq!(host.broadcasts, 0);
}

#[test]
fn who_was_slower_is_told_who_was_faster() {
    let peers: Vec<PeerName> = (1..=3).map(name).collect();
    let host = |number| Host::start(config(number, Init::Seed(peers.clone())), None);
    let (mut first, mut second) = (host(1), host(2));
    let third = host(3);
    first.hear(&third);
    second.hear(&third);
    second.hear(&first);
    assert_eq!(take_over(&mut first, "host-3", false), "64");
    let plan = second.allocator.plan_take_over("host-3");
    assert_eq!(plan.unheard, [name(1)]);
    second.hear(&first);
    assert_eq!(
        take_over(&mut second, "host-3", false),
        "the ranges of 00:00:00:00:00:03 have been taken over by \
         00:00:00:00:00:01(host-1) already"
    );
    assert_eq!(take_over(&mut second, "host-3", true), "0");
}

#[test]
fn of_several_with_one_nickname_the_lost_one_is_meant() {
    let peers: Vec<PeerName> = (1..=3).map(name).collect();
    let host = |number| {
        let mut config = config(number, Init::Seed(peers.clone()));
        config.nickname = if number == 1 { "us" } else { "twin" }.to_owned();
        Host::start(config, None)
    };
    let mut us = host(1);
    us.hear(&host(2));
    us.hear(&host(3));
    assert_eq!(
        take_over(&mut us, "twin", false),
        "several peers are called twin; use one of their names: \
         00:00:00:00:00:02, 00:00:00:00:00:03"
    );
    let reachable = BTreeSet::from([name(2)]);
    us.call(|allocator, now| allocator.handle_reachable(reachable, now));
    assert_eq!(us.allocator.plan_take_over("twin").peer, Some(name(3)));
}

#[test]
fn a_reset_hands_everything_over_and_ends_all_requests() {
    let mut host = Host::one_of_two(1);
    let mut other = Host::one_of_two(2);
    host.hear(&other);
    host.allocate("a");
    host.saves = false;
    let late = host.allocate("late");
    let waiting = host.claim("w", "10.32.0.200");
    let id = host.call(super::super::Allocator::shut_down);
    let refused = host.allocate("b");
    host.saves = true;
    host.save();
    assert_eq!(host.answers[&id], Ok(Done::ShutDown(Some(name(2)))));
    // It was not told when it was true.
    assert_eq!(
        host.answer(late).unwrap(),
        "Allocate request for late cancelled"
    );
    assert_eq!(
        host.answer(waiting).unwrap(),
        "Claim request for w cancelled"
    );
    assert_eq!(
        host.answer(refused).unwrap(),
        "Allocate request for b cancelled"
    );
    assert_eq!(host.allocator.space().free_count(), 0);
    other.hear(&host);
    assert_eq!(other.allocator.space().free_count(), 256);

    // Were it started again from what is on its disk, it would have nothing to give out.
    let seeds = vec![name(1), name(2)];
    let again = Host::start(config(1, Init::Seed(seeds)), Some(host.disk.clone()));
    assert_eq!(again.allocator.owned().count(), 0);
    assert_eq!(again.allocator.space().ours(), []);
}

#[test]
fn without_an_heir_the_disk_keeps_the_ring() {
    let mut host = Host::alone();
    host.allocate("a");
    let before = host.disk.clone();
    let id = host.call(super::super::Allocator::shut_down);
    assert_eq!(host.answers[&id], Ok(Done::ShutDown(None)));
    assert_eq!(host.disk, before);
}

#[test]
fn the_heir_is_somebody_alive() {
    let peers: Vec<PeerName> = (1..=4).map(name).collect();
    let heir = |reachable: &[u64]| {
        let mut host = Host::start(config(1, Init::Seed(peers.clone())), None);
        let reachable = reachable.iter().copied().map(name).collect();
        host.call(|allocator, now| allocator.handle_reachable(reachable, now));
        let ringless = Host::start(config(9, Init::Observer), None);
        host.hear(&ringless);
        host.allocator.heir()
    };
    assert_eq!(heir(&[3, 4, 9]), Some(name(3)));
    assert_eq!(heir(&[9]), Some(name(9)));
    assert_eq!(heir(&[]), Some(name(2)));
}

#[test]
fn forgotten_peers_lose_their_nickname_unless_they_own_something() {
    let mut host = Host::one_of_two(1);
    host.hear(&Host::one_of_two(2));
    host.hear(&Host::start(config(9, Init::Observer), None));
    let known = |host: &Host| host.state().nicknames.keys().copied().collect::<Vec<_>>();
    assert_eq!(known(&host), [name(1), name(2), name(9)]);
    for peer in [name(2), name(9)] {
        host.call(|allocator, now| allocator.handle_peer_forgotten(peer, now));
    }
    assert_eq!(known(&host), [name(1), name(2)]);
}

#[test]
fn ranges_lost_in_a_merge_leave_the_space() {
    let mut host = Host::one_of_two(1);
    let mut robber = Host::one_of_two(2);
    assert_eq!(take_over(&mut robber, "::1", true), "128");
    host.hear(&robber);
    assert_eq!(host.allocator.space().ours(), []);

    // But not if they are in use.
    let mut host = Host::one_of_two(1);
    host.allocate("a");
    let state = robber.allocator.encode_state(0);
    let refused = host.call(|allocator, now| allocator.handle_gossip(&state, now));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "Received update for IP range I own at 10.32.0.0 v1: incoming message says owner \
         00:00:00:00:00:02 v100"
    );
    assert_eq!(host.allocator.space().ours().len(), 1);
}
