//! Other overlay programs, for comparison: what is installed of them is measured.
//!
//! Each is found on `PATH`, or at the path that the variable of its upper-case name holds, for
//! example `WIREGUARD_GO`. They run with the cipher that their documentation calls the default,
//! except vpncloud, which chooses the fastest by itself, and nebula, whose AES is the faster one
//! wherever the processor has it.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use host::netns::Resident;
use host::stage::INTERFACE;
use tests::lab::{ContainerId, Lab, address};
use tests::wait;

use super::UNDERLAY_MTU;
use super::underlay::{BRIDGE, join_bridges};

/// A program that sets something up ends sooner.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program that carries packets from host to host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// WireGuard in userspace, ChaCha20-Poly1305, IP.
    WireguardGo,
    /// AES-256-GCM, IP.
    Nebula,
    /// Release 1.0, AES-256-CBC with HMAC, Ethernet.
    Tinc,
    /// AES-GCM or ChaCha20-Poly1305, Ethernet.
    Vpncloud,
    /// Salsa20/12 with UMAC, Ethernet.
    Fastd,
}

/// Which packets a program carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// Frames: its device is a port of a bridge that containers are on.
    Ethernet,
    /// IP: the host routes between its containers and the device.
    Ip,
}

use Peer::{Fastd, Nebula, Tinc, Vpncloud, WireguardGo};

impl Peer {
    /// All of them.
    pub const ALL: [Self; 5] = [WireguardGo, Nebula, Tinc, Vpncloud, Fastd];

