//! `launch`: from the command line to the daemon's configuration.
//!
//! Every flag that the original's router has in any era is here or in [`foreign`], under its newest
//! name with the older ones as aliases. Go's switches take a value behind `=`: `--resume=false`.
//! A flag given twice counts as given the last time, as in the original.

mod foreign;
mod names;
mod overlays;
mod ranges;
mod remembered;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr as _;

use clap::builder::ArgPredicate;
use clap::{ArgAction, ArgMatches, FromArgMatches as _, ValueEnum};
use host::netlink::Cidr;
use proto::PeerName;
use router::constants::{CONN_LIMIT, MAX_PROTOCOL, MIN_PROTOCOL, PORT};
use router::crypto::session::Password;
use router::io::tap::Choice;
use router::mesh::{BadSubnet, Subnet};
use router::wire::intro::Versions;

use super::{Cli, Exit, Failure, Global, STATUS_ADDR, Verb};
use crate::address::Address;
use crate::daemon::config::{Config, Level, Logging, Peers};
use crate::daemon::migrate::WeaveDb;
use crate::daemon::store::{DB_PREFIX, Store};
use crate::daemon::{self, identity};
use crate::secret;

/// Flags of `launch`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_override_self = true)]
pub struct LaunchArgs {
    /// Hosts to connect to
    #[arg(value_name = "HOST[:PORT]")]
    peers: Vec<String>,
    /// Print the version and exit
    #[arg(long)]
    version: bool,
    /// Print the name that this host has in the mesh and exit
    #[arg(long)]
    print_peer_name: bool,
    /// Address of the router's sockets, TCP and UDP [default: all]
    #[arg(long, value_name = "ADDRESS", value_parser = host_address)]
    host: Option<Ipv4Addr>,
    /// Port of the mesh, TCP and UDP
    #[arg(long, env = "WEAVE_PORT", default_value_t = PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Lowest protocol version to speak: 1 or 2
    #[arg(long, value_name = "VERSION", default_value_t = MIN_PROTOCOL,
          value_parser = clap::value_parser!(u8).range(i64::from(MIN_PROTOCOL)..=i64::from(MAX_PROTOCOL)))]
    min_protocol_version: u8,
    /// Highest protocol version to speak, for trials with the ways of old peers
    #[arg(long, hide = true, value_name = "VERSION", default_value_t = MAX_PROTOCOL,
          value_parser = clap::value_parser!(u8).range(i64::from(MIN_PROTOCOL)..=i64::from(MAX_PROTOCOL)))]
    max_protocol_version: u8,
    /// Take up the direct peers and the options of the last launch
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", hide_default_value = true, hide_possible_values = true,
          action = ArgAction::Set, value_parser = go_bool, value_name = "BOOL")]
    resume: bool,
    /// Name of this host in the mesh: six groups of hex digits, or fewer with "::" as in ::1
    /// [default: made from the identity of the machine]
    #[arg(long, value_parser = PeerName::from_str)]
    name: Option<PeerName>,
    /// Nickname of this host [default: the host name]
    #[arg(long)]
    nickname: Option<String>,
    /// Password of the mesh; WEAVE_PASSWORD and --password-file are better ways to give it
    #[arg(long)]
    password: Option<String>,
    /// File with the password of the mesh
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Descriptor to read the password from
    #[arg(long, value_name = "NUMBER", hide = true)]
    password_fd: Option<u32>,
    /// Lowest level to log
    #[arg(long, value_enum, default_value_t = Level::Info)]
    #[arg(default_value_if("debug", ArgPredicate::Equals("true".into()), "debug"))]
    log_level: Level,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = ArgAction::Set, value_parser = go_bool)]
    debug: Option<bool>,
    /// Log every frame
    #[arg(long, alias = "pktdebug", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value = "false", hide_default_value = true,
          hide_possible_values = true, action = ArgAction::Set, value_parser = go_bool,
          value_name = "BOOL")]
    pkt_debug: bool,
    /// Connections to hold at most; 0 means no limit
    #[arg(long, alias = "connlimit", value_name = "COUNT", default_value_t = CONN_LIMIT)]
    conn_limit: usize,
    /// Connect only to the hosts given, not to all peers of the mesh
    #[arg(long, alias = "nodiscovery", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value = "false", hide_default_value = true,
          hide_possible_values = true, action = ArgAction::Set, value_parser = go_bool,
          value_name = "BOOL")]
    no_discovery: bool,
    /// Address to serve status and metrics on; empty: do not
    #[arg(long, env = "WEAVE_STATUS_ADDR", default_value = STATUS_ADDR, value_name = "ADDRESS")]
    status_addr: Address,
    /// Address to serve metrics alone on; empty: do not
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "ADDRESS"
    )]
    metrics_addr: Address,
    /// Name of the bridge
    #[arg(long, default_value = daemon::BRIDGE, value_name = "NAME")]
    weave_bridge: String,
    /// Take part in the mesh and relay for others, without bridge and TAP device
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", hide_default_value = true, hide_possible_values = true,
          action = ArgAction::Set, value_parser = go_bool, value_name = "BOOL")]
    relay_only: bool,
    /// MTU of the bridge; 0 means the largest, as each path's own MTU is found and told to containers
    #[arg(long, env = "WEAVE_MTU", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=65535), hide_default_value = true)]
    mtu: u32,
    /// Kind of TAP device: with offloads, or plain frames; by default offloads where the kernel has them
    #[arg(long, value_enum, default_value_t = Tap::Auto)]
    tap: Tap,
    /// Have the kernel join the frames of containers that were attached without offloads
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", hide_default_value = true, hide_possible_values = true,
          action = ArgAction::Set, value_parser = go_bool, value_name = "BOOL")]
    port_gro: bool,
    /// Pass runs of datagrams through the kernel as one where it can
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", hide_default_value = true, hide_possible_values = true,
          action = ArgAction::Set, value_parser = go_bool, value_name = "BOOL")]
    udp_offload: bool,
    /// Subnets whose hosts exchange frames with us unencrypted, if they trust us too: CIDR,...
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',',
          action = ArgAction::Set, value_parser = trusted_subnet)]
    trusted_subnets: Vec<Option<Subnet>>,
    /// What the path of the state file begins with; it ends in data.redb
    #[arg(long, default_value = DB_PREFIX, value_name = "PREFIX")]
    db_prefix: PathBuf,
    /// State file of Weave Net that a host without a state takes over, or "none"
    /// [default: the one at a usual place, if there is one]
    #[arg(long, value_name = "FILE")]
    weave_db: Option<WeaveDb>,
    /// Where the files that identify the host are: its root directory
    #[arg(
        long,
        default_value = "/",
        hide_default_value = true,
        value_name = "DIRECTORY"
    )]
    host_root: PathBuf,
    #[command(flatten)]
    overlays: overlays::Overlays,
    #[command(flatten)]
    ranges: ranges::Ranges,
    #[command(flatten)]
    names: names::Names,
    #[command(flatten)]
    foreign: foreign::Foreign,
}

