//! Nothing is told before it is on disk.

use super::host::{Host, cidr, config, name, talk};
use super::*;
use crate::wire::Unicast;

#[test]
fn an_answer_waits_for_its_save() {
    let mut host = Host::alone();
    host.saves = false;
    let first = host.allocate("a");
    assert!(host.is_waiting_for(first));
    // What comes up meanwhile goes into the next transaction, all of it.
    let second = host.allocate("b");
    let third = host.allocate("c");
    host.save();
    assert_eq!(host.answer(first).unwrap(), "10.32.0.1");
    assert!(host.is_waiting_for(second) && host.is_waiting_for(third));
    let changes = &host.saving.as_ref().unwrap().changes;
    assert_eq!(changes.owned.len(), 2);
    assert_eq!(changes.entries.len(), 1);
    host.save();
    assert_eq!(host.answer(second).unwrap(), "10.32.0.2");
    assert_eq!(host.answer(third).unwrap(), "10.32.0.3");
    assert_eq!(host.saving, None);
    assert_eq!(host.disk.owned.len(), 3);
}

#[test]
fn questions_do_not_reveal_what_is_not_saved() {
    let mut host = Host::alone();
    host.saves = false;
    host.allocate("a");
    let range = cidr("10.32.0.0/24").range();
    let lookup = host.call(|allocator, now| allocator.lookup("a", range, now));
    let list = host.call(super::super::Allocator::list_owned);
    assert!(host.is_waiting_for(lookup) && host.is_waiting_for(list));
    host.save();
    let addresses = vec![cidr("10.32.0.1/24")];
    assert_eq!(host.answers[&lookup], Ok(Done::Addresses(addresses)));
    assert!(matches!(&host.answers[&list], Ok(Done::Owned(owned)) if owned.len() == 1));
}

#[test]
fn a_failed_save_is_repeated_with_all_that_has_come_up() {
    let mut host = Host::alone();
    host.saves = false;
    let first = host.allocate("a");
    host.save_fails();
    assert_eq!(
        host.allocator.status().save_error.as_deref(),
        Some("disk full")
    );
    let second = host.allocate("b");
    assert_eq!(host.saving, None);
    host.wait(1);
    assert_eq!(host.saving.as_ref().unwrap().changes.owned.len(), 2);
    assert!(host.is_waiting_for(first));
    host.save();
    assert_eq!(host.answer(first).unwrap(), "10.32.0.1");
    assert_eq!(host.answer(second).unwrap(), "10.32.0.2");
    assert_eq!(host.allocator.status().save_error, None);
}

#[test]
fn space_is_given_away_on_disk_first() {
    let mut host = Host::one_of_two(1);
    host.saves = false;
    let before = host.state();
    let request = Unicast::SpaceRequest(cidr("10.32.0.0/24").range());
    host.receive(name(2), &request);
    assert_eq!(host.unicasts, []);
    assert_eq!(host.broadcasts, 0);
    assert_eq!(host.state().ring, before.ring);
    host.save();
    assert_eq!(host.broadcasts, 1);
    let [(to, Unicast::RingUpdate(update))] = &host.unicasts[..] else {
        panic!("{:?}", host.unicasts);
    };
    assert_eq!(*to, name(2));
    let given = update
        .ring
        .as_ref()
        .unwrap()
        .ring
        .owner("10.32.0.64".parse().unwrap());
    assert_eq!(given, Some(name(2)));
    assert_eq!(host.state().ring.unwrap().ring, *host.allocator.ring());
    assert_eq!(host.disk.ring, *host.allocator.ring());
}

#[test]
fn what_others_said_is_passed_on_without_waiting() {
    let mut giver = Host::one_of_two(1);
    let mut host = Host::start(config(3, Init::Seed(vec![name(1), name(2)])), None);
    host.saves = false;
    giver.receive(
        name(2),
        &Unicast::SpaceRequest(cidr("10.32.0.0/24").range()),
    );
    host.hear(&giver);
    assert!(host.saving.is_some());
    assert_eq!(host.state().ring.unwrap().ring, *giver.allocator.ring());
}

#[test]
fn an_older_save_does_not_hide_what_was_heard_later() {
    let mut giver = Host::one_of_two(1);
    let mut host = Host::start(config(3, Init::Seed(vec![name(1), name(2)])), None);
    host.saves = false;
    giver.allocate("a");
    host.hear(&giver);
    giver.receive(
        name(2),
        &Unicast::SpaceRequest(cidr("10.32.0.0/24").range()),
    );
    host.hear(&giver);
    host.save();
    assert_eq!(host.state().ring.unwrap().ring, *giver.allocator.ring());
    host.save();
    assert_eq!(host.state().ring.unwrap().ring, *giver.allocator.ring());
    assert_eq!(host.disk.ring, *giver.allocator.ring());
}

