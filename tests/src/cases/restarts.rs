//! Daemons that end and come back, and hosts that are lost.

use super::{SHORT, TRANSFER, attach_one_each};
use crate::lab::{Lab, address};
use crate::node::{self, Kind, Options};
use crate::wait;

/// How a daemon ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As `kill -9` does it.
    Crash,
    /// Asked to.
    Stop,
}

/// The third of three hosts ends and returns. Meanwhile the others forget it; its containers stay
/// on the bridge, and are reached again once it is back, under the same name.
pub fn restart(kinds: [Kind; 3], password: Option<&str>, end: End) {
    let mut lab = Lab::new(3, 1500);
    let options: Vec<_> = (1..=3)
        .map(|number| Options {
            // The one that returns has to know its name by itself.
            name: (number == 3 && kinds[2] == Kind::Meshctl).then(String::new),
            ..Options::new(password, &(1..number).map(address).collect::<Vec<_>>())
        })
        .collect();
    for (number, (kind, options)) in (1..).zip(kinds.iter().zip(&options)) {
        lab.start(number, *kind, options);
    }
    lab.await_full_mesh(&[1, 2, 3]);
    let containers = attach_one_each(&mut lab, &[1, 2, 3]);
    lab.ping_all(&containers, SHORT);
    let name = |lab: &Lab| {
        node::at(&lab.report(3), "/Router/Name")
            .as_str()
            .map(str::to_owned)
    };
    let before = name(&lab);
    match end {
        End::Crash => lab.crash(3),
        End::Stop => lab.stop(3),
    }
    for (number, other) in [(1, "h2"), (2, "h1")] {
        lab.await_neighbours(number, &[other]);
        lab.await_peers(number, &[1, 1]);
    }
    lab.ping_all(&containers[..2], SHORT);
    assert!(lab.try_ping(containers[0], containers[2], SHORT).is_err());
    lab.start(3, kinds[2], &options[2]);
    lab.await_full_mesh(&[1, 2, 3]);
    assert_eq!(name(&lab), before);
    lab.ping_all(&containers, SHORT);
    lab.transfer(containers[0], containers[2], TRANSFER);
    lab.transfer(containers[2], containers[0], TRANSFER);
}

/// A host falls silent. The others need a minute to be sure that it is gone, and take it back when
/// it is heard again.
pub fn loss(kinds: [Kind; 3], password: Option<&str>) {
    let mut lab = Lab::new(3, 1500);
    for (number, kind) in (1..).zip(kinds) {
        let peers: Vec<_> = (1..number).map(address).collect();
        lab.start(number, kind, &Options::new(password, &peers));
    }
    lab.await_full_mesh(&[1, 2, 3]);
    let containers = attach_one_each(&mut lab, &[1, 2, 3]);
    lab.ping_all(&containers, SHORT);
    lab.plug(3, false);
    for (number, other) in [(1, "h2"), (2, "h1")] {
        wait::until_within(2 * wait::PATIENCE, "the loss to be noticed", || {
            let connections = lab.connections(number);
            let gone = connections
                .iter()
                .filter(|found| found.state == "established")
                .all(|found| found.info.contains(other));
            wait::check(gone, || format!("{connections:?}"))
        });
        lab.await_peers(number, &[1, 1]);
    }
    lab.ping_all(&containers[..2], SHORT);
    lab.plug(3, true);
    lab.await_full_mesh(&[1, 2, 3]);
    lab.ping_all(&containers, SHORT);
}

/// A host of a mesh of originals changes over to ours, and back: the containers stay on the bridge,
/// the peer keeps its name, which is the bridge's address.
pub fn migration(password: Option<&str>) {
    let mut lab = Lab::new(3, 1500);
    let options = |number| Options {
        name: (number == 3).then(String::new),
        ..Options::new(password, &(1..number).map(address).collect::<Vec<_>>())
    };
    for number in 1..=3 {
        lab.start(number, Kind::Weaver, &options(number));
    }
    lab.await_full_mesh(&[1, 2, 3]);
    let containers = attach_one_each(&mut lab, &[1, 2, 3]);
    lab.ping_all(&containers, SHORT);
    let name = |lab: &Lab| {
        node::at(&lab.report(3), "/Router/Name")
            .as_str()
            .map(str::to_owned)
    };
    let before = name(&lab);
    for kind in [Kind::Meshctl, Kind::Weaver] {
        lab.stop(3);
        lab.await_neighbours(1, &["h2"]);
        lab.start(3, kind, &options(3));
        lab.await_full_mesh(&[1, 2, 3]);
        assert_eq!(name(&lab), before, "with {kind}");
        lab.ping_all(&containers, SHORT);
        lab.transfer(containers[0], containers[2], TRANSFER);
        lab.transfer(containers[2], containers[0], TRANSFER);
    }
}
