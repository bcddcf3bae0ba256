//! Space that changes hands because one host needs more than it has.

use super::{Told, await_one_ring, await_status, call, draw_at_once, given_out, options, seed};
use super::{size_of, waiting_count};
use crate::lab::Lab;
use crate::node::Kind;
use crate::wait;

/// Thirty addresses may be given out of this range.
const SMALL: &str = "10.32.0.0/27";
const ALL: usize = 30;

/// One host of two draws all addresses there are, and gives them back; then the other one does.
/// Meanwhile who finds none left waits until there is one.
pub fn drained(kinds: [Kind; 2]) {
    let mut lab = Lab::new(2, 1500);
    let seeds = seed(&[1, 2]);
    lab.start(1, kinds[0], &options(SMALL, &seeds, &[]));
    lab.start(2, kinds[1], &options(SMALL, &seeds, &[1]));
    lab.await_full_mesh(&[1, 2]);
    let mut told = Told::default();
    draw_at_once(&lab, "all", &[(1, ALL)], &mut told);
    told.audit(&lab, &[1, 2]);

    let late = lab.caller(2).begin("POST", "/ip/late").unwrap();
    await_status(&lab, 2, "waiting for IP(s) to become available");
    assert!(!late.is_answered());
    call(&lab, 1, "DELETE", "/ip/all-h1-0", 204);
    let late = late.answer(wait::PATIENCE).unwrap();
    assert_eq!(late.status, 200, "{}", late.body);

    for index in 1..ALL {
        call(&lab, 1, "DELETE", &format!("/ip/all-h1-{index}"), 204);
    }
    let mut told = Told::default();
    told.note(2, "late", &late.body);
    draw_at_once(&lab, "rest", &[(2, ALL - 1)], &mut told);
    told.audit(&lab, &[1, 2]);
    let ring = await_one_ring(&lab, &[1, 2]);
    assert!(size_of(&ring, 2) >= 30, "{ring:?}");
}

/// A host is cut off while addresses are drawn everywhere. The others, and it as long as it has
/// some left, go on; what it has to ask for it gets when it is back.
pub fn parted(kinds: [Kind; 3]) {
    let mut lab = Lab::new(3, 1500);
    let range = "10.32.0.0/25";
    let seeds = seed(&[1, 2, 3]);
    for number in 1..=3 {
        let others: Vec<_> = (1..number).collect();
        lab.start(number, kinds[number - 1], &options(range, &seeds, &others));
    }
    lab.await_full_mesh(&[1, 2, 3]);
    let ring = await_one_ring(&lab, &[1, 2, 3]);
    assert_eq!([1, 2, 3].map(|number| size_of(&ring, number)), [64, 32, 32]);
    let mut told = Told::default();
    lab.plug(3, false);
    let caller = lab.caller(3);
    let asked: Vec<_> = (0..50)
        .map(|index| {
            let ident = format!("parted-{index}");
            let pending = caller.begin("POST", &format!("/ip/{ident}")).unwrap();
            (ident, pending)
        })
        .collect();
    // It has 32, the last of which is never given out.
    wait::until("the host that is cut off to run out of space", || {
        let (given, waiting) = (given_out(&lab, 3).len(), waiting_count(&lab, 3));
        wait::check((given, waiting) == (31, 19), || {
            format!("{given} given out, {waiting} wait")
        })
    });
    draw_at_once(&lab, "free", &[(1, 20), (2, 20)], &mut told);
    lab.plug(3, true);
    for (ident, pending) in asked {
        let answer = pending.answer(wait::PATIENCE);
        let answer = answer.unwrap_or_else(|error| panic!("{ident}: {error}"));
        assert_eq!(answer.status, 200, "{ident}: {}", answer.body);
        told.note(3, &ident, &answer.body);
    }
    told.audit(&lab, &[1, 2, 3]);
    lab.await_full_mesh(&[1, 2, 3]);
    await_one_ring(&lab, &[1, 2, 3]);
}
