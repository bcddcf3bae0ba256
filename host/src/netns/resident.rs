//! A program that runs inside a network namespace, tied to the life of this process.
//!
//! A thread of its own enters the namespace, starts the child, and waits for it. The kernel kills
//! the child should that thread end first, which happens only when this whole process dies, however
//! it dies. So nothing outlives its owner.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{
    Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{Error, Netns};

/// A child process in a namespace. Dropping it kills the child and waits for its end.
#[derive(Debug)]
pub struct Resident {
    /// The child's standard input, where the command asked for a pipe.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, likewise.
    pub stdout: Option<ChildStdout>,
    /// Its standard error, likewise.
    pub stderr: Option<ChildStderr>,
    pid: u32,
    /// Names the child even after its number was given to another process.
    pidfd: OwnedFd,
    ended: Arc<Ended>,
}

/// How the child ended, once it did.
#[derive(Debug, Default)]
struct Ended {
    status: Mutex<Option<io::Result<ExitStatus>>>,
    changed: Condvar,
}

impl Ended {
    fn status(&self) -> MutexGuard<'_, Option<io::Result<ExitStatus>>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the keeper thread hands over once the child runs.
struct Started {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    pid: u32,
    pidfd: OwnedFd,
}

impl Netns {
    /// Starts `command` inside the namespace, with a `/sys` that shows it.
    ///
    /// # Errors
    ///
    /// As [`Netns::enter`], and when the program cannot be started.
    pub fn spawn(&self, command: Command) -> Result<Resident, Error> {
        let failed = |source| Error {
            name: self.name.clone(),
            step: "run a program in it",
            source,
        };
        let inside = self.handle()?;
        let ended = Arc::new(Ended::default());
        let (started, starting) = mpsc::channel();
        let keeper = {
            let ended = Arc::clone(&ended);
            move || keep(&inside, command, &ended, &started)
        };
        let name = format!("keep {}", self.name);
        // Detached: it ends with the child, and `Resident` sees to the child's end.
        thread::Builder::new()
            .name(name)
            .spawn(keeper)
            .map_err(failed)?;
        let outcome = starting.recv().unwrap_or_else(|_| {
            // Only a panic of the thread drops the sender unused.
            Err(failed(io::Error::other(
                "the thread that starts it panicked",
            )))
        });
        let Started {
            stdin,
            stdout,
            stderr,
            pid,
            pidfd,
        } = outcome?;
        Ok(Resident {
            stdin,
            stdout,
            stderr,
            pid,
            pidfd,
            ended,
        })
    }
}

/// The life of the keeper thread: enter, start, tell, wait.
fn keep(
    netns: &Netns,
    mut command: Command,
    ended: &Ended,
    started: &mpsc::Sender<Result<Started, Error>>,
) {
    // SAFETY: the hook makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let failed = |source| Error {
        name: netns.name.clone(),
        step: "run a program in it",
        source,
    };
    let spawned = netns.enter().and_then(|()| {
        see_own_devices().map_err(failed)?;
        let mut child = command.spawn().map_err(failed)?;
        match pidfd(child.id()) {
            Ok(pidfd) => Ok((child, pidfd)),
            Err(error) => {
                // A child that nobody could stop later is stopped now.
                _ = child.kill();
                _ = child.wait();
                Err(failed(error))
            }
        }
    });
    let mut child = match spawned {
        Ok((mut child, pidfd)) => {
            let pid = child.id();
            let (stdin, stdout, stderr) =
                (child.stdin.take(), child.stdout.take(), child.stderr.take());
            // The receiver waits for exactly this.
            _ = started.send(Ok(Started {
                stdin,
                stdout,
                stderr,
                pid,
                pidfd,
            }));
            child
        }
        Err(error) => {
            _ = started.send(Err(error));
            return;
        }
    };
    let status = child.wait();
    *ended.status() = Some(status);
    ended.changed.notify_all();
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Gives the calling thread a mount namespace whose `/sys` shows the devices of its network
/// namespace. Where the mount is refused (some containers), `/sys` stays that of the caller.
fn see_own_devices() -> io::Result<()> {
    // SAFETY: only mounts are unshared (and with them root and working directory), no descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    if let Err(error) = mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None) {
        tracing::debug!(%error, "cannot mount /sys for the network namespace");
    }
    Ok(())
}

impl Resident {
    /// Process id of the child.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends the child a signal; one that has ended is left alone.
    pub fn signal(&self, signal: Signal) {
        // The only failure that a live pidfd allows is that its process is gone.
        _ = pidfd_send_signal(self.pidfd.as_fd(), signal);
    }

    /// How the child ended, if it did.
    pub fn try_wait(&self) -> Option<ExitStatus> {
        self.wait_timeout(Duration::ZERO)
    }

    /// Waits for the child's end, for so long at most.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<ExitStatus> {
        let waited =
            self.ended
                .changed
                .wait_timeout_while(self.ended.status(), timeout, |status| status.is_none());
        let (status, _) = waited.unwrap_or_else(PoisonError::into_inner);
        // A wait can fail only for a child that another part of the process has waited for.
        status
            .as_ref()
            .map(|status| status.as_ref().copied().unwrap_or_default())
    }

    /// Asks the child to end (TERM), and kills it when it has not after `grace`.
    pub fn stop(&self, grace: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        if let Some(status) = self.wait_timeout(grace) {
            return status;
        }
        self.kill()
    }

    /// Kills the child and waits for its end.
    pub fn kill(&self) -> ExitStatus {
        self.signal(Signal::KILL);
        loop {
            // A killed process ends unless the kernel holds it; there is nothing better to do.
            if let Some(status) = self.wait_timeout(Duration::from_secs(1)) {
                return status;
            }
        }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            self.kill();
        }
    }
}
