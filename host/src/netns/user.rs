//! User namespaces: root's rights over fresh namespaces, for a user who has none.
//!
//! A process with several threads cannot move itself, so a program starts itself anew, and the move
//! happens in the child between fork and exec.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags, mkdir, open};
use rustix::mount::{MountFlags, mount};
use rustix::process::{getgid, getuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Makes the command run as root of a new user namespace, with new network and mount namespaces
/// that belong to it. There `/run` is empty and its own, so [`super::Netns::create`] works as it
/// does for root, and everything is gone when the last process inside ends.
///
/// Starting the command fails with `PermissionDenied` where the administrator forbids user
/// namespaces.
pub fn enter_on_exec(command: &mut Command) -> &mut Command {
    let maps = Maps::of_caller();
    // SAFETY: the hook makes system calls only; what it writes was laid out beforehand.
    unsafe { command.pre_exec(move || enter(&maps)) }
}

/// Contents of the files that map the caller to root.
struct Maps {
    uid: String,
    gid: String,
}

impl Maps {
    fn of_caller() -> Self {
        Self {
            uid: format!("0 {} 1", getuid().as_raw()),
            gid: format!("0 {} 1", getgid().as_raw()),
        }
    }
}

/// Runs between fork and exec: system calls only, nothing allocated.
fn enter(maps: &Maps) -> io::Result<()> {
    // SAFETY: no file descriptors are unshared, and the forked child has one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWNET) }?;
    // The group map of an unprivileged user is taken only once setgroups is out of reach.
    write(c"/proc/self/setgroups", "deny")?;
    write(c"/proc/self/uid_map", &maps.uid)?;
    write(c"/proc/self/gid_map", &maps.gid)?;
    mount(c"tmpfs", c"/run", c"tmpfs", MountFlags::empty(), None)?;
    mkdir(c"/run/netns", Mode::from_raw_mode(0o755))?;
    Ok(())
}

fn write(path: &std::ffi::CStr, text: &str) -> io::Result<()> {
    let file = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, text.as_bytes())?;
    Ok(())
}