#[test]
fn promises_are_saved_before_they_are_made() {
    let mut first = Host::start(config(1, Init::Consensus(Some(3))), None);
    first.allocate("a");
    assert_eq!(first.broadcasts, 1);

    let mut second = Host::start(config(2, Init::Consensus(Some(3))), None);
    second.saves = false;
    second.hear(&first);
    assert_eq!(second.broadcasts, 0);
    let own = |host: &Host| {
        host.state()
            .paxos
            .unwrap()
            .keys()
            .any(|id| id.name == name(2))
    };
    assert!(!own(&second));
    second.save();
    assert_eq!(second.broadcasts, 1);
    assert!(own(&second));

    // It keeps its word, and its id, after a crash.
    let (id, claims) = second.disk.acceptor.clone().unwrap();
    assert_eq!(claims.promise.proposer.name, name(1));
    let mut config = config(2, Init::Consensus(Some(3)));
    config.uid = proto::PeerUid(999);
    let again = Host::start(config, Some(second.disk.clone()));
    assert_eq!(again.state().paxos.unwrap().get(&id), Some(&claims));
    assert_eq!(again.disk.acceptor, second.disk.acceptor);
}

#[test]
fn once_there_is_a_ring_promises_are_forgotten() {
    let mut first = Host::start(config(1, Init::Consensus(Some(2))), None);
    let mut second = Host::start(config(2, Init::Consensus(Some(2))), None);
    let id = first.allocate("a");
    assert!(first.disk.acceptor.is_some());
    second.hear(&first);
    assert!(second.disk.acceptor.is_some());
    first.hear(&second);
    second.hear(&first);
    first.hear(&second);
    assert_eq!(first.answer(id).unwrap(), "10.32.0.1");
    assert_eq!(first.disk.acceptor, None);
    second.hear(&first);
    assert_eq!(second.disk.acceptor, None);
    assert_eq!(
        first.state().ring.unwrap().ring,
        second.state().ring.unwrap().ring
    );
}

#[test]
fn a_crash_forgets_nothing_that_was_told() {
    // At every point of a handover of space, each side may crash with its transaction done or
    // not. Whatever they then tell each other, there is one owner.
    for crash in 0..16 {
        let mut giver = Host::one_of_two(1);
        let mut taker = Host::one_of_two(2);
        taker.exhaust();
        taker.hear(&giver);
        let id = taker.allocate("new");
        let [(_, request)] = &taker.unicasts[..] else {
            panic!("no request");
        };
        let request = request.clone();
        taker.unicasts.clear();
        giver.saves = false;
        giver.receive(name(2), &request);
        let restart = |host: &mut Host, number: u64| {
            let config = config(number, Init::Seed(vec![name(1), name(2)]));
            let disk = host.disk.clone();
            *host = Host::start(config, Some(disk));
            let other = BTreeSet::from([name(3 - number)]);
            host.call(|allocator, now| allocator.handle_reachable(other, now));
        };
        if crash & 1 != 0 {
            if crash & 2 != 0 {
                let save = giver.saving.take().unwrap();
                giver.disk.apply(&save.changes);
            }
            restart(&mut giver, 1);
        } else {
            giver.saves = true;
            giver.save();
        }
        let told = std::mem::take(&mut giver.unicasts);
        taker.saves = false;
        for (_, message) in &told {
            taker.receive(name(1), message);
        }
        if crash & 4 != 0 {
            if let Some(save) = taker.saving.take().filter(|_| crash & 8 != 0) {
                taker.disk.apply(&save.changes);
            }
            restart(&mut taker, 2);
        } else {
            taker.saves = true;
            if taker.saving.is_some() {
                taker.save();
            }
        }
        taker.hear(&giver);
        giver.hear(&taker);
        taker.hear(&giver);
        assert_eq!(
            taker.allocator.ring().peers(),
            giver.allocator.ring().peers()
        );
        let mut ours = giver.allocator.space().clone();
        let count = ours.free_count() + ours.used_count();
        for range in taker.allocator.space().ours() {
            ours.remove(range);
        }
        assert_eq!(
            ours.free_count() + ours.used_count(),
            count,
            "crash {crash}"
        );
        let id = if crash & 4 == 0 {
            id
        } else {
            taker.allocate("new")
        };
        taker.wait(5);
        talk(&mut giver, &mut taker);
        assert!(
            taker.answer(id).unwrap().starts_with("10.32.0."),
            "crash {crash}"
        );
    }
}
