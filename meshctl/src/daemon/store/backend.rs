//! The file below redb, which nothing is written to before somebody changes the state.
//!
//! redb writes to a file while it opens it, checks it and closes it: that it is in use, repairs,
//! tables of its own. Some damage it finds only after that, and the file is no longer what it was.
//! So all of this is held back in memory, and redb reads the file as if it were written. At the
//! first change of the state it is written, in the same order and with the same syncs, so that a
//! kill at any moment leaves what redb reckons with. Without a change it is forgotten.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// A state file. Clones share it.
#[derive(Clone)]
pub struct Backend(Arc<Shared>);

struct Shared {
    file: FileBackend,
    /// What is yet to be written; none once everything is written at once.
    held: RwLock<Option<Held>>,
}

/// Changes of the file, the oldest first.
#[derive(Default)]
struct Held(VecDeque<Change>);

enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

impl Backend {
    /// Holds back what is written to `file`, unless it is empty.
    pub fn new(file: File) -> Result<Self, DatabaseError> {
        let file = FileBackend::new(file)?;
        let held = (file.len()? > 0).then(Held::default);
        Ok(Self(Arc::new(Shared {
            file,
            held: RwLock::new(held),
        })))
    }

    /// Writes what was held back, and from now on everything at once. After a failure the rest is
    /// still held back.
    pub fn release(&self) -> io::Result<()> {
        if self.held().is_none() {
            return Ok(());
        }
        let mut held = (self.0.held.write()).unwrap_or_else(PoisonError::into_inner);
        if let Some(Held(changes)) = &mut *held {
            while let Some(change) = changes.front() {
                change.apply(&self.0.file)?;
                changes.pop_front();
            }
        }
        *held = None;
        Ok(())
    }

    /// Writes the first of what is held back, and tells whether there was any.
    #[cfg(test)]
    pub(super) fn release_one(&self) -> bool {
        let mut held = self.0.held.write().unwrap();
        let change = held.as_mut().and_then(|Held(changes)| changes.pop_front());
        change.is_some_and(|change| change.apply(&self.0.file).is_ok())
    }

    fn held(&self) -> RwLockReadGuard<'_, Option<Held>> {
        (self.0.held.read()).unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a change back, if it has to be.
    fn hold(&self, change: impl FnOnce() -> Change) -> bool {
        if self.held().is_none() {
            return false;
        }
        let mut held = (self.0.held.write()).unwrap_or_else(PoisonError::into_inner);
        if let Some(Held(changes)) = &mut *held {
            changes.push_back(change());
        }
        held.is_some()
    }
}

impl Change {
    fn apply(&self, file: &FileBackend) -> io::Result<()> {
        match self {
            Self::Write(offset, data) => file.write(*offset, data),
            Self::SetLen(len) => file.set_len(*len),
            Self::Sync => file.sync_data(),
        }
    }
}

impl Held {
    /// The length that the file would have.
    fn len(&self, file: &FileBackend) -> io::Result<u64> {
        Ok(self.0.iter().fold(file.len()?, |len, change| match change {
            Change::Write(offset, data) => len.max(offset.saturating_add(data.len() as u64)),
            Change::SetLen(len) => *len,
            Change::Sync => len,
        }))
    }

    /// Reads what the file would have.
    fn read(&self, file: &FileBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(out.len() as u64);
        if end > self.len(file)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (there, beyond) = out.split_at_mut(within(out.len(), offset, file.len()?));
        file.read(offset, there)?;
        beyond.fill(0);
        for change in &self.0 {
            match change {
                Change::Write(at, data) => {
                    let (begin, skipped) = if *at >= offset {
                        (within(out.len(), offset, *at), 0)
                    } else {
                        (0, within(data.len(), *at, offset))
                    };
                    let data = data.iter().skip(skipped);
                    for (byte, new) in out.iter_mut().skip(begin).zip(data) {
                        *byte = *new;
                    }
                }
                Change::SetLen(len) => {
                    let left = within(out.len(), offset, *len);
                    out.iter_mut().skip(left).for_each(|byte| *byte = 0);
                }
                Change::Sync => {}
            }
        }
        Ok(())
    }
}

