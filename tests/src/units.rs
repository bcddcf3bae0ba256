//! The little of systemd that running the lines of a unit in order takes, for machines on which it
//! is not the first process.
//!
//! [`Machine`] is what a unit sees of a host: its own host name, and a root directory whose changes
//! nobody else sees, with the files that the test puts there. [`Unit`] reads a unit file, and turns
//! its `Exec` lines into command lines as systemd does: `%H` is the host name, `${NAME}` the value
//! of a variable, and `$NAME` as a word of its own the words of the value, which may be none.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use host::netns::{Netns, Resident};

use crate::lab::{Lab, Output};
use crate::wait::PATIENCE;

/// Prepares the root directory `$1/root` and waits in it. `$1` is an empty directory, `$2` the host
/// name, `$3` files to lay over the root directory, `$4` a program to show as `$5`, `$6` a directory
/// for the socket of notifications.
const PREPARE: &str = r#"
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
for directory in proc sys dev; do mount --rbind "/$directory" "$1/root/$directory"; done
cp -r "$3/." "$1/root/"
mkdir -p "$1/root/${5%/*}"
rm -f "$1/root/$5"
: > "$1/root/$5"
mount --bind "$4" "$1/root/$5"
mkdir -p "$1/root/run/notify"
mount --bind "$6" "$1/root/run/notify"
echo "$2" > /proc/sys/kernel/hostname
touch "$1/root/ready"
exec chroot "$1/root" /bin/sh -c 'echo ready; exec sleep infinity'
"#;

/// A host as its units see it.
#[derive(Debug)]
pub struct Machine {
    /// Holds the root directory.
    holder: Resident,
    hostname: String,
    notifications: PathBuf,
}

