//! `demo`: a mesh of three hosts on this machine, to look at.
//!
//! It needs nothing but this program: hosts and containers are network namespaces, the daemons are
//! `meshctl launch` started from this file. Without root it moves into a user namespace first.
//! Everything is taken down at the end, also after a failure, Ctrl-C or TERM; after a kill, the
//! daemons end by themselves and the next demonstration removes the names.

mod stage;
mod voice;

use std::env;
use std::fs::File;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use host::netns::user;
use host::probe::{self, Amount, Transferred};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::stage::{HOSTS, Stage, off_thread};
use self::voice::Voice;
use super::status::{StatusArgs, Topic};
use super::{Exit, Failure, Global};

/// Where TAP devices are made.
const TUN_DEVICE: &str = "/dev/net/tun";
/// How long each throughput is measured.
const TRANSFER_TIME: Duration = Duration::from_secs(3);
/// Pings per pair that count; the best one is shown.
const PINGS: usize = 3;
/// Bytes in a ping, as `ping` sends them.
const PING_LEN: usize = 56;
/// Longest wait for one answer.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for a container to be reached at all.
const REACH_TIMEOUT: Duration = Duration::from_secs(30);

/// Flags of `demo`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct DemoArgs {
    /// Leave everything running at the end, for you to explore, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Set by the demonstration itself, once it is in a user namespace
    #[arg(long, hide = true)]
    in_user_namespace: bool,
}

/// What was found, for `--json`.
#[derive(Debug, Default, Serialize)]
struct Findings {
    mesh_seconds: f64,
    pings: Vec<Ping>,
    throughput_megabits: f64,
    reroute_seconds: f64,
    relayed_ping_milliseconds: f64,
    relayed_throughput_megabits: f64,
}

/// Round trip from the container on one host to the container on another.
#[derive(Debug, Clone, Serialize)]
struct Ping {
    from: String,
    to: String,
    milliseconds: f64,
}

impl DemoArgs {
    /// Plays it.
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        check_tun_device()?;
        if !rustix::process::geteuid().is_root() {
            return Err(self.again_in_user_namespace(global));
        }
        super::block_on(async {
            let mut signals = Signals::new()?;
            let mut voice = Voice::new(global.json);
            let played = tokio::select! {
                biased;
                name = signals.next() => {
                    Err(Failure::new(Exit::Failed, format!("stopped by {name}")))
                }
                played = self.play(&mut voice) => played,
            };
            voice.quiet();
            let (stage, findings) = played?;
            if global.json {
                super::output::print_json(&findings)?;
            }
            if self.keep {
                voice.say(&stage.hints(self.in_user_namespace))?;
                signals.next().await;
            }
            voice.step("Taking everything down");
            drop(stage);
            voice.done("Everything is taken down.")
        })
    }

    /// Becomes root of a user namespace, and starts over there. Returns only when that fails.
    fn again_in_user_namespace(self, global: &Global) -> Failure {
        let program = match env::current_exe() {
            Ok(program) => program,
            Err(error) => return error.into(),
        };
        let mut command = Command::new(program);
        command.args(["demo", "--in-user-namespace"]);
        command
            .args(self.keep.then_some("--keep"))
            .args(global.json.then_some("--json"));
        // This process has a single thread yet, as the move demands.
        let error = user::enter_on_exec(&mut command).exec();
        Failure::new(
            Exit::Failed,
            format!("cannot make a user namespace: {error}"),
        )
        .hint(
            "run the demonstration as root, or allow user namespaces (on Debian \"sysctl \
             kernel.unprivileged_userns_clone=1\", on Ubuntu \"sysctl \
             kernel.apparmor_restrict_unprivileged_userns=0\")",
        )
    }

    /// The show. Dropping the future, or the stage, takes everything down.
    async fn play(self, voice: &mut Voice) -> Result<(Stage, Findings), Failure> {
        let mut findings = Findings::default();
        voice.step("Building three hosts out of network namespaces");
        let mut stage = Stage::new().await?;
        voice.done(&format!(
            "Three hosts, {}, joined by a switch.",
            stage.introduction()
        ))?;

        voice.step("Starting a daemon on each");
        let started = Instant::now();
        stage.launch()?;
        stage.await_full_mesh().await?;
        findings.mesh_seconds = started.elapsed().as_secs_f64();
        voice.done(&format!(
            "A daemon on each; h2 and h3 were told of h1. All are connected to all, encrypted, \
             after {:.1} s.",
            findings.mesh_seconds
        ))?;

        voice.step("Attaching containers");
        stage.attach().await?;
        voice.done(&format!("A container on each: {}.", stage.containers()))?;

        voice.step("Pinging all pairs");
        for from in 0..HOSTS {
            for to in (0..HOSTS).filter(|to| *to != from) {
                findings.pings.push(ping(&stage, from, to).await?);
            }
        }
        voice.done("Every container reaches every other:")?;
        voice.say(&matrix(&findings.pings))?;

        voice.step("Measuring the throughput from h1 to h2");
        let direct = transfer(&stage, 0, 1).await?;
        findings.throughput_megabits = direct.megabits_per_second();
        voice.done(&format!(
            "{}, every byte checked.{}",
            speed("h1", "h2", direct),
            caveat()
        ))?;

        voice.say("This is what you see on h1:")?;
        self.show(
            voice,
            &stage,
            &[None, Some(Topic::Connections), Some(Topic::Peers)],
        )
        .await?;

        voice.step("Cutting the link between h1 and h3, and waiting for the way around");
        let cut = Instant::now();
        stage.cut(true).await?;
        stage.await_detour().await?;
        findings.reroute_seconds = cut.elapsed().as_secs_f64();
        let relayed = ping(&stage, 0, 2).await?;
        findings.relayed_ping_milliseconds = relayed.milliseconds;
        let detour = transfer(&stage, 0, 2).await?;
        findings.relayed_throughput_megabits = detour.megabits_per_second();
        voice.done(&format!(
            "The link between h1 and h3 is cut. After {:.1} s their containers talk through h2: \
             ping {:.2} ms, {}.",
            findings.reroute_seconds,
            relayed.milliseconds,
            speed("h1", "h3", detour),
        ))?;
        self.show(voice, &stage, &[Some(Topic::Connections)])
            .await?;
        if self.keep {
            stage.cut(false).await?;
        }
        Ok((stage, findings))
    }

    /// Prints what the verb `status` does.
    async fn show(
        self,
        voice: &mut Voice,
        stage: &Stage,
        topics: &[Option<Topic>],
    ) -> Result<(), Failure> {
        if voice.is_silent() {
            return Ok(());
        }
        let global = stage.global(0);
        for topic in topics {
            voice.command("status", *topic)?;
            StatusArgs::about(*topic).run(&global).await?;
            voice.say("")?;
        }
        Ok(())
    }
}

