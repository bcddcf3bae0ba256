//! Real daemons on loopback, without bridge and without rights.

mod hosts;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use hosts::{MESHCTL, PATIENCE, hosts};

#[test]
fn two_hosts_become_a_mesh() {
    let [one, two] = hosts();
    let password = one.path("password");
    fs::write(&password, "correct horse\n").unwrap();
    let password = password.to_str().unwrap();
    let address = one.address.to_string();
    let _one = one.launch(&[
        "--name",
        "::1",
        "--nickname",
        "one",
        "--password-file",
        password,
    ]);
    let _two = two.launch(&[
        "-name",
        "::2",
        "-nickname",
        "two",
        "--password",
        "correct horse",
        &address,
    ]);
    let line = two.wait_until(&["status", "connections"], |text| {
        text.contains(" established ") && text.contains(" shuttle ")
    });
    let expected = format!(
        "-> {:<21} established encrypted   shuttle 00:00:00:00:00:01(one) encrypted=truemtu=",
        format!("{address}:{}", one.port)
    );
    assert!(line.starts_with(&expected), "{line}");
    one.wait_until(&["peers"], |text| text.matches(" established").count() == 2);
    let status = two.ask(&["status"]);
    assert!(status.starts_with("\n        Version: "), "{status}");
    for line in [
        "Encryption: enabled",
        "Targets: 1",
        "Connections: 1 (1 established)",
    ] {
        assert!(status.contains(line), "{status}");
    }
    let peers: Value = serde_json::from_str(&one.ask(&["peers", "--json"])).unwrap();
    assert_eq!(peers.as_array().unwrap().len(), 2, "{peers}");
    let report = one.report();
    assert_eq!(report["Ready"], true);
    assert_eq!(report["Meshctl"]["Links"][0]["Encrypted"], true);
}

#[test]
fn the_password_is_nowhere_to_be_seen() {
    let [host] = hosts();
    let by_flag = host.command(&["--password", "s3cret"]);
    let mut by_variable = host.command(&[]);
    by_variable.env("WEAVE_PASSWORD", "s3cret");
    let mut by_both = host.command(&["-password=s3cret", "--log-level", "debug"]);
    by_both.env("WEAVE_PASSWORD", "oth3r");
    for command in [by_flag, by_variable, by_both] {
        let daemon = host.start(command);
        let status = host.ask(&["status"]);
        assert!(status.contains("Encryption: enabled"), "{status}");
        let everything = [
            daemon.proc("cmdline"),
            daemon.proc("environ"),
            host.ask(&["report"]),
            host.log(),
        ];
        for text in everything {
            assert!(
                !text.contains("s3cret") && !text.contains("oth3r"),
                "{text}"
            );
        }
        assert_eq!(daemon.proc("comm"), "meshctl\n");
        drop(daemon);
    }
    // What is on disk is not text only.
    let state = fs::read(host.path("state/data.redb")).unwrap();
    assert!(!state.windows(6).any(|bytes| bytes == b"s3cret"));
    let log = host.log();
    assert!(log.contains("password=<redacted>"), "{log}");
}

#[test]
fn an_empty_password_is_none() {
    let [host] = hosts();
    let mut command = host.command(&["--password="]);
    command.env("WEAVE_PASSWORD", "");
    let _daemon = host.start(command);
    assert!(host.ask(&["status"]).contains("Encryption: disabled"));
}

#[test]
fn a_killed_daemon_comes_back_as_it_was() {
    let [host] = hosts();
    let daemon = host.launch(&["127.1.0.1"]);
    let name = host.name();
    host.ask(&["connect", "127.1.0.2:7000", "127.1.0.3"]);
    host.ask(&["forget", "127.1.0.1"]);
    let targets = ["127.1.0.2:7000", "127.1.0.3"];
    assert_eq!(host.targets(), targets);
    // What is answered is kept soon after: ask until the change is on its way to disk.
    daemon.signal("TERM");
    assert!(daemon.wait().success());

    let daemon = host.launch(&["127.1.0.1"]);
    assert_eq!(
        (host.name(), host.targets()),
        (name.clone(), targets.map(str::to_owned).into())
    );
    daemon.kill();
    let daemon = host.launch(&[]);
    assert_eq!(
        (host.name(), host.targets()),
        (name.clone(), targets.map(str::to_owned).into())
    );
    // After "stop" a launch begins afresh, unless told otherwise.
    host.ask(&["stop"]);
    assert!(daemon.wait().success());
    let daemon = host.launch(&["--resume"]);
    assert_eq!(host.targets(), targets);
    host.ask(&["connect", "--replace", "127.1.0.4"]);
    assert_eq!(host.targets(), ["127.1.0.4"]);
    host.ask(&["stop"]);
    assert!(daemon.wait().success());
    let _daemon = host.launch(&["127.1.0.1"]);
    assert_eq!(
        (host.name(), host.targets()),
        (name, vec!["127.1.0.1".to_owned()])
    );
}

