//! Verbs of older eras, which explain themselves.
//!
//! Weave 1.0 had separate containers for DNS and the proxy; Weave 2 dropped their verbs. Some verbs
//! of both belong to services that this version does not have. All are looked up before clap sees
//! the command line, so that their own flags do not matter.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use super::{Exit, Failure, argv};

/// What is said about a verb.
#[derive(Debug, Clone, Copy)]
enum Word {
    /// Nothing is left to do: success.
    Nothing(&'static str),
    /// It cannot be done, and this is what takes its place.
    Gone(&'static str),
    /// It belongs to a service that this version does not have yet.
    Later(&'static str),
}

const ATTACH: &str = "attaching containers";
const PROXY: &str = "the Docker proxy";

const WORDS: &[(&str, Word)] = &[
    (
        "setup",
        Word::Nothing("nothing to set up: meshctl is one program and needs no images"),
    ),
    (
        "launch-dns",
        Word::Nothing(
            "names are served by the daemon itself, unless it was launched with --no-dns",
        ),
    ),
    (
        "stop-dns",
        Word::Nothing("no DNS container runs beside meshctl"),
    ),
    ("launch-proxy", Word::Later(PROXY)),
    (
        "stop-proxy",
        Word::Nothing("no proxy container runs beside meshctl"),
    ),
    ("env", Word::Later(PROXY)),
    ("config", Word::Later(PROXY)),
    ("proxy-env", Word::Later(PROXY)),
    ("proxy-config", Word::Later(PROXY)),
    ("launch-plugin", Word::Later("the Docker plugin")),
    (
        "stop-plugin",
        Word::Nothing("no plugin container runs beside meshctl"),
    ),
    ("setup-cni", Word::Later("the CNI plugin")),
    (
        "launch-router",
        Word::Gone("the router is all of it: use \"launch\""),
    ),
    (
        "stop-router",
        Word::Gone("the router is all of it: use \"stop\""),
    ),
    (
        "run",
        Word::Gone("start the container with its runtime, then put it on the bridge"),
    ),
    (
        "start",
        Word::Gone("start the container with its runtime, then put it on the bridge"),
    ),
    (
        "restart",
        Word::Gone("restart the container with its runtime, then put it on the bridge"),
    ),
    ("attach", Word::Later(ATTACH)),
    ("detach", Word::Later(ATTACH)),
    ("attach-bridge", Word::Later(ATTACH)),
    ("ps", Word::Later(ATTACH)),
    ("expose", Word::Later("exposing the host")),
    ("hide", Word::Later("exposing the host")),
    (
        "bridge-type",
        Word::Gone("there is one type only: a Linux bridge with a TAP device"),
    ),
    ("docker-bridge-ip", Word::Later("the Docker integration")),
];

/// Answers a command line whose verb is one of the old ones.
pub fn explain(args: &[OsString]) -> Option<ExitCode> {
    let verb = args.get(argv::verb(args)?)?.to_str()?;
    let (_, word) = WORDS.iter().find(|(old, _)| *old == verb)?;
    Some(match word {
        Word::Nothing(text) => {
            let _ = writeln!(anstream::stderr().lock(), "{text}");
            Exit::Done.into()
        }
        Word::Gone(text) => {
            let message = format!("the verb \"{verb}\" has been removed, as in Weave Net 2.0");
            Failure::new(Exit::Failed, message).hint(text).report(false)
        }
        Word::Later(what) => {
            let message = format!("the verb \"{verb}\" needs {what}, which this version lacks");
            Failure::new(Exit::NotServed, message).report(false)
        }
    })
}
