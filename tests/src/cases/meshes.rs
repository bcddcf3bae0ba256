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
        let services = kind == Kind::Weaver && number != 2;
        let options = Options {
            no_discovery: true,
            services: services.then(|| "10.50.0.0/16".to_owned()),
            // Neither end can have addresses before it has agreed with the other one.
            extra: if services {
                vec!["--ipalloc-init=consensus=2".to_owned()]
            } else {
                vec![]
            },
            ..Options::new(password, &peers)
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
        share_addresses_and_names(&lab);
    }
    // Nothing of this made the ends dial each other.
    lab.await_neighbours(1, &["h2"]);
    lab.await_neighbours(3, &["h2"]);
}

/// Hosts 1 and 3, originals with their services on, agree on addresses and know each other's names.
fn share_addresses_and_names(lab: &Lab) {
    let allocate = |number, container: &str| {
        let given = lab.request(number, "POST", &format!("/ip/{container}"), "");
        assert_eq!(
            given.status, 200,
            "host {number} gives no address: {}",
            given.body
        );
        given.body
    };
    let (first, second) = (allocate(1, "c0ffee"), allocate(3, "decade"));
    assert_ne!(first, second);
    for number in [1, 3] {
        let (status, other) = (lab.get(number, "/status/ipam"), format!("h{}", 4 - number));
        assert!(
            status.contains(&other),
            "host {number} does not know the owner {other}: {status}"
        );
    }
    let (address, _) = first
        .trim()
        .split_once('/')
        .expect("an address with prefix length");
    let path = format!("/name/c0ffee/{address}");
    let named = lab.request(1, "PUT", &path, "fqdn=spread.weave.local");
    assert_eq!(named.status, 204, "{}", named.body);
    wait::until("the name to reach the other end", || {
        let entries = lab.get(3, "/status/dns");
        wait::check(
            entries.contains("spread") && entries.contains(address),
            || entries,
        )
    });
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
