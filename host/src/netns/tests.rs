//! These need root, as the kernel does for what they test; without it they say so and fail, unless
//! `MESHCTL_TESTS_NO_ROOT` is set.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, io::Read, panic};

use super::*;

/// Whether the test may run; fails the test when it should have been able to.
pub(crate) fn may_run() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("MESHCTL_TESTS_NO_ROOT").is_some(),
        "network namespaces need root; set MESHCTL_TESTS_NO_ROOT=1 to skip this test"
    );
    println!("skipped: not root");
    false
}

/// Links that the calling thread sees.
fn links() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let lines = text.lines().skip(2);
    lines
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect()
}

#[test]
fn a_new_namespace_is_empty_and_goes_away_with_its_value() {
    if !may_run() {
        return;
    }
    let name = name_for("nstest", "empty");
    let netns = Netns::create(&name).unwrap();
    assert_eq!(netns.name(), name);
    assert_eq!(netns.run(links).unwrap(), ["lo"]);
    assert!(path_of(&name).exists());

    let again = Netns::create(&name).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    assert!(
        path_of(&name).exists(),
        "a refused name must not be removed"
    );

    let opened = Netns::open(&name).unwrap();
    drop(opened);
    assert!(
        path_of(&name).exists(),
        "an opened one is not ours to remove"
    );
    drop(netns);
    assert!(!path_of(&name).exists());
}

#[test]
fn names_that_leave_the_directory_are_refused() {
    for name in ["", "a/b", "../x", ".hidden"] {
        assert_eq!(
            Netns::create(name).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}

#[test]
fn it_goes_away_when_its_owner_panics() {
    if !may_run() {
        return;
    }
    let name = name_for("nstest", "panic");
    let outcome = panic::catch_unwind(|| {
        let _netns = Netns::create(&name).unwrap();
        resume_unwind(Box::new("on purpose"));
    });
    assert!(outcome.is_err());
    assert!(!path_of(&name).exists());
}

#[test]
fn a_panic_inside_reaches_the_caller() {
    if !may_run() {
        return;
    }
    let netns = Netns::create(&name_for("nstest", "inner")).unwrap();
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        netns.run(|| resume_unwind(Box::new("on purpose")))
    }));
    assert_eq!(
        *outcome.unwrap_err().downcast::<&str>().unwrap(),
        "on purpose"
    );
}

#[test]
fn sockets_stay_in_the_namespace_that_they_were_made_in() {
    if !may_run() {
        return;
    }
    let netns = Netns::create(&name_for("nstest", "socket")).unwrap();
    // Its loopback is down, so even its own address cannot be reached from inside.
    let listener = netns.run(|| TcpListener::bind("127.0.0.1:0")).unwrap();
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = outside.local_addr().unwrap();
    assert!(netns.run(|| TcpStream::connect(address)).unwrap().is_err());
    assert!(TcpStream::connect(address).is_ok());
    drop(listener);
}

#[test]
fn a_program_runs_inside_and_its_end_is_told() {
    if !may_run() {
        return;
    }
    let netns = Netns::create(&name_for("nstest", "program")).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "cat /proc/self/net/dev; ls /sys/class/net; exit 3"]);
    command.stdout(Stdio::piped());
    let mut resident = netns.spawn(command).unwrap();
    let mut output = String::new();
    resident
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut output)
        .unwrap();
    let status = resident.wait_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(status.code(), Some(3));
    assert_eq!(output.matches(':').count(), 1, "one link only: {output}");
    assert!(output.ends_with("\nlo\n"), "/sys shows that link: {output}");
}

#[test]
fn a_program_is_stopped_and_killed() {
    if !may_run() {
        return;
    }
    let netns = Netns::create(&name_for("nstest", "stop")).unwrap();
    let sleep = || {
        let mut command = Command::new("sleep");
        command.arg("3600");
        command
    };
    let resident = netns.spawn(sleep()).unwrap();
    assert!(resident.try_wait().is_none());
    assert_eq!(
        resident.stop(Duration::from_secs(60)).signal(),
        Some(Signal::TERM.as_raw())
    );
    assert_eq!(
        resident.try_wait().unwrap().signal(),
        Some(Signal::TERM.as_raw())
    );
    resident.signal(Signal::KILL);

    let resident = netns.spawn(sleep()).unwrap();
    let process = Path::new("/proc").join(resident.pid().to_string());
    assert!(process.exists());
    drop(resident);
    assert!(!process.exists());

    assert!(netns.spawn(Command::new("/nonexistent")).is_err());
}

#[test]
fn what_a_dead_process_left_behind_is_found() {
    if !may_run() {
        return;
    }
    // A process id beyond the kernel's largest belongs to nobody. The tag is this process's own, for
    // other runs of this test may be at work.
    let tag = format!("nsstale{}", std::process::id());
    let stale = Netns::create(&format!("{tag}-4194305-h1")).unwrap();
    let alive = Netns::create(&name_for(&tag, "h1")).unwrap();
    let other = Netns::create(&format!("{tag}x-4194305-h1")).unwrap();
    assert_eq!(remove_stale(&tag), [stale.name()]);
    assert!(!path_of(stale.name()).exists());
    assert!(path_of(alive.name()).exists());
    assert!(path_of(other.name()).exists());
}

#[test]
fn a_user_namespace_gives_the_rights_to_make_one() {
    if !may_run() {
        return;
    }
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "id -u; ls -A /run/netns; cat /proc/self/net/dev"]);
    let output = user::enter_on_exec(&mut command).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.starts_with("0\nInter"),
        "root, and no names: {output}"
    );
    assert_eq!(output.matches(':').count(), 1, "one link only: {output}");
}
