//! Underlays that lose, delay and repeat, that hide how wide they are, or that let only TCP
//! through.

use std::time::Duration;

use super::{LONG, SHORT, TRANSFER, attach_one_each};
use crate::lab::{Lab, address};
use crate::node::{Kind, Options};
use crate::wait;
use crate::weather::Weather;

/// Three hosts of which the second and third are told of the first.
#[track_caller]
fn start(lab: &mut Lab, kinds: &[Kind], password: Option<&str>) {
    for (number, kind) in (1..).zip(kinds) {
        let peers = if number == 1 {
            vec![]
        } else {
            vec![address(1)]
        };
        lab.start(number, *kind, &Options::new(password, &peers));
    }
}

/// Frames get lost, overtake each other and come twice. The mesh comes about and carries on.
pub fn rough(kinds: [Kind; 3], password: Option<&str>, seed: u64) {
    let mut lab = Lab::outdoors(3, seed);
    lab.set_weather(Weather {
        loss: 0.02,
        duplicates: 0.02,
        delay: Duration::from_millis(3),
        jitter: Duration::from_millis(2),
        ..Weather::default()
    });
    start(&mut lab, &kinds, password);
    lab.await_full_mesh(&[1, 2, 3]);
    let containers = attach_one_each(&mut lab, &[1, 2, 3]);
    lab.ping_all(&containers, SHORT);
    lab.ping_all(&containers, 3000);
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        lab.transfer(containers[from], containers[to], TRANSFER / 16);
    }
    lab.await_full_mesh(&[1, 2, 3]);
}

/// The path loses longer packets without a word. The overlay finds out what gets through, and cuts
/// up what is longer by itself, since the pieces that the kernel makes are too long as well.
pub fn black_hole(kinds: [Kind; 2], password: Option<&str>) {
    let longest = 1300;
    let overhead = match (kinds == [Kind::Meshctl; 2], password.is_some()) {
        (_, false) => 62,
        (true, true) => 78,
        (false, true) => 86,
    };
    let mut lab = Lab::outdoors(2, 0);
    lab.set_weather(Weather {
        longest,
        ..Weather::default()
    });
    start(&mut lab, &kinds, password);
    lab.await_full_mesh(&[1, 2]);
    for number in [1, 2] {
        lab.await_connection(
            number,
            "established",
            &format!("mtu={}", longest - overhead),
        );
    }
    let containers = attach_one_each(&mut lab, &[1, 2]);
    lab.ping_all(&containers, SHORT);
    lab.ping_all(&containers, 1472);
    lab.ping_all(&containers, LONG);
    lab.transfer(containers[0], containers[1], TRANSFER / 4);
    lab.transfer(containers[1], containers[0], TRANSFER / 4);
}

/// A firewall lets TCP through but not UDP. Between two of ours frames go over TCP until it is
/// mended; otherwise the connection stays pending.
pub fn no_udp(kinds: [Kind; 2], password: Option<&str>) {
    let mut lab = Lab::outdoors(2, 0);
    lab.set_weather(Weather {
        no_udp: vec![(1, 2)],
        ..Weather::default()
    });
    start(&mut lab, &kinds, password);
    if kinds != [Kind::Meshctl; 2] {
        for number in [1, 2] {
            lab.await_connection(number, "pending", "");
        }
        lab.set_weather(Weather::default());
        lab.await_full_mesh(&[1, 2]);
        let containers = attach_one_each(&mut lab, &[1, 2]);
        return lab.ping_all(&containers, SHORT);
    }
    let containers = attach_one_each(&mut lab, &[1, 2]);
    for weather in [true, false, true] {
        // Between blanks, for the reason of a fall-back names overlays, too.
        let overlay = if weather {
            " stream "
        } else {
            lab.set_weather(Weather::default());
            " shuttle "
        };
        for number in [1, 2] {
            let found = lab.await_connection(number, "established", overlay);
            assert_eq!(found.info.contains("fallback="), weather, "{found:?}");
        }
        lab.ping_all(&containers, SHORT);
        lab.ping_all(&containers, LONG);
        lab.transfer(containers[0], containers[1], TRANSFER / 4);
        lab.set_weather(Weather {
            no_udp: vec![(1, 2)],
            ..Weather::default()
        });
    }
}

/// UDP stops between two hosts of three, TCP goes on. A minute later they have noticed, and the
/// third one carries their packets until it works again.
pub fn udp_lost(kinds: [Kind; 3], password: Option<&str>) {
    let mut lab = Lab::outdoors(3, 0);
    start(&mut lab, &kinds, password);
    lab.await_full_mesh(&[1, 2, 3]);
    let containers = attach_one_each(&mut lab, &[1, 2, 3]);
    lab.ping_all(&containers, SHORT);
    lab.set_weather(Weather {
        no_udp: vec![(1, 3)],
        ..Weather::default()
    });
    wait::until_within(2 * wait::PATIENCE, "packets to take the other way", || {
        lab.try_ping(containers[0], containers[2], SHORT)
    });
    lab.ping_all(&containers, SHORT);
    lab.set_weather(Weather::default());
    lab.await_full_mesh_within(2 * wait::PATIENCE, &[1, 2, 3]);
    lab.ping_all(&containers, SHORT);
}
