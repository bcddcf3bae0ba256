//! Flags of `launch` that this version does not act upon: those of services that it lacks, and
//! those of machinery that meshctl does without.
//!
//! All are known by name. What a flag asks for decides: where meshctl is what the user gets anyway,
//! or where nothing could be had for it in any version, it is accepted and a line in the log says
//! that it has no effect; where the user would miss something, it is refused.
//!
//! Source: feature inventory, section 7.1.

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use crate::cli::Failure;

/// What becomes of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Accepted without effect, for this reason.
    NoEffect(&'static str),
    /// Refused: it belongs to this service.
    Refused(&'static str),
}

use Fate::{NoEffect, Refused};

/// One flag.
#[derive(Debug)]
struct Flag {
    name: &'static str,
    aliases: &'static [&'static str],
    /// Whether it takes a value; otherwise it is a switch of Go's kind.
    value: bool,
    fate: Fate,
}

const fn switch(name: &'static str, fate: Fate) -> Flag {
    Flag {
        name,
        aliases: &[],
        value: false,
        fate,
    }
}

const fn value(name: &'static str, fate: Fate) -> Flag {
    Flag {
        name,
        aliases: &[],
        value: true,
        fate,
    }
}

const SLEEVE_ONLY: Fate = NoEffect("there is one data path, over UDP, and no kernel datapath");
const NO_DOCKER: Fate = NoEffect("this version does not talk to Docker");
const NO_CLOUD: Fate = NoEffect("the service behind it has been shut down");
const NO_SCRIPT: Fate = NoEffect("it told Weave's script what to do, and there is no script");
const NO_MASQUERADE: Fate =
    NoEffect("this version never masquerades, so addresses stay as they are");
const PROXY: Fate = Refused("the Docker proxy");
const PLUGIN: Fate = Refused("the Docker plugin");

/// In the order of the original's help.
const FLAGS: &[Flag] = &[
    value("profile", NoEffect("no profiler is built in")),
    value(
        "bufsz",
        NoEffect("frames come from a TAP device, not through a capture buffer"),
    ),
    value(
        "iface",
        NoEffect("frames come from a TAP device on the bridge"),
    ),
    value("wait", NoEffect("there is no interface to wait for")),
    Flag {
        aliases: &["api"],
        ..value("docker-api", NO_DOCKER)
    },
    value("datapath", SLEEVE_ONLY),
    switch("no-fastdp", SLEEVE_ONLY),
    switch("no-bridged-fastdp", SLEEVE_ONLY),
    switch("expect-npc", Refused("the network policy controller")),
    switch("awsvpc", Refused("AWS VPC mode")),
    switch("no-masq-local", NO_MASQUERADE),
    value("proc-path", NO_DOCKER),
    value("peer-discovery-url", NO_CLOUD),
    value("token", NO_CLOUD),
    value("advertise-address", NO_CLOUD),
    switch("plugin", PLUGIN),
    switch("plugin-v2", PLUGIN),
    switch("plugin-v2-multicast", PLUGIN),
    value("plugin-socket", PLUGIN),
    value("plugin-mesh-socket", PLUGIN),
    switch("proxy", PROXY),
    value("proxy-endpoint", PROXY),
    value("hostname-from-label", PROXY),
    value("hostname-match", PROXY),
    value("hostname-replacement", PROXY),
    switch("rewrite-inspect", PROXY),
    switch("tls", PROXY),
    switch("tlsverify", PROXY),
    value("tlscacert", PROXY),
    value("tlscert", PROXY),
    value("tlskey", PROXY),
    switch("with-dns", PROXY),
    switch(
        "without-dns",
        NoEffect("there is no proxy that would pass on name servers"),
    ),
    switch(
        "no-default-ipalloc",
        NoEffect("there is no proxy that would give addresses"),
    ),
    switch(
        "no-default-ipam",
        NoEffect("there is no proxy that would give addresses"),
    ),
    switch(
        "no-rewrite-hosts",
        NoEffect("there is no proxy that would rewrite /etc/hosts"),
    ),
    switch(
        "no-multicast-route",
        NoEffect("there is no proxy that would add routes"),
    ),
    switch("no-detect-tls", NO_SCRIPT),
    switch("no-restart", NO_SCRIPT),
];

