//! One daemon in a host: ours, or the original, told the same things in its own words.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;
use std::{env, fmt};

use host::netns::{Netns, Resident, Signal};
use serde_json::Value;

use crate::http::{self, Pending, Response};
use crate::wait;

/// Where every daemon of a lab answers, each in its own namespace.
const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 6784);

/// A request's body, if any, is a form.
const HEADERS: &str = "Accept: application/json\r\n\
                       Content-Type: application/x-www-form-urlencoded\r\n";

/// Where daemons answer queries for names, unless told otherwise.
const DNS: &str = "127.0.0.1:53";

/// How long a daemon may take to end when asked to.
const GRACE: Duration = Duration::from_secs(30);

/// Which program a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Meshctl,
    /// The original, at the path in `WEAVER`.
    Weaver,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Meshctl => "meshctl",
            Self::Weaver => "weaver",
        })
    }
}

/// What a daemon is told at its start. The default is a plain daemon with discovery and no peers,
/// whose name follows from the number of its host.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Peer name; `None`: one for the host. `Some("")`: the daemon's own choice.
    pub name: Option<String>,
    /// Nickname; `None`: `h1` for the first host, and so on.
    pub nickname: Option<String>,
    /// Password; `None`: no encryption.
    pub password: Option<String>,
    /// Peers to dial.
    pub peers: Vec<String>,
    /// Do not dial peers of peers.
    pub no_discovery: bool,
    /// Connection limit.
    pub conn_limit: Option<usize>,
    /// Speak no protocol version older than this.
    pub min_protocol: Option<u8>,
    /// Speak no protocol version newer than this; ours only.
    pub max_protocol: Option<u8>,
    /// Subnets in which overlay traffic need not be encrypted.
    pub trusted_subnets: Option<String>,
    /// Take the targets of the life before.
    pub resume: bool,
    /// Serve addresses (of this range) and names.
    pub services: Option<String>,
    /// Serve names too, at 127.0.0.1:53 unless `extra` says otherwise.
    pub names: bool,
    /// How much to log; `None`: `debug`.
    pub log_level: Option<String>,
    /// Our program to run; `None`: that of [`meshctl`].
    pub program: Option<PathBuf>,
    /// Anything else, as it stands.
    pub extra: Vec<String>,
}

impl Options {
    /// A daemon with this password, if any, and these peers.
    pub fn new(password: Option<&str>, peers: &[Ipv4Addr]) -> Self {
        Self {
            password: password.map(str::to_owned),
            peers: peers.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }
}

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    kind: Kind,
    process: Resident,
    log: PathBuf,
}

/// Asks the daemon of one host, whichever that is at the time, from any thread.
#[derive(Debug)]
pub struct Caller(Netns);

impl Caller {
    /// For the host with this namespace.
    #[track_caller]
    pub fn new(netns: &Netns) -> Self {
        Self(netns.handle().unwrap())
    }

    /// Sends a request and does not wait for the answer.
    pub fn begin(&self, method: &str, path: &str) -> io::Result<Pending> {
        http::begin(&self.0, HTTP, method, path, HEADERS, "")
    }

    /// Sends a request and waits for the answer, as long as is reasonable for one that may have to
    /// wait for something.
    pub fn call(&self, method: &str, path: &str) -> io::Result<Response> {
        self.begin(method, path)?.answer(wait::PATIENCE)
    }
}

/// One line of `status connections`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Whether this end dialled.
    pub outbound: bool,
    /// Address of the other end.
    pub address: String,
    /// `established`, `pending`, ...
    pub state: String,
    /// The rest: overlay, peer and attributes, or the error.
    pub info: String,
}

