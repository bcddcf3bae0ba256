//! A host that runs the original is given to ours, and back, without losing what it is and what it
//! has given out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::process::Command;

use serde_json::Value;

use super::{SHORT, attach_one_each};
use crate::lab::{Lab, address};
use crate::node::{self, Kind, Node, Options, meshctl};
use crate::wait;

const RANGE: &str = "10.32.0.0/16";
/// The host that changes hands.
const MOVES: usize = 2;
/// The host that stays as it is.
const STAYS: usize = 1;

/// The second of two hosts goes from the original to ours and back, twice, while the `other` stays
/// in its ring. If `reboots`, the bridge is lost on the way, and with it the name that it stands
/// for.
pub fn there_and_back(other: Kind, reboots: bool) {
    let mut lab = Lab::new(2, 1500);
    let options = |lab: &Lab, number: usize, kind: Kind| {
        let mut options = Options::new(None, &[address(3 - number)]);
        let mut more = vec!["--ipalloc-range", RANGE, "--ipalloc-init", "consensus=2"];
        let root = lab.directory(number).join("root");
        if kind == Kind::Meshctl && number == MOVES {
            // What the original left behind tells it who it is.
            options.name = Some(String::new());
            more.extend(["--weave-db=", "--host-root", root.to_str().unwrap()]);
        }
        options.extra = more.into_iter().map(str::to_owned).collect();
        options
    };
    let start = |lab: &mut Lab, number, kind| {
        let options = options(lab, number, kind);
        lab.start(number, kind, &options);
    };
    start(&mut lab, STAYS, other);
    start(&mut lab, MOVES, Kind::Weaver);
    lab.await_full_mesh(&[STAYS, MOVES]);
    let containers = attach_one_each(&mut lab, &[STAYS, MOVES]);
    lab.ping_all(&containers, SHORT);

    let mut given = Given::default();
    wait::until("the ring", || {
        let answer = lab.request(MOVES, "POST", "/ip/first", "");
        wait::check(answer.status == 200, || answer.body)
    });
    // More than a page of the file holds.
    for number in 0..150 {
        let kept = format!("{number:064x}");
        given.allocate(&lab, MOVES, &kept);
        given.allocate(&lab, STAYS, &format!("other-{number}"));
        if number % 3 == 0 {
            given.release(&lab, MOVES, &kept);
        }
    }
    given.claim(&lab, MOVES, "outside", "192.168.7.1/24");
    given.check(&lab);

    // Some that have not been released yet.
    let mut to_release = [1, 2, 4, 5].into_iter();
    for round in 0..2 {
        for kind in [Kind::Meshctl, Kind::Weaver] {
            let before = Identity::of(&lab);
            lab.stop(MOVES);
            if kind == Kind::Weaver {
                export(&lab);
            }
            if reboots {
                let deleted = lab.with_net(MOVES, async |net| net.delete_link("weave").await);
                assert!(deleted.unwrap());
            }
            start(&mut lab, MOVES, kind);
            lab.await_full_mesh(&[STAYS, MOVES]);
            let now = Identity::of(&lab);
            assert_eq!(now, before, "as {kind} in round {round}");
            given.check(&lab);
            // Who had an address has it still, and nobody else gets it.
            given.allocate(&lab, MOVES, &format!("{:064x}", 149));
            for number in 0..5 {
                let ident = format!("{kind}-{round}-{number}");
                given.allocate(&lab, MOVES, &ident);
                given.allocate(&lab, STAYS, &format!("other-{ident}"));
            }
            let number = to_release.next().unwrap();
            given.release(&lab, MOVES, &format!("{number:064x}"));
            given.check(&lab);
            if !reboots {
                lab.ping_all(&containers, SHORT);
            }
        }
    }
}

/// Hands the state of ours back to the original.
fn export(lab: &Lab) {
    let mut command = Command::new(meshctl());
    command.args(["export-weave-db", "--force", "--db-prefix"]);
    command.arg(Node::db_prefix(lab.directory(MOVES)));
    let done = lab.run(MOVES, command);
    assert!(done.status.success(), "{done:?}");
}

/// What the host that moves is.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    name: Value,
    targets: BTreeSet<String>,
    /// First addresses of the ranges that it owns.
    ranges: BTreeSet<String>,
}

impl Identity {
    fn of(lab: &Lab) -> Self {
        let report = lab.report(MOVES);
        let name = node::at(&report, "/Router/Name").clone();
        let list = |path| {
            node::at(&report, path)
                .as_array()
                .cloned()
                .unwrap_or_default()
        };
        let targets = list("/Router/Targets");
        let entries = list("/IPAM/Entries");
        Self {
            targets: targets.iter().map(ToString::to_string).collect(),
            ranges: entries
                .iter()
                .filter(|entry| entry["Peer"] == name)
                .map(|entry| entry["Token"].to_string())
                .collect(),
            name,
        }
    }
}

/// The addresses that were given out, by host and identifier.
#[derive(Debug, Default)]
struct Given(BTreeMap<(usize, String), String>);

impl Given {
    #[track_caller]
    fn allocate(&mut self, lab: &Lab, number: usize, ident: &str) {
        let answer = lab.request(number, "POST", &format!("/ip/{ident}"), "check-alive=true");
        assert_eq!(answer.status, 200, "{ident}: {}", answer.body);
        let (ip, _) = answer.body.split_once('/').unwrap();
        ip.parse::<Ipv4Addr>().unwrap();
        let key = (number, ident.to_owned());
        let before = self.0.get(&key);
        assert!(
            before.is_none_or(|before| *before == answer.body),
            "{ident}: {answer:?}"
        );
        self.0.insert(key, answer.body);
    }

    #[track_caller]
    fn claim(&mut self, lab: &Lab, number: usize, ident: &str, cidr: &str) {
        let answer = lab.request(number, "PUT", &format!("/ip/{ident}/{cidr}"), "");
        assert_eq!(answer.status, 204, "{ident}: {}", answer.body);
        self.0.insert((number, ident.to_owned()), cidr.to_owned());
    }

    #[track_caller]
    fn release(&mut self, lab: &Lab, number: usize, ident: &str) {
        let answer = lab.request(number, "DELETE", &format!("/ip/{ident}"), "");
        assert_eq!(answer.status, 204, "{ident}: {}", answer.body);
        self.0.remove(&(number, ident.to_owned()));
    }

    /// No address has two owners, and each host knows what it has given out: no more, no less.
    #[track_caller]
    fn check(&self, lab: &Lab) {
        let all: BTreeSet<_> = self.0.values().collect();
        assert_eq!(all.len(), self.0.len(), "{self:?}");
        for number in [STAYS, MOVES] {
            let listing: Value = serde_json::from_str(&lab.get(number, "/ip")).unwrap();
            let mut known = BTreeMap::new();
            for owner in listing["owned"].as_array().unwrap() {
                let ident = owner["containerid"].as_str().unwrap();
                let addresses = owner["addrs"].as_array().unwrap();
                assert_eq!(addresses.len(), 1, "{owner}");
                known.insert(ident.to_owned(), addresses[0].as_str().unwrap().to_owned());
            }
            known.remove("first");
            let own = self.0.iter().filter(|((host, _), _)| *host == number);
            let own: BTreeMap<_, _> = own
                .map(|((_, ident), cidr)| (ident.clone(), cidr.clone()))
                .collect();
            assert_eq!(known, own, "host {number}");
        }
    }
}
