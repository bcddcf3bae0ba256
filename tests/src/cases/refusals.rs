//! Connections that must not come about, and the reasons that both ends give.

use super::PASSWORD;
use crate::lab::{Lab, address};
use crate::node::{Kind, Options, name_of};
use crate::wait;

/// A peer with another password is refused. Both ends dial, so both show the reason.
pub fn wrong_password(kinds: [Kind; 2]) {
    refused(kinds, [PASSWORD, Some("wrong")], ["nable to decrypt"; 2]);
}

/// A peer without a password is refused by one with, and the other way round.
pub fn missing_password(kinds: [Kind; 2]) {
    let reasons = [
        "password specified, but peer requested an unencrypted connection",
        // The original spells the next word otherwise than everybody else.
        "no password specif",
    ];
    refused(kinds, [PASSWORD, None], reasons);
}

/// Both dial each other, and both show one of the reasons, since the end that closes first keeps
/// the other from finding out for itself.
fn refused(kinds: [Kind; 2], passwords: [Option<&str>; 2], reasons: [&str; 2]) {
    let mut lab = Lab::new(2, 1500);
    lab.start(1, kinds[0], &Options::new(passwords[0], &[address(2)]));
    lab.start(2, kinds[1], &Options::new(passwords[1], &[address(1)]));
    for (number, reason) in (1..).zip(reasons) {
        wait::until(&format!("host {number} to be refused: {reason}"), || {
            let connections = lab.connections(number);
            let held = connections.iter().all(|found| found.state != "established");
            assert!(held, "connected in spite of the passwords: {connections:?}");
            let failed = connections.iter().find(|found| found.state == "failed");
            let failed = failed.ok_or_else(|| format!("{connections:?}"))?;
            wait::check(failed.info.contains(reason), || failed.info.clone())
        });
        lab.await_log(number, reason);
    }
}

/// Of two hosts with one name, a third one takes one only. Which one may change with each try, for
/// the one with the lower random number keeps its connection.
pub fn shared_name(kinds: [Kind; 3]) {
    let mut lab = Lab::new(3, 1500);
    let namesake = |peers: &[_]| Options {
        name: Some(name_of(1)),
        no_discovery: true,
        ..Options::new(None, peers)
    };
    lab.start(
        3,
        kinds[2],
        &Options {
            no_discovery: true,
            ..Options::default()
        },
    );
    lab.start(1, kinds[0], &namesake(&[address(3)]));
    lab.await_neighbours(1, &["h3"]);
    lab.start(2, kinds[1], &namesake(&[address(3)]));
    lab.await_log(3, "Multiple connections to");
    let connections = lab.connections(3);
    assert!(connections.len() <= 1, "{connections:?}");
}

/// Two hosts with one name refuse each other, and do not try again.
pub fn namesakes(kinds: [Kind; 2]) {
    let mut lab = Lab::new(2, 1500);
    let namesake = |peers: &[_]| Options {
        name: Some(name_of(1)),
        ..Options::new(None, peers)
    };
    lab.start(1, kinds[0], &namesake(&[]));
    lab.start(2, kinds[1], &namesake(&[address(1)]));
    let refused = lab.await_connection(2, "failed", "retry: never");
    assert!(refused.info.contains("name"), "{refused:?}");
}

/// A host that dials itself finds out and does not try again.
pub fn connect_to_self(kind: Kind) {
    let mut lab = Lab::new(1, 1500);
    lab.start(1, kind, &Options::new(None, &[address(1)]));
    lab.await_connection(1, "failed", "cannot connect to ourself, retry: never");
}

/// Versions that do not overlap: one end insists on 2, the other one knows 1 only.
pub fn wrong_version(kinds: [Kind; 2]) {
    let mut lab = Lab::new(2, 1500);
    let newer = Options {
        min_protocol: Some(2),
        ..Options::new(None, &[])
    };
    let older = Options {
        max_protocol: Some(1),
        ..Options::new(None, &[address(1)])
    };
    lab.start(1, kinds[0], &newer);
    lab.start(2, kinds[1], &older);
    lab.await_connection(2, "failed", "incompatible");
    for number in [1, 2] {
        lab.await_log(number, "incompatible");
    }
}

/// A host takes no more connections than it is told to, and the mesh goes on through those it has.
pub fn connection_limit(kinds: [Kind; 3]) {
    let mut lab = Lab::new(3, 1500);
    let limited = Options {
        conn_limit: Some(1),
        ..Options::new(None, &[])
    };
    lab.start(3, kinds[2], &limited);
    lab.start(1, kinds[0], &Options::new(None, &[address(3)]));
    lab.await_neighbours(3, &["h1"]);
    lab.start(2, kinds[1], &Options::new(None, &[address(1), address(3)]));
    lab.await_neighbours(1, &["h2", "h3"]);
    lab.await_connection(2, "failed", "retry:");
    lab.await_log(3, "Connection limit reached (1)");
    let containers = super::attach_one_each(&mut lab, &[1, 2, 3]);
    lab.ping_all(&containers, super::SHORT);
    lab.await_neighbours(3, &["h1"]);
}
