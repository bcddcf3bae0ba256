//! Names of containers across hosts: they come, they go, and none stays that should be gone.

use std::collections::BTreeSet;
use std::time::Duration;

use super::restarts::End;
use crate::lab::{Lab, address};
use crate::node::{Kind, Options};
use crate::wait;

/// A name is to be seen on all hosts within a second. The next round of gossip, which would bring
/// it anyway, is half a minute away, so this tells the one from the other on a busy machine too.
pub(super) const SOON: Duration = Duration::from_secs(10);
/// A host that falls silent is missed after a minute.
const LOSS: Duration = Duration::from_secs(180);

/// A container id as long as Docker's.
const CONTAINER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// One line of `status dns`: name, address, container and origin.
type Line = (String, String, String, String);

impl Lab {
    /// Hosts that serve names, each connected to all others.
    #[track_caller]
    fn with_names(kinds: &[Kind], password: Option<&str>) -> Self {
        let mut lab = Self::new(kinds.len(), 1500);
        for (number, kind) in (1..).zip(kinds) {
            lab.start(number, *kind, &options(number, password));
        }
        let all: Vec<_> = (1..=kinds.len()).collect();
        lab.await_full_mesh(&all);
        lab
    }

    /// Gives a container of a host a name.
    #[track_caller]
    pub fn add_name(&self, number: usize, host: &str, container: &str, addr: &str) {
        let path = format!("/name/{container}/{addr}");
        let answer = self.request(number, "PUT", &path, &format!("fqdn={host}.weave.local"));
        assert_eq!(answer.status, 204, "{}", answer.body);
    }

    /// Deletes names of a host: `/c/10.0.0.1?fqdn=` and the like.
    #[track_caller]
    pub fn delete_names(&self, number: usize, which: &str) {
        let answer = self.request(number, "DELETE", &format!("/name{which}"), "");
        assert_eq!(answer.status, 204, "{}", answer.body);
    }

    /// The names that a host knows.
    #[track_caller]
    pub fn names(&self, number: usize) -> BTreeSet<Line> {
        let text = self.get(number, "/status/dns");
        let line = |line: &str| {
            let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            let [name, address, container, origin] = words.try_into().unwrap();
            (name, address, container, origin)
        };
        text.lines().map(line).collect()
    }

    /// Waits until each of these hosts knows exactly these names, of these hosts.
    #[track_caller]
    pub fn await_names(&self, within: Duration, numbers: &[usize], expected: &[(&str, usize)]) {
        let expected: BTreeSet<_> = (expected.iter())
            .map(|(name, origin)| ((*name).to_owned(), crate::node::name_of(*origin)))
            .collect();
        for number in numbers {
            let what = format!("host {number} to know {expected:?}");
            wait::until_within(within, &what, || {
                let found = self.names(*number);
                let found: BTreeSet<_> = (found.into_iter())
                    .map(|(name, _, _, origin)| (name, origin))
                    .collect();
                wait::check(found == expected, || format!("{found:?}"))
            });
        }
    }
}

fn options(number: usize, password: Option<&str>) -> Options {
    Options {
        names: true,
        ..Options::new(password, &(1..number).map(address).collect::<Vec<_>>())
    }
}