#[test]
fn resume_takes_up_the_options() {
    let [host] = hosts();
    let daemon = host.launch(&[
        "-nodiscovery",
        "--nickname",
        "first",
        "-connlimit",
        "5",
        "127.1.0.1",
    ]);
    host.ask(&["stop"]);
    assert!(daemon.wait().success());
    let path = |name| host.path(name).to_str().unwrap().to_owned();
    let (state, notify) = (path("state/"), path("notify.sock"));
    let _ = fs::remove_file(&notify);
    // Nothing but where the state is, and one option anew.
    let mut command = Command::new(MESHCTL);
    command.env_clear().args([
        "launch",
        "--resume",
        "--conn-limit=6",
        "--db-prefix",
        &state,
    ]);
    let log = fs::File::create(host.path("log")).unwrap();
    command.stderr(log);
    let _daemon = host.start(command);
    let report = host.report();
    assert_eq!(report["Router"]["PeerDiscovery"], false);
    assert_eq!(report["Router"]["NickName"], "first");
    assert_eq!(report["Router"]["Port"], host.port);
    assert_eq!(report["Router"]["Targets"][0], "127.1.0.1");
    assert_eq!(report["Meshctl"]["ConnLimit"], 6);
}

#[test]
fn a_name_chosen_once_stays() {
    let [host] = hosts();
    host.launch(&["--name", "::7"]).kill();
    let _daemon = host.launch(&[]);
    assert_eq!(host.name(), "00:00:00:00:00:07");
}

#[test]
fn a_state_in_use_or_damaged_is_refused() {
    let [host] = hosts();
    let daemon = host.launch(&[]);
    let (code, log) = host.refused(&[]);
    assert_eq!(code, Some(1));
    assert!(
        log.contains("is in use: another meshctl runs with it"),
        "{log}"
    );
    daemon.kill();
    let file = host.path("state/data.redb");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let (code, log) = host.refused(&[]);
    assert_eq!(code, Some(1));
    let file = file.to_str().unwrap();
    assert!(log.contains(file) && log.contains("move it away"), "{log}");
}

#[test]
fn ports_in_use_are_explained() {
    let [host] = hosts();
    let _taken = TcpListener::bind((host.address, host.port)).unwrap();
    let (code, log) = host.refused(&[]);
    assert_eq!(code, Some(1));
    assert!(
        log.contains("is another router running on this host?"),
        "{log}"
    );
}

#[test]
fn bad_peers_keep_a_launch_from_starting_but_not_connect() {
    let [host] = hosts();
    let (code, log) = host.refused(&["a:b", "fine", "-x"]);
    assert_eq!(code, Some(2), "{log}");
    let (code, log) = host.refused(&["a:b", "fine"]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("invalid peer name \"a:b\""), "{log}");
    let _daemon = host.launch(&[]);
    let output = host.client(&["connect", "127.1.0.9", "a:b", "c:d"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("\"a:b\"") && error.contains("\"c:d\""),
        "{error}"
    );
    assert_eq!(host.targets(), ["127.1.0.9"]);
}

#[test]
fn systemd_hears_how_it_is_doing() {
    let [host] = hosts();
    let mut command = host.command(&[]);
    command.env("WATCHDOG_USEC", "200000");
    let mut daemon = host.start(command);
    daemon.wait_for("WATCHDOG=1");
    daemon.wait_for("STATUS=1 peers known, 0 connections established");
    daemon.signal("QUIT");
    let shows = |text: &str| text.contains("\"VersionCheck\": {");
    let start = Instant::now();
    while !shows(&host.log()) {
        assert!(start.elapsed() < PATIENCE, "{}", host.log());
        sleep(Duration::from_millis(20));
    }
    daemon.signal("INT");
    let mut buffer = [0; 4096];
    loop {
        let len = daemon.notify.recv(&mut buffer).unwrap();
        if buffer[..len].starts_with(b"STOPPING=1\n") {
            break;
        }
    }
    assert!(daemon.wait().success());
    assert!(!host.path("api.sock").exists());
}

#[test]
fn reset_leaves_nothing() {
    let [host] = hosts();
    let daemon = host.launch(&["--name", "::7"]);
    assert_eq!(
        host.ask(&["reset", "--json"]),
        "{\n    \"reset\": true,\n    \"stopped\": true\n}\n"
    );
    assert!(daemon.wait().success());
    assert!(!host.path("state/data.redb").exists());
    assert_eq!(host.client(&["reset"]).status.code(), Some(3));
}

#[test]
fn the_log_can_be_json() {
    let [host] = hosts();
    host.launch(&["--json", "--no-fastdp"]).kill();
    let log = host.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let said = |text: &str| {
        let message = |line: &Value| line["message"].as_str().unwrap_or("").contains(text);
        lines.iter().any(message)
    };
    assert!(said("--no-fastdp has no effect") && said("ready"), "{log}");
}

#[test]
fn a_mesh_of_its_own_can_be_called_weave() {
    let [host] = hosts();
    let link = host.path("weave");
    std::os::unix::fs::symlink(MESHCTL, &link).unwrap();
    let _daemon = host.launch(&[]);
    let run = |link: &Path, line: &[&str]| {
        let mut command = Command::new(link);
        command
            .env_clear()
            .env("WEAVE_HTTP_ADDR", host.path("api.sock"));
        command.args(line).output().unwrap()
    };
    let output = run(&link, &["--local", "status", "targets"]);
    assert!(output.status.success());
    let output = run(&link, &["stop"]);
    assert!(output.status.success());
}
