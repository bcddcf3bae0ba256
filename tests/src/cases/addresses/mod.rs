//! Addresses for containers: one ring of them among all hosts, and none given out twice.

pub mod births;
pub mod claims;
pub mod departures;
pub mod draws;
pub mod kills;
pub mod quarrels;
pub mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use crate::lab::{Lab, address};
use crate::node::{Options, at, name_of};
use crate::wait;

/// Requests that a host has to answer at a time.
const AT_ONCE: usize = 4;

/// A host that allocates from `range`, whose first owners are found as `init` says, and that dials
/// these others.
fn options(range: &str, init: &str, peers: &[usize]) -> Options {
    let peers: Vec<_> = peers.iter().map(|number| address(*number)).collect();
    Options {
        services: Some(range.to_owned()),
        extra: vec!["--ipalloc-init".to_owned(), init.to_owned()],
        ..Options::new(None, &peers)
    }
}

/// The mode in which the range is divided among these hosts from the beginning.
fn seed(numbers: &[usize]) -> String {
    let names: Vec<_> = numbers.iter().map(|number| name_of(*number)).collect();
    format!("seed={}", names.join(","))
}

/// Who was told which addresses are his.
#[derive(Debug, Default)]
struct Told(BTreeMap<String, (usize, String)>);

impl Told {
    /// An identifier of a host was told that this is its address, which nobody else may have.
    #[track_caller]
    fn note(&mut self, number: usize, ident: &str, cidr: &str) {
        let (address, _) = cidr.split_once('/').unwrap_or((cidr, ""));
        let owner = (number, ident.to_owned());
        if let Some(before) = self.0.insert(address.to_owned(), owner.clone()) {
            assert_eq!(before, owner, "{address} is given out twice");
        }
    }

    /// Addresses of a host, with their identifiers.
    fn of(&self, number: usize) -> BTreeSet<(String, String)> {
        let of_host = self.0.iter().filter(|(_, (host, _))| *host == number);
        of_host
            .map(|(address, (_, ident))| (ident.clone(), address.clone()))
            .collect()
    }

    /// Checks that these hosts have given out what they told, and nothing else.
    #[track_caller]
    fn audit(&self, lab: &Lab, numbers: &[usize]) {
        for number in numbers {
            assert_eq!(given_out(lab, *number), self.of(*number), "host {number}");
        }
    }
}

/// Identifiers and addresses of a host, by its own account.
#[track_caller]
fn given_out(lab: &Lab, number: usize) -> BTreeSet<(String, String)> {
    let list: Value = serde_json::from_str(&lab.get(number, "/ip")).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all = BTreeSet::new();
    for owner in at(&list, "/owned").as_array().into_iter().flatten() {
        let ident = text(at(owner, "/containerid"));
        for cidr in at(owner, "/addrs").as_array().unwrap() {
            let cidr = text(cidr);
            let (address, _) = cidr.split_once('/').unwrap();
            let new = all.insert((ident.clone(), address.to_owned()));
            assert!(new, "host {number} has {ident} {address} twice");
        }
    }
    all
}

/// An address for an identifier, however long that takes.
#[track_caller]
fn draw(lab: &Lab, number: usize, ident: &str) -> String {
    call(lab, number, "POST", &format!("/ip/{ident}"), 200)
}

/// Asks a daemon something that may take its time, and checks how it answers.
#[track_caller]
fn call(lab: &Lab, number: usize, method: &str, path: &str, status: u16) -> String {
    let answer = lab.caller(number).call(method, path);
    let answer = answer.unwrap_or_else(|error| panic!("{method} {path} of host {number}: {error}"));
    assert_eq!(
        answer.status, status,
        "{method} {path} of host {number}: {}",
        answer.body
    );
    answer.body
}

/// Draws so many addresses on each of these hosts, on all of them at once.
#[track_caller]
fn draw_at_once(lab: &Lab, what: &str, counts: &[(usize, usize)], told: &mut Told) {
    let answers = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for (number, count) in counts.iter().copied() {
            let next = std::sync::Arc::new(AtomicUsize::new(0));
            for _ in 0..AT_ONCE {
                let (caller, next, answers) = (lab.caller(number), next.clone(), &answers);
                scope.spawn(move || {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= count {
                            return;
                        }
                        let ident = format!("{what}-h{number}-{index}");
                        let answer = caller.call("POST", &format!("/ip/{ident}"));
                        answers.lock().unwrap().push((number, ident, answer));
                    }
                });
            }
        }
    });
    for (number, ident, answer) in answers.into_inner().unwrap() {
        let answer = answer.unwrap_or_else(|error| panic!("{ident}: {error}"));
        assert_eq!(answer.status, 200, "{ident}: {}", answer.body);
        told.note(number, &ident, &answer.body);
    }
}

/// A range of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    token: String,
    size: u64,
    peer: String,
    version: u64,
}

/// The ring as a host has it.
#[track_caller]
fn ring(lab: &Lab, number: usize) -> Vec<Part> {
    let report = lab.report(number);
    let entries = at(&report, "/IPAM/Entries")
        .as_array()
        .cloned()
        .unwrap_or_default();
    let part = |entry: &Value| {
        let text = |path| at(entry, path).as_str().unwrap().to_owned();
        let count = |path| at(entry, path).as_u64().unwrap();
        Part {
            token: text("/Token"),
            size: count("/Size"),
            peer: text("/Peer"),
            version: count("/Version"),
        }
    };
    entries.iter().map(part).collect()
}

/// Owners of the ring's ranges.
fn owners(ring: &[Part]) -> Vec<(&str, u64, &str)> {
    ring.iter()
        .map(|part| (part.token.as_str(), part.size, part.peer.as_str()))
        .collect()
}

/// Waits until these hosts agree on who owns what, and returns the ring.
#[track_caller]
fn await_one_ring(lab: &Lab, numbers: &[usize]) -> Vec<Part> {
    wait::until(&format!("hosts {numbers:?} to have one ring"), || {
        let rings: Vec<_> = numbers.iter().map(|number| ring(lab, *number)).collect();
        let first = rings.first().expect("there is a host").clone();
        let same = rings.iter().all(|ring| owners(ring) == owners(&first));
        wait::check(same && !first.is_empty(), || format!("{rings:#?}")).map(|()| first)
    })
}

/// Addresses that a peer owns.
fn size_of(ring: &[Part], number: usize) -> u64 {
    let name = name_of(number);
    let own = ring.iter().filter(|part| part.peer == name);
    own.map(|part| part.size).sum()
}

/// Waits until the status of a host says this of its allocation.
#[track_caller]
fn await_status(lab: &Lab, number: usize, text: &str) {
    wait::until(&format!("host {number} to be {text:?}"), || {
        let status = lab.request(number, "GET", "/status", "").body;
        wait::check(status.contains(text), || status)
    });
}

/// What a report says of those who wait.
#[track_caller]
fn waiting_count(lab: &Lab, number: usize) -> usize {
    let report = lab.report(number);
    let count = |path| at(&report, path).as_array().map_or(0, Vec::len);
    count("/IPAM/PendingAllocates") + count("/IPAM/PendingClaims")
}
