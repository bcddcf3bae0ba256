//! Addresses of containers, as the verbs show them, and the way from Weave and back: with real
//! daemons on loopback.

#![expect(clippy::unwrap_used, reason = "a test's way to fail")]

mod hosts;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use hosts::{Host, MESHCTL, hosts};

const ORIGINAL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/vectors/weave-data.db"
);
const ALONE: [&str; 5] = [
    "--ipalloc-range=10.2.0.0/24",
    "--ipalloc-init=consensus=1",
    "--name=::1",
    "--nickname=one",
    "--log-level=debug",
];

/// Exit code, and what is said on standard error.
fn fails(host: &Host, line: &[&str]) -> (Option<i32>, String) {
    let output = host.client(line);
    let error = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), error)
}

fn json_of(host: &Host, line: &[&str]) -> Value {
    serde_json::from_str(&host.ask(&[line, &["--json"]].concat())).unwrap()
}

#[test]
fn addresses_by_hand() {
    let [host] = hosts();
    let _daemon = host.launch(&ALONE);
    assert_eq!(host.ask(&["status", "ipam"]), "");
    assert_eq!(host.ask(&["prime"]), "");
    assert_eq!(json_of(&host, &["prime"]), json!({"primed": true}));
    assert_eq!(host.ask(&["ipam", "default-subnet"]), "10.2.0.0/24\n");
    for _ in 0..2 {
        assert_eq!(host.ask(&["ipam", "allocate", "c"]), "10.2.0.1/24\n");
    }
    let line = ["ipam", "allocate", "c", "net:10.2.0.128/25"];
    assert_eq!(host.ask(&line), "10.2.0.129/25\n");
    assert_eq!(
        host.ask(&["ipam", "claim", "d e/f", "10.2.0.9/24", "ip:10.2.0.8/24"]),
        ""
    );
    let lines = host.ask(&["ipam", "list"]);
    let mut lines: Vec<_> = lines.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "c 10.2.0.1/24 10.2.0.129/25",
            "d e/f 10.2.0.9/24 10.2.0.8/24"
        ]
    );
    assert_eq!(
        host.ask(&["ipam", "lookup", "c"]),
        "10.2.0.1/24 10.2.0.129/25\n"
    );
    assert_eq!(
        host.ask(&["ipam", "lookup", "c", "10.2.0.128/25"]),
        "10.2.0.129/25\n"
    );
    assert_eq!(host.ask(&["ipam", "lookup", "nobody"]), "");
    let status = host.ask(&["status", "ipam"]);
    let expected =
        "00:00:00:00:00:01(one)                     256 IPs (100.0% of total) (4 active)\n";
    assert_eq!(status, expected);
    let report = host.ask(&["status", "ipam", "--json"]);
    let keys = report.lines().filter(|line| line.starts_with("    \""));
    let keys: Vec<_> = keys.map(|line| line.split('"').nth(1).unwrap()).collect();
    let expected = [
        "Paxos",
        "Range",
        "RangeNumIPs",
        "ActiveIPs",
        "DefaultSubnet",
        "Entries",
        "PendingClaims",
        "PendingAllocates",
    ];
    assert_eq!(keys, expected, "{report}");
    assert_eq!(json_of(&host, &["status", "ipam"])["ActiveIPs"], 4);
    let (code, error) = fails(&host, &["ipam", "claim", "x", "10.2.0.1/24"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("already owned by c"), "{error}");
    assert_eq!(host.ask(&["ipam", "release", "c", "10.2.0.1/24"]), "");
    assert_eq!(json_of(&host, &["ipam", "release", "c"])["released"], true);
    let (code, error) = fails(&host, &["ipam", "release", "c"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("no addresses for c"), "{error}");
    let allocated = json_of(&host, &["ipam", "allocate", "g"]);
    assert_eq!(allocated, json!({"id": "g", "address": "10.2.0.1/24"}));
}

#[test]
fn peers_to_take_over_from() {
    let [host] = hosts();
    let _daemon = host.launch(&ALONE);
    host.ask(&["prime"]);
    let told = host.ask(&["rmpeer", "nobody", "a b"]);
    assert_eq!(
        told,
        "0 IPs taken over from nobody\n0 IPs taken over from a b\n"
    );
    let told = json_of(&host, &["rmpeer", "nobody"]);
    assert_eq!(told, json!([{"peer": "nobody", "ips": 0}]));
    let plan = host.ask(&["ipam", "plan", "rmpeer", "nobody"]);
    assert!(plan.contains("no peer is known"), "{plan}");
    let plan = json_of(&host, &["ipam", "plan", "rmpeer", "::9"]);
    assert_eq!(plan["NumIPs"], 0, "{plan}");
    let plan = host.ask(&["ipam", "plan", "reset"]);
    assert!(
        plan.contains("nobody is known who could get the 256 IPs"),
        "{plan}"
    );
    assert_eq!(
        json_of(&host, &["ipam", "plan", "reset"])["Heir"],
        Value::Null
    );
}

#[test]
fn without_allocation_the_verbs_say_so() {
    let [host] = hosts();
    let _daemon = host.launch(&[]);
    for line in [
        &["prime"][..],
        &["ipam", "allocate", "c"],
        &["ipam", "claim", "c", "10.2.0.1/24"],
        &["ipam", "release", "c"],
        &["ipam", "lookup", "c"],
        &["ipam", "list"],
        &["ipam", "plan", "rmpeer", "x"],
        &["status", "ipam"],
    ] {
        let (code, error) = fails(&host, line);
        assert_eq!(code, Some(4), "{line:?}: {error}");
        assert!(error.contains("--ipalloc-range"), "{line:?}: {error}");
    }
    assert_eq!(host.ask(&["rmpeer", "x"]), "0 IPs taken over from x\n");
}

#[test]
fn ranges_in_the_way_of_the_host_are_told() {
    let [host] = hosts();
    // Every host has the address 127.0.0.1.
    let daemon = host.launch(&["--ipalloc-range=127.0.0.0/24", "--ipalloc-init=consensus=1"]);
    let log = host.log();
    assert!(
        log.contains("--ipalloc-range 127.0.0.0/24 overlaps with the address 127.0.0.1"),
        "{log}"
    );
    let output = host.client(&["ipam", "claim", "c", "127.0.0.1/24"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{error}");
    assert!(
        error.starts_with("warning: 127.0.0.1/24 overlaps with"),
        "{error}"
    );
    drop(daemon);
    let _daemon = host.launch(&["--ipalloc-range=10.2.0.1/24"]);
    let log = host.log();
    assert!(
        log.contains("10.2.0.1/24 are ignored: 10.2.0.0/24"),
        "{log}"
    );
}

/// Puts what the original left behind at one of its usual places.
fn weave_was_here(host: &Host) -> PathBuf {
    let directory = host.path("root/weavedb");
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("weavedata.db");
    fs::copy(ORIGINAL, &path).unwrap();
    path
}

fn export(host: &Host, more: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(MESHCTL)
        .arg("export-weave-db")
        .arg("--db-prefix")
        .arg(host.path("state/"))
        .args(more)
        .output()
        .unwrap();
    let texts = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(texts).unwrap())
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("db.old")
}

#[test]
fn from_weave_and_back() {
    let [host] = hosts();
    let path = weave_was_here(&host);
    let before = fs::read(&path).unwrap();
    let launch = ["--ipalloc-range", "10.32.0.0/16"];
    let named = host.command(&["--print-peer-name"]);
    let mut named = named;
    named.stdout(std::process::Stdio::piped());
    let name = named.output().unwrap().stdout;
    assert_eq!(name, b"02:00:00:00:00:0a\n");

    let daemon = host.launch(&launch);
    let log = host.log();
    assert!(
        log.contains("Took over from Weave Net's state file"),
        "{log}"
    );
    assert_eq!(host.name(), "02:00:00:00:00:0a");
    assert_eq!(host.targets(), ["192.0.2.1", "192.0.2.7:6799"]);
    assert_eq!(host.ask(&["ipam", "list"]).lines().count(), 7);
    let first = format!("{:064x}", 7919);
    assert_eq!(host.ask(&["ipam", "allocate", &first]), "10.32.0.1/16\n");
    assert_eq!(host.ask(&["ipam", "allocate", "new"]), "10.32.0.6/16\n");
    let (code, told) = export(&host, &[]);
    assert!(code == Some(1) && told.contains("in use"), "{told}");
    host.ask(&["stop"]);
    drop(daemon);
    assert_eq!(fs::read(&path).unwrap(), before);

    let (code, told) = export(&host, &[]);
    assert!(code == Some(1) && told.contains("--force"), "{told}");
    let (code, told) = export(&host, &["--force", "--json"]);
    assert_eq!(code, Some(0), "{told}");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["addresses"], 8);
    assert_eq!(told["range"], "10.32.0.0/16");
    assert_eq!(fs::read(aside(&path)).unwrap(), before);

    // A reset leaves nothing that a later launch would take over.
    let daemon = host.launch(&launch);
    assert_eq!(host.ask(&["ipam", "lookup", "new"]), "10.32.0.6/16\n");
    host.ask(&["reset"]);
    drop(daemon);
    assert!(!path.exists());
}

#[test]
fn a_state_of_weave_that_does_not_fit_is_refused() {
    let [host] = hosts();
    let path = weave_was_here(&host);
    let (code, log) = host.refused(&["--ipalloc-range", "10.2.0.0/16"]);
    assert!(
        code == Some(1) && log.contains("--ipalloc-range 10.32.0.0/16"),
        "{log}"
    );
    let (code, log) = host.refused(&["--name", "::5"]);
    assert!(
        code == Some(1) && log.contains("--name 02:00:00:00:00:0a"),
        "{log}"
    );
    fs::write(&path, b"rubbish").unwrap();
    let (code, log) = host.refused(&[]);
    assert!(code == Some(1) && log.contains("--weave-db none"), "{log}");
    let _daemon = host.launch(&["--weave-db", "none", "--name", "::5"]);
    assert_eq!(host.name(), "00:00:00:00:00:05");
    assert_eq!(fs::read(&path).unwrap(), b"rubbish");
}