impl Node {
    /// Starts a daemon in `netns` with its state under `directory`; both may have served before.
    /// Returns what it logged if it ends before it answers.
    #[track_caller]
    pub fn start(
        kind: Kind,
        netns: &Netns,
        number: usize,
        directory: &Path,
        options: &Options,
    ) -> Result<Self, String> {
        let (state, cwd) = (directory.join("db"), directory.join("cwd"));
        let log = directory.join("log");
        for directory in [&state, &cwd] {
            fs::create_dir_all(directory).unwrap();
        }
        let mut output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut command = match kind {
            Kind::Meshctl => {
                let program = options.program.as_deref();
                let mut command = Command::new(program.unwrap_or_else(|| meshctl()));
                let range = options.services.as_deref().unwrap_or_default();
                command.args(["launch", "--ipalloc-range", range]);
                // Whatever the original has left on this machine; older ones do not look for it.
                if program.is_none() {
                    command.args(["--weave-db", "none"]);
                }
                if options.names || options.services.is_some() {
                    command.args(["--dns-listen-address", DNS]);
                } else {
                    command.arg("--no-dns");
                }
                command
            }
            Kind::Weaver => {
                // It takes its process id for a sign of another instance, and does not end with
                // its parent.
                let mut command = Command::new("unshare");
                command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
                command.arg(weaver().expect("WEAVER is set"));
                command.args(["--no-fastdp", "--docker-api="]);
                let range = options.services.as_deref().unwrap_or_default();
                command.args(["--ipalloc-range", range]);
                if options.names || options.services.is_some() {
                    command.args(["--dns-listen-address", DNS]);
                } else {
                    command.arg("--no-dns");
                }
                command
            }
        };
        let name = options.name.clone().unwrap_or_else(|| name_of(number));
        if !name.is_empty() {
            command.args(["--name", &name]);
        }
        let nickname = options
            .nickname
            .clone()
            .unwrap_or_else(|| format!("h{number}"));
        command.args(["--nickname", &nickname, "--http-addr", &HTTP.to_string()]);
        let log_level = options.log_level.as_deref().unwrap_or("debug");
        command
            .args(["--log-level", log_level, "--db-prefix"])
            .arg(Self::db_prefix(directory));
        command
            .env_clear()
            .envs(env::vars_os().filter(|(key, _)| key == "PATH"));
        command
            .env("CHECKPOINT_DISABLE", "1")
            .env("RUST_BACKTRACE", "1");
        if let Some(password) = &options.password {
            command.env("WEAVE_PASSWORD", password);
        }
        if options.no_discovery {
            command.arg("--no-discovery");
        }
        if options.resume {
            command.arg("--resume");
        }
        for (flag, value) in [
            (
                "--conn-limit",
                options.conn_limit.map(|limit| limit.to_string()),
            ),
            (
                "--min-protocol-version",
                options.min_protocol.map(|version| version.to_string()),
            ),
            (
                "--max-protocol-version",
                options.max_protocol.map(|version| version.to_string()),
            ),
            ("--trusted-subnets", options.trusted_subnets.clone()),
        ] {
            if let Some(value) = value {
                command.args([flag, &value]);
            }
        }
        command.args(&options.extra).args(&options.peers);
        writeln!(output, "\n==== {command:?}").unwrap();
        command.current_dir(&cwd).stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let process = netns.spawn(command).unwrap();
        let node = Self { kind, process, log };
        let outcome = wait::until(&format!("{kind} {nickname} to answer"), || {
            if let Some(status) = node.process.try_wait() {
                let log = node.log();
                let (_, life) = log.rsplit_once("\n==== ").unwrap();
                return Ok(Err(format!(
                    "{kind} {nickname} ended with {status}:\n{life}"
                )));
            }
            let response = node
                .request(netns, "GET", "/status", "")
                .map_err(|e| e.to_string())?;
            wait::check(response.status == 200, || response.body).map(Ok)
        });
        outcome.map(|()| node)
    }

    /// Which program it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Everything it has logged, in this life and those before.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it a request; a body goes as a form.
    pub fn request(
        &self,
        netns: &Netns,
        method: &str,
        path: &str,
        body: &str,
    ) -> io::Result<Response> {
        http::request(netns, HTTP, method, path, HEADERS, body)
    }

