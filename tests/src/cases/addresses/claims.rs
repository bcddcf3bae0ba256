//! Addresses that somebody has already, or chooses himself.

use super::{await_one_ring, await_status, call, draw, options, seed, size_of};
use crate::lab::Lab;
use crate::node::Kind;
use crate::wait;

/// One host claims addresses that belong to the other one: it gets those that are free, and no
/// others.
pub fn foreign(kinds: [Kind; 2]) {
    let mut lab = Lab::new(2, 1500);
    let (range, seeds) = ("10.32.0.0/24", seed(&[1, 2]));
    lab.start(1, kinds[0], &options(range, &seeds, &[]));
    lab.start(2, kinds[1], &options(range, &seeds, &[1]));
    lab.await_full_mesh(&[1, 2]);
    await_one_ring(&lab, &[1, 2]);

    call(&lab, 1, "PUT", "/ip/a/10.32.0.200/24", 204);
    assert_eq!(call(&lab, 1, "GET", "/ip/a", 200), "10.32.0.200/24");
    let ring = await_one_ring(&lab, &[1, 2]);
    assert_eq!([1, 2].map(|number| size_of(&ring, number)), [129, 127]);
    // It is the first host's now.
    let text = call(&lab, 2, "PUT", "/ip/b/10.32.0.200/24", 400);
    assert!(
        text.contains("is owned by other peer") && text.contains("h1"),
        "{text}"
    );

    let taken = draw(&lab, 2, "b");
    let text = call(&lab, 1, "PUT", &format!("/ip/c/{taken}"), 400);
    assert!(
        text.contains("is owned by other peer") && text.contains("h2"),
        "{text}"
    );

    // Of two on one host the first has it, and may claim it again.
    call(&lab, 1, "PUT", "/ip/a/10.32.0.200/24", 204);
    let text = call(&lab, 1, "PUT", "/ip/c/10.32.0.200/24", 400);
    assert!(text.contains("already owned by a"), "{text}");

    // Outside of the range each host is on its own.
    for number in [1, 2] {
        call(&lab, number, "PUT", "/ip/a/192.168.9.9/24", 204);
        let text = call(&lab, number, "PUT", "/ip/d/192.168.9.9/24", 400);
        assert!(text.contains("already in use by a"), "{text}");
    }
    assert_eq!(call(&lab, 1, "GET", "/ip/c", 200), "");
}

/// The owner of an address is gone: who claims it is told after some tries, unless he does not mind.
pub fn of_the_dead(kinds: [Kind; 2]) {
    let mut lab = Lab::new(2, 1500);
    let (range, seeds) = ("10.32.0.0/24", seed(&[1, 2]));
    lab.start(1, kinds[0], &options(range, &seeds, &[]));
    lab.start(2, kinds[1], &options(range, &seeds, &[1]));
    lab.await_full_mesh(&[1, 2]);
    await_one_ring(&lab, &[1, 2]);
    lab.crash(2);
    lab.await_neighbours(1, &[]);
    lab.await_peers(1, &[0]);
    call(
        &lab,
        1,
        "PUT",
        "/ip/a/10.32.0.210/24?noErrorOnUnknown=true",
        204,
    );
    let text = call(&lab, 1, "PUT", "/ip/a/10.32.0.211/24", 400);
    assert!(
        text.contains("is owned by other peer") && text.contains("h2"),
        "{text}"
    );
}

/// Addresses are claimed before there is a ring: on the second host, one in each of the parts to be.
pub fn before_birth(kinds: [Kind; 2]) {
    let mut lab = Lab::new(2, 1500);
    let range = "10.32.0.0/16";
    lab.start(1, kinds[0], &options(range, "consensus=2", &[]));
    let caller = lab.caller(1);
    let claim = |address| {
        caller
            .begin("PUT", &format!("/ip/early/{address}/16"))
            .unwrap()
    };
    let claims = ["10.32.0.77", "10.32.200.1"].map(claim);
    await_status(&lab, 1, "awaiting consensus (quorum: 2, known: 1)");
    call(
        &lab,
        1,
        "PUT",
        "/ip/later/10.32.0.78/16?noErrorOnUnknown=true",
        204,
    );
    assert!(claims.iter().all(|claim| !claim.is_answered()));
    lab.start(2, kinds[1], &options(range, "consensus=2", &[1]));
    for claim in claims {
        let answer = claim.answer(wait::PATIENCE).unwrap();
        assert_eq!(answer.status, 204, "{}", answer.body);
    }
    let mut found: Vec<_> = call(&lab, 1, "GET", "/ip/early", 200)
        .split(' ')
        .map(str::to_owned)
        .collect();
    found.sort_unstable();
    assert_eq!(found, ["10.32.0.77/16", "10.32.200.1/16"]);
    call(&lab, 2, "PUT", "/ip/other/10.32.200.1/16", 400);
    // The original forgets claims that it has answered before it could fulfil them.
    if kinds[0] == Kind::Meshctl {
        wait::until("the claim that was answered early to be fulfilled", || {
            let found = lab.get(1, "/ip/later");
            wait::check(found == "10.32.0.78/16", || found)
        });
        call(&lab, 2, "PUT", "/ip/other/10.32.0.78/16", 400);
    }
}
