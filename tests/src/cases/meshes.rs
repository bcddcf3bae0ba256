//! Several hosts: everybody with everybody, and relays.

use super::{LONG, SHORT, TRANSFER, attach_one_each};
use crate::lab::{Lab, address};
use crate::node::{self, Kind, Options};
use crate::wait;

/// Four hosts that are told of the first one only find each other; their containers exchange short
/// and long packets and TCP streams.
pub fn full(kinds: [Kind; 4], password: Option<&str>) {
    let mut lab = Lab::new(4, 1500);
    for (number, kind) in (1..).zip(kinds) {
        let peers = if number == 1 {
            vec![]
        } else {
            vec![address(1)]
        };
        lab.start(number, kind, &Options::new(password, &peers));
    }
    lab.await_full_mesh(&[1, 2, 3, 4]);
    for number in 1..=4 {
        for connection in lab.connections(number) {
            let sealed = connection.info.starts_with("encrypted");
            assert_eq!(sealed, password.is_some(), "host {number}: {connection:?}");
        }
    }
    let containers = attach_one_each(&mut lab, &[1, 2, 3, 4]);
    lab.ping_all(&containers, SHORT);
    lab.ping_all(&containers, LONG);
    for from in &containers {
        for to in containers.iter().filter(|to| *to != from) {
            lab.transfer(*from, *to, TRANSFER / 4);
        }
    }
}

/// A chain of three without discovery: the ends, which the middle one joins, reach each other
/// through it, and addresses and names spread over it although it serves neither. The two ends
/// dial, the middle one does not.
pub fn chain(kinds: [Kind; 3], password: Option<&str>) {
    let mut lab = Lab::new(3, 1500);
    for (number, kind) in [(2, kinds[1]), (1, kinds[0]), (3, kinds[2])] {
        let peers = if number == 2 {
            vec![]
        } else {
            vec![address(2)]
        };
        let options = Options {
            no_discovery: true,
            ..Options::new(password, &peers)
        };
        let options = if number == 2 {
            options
        } else {
            at_the_end(kind, options)
        };
        lab.start(number, kind, &options);
    }
    lab.await_neighbours(1, &["h2"]);
    lab.await_neighbours(2, &["h1", "h3"]);
    lab.await_neighbours(3, &["h2"]);
    for number in 1..=3 {
        lab.await_peers(number, &[1, 1, 2]);
    }
    let containers = attach_one_each(&mut lab, &[1, 2, 3]);
    lab.ping_all(&containers, SHORT);
    lab.ping_all(&containers, LONG);
    lab.transfer(containers[0], containers[2], TRANSFER);
    lab.transfer(containers[2], containers[0], TRANSFER);
    if kinds[0] == Kind::Weaver && kinds[2] == Kind::Weaver {
        share_addresses_and_names(&lab, [1, 3]);
    }
    // Nothing of this made the ends dial each other.
    lab.await_neighbours(1, &["h2"]);
    lab.await_neighbours(3, &["h2"]);
}

/// Two hosts, originals with their services on, agree on addresses and know each other's names.
fn share_addresses_and_names(lab: &Lab, [one, other]: [usize; 2]) {
    let allocate = |number, container: &str| {
        let given = lab.request(number, "POST", &format!("/ip/{container}"), "");
        assert_eq!(
            given.status, 200,
            "host {number} gives no address: {}",
            given.body
        );
        given.body
    };
    let (first, second) = (allocate(one, "c0ffee"), allocate(other, "decade"));
    assert_ne!(first, second);
    for (number, owner) in [(one, other), (other, one)] {
        let (status, owner) = (lab.get(number, "/status/ipam"), format!("h{owner}"));
        assert!(
            status.contains(&owner),
            "host {number} does not know the owner {owner}: {status}"
        );
    }
    let (address, _) = first
        .trim()
        .split_once('/')
        .expect("an address with prefix length");
    let path = format!("/name/c0ffee/{address}");
    let named = lab.request(one, "PUT", &path, "fqdn=spread.weave.local");
    assert_eq!(named.status, 204, "{}", named.body);
    wait::until("the name to reach the other end", || {
        let entries = lab.get(other, "/status/dns");
        wait::check(
            entries.contains("spread") && entries.contains(address),
            || entries,
        )
    });
}

