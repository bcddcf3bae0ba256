use std::fs;

use ipam::allocator::Init;
use ipam::wire::persist::Owned;

use super::*;
use crate::daemon::store::StoredIdentity;

const ORIGINAL: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/vectors/weave-data.db"
);

/// A host with directories of its own.
struct Host {
    root: tempfile::TempDir,
    sources: Sources,
    allocation: Option<Allocation>,
    peers: Peers,
    bridge: Option<PeerName>,
}

fn name(text: &str) -> PeerName {
    text.parse().unwrap()
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let range = "10.32.0.0/16".parse().unwrap();
        Self {
            sources: Sources {
                name: None,
                bridge: None,
                weave_db: WeaveDb::Usual,
                db_prefix: root.path().join("state/"),
                host_root: root.path().to_owned(),
            },
            allocation: Some(Allocation {
                range,
                is_default: false,
                default_subnet: range,
                init: Init::Consensus(None),
            }),
            peers: Peers::Given(texts(&["192.0.2.1", "192.0.2.9"])),
            bridge: None,
            root,
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// Puts the original's file there.
    fn put(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(ORIGINAL, &path).unwrap();
        path
    }

    fn store(&self) -> Store {
        Store::open(&self.sources.db_prefix).unwrap()
    }

    fn launch(&self) -> Result<Store, MigrateError> {
        let store = self.store();
        let import = Import {
            sources: &self.sources,
            allocation: self.allocation.as_ref(),
            peers: &self.peers,
            store: &store,
            bridge: self.bridge,
        };
        import.run()?;
        Ok(store)
    }

    fn export(&self, path: Option<&Path>, replace: bool) -> Result<Exported, MigrateError> {
        export(&self.sources.db_prefix, path, replace)
    }

    #[track_caller]
    fn refused(&self) -> String {
        let error = self.launch().map(drop).unwrap_err().to_string();
        let store = self.store();
        assert_eq!(store.weave().unwrap(), None, "{error}");
        assert_eq!(allocation::saved(&store).unwrap(), None, "{error}");
        error
    }
}

fn replace(store: &Store, saved: &Saved) {
    store
        .write(|transaction| allocation::replace(transaction, saved))
        .unwrap();
}

/// Has the original, which is not here, change something in its file.
fn weave_runs(path: &Path, change: impl FnOnce(&mut State)) {
    let mut state = weave_file::read(path).unwrap();
    state.transaction += 1;
    change(&mut state);
    weave_file::write(path, &state, true).unwrap();
}

#[test]
fn a_new_host_takes_everything_over() {
    let host = Host::new();
    let path = host.put("weavedb/weavedata.db");
    let before = fs::read(&path).unwrap();
    let theirs = weave_file::read(&path).unwrap();
    let store = host.launch().unwrap();
    assert_eq!(store.identity().unwrap().unwrap().name, name("2::a"));
    let saved = allocation::saved(&store).unwrap().unwrap();
    assert_eq!(saved.name, name("2::a"));
    assert_eq!((&saved.ring, &saved.owned), (&theirs.ring, &theirs.owned));
    // This launch counts as a restart, so that nothing is lost of either list.
    assert_eq!(
        store.peers().unwrap(),
        StoredPeers {
            launched_with: texts(&["192.0.2.1", "192.0.2.9"]),
            targets: texts(&["192.0.2.1", "192.0.2.7:6799", "192.0.2.9"]),
            stopped: false,
        }
    );
    let record = store.weave().unwrap().unwrap();
    assert_eq!(record.path, path.display().to_string());
    assert_eq!(record.transaction, theirs.transaction);
    assert_eq!(fs::read(&path).unwrap(), before);
    drop(store);

    // Exactly once.
    let store = host.launch().unwrap();
    let mut changed = saved;
    changed.owned.clear();
    replace(&store, &changed);
    drop(store);
    let store = host.launch().unwrap();
    assert_eq!(allocation::saved(&store).unwrap(), Some(changed));
    drop(store);

    // The file may go.
    fs::remove_file(&path).unwrap();
    host.launch().unwrap();
}

#[test]
fn all_usual_places_are_found_but_none_is_guessed() {
    for place in USUAL.iter().copied().chain(["state/data.db"]) {
        let host = Host::new();
        host.put(place);
        let store = host.launch().unwrap();
        assert!(store.weave().unwrap().is_some(), "{place}");
    }
    let mut host = Host::new();
    let first = host.put(USUAL[0]);
    host.put(USUAL[2]);
    let told = host.refused();
    assert!(
        told.contains("several") && told.contains("--weave-db"),
        "{told}"
    );
    host.sources.weave_db = WeaveDb::File(first.clone());
    host.launch().unwrap();
    // Two names of one file.
    let host = Host::new();
    let path = host.put(USUAL[0]);
    fs::create_dir_all(host.path("var/lib/weave")).unwrap();
    std::os::unix::fs::symlink(path, host.path(USUAL[2])).unwrap();
    host.launch().unwrap();
}

#[test]
fn none_is_none() {
    let mut host = Host::new();
    assert_eq!(host.launch().unwrap().weave().unwrap(), None);
    host.put(USUAL[0]);
    host.sources.weave_db = WeaveDb::None;
    let store = host.launch().unwrap();
    assert_eq!(store.weave().unwrap(), None);
    assert_eq!(store.identity().unwrap(), None);
    drop(store);
    host.sources.weave_db = WeaveDb::File(host.path("missing"));
    let told = host.refused();
    assert!(
        told.contains("missing") && told.contains("No such file"),
        "{told}"
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let told = |change: fn(&mut Host)| {
        let mut host = Host::new();
        host.put(USUAL[0]);
        change(&mut host);
        host.refused()
    };
    let text = told(|host| host.sources.name = Some(name("::1")));
    assert!(text.contains("--name is 00:00:00:00:00:01"), "{text}");
    assert!(text.contains("--name 02:00:00:00:00:0a"), "{text}");
    let text = told(|host| host.bridge = Some(name("::2")));
    assert!(
        text.contains("the address of the bridge is 00:00:00:00:00:02"),
        "{text}"
    );
    let text = told(|host| {
        let allocation = host.allocation.as_mut().unwrap();
        allocation.range = "10.2.0.0/16".parse().unwrap();
    });
    assert!(text.contains("--ipalloc-range 10.32.0.0/16"), "{text}");
    let text = told(|host| fs::write(host.path(USUAL[0]), b"rubbish").unwrap());
    assert!(text.contains("--weave-db none"), "{text}");

    // The same, said in time.
    let mut host = Host::new();
    host.put(USUAL[0]);
    host.bridge = Some(name("::2"));
    host.sources.name = Some(name("2::a"));
    host.launch().unwrap();
    // Without allocation the ring is kept for later.
    let mut host = Host::new();
    host.put(USUAL[0]);
    host.allocation = None;
    let store = host.launch().unwrap();
    assert!(allocation::saved(&store).unwrap().is_some());
}

/// As after an upgrade from a version that did not allocate addresses.
#[test]
fn a_host_with_a_name_takes_over_the_rest_if_it_is_its_own() {
    let prepared = |own: &str| {
        let host = Host::new();
        host.put(USUAL[0]);
        let store = host.store();
        let identity = StoredIdentity {
            name: name(own),
            machine: None,
        };
        store.set_identity(&identity).unwrap();
        host
    };
    let host = prepared("2::a");
    let store = host.launch().unwrap();
    assert!(allocation::saved(&store).unwrap().is_some());
    assert_eq!(store.peers().unwrap(), StoredPeers::default());
    drop(store);
    let mut host = prepared("2::b");
    let store = host.launch().unwrap();
    assert_eq!(allocation::saved(&store).unwrap(), None);
    drop(store);
    host.sources.weave_db = WeaveDb::File(host.path(USUAL[0]));
    assert!(
        host.refused()
            .contains("the stored name is 02:00:00:00:00:0b")
    );
}

#[test]
fn there_and_back_and_there_again() {
    let host = Host::new();
    let path = host.put(USUAL[0]);
    let theirs = weave_file::read(&path).unwrap();
    let store = host.launch().unwrap();
    assert!(matches!(
        host.export(None, true),
        Err(MigrateError::Store(StoreError::Locked(_)))
    ));
    // Something happens here.
    let mut saved = allocation::saved(&store).unwrap().unwrap();
    let ours = Owned {
        is_container: true,
        cidrs: vec!["10.32.0.77/16".parse().unwrap()],
    };
    saved.owned.insert("ours".to_owned(), ours.clone());
    replace(&store, &saved);
    drop(store);

    assert!(matches!(
        host.export(None, false),
        Err(MigrateError::File(FileError::Exists(_)))
    ));
    let done = host.export(None, true).unwrap();
    assert_eq!(
        (done.path.as_path(), done.name),
        (path.as_path(), Some(name("2::a")))
    );
    assert_eq!(done.range.as_deref(), Some("10.32.0.0/16"));
    assert_eq!(weave_file::read(&done.aside.unwrap()).unwrap(), theirs);
    let written = weave_file::read(&path).unwrap();
    assert_eq!((written.name, &written.ring), (theirs.name, &theirs.ring));
    assert_eq!(written.owned["ours"], ours);
    assert!(written.transaction > theirs.transaction);

    // Weave gives away what was ours, and is left again.
    weave_runs(&path, |state| {
        let ours = state.owned.remove("ours").unwrap();
        state.owned.insert("theirs".to_owned(), ours);
    });
    let store = host.launch().unwrap();
    let saved = allocation::saved(&store).unwrap().unwrap();
    assert!(saved.owned.contains_key("theirs") && !saved.owned.contains_key("ours"));
    drop(store);

    // Weave never ran: our state counts from now on, even if Weave runs after all.
    host.export(None, true).unwrap();
    host.launch().unwrap();
    weave_runs(&path, |state| state.owned.clear());
    let told = host.launch().map(drop).unwrap_err().to_string();
    assert!(told.contains("Weave Net has run"), "{told}");
}

#[test]
fn weave_that_ran_unannounced_is_not_overlooked() {
    let mut host = Host::new();
    let path = host.put(USUAL[0]);
    host.launch().unwrap();
    weave_runs(&path, |state| {
        state.owned.clear();
    });
    assert!(matches!(
        host.launch().map(drop),
        Err(MigrateError::Changed(_))
    ));
    // Own state.
    host.sources.weave_db = WeaveDb::None;
    let store = host.launch().unwrap();
    assert_eq!(allocation::saved(&store).unwrap().unwrap().owned.len(), 7);
    drop(store);
    host.sources.weave_db = WeaveDb::Usual;
    host.launch().unwrap();
    // Weave's.
    weave_runs(&path, |_| {});
    host.sources.weave_db = WeaveDb::File(path.clone());
    let store = host.launch().unwrap();
    assert_eq!(allocation::saved(&store).unwrap().unwrap().owned.len(), 0);
    drop(store);
    // Weave is running now.
    let held = fs::File::open(&path).unwrap();
    let how = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&held, how).unwrap();
    host.sources.weave_db = WeaveDb::Usual;
    assert!(
        host.launch()
            .map(drop)
            .unwrap_err()
            .to_string()
            .contains("weave stop")
    );
    assert!(matches!(
        host.export(None, true),
        Err(MigrateError::File(FileError::InUse(_)))
    ));
}

#[test]
fn exports_without_a_file_to_begin_with() {
    let host = Host::new();
    assert!(matches!(
        host.export(None, false),
        Err(MigrateError::NoState(_))
    ));
    drop(host.store());
    assert!(matches!(
        host.export(None, false),
        Err(MigrateError::NoPath)
    ));
    let path = host.path("new/weavedata.db");
    let done = host.export(Some(&path), false).unwrap();
    assert_eq!((done.name, done.range, done.aside), (None, None, None));
    assert_eq!(weave_file::read(&path).unwrap().transaction, 1);
}

#[test]
fn keys_that_mean_nothing_here_find_their_way_back() {
    let host = Host::new();
    let path = host.put(USUAL[0]);
    let flag = (b"flag:peer-reclaim".to_vec(), vec![5, 12, 0, 2, 111, 107]);
    weave_runs(&path, |state| {
        state.others.insert(flag.0.clone(), flag.1.clone());
    });
    host.launch().unwrap();
    host.export(None, true).unwrap();
    let others = weave_file::read(&path).unwrap().others;
    assert_eq!(others, [flag].into());
}

#[test]
fn a_reset_leaves_nothing_to_take_over() {
    let host = Host::new();
    let path = host.put(USUAL[0]);
    host.put(USUAL[2]);
    let other = host.put("elsewhere.db");
    let record = StoredWeave {
        path: other.display().to_string(),
        ..StoredWeave::default()
    };
    let reset = |record| after_reset(&host.sources.db_prefix, host.root.path(), record).unwrap();
    let aside = reset(Some(record));
    assert_eq!(aside.len(), 3);
    assert!(aside.iter().all(|path| path.exists()) && !path.exists());
    assert!(!super::super::store::path(&host.sources.db_prefix).exists());
    assert_eq!(host.launch().unwrap().weave().unwrap(), None);

    // One that cannot be moved, as Weave has it.
    let host = Host::new();
    let path = host.put(USUAL[0]);
    let held = fs::File::open(&path).unwrap();
    let how = rustix::fs::FlockOperation::NonBlockingLockShared;
    rustix::fs::flock(&held, how).unwrap();
    let reset = |record| after_reset(&host.sources.db_prefix, host.root.path(), record).unwrap();
    assert_eq!(reset(None), Vec::<PathBuf>::new());
    let store = host.launch().unwrap();
    assert_eq!(store.identity().unwrap(), None);
    assert_eq!(allocation::saved(&store).unwrap(), None);
}
