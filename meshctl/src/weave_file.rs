//! The state file of Weave Net on disk: `weavedb` with a file under it.
//!
//! Whoever has the file open holds a lock on it (`flock`): a Weave that runs, for writing; we, for
//! as long as it takes to read it. It is never changed: a new one takes the place of an old one,
//! which stays beside it under another name.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;
use weavedb::State;
use weavedb::bolt::PageLen;

/// A full /12 of addresses has less.
const MAX_LEN: u64 = 1 << 30;
/// As the original makes it.
const MODE: u32 = 0o660;

/// Why a state file of Weave cannot be read or written. It is as it was.
#[derive(Debug, Error)]
pub enum Error {
    /// It cannot be opened or read.
    #[error(
        "cannot read Weave Net's state file {}: {source}; name another one with --weave-db FILE, or \
         none with --weave-db none", path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Weave runs.
    #[error(
        "Weave Net's state file {} is in use: Weave runs on this host, and only one of the two \
         may; end it with \"weave stop\"", .0.display()
    )]
    InUse(PathBuf),
    /// Its content makes no sense.
    #[error(
        "Weave Net's state file {} {source}; put a sound copy in its place and name it with \
         --weave-db FILE. --weave-db none begins without it: then addresses that containers of \
         this host have may be given out a second time", path.display()
    )]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: weavedb::Error,
    },
    /// It is longer than any such file.
    #[error("{} is too long for a state file of Weave Net", .0.display())]
    TooLong(PathBuf),
    /// There is one already.
    #[error(
        "{} is there already; with --force it is put aside, under a name that ends in .old",
        .0.display()
    )]
    Exists(PathBuf),
    /// It cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The state does not fit the format.
    #[error("cannot write {}: {source}", path.display())]
    TooBig {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: weavedb::bolt::TooBig,
    },
}

impl Error {
    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a state file.
pub fn read(path: &Path) -> Result<State, Error> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    lock(path, &file, FlockOperation::NonBlockingLockShared).map_err(|error| match error {
        Error::Write { path, source } => Error::Read { path, source },
        error => error,
    })?;
    let mut content = Vec::new();
    (&file)
        .take(MAX_LEN + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    if content.len() as u64 > MAX_LEN {
        return Err(Error::TooLong(path.to_owned()));
    }
    State::decode(&content).map_err(|source| Error::Bad {
        path: path.to_owned(),
        source,
    })
}

/// Writes a state file; where there is one, only if it may be `replace`d. Returns where that one
/// is now. On disk when it returns, and at any time there is the old one or the new one.
pub fn write(path: &Path, state: &State, replace: bool) -> Result<Option<PathBuf>, Error> {
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let page_len = PageLen::new(rustix::param::page_size()).unwrap_or(PageLen::USUAL);
    let content = state.encode(page_len).map_err(|source| Error::TooBig {
        path: path.to_owned(),
        source,
    })?;
    // Held to the end.
    let _old = match File::open(path) {
        Ok(_) if !replace => return Err(Error::Exists(path.to_owned())),
        Ok(old) => {
            lock(path, &old, FlockOperation::NonBlockingLockExclusive)?;
            Some(old)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory).map_err(failed)?;
    let new = with_ending(path, ".new");
    let put = || {
        let mut file = File::create(&new)?;
        file.set_permissions(Permissions::from_mode(MODE))?;
        file.write_all(&content)?;
        file.sync_all()?;
        let aside = if _old.is_some() {
            Some(second_name(path)?)
        } else {
            None
        };
        fs::rename(&new, path)?;
        File::open(directory)?.sync_all()?;
        Ok(aside)
    };
    put().map_err(|error| {
        // Whether it is there or not, the error is what matters.
        let _ = fs::remove_file(&new);
        failed(error)
    })
}

/// Gives the file another name, unless it is in use. Returns that.
pub fn set_aside(path: &Path) -> Result<PathBuf, Error> {
    let moved = || {
        let file = File::open(path)?;
        let aside = second_name(path)?;
        Ok((file, aside))
    };
    let failed = |source| Error::Write {
        path: path.to_owned(),
        source,
    };
    let (file, aside) = moved().map_err(failed)?;
    let removed = match lock(path, &file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => fs::remove_file(path).map_err(failed),
        Err(error) => Err(error),
    };
    if removed.is_err() {
        // Either way the error is what matters.
        let _ = fs::remove_file(&aside);
    }
    removed.map(|()| aside)
}

/// Gives the file a second name, the first that is free of `.old`, `.old1` and so on.
fn second_name(path: &Path) -> io::Result<PathBuf> {
    let mut aside = with_ending(path, ".old");
    for number in 1..100 {
        match fs::hard_link(path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                aside = with_ending(path, &format!(".old{number}"));
            }
            done => return done.map(|()| aside),
        }
    }
    Err(io::Error::other(format!(
        "too many old ones are there; remove some, such as {}",
        aside.display()
    )))
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

fn lock(path: &Path, file: &File, how: FlockOperation) -> Result<(), Error> {
    flock(file, how).map_err(|error| {
        if error == rustix::io::Errno::WOULDBLOCK {
            return Error::InUse(path.to_owned());
        }
        Error::Write {
            path: path.to_owned(),
            source: error.into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(peer: &str) -> State {
        State {
            direct_peers: vec![peer.to_owned()],
            transaction: 1,
            ..State::default()
        }
    }

    #[test]
    fn a_new_one_leaves_the_old_one_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/weavedata.db");
        assert!(read(&path).unwrap_err().is_missing());
        assert_eq!(write(&path, &state("a"), false).unwrap(), None);
        assert_eq!(read(&path).unwrap(), state("a"));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, MODE);
        let error = write(&path, &state("b"), false).unwrap_err();
        assert!(matches!(error, Error::Exists(_)));
        for (peer, aside) in [
            ("b", "new/weavedata.db.old"),
            ("c", "new/weavedata.db.old1"),
        ] {
            let aside = directory.path().join(aside);
            let before = read(&path).unwrap();
            assert_eq!(
                write(&path, &state(peer), true).unwrap().as_ref(),
                Some(&aside)
            );
            assert_eq!(read(&aside).unwrap(), before);
            assert_eq!(read(&path).unwrap(), state(peer));
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 3);
    }

    #[test]
    fn one_in_use_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weavedata.db");
        write(&path, &state("a"), false).unwrap();
        let held = File::open(&path).unwrap();
        flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(matches!(read(&path), Err(Error::InUse(_))));
        assert!(matches!(
            write(&path, &state("b"), true),
            Err(Error::InUse(_))
        ));
        drop(held);
        assert_eq!(read(&path).unwrap(), state("a"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let aside = set_aside(&path).unwrap();
        assert_eq!(read(&aside).unwrap(), state("a"));
        assert!(!path.exists());
    }

    #[test]
    fn damage_is_told_with_a_mend() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weavedata.db");
        for (content, part) in [(&b""[..], "is empty"), (b"redb", "is not a bolt database")] {
            fs::write(&path, content).unwrap();
            let told = read(&path).unwrap_err().to_string();
            assert!(
                told.contains(part) && told.contains("--weave-db none"),
                "{told}"
            );
            assert!(told.contains(path.to_str().unwrap()), "{told}");
        }
        assert!(matches!(read(directory.path()), Err(Error::Read { .. })));
    }
}