impl Machine {
    /// Gives a host of the lab a name, and these files, by their absolute paths; `program` is shown
    /// at `path`.
    #[track_caller]
    pub fn new(
        lab: &Lab,
        number: usize,
        hostname: &str,
        files: &BTreeMap<String, String>,
        program: &Path,
        path: &str,
    ) -> Self {
        let directory = lab.directory(number);
        let (layer, stage) = (directory.join("files"), directory.join("machine"));
        let notifications = directory.join("notify");
        fs::create_dir_all(&stage).unwrap();
        fs::create_dir_all(&notifications).unwrap();
        for (path, text) in files {
            let path = layer.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut command = Command::new("unshare");
        command.args(["--uts", "--", "/bin/sh", "-c", PREPARE, "sh"]);
        command
            .arg(&stage)
            .arg(hostname)
            .arg(&layer)
            .arg(program)
            .arg(path)
            .arg(&notifications);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut holder = lab.netns(number).spawn(command).unwrap();
        let mut told = io::BufReader::new(holder.stdout.take().unwrap());
        let mut line = String::new();
        io::BufRead::read_line(&mut told, &mut line).unwrap();
        assert_eq!(line, "ready\n", "the machine {hostname} cannot be prepared");
        Self {
            holder,
            hostname: hostname.to_owned(),
            notifications,
        }
    }

    /// A command that will run on this machine.
    fn command(&self, line: &[String], environment: &BTreeMap<String, String>) -> Command {
        let pid = self.holder.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--mount", "--uts", "--root", "--wd", "--"]);
        command.args(line);
        command.env_clear().envs(environment);
        command.env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn run(
        &self,
        lab: &Lab,
        number: usize,
        line: &[String],
        environment: &BTreeMap<String, String>,
    ) -> Output {
        lab.run_as_it_is(number, self.command(line, environment))
    }

    /// Starts a service and waits until it says that it is ready.
    #[track_caller]
    pub fn start(
        &self,
        netns: &Netns,
        line: &[String],
        environment: &BTreeMap<String, String>,
        log: &Path,
    ) -> Resident {
        let socket = UnixDatagram::bind(self.notifications.join("socket")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut command = self.command(line, environment);
        command.env("NOTIFY_SOCKET", "/run/notify/socket");
        let output = fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let service = netns.spawn(command).unwrap();
        let mut message = [0; 4096];
        loop {
            let len = socket.recv(&mut message).unwrap_or_else(|error| {
                let log = fs::read_to_string(log).unwrap_or_default();
                panic!(
                    "{} does not get ready ({error}): {line:?}\n{log}",
                    self.hostname
                )
            });
            let message = String::from_utf8_lossy(&message[..len]);
            if message.lines().any(|line| line == "READY=1") {
                return service;
            }
        }
    }

    /// Reads a unit file of this machine.
    #[track_caller]
    pub fn unit(&self, text: &str) -> Unit {
        Unit::parse(text, &self.hostname)
    }
}

/// A unit file.
#[derive(Debug, Clone)]
pub struct Unit {
    settings: Vec<(String, String)>,
}

impl Unit {
    /// Keys and values in order, `%H` filled in.
    #[track_caller]
    fn parse(text: &str, hostname: &str) -> Self {
        let joined = text.replace("\\\n", " ");
        let lines = joined.lines().map(str::trim);
        let settings = lines
            .filter(|line| !line.starts_with(['#', ';', '[']))
            .filter_map(|line| {
                let (key, value) = line.split_once('=')?;
                Some((key.trim().to_owned(), value.trim().replace("%H", hostname)))
            });
        Self {
            settings: settings.collect(),
        }
    }

    /// All values of a key.
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let found = self.settings.iter().filter(move |setting| setting.0 == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The variables that its commands get: those of the unit, then those of its files.
    #[track_caller]
    pub fn environment(&self, files: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        for line in self.values("Environment") {
            environment.extend(line.split_whitespace().filter_map(assignment));
        }
        for path in self.values("EnvironmentFile") {
            let optional = path.strip_prefix('-');
            match files.get(optional.unwrap_or(path)) {
                Some(text) => environment.extend(text.lines().filter_map(assignment)),
                None => assert!(optional.is_some(), "{path} is missing"),
            }
        }
        environment
    }

    /// How to run a command with no more rights than its service has.
    pub fn restricted(&self, line: Vec<String>) -> Vec<String> {
        let mut restricted = vec!["setpriv".to_owned()];
        if let Some(capabilities) = self.values("CapabilityBoundingSet").next() {
            let names = capabilities
                .split_whitespace()
                .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
            restricted.push(format!("--bounding-set=-all{}", names.collect::<String>()));
        }
        if self.values("NoNewPrivileges").any(|value| value == "yes") {
            restricted.push("--no-new-privs".to_owned());
        }
        if restricted.len() == 1 {
            return line;
        }
        restricted.push("--".to_owned());
        restricted.extend(line);
        restricted
    }

    /// The commands behind a key, as words, each with whether its failure is ignored.
    pub fn commands(
        &self,
        key: &str,
        environment: &BTreeMap<String, String>,
    ) -> Vec<(Vec<String>, bool)> {
        let command = |value: &str| {
            let line = value.trim_start_matches(['-', '@', ':', '+', '!']);
            let words = line
                .split_whitespace()
                .flat_map(|word| expand(word, environment));
            (words.collect(), value.starts_with('-'))
        };
        self.values(key).map(command).collect()
    }
}

/// `NAME=value`, the value perhaps in quotes.
fn assignment(line: &str) -> Option<(String, String)> {
    let (name, value) = line
        .trim()
        .split_once('=')
        .filter(|(name, _)| !name.starts_with('#'))?;
    Some((name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
}

fn expand(word: &str, environment: &BTreeMap<String, String>) -> Vec<String> {
    let value = |name: &str| environment.get(name).cloned().unwrap_or_default();
    if let Some(name) = word.strip_prefix('$').filter(|name| !name.starts_with('{')) {
        return value(name).split_whitespace().map(str::to_owned).collect();
    }
    let mut expanded = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        expanded.push_str(before);
        expanded.push_str(&value(name));
        rest = after;
    }
    expanded.push_str(rest);
    vec![expanded.trim_matches(['"', '\'']).to_owned()]
}

/// How long a service may take to end.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_expanded_as_systemd_does() {
        let unit = Unit::parse(
            "[Service]\n# EnvironmentFile=/no\nEnvironment=A=1 B=\"x\"\n\
             EnvironmentFile=-/etc/%H.env\nEnvironmentFile=-/etc/none.env\n\
             ExecStart=-/bin/run --a=${A}${B} $MANY $NONE \\\n  ${NONE} %H\n",
            "host",
        );
        let files = BTreeMap::from([(
            "/etc/host.env".to_owned(),
            "# no\nMANY=\"one two\"\nNONE=\"\"\nA=2\n".to_owned(),
        )]);
        let environment = unit.environment(&files);
        assert_eq!(environment.get("A").map(String::as_str), Some("2"));
        let words = ["/bin/run", "--a=2x", "one", "two", "", "host"].map(str::to_owned);
        assert_eq!(
            unit.commands("ExecStart", &environment),
            [(words.to_vec(), true)]
        );
    }
}
