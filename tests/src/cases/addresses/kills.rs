//! Daemons that are killed again and again while addresses are drawn, claimed and given back.
//!
//! Some clients per host each have identifiers of their own, and remember what they were told. When
//! a host is killed, what its clients had asked for and were not told is in doubt; all else must be
//! there when it is back. At no time may two clients have one address.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{await_one_ring, given_out, options, ring, seed, size_of};
use crate::lab::Lab;
use crate::node::{Caller, Kind, Options};
use crate::wait;

/// So small that what a host needs it often has to get from another.
const RANGE: &str = "10.32.0.0/24";
const SIZE: u64 = 256;
/// Clients of each host.
const CLIENTS: usize = 4;
/// Most addresses of each client: all together have some two thirds of what there is.
const MOST: usize = 14;
/// Most requests between a start and the next kill.
const PAUSE: usize = 60;

/// Who has which address, by what they were told.
type Registry = Mutex<BTreeMap<String, String>>;

/// Lets the clients of a host in while its daemon runs and is not being looked at.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    /// Requests answered.
    answered: AtomicUsize,
}

#[derive(Debug, Default)]
struct GateState {
    is_open: bool,
    /// How often it was opened.
    life: u64,
    waiting: usize,
    gone: usize,
}

impl Gate {
    /// Waits until it is open, in another life than this one. Returns which that is.
    fn pass(&self, but: Option<u64>) -> u64 {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        while !state.is_open || Some(state.life) == but {
            state = self.changed.wait(state).unwrap();
        }
        state.waiting -= 1;
        state.life
    }

    fn open(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_open = true;
        state.life += 1;
        self.changed.notify_all();
    }

    /// Closes it, and waits until all clients have come back to it.
    fn close(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_open = false;
        while state.waiting + state.gone < CLIENTS {
            state = self.changed.wait(state).unwrap();
        }
    }
}

/// Ends all clients, also when the test fails.
struct End<'a>(&'a AtomicBool, &'a [Gate]);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.iter().for_each(Gate::open);
    }
}

/// What a client knows.
#[derive(Debug, Default)]
struct Ledger {
    /// Addresses by identifier.
    held: BTreeMap<String, String>,
    /// Asked for, and not answered.
    in_doubt: Option<String>,
}

struct Client<'a> {
    label: String,
    caller: Caller,
    gate: &'a Gate,
    ledger: &'a Mutex<Ledger>,
    registry: &'a Registry,
    rng: StdRng,
    next: usize,
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        // Nobody is to wait for one that has failed.
        self.gate.state.lock().unwrap().gone += 1;
        self.gate.changed.notify_all();
    }
}