    /// As it is called on the command line and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            WireguardGo => "wireguard-go",
            Nebula => "nebula",
            Tinc => "tinc",
            Vpncloud => "vpncloud",
            Fastd => "fastd",
        }
    }

    /// What it is, in a line.
    pub const fn about(self) -> &'static str {
        match self {
            WireguardGo => "WireGuard in userspace, ChaCha20-Poly1305, IP",
            Nebula => "AES-256-GCM, IP",
            Tinc => "release 1.0, AES-256-CBC with HMAC, Ethernet",
            Vpncloud => "AES-GCM or ChaCha20-Poly1305, Ethernet",
            Fastd => "Salsa20/12 with UMAC, Ethernet",
        }
    }

    /// What it carries.
    pub const fn layer(self) -> Layer {
        match self {
            WireguardGo | Nebula => Layer::Ip,
            Tinc | Vpncloud | Fastd => Layer::Ethernet,
        }
    }

    /// What fits into one datagram of the underlay, or what its users are told to set.
    pub const fn mtu(self) -> u32 {
        match self {
            WireguardGo => UNDERLAY_MTU - 80,
            Nebula => UNDERLAY_MTU - 60,
            Tinc | Vpncloud => 1400,
            Fastd => UNDERLAY_MTU - 28 - 24 - 14,
        }
    }

    /// Programs that it takes, its own first, with what to set if they are not on `PATH`.
    const fn programs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            WireguardGo => &[("wireguard-go", "WIREGUARD_GO"), ("wg", "WG")],
            Nebula => &[("nebula", "NEBULA"), ("nebula-cert", "NEBULA_CERT")],
            Tinc => &[("tincd", "TINCD")],
            Vpncloud => &[("vpncloud", "VPNCLOUD")],
            Fastd => &[("fastd", "FASTD")],
        }
    }

    /// Whether all that it takes is here.
    pub fn is_installed(self) -> bool {
        self.programs()
            .iter()
            .all(|program| find(*program).is_some())
    }

    fn command(self, index: usize) -> Result<Command> {
        let program = self.programs().get(index).context("no such program")?;
        let path = find(*program).with_context(|| format!("there is no {}", program.0))?;
        let mut command = Command::new(path);
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Starts it on both hosts and joins it to their bridges, or sets up routes to its device.
    ///
    /// # Errors
    ///
    /// When a program does not do what it should.
    ///
    /// # Panics
    ///
    /// When its device does not come up.
    pub fn start(self, lab: &Lab) -> Result<Vec<Resident>> {
        match self {
            WireguardGo => self.start_wireguard(lab),
            Nebula => self.start_nebula(lab),
            Tinc => self.start_tinc(lab),
            Vpncloud => self.start_vpncloud(lab),
            Fastd => self.start_fastd(lab),
        }
    }

    fn start_wireguard(self, lab: &Lab) -> Result<Vec<Resident>> {
        let keys = [self.wireguard_keys()?, self.wireguard_keys()?];
        let mut running = Vec::new();
        for (number, [own, other]) in [(1, [0, 1]), (2, [1, 0])] {
            // The programs of both hosts keep their sockets in one directory.
            let device = format!("wg{}x{number}", std::process::id() % 100_000);
            let mut command = self.command(0)?;
            command
                .arg("-f")
                .arg(&device)
                .env("WG_PROCESS_FOREGROUND", "1");
            running.push(spawn(lab, number, command)?);
            await_device(lab, number, &device);
            let socket = PathBuf::from(format!("/var/run/wireguard/{device}.sock"));
            wait::until("the control socket of wireguard-go", || {
                wait::check(socket.exists(), || format!("no {}", socket.display()))
            });
            let (secret, _) = keys.get(own).context("a key each")?;
            let (_, public) = keys.get(other).context("a key each")?;
            let file = lab.directory(number).join("key");
            write_secret(&file, secret)?;
            let mut command = self.command(1)?;
            command.args(["set", &device, "listen-port", "51820", "private-key"]);
            command.arg(&file).args(["peer", public, "endpoint"]);
            command.arg(format!("{}:51820", address(3 - number)));
            command.args(["allowed-ips", &subnet(3 - number)]);
            run_on(lab, number, command)?;
            ip(
                lab,
                number,
                &["link", "set", &device, "mtu", &self.mtu().to_string(), "up"],
            )?;
            ip(
                lab,
                number,
                &["route", "add", &subnet(3 - number), "dev", &device],
            )?;
        }
        Ok(running)
    }

    /// A secret key, and the public one to it.
    fn wireguard_keys(self) -> Result<(String, String)> {
        let secret = text_of(self.command(1)?.arg("genkey"), "")?;
        let public = text_of(self.command(1)?.arg("pubkey"), &secret)?;
        Ok((secret, public))
    }

    fn start_nebula(self, lab: &Lab) -> Result<Vec<Resident>> {
        let ca = lab.directory(1).join("ca");
        let [ca_crt, ca_key] = ["crt", "key"].map(|kind| ca.with_extension(kind));
        let mut command = self.command(1)?;
        command
            .args(["ca", "-name", "lab", "-out-crt"])
            .arg(&ca_crt);
        text_of(command.arg("-out-key").arg(&ca_key), "")?;
        let mut running = Vec::new();
        for number in [1, 2] {
            let other = 3 - number;
            let directory = lab.directory(number);
            let [crt, key] = ["host.crt", "host.key"].map(|file| directory.join(file));
            let mut command = self.command(1)?;
            command
                .arg("sign")
                .arg("-ca-crt")
                .arg(&ca_crt)
                .arg("-ca-key")
                .arg(&ca_key);
            command.args(["-name", &format!("h{number}"), "-subnets", &subnet(number)]);
            command.args(["-ip", &format!("10.97.0.{number}/24")]);
            text_of(
                command.arg("-out-crt").arg(&crt).arg("-out-key").arg(&key),
                "",
            )?;
            let mut config = String::new();
            writeln!(
                config,
                "pki: {{ca: {ca}, cert: {crt}, key: {key}}}\n\
                 static_host_map: {{\"10.97.0.{other}\": [\"{underlay}:4242\"]}}\n\
                 lighthouse: {{am_lighthouse: false, interval: 60, hosts: []}}\n\
                 listen: {{host: 0.0.0.0, port: 4242, batch: 64, read_buffer: 4194304, write_buffer: 4194304}}\n\
                 cipher: aes\nroutines: 2\npunchy: {{punch: false}}\n\
                 tun: {{dev: neb0, drop_local_broadcast: true, tx_queue: 1000, mtu: {mtu}, \
                 unsafe_routes: [{{route: {subnet}, via: 10.97.0.{other}, mtu: {mtu}}}]}}\n\
                 logging: {{level: error, format: text}}\n\
                 firewall: {{outbound: [{{port: any, proto: any, host: any}}], \
                 inbound: [{{port: any, proto: any, host: any, local_cidr: 0.0.0.0/0}}]}}",
                ca = ca_crt.display(),
                crt = crt.display(),
                key = key.display(),
                underlay = address(other),
                mtu = self.mtu(),
                subnet = subnet(other),
            )?;
            let file = directory.join("nebula.yml");
            fs::write(&file, config)?;
            let mut command = self.command(0)?;
            command.arg("-config").arg(&file);
            running.push(spawn(lab, number, command)?);
            await_device(lab, number, "neb0");
        }
        Ok(running)
    }

    fn start_tinc(self, lab: &Lab) -> Result<Vec<Resident>> {
        const DEVICE: &str = "tin0";
        for number in [1, 2] {
            let directory = lab.directory(number);
            fs::create_dir_all(directory.join("hosts"))?;
            let mut config = format!(
                "Name=h{number}\nMode=switch\nDeviceType=tap\nInterface={DEVICE}\n\
                 UDPRcvBuf=4194304\nUDPSndBuf=4194304\n"
            );
            if number == 2 {
                config.push_str("ConnectTo=h1\n");
            }
            fs::write(directory.join("tinc.conf"), config)?;
            let host = format!("Address={}\n", address(number));
            fs::write(directory.join(format!("hosts/h{number}")), host)?;
            let mut command = self.command(0)?;
            command.arg("-c").arg(directory).arg("-K2048");
            text_of(&mut command, "\n\n")?;
        }
        let mut running = Vec::new();
        for number in [1, 2] {
            let file = format!("hosts/h{number}");
            let copy = lab.directory(3 - number).join(&file);
            fs::copy(lab.directory(number).join(&file), copy)?;
        }
        for number in [1, 2] {
            let directory = lab.directory(number);
            let mut command = self.command(0)?;
            command.arg("-D").arg("-c").arg(directory);
            command.arg(format!("--pidfile={}", directory.join("pid").display()));
            running.push(spawn(lab, number, command)?);
            await_device(lab, number, DEVICE);
        }
        join_bridges(lab, DEVICE, self.mtu())?;
        Ok(running)
    }

    fn start_vpncloud(self, lab: &Lab) -> Result<Vec<Resident>> {
        const DEVICE: &str = "vpc0";
        let mut running = Vec::new();
        for number in [1, 2] {
            // It does not start without a default route.
            let gateway = address(3 - number).to_string();
            ip(lab, number, &["route", "add", "default", "via", &gateway])?;
            let mut command = self.command(0)?;
            command.args([
                "-t",
                "tap",
                "-m",
                "switch",
                "-p",
                "lab-secret",
                "-d",
                DEVICE,
            ]);
            command.args(["-l", "3210", "--no-port-forwarding", "--no-auto-claim"]);
            if number == 2 {
                command.args(["-c", &format!("{}:3210", address(1))]);
            }
            running.push(spawn(lab, number, command)?);
            await_device(lab, number, DEVICE);
        }
        join_bridges(lab, DEVICE, self.mtu())?;
        Ok(running)
    }

    fn start_fastd(self, lab: &Lab) -> Result<Vec<Resident>> {
        const DEVICE: &str = "fd0";
        let mut keys = Vec::new();
        for number in [1, 2] {
            let mut command = self.command(0)?;
            let secret = text_of(command.args(["--generate-key", "--machine-readable"]), "")?;
            let file = lab.directory(number).join("key.conf");
            write_secret(&file, &format!("secret \"{secret}\";"))?;
            let mut command = self.command(0)?;
            command
                .args(["--show-key", "--machine-readable", "-c"])
                .arg(&file);
            keys.push(text_of(&mut command, "")?);
        }
        let mut running = Vec::new();
        for (number, other_key) in [1, 2].into_iter().zip(keys.iter().rev()) {
            let directory = lab.directory(number);
            let file = directory.join("fastd.conf");
            let config = format!(
                "log level warn; bind {own}:10000; interface \"{DEVICE}\"; mode tap; mtu {mtu};\n\
                 method \"salsa2012+umac\"; include \"key.conf\";\n\
                 peer \"p\" {{ key \"{other_key}\"; remote {other}:10000; }}",
                own = address(number),
                mtu = self.mtu(),
                other = address(3 - number),
            );
            fs::write(&file, config)?;
            let mut command = self.command(0)?;
            command.arg("-c").arg(&file).current_dir(directory);
            running.push(spawn(lab, number, command)?);
            await_device(lab, number, DEVICE);
        }
        join_bridges(lab, DEVICE, self.mtu())?;
        Ok(running)
    }
}

