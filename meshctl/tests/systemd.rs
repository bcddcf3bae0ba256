//! The command lines in the units for systemd are understood, whatever the environment files say.

#![expect(clippy::unwrap_used, reason = "a test's way to fail")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const MESHCTL: &str = env!("CARGO_BIN_EXE_meshctl");

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd")
}

/// What stands behind `key=` in a unit.
fn values(unit: &str, key: &str) -> Vec<String> {
    let text = std::fs::read_to_string(shipped().join(unit)).unwrap();
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(&format!("{key}=")));
    lines.map(str::to_owned).collect()
}

/// The arguments that systemd makes of a command line: `${X}` within a word is replaced, a word
/// `$X` is replaced and split at blanks, and gives nothing if the variable is empty or not set.
fn arguments(line: &str, variables: &BTreeMap<&str, &str>) -> Vec<String> {
    let mut arguments = Vec::new();
    for word in line.split_whitespace() {
        if let Some(name) = word.strip_prefix('$').filter(|name| !name.starts_with('{')) {
            let value = variables.get(name).unwrap_or(&"");
            arguments.extend(value.split_whitespace().map(str::to_owned));
            continue;
        }
        let mut replaced = word.to_owned();
        while let Some(start) = replaced.find("${") {
            let len = replaced[start..].find('}').unwrap();
            let name = &replaced[start + 2..start + len];
            let value = (*variables.get(name).unwrap_or(&"")).to_owned();
            replaced.replace_range(start..=start + len, &value);
        }
        arguments.push(replaced);
    }
    arguments
}

#[test]
fn the_classic_environment_makes_good_command_lines() {
    let line = &values("weave.service", "ExecStart")[0];
    for (range, peers, expected) in [
        (Some("10.2.0.1/16"), Some("-initpeercount=5"), 5),
        (Some("10.2.0.1/16"), Some("azure-prd-01"), 5),
        (
            Some("10.2.0.0/16"),
            Some("-nodiscovery a b:6784 -connlimit 5"),
            9,
        ),
        (Some("10.2.0.0/16"), None, 4),
        (None, Some("cluster-01.cloudapp.net"), 5),
        (None, None, 4),
    ] {
        let variables = [("WEAVE_IPRANGE", range), ("WEAVE_PEERS", peers)];
        let variables = variables
            .iter()
            .filter_map(|(name, value)| Some((*name, (*value)?)));
        let arguments = arguments(line, &variables.collect());
        assert_eq!(arguments.len(), expected, "{arguments:?}");
        assert_eq!(arguments[..2], ["/opt/bin/meshctl", "launch"]);
        let output = Command::new(MESHCTL)
            .args(&arguments[1..])
            .args(["--print-peer-name", "--name", "::5"])
            .env_clear()
            .output()
            .unwrap();
        let complaints = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {complaints}");
        assert_eq!(output.stdout, b"00:00:00:00:00:05\n");
    }
}

#[test]
fn the_bridge_comes_before_the_router_and_knows_no_password() {
    assert_eq!(
        values("weave-create-bridge.service", "ExecStart"),
        ["/opt/bin/meshctl create-bridge"]
    );
    assert_eq!(
        values("weave-create-bridge.service", "Before"),
        ["weave.service"]
    );
    assert_eq!(
        values("weave-create-bridge.service", "UnsetEnvironment"),
        ["WEAVE_PASSWORD"]
    );
    for unit in ["weave.service", "weave-create-bridge.service"] {
        let files = ["-/etc/weave.env", "-/etc/weave.%H.env"];
        assert_eq!(values(unit, "EnvironmentFile"), files, "{unit}");
    }
    assert_eq!(values("weave.service", "Type"), ["notify"]);
}
