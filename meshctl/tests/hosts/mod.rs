//! Daemons on loopback, for the tests: each at an address of its own in 127/8, with its API on a Unix
//! socket and its log in a file.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "for tests alone, none of which uses all of it"
)]

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

pub const MESHCTL: &str = env!("CARGO_BIN_EXE_meshctl");
/// Nothing here takes longer, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A host: what stays when its daemon ends.
pub struct Host {
    pub directory: tempfile::TempDir,
    pub address: Ipv4Addr,
    pub port: u16,
}

/// A daemon that has said that it is ready. It is killed when it goes out of scope.
pub struct Daemon<'a> {
    pub host: &'a Host,
    pub child: Child,
    pub notify: UnixDatagram,
}

/// Hosts that share a port, so that they find each other.
pub fn hosts<const N: usize>() -> [Host; N] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id().to_be_bytes();
    let addresses = [(); N].map(|()| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ipv4Addr::new(127, 64 | pid[2] & 63, pid[3], number)
    });
    let is_free = |port: u16| {
        let both = |address| {
            TcpListener::bind((address, port)).is_ok() && UdpSocket::bind((address, port)).is_ok()
        };
        addresses.into_iter().all(both)
    };
    let port = (20_000..30_000)
        .find(|port| is_free(*port))
        .expect("no port is free");
    addresses.map(|address| Host {
        directory: tempfile::tempdir().unwrap(),
        address,
        port,
    })
}

impl Host {
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// `meshctl launch` with what every test needs.
    pub fn command(&self, more: &[&str]) -> Command {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        let mut command = Command::new(MESHCTL);
        command
            .env_clear()
            .arg("launch")
            .args([
                "--relay-only",
                "--status-addr",
                "",
                "--host",
                &self.address.to_string(),
            ])
            .args(["--port", &self.port.to_string(), "--http-addr"])
            .arg(self.path("api.sock"))
            .arg("--db-prefix")
            .arg(self.path("state/"))
            .arg("--host-root")
            .arg(self.path("root"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }

    pub fn launch(&self, more: &[&str]) -> Daemon<'_> {
        self.start(self.command(more))
    }

    pub fn start(&self, mut command: Command) -> Daemon<'_> {
        let path = self.path("notify.sock");
        let _ = fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = command.env("NOTIFY_SOCKET", &path).spawn().unwrap();
        let mut daemon = Daemon {
            host: self,
            child,
            notify,
        };
        daemon.wait_for("READY=1");
        daemon
    }

    /// A launch that is to fail: exit code and log.
    pub fn refused(&self, more: &[&str]) -> (Option<i32>, String) {
        let before = self.log().len();
        let status = self.command(more).status().unwrap();
        (status.code(), self.log().split_off(before))
    }

    pub fn client(&self, line: &[&str]) -> Output {
        Command::new(MESHCTL)
            .env_clear()
            .env("WEAVE_HTTP_ADDR", self.path("api.sock"))
            .args(line)
            .output()
            .unwrap()
    }

    /// Output of a verb that must succeed.
    pub fn ask(&self, line: &[&str]) -> String {
        let output = self.client(line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line:?}: {error}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn report(&self) -> Value {
        serde_json::from_str(&self.ask(&["report"])).unwrap()
    }

    pub fn name(&self) -> String {
        self.ask(&["report", "-f", "{{.Router.Name}}"])
    }

    pub fn targets(&self) -> Vec<String> {
        self.ask(&["status", "targets"])
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Asks until the answer pleases.
    pub fn wait_until(&self, line: &[&str], pleases: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let answer = self.ask(line);
            if pleases(&answer) {
                return answer;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{line:?}: {answer}\n{}",
                self.log()
            );
            sleep(Duration::from_millis(20));
        }
    }
}

impl Daemon<'_> {
    /// Waits for a line of a notification.
    pub fn wait_for(&mut self, line: &str) {
        let mut buffer = [0; 4096];
        loop {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}\n{}", self.host.log());
            let len = self.notify.recv(&mut buffer).unwrap();
            let text = std::str::from_utf8(&buffer[..len]).unwrap();
            if text.lines().any(|own| own == line) {
                return;
            }
        }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn proc(&self, file: &str) -> String {
        let content = fs::read(format!("/proc/{}/{file}", self.child.id())).unwrap();
        String::from_utf8_lossy(&content).replace('\0', "\n")
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
