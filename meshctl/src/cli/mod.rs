//! The command line: one module per verb.
//!
//! Every verb prints what scripts of the original expect when its output is piped, tables on a
//! terminal, and JSON with `--json`. How it ended is told by its exit code, see [`Exit`].

pub mod argv;
mod completions;
mod connect;
mod create_bridge;
mod demo;
mod dns;
mod export_weave_db;
mod failure;
mod forget;
mod ipam;
mod launch;
mod legacy;
mod output;
mod peers;
mod prime;
mod report;
mod reset;
mod rmpeer;
mod status;
mod stop;
mod version;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::address::Address;
use crate::client::Client;
use crate::secret;

pub use failure::{Exit, Failure};
pub use output::to_json;

/// Where the daemon serves its control API, unless told otherwise.
pub const HTTP_ADDR: &str = "127.0.0.1:6784";
/// Where the daemon serves status and metrics, unless told otherwise.
pub const STATUS_ADDR: &str = "127.0.0.1:6782";

/// An overlay network router that joins a live Weave Net mesh, host by host.
#[derive(Debug, Parser)]
#[command(
    name = "meshctl",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the daemon does not answer, \
                  4 the daemon does not serve this."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Flags of all verbs.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// Address of the control API: host:port, or the absolute path of a Unix socket
    #[arg(
        long,
        global = true,
        alias = "httpaddr",
        env = "WEAVE_HTTP_ADDR",
        hide_env_values = true,
        default_value = HTTP_ADDR,
        value_name = "ADDRESS"
    )]
    http_addr: Address,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// Accepted and ignored, as Weave's script took it
    #[arg(long, global = true, hide = true)]
    local: bool,
}

impl Global {
    fn client(&self) -> Client {
        Client::new(&self.http_addr)
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the router in the foreground
    Launch(Box<launch::LaunchArgs>),
    /// Stop the daemon; the bridge and the containers' links stay
    Stop(stop::StopArgs),
    /// Stop the daemon and remove its bridge and its state
    Reset(reset::ResetArgs),
    /// Connect to more hosts
    Connect(connect::ConnectArgs),
    /// Stop trying to connect to hosts; live connections stay
    Forget(forget::ForgetArgs),
    /// Show the peers of the mesh: the same as "status peers"
    Peers,
    /// Wait until addresses can be allocated
    Prime(prime::PrimeArgs),
    /// Take over the addresses of hosts that are gone for good
    Rmpeer(rmpeer::RmpeerArgs),
    /// Allocate, claim, release and show addresses by hand
    Ipam(ipam::IpamArgs),
    /// Write the state of this host as Weave Net's, to go back to that; the daemon must not run
    ExportWeaveDb(export_weave_db::ExportArgs),
    /// Show how the daemon is doing
    Status(status::StatusArgs),
    /// Show all that the daemon knows about itself, as JSON or through a template
    Report(report::ReportArgs),
    /// Show the version of this program and of the daemon
    Version,
    /// Make the bridge and give it its addresses and routes, before the daemon runs
    CreateBridge(create_bridge::CreateBridgeArgs),
    /// Show a mesh of three hosts on this machine, and take it down
    Demo(demo::DemoArgs),
    /// Give a container a name, or more than one
    DnsAdd(dns::NameArgs),
    /// Take names from a container
    DnsRemove(dns::NameArgs),
    /// Look a name up
    DnsLookup(dns::LookupArgs),
    /// Print the options that make a container look names up here
    DnsArgs,
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// The command line, with variables that are set but empty taken for unset, as the original does:
/// an environment file may well have such lines.
fn command() -> clap::Command {
    fn with_variables(command: clap::Command) -> clap::Command {
        let is_empty = |arg: &clap::Arg| {
            let value = arg.get_env().and_then(std::env::var_os);
            value.is_some_and(|value| value.is_empty())
        };
        command
            .mut_args(|arg| {
                if is_empty(&arg) {
                    arg.env(Resettable::Reset)
                } else {
                    arg
                }
            })
            .mut_subcommands(with_variables)
    }
    with_variables(Cli::command())
}

/// Does what `args` say, the program's name first.
pub fn run(args: Vec<OsString>) -> ExitCode {
    if let Some(explained) = legacy::explain(&args) {
        return explained;
    }
    let args = match secret::hide(args) {
        Ok(args) => args,
        Err(failure) => return failure.report(false),
    };
    let matches = match command().try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return Exit::from(&error).into();
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.format(&mut Cli::command()).print();
            return Exit::Usage.into();
        }
    };
    let json = cli.global.json;
    match dispatch(cli, &args, &matches) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => failure.report(json),
    }
}

fn dispatch(cli: Cli, args: &[OsString], matches: &clap::ArgMatches) -> Result<(), Failure> {
    let Cli { global, verb } = cli;
    match verb {
        Verb::Launch(launch) => launch::run(&global, *launch, args, matches),
        Verb::Completions(completions) => completions.run(),
        Verb::Demo(demo) => demo.run(&global),
        Verb::CreateBridge(create) => block_on(create.run(&global)),
        Verb::Stop(_) => block_on(stop::run(&global)),
        Verb::Reset(reset) => block_on(reset.run(&global)),
        Verb::Connect(connect) => block_on(connect.run(&global)),
        Verb::Forget(forget) => block_on(forget.run(&global)),
        Verb::ExportWeaveDb(export) => export.run(&global),
        Verb::Prime(_) => block_on(prime::run(&global)),
        Verb::Rmpeer(rmpeer) => block_on(rmpeer.run(&global)),
        Verb::Ipam(ipam) => block_on(ipam.run(&global)),
        Verb::Peers => block_on(peers::run(&global)),
        Verb::Status(status) => block_on(status.run(&global)),
        Verb::Report(report) => block_on(report.run(&global)),
        Verb::Version => block_on(version::run(&global)),
        Verb::DnsAdd(names) => block_on(names.add(&global)),
        Verb::DnsRemove(names) => block_on(names.remove(&global)),
        Verb::DnsLookup(lookup) => block_on(lookup.run(&global)),
        Verb::DnsArgs => block_on(dns::args(&global)),
    }
}

/// Runs a verb that talks to the daemon.
fn block_on<T>(verb: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(verb)
}