/// Names come to all hosts and go from all, and come again.
pub fn come_and_go(kinds: [Kind; 3], password: Option<&str>) {
    let lab = Lab::with_names(&kinds, password);
    let all = [1, 2, 3];
    for number in all {
        let addr = format!("10.0.0.{number}");
        lab.add_name(number, &format!("web{number}"), CONTAINER, &addr);
        lab.add_name(number, "shared", CONTAINER, &addr);
        lab.add_name(number, "Spelled.As.Wanted", "weave:extern", &addr);
    }
    let spelled = "Spelled.As.Wanted";
    let everything = [
        ("web1", 1),
        ("web2", 2),
        ("web3", 3),
        ("shared", 1),
        ("shared", 2),
        ("shared", 3),
        (spelled, 1),
        (spelled, 2),
        (spelled, 3),
    ];
    lab.await_names(SOON, &all, &everything);
    // Addresses, ids and origins are the same everywhere.
    assert_eq!(lab.names(1), lab.names(2));
    assert_eq!(lab.names(1), lab.names(3));

    lab.delete_names(
        1,
        "/weave:extern/10.0.0.1?fqdn=Spelled.As.Wanted.weave.local",
    );
    lab.delete_names(2, &format!("/{CONTAINER}"));
    lab.delete_names(3, "?fqdn=shared.weave.local.");
    let rest = [
        ("web1", 1),
        ("shared", 1),
        (spelled, 2),
        ("web3", 3),
        (spelled, 3),
    ];
    lab.await_names(SOON, &all, &rest);
    // Nobody deletes what is not his.
    lab.delete_names(2, "?fqdn=web1.weave.local");
    // What was deleted comes back at a higher version.
    lab.add_name(2, "web2", CONTAINER, "10.0.0.2");
    let rest = [&rest[..], &[("web2", 2)]].concat();
    lab.await_names(SOON, &all, &rest);
}

/// The names of a host that ends go with it. When it is back so are they, if it is ours; an original
/// has forgotten them, and the others do not bring them back.
pub fn host_ends(kinds: [Kind; 3], end: End) {
    let mut lab = Lab::with_names(&kinds, None);
    for number in 1..=3 {
        lab.add_name(number, &format!("web{number}"), "c", "10.0.0.1");
    }
    lab.add_name(3, "old", "c", "10.0.0.3");
    let all = [("web1", 1), ("web2", 2), ("web3", 3), ("old", 3)];
    lab.await_names(SOON, &[1, 2, 3], &all);
    match end {
        End::Crash => lab.crash(3),
        End::Stop => lab.stop(3),
    }
    let rest = [("web1", 1), ("web2", 2)];
    lab.await_names(wait::PATIENCE, &[1, 2], &rest);
    lab.start(3, kinds[2], &options(3, None));
    lab.await_full_mesh(&[1, 2, 3]);
    if kinds[2] == Kind::Weaver {
        lab.await_names(wait::PATIENCE, &[1, 2, 3], &rest);
        lab.add_name(3, "web3", "c", "10.0.0.4");
        lab.add_name(3, "old", "c", "10.0.0.3");
    }
    lab.await_names(wait::PATIENCE, &[1, 2, 3], &all);
    // What is deleted now does not come back with the next life.
    lab.delete_names(3, "?fqdn=old.weave.local");
    let rest = [("web1", 1), ("web2", 2), ("web3", 3)];
    lab.await_names(SOON, &[1, 2, 3], &rest);
    if kinds[2] == Kind::Meshctl {
        lab.crash(3);
        lab.start(3, kinds[2], &options(3, None));
        lab.await_full_mesh(&[1, 2, 3]);
        lab.await_names(wait::PATIENCE, &[1, 2, 3], &rest);
    }
}

/// A daemon that returns before the others have missed it finds its old names with them. Ours knows
/// them too; those of an original go, since it does not.
pub fn quick_return(kinds: [Kind; 2]) {
    let mut lab = Lab::with_names(&kinds, None);
    lab.add_name(1, "stays", "c", "10.0.0.1");
    lab.add_name(2, "goes", "c", "10.0.0.2");
    lab.await_names(SOON, &[1, 2], &[("stays", 1), ("goes", 2)]);
    // The other end cannot hear the end of the connection.
    lab.plug(2, false);
    lab.crash(2);
    lab.start(2, kinds[1], &options(2, None));
    lab.plug(2, true);
    lab.await_full_mesh(&[1, 2]);
    let expected = match kinds[1] {
        Kind::Meshctl => &[("stays", 1), ("goes", 2)][..],
        Kind::Weaver => &[("stays", 1)],
    };
    lab.await_names(wait::PATIENCE, &[1, 2], expected);
    lab.delete_names(2, "");
    lab.await_names(wait::PATIENCE, &[1, 2], &[("stays", 1)]);
}

