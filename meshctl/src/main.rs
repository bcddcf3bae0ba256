//! meshctl: the daemon that takes the place of the weave container, and the program that talks to
//! it.
//!
//! * [`cli`] has one file per verb; [`client`] calls the daemon's control API for them.
//! * [`daemon`] is what `launch` runs: it wires the router to the host, keeps the state, and serves
//!   the API.
//! * [`report`] is what the daemon tells about itself; [`text`] turns it into the original's words.
//! * [`weave_file`] reads and writes the state file of Weave Net.
//! * [`host_routes`] tells what of the host a range of addresses would be in the way of.
//! * [`resolve`] asks a name server.
//! * [`secret`] takes the password out of sight before anything else happens.

#![expect(unreachable_pub, reason = "a program is not used as a library")]

mod address;
mod cli;
mod client;
mod daemon;
mod form;
mod host_routes;
mod report;
mod resolve;
mod secret;
mod text;
mod time;
mod weave_file;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = cli::argv::rewrite(std::env::args_os().collect());
    cli::run(args)
}
