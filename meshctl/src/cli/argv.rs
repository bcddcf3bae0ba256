//! Arguments as older programs took them.
//!
//! Weave 1.0 was written with Go's `flag` package, which reads `-iprange X` and `--iprange X` alike.
//! Here such arguments get their second dash before clap sees them; clap would take them for a
//! cluster of short flags.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{Command, CommandFactory as _};

use super::Cli;

/// `args`, the program's name first, with two dashes before each long flag that the verb knows.
/// Everything behind `--` and every value of a flag stays as it is.
pub fn rewrite(args: Vec<OsString>) -> Vec<OsString> {
    let cli = Cli::command();
    let mut known = flags(&cli);
    let global = known.clone();
    let mut in_verb = false;
    let mut rewritten = Vec::with_capacity(args.len());
    let mut args = args.into_iter();
    rewritten.extend(args.next());
    while let Some(arg) = args.next() {
        // Not a flag that we know, if it is not even UTF-8.
        let Some(text) = arg.to_str() else {
            rewritten.push(arg);
            continue;
        };
        if text == "--" {
            rewritten.push(arg);
            break;
        }
        let dashes = text.len() - text.trim_start_matches('-').len();
        if dashes == 0 {
            if !in_verb && let Some(verb) = cli.find_subcommand(text) {
                in_verb = true;
                known = flags(verb);
                known.extend(global.clone());
            }
            rewritten.push(arg);
            continue;
        }
        let (name, value) = match text.trim_start_matches('-').split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&text[dashes..], None),
        };
        // One letter is a short flag, whatever else is called so.
        let takes_value = match known.get(name) {
            Some(takes_value) if dashes <= 2 && name.chars().count() > 1 => *takes_value,
            _ => {
                rewritten.push(arg);
                continue;
            }
        };
        let separate = takes_value && value.is_none();
        rewritten.push(format!("--{}", &text[dashes..]).into());
        if separate {
            rewritten.extend(args.next());
        }
    }
    rewritten.extend(args);
    rewritten
}

/// Position of the verb in `args`, the program's name first. Long flags have two dashes already.
pub fn verb(args: &[OsString]) -> Option<usize> {
    let global = flags(&Cli::command());
    let mut args = args.iter().enumerate().skip(1);
    loop {
        let (position, arg) = args.next()?;
        let name = match arg.to_str() {
            Some("--") => return None,
            Some(text) => match text.strip_prefix("--") {
                Some(name) => name,
                None if text.starts_with('-') => continue,
                None => return Some(position),
            },
            None => return Some(position),
        };
        if global.get(name) == Some(&true) {
            args.next()?;
        }
    }
}

/// Long names and aliases of a command's flags, and whether each takes the next argument.
fn flags(command: &Command) -> BTreeMap<String, bool> {
    // clap adds this one late.
    let mut flags = BTreeMap::from([("help".to_owned(), false)]);
    for arg in command.get_arguments() {
        let takes_value = arg.get_action().takes_values() && !arg.is_require_equals_set();
        let names = arg.get_long_and_visible_aliases().unwrap_or_default();
        let aliases = arg.get_all_aliases().unwrap_or_default();
        for name in names.into_iter().chain(aliases) {
            flags.insert(name.to_owned(), takes_value);
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> String {
        let args = line.split(' ').map(OsString::from).collect();
        let args: Vec<_> = rewrite(args)
            .into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect();
        args.join(" ")
    }

    #[test]
    fn the_verb_is_not_the_value_of_a_flag() {
        for (line, position) in [
            ("m launch host", Some(1)),
            ("m --http-addr launch stop", Some(3)),
            ("m --http-addr=x --local --json launch", Some(4)),
            ("m -h launch", Some(2)),
            ("m --http-addr", None),
            ("m -- launch", None),
            ("m", None),
        ] {
            let args: Vec<_> = line.split(' ').map(OsString::from).collect();
            assert_eq!(verb(&args), position, "{line}");
        }
    }

    #[test]
    fn classic_lines_get_their_dashes() {
        for (given, expected) in [
            (
                "weave launch -iprange 10.2.0.1/16 -initpeercount=5 host",
                "weave launch --iprange 10.2.0.1/16 --initpeercount=5 host",
            ),
            (
                "weave --local launch -nodiscovery -connlimit 5",
                "weave --local launch --nodiscovery --connlimit 5",
            ),
            ("weave -local launch", "weave --local launch"),
            // The value of a flag is nobody's flag.
            (
                "weave launch -nickname -name h",
                "weave launch --nickname -name h",
            ),
            (
                "weave launch --nickname -name h",
                "weave launch --nickname -name h",
            ),
            (
                "weave launch -no-dns=false -resume h",
                "weave launch --no-dns=false --resume h",
            ),
            // Another verb's flags, short flags and unknown ones are left alone.
            ("weave connect -iprange", "weave connect -iprange"),
            ("weave report -f x -json", "weave report -f x --json"),
            ("weave launch -H tcp://x -x", "weave launch -H tcp://x -x"),
            ("weave launch -- -iprange", "weave launch -- -iprange"),
            ("weave launch ---iprange", "weave launch ---iprange"),
            ("weave", "weave"),
        ] {
            assert_eq!(rewritten(given), expected);
        }
    }
}
