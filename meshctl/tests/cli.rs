//! The command line as a whole, without a daemon.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's way to fail"
)]

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

/// What a command line comes to.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("ended by a signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command.env_clear();
    // Nobody listens on port 1.
    command.env("WEAVE_HTTP_ADDR", "127.0.0.1:1");
    command
}

fn run(line: &str) -> Ran {
    command()
        .args(line.split_whitespace())
        .output()
        .unwrap()
        .into()
}

#[test]
fn version_and_help() {
    let version = concat!("meshctl ", env!("CARGO_PKG_VERSION"), "\n");
    for line in ["version", "--version", "-V", "--local version"] {
        let ran = run(line);
        assert_eq!((ran.code, ran.out.as_str()), (0, version), "{line}");
    }
    let ran = run("version --json");
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json["meshctl"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["daemon"], serde_json::Value::Null);
    assert_eq!(
        run("launch --version").out,
        concat!("weave ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let ran = run("--help");
    assert_eq!(ran.code, 0);
    for part in ["launch", "create-bridge", "Exit codes:", "--http-addr"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let ran = run("launch --help");
    for part in [
        "--ipalloc-range",
        "Accepted without effect",
        "Refused by this version",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
}

#[test]
fn nothing_is_not_enough() {
    let ran = run("");
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("Usage: meshctl"), "{}", ran.err);
}

#[test]
fn it_goes_by_the_name_it_is_called() {
    let output = command()
        .arg0("/opt/bin/weave")
        .arg("--help")
        .output()
        .unwrap();
    let ran = Ran::from(output);
    assert!(ran.out.contains("Usage: weave "), "{}", ran.out);
}

#[test]
fn mistakes_are_explained() {
    for (line, part) in [
        ("lunch", "launch"),
        ("status conections", "connections"),
        ("launch --nam x", "--name"),
        ("launch --name x", "six groups"),
        ("launch --port 0", "--port"),
        ("launch --min-protocol-version 3", "--min-protocol-version"),
        ("launch --trusted-subnets 10.0.0.0", "10.1.0.0/16"),
        ("launch --http-addr 6784", "127.0.0.1:6784"),
        ("launch --resume host", "in conjunction with --resume"),
        ("launch --proxy", "Docker proxy"),
        ("launch -H tcp://0.0.0.0:12375", "Docker proxy"),
        ("launch -dns-domain x..y", "host name"),
        ("launch --dns-listen-address localhost", "172.17.0.1:53"),
        ("launch --dns-fallback-timeout 5", "500ms"),
        ("launch --dns-ttl=-1", "--dns-ttl"),
        ("dns-add 10.2.1.1", "-h NAME"),
        ("dns-add c1 c2 -h x", "one word too many"),
        ("dns-remove", "ADDRESS"),
        (
            "launch -iprange azure-prd-01",
            "is the variable before it empty",
        ),
        (
            "launch --ipalloc-range 10.2.0.0/16 --ipalloc-init vote",
            "unknown mode",
        ),
        (
            "launch --ipalloc-default-subnet 10.2.0.0/16",
            "does not overlap",
        ),
        ("connect", "HOST"),
        ("rmpeer", "PEER"),
        ("ipam", "allocate"),
        ("ipam claim c", "CIDR"),
        ("ipam claim c 10.32.0.1", "prefix length"),
        ("ipam allocate c net:10.32.0.0", "prefix length"),
        ("ipam release c 10.32.0", "invalid IP"),
        ("ipam plan", "rmpeer"),
        ("forget", "HOST"),
        ("report -f x --json", "--json"),
        ("create-bridge --address 10.1.0.1", "10.32.0.1/12"),
    ] {
        let ran = run(line);
        assert_eq!(ran.code, 2, "{line}: {}", ran.err);
        assert!(ran.err.contains(part), "{line}: {}", ran.err);
    }
}

#[test]
fn empty_variables_are_none() {
    let empty = |variable: &str, line: &str| {
        let mut command = command();
        command.env(variable, "").args(line.split_whitespace());
        Ran::from(command.output().unwrap())
    };
    let launch = "launch --print-peer-name --name ::1";
    for variable in [
        "WEAVE_PORT",
        "WEAVE_MTU",
        "WEAVE_STATUS_ADDR",
        "WEAVE_HTTP_ADDR",
        "WEAVE_SUBNET",
    ] {
        let ran = empty(variable, launch);
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (0, "00:00:00:00:00:01\n"),
            "{}",
            ran.err
        );
    }
    // The default, where nobody or somebody may listen; not "off".
    let ran = empty("WEAVE_HTTP_ADDR", "status --json");
    assert!(
        ran.code == 0 || ran.err.contains("127.0.0.1:6784"),
        "{}",
        ran.err
    );
}

#[test]
fn without_a_daemon() {
    for line in [
        "status",
        "status peers",
        "peers",
        "report",
        "connect a",
        "forget a",
        "reset",
    ] {
        let ran = run(line);
        assert_eq!((ran.code, ran.out.as_str()), (3, ""), "{line}: {}", ran.err);
        assert!(ran.err.contains("hint:"), "{line}: {}", ran.err);
    }
    let ran = run("stop");
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (0, "meshctl is not running.\n")
    );
    assert_eq!(run("stop --json").out, "{\n    \"stopped\": false\n}\n");
    let ran = run("status --json");
    let json: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert!(
        json["error"].as_str().unwrap().contains("127.0.0.1:1"),
        "{json}"
    );
    assert!(
        json["hint"].as_str().unwrap().contains("meshctl launch"),
        "{json}"
    );
}

#[test]
fn verbs_of_older_eras_explain_themselves() {
    for (line, code, part) in [
        ("--local setup", 0, "needs no images"),
        ("stop-dns", 0, "no DNS container"),
        ("launch-dns 10.2.254.1/24", 0, "by the daemon itself"),
        ("launch-proxy --with-dns", 4, "Docker proxy"),
        ("launch-router -iprange 10.2.0.0/16", 1, "launch"),
        ("run -it --rm image", 1, "Weave Net 2.0"),
        ("--http-addr 127.0.0.1:1 rmpeer x", 3, "no daemon answers"),
        ("expose -h x.weave.local", 4, "exposing the host"),
    ] {
        let ran = run(line);
        assert_eq!(ran.code, code, "{line}: {}", ran.err);
        assert!(ran.err.contains(part), "{line}: {}", ran.err);
    }
}

#[test]
fn the_name_of_a_host_can_be_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(
        root.join("etc/machine-id"),
        "0123456789abcdef0123456789abcdef\n",
    )
    .unwrap();
    let ask = |more: &[&str]| {
        let mut command = command();
        command.args(["launch", "--print-peer-name", "--relay-only", "--db-prefix"]);
        command
            .arg(directory.path().join("state/"))
            .arg("--host-root")
            .arg(&root)
            .args(more);
        Ran::from(command.output().unwrap()).out
    };
    assert_eq!(ask(&["--name", "::1"]), "00:00:00:00:00:01\n");
    // SHA-256 of "9oBJ0Jmip-" and the file begins with this, made individual and local.
    let made = ask(&[]);
    assert_eq!(made, "0a:39:ab:6e:42:c6\n");
    // It is stored, so that a new machine id does not change it.
    std::fs::write(
        root.join("etc/machine-id"),
        "ffffffffffffffffffffffffffffffff\n",
    )
    .unwrap();
    assert_eq!(ask(&[]), made);
}

#[test]
fn completions_for_shells() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(&format!("completions {shell}"));
        assert_eq!(ran.code, 0, "{shell}");
        assert!(ran.out.contains("create-bridge"), "{shell}");
    }
}

#[test]
fn a_reader_who_leaves_is_no_failure() {
    let mut child = command();
    child
        .args(["completions", "zsh"])
        .stdout(std::process::Stdio::piped());
    let mut child = child.spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
