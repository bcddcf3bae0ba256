use super::*;

fn peers() -> StoredPeers {
    StoredPeers {
        launched_with: vec!["a".to_owned()],
        targets: vec!["a".to_owned(), "b:6784".to_owned()],
        stopped: false,
    }
}

#[test]
fn what_is_kept_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("deep/er/");
    let identity = StoredIdentity {
        name: "::7".parse().unwrap(),
        machine: Some("m".to_owned()),
    };
    {
        let store = Store::open(&prefix).unwrap();
        assert_eq!(store.path(), directory.path().join("deep/er/data.redb"));
        assert_eq!(store.identity().unwrap(), None);
        assert_eq!(store.peers().unwrap(), StoredPeers::default());
        store.set_identity(&identity).unwrap();
        store.set_peers(&peers()).unwrap();
        store.set_launch_options(&["--port=1".to_owned()]).unwrap();
    }
    let store = Store::open(&prefix).unwrap();
    assert_eq!(store.identity().unwrap(), Some(identity));
    assert_eq!(store.peers().unwrap(), peers());
    assert_eq!(store.launch_options().unwrap(), ["--port=1"]);
}

#[test]
fn a_prefix_may_end_in_part_of_a_name() {
    assert_eq!(
        path(Path::new("/weavedb/weave")),
        Path::new("/weavedb/weavedata.redb")
    );
    assert_eq!(
        path(Path::new("/weavedb/")),
        Path::new("/weavedb/data.redb")
    );
}

#[test]
fn a_second_daemon_is_kept_out() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("x");
    let _first = Store::open(&prefix).unwrap();
    let error = Store::open(&prefix).unwrap_err();
    assert!(matches!(error, StoreError::Locked(_)), "{error}");
    assert!(error.to_string().contains("meshctl stop"), "{error}");
}

#[test]
fn files_of_others_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data.redb");
    let mut bolt = vec![0; 4096];
    bolt[16..20].copy_from_slice(&[0xed, 0xda, 0x0c, 0xed]);
    for (content, what) in [
        (bolt, "Weave Net"),
        (b"hello".to_vec(), "another program"),
        (vec![0; 65536], "another program"),
    ] {
        fs::write(&file, &content).unwrap();
        let error = Store::open(&directory.path().join("")).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(what) && text.contains("data.redb"), "{text}");
        assert_eq!(fs::read(&file).unwrap(), content);
    }
}

#[test]
fn a_database_of_another_program_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data.redb");
    let database = Database::create(&file).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = TableDefinition::<u64, u64>::new("state");
    transaction.open_table(table).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let store = Store::open(&directory.path().join("")).unwrap();
    let error = store.peers().unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
}

#[test]
fn damage_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data.redb");
    let prefix = directory.path().join("");
    Store::open(&prefix).unwrap().set_peers(&peers()).unwrap();
    let whole = fs::read(&file).unwrap();
    for cut in [1, 100, 4096, whole.len() / 2] {
        fs::write(&file, &whole[..cut]).unwrap();
        let error = match Store::open(&prefix) {
            Ok(store) => store.peers().unwrap_err(),
            Err(error) => error,
        };
        let known = matches!(
            error,
            StoreError::Damaged { .. } | StoreError::Foreign { .. }
        );
        assert!(known, "cut at {cut}: {error}");
        assert_eq!(fs::read(&file).unwrap()[..cut.min(4)], whole[..cut.min(4)]);
    }
}

#[test]
fn values_of_a_newer_version_are_not_guessed_at() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("")).unwrap();
    for (value, newer) in [
        (&[2, b'{', b'}'][..], true),
        (&[1, b'{'], false),
        (&[], false),
    ] {
        store
            .write(|transaction| {
                transaction.open_table(TABLE)?.insert(PEERS, value)?;
                Ok(())
            })
            .unwrap();
        let error = store.peers().unwrap_err();
        assert_eq!(matches!(error, StoreError::Newer(_)), newer, "{error}");
        assert_eq!(
            matches!(error, StoreError::Damaged { .. }),
            !newer,
            "{error}"
        );
    }
}

#[test]
fn no_place_no_state() {
    let error = Store::open(Path::new("/proc/nowhere/")).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
    assert!(error.to_string().contains("--db-prefix"), "{error}");
}

#[test]
fn a_state_can_be_removed_unless_it_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("");
    let file = directory.path().join("data.redb");
    assert!(!remove(&prefix).unwrap());
    let store = Store::open(&prefix).unwrap();
    assert!(matches!(remove(&prefix), Err(StoreError::Locked(_))));
    store.destroy().unwrap();
    assert!(!file.exists());
    drop(Store::open(&prefix).unwrap());
    assert!(remove(&prefix).unwrap());
    fs::write(&file, b"not ours").unwrap();
    assert!(matches!(remove(&prefix), Err(StoreError::Foreign { .. })));
    assert!(file.exists());
}