/// What the daemons cannot do without, and what no namespace gives to those who may not have it.
fn check_tun_device() -> Result<(), Failure> {
    let opened = File::options().read(true).write(true).open(TUN_DEVICE);
    let Err(error) = opened else {
        return Ok(());
    };
    let failure = Failure::new(Exit::Failed, format!("cannot open {TUN_DEVICE}: {error}"));
    Err(match error.kind() {
        ErrorKind::PermissionDenied => failure.hint(format!(
            "run the demonstration as root, or let everybody open the device, as most machines do: \
             \"chmod 666 {TUN_DEVICE}\""
        )),
        ErrorKind::NotFound => failure.hint(
            "load the driver with \"modprobe tun\"; inside a container, give it the device: docker \
             run --privileged",
        ),
        _ => failure,
    })
}

/// The signals that end it.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "TERM",
            _ = self.hangup.recv() => "the end of the terminal",
        }
    }
}

/// Pings until the container is reached, and then a few times for the figure.
async fn ping(stage: &Stage, from: usize, to: usize) -> Result<Ping, Failure> {
    let (netns, address) = (stage.container(from)?, stage::container_address(to));
    let (from, to) = (stage::name(from), stage::name(to));
    let best = off_thread(move || {
        netns.enter().map_err(std::io::Error::other)?;
        reach(address)?;
        let mut best = PING_TIMEOUT;
        for _ in 0..PINGS {
            best = best.min(probe::ping(address, PING_LEN, PING_TIMEOUT)?);
        }
        Ok::<_, std::io::Error>(best)
    });
    let best = best.await?.map_err(|error| {
        let what = format!("the container on {to} does not answer the one on {from}: {error}");
        Failure::new(Exit::Failed, what)
    })?;
    Ok(Ping {
        from,
        to,
        milliseconds: best.as_secs_f64() * 1e3,
    })
}

/// Pings until there is an answer.
fn reach(address: Ipv4Addr) -> std::io::Result<()> {
    let started = Instant::now();
    loop {
        match probe::ping(address, PING_LEN, PING_TIMEOUT) {
            Ok(_) => return Ok(()),
            Err(error) if started.elapsed() > REACH_TIMEOUT => return Err(error),
            Err(_) => {}
        }
    }
}

/// Sends bytes between the containers of two hosts for a while.
async fn transfer(stage: &Stage, from: usize, to: usize) -> Result<Transferred, Failure> {
    let (sender, receiver) = (stage.container(from)?, stage.container(to)?);
    let address = stage::container_address(to);
    let amount = Amount::For(TRANSFER_TIME);
    let done = off_thread(move || probe::transfer(&sender, &receiver, address, amount)).await?;
    done.map_err(|error| Failure::new(Exit::Failed, format!("the transfer failed: {error}")))
}

fn speed(from: &str, to: &str, done: Transferred) -> String {
    let bytes = super::output::bytes(done.bytes);
    let rate = done.megabits_per_second();
    format!("{rate:.0} Mbit/s over TCP from {from} to {to} ({bytes})")
}

/// A debug build has a story of its own to tell about throughput.
fn caveat() -> &'static str {
    if cfg!(debug_assertions) {
        " (This is a debug build; one made with --release is several times as fast.)"
    } else {
        ""
    }
}

/// Round trips as a table, from the rows to the columns.
fn matrix(pings: &[Ping]) -> String {
    let names: Vec<_> = (0..HOSTS).map(stage::name).collect();
    let headings: Vec<_> = std::iter::once("PING FROM")
        .chain(names.iter().map(String::as_str))
        .collect();
    let mut table = super::output::table(&headings);
    for from in &names {
        let cells = names.iter().map(|to| {
            let found = pings
                .iter()
                .find(|ping| ping.from == *from && ping.to == *to);
            found.map_or_else(
                || "-".to_owned(),
                |ping| format!("{:.2} ms", ping.milliseconds),
            )
        });
        table.add_row(std::iter::once(from.clone()).chain(cells));
    }
    format!("{table}\n")
}
