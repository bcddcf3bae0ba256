//! `meshctl demo`: it shows what it promises, and leaves nothing behind.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, a panic is how a failure is reported"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use host::netns::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use tests::node::{self, at};
use tests::{as_root, wait};

/// Runs a script in a mount namespace where everybody may open the TUN device, as udev has it, as a
/// user without any rights.
const AS_NOBODY: &str = "mount -t tmpfs -o mode=755 tmpfs /dev/net
mknod -m 666 /dev/net/tun c 10 200
exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";

/// The demonstration, with these flags, its output to be read.
fn demo(flags: &[&str]) -> Command {
    let mut command = Command::new(node::meshctl());
    command.arg("demo").args(flags);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Kills the demonstration should the test fail.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Namespaces and files of the demonstration with this process id.
fn remains(pid: u32) -> Vec<PathBuf> {
    let prefix = format!("meshctl-demo-{pid}");
    let of = |directory: &Path| -> Vec<_> {
        let entries = fs::read_dir(directory).map(|entries| entries.flatten().collect());
        let entries: Vec<fs::DirEntry> = entries.unwrap_or_default();
        entries.iter().map(fs::DirEntry::path).collect()
    };
    let mut found = of(Path::new("/run/netns"));
    found.extend(of(&std::env::temp_dir()));
    found.retain(|path| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with(&prefix)
    });
    found
}

/// Daemons that serve the demonstration with this process id.
fn daemons(pid: u32) -> Vec<String> {
    let of = format!("meshctl-demo-{pid}/");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let command_lines = processes.filter_map(|process| {
        let line = fs::read(process.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    command_lines
        .filter(|line| line.contains("launch") && line.contains(&of))
        .collect()
}

#[track_caller]
fn assert_nothing_remains(pid: u32) {
    assert_eq!(remains(pid), <[PathBuf; 0]>::default());
    assert_eq!(daemons(pid), <[String; 0]>::default());
}

/// What it found is what a healthy mesh gives.
#[track_caller]
fn check_findings(json: &str) {
    let findings: Value = serde_json::from_str(json).unwrap();
    assert_eq!(at(&findings, "/pings").as_array().unwrap().len(), 6);
    for key in [
        "throughput_megabits",
        "relayed_ping_milliseconds",
        "relayed_throughput_megabits",
    ] {
        assert!(
            at(&findings, &format!("/{key}")).as_f64().unwrap() > 0.0,
            "{key}: {json}"
        );
    }
    // By itself, the silence of a broken link is noticed after a minute only.
    let reroute = at(&findings, "/reroute_seconds").as_f64().unwrap();
    assert!(reroute < 30.0, "{json}");
}

#[test]
fn it_runs_and_leaves_nothing_behind() {
    as_root(|| {
        let child = demo(&["--json"]).spawn().unwrap();
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        check_findings(&String::from_utf8(output.stdout).unwrap());
        assert_nothing_remains(pid);
    });
}

#[test]
fn it_runs_without_any_rights() {
    as_root(|| {
        let meshctl = node::meshctl().to_str().unwrap();
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "--",
            "/bin/sh",
            "-ec",
            AS_NOBODY,
        ]);
        let output = command
            .args(["sh", meshctl, "demo", "--json"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        check_findings(&String::from_utf8(output.stdout).unwrap());
    });
}

#[test]
fn it_takes_everything_down_when_it_is_interrupted() {
    as_root(|| {
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let mut guard = Guard(demo(&[]).spawn().unwrap());
            let pid = guard.0.id();
            await_line(&mut guard.0, "All are connected to all");
            assert_eq!(daemons(pid).len(), 3);
            kill_process(Pid::from_child(&guard.0), signal).unwrap();
            let asked = Instant::now();
            let status = guard.0.wait().unwrap();
            assert_eq!(
                status.code(),
                Some(1),
                "after {:?}: {status}",
                asked.elapsed()
            );
            assert_nothing_remains(pid);
        }
    });
}

#[test]
fn it_keeps_everything_until_told_otherwise() {
    as_root(|| {
        let mut guard = Guard(demo(&["--keep"]).spawn().unwrap());
        let pid = guard.0.id();
        await_line(&mut guard.0, "until you press Ctrl-C");
        assert_eq!(daemons(pid).len(), 3);
        let socket = std::env::temp_dir().join(format!("meshctl-demo-{pid}/h3.sock"));
        let mut status = Command::new(node::meshctl());
        let status = status
            .arg("--http-addr")
            .arg(&socket)
            .args(["status", "targets"]);
        assert_eq!(status.output().unwrap().stdout, b"192.168.77.1\n");
        kill_process(Pid::from_child(&guard.0), Signal::INT).unwrap();
        assert!(guard.0.wait().unwrap().success());
        assert_nothing_remains(pid);
    });
}

#[test]
fn the_next_one_cleans_up_after_a_kill() {
    as_root(|| {
        let mut guard = Guard(demo(&[]).spawn().unwrap());
        let pid = guard.0.id();
        await_line(&mut guard.0, "All are connected to all");
        drop(guard);
        wait::until("the daemons to end with their owner", || {
            let daemons = daemons(pid);
            wait::check(daemons.is_empty(), || format!("{daemons:?}"))
        });
        assert!(!remains(pid).is_empty());
        let output = demo(&["--json"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let namespaces = remains(pid)
            .into_iter()
            .filter(|path| path.starts_with("/run/netns"));
        assert_eq!(namespaces.count(), 0);
    });
}

/// Reads what it says until this is said.
#[track_caller]
fn await_line(child: &mut Child, text: &str) {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let (mut said, mut line) = (String::new(), String::new());
    while output.read_line(&mut line).unwrap() > 0 {
        said += &line;
        if line.contains(text) {
            // It may go on talking.
            std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
            return;
        }
        line.clear();
    }
    let mut errors = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    panic!("it never said {text:?}:\n{said}\n{errors}");
}
