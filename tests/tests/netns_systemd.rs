//! The units in `systemd/`: their `Exec` lines, run in order on the five hosts of the classic
//! cloud-config layout, each with its environment files as they stand there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, a panic is how a failure is reported"
)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use host::netns::Signal;
use host::probe;
use tests::lab::{Lab, Output, address};
use tests::node::{self, parse_connections};
use tests::units::{Machine, STOP_TIMEOUT, Unit};
use tests::{as_root, http, wait};

/// Host name, and the environment file of that host only.
const HOSTS: [(&str, &str); 5] = [
    (
        "azure-prd-01",
        "WEAVE_PEERS=\"-initpeercount=5\"\nWEAVE_BRIDGE_ADDRESS=\"10.1.0.1/16\"\n",
    ),
    (
        "azure-prd-02",
        "WEAVE_PEERS=\"azure-prd-01\"\nWEAVE_BRIDGE_ADDRESS=\"10.1.0.2/16\"\n",
    ),
    (
        "azure-prd-03",
        "WEAVE_PEERS=\"cluster-01.cloudapp.net\"\nWEAVE_BRIDGE_ADDRESS=\"10.1.0.3/16\"\n",
    ),
    (
        "azure-prd-04",
        "WEAVE_PEERS=\"azure-prd-03\"\nWEAVE_BRIDGE_ADDRESS=\"10.1.0.4/16\"\n",
    ),
    (
        "ded-prd-01",
        "WEAVE_PEERS=\"cluster-01.cloudapp.net\"\nWEAVE_BRIDGE_ADDRESS=\"10.1.0.5/16\"\n",
    ),
];

/// The environment file of all hosts.
const COMMON: &str = "WEAVE_PASSWORD=\"PASSWORD\"\nWEAVE_BREAKOUT_ROUTE=\"10.1.0.0/16\"\n\
                      WEAVE_IPRANGE=\"10.2.0.1/16\"\n";

/// Where the units expect the program, and where systemd looks for units.
const UNITS: &str = "/etc/systemd/system";

/// Text of a file in `systemd/`.
#[track_caller]
fn shipped(name: &str) -> String {
    let path = format!("{}/../systemd/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a host has in `/etc`.
fn files(number: usize) -> BTreeMap<String, String> {
    let (hostname, own) = HOSTS[number - 1];
    let mut names = String::from("127.0.0.1 localhost\n");
    for (number, (name, _)) in (1..).zip(HOSTS) {
        names += &format!("{} {name}\n", address(number));
    }
    names += &format!("{} cluster-01.cloudapp.net\n", address(1));
    let mut files = BTreeMap::from([
        ("/etc/hosts".to_owned(), names),
        ("/etc/machine-id".to_owned(), format!("{number:032x}\n")),
        ("/etc/weave.env".to_owned(), COMMON.to_owned()),
        (format!("/etc/weave.{hostname}.env"), own.to_owned()),
    ]);
    for unit in [
        "weave.service",
        "weave-create-bridge.service",
        "weave-network.target",
    ] {
        files.insert(format!("{UNITS}/{unit}"), shipped(unit));
    }
    files.insert(
        "/etc/systemd/network/10-weave.network".to_owned(),
        shipped("10-weave.network"),
    );
    files
}

/// The program that a unit runs.
fn program(unit: &str) -> String {
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .unwrap();
    line.split_whitespace()
        .next()
        .unwrap()
        .trim_start_matches(['-', '@', ':', '+', '!'])
        .to_owned()
}

#[track_caller]
fn succeed(output: &Output, ignored: bool) {
    assert!(output.status.success() || ignored, "{output:?}");
}

/// Runs the commands behind a key.
#[track_caller]
fn run_all(
    lab: &Lab,
    number: usize,
    machine: &Machine,
    unit: &Unit,
    key: &str,
    environment: &BTreeMap<String, String>,
) {
    for (line, ignored) in unit.commands(key, environment) {
        succeed(&machine.run(lab, number, &line, environment), ignored);
    }
}

/// Address of a host on the bridge.
fn bridge_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 1, 0, u8::try_from(number).unwrap())
}