impl Client<'_> {
    fn run(mut self, end: &AtomicBool) {
        let mut life = self.gate.pass(None);
        while !end.load(Ordering::Relaxed) {
            // Nobody else looks at it while the gate is open.
            let mut ledger = self.ledger.lock().unwrap();
            let done = self.act(&mut ledger);
            drop(ledger);
            match done {
                Ok(()) => {
                    self.gate.answered.fetch_add(1, Ordering::Relaxed);
                    life = self.gate.pass(None);
                }
                Err(error) => {
                    // Only those that are killed give no answer.
                    let late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    assert!(!late, "{} waits for an answer in vain", self.label);
                    life = self.gate.pass(Some(life));
                }
            }
        }
    }

    fn act(&mut self, ledger: &mut Ledger) -> io::Result<()> {
        let some = |rng: &mut StdRng, held: &BTreeMap<String, String>| {
            let index = rng.random_range(0..held.len());
            held.iter()
                .nth(index)
                .map(|(ident, address)| (ident.clone(), address.clone()))
        };
        match self.rng.random_range(0..10) {
            0 if !ledger.held.is_empty() => {
                let (ident, address) = some(&mut self.rng, &ledger.held).unwrap();
                let again = self.caller.call("POST", &format!("/ip/{ident}"))?;
                assert_eq!(
                    (again.status, again.body),
                    (200, format!("{address}/24")),
                    "{ident}"
                );
            }
            1 => self.claim(ledger)?,
            2..6 if ledger.held.len() < MOST => {
                let ident = self.new_ident();
                ledger.in_doubt = Some(ident.clone());
                let drawn = self.caller.call("POST", &format!("/ip/{ident}"))?;
                assert_eq!(drawn.status, 200, "{ident}: {}", drawn.body);
                let address = drawn.body.strip_suffix("/24").unwrap().to_owned();
                hold(self.registry, ledger, ident, address);
            }
            _ if !ledger.held.is_empty() => {
                let (ident, address) = some(&mut self.rng, &ledger.held).unwrap();
                // It may be another's before we hear that it is ours no longer.
                ledger.held.remove(&ident);
                self.registry.lock().unwrap().remove(&address);
                ledger.in_doubt = Some(ident.clone());
                let freed = self.caller.call("DELETE", &format!("/ip/{ident}"))?;
                assert_eq!(freed.status, 204, "{ident}: {}", freed.body);
                ledger.in_doubt = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// Claims an address, which somebody else may have.
    fn claim(&mut self, ledger: &mut Ledger) -> io::Result<()> {
        let ident = self.new_ident();
        let address = format!("10.32.0.{}", self.rng.random_range(1..255));
        ledger.in_doubt = Some(ident.clone());
        let claimed = self
            .caller
            .call("PUT", &format!("/ip/{ident}/{address}/24"))?;
        match claimed.status {
            204 => hold(self.registry, ledger, ident, address),
            400 => ledger.in_doubt = None,
            other => panic!("{ident}: {other} {}", claimed.body),
        }
        Ok(())
    }

    fn new_ident(&mut self) -> String {
        self.next += 1;
        format!("{}-{}", self.label, self.next)
    }
}

/// An identifier has an address now, and nobody else has.
fn hold(registry: &Registry, ledger: &mut Ledger, ident: String, address: String) {
    let before = registry
        .lock()
        .unwrap()
        .insert(address.clone(), ident.clone());
    assert_eq!(before, None, "{address} is given out again, to {ident}");
    ledger.in_doubt = None;
    ledger.held.insert(ident, address);
}

/// A host is back. What its clients were told has to be there, and besides that nothing but what
/// they may have got without being told.
fn settle(lab: &Lab, number: usize, ledgers: &[Mutex<Ledger>], registry: &Registry) {
    let mut given: BTreeMap<_, _> = given_out(lab, number).into_iter().collect();
    for ledger in ledgers {
        let mut ledger = ledger.lock().unwrap();
        for (ident, address) in &ledger.held {
            let found = given.remove(ident);
            assert_eq!(found.as_ref(), Some(address), "{ident} on host {number}");
        }
        if let Some(ident) = ledger.in_doubt.take()
            && let Some(address) = given.remove(&ident)
        {
            hold(registry, &mut ledger, ident, address);
        }
    }
    assert!(given.is_empty(), "nobody asked host {number} for {given:?}");
}

/// Kills one of our daemons after the other, so many times, while all hosts are busy.
pub fn in_a_loop(kinds: [Kind; 3], rng_seed: u64, kills: usize) {
    eprintln!("seed {rng_seed}");
    let mut rng = StdRng::seed_from_u64(rng_seed);
    let mut lab = Lab::new(3, 1500);
    let told_in = |number| {
        let others: Vec<_> = (1..=3).filter(|other| *other != number).collect();
        Options {
            log_level: Some("info".to_owned()),
            ..options(RANGE, &seed(&[1, 2, 3]), &others)
        }
    };
    for number in 1..=3 {
        lab.start(number, kinds[number - 1], &told_in(number));
    }
    lab.await_full_mesh(&[1, 2, 3]);

    let (registry, end) = (Registry::default(), AtomicBool::new(false));
    let gates = [(); 3].map(|()| Gate::default());
    let ledgers = [(); 3].map(|()| [(); CLIENTS].map(|()| Mutex::<Ledger>::default()));
    thread::scope(|scope| {
        let _end = End(&end, &gates);
        for (number, (gate, ledgers)) in (1..).zip(gates.iter().zip(&ledgers)) {
            for (index, ledger) in ledgers.iter().enumerate() {
                let client = Client {
                    label: format!("h{number}c{index}"),
                    caller: lab.caller(number),
                    gate,
                    ledger,
                    registry: &registry,
                    rng: StdRng::seed_from_u64(rng.random()),
                    next: 0,
                };
                let end = &end;
                scope.spawn(|| client.run(end));
            }
            gate.open();
        }
        let ours: Vec<_> = (1..=3)
            .filter(|number| kinds[number - 1] == Kind::Meshctl)
            .collect();
        for kill in 1..=kills {
            let number = ours[rng.random_range(0..ours.len())];
            let gate = &gates[number - 1];
            let due = gate.answered.load(Ordering::Relaxed) + rng.random_range(0..PAUSE);
            wait::until("requests to be answered", || {
                let answered = gate.answered.load(Ordering::Relaxed);
                wait::check(answered >= due, || format!("{answered} of {due} are"))
            });
            lab.crash(number);
            gate.close();
            lab.start(number, kinds[number - 1], &told_in(number));
            settle(&lab, number, &ledgers[number - 1], &registry);
            if kill % 20 == 0 {
                let held = registry.lock().unwrap().len();
                eprintln!("{kill} kills; {held} addresses given out");
            }
            gate.open();
        }
    });

    lab.await_full_mesh_within(2 * wait::PATIENCE, &[1, 2, 3]);
    for number in 1..=3 {
        settle(&lab, number, &ledgers[number - 1], &registry);
    }
    let rest = await_one_ring(&lab, &[1, 2, 3]);
    let sizes = [1, 2, 3].map(|number| size_of(&rest, number));
    assert_eq!(sizes.iter().sum::<u64>(), SIZE, "{rest:?}");
    // Counts of free addresses, and with them versions, travel with periodic gossip only.
    wait::until("rings to be equal in all", || {
        let rings = [1, 2, 3].map(|number| ring(&lab, number));
        wait::check(rings[0] == rings[1] && rings[1] == rings[2], || {
            format!("{rings:#?}")
        })
    });
}