/// The third of three hosts is cut off, and names are removed and added on both sides meanwhile.
/// After that no name is left that was removed, and none is missing. With `missed` the cut lasts
/// until both sides have forgotten each other.
pub fn partition(kinds: [Kind; 3], missed: bool) {
    let lab = Lab::with_names(&kinds, None);
    for number in 1..=3 {
        for name in ["stays", "goes"] {
            lab.add_name(
                number,
                &format!("{name}{number}"),
                "c",
                &format!("10.0.0.{number}"),
            );
        }
    }
    let all: Vec<(String, usize)> = (1..=3)
        .flat_map(|number| ["stays", "goes"].map(|name| (format!("{name}{number}"), number)))
        .collect();
    let all: Vec<_> = all
        .iter()
        .map(|(name, origin)| (name.as_str(), *origin))
        .collect();
    lab.await_names(SOON, &[1, 2, 3], &all);
    lab.plug(3, false);
    for number in 1..=3 {
        lab.delete_names(number, &format!("?fqdn=goes{number}.weave.local"));
        lab.add_name(number, &format!("new{number}"), "c", "10.0.0.9");
    }
    if missed {
        let here = [("stays1", 1), ("new1", 1), ("stays2", 2), ("new2", 2)];
        lab.await_names(LOSS, &[1, 2], &here);
        lab.await_names(LOSS, &[3], &[("stays3", 3), ("new3", 3)]);
    }
    lab.plug(3, true);
    let healed = [
        ("stays1", 1),
        ("new1", 1),
        ("stays2", 2),
        ("new2", 2),
        ("stays3", 3),
        ("new3", 3),
    ];
    lab.await_names(LOSS, &[1, 2, 3], &healed);
}

/// Thousands of names, told one by one, and removed at once.
pub fn many(kinds: [Kind; 2], count: usize) {
    let lab = Lab::with_names(&kinds, None);
    for index in 0..count {
        let number = index % 2 + 1;
        let addr = format!("10.1.{}.{}", index / 250, index % 250 + 1);
        lab.add_name(
            number,
            &format!("host-{index:05}"),
            &format!("c{index}"),
            &addr,
        );
    }
    let await_count = |expected: usize| {
        for number in [1, 2] {
            wait::until(&format!("host {number} to know {expected} names"), || {
                let found = lab.get(number, "/status/dns").lines().count();
                wait::check(found == expected, || found.to_string())
            });
        }
    };
    await_count(count);
    assert_eq!(lab.names(1), lab.names(2));
    lab.delete_names(1, "");
    await_count(count / 2);
    lab.delete_names(2, "");
    await_count(0);
}

/// Whoever does not serve names relays what others say of them.
pub fn relayed(kinds: [Kind; 3]) {
    let mut lab = Lab::new(3, 1500);
    for (number, kind) in (1..).zip(kinds) {
        let mut options = Options {
            no_discovery: true,
            ..options(number, None)
        };
        options.names = number != 2;
        options.peers = match number {
            2 => vec![address(1).to_string(), address(3).to_string()],
            _ => Vec::new(),
        };
        lab.start(number, kind, &options);
    }
    lab.await_neighbours(2, &["h1", "h3"]);
    lab.await_peers(1, &[1, 1, 2]);
    lab.await_peers(3, &[1, 1, 2]);
    assert_eq!(lab.request(2, "GET", "/domain", "").status, 404);
    lab.add_name(1, "web", "c", "10.0.0.1");
    lab.await_names(SOON, &[1, 3], &[("web", 1)]);
    lab.delete_names(1, "");
    lab.await_names(SOON, &[1, 3], &[]);
}
