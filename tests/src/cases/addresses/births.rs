//! How the ring comes into being.

use super::{Told, await_one_ring, await_status, draw_at_once, options, seed, size_of};
use crate::lab::Lab;
use crate::node::{Kind, Options};
use crate::wait;

const RANGE: &str = "10.32.0.0/16";
/// So many addresses on three hosts make two hundred.
const DRAWS: [(usize, usize); 3] = [(1, 67), (2, 67), (3, 66)];

/// Draws two hundred addresses on three hosts at once, and a few of them again.
#[track_caller]
fn draw_two_hundred(lab: &Lab, mut told: Told) {
    draw_at_once(lab, "many", &DRAWS, &mut told);
    // Whoever asks again is told the same.
    draw_at_once(lab, "many", &[(1, 5), (2, 5), (3, 5)], &mut told);
    told.audit(lab, &[1, 2, 3]);
    await_one_ring(lab, &[1, 2, 3]);
}

/// Three hosts agree on the first ring as soon as two of them are there. Who wants an address, or
/// only to know when there are any, waits for that.
pub fn consensus(kinds: [Kind; 3]) {
    by_consensus(kinds, false);
}

/// As [`consensus`], for ours told in the older form of the flag.
pub fn older_flag(kinds: [Kind; 3]) {
    by_consensus(kinds, true);
}

fn by_consensus(kinds: [Kind; 3], older: bool) {
    let mut lab = Lab::new(3, 1500);
    let told_in = |kind: Kind, peers: &[usize]| {
        let mut options = options(RANGE, "consensus=3", peers);
        if older && kind == Kind::Meshctl {
            options.extra = vec!["-initpeercount=3".to_owned()];
        }
        options
    };
    lab.start(1, kinds[0], &told_in(kinds[0], &[]));
    let primed = lab.caller(1).begin("GET", "/ring").unwrap();
    let drawn = lab.caller(1).begin("POST", "/ip/first").unwrap();
    await_status(&lab, 1, "awaiting consensus (quorum: 2, known: 1)");
    assert!(!primed.is_answered() && !drawn.is_answered());
    lab.start(2, kinds[1], &told_in(kinds[1], &[1]));
    let primed = primed.answer(wait::PATIENCE).unwrap();
    assert_eq!((primed.status, primed.body.as_str()), (200, ""));
    let drawn = drawn.answer(wait::PATIENCE).unwrap();
    assert_eq!(drawn.status, 200, "{}", drawn.body);
    let mut told = Told::default();
    told.note(1, "first", &drawn.body);
    lab.start(3, kinds[2], &told_in(kinds[2], &[1, 2]));
    lab.await_full_mesh(&[1, 2, 3]);
    draw_two_hundred(&lab, told);
    await_status(&lab, 1, "Status: ready");
}

/// The range is divided among two hosts from the beginning. One of them can give addresses out
/// although it is alone; a third host gets its own from them.
pub fn seeds(kinds: [Kind; 3]) {
    let mut lab = Lab::new(3, 1500);
    let seeds = seed(&[1, 2]);
    lab.start(1, kinds[0], &options(RANGE, &seeds, &[]));
    let mut told = Told::default();
    draw_at_once(&lab, "alone", &[(1, 1)], &mut told);
    lab.start(2, kinds[1], &options(RANGE, &seeds, &[1]));
    let ring = await_one_ring(&lab, &[1, 2]);
    assert_eq!([1, 2].map(|number| size_of(&ring, number)), [1 << 15; 2]);
    lab.start(3, kinds[2], &options(RANGE, &seeds, &[1, 2]));
    lab.await_full_mesh(&[1, 2, 3]);
    draw_two_hundred(&lab, told);
}

/// The third host does not vote. It is the first to be there, and has others agree because it needs
/// an address.
pub fn observer(kinds: [Kind; 3]) {
    let mut lab = Lab::new(3, 1500);
    lab.start(3, kinds[2], &options(RANGE, "observer", &[]));
    let drawn = lab.caller(3).begin("POST", "/ip/first").unwrap();
    await_status(&lab, 3, "Status: priming");
    for number in [1, 2] {
        assert!(!drawn.is_answered());
        let options = options(RANGE, "consensus=2", &[3]);
        lab.start(number, kinds[number - 1], &options);
    }
    let drawn = drawn.answer(wait::PATIENCE).unwrap();
    assert_eq!(drawn.status, 200, "{}", drawn.body);
    let mut told = Told::default();
    told.note(3, "first", &drawn.body);
    lab.await_full_mesh(&[1, 2, 3]);
    draw_two_hundred(&lab, told);
}

/// Two hosts at the ends of a chain whose middle one has nothing to do with addresses, and passes
/// on what is said about them.
pub fn relayed(kinds: [Kind; 3]) {
    let mut lab = Lab::new(3, 1500);
    let middle = Options {
        no_discovery: true,
        ..Options::default()
    };
    lab.start(2, kinds[1], &middle);
    for number in [1, 3] {
        let end = Options {
            no_discovery: true,
            ..options("10.32.0.0/26", "consensus=2", &[2])
        };
        lab.start(number, kinds[number - 1], &end);
    }
    lab.await_neighbours(2, &["h1", "h3"]);
    let refused = lab.request(2, "POST", "/ip/c", "");
    assert_eq!(refused.status, 404, "{}", refused.body);
    let mut told = Told::default();
    // More than half of them: one end has to ask the other.
    draw_at_once(&lab, "many", &[(1, 40), (3, 10)], &mut told);
    told.audit(&lab, &[1, 3]);
    await_one_ring(&lab, &[1, 3]);
    lab.await_neighbours(1, &["h2"]);
}

/// The first host's range has bits after the network prefix, as the classic command lines do.
pub fn masked(kinds: [Kind; 2]) {
    let mut lab = Lab::new(2, 1500);
    let classic = options("10.32.77.1/16", "consensus=2", &[]);
    lab.start(1, kinds[0], &classic);
    lab.await_log(
        1,
        "bits after the network prefix of 10.32.77.1/16 are ignored",
    );
    lab.start(2, kinds[1], &options(RANGE, "consensus=2", &[1]));
    let mut told = Told::default();
    draw_at_once(&lab, "many", &[(1, 5), (2, 5)], &mut told);
    told.audit(&lab, &[1, 2]);
    await_one_ring(&lab, &[1, 2]);
    await_status(&lab, 1, "Range: 10.32.0.0/16");
}