/// Subnet of the containers of a host behind a program that carries IP.
pub fn subnet(number: usize) -> String {
    format!("10.99.{number}.0/24")
}

/// Makes the container of a host behind a program that carries IP, on a bridge for now.
pub(super) fn attach(lab: &mut Lab, number: usize) -> Result<ContainerId> {
    ip(lab, number, &["link", "add", BRIDGE, "type", "bridge"])?;
    ip(lab, number, &["link", "set", BRIDGE, "up"])?;
    Ok(lab.attach(number, &format!("10.99.{number}.2/24")))
}

/// Takes a container off its bridge and lets its host route for it.
pub(super) fn route(lab: &Lab, container: ContainerId, mtu: u32) -> Result<()> {
    let number = container.host();
    let port = lab.port(container);
    let gateway = format!("10.99.{number}.1");
    let mtu = mtu.to_string();
    lab.netns(number)
        .run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??;
    ip(lab, number, &["link", "delete", BRIDGE])?;
    ip(lab, number, &["link", "set", port, "mtu", &mtu, "up"])?;
    let address = format!("{gateway}/24");
    ip(lab, number, &["address", "add", &address, "dev", port])?;
    for args in [
        ["link", "set", INTERFACE, "mtu", &mtu],
        ["route", "add", "default", "via", &gateway],
    ] {
        let mut command = Command::new("ip");
        command.args(args).stdin(Stdio::null());
        let process = lab.container_netns(container).spawn(command)?;
        let status = process.wait_timeout(PATIENCE);
        let done = status.is_some_and(|status| status.success());
        ensure!(done, "ip {args:?} in a container failed");
    }
    Ok(())
}

