//! Network namespaces: make them, act inside them, run programs in them.
//!
//! A namespace is made by a short-lived thread that unshares its network and binds
//! `/proc/thread-self/ns/net` to a file in `/run/netns`, where `ip netns` looks too. Nothing is
//! forked for it, and no thread of a runtime ever changes its namespace: entering one is for good,
//! so it is left to threads that end with the task they were started for.
//!
//! A named namespace that [`Netns::create`] made goes away with the value, also when its owner
//! panics. What a killed process leaves behind, [`remove_stale`] finds by the process id in the
//! name.
//!
//! Programs are started by [`Netns::spawn`], see [`Resident`]; a user without root gets the
//! right to all this through [`user::enter_on_exec`].

#![expect(
    unsafe_code,
    reason = "unsharing, and hooks between fork and exec, have no safe form"
)]

mod resident;
pub mod user;

#[cfg(test)]
pub(crate) mod tests;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

pub use resident::Resident;
pub use rustix::process::Signal;

/// Where named namespaces live.
const DIRECTORY: &str = "/run/netns";

/// The calling thread's network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// A step on the way to or in a namespace that failed. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[error("network namespace {name}: cannot {step}: {source}")]
pub struct Error {
    /// Name of the namespace.
    name: String,
    /// What was tried.
    step: &'static str,
    /// What the kernel said.
    source: io::Error,
}

impl Error {
    /// What the kernel said.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// A network namespace, held open.
#[derive(Debug)]
pub struct Netns {
    /// Name in `/run/netns`, or a description of an unnamed one.
    name: String,
    /// Keeps the namespace alive, named or not.
    fd: OwnedFd,
    /// Whether the name goes away with this value.
    owned: bool,
}

impl Netns {
    /// Makes a namespace with this name; it must not exist. The name is removed on drop.
    ///
    /// # Errors
    ///
    /// Without the rights (`CAP_SYS_ADMIN`), and when the name is taken.
    pub fn create(name: &str) -> Result<Self, Error> {
        let error = |step| {
            let name = name.to_owned();
            move |source: io::Error| Error { name, step, source }
        };
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            let invalid = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(error("use this name")(invalid));
        }
        prepare_directory().map_err(error("prepare /run/netns"))?;
        let path = path_of(name);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o000)
            .open(&path)
            .map_err(error("make its file"))?;
        let made = on_own_thread(|| -> io::Result<OwnedFd> {
            // SAFETY: only the network is unshared, no file descriptors.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            mount_bind(OWN, &path)?;
            Ok(File::open(OWN)?.into())
        });
        match made {
            Ok(fd) => Ok(Self {
                name: name.to_owned(),
                fd,
                owned: true,
            }),
            Err(source) => {
                remove(name);
                Err(error("make it")(source))
            }
        }
    }

    /// Opens the namespace with this name. Dropping the value leaves it as it is.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn open(name: &str) -> Result<Self, Error> {
        let opened = File::open(path_of(name));
        let fd = opened.map_err(|source| Error {
            name: name.to_owned(),
            step: "open it",
            source,
        })?;
        Ok(Self {
            name: name.to_owned(),
            fd: fd.into(),
            owned: false,
        })
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    ///
    /// When `/proc` is not mounted.
    pub fn current() -> Result<Self, Error> {
        let name = "(own)".to_owned();
        match File::open(OWN) {
            Ok(fd) => Ok(Self {
                name,
                fd: fd.into(),
                owned: false,
            }),
            Err(source) => Err(Error {
                name,
                step: "open it",
                source,
            }),
        }
    }

    /// Another handle on the same namespace, which does not own its name.
    ///
    /// # Errors
    ///
    /// When the process has too many open files.
    pub fn handle(&self) -> Result<Self, Error> {
        let error = |source| Error {
            name: self.name.clone(),
            step: "keep it open",
            source,
        };
        Ok(Self {
            name: self.name.clone(),
            fd: self.fd.try_clone().map_err(error)?,
            owned: false,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread into the namespace for the rest of its life. For threads that were
    /// started for one task; see [`Self::run`].
    ///
    /// # Errors
    ///
    /// Without the rights (`CAP_SYS_ADMIN`).
    pub fn enter(&self) -> Result<(), Error> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network)).map_err(
            |source| Error {
                name: self.name.clone(),
                step: "enter it",
                source: source.into(),
            },
        )
    }

    /// Runs `task` inside the namespace, on a thread of its own, and waits for its result. Sockets
    /// that it opens stay in the namespace wherever they are used later. A panic of the task goes
    /// on in the caller.
    ///
    /// # Errors
    ///
    /// As [`Self::enter`].
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_own_thread(|| {
            self.enter()?;
            Ok(task())
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.owned {
            remove(&self.name);
        }
    }
}

/// A name for a namespace of this process, such as `lab-4711-h1`, that [`remove_stale`] knows again.
pub fn name_for(tag: &str, rest: &str) -> String {
    format!("{tag}-{}-{rest}", std::process::id())
}

/// Removes the namespaces named by [`name_for`] with this tag whose process is gone, and returns
/// their names.
pub fn remove_stale(tag: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let stale = names.filter(|name| owner(tag, name).is_some_and(|pid| !is_alive(pid)));
    stale.inspect(|name| remove(name)).collect()
}

/// Process id in a name that was made by [`name_for`] with this tag.
fn owner(tag: &str, name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix(tag)?.strip_prefix('-')?.split_once('-')?;
    pid.parse().ok()
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn path_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Takes the name away; the namespace ends with its last user. Nobody can be told of a failure.
fn remove(name: &str) {
    let path = path_of(name);
    if let Err(error) = unmount(&path, UnmountFlags::DETACH)
        && error != Errno::INVAL
    {
        tracing::debug!(name, %error, "cannot unmount the network namespace");
    }
    if let Err(error) = fs::remove_file(&path) {
        tracing::warn!(name, %error, "cannot remove the network namespace");
    }
}

/// Makes `/run/netns` a mount of its own that other mount namespaces share, as `ip netns` does, so
/// that both see each other's names. Where that is refused, names are private to this mount
/// namespace, which harms nobody.
fn prepare_directory() -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    // The lock that `ip netns add` takes: two of us must not mount it on top of itself twice.
    let lock = File::open(DIRECTORY)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let share = || {
        mount_change(
            DIRECTORY,
            MountPropagationFlags::SHARED | MountPropagationFlags::REC,
        )
    };
    let shared = match share() {
        Err(Errno::INVAL) => mount_bind_recursive(DIRECTORY, DIRECTORY).and_then(|()| share()),
        other => other,
    };
    if let Err(error) = shared {
        tracing::debug!(%error, "{DIRECTORY} is not shared with other mount namespaces");
    }
    Ok(())
}

/// Runs `task` on a fresh thread and waits for it.
fn on_own_thread<T: Send>(task: impl FnOnce() -> T + Send) -> T {
    let outcome = thread::scope(|scope| scope.spawn(task).join());
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}