/// The flags of this kind on one command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Name, and the reason why it has no effect.
    without_effect: Vec<(&'static str, &'static str)>,
    /// Name, and the service it belongs to.
    refused: Vec<(&'static str, &'static str)>,
}

impl Foreign {
    /// The flags given that have no effect, each with the reason; or the failure that tells which
    /// ones ask for what this version lacks.
    pub fn judge(&self) -> Result<&[(&'static str, &'static str)], Failure> {
        if self.refused.is_empty() {
            return Ok(&self.without_effect);
        }
        let told: Vec<_> = (self.refused.iter())
            .map(|(name, service)| format!("{name} belongs to {service}"))
            .collect();
        let failure = Failure::usage(format!("{}, which this version lacks", told.join("; ")));
        Err(failure.hint("leave it out: the router works without"))
    }
}

impl FromArgMatches for Foreign {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut foreign = Self::default();
        for flag in FLAGS {
            // What is empty or switched off asks for nothing.
            let given = matches
                .get_many::<String>(flag.name)
                .is_some_and(|mut values| values.any(|value| !is_off(value)));
            let name = shown(flag);
            match flag.fate {
                NoEffect(why) if given => foreign.without_effect.push((name, why)),
                Refused(service) if given => foreign.refused.push((name, service)),
                _ => {}
            }
        }
        Ok(foreign)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Foreign {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn arg(flag: &'static Flag) -> Arg {
    let (heading, help) = match flag.fate {
        NoEffect(why) => ("Accepted without effect", why.to_owned()),
        Refused(service) => ("Refused by this version", format!("belongs to {service}")),
    };
    let arg = Arg::new(flag.name)
        .help(help)
        .help_heading(heading)
        .hide_short_help(true)
        .action(ArgAction::Append)
        .value_name("VALUE");
    // The original had one flag without a long name.
    let arg = if flag.name == "proxy-endpoint" {
        arg.short('H')
    } else {
        arg.long(flag.name).aliases(flag.aliases)
    };
    if flag.value {
        arg
    } else {
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
    }
}

/// As the user writes it.
fn shown(flag: &Flag) -> &'static str {
    if flag.name == "proxy-endpoint" {
        "-H"
    } else {
        flag.name
    }
}

fn is_off(value: &str) -> bool {
    super::go_bool(value) == Ok(false) || value.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Foreign {
        let command = <Foreign as clap::Args>::augment_args(Command::new("launch"));
        let matches = command
            .try_get_matches_from([&["launch"], args].concat())
            .unwrap();
        Foreign::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn what_asks_for_nothing_is_silent() {
        let quiet = [
            "--docker-api=",
            "--proxy=false",
            "--plugin=f",
            "--tls=0",
            "--token",
            "",
        ];
        assert_eq!(parse(&quiet), Foreign::default());
    }

    #[test]
    fn services_that_are_missing_are_refused_by_name() {
        let foreign = parse(&[
            "--proxy",
            "-H",
            "tcp://:12375",
            "--plugin-socket",
            "/x",
            "--no-fastdp",
        ]);
        let failure = foreign.judge().unwrap_err();
        let told = format!("{failure:?}");
        for part in [
            "proxy belongs to the Docker proxy",
            "-H belongs",
            "plugin-socket belongs",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert!(!told.contains("fastdp"));
    }

    #[test]
    fn harmless_ones_are_noted() {
        let foreign = parse(&["--no-fastdp", "--api", "unix:///x", "--bufsz=8"]);
        let names: Vec<_> = foreign
            .judge()
            .unwrap()
            .iter()
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(names, ["bufsz", "docker-api", "no-fastdp"]);
    }
}