/// How many of `len` bytes from `begin` are before `end`.
fn within(len: usize, begin: u64, end: u64) -> usize {
    usize::try_from(end.saturating_sub(begin)).map_or(len, |before| before.min(len))
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held().as_ref().map(|held| held.0.len());
        f.debug_struct("Backend").field("held", &held).finish()
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        match &*self.held() {
            Some(held) => held.len(&self.0.file),
            None => self.0.file.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &*self.held() {
            Some(held) => held.read(&self.0.file, offset, out),
            None => self.0.file.read(offset, out),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.hold(|| Change::SetLen(len)) {
            return Ok(());
        }
        self.0.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.hold(|| Change::Sync) {
            return Ok(());
        }
        self.0.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        // Nothing written beyond the end of a file does not make it longer.
        if data.is_empty() || self.hold(|| Change::Write(offset, data.to_vec())) {
            return Ok(());
        }
        self.0.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.0.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn open(content: &[u8]) -> (tempfile::NamedTempFile, Backend) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        let backend = Backend::new(file.reopen().unwrap()).unwrap();
        (file, backend)
    }

    /// One change of the backend and of what it should be.
    fn change(rng: &mut StdRng, backend: &Backend, model: &mut Vec<u8>) {
        match rng.random_range(0..6) {
            0 => {
                let len = rng.random_range(1..300);
                backend.set_len(len as u64).unwrap();
                model.resize(len, 0);
            }
            1 => backend.sync_data().unwrap(),
            _ => {
                let at = rng.random_range(0..280_usize);
                let data = vec![rng.random(); rng.random_range(0..40)];
                backend.write(at as u64, &data).unwrap();
                if !data.is_empty() {
                    model.resize(model.len().max(at + data.len()), 0);
                    model[at..at + data.len()].copy_from_slice(&data);
                }
            }
        }
    }

    fn check(rng: &mut StdRng, backend: &Backend, model: &[u8]) {
        assert_eq!(backend.len().unwrap(), model.len() as u64);
        let begin = rng.random_range(0..=model.len());
        let end = rng.random_range(begin..=model.len());
        let mut read = vec![0xee; end - begin];
        backend.read(begin as u64, &mut read).unwrap();
        assert_eq!(read, model[begin..end]);
        let mut too_much = vec![0; model.len() - begin + 1];
        let error = backend.read(begin as u64, &mut too_much).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_held_back_is_read_and_comes_to_the_file_when_it_is_released() {
        for seed in 0..300 {
            println!("seed {seed}");
            let mut rng = StdRng::seed_from_u64(seed);
            let before = vec![0x77; rng.random_range(1..200)];
            let mut model = before.clone();
            let (file, backend) = open(&before);
            for _ in 0..rng.random_range(0..30) {
                change(&mut rng, &backend, &mut model);
                check(&mut rng, &backend, &model);
            }
            assert_eq!(fs::read(file.path()).unwrap(), before);
            backend.release().unwrap();
            assert_eq!(fs::read(file.path()).unwrap(), model);
            for _ in 0..5 {
                change(&mut rng, &backend, &mut model);
                check(&mut rng, &backend, &model);
                assert_eq!(fs::read(file.path()).unwrap(), model);
            }
        }
    }

    #[test]
    fn what_could_not_be_written_is_still_held_back() {
        let (file, _) = open(b"before");
        let backend = Backend::new(File::open(file.path()).unwrap()).unwrap();
        backend.sync_data().unwrap();
        backend.write(0, b"after!").unwrap();
        backend.release().unwrap_err();
        let mut read = [0; 6];
        backend.read(0, &mut read).unwrap();
        assert_eq!(read, *b"after!");
        assert_eq!(fs::read(file.path()).unwrap(), b"before");
    }

    #[test]
    fn an_empty_file_is_written_at_once() {
        let (file, backend) = open(b"");
        backend.write(0, b"x").unwrap();
        assert_eq!(fs::read(file.path()).unwrap(), b"x");
    }
}
