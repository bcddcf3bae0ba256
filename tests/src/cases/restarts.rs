//! Daemons that end and come back, and hosts that are lost.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

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

/// Things that happen to hosts in [`turmoil`].
#[derive(Debug, Clone, Copy)]
enum Blow {
    Crash,
    Stop,
    Unplug,
    SetApart,
}

/// Four hosts in turmoil: again and again one of them is hit by something, while packets are sent
/// all the time, and recovers after some more of that. In the end they are a full mesh again, and
/// all containers reach each other.
pub fn turmoil(kinds: [Kind; 4], password: Option<&str>, seed: u64, blows: usize) {
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut lab = Lab::new(4, 1500);
    let options: Vec<_> = (1..=4)
        .map(|number| {
            let others: Vec<_> = (1..=4).filter(|n| *n != number).map(address).collect();
            Options::new(password, &others)
        })
        .collect();
    for (number, (kind, options)) in (1..).zip(kinds.iter().zip(&options)) {
        lab.start(number, *kind, options);
    }
    lab.await_full_mesh(&[1, 2, 3, 4]);
    let containers = attach_one_each(&mut lab, &[1, 2, 3, 4]);
    lab.ping_all(&containers, SHORT);
    let mut suffering: Vec<(usize, Blow)> = Vec::new();
    for _ in 0..blows {
        let number = rng.random_range(1..=4);
        if let Some(index) = suffering.iter().position(|(other, _)| *other == number) {
            let (_, blow) = suffering.swap_remove(index);
            recover(
                &mut lab,
                number,
                blow,
                kinds[number - 1],
                &options[number - 1],
            );
        } else {
            let blow =
                [Blow::Crash, Blow::Stop, Blow::Unplug, Blow::SetApart][rng.random_range(0..4)];
            match blow {
                Blow::Crash => lab.crash(number),
                Blow::Stop => lab.stop(number),
                Blow::Unplug => lab.plug(number, false),
                Blow::SetApart => lab.part(&[number], true),
            }
            suffering.push((number, blow));
        }
        for _ in 0..rng.random_range(0..4) {
            let [from, to] = [0; 2].map(|_| containers[rng.random_range(0..4)]);
            // Whether it arrives now is a matter of luck.
            _ = lab.try_ping(from, to, rng.random_range(0..3000));
        }
    }
    for (number, blow) in suffering {
        recover(
            &mut lab,
            number,
            blow,
            kinds[number - 1],
            &options[number - 1],
        );
    }
    // Those that were silent for less than a minute still have their connections, others dial anew,
    // with pauses that have grown meanwhile.
    lab.await_full_mesh_within(2 * wait::PATIENCE, &[1, 2, 3, 4]);
    lab.ping_all(&containers, SHORT);
    lab.transfer(containers[0], containers[3], TRANSFER);
}

#[track_caller]
fn recover(lab: &mut Lab, number: usize, blow: Blow, kind: Kind, options: &Options) {
    match blow {
        Blow::Crash | Blow::Stop => lab.start(number, kind, options),
        Blow::Unplug => lab.plug(number, true),
        Blow::SetApart => lab.part(&[number], false),
    }
}
