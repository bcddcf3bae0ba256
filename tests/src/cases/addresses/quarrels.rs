//! Hosts that do not agree on what there is to share, or on who has begun to.

use super::{Told, await_one_ring, call, draw, draw_at_once, options, seed};
use crate::lab::Lab;
use crate::node::{Kind, Options, at};
use crate::wait;

/// Two hosts with rings of their own that do not fit: they refuse each other, both say why, and
/// neither takes any harm.
fn refuse(kinds: [Kind; 2], options: &[Options; 2], reason: &str) {
    let mut lab = Lab::new(2, 1500);
    let mut told = Told::default();
    for (number, options) in (1..).zip(options) {
        lab.start(number, kinds[number - 1], options);
        // Rings are compared once they are there.
        draw(&lab, number, "own");
    }
    for number in [1, 2] {
        wait::until(&format!("host {number} to say {reason:?}"), || {
            let connections = lab.connections(number);
            let failed = connections
                .iter()
                .any(|found| found.state == "failed" && found.info.contains(reason));
            wait::check(failed, || format!("{connections:?}"))
        });
        lab.await_log(number, reason);
    }
    for number in [1, 2] {
        // Each goes on by itself. What one has the other may have as well.
        draw_at_once(&lab, "alone", &[(number, 5)], &mut told);
        told = Told::default();
        assert!(call(&lab, number, "GET", "/status", 200).contains("Status: ready"));
    }
}

/// The hosts allocate from different ranges.
pub fn ranges(kinds: [Kind; 2]) {
    // Who began is compared first.
    let seeds = seed(&[1, 2]);
    let options = [
        options("10.32.0.0/16", &seeds, &[2]),
        options("10.33.0.0/16", &seeds, &[1]),
    ];
    refuse(kinds, &options, "Incompatible IP allocation ranges");
}

/// The hosts were told of different first owners.
pub fn seeds(kinds: [Kind; 2]) {
    let range = "10.32.0.0/16";
    let options = [
        options(range, &seed(&[1]), &[2]),
        options(range, &seed(&[1, 2]), &[1]),
    ];
    refuse(
        kinds,
        &options,
        "IP allocation was seeded by different peers",
    );
}

/// The first host is content with itself, the second one, which is ours, takes three peers to agree.
/// It is warned.
pub fn quorums(kinds: [Kind; 2]) {
    let mut lab = Lab::new(2, 1500);
    let range = "10.32.0.0/16";
    lab.start(1, kinds[0], &options(range, "consensus=1", &[]));
    let mut told = Told::default();
    draw_at_once(&lab, "one", &[(1, 1)], &mut told);
    lab.start(2, kinds[1], &options(range, "consensus=3", &[]));
    let drawn = lab.caller(2).begin("POST", "/ip/two").unwrap();
    super::await_status(&lab, 2, "awaiting consensus (quorum: 2, known: 1)");
    assert!(!drawn.is_answered());
    let connect = lab.request(
        2,
        "POST",
        "/connect",
        &format!("peer={}", crate::lab::address(1)),
    );
    assert_eq!(connect.status, 200, "{}", connect.body);
    let drawn = drawn.answer(wait::PATIENCE).unwrap();
    assert_eq!(drawn.status, 200, "{}", drawn.body);
    told.note(2, "two", &drawn.body);
    await_one_ring(&lab, &[1, 2]);
    let warning = "the ring was agreed upon among 1 peers where it takes 2";
    lab.await_log(2, warning);
    let report = lab.report(2);
    let told = at(&report, "/IPAM/QuorumWarning")
        .as_str()
        .unwrap_or_default();
    assert!(told.contains(warning), "{report}");
    assert!(lab.get(2, "/status").contains(warning));
}