#[test]
fn five_hosts_reach_each_other_over_their_bridges() {
    as_root(|| {
        let lab = Lab::new(HOSTS.len(), 1500);
        let daemon = shipped("weave.service");
        let numbers = 1..=HOSTS.len();
        let machines: Vec<_> = numbers
            .clone()
            .map(|number| {
                let (hostname, files) = (HOSTS[number - 1].0, files(number));
                let path = program(&daemon);
                Machine::new(&lab, number, hostname, &files, node::meshctl(), &path)
            })
            .collect();
        let mut services = Vec::new();
        for (number, machine) in numbers.clone().zip(&machines) {
            let files = files(number);
            let bridge = machine.unit(&shipped("weave-create-bridge.service"));
            let environment = bridge.environment(&files);
            // A machine that boots again runs it again.
            for _ in 0..2 {
                run_all(&lab, number, machine, &bridge, "ExecStart", &environment);
            }
            check_bridge(&lab, number);
            let unit = machine.unit(&daemon);
            let environment = unit.environment(&files);
            run_all(&lab, number, machine, &unit, "ExecStartPre", &environment);
            let (line, _) = unit.commands("ExecStart", &environment).remove(0);
            let line = unit.restricted(line);
            let log = lab.directory(number).join("log");
            services.push(machine.start(lab.netns(number), &line, &environment, &log));
        }
        for number in numbers.clone() {
            await_neighbours(&lab, number);
            for other in numbers.clone().filter(|other| *other != number) {
                wait::until(&format!("10.1.0.{other} to answer 10.1.0.{number}"), || {
                    let ping = || probe::ping(bridge_address(other), 56, Duration::from_secs(1));
                    lab.netns(number).run(ping).unwrap()
                });
            }
        }
        for ((number, machine), service) in numbers.zip(&machines).zip(services) {
            let unit = machine.unit(&daemon);
            let environment = unit.environment(&files(number));
            run_all(&lab, number, machine, &unit, "ExecStop", &environment);
            service.signal(Signal::TERM);
            let status = service.wait_timeout(STOP_TIMEOUT).unwrap();
            assert!(status.success(), "host {number} ended with {status}");
            check_bridge(&lab, number);
        }
    });
}

/// The bridge has its address, and its routes lead through it.
#[track_caller]
fn check_bridge(lab: &Lab, number: usize) {
    lab.with_net(number, async |net| {
        let bridge = net.existing("weave").await.unwrap();
        assert!(bridge.up, "{bridge:?}");
        let addresses: Vec<_> = net
            .addresses("weave")
            .await
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            addresses.contains(&format!("{}/16", bridge_address(number))),
            "{addresses:?}"
        );
        let routes = net.routes().await.unwrap();
        for destination in ["10.1.0.0/16", "224.0.0.0/4"] {
            let through = routes.iter().any(|route| {
                route.destination.to_string() == destination && route.device == Some(bridge.index)
            });
            assert!(through, "no route to {destination}: {routes:?}");
        }
    });
}

/// Each is connected to the four others, and what they exchange is sealed.
#[track_caller]
fn await_neighbours(lab: &Lab, number: usize) {
    let api: SocketAddr = "127.0.0.1:6784".parse().unwrap();
    wait::until(
        &format!("host {number} to be connected to the others"),
        || {
            let path = "/status/connections";
            let answer = http::request(lab.netns(number), api, "GET", path, "", "");
            let answer = answer.map_err(|error| error.to_string())?.body;
            let sealed = parse_connections(&answer).into_iter().filter(|connection| {
                connection.state == "established" && connection.info.starts_with("encrypted")
            });
            wait::check(sealed.count() == HOSTS.len() - 1, || answer)
        },
    );
}

#[test]
fn the_units_are_sound() {
    as_root(|| {
        let lab = Lab::new(1, 1500);
        let path = program(&shipped("weave.service"));
        let machine = Machine::new(&lab, 1, HOSTS[0].0, &files(1), node::meshctl(), &path);
        for unit in [
            "weave.service",
            "weave-create-bridge.service",
            "weave-network.target",
        ] {
            let line = [
                "systemd-analyze",
                "verify",
                "--man=no",
                &format!("{UNITS}/{unit}"),
            ]
            .map(str::to_owned);
            let verified = machine.run(&lab, 1, &line, &BTreeMap::new());
            succeed(&verified, false);
            assert_eq!(verified.stderr, "", "{unit}");
        }
    });
}
