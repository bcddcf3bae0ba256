//! Options of the last launch, for `--resume`.
//!
//! What the user gave on the command line is stored as text, in the form `--name=value`, and read
//! again in front of what is given then, so that the newer word counts. Passwords, tokens and what
//! concerns one start only are never stored, nor is what came from the environment.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _};

use super::Cli;

/// Flags that are not stored, by name.
const FORGOTTEN: [&str; 11] = [
    "db_prefix",
    "local",
    "password",
    "password_fd",
    "peers",
    "print_peer_name",
    "proxy-endpoint",
    "resume",
    "token",
    "version",
    "weave_db",
];

/// The flags of `launch` on the command line behind `matches`, in the form in which they are
/// stored.
pub fn given(matches: &ArgMatches) -> Vec<String> {
    let mut given = Vec::new();
    let cli = Cli::command();
    let Some((verb, matches)) = matches.subcommand() else {
        return given;
    };
    let Some(command) = cli.find_subcommand(verb) else {
        return given;
    };
    for arg in cli.get_arguments().chain(command.get_arguments()) {
        let id = arg.get_id().as_str();
        let Some(long) = arg.get_long().filter(|_| !FORGOTTEN.contains(&id)) else {
            continue;
        };
        if !matches!(matches.value_source(id), Some(ValueSource::CommandLine)) {
            continue;
        }
        if !arg.get_action().takes_values() {
            if matches.get_flag(id) {
                given.push(format!("--{long}"));
            }
            continue;
        }
        let values: Vec<_> = matches
            .get_raw(id)
            .into_iter()
            .flatten()
            .map(|value| value.to_string_lossy().into_owned())
            .collect();
        match arg.get_value_delimiter() {
            Some(delimiter) => {
                given.push(format!("--{long}={}", values.join(&delimiter.to_string())));
            }
            None => given.extend(values.iter().map(|value| format!("--{long}={value}"))),
        }
    }
    given
}

/// The command line `args` with the `stored` options right behind the verb.
pub fn resumed(args: &[OsString], stored: &[String]) -> Vec<OsString> {
    let mut resumed = args.to_vec();
    if let Some(verb) = crate::cli::argv::verb(args) {
        let stored = stored.iter().map(OsString::from);
        resumed.splice(verb + 1..verb + 1, stored);
    }
    resumed
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches as _;

    fn parse(line: &str) -> (ArgMatches, crate::cli::launch::LaunchArgs) {
        let args = line.split(' ').map(OsString::from).collect();
        let args = crate::cli::argv::rewrite(args);
        let matches = Cli::command().try_get_matches_from(args).unwrap();
        let cli = Cli::from_arg_matches(&matches).unwrap();
        let crate::cli::Verb::Launch(launch) = cli.verb else {
            panic!("not launch");
        };
        (matches, *launch)
    }

    #[test]
    fn what_was_given_comes_back() {
        let (matches, _) = parse(
            "m --http-addr=127.0.0.1:1 launch -nodiscovery -connlimit 5 --no-fastdp -port 7000 \
             --trusted-subnets 10.0.0.0/8,192.168.0.0/16 --password-fd=9 --token t --json \
             --resume=false host",
        );
        let stored = given(&matches);
        let mut sorted = stored.clone();
        sorted.sort();
        assert_eq!(
            sorted,
            [
                "--conn-limit=5",
                "--http-addr=127.0.0.1:1",
                "--json",
                "--no-discovery=true",
                "--no-fastdp=true",
                "--port=7000",
                "--trusted-subnets=10.0.0.0/8,192.168.0.0/16",
            ]
        );
        let args: Vec<_> = ["m", "launch", "--resume", "--conn-limit=6"]
            .map(OsString::from)
            .into();
        let args = resumed(&args, &stored);
        let matches = Cli::command().try_get_matches_from(args).unwrap();
        let cli = Cli::from_arg_matches(&matches).unwrap();
        let crate::cli::Verb::Launch(launch) = cli.verb else {
            panic!("not launch");
        };
        assert!(launch.no_discovery && launch.resume);
        assert_eq!((launch.conn_limit, launch.port), (6, 7000));
        assert_eq!(launch.trusted_subnets.len(), 2);
        assert_eq!(cli.global.http_addr.to_string(), "127.0.0.1:1");
    }
}