/// Kind of TAP device.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Tap {
    /// Offloads where the kernel has them
    Auto,
    /// Offloads, or fail
    Offload,
    /// Plain frames
    Plain,
}

impl From<Tap> for Choice {
    fn from(tap: Tap) -> Self {
        match tap {
            Tap::Auto => Self::Auto,
            Tap::Offload => Self::Offload,
            Tap::Plain => Self::Plain,
        }
    }
}

/// Runs the daemon until it is told to end.
pub fn run(
    global: &Global,
    launch: LaunchArgs,
    args: &[OsString],
    matches: &ArgMatches,
) -> Result<(), Failure> {
    if launch.version {
        return super::output::print(&format!("weave {}\n", env!("CARGO_PKG_VERSION")));
    }
    if launch.print_peer_name {
        let sources = launch.identity_sources();
        let name = super::block_on(async { Ok(identity::preview(&sources).await?) })?;
        return super::output::print(&format!("{name}\n"));
    }
    let (peers, cidr) = split_peers(&launch.peers);
    if launch.resume && !peers.is_empty() {
        return Err(Failure::usage(
            "You must not specify an initial peer list in conjunction with --resume",
        )
        .hint("leave out --resume, or add the hosts with \"meshctl connect\" afterwards"));
    }
    let (config, store) = if launch.resume {
        let store = Store::open(&launch.db_prefix).map_err(anyhow::Error::from)?;
        let stored = store.launch_options().map_err(anyhow::Error::from)?;
        let args = remembered::resumed(args, &stored);
        let matches = super::command().try_get_matches_from(&args);
        let matches = matches.map_err(|error| stored_options_unreadable(&error))?;
        let cli = Cli::from_arg_matches(&matches);
        let cli = cli.map_err(|error| stored_options_unreadable(&error))?;
        let Verb::Launch(again) = cli.verb else {
            return Err(Failure::usage("the stored options change the verb"));
        };
        (again.config(&cli.global, peers, &matches)?, store)
    } else {
        // A command line that makes no sense must not leave a state behind.
        let db_prefix = launch.db_prefix.clone();
        let mut config = launch.config(global, peers, matches)?;
        config.warnings.extend(cidr.map(|cidr| {
            format!("{cidr} is not a host: the bridge gets its address from create-bridge")
        }));
        (
            config,
            Store::open(&db_prefix).map_err(anyhow::Error::from)?,
        )
    };
    daemon::run(config, store).map_err(Failure::from)
}