    /// Process id of the daemon itself.
    pub fn pid(&self) -> u32 {
        match self.kind {
            Kind::Meshctl => self.process.pid(),
            // The child of unshare.
            Kind::Weaver => {
                let pid = self.process.pid();
                let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
                let children = children.unwrap_or_default();
                children
                    .split_whitespace()
                    .next()
                    .and_then(|pid| pid.parse().ok())
                    .unwrap_or(pid)
            }
        }
    }

    /// Memory that it has in use, in KiB: its resident set, but for pages of its program, of which a
    /// build for debugging has many times as many as one for use.
    #[track_caller]
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let of = |kind: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(kind));
            let digits = line.and_then(|line| line.trim().strip_suffix(" kB"));
            digits
                .and_then(|digits| digits.parse().ok())
                .expect("the kernel says how much it has")
        };
        of("RssAnon:") + of("RssShmem:")
    }

    /// Asks it to end, and waits until it has.
    #[track_caller]
    pub fn stop(self) -> ExitStatus {
        match self.kind {
            Kind::Meshctl => self.process.signal(Signal::TERM),
            Kind::Weaver => {
                let pid = i32::try_from(self.pid())
                    .ok()
                    .and_then(rustix::process::Pid::from_raw);
                // It runs: only `stop` and `crash` end it, and they take the node away.
                rustix::process::kill_process(pid.unwrap(), Signal::TERM).unwrap();
            }
        }
        self.await_end()
    }

    /// Waits for the end that it was asked for.
    #[track_caller]
    pub fn await_end(&self) -> ExitStatus {
        let status = self.process.wait_timeout(GRACE);
        status.unwrap_or_else(|| panic!("{} does not end:\n{}", self.kind, self.log()))
    }

    /// Where its state is, as the flag `--db-prefix` has it.
    pub fn db_prefix(directory: &Path) -> PathBuf {
        directory.join("db/weave")
    }

    /// Ends it without a warning, as `kill -9` does.
    pub fn crash(self) {
        self.process.kill();
    }
}

/// The name that a daemon gets unless told otherwise.
pub fn name_of(number: usize) -> String {
    format!("7a:00:00:00:00:{number:02x}")
}

/// Lines of `status connections`.
pub fn parse_connections(text: &str) -> Vec<Connection> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let outbound = match words.next()? {
            "->" => true,
            "<-" => false,
            _ => return None,
        };
        let address = words.next()?.to_owned();
        let state = words.next()?.to_owned();
        let info = words.collect::<Vec<_>>().join(" ");
        Some(Connection {
            outbound,
            address,
            state,
            info,
        })
    };
    text.lines().filter_map(line).collect()
}

/// The original, if there is one to test against.
pub fn weaver() -> Option<PathBuf> {
    env::var_os("WEAVER")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

/// Our program: the one in `MESHCTL`, otherwise the one of this source tree, built now if need be.
pub fn meshctl() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(
        || match env::var_os("MESHCTL").filter(|path| !path.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => build(),
        },
    )
}

/// Builds meshctl beside the running test: TARGET/PROFILE/deps/TEST.
fn build() -> PathBuf {
    let test = env::current_exe().unwrap();
    let directory = test.ancestors().nth(2).unwrap();
    let target = directory.parent().unwrap();
    let profile = match directory
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap()
    {
        "debug" => "dev",
        other => other,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "--locked",
        "--package",
        "meshctl",
        "--profile",
        profile,
    ]);
    command
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target);
    let status = command.status().unwrap();
    assert!(
        status.success(),
        "cannot build meshctl: {command:?} ended with {status}"
    );
    directory.join("meshctl")
}

/// What a report says of `path`, such as `/Router/Name`.
pub fn at<'a>(report: &'a Value, path: &str) -> &'a Value {
    report.pointer(path).unwrap_or(&Value::Null)
}