/// Path of a program.
fn find((name, variable): (&str, &str)) -> Option<PathBuf> {
    if let Some(path) = env::var_os(variable) {
        return Some(PathBuf::from(path)).filter(|path| path.exists());
    }
    let directories = env::var_os("PATH")?;
    env::split_paths(&directories)
        // Where daemons are, also for users whose PATH does not say so.
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Runs a program of a host that stays, with its log in the host's directory.
fn spawn(lab: &Lab, number: usize, mut command: Command) -> Result<Resident> {
    let path = lab.directory(number).join("peer.log");
    let log = OpenOptions::new().create(true).append(true).open(path)?;
    command.stdout(log.try_clone()?).stderr(log);
    lab.netns(number)
        .spawn(command)
        .context("cannot run a program")
}

/// Runs a program of a host to its end.
fn run_on(lab: &Lab, number: usize, command: Command) -> Result<()> {
    let what = format!("{command:?}");
    let output = lab.run(number, command);
    ensure!(output.status.success(), "{what}: {}", output.stderr);
    Ok(())
}

/// Runs `ip` on a host.
pub(super) fn ip(lab: &Lab, number: usize, args: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(args);
    run_on(lab, number, command)
}

fn await_device(lab: &Lab, number: usize, device: &str) {
    wait::until(&format!("host {number} to have device {device}"), || {
        let found = lab.with_net(number, async |net| net.link(device).await);
        match found {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err("not there".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    });
}

/// What a program prints, in one line, when it is given `input`.
fn text_of(command: &mut Command, input: &str) -> Result<String> {
    let what = format!("{command:?}");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| what.clone())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{what}: {complaint}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Writes a file that nobody else can read.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    Ok(writeln!(file, "{text}")?)
}
