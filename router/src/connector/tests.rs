use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const PORT: u16 = 6783;

/// A connector in virtual time, with what its owner knows.
struct Kit {
    connector: Connector,
    start: Instant,
    now: Instant,
    rng: StdRng,
    own: Vec<OwnConnection>,
    sightings: Vec<(PeerName, String, bool)>,
}

fn peer(number: u64) -> PeerName {
    PeerName::from_u64(number).unwrap()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn dial(text: &str, accept_new: bool) -> Action {
    Action::Dial {
        address: addr(text),
        accept_new,
    }
}

fn resolve(host: &str) -> Action {
    Action::Resolve { host: host.into() }
}

impl Kit {
    fn new(discovery: bool) -> Self {
        let now = Instant::now();
        Self {
            connector: Connector::new(PORT, discovery),
            start: now,
            now,
            rng: StdRng::seed_from_u64(1),
            own: Vec::new(),
            sightings: Vec::new(),
        }
    }

    fn connect(&mut self, peers: &[&str]) -> Vec<Action> {
        self.connect_replace(peers, false)
    }

    fn connect_replace(&mut self, peers: &[&str], replace: bool) -> Vec<Action> {
        let peers: Vec<String> = peers.iter().map(|&peer| peer.into()).collect();
        self.connector.connect(&peers, replace, self.now).unwrap();
        self.actions()
    }

    fn forget(&mut self, peers: &[&str]) -> Vec<Action> {
        let peers: Vec<String> = peers.iter().map(|&peer| peer.into()).collect();
        self.connector.forget(&peers);
        self.actions()
    }

    fn survey(&mut self) -> Vec<Action> {
        let sightings = self
            .sightings
            .iter()
            .map(|(peer, address, outbound)| Sighting {
                peer: *peer,
                address: addr(address),
                outbound: *outbound,
            });
        self.connector.survey(&self.own, sightings, self.now);
        std::iter::from_fn(|| self.connector.poll_action()).collect()
    }

    fn actions(&mut self) -> Vec<Action> {
        if self.connector.needs_survey() {
            self.survey()
        } else {
            self.connector.handle_timeout(self.now);
            std::iter::from_fn(|| self.connector.poll_action()).collect()
        }
    }

    fn ended(&mut self, address: &str, ending: Ending) -> Vec<Action> {
        let error = "broken".to_owned();
        self.connector
            .handle_ended(addr(address), ending, error, self.now, &mut self.rng);
        self.actions()
    }

    fn resolved(&mut self, host: &str, answer: &[&str]) -> Vec<Action> {
        let answer = answer.iter().map(|ip| ip.parse().unwrap()).collect();
        self.connector
            .handle_resolved(host, Ok(answer), self.now, &mut self.rng);
        self.actions()
    }

    fn added(&mut self, number: u64, remote: &str, outbound: bool) -> Vec<Action> {
        self.own.push(OwnConnection {
            peer: peer(number),
            remote: addr(remote),
            outbound,
        });
        if outbound {
            self.connector.handle_connected(addr(remote));
        }
        self.survey()
    }

    fn removed(&mut self, number: u64) {
        self.own.retain(|own| own.peer != peer(number));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Goes to the next deadline; how long that took, and what is to be done there.
    fn advance(&mut self) -> (Duration, Vec<Action>) {
        let at = self.connector.poll_timeout().expect("no deadline");
        let waited = at.saturating_duration_since(self.now);
        self.now = self.now.max(at);
        (waited, self.actions())
    }

    fn status(&self) -> Vec<(String, ConnectionState, Option<String>, Option<f64>)> {
        self.connector
            .status(self.now)
            .into_iter()
            .map(|entry| (entry.address, entry.state, entry.error, entry.retry_in))
            .collect()
    }
}

#[test]
fn a_direct_peer_is_dialled_at_our_port_or_its_own() {
    let mut kit = Kit::new(false);
    let actions = kit.connect(&["10.0.0.1", "10.0.0.2:7000", "fd00::3"]);
    assert_eq!(
        actions,
        [
            dial("10.0.0.1:6783", true),
            dial("10.0.0.2:7000", true),
            dial("[fd00::3]:6783", true),
        ]
    );
    assert_eq!(
        kit.connector.targets(),
        ["10.0.0.1", "10.0.0.2:7000", "fd00::3"]
    );
    assert_eq!(kit.connector.poll_timeout(), None);
    let connecting = |address: &str| (address.into(), ConnectionState::Connecting, None, None);
    assert_eq!(
        kit.status(),
        [
            connecting("10.0.0.1:6783"),
            connecting("10.0.0.2:7000"),
            connecting("[fd00::3]:6783")
        ]
    );
}

#[test]
fn nothing_changes_if_one_target_is_bad() {
    let mut kit = Kit::new(false);
    kit.connect(&["10.0.0.1"]);
    let peers = ["10.0.0.2".to_owned(), "10.0.0.3:x".to_owned()];
    assert!(kit.connector.connect(&peers, true, kit.now).is_err());
    assert_eq!(kit.connector.targets(), ["10.0.0.1"]);
}

#[test]
fn intervals_grow_by_half_from_2_seconds_to_6_minutes() {
    let mut kit = Kit::new(false);
    kit.connect(&["10.0.0.1"]);
    let mut interval = 2.0_f64;
    for _ in 0..20 {
        assert_eq!(kit.ended("10.0.0.1:6783", Ending::Failed), []);
        let (_, state, error, retry_in) = kit.status().remove(0);
        assert_eq!(state, ConnectionState::Failed);
        assert_eq!(error.as_deref(), Some("broken"));
        let (waited, actions) = kit.advance();
        assert_eq!(actions, [dial("10.0.0.1:6783", true)]);
        assert_eq!(kit.status()[0].1, ConnectionState::Retrying);
        let waited = waited.as_secs_f64();
        assert!((retry_in.unwrap() - waited).abs() < 1e-6);
        assert!((interval * 0.5..=interval * 1.5).contains(&waited));
        interval = (interval * 1.5).min(360.0);
    }
    assert_eq!(interval, 360.0);
}

#[test]
fn a_long_life_is_redialled_at_once_and_a_short_one_later() {
    let mut kit = Kit::new(false);
    kit.connect(&["10.0.0.1"]);
    for _ in 0..5 {
        kit.ended("10.0.0.1:6783", Ending::Failed);
        kit.advance();
    }
    assert_eq!(kit.added(1, "10.0.0.1:6783", true), []);
    assert_eq!(kit.connector.poll_timeout(), None);
    assert_eq!(kit.status(), []);

    kit.pass(Duration::from_secs(61));
    kit.removed(1);
    assert_eq!(
        kit.ended("10.0.0.1:6783", Ending::Lost),
        [dial("10.0.0.1:6783", true)]
    );
    kit.added(1, "10.0.0.1:6783", true);
    kit.pass(Duration::from_secs(59));
    kit.removed(1);
    assert_eq!(kit.ended("10.0.0.1:6783", Ending::Lost), []);
    let (waited, _) = kit.advance();
    assert!(waited <= Duration::from_secs(3), "interval was not reset");
}

#[test]
fn ourselves_and_our_name_are_not_tried_again_until_named_again() {
    let mut kit = Kit::new(false);
    kit.connect(&["10.0.0.1", "10.0.0.2"]);
    assert_eq!(kit.connector.active_count(), 2);
    assert_eq!(kit.ended("10.0.0.1:6783", Ending::Never), []);
    assert_eq!(kit.connector.active_count(), 1);
    assert_eq!(kit.connector.poll_timeout(), None);
    let never = (
        "10.0.0.1:6783".to_owned(),
        ConnectionState::Failed,
        Some("broken".to_owned()),
        None,
    );
    assert_eq!(kit.status()[0], never);
    kit.pass(Duration::from_secs(10_000));
    assert_eq!(kit.connect(&["10.0.0.3"]), [dial("10.0.0.3:6783", true)]);
    assert_eq!(kit.connect(&["10.0.0.1"]), [dial("10.0.0.1:6783", true)]);
}

#[test]
fn naming_a_waiting_peer_again_makes_it_due() {
    let mut kit = Kit::new(false);
    kit.connect(&["10.0.0.1"]);
    kit.ended("10.0.0.1:6783", Ending::Failed);
    assert_eq!(kit.connect(&["10.0.0.1"]), [dial("10.0.0.1:6783", true)]);
    assert_eq!(kit.connect(&["10.0.0.1"]), [], "while it is being dialled");
}

#[test]
fn replace_and_forget_leave_connections_alone() {
    let mut kit = Kit::new(false);
    kit.connect(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    kit.added(1, "10.0.0.1:6783", true);
    kit.ended("10.0.0.2:6783", Ending::Failed);
    assert_eq!(
        kit.connect_replace(&["10.0.0.4"], true),
        [dial("10.0.0.4:6783", true)]
    );
    assert_eq!(kit.connector.targets(), ["10.0.0.4"]);
    let left: Vec<_> = kit.status().into_iter().map(|entry| entry.0).collect();
    assert_eq!(
        left,
        ["10.0.0.3:6783", "10.0.0.4:6783"],
        "only those under way"
    );
    kit.forget(&["10.0.0.4", "nobody"]);
    assert_eq!(kit.ended("10.0.0.3:6783", Ending::Failed), []);
    assert_eq!(kit.ended("10.0.0.4:6783", Ending::Failed), []);
    kit.pass(Duration::from_secs(100));
    kit.removed(1);
    assert_eq!(kit.ended("10.0.0.1:6783", Ending::Lost), []);
    assert_eq!(kit.connector.poll_timeout(), None);
    assert_eq!(kit.status(), []);
}

#[test]
fn without_port_an_inbound_connection_from_the_host_suffices() {
    let mut kit = Kit::new(false);
    assert_eq!(kit.added(1, "[::ffff:10.0.0.1]:40000", false), []);
    assert_eq!(
        kit.connect(&["10.0.0.1", "10.0.0.1:7000"]),
        [dial("10.0.0.1:7000", true)],
        "a peer with port is another matter"
    );
    kit.removed(1);
    assert_eq!(kit.survey(), [dial("10.0.0.1:6783", true)]);
    kit.ended("10.0.0.1:6783", Ending::Failed);
    kit.added(1, "10.0.0.1:40001", false);
    assert_eq!(kit.status().len(), 1, "suspended, not shown");
    kit.pass(Duration::from_secs(1000));
    assert_eq!(kit.actions(), []);
    kit.removed(1);
    assert_eq!(kit.survey(), [dial("10.0.0.1:6783", true)]);
}

#[test]
fn discovery_dials_peers_that_others_see() {
    let mut kit = Kit::new(true);
    kit.added(1, "10.0.0.1:6783", true);
    kit.sightings = vec![
        (peer(1), "10.0.0.9:1".into(), true), // connected already
        (peer(2), "10.0.0.2:7000".into(), true),
        (peer(3), "10.0.0.3:45000".into(), false),
        (peer(4), "10.0.0.1:6783".into(), true), // where peer 1 is connected
        (peer(5), "0.0.0.0:6783".into(), true),
        (peer(5), "10.0.0.5:0".into(), true),
        (peer(5), "224.0.0.1:6783".into(), true),
        (peer(5), "255.255.255.255:6783".into(), false),
    ];
    assert_eq!(
        kit.survey(),
        [dial("10.0.0.2:7000", false), dial("10.0.0.3:6783", false)]
    );
    kit.ended("10.0.0.2:7000", Ending::Failed);
    kit.sightings.clear();
    kit.survey();
    assert_eq!(kit.connector.poll_timeout(), None, "forgotten");

    let mut kit = Kit::new(false);
    kit.sightings = vec![(peer(2), "10.0.0.2:7000".into(), true)];
    assert_eq!(kit.survey(), []);
}

#[test]
fn an_address_both_direct_and_discovered_welcomes_new_peers() {
    let mut kit = Kit::new(true);
    kit.sightings = vec![(peer(2), "10.0.0.2:6783".into(), true)];
    assert_eq!(kit.connect(&["10.0.0.2"]), [dial("10.0.0.2:6783", true)]);
    // Found by discovery, it is tried despite the inbound connection from that host.
    let mut kit = Kit::new(true);
    kit.added(1, "10.0.0.2:40000", false);
    kit.sightings = vec![(peer(2), "10.0.0.2:6783".into(), true)];
    assert_eq!(kit.connect(&["10.0.0.2"]), [dial("10.0.0.2:6783", true)]);
}

#[test]
fn a_name_is_looked_up_before_every_try_and_all_its_addresses_are_tried() {
    let mut kit = Kit::new(false);
    assert_eq!(kit.connect(&["host"]), [resolve("host")]);
    assert_eq!(kit.connector.poll_timeout(), None);
    assert_eq!(kit.status()[0].0, "host");
    assert_eq!(kit.status()[0].1, ConnectionState::Connecting);
    assert_eq!(
        kit.resolved("host", &["10.0.0.3", "10.0.0.1", "fd00::1"]),
        [dial("10.0.0.1:6783", true), dial("10.0.0.3:6783", true)]
    );
    kit.ended("10.0.0.1:6783", Ending::Failed);
    kit.ended("10.0.0.3:6783", Ending::Failed);
    let (_, actions) = kit.advance();
    assert_eq!(actions, [resolve("host")]);
    // One address is gone, one is new.
    let actions = kit.resolved("host", &["10.0.0.1", "10.0.0.2"]);
    assert!(actions.contains(&dial("10.0.0.2:6783", true)));
    let addresses: Vec<_> = kit.status().into_iter().map(|entry| entry.0).collect();
    assert_eq!(addresses, ["10.0.0.1:6783", "10.0.0.2:6783"]);
}

#[test]
fn a_name_with_ipv6_alone_is_dialled_over_ipv6() {
    let mut kit = Kit::new(false);
    kit.connect(&["host"]);
    assert_eq!(
        kit.resolved("host", &["fd00::1", "fd00::2"]),
        [dial("[fd00::1]:6783", true), dial("[fd00::2]:6783", true)]
    );
}

#[test]
fn a_failed_look_up_backs_off_and_old_addresses_stay() {
    let mut kit = Kit::new(false);
    kit.connect(&["host:7000"]);
    for interval in [2.0, 3.0, 4.5] {
        let error = Err("no such host".to_owned());
        kit.connector
            .handle_resolved("host", error, kit.now, &mut kit.rng);
        assert_eq!(kit.actions(), []);
        let (address, state, error, retry_in) = kit.status().remove(0);
        assert_eq!(
            (address.as_str(), state),
            ("host:7000", ConnectionState::Failed)
        );
        assert_eq!(error.as_deref(), Some("no such host"));
        let retry_in = retry_in.unwrap();
        assert!((interval * 0.5..=interval * 1.5).contains(&retry_in));
        assert_eq!(kit.advance().1, [resolve("host")]);
    }
    assert_eq!(
        kit.resolved("host", &["10.0.0.1"]),
        [dial("10.0.0.1:7000", true)]
    );
    kit.ended("10.0.0.1:7000", Ending::Failed);
    while kit.advance().1 != [resolve("host")] {}
    let error = Err("name server gone".to_owned());
    kit.pass(Duration::from_secs(60));
    kit.connector
        .handle_resolved("host", error, kit.now, &mut kit.rng);
    assert_eq!(kit.actions(), [dial("10.0.0.1:7000", true)]);
}

#[test]
fn a_name_that_works_is_looked_up_again_now_and_then() {
    let mut kit = Kit::new(false);
    kit.connect(&["peers"]);
    kit.resolved("peers", &["10.0.0.1"]);
    kit.ended("10.0.0.1:6783", Ending::Never); // ourselves, first in the list
    for _ in 0..30 {
        let (waited, actions) = kit.advance();
        assert_eq!(actions, [resolve("peers")]);
        assert!(waited <= RETRY_MAX * 3 / 2);
        assert_eq!(kit.resolved("peers", &["10.0.0.1"]), []);
    }
    kit.advance();
    assert_eq!(
        kit.resolved("peers", &["10.0.0.1", "10.0.0.2"]),
        [dial("10.0.0.2:6783", true)]
    );
}

#[test]
fn two_addresses_of_one_peer_do_not_fight() {
    let mut kit = Kit::new(false);
    kit.connect(&["10.0.0.1:6783", "10.0.1.1:6783"]);
    kit.added(1, "10.0.0.1:6783", true);
    kit.ended("10.0.1.1:6783", Ending::Duplicate(peer(1)));
    kit.pass(Duration::from_secs(1000));
    assert_eq!(kit.actions(), []);
    assert_eq!(kit.connector.poll_timeout(), None);
    kit.removed(1);
    assert_eq!(
        kit.ended("10.0.0.1:6783", Ending::Lost),
        [dial("10.0.0.1:6783", true), dial("10.0.1.1:6783", true)]
    );
}

#[test]
fn dials_under_way_are_bounded() {
    let mut kit = Kit::new(false);
    let peers: Vec<String> = (0..MAX_DIALS + 10)
        .map(|number| format!("10.0.1.{number}"))
        .collect();
    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
    assert_eq!(kit.connect(&peers).len(), MAX_DIALS);
    assert_eq!(kit.connector.poll_timeout(), None, "or it would spin");
    let first = kit.connector.targets.keys().next().unwrap().to_string();
    assert_eq!(kit.ended(&first, Ending::Failed).len(), 1);
    let second = kit.connector.targets.keys().nth(1).unwrap().to_string();
    assert_eq!(kit.added(7, &second, true).len(), 1);
}

#[test]
fn discovered_targets_are_bounded() {
    let mut kit = Kit::new(true);
    kit.sightings = (0..MAX_TARGETS as u64 + 100)
        .map(|number| {
            let [.., a, b] = number.to_be_bytes();
            (peer(number + 1), format!("10.9.{a}.{b}:6783"), true)
        })
        .collect();
    assert_eq!(kit.survey().len(), MAX_DIALS);
    assert_eq!(kit.connector.targets.len(), MAX_TARGETS);
}

/// Random events against the invariants that hold whatever happens.
#[test]
fn random_events_keep_the_invariants() {
    for seed in 0..40 {
        let mut kit = Kit::new(seed % 2 == 0);
        kit.rng = StdRng::seed_from_u64(seed);
        let mut under_way: BTreeSet<SocketAddr> = BTreeSet::new();
        let mut asked: BTreeSet<String> = BTreeSet::new();
        let specs = ["10.0.0.1", "10.0.0.2:7000", "a", "a:7001", "b", "10.0.0.3"];
        for step in 0..2000 {
            let pick = kit.rng.random_range(0..specs.len());
            let spec = specs[pick].to_owned();
            let error = "broken".to_owned();
            match kit.rng.random_range(0..9) {
                0 => {
                    let replace = kit.rng.random_bool(0.2);
                    kit.connector.connect(&[spec], replace, kit.now).unwrap();
                }
                1 => kit.connector.forget(&[spec]),
                2 => {
                    if let Some(host) = asked.pop_first() {
                        let answer = if kit.rng.random_bool(0.3) {
                            Err(error)
                        } else {
                            let count = kit.rng.random_range(0..4_u8);
                            Ok((0..count).map(|last| [10, 0, 0, last].into()).collect())
                        };
                        kit.connector
                            .handle_resolved(&host, answer, kit.now, &mut kit.rng);
                    }
                }
                3 | 4 => {
                    if let Some(address) = under_way.pop_first() {
                        kit.own.retain(|own| own.remote != address);
                        let ending = [
                            Ending::Failed,
                            Ending::Lost,
                            Ending::Never,
                            Ending::Duplicate(peer(9)),
                        ][kit.rng.random_range(0..4)];
                        kit.connector
                            .handle_ended(address, ending, error, kit.now, &mut kit.rng);
                    }
                }
                5 => {
                    if let Some(&address) = under_way.last()
                        && !kit.own.iter().any(|own| own.remote == address)
                    {
                        kit.added(u64::from(address.port()), &address.to_string(), true);
                    }
                }
                6 => {
                    kit.sightings = (0..pick)
                        .map(|number| (peer(50), format!("10.0.7.{number}:9"), number % 2 == 0))
                        .collect();
                    kit.survey();
                }
                _ => {
                    let time = Duration::from_millis(kit.rng.random_range(0..5000));
                    kit.pass(time);
                }
            }
            let actions = if kit.connector.needs_survey() || step % 3 == 0 {
                kit.survey()
            } else {
                kit.actions()
            };
            for action in actions {
                match action {
                    Action::Resolve { host } => {
                        assert!(["a", "b"].contains(&host.as_str()), "seed {seed}");
                        asked.insert(host); // again, if it was forgotten meanwhile
                    }
                    Action::Dial { address, .. } => {
                        assert!(under_way.insert(address), "seed {seed}: dialled twice");
                        assert!(!kit.own.iter().any(|own| own.remote == address));
                    }
                }
            }
            let attempting = kit
                .connector
                .targets
                .values()
                .filter(|target| target.state == State::Attempting)
                .count();
            assert_eq!(attempting, kit.connector.attempting_count, "seed {seed}");
            assert!(kit.connector.poll_timeout().is_none_or(|at| at > kit.now));
            assert!(kit.now >= kit.start);
        }
    }
}
