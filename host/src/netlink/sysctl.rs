//! Settings of a device that live under `/proc/sys/net`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

/// ARP entries are doubted after this many seconds: containers move between hosts.
const BASE_REACHABLE_TIME: &str = "5";
/// A doubted entry is probed after this many seconds.
const DELAY_FIRST_PROBE_TIME: &str = "2";
/// This many unicast probes, then the entry is asked for anew.
const UCAST_SOLICIT: &str = "1";

pub(super) fn tune(device: &str) -> io::Result<()> {
    let neighbours = ["net", "ipv4", "neigh", device];
    write(&neighbours, "base_reachable_time", BASE_REACHABLE_TIME)?;
    write(
        &neighbours,
        "delay_first_probe_time",
        DELAY_FIRST_PROBE_TIME,
    )?;
    write(&neighbours, "ucast_solicit", UCAST_SOLICIT)?;
    match write(&["net", "ipv6", "conf", device], "accept_ra", "0") {
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn write(directory: &[&str], name: &str, value: &str) -> io::Result<()> {
    let mut path = PathBuf::from("/proc/sys");
    path.extend(directory);
    path.push(name);
    let done = OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(value.as_bytes()));
    done.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("writing {value} to {}: {error}", path.display()),
        )
    })
}