fn stored_options_unreadable(error: &clap::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("the options of the last launch no longer work: {error}"),
    )
    .hint("launch without --resume, with all options")
}

/// Weave 1.0 took the address of its container as first argument, and warned since it had none.
fn split_peers(given: &[String]) -> (Vec<String>, Option<String>) {
    match given.split_first() {
        Some((first, rest)) if first.parse::<Cidr>().is_ok() => {
            (rest.to_vec(), Some(first.clone()))
        }
        _ => (given.to_vec(), None),
    }
}

impl LaunchArgs {
    fn identity_sources(&self) -> identity::Sources {
        identity::Sources {
            name: self.name,
            bridge: (!self.relay_only).then(|| self.weave_bridge.clone()),
            weave_db: self.weave_db.clone().unwrap_or_default(),
            db_prefix: self.db_prefix.clone(),
            host_root: self.host_root.clone(),
        }
    }

    fn config(
        self,
        global: &Global,
        peers: Vec<String>,
        matches: &ArgMatches,
    ) -> Result<Config, Failure> {
        let identity = self.identity_sources();
        let versions = Versions {
            min: self.min_protocol_version,
            max: self.max_protocol_version,
        };
        if versions.min > versions.max {
            return Err(Failure::usage(
                "--max-protocol-version is below --min-protocol-version",
            ));
        }
        let (allocation, warnings) = self.ranges.judge(self.relay_only)?;
        let without_effect = self.foreign.judge()?;
        let notes = without_effect
            .iter()
            .map(|(name, why)| format!("--{name} has no effect: {why}"))
            .collect();
        Ok(Config {
            bind: self.host.unwrap_or(Ipv4Addr::UNSPECIFIED),
            port: self.port,
            versions,
            identity,
            nickname: self.nickname,
            password: password(self.password, self.password_fd, self.password_file)?,
            logging: Logging {
                level: self.log_level,
                frames: self.pkt_debug,
                json: global.json,
            },
            conn_limit: self.conn_limit,
            overlays: self.overlays.names(),
            data: self.overlays.options(),
            discovery: !self.no_discovery,
            http: global.http_addr.clone(),
            status: self.status_addr,
            metrics: self.metrics_addr,
            bridge: (!self.relay_only).then_some(self.weave_bridge),
            tap: self.tap.into(),
            port_gro: self.port_gro,
            udp_offload: self.udp_offload,
            mtu: (self.mtu > 0).then_some(self.mtu),
            trusted_subnets: self.trusted_subnets.into_iter().flatten().collect(),
            allocation,
            names: self.names.config(&self.host_root),
            peers: if self.resume {
                Peers::Stored
            } else {
                Peers::Given(peers)
            },
            launch_options: remembered::given(matches),
            notes,
            warnings,
        })
    }
}

/// The flag comes before the file; the environment has become a descriptor, and only where there
/// is neither.
fn password(
    flag: Option<String>,
    descriptor: Option<u32>,
    file: Option<PathBuf>,
) -> Result<Option<Password>, Failure> {
    let cannot = |from: String| {
        move |error| {
            Failure::new(
                Exit::Failed,
                format!("cannot read the password from {from}: {error}"),
            )
        }
    };
    let password = match (flag.filter(|flag| !flag.is_empty()), descriptor, file) {
        (Some(flag), _, _) => zeroize::Zeroizing::new(flag.into_bytes()),
        (None, Some(number), _) => {
            secret::read_descriptor(number).map_err(cannot(format!("descriptor {number}")))?
        }
        (None, None, Some(path)) => {
            let password = secret::read_file(&path).map_err(cannot(path.display().to_string()))?;
            if password.is_empty() {
                let message = format!("the password file {} is empty", path.display());
                return Err(Failure::new(Exit::Failed, message)
                    .hint("leave out --password-file for a mesh without password"));
            }
            password
        }
        (None, None, None) => return Ok(None),
    };
    // Copied to its exact length, so that nothing is left behind when it is moved.
    Ok(Password::new(password.as_slice()))
}

/// A switch as Go writes it.
pub fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("neither true nor false".to_owned()),
    }
}

/// An empty one stands for all; so does the wildcard.
fn host_address(text: &str) -> Result<Ipv4Addr, String> {
    match text {
        "" => Ok(Ipv4Addr::UNSPECIFIED),
        text => text
            .parse()
            .map_err(|_| "not an IPv4 address of this host".to_owned()),
    }
}

/// An empty list is a list of nothing.
fn trusted_subnet(text: &str) -> Result<Option<Subnet>, BadSubnet> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some)
}
