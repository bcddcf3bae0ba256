//! Hosts that end and come back, and hosts that are gone for good.

use std::fs;

use super::{Told, await_one_ring, call, draw, draw_at_once, options, size_of};
use crate::cases::restarts::End;
use crate::lab::Lab;
use crate::node::{Kind, Node, Options, name_of};
use crate::wait;

const RANGE: &str = "10.32.0.0/24";
/// Addresses that may be given out.
const ALL: usize = 254;

fn told_in(number: usize) -> Options {
    let others: Vec<_> = (1..=3).filter(|other| *other != number).collect();
    options(RANGE, "consensus=3", &others)
}

/// Three hosts that share the range, and have given some of it out.
#[track_caller]
fn three(kinds: [Kind; 3]) -> (Lab, Told) {
    let mut lab = Lab::new(3, 1500);
    for number in 1..=3 {
        lab.start(number, kinds[number - 1], &told_in(number));
    }
    lab.await_full_mesh(&[1, 2, 3]);
    let mut told = Told::default();
    draw_at_once(&lab, "held", &[(1, 10), (2, 10), (3, 10)], &mut told);
    await_one_ring(&lab, &[1, 2, 3]);
    (lab, told)
}

/// The third host ends and returns, and knows what it has given out to whom.
pub fn restart(kinds: [Kind; 3], end: End) {
    let (mut lab, mut told) = three(kinds);
    match end {
        End::Crash => lab.crash(3),
        End::Stop => lab.stop(3),
    }
    lab.await_neighbours(1, &["h2"]);
    // Meanwhile the others go on.
    draw_at_once(&lab, "meanwhile", &[(1, 10), (2, 10)], &mut told);
    lab.start(3, kinds[2], &told_in(3));
    told.audit(&lab, &[1, 2, 3]);
    lab.await_full_mesh(&[1, 2, 3]);
    draw_at_once(&lab, "held", &[(1, 10), (2, 10), (3, 10)], &mut told);
    draw_at_once(&lab, "after", &[(1, 10), (2, 10), (3, 10)], &mut told);
    told.audit(&lab, &[1, 2, 3]);
    await_one_ring(&lab, &[1, 2, 3]);
}

/// The third host is gone for good. The first one takes over what it had, and with the second one
/// gives all of it out.
pub fn rmpeer(kinds: [Kind; 3]) {
    let (mut lab, told) = three(kinds);
    if kinds[0] == Kind::Meshctl {
        let refused = lab.request(1, "DELETE", "/peer/h3", "");
        assert_eq!(refused.status, 409, "{}", refused.body);
        let plan = lab.meshctl(1, &["ipam", "plan", "rmpeer", "h3"]);
        assert!(plan.status.success(), "{plan:?}");
        assert!(plan.stdout.contains("refused unless forced"), "{plan:?}");
    }
    let before = size_of(&await_one_ring(&lab, &[1, 2, 3]), 3);
    lab.crash(3);
    for (number, other) in [(1, "h2"), (2, "h1")] {
        lab.await_neighbours(number, &[other]);
        lab.await_peers(number, &[1, 1]);
        assert!(lab.get(number, "/status/ipam").contains("unreachable!"));
    }
    let text = format!("{before} IPs taken over from h3\n");
    if kinds[0] == Kind::Meshctl {
        let done = lab.meshctl(1, &["rmpeer", "h3"]);
        assert!(done.status.success(), "{done:?}");
        assert_eq!(done.stdout, text);
    } else {
        assert_eq!(call(&lab, 1, "DELETE", "/peer/h3", 200), text);
    }
    wait::until("all to know that the third one has nothing", || {
        let ring = await_one_ring(&lab, &[1, 2]);
        wait::check(size_of(&ring, 3) == 0, || format!("{ring:?}"))
    });
    // A second time, on another host, there is nothing left.
    let again = lab.request(2, "DELETE", &format!("/peer/{}", name_of(3)), "");
    let expected = match kinds[1] {
        Kind::Meshctl => 409,
        Kind::Weaver => 200,
    };
    assert_eq!(again.status, expected, "{}", again.body);
    if kinds[1] == Kind::Weaver {
        assert!(again.body.starts_with("0 IPs taken over"), "{}", again.body);
    }
    // Unknown ones have none.
    let nobody = call(&lab, 1, "DELETE", "/peer/nobody", 200);
    assert!(nobody.starts_with("0 IPs taken over"), "{nobody}");
    let mut left = Told::default();
    for number in [1, 2] {
        for (ident, address) in told.of(number) {
            left.note(number, &ident, &address);
        }
    }
    draw_at_once(&lab, "rest", &[(1, ALL - 30), (2, 10)], &mut left);
    left.audit(&lab, &[1, 2]);
    await_one_ring(&lab, &[1, 2]);
}

/// The third host is reset: the others get what it had. It comes back as one that never was there.
pub fn reset(kinds: [Kind; 3]) {
    let (mut lab, told) = three(kinds);
    match kinds[2] {
        Kind::Meshctl => {
            let reset = lab.meshctl(3, &["reset"]);
            assert!(reset.status.success(), "{reset:?}");
            lab.await_end(3);
        }
        // As its script does it.
        Kind::Weaver => {
            call(&lab, 3, "DELETE", "/peer", 204);
            wait::until("the others to know the heir", || {
                let ring = await_one_ring(&lab, &[1, 2]);
                wait::check(size_of(&ring, 3) == 0, || format!("{ring:?}"))
            });
            lab.stop(3);
            let state = Node::db_prefix(lab.directory(3));
            let state = state.parent().expect("it has a directory of its own");
            fs::remove_dir_all(state).unwrap();
        }
    }
    let ring = await_one_ring(&lab, &[1, 2]);
    assert_eq!(size_of(&ring, 3), 0, "{ring:?}");
    let mut left = Told::default();
    for number in [1, 2] {
        for (ident, address) in told.of(number) {
            left.note(number, &ident, &address);
        }
    }
    left.audit(&lab, &[1, 2]);
    lab.start(3, kinds[2], &told_in(3));
    lab.await_full_mesh(&[1, 2, 3]);
    let first = draw(&lab, 3, "first");
    left.note(3, "first", &first);
    draw_at_once(&lab, "rest", &[(1, 60), (2, 60), (3, 60)], &mut left);
    left.audit(&lab, &[1, 2, 3]);
    await_one_ring(&lab, &[1, 2, 3]);
}