/// What a daemon at one end of a chain is told: originals there have their services on, and neither
/// can have addresses before it has agreed with the one at the other end.
fn at_the_end(kind: Kind, options: Options) -> Options {
    if kind != Kind::Weaver {
        return options;
    }
    Options {
        services: Some("10.50.0.0/16".to_owned()),
        extra: vec!["--ipalloc-init=consensus=2".to_owned()],
        ..options
    }
}

/// A chain of four, `1 - 2 - 3 - 4`, without discovery: two relays in a row.
pub fn long_chain(kinds: [Kind; 4], password: Option<&str>) {
    let mut lab = Lab::new(4, 1500);
    for (number, kind) in (1..).zip(kinds) {
        let peers = if number == 1 {
            vec![]
        } else {
            vec![address(number - 1)]
        };
        let options = Options {
            no_discovery: true,
            ..Options::new(password, &peers)
        };
        let end = number == 1 || number == 4;
        let options = if end {
            at_the_end(kind, options)
        } else {
            options
        };
        lab.start(number, kind, &options);
    }
    for number in 1..=4 {
        lab.await_peers(number, &[1, 1, 2, 2]);
    }
    let containers = attach_one_each(&mut lab, &[1, 2, 3, 4]);
    lab.ping_all(&containers, SHORT);
    lab.ping(containers[0], containers[3], LONG);
    lab.transfer(containers[0], containers[3], TRANSFER);
    lab.transfer(containers[3], containers[0], TRANSFER);
    if kinds[0] == Kind::Weaver && kinds[3] == Kind::Weaver {
        share_addresses_and_names(&lab, [1, 4]);
    }
}

/// A container moves from host to host, in this order, with its addresses, MAC and IP. The others,
/// who have just talked to it, find it at its new place.
///
/// The original takes no frames from a local container whose address it has lately seen elsewhere,
/// so a move to one of its hosts would take ten minutes.
pub fn moving_container(kinds: [Kind; 3], hosts: &[usize], password: Option<&str>) {
    let mut lab = Lab::new(3, 1500);
    for (number, kind) in (1..).zip(kinds) {
        let peers: Vec<_> = (1..number).map(address).collect();
        lab.start(number, kind, &Options::new(password, &peers));
    }
    lab.await_full_mesh(&[1, 2, 3]);
    let others = attach_one_each(&mut lab, &[1, 2, 3]);
    let mac = "5e:00:00:00:00:99".parse().unwrap();
    let mut before = None;
    for number in hosts.iter().copied() {
        if let Some(before) = before {
            lab.detach(before);
        }
        let moving = lab.attach(number, "10.40.0.99/16");
        before = Some(moving);
        lab.set_container_mac(moving, mac);
        for other in &others {
            // A moved container is heard of by what it sends, as a restarted one announces itself.
            lab.ping(moving, *other, SHORT);
            lab.ping(*other, moving, SHORT);
        }
        lab.transfer(others[1], moving, TRANSFER / 4);
    }
}

/// Two hosts of a full mesh of three lose sight of each other. Once they have noticed, which takes
/// a minute of silence, the third one relays between them, until they find each other again.
pub fn detour(kinds: [Kind; 3], password: Option<&str>) {
    let mut lab = Lab::new(3, 1500);
    for (number, kind) in (1..).zip(kinds) {
        let peers: Vec<_> = (1..number).map(address).collect();
        lab.start(number, kind, &Options::new(password, &peers));
    }
    lab.await_full_mesh(&[1, 2, 3]);
    let containers = attach_one_each(&mut lab, &[1, 2, 3]);
    lab.ping_all(&containers, SHORT);
    lab.part(&[1, 3], true);
    for number in [1, 3] {
        wait::until_within(2 * wait::PATIENCE, "the cut to be noticed", || {
            let report = lab.report(number);
            let routes = node::at(&report, "/Router/UnicastRoutes").to_string();
            let (end, relay) = (node::name_of(4 - number), node::name_of(2));
            let detour = [("Dest", end), ("Via", relay)];
            let found = node::at(&report, "/Router/UnicastRoutes")
                .as_array()
                .is_some_and(|all| {
                    all.iter().any(|route| {
                        detour.iter().all(|(key, name)| {
                            route[key]
                                .as_str()
                                .is_some_and(|text| text.starts_with(name))
                        })
                    })
                });
            wait::check(found, || routes)
        });
    }
    lab.ping_all(&containers, SHORT);
    lab.transfer(containers[0], containers[2], TRANSFER);
    lab.part(&[1, 3], false);
    lab.await_full_mesh(&[1, 2, 3]);
    lab.ping_all(&containers, SHORT);
}
