use redb::ReadableTable as _;

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
fn an_empty_file_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    assert!(!Store::open(directory.path()).unwrap().was_empty());
    let prefix = directory.path().join("x");
    fs::write(path(&prefix), "").unwrap();
    assert!(Store::open(&prefix).unwrap().was_empty());
    assert!(!Store::open(&prefix).unwrap().was_empty(), "not any more");
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
    let before = fs::read(&file).unwrap();
    let store = Store::open(&directory.path().join("")).unwrap();
    store.check().unwrap();
    let error = store.peers().unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    drop(store);
    assert!(fs::read(&file).unwrap() == before, "it has changed");
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
        assert!(fs::read(&file).unwrap() == whole[..cut], "cut at {cut}");
    }
}

type Content = (StoredPeers, Vec<String>, Vec<Vec<u8>>);

/// What a daemon reads at its start.
fn read_all(prefix: &Path) -> Result<Content, StoreError> {
    let store = Store::open(prefix)?;
    store.check()?;
    let more = store.read(|transaction| {
        let table = transaction.open_table(MORE);
        let table = table.map_err(|error| store.damaged(&error))?;
        let entries = table.iter().map_err(|error| store.damaged(&error))?;
        let values = entries.map(|entry| Ok(entry?.1.value().to_vec()));
        let values: Result<_, redb::StorageError> = values.collect();
        values.map_err(|error| store.damaged(&error))
    })?;
    Ok((store.peers()?, store.launch_options()?, more))
}

/// The last two changes of a file that is damaged.
const BEFORE_LAST: u64 = 1;
const LAST: u64 = 2;
const MORE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("more");

/// Files with much in them: one of a daemon that was killed, and one of a daemon that has ended.
fn files_with_content() -> [(&'static str, Vec<u8>); 2] {
    let directory = tempfile::tempdir().unwrap();
    let prefix = directory.path().join("");
    let store = Store::open(&prefix).unwrap();
    store.set_peers(&peers()).unwrap();
    for round in 0..40_u64 {
        let write = |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(MORE)?;
            for key in 0..10 {
                let value = vec![0xa5; 300];
                table.insert(round * 7 + key, value.as_slice())?;
            }
            table.remove(round * 5)?;
            Ok(())
        };
        store.write(write).unwrap();
    }
    for options in BEFORE_LAST..=LAST {
        store.set_launch_options(&[options.to_string()]).unwrap();
    }
    let killed = fs::read(store.path()).unwrap();
    let path = store.path().to_owned();
    drop(store);
    [("killed", killed), ("ended", fs::read(path).unwrap())]
}

/// A file that is damaged is refused and left as it is, unless all that was in it is still there.
/// In no case is it written to before there is a change.
///
/// After a kill, what the last change wrote may be damaged because the kill came in between: then
/// the change before it holds.
#[test]
fn a_damaged_file_is_left_as_it_is() {
    for (name, whole) in files_with_content() {
        let directory = tempfile::tempdir().unwrap();
        let read = |bytes: &[u8], what: &str| {
            // A file of its own, as one that redb has panicked at may stay locked.
            let directory = tempfile::tempdir_in(&directory).unwrap();
            let prefix = directory.path().join("");
            fs::write(path(&prefix), bytes).unwrap();
            let read = read_all(&prefix);
            let left = fs::read(path(&prefix)).unwrap();
            assert!(left == bytes, "{name}, {what}: it has changed");
            match read {
                Ok(read) => Some(read),
                Err(StoreError::Damaged { .. } | StoreError::Foreign { .. }) => None,
                Err(error) => panic!("{name}, {what}: {error}"),
            }
        };
        let good = read(&whole, "whole").unwrap();
        assert_eq!((&good.0, &good.1), (&peers(), &vec![LAST.to_string()]));
        let mut before = good.clone();
        before.1 = vec![BEFORE_LAST.to_string()];
        let mut refused = 0;
        let mut gone_back = 0;
        let mut check = |bytes: &[u8], what: &str| match read(bytes, what) {
            None => refused += 1,
            Some(read) if name == "killed" && read == before => gone_back += 1,
            Some(read) => assert!(read == good, "{name}, {what}: another state"),
        };
        for cut in (512..whole.len()).step_by(512) {
            check(&whole[..cut], &format!("cut at {cut}"));
        }
        let mut bytes = whole.clone();
        for page in (0..whole.len()).step_by(4096) {
            for at in [page, page + 9, page + 200, page + 4095] {
                bytes[at] ^= 0x10;
                check(&bytes, &format!("flipped at {at}"));
                bytes[at] ^= 0x10;
            }
        }
        let len = whole.len();
        println!(
            "{name}: {len} bytes, {refused} times refused, {gone_back} times the state before"
        );
        assert!(refused > 100, "{refused}");
    }
}

/// After a kill as well as after an end, reading writes nothing, and the first change is kept.
#[test]
fn a_file_is_written_at_the_first_change() {
    for (name, whole) in files_with_content() {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("");
        fs::write(path(&prefix), &whole).unwrap();
        let expected = read_all(&prefix).unwrap();
        let store = Store::open(&prefix).unwrap();
        store.check().unwrap();
        assert!(fs::read(store.path()).unwrap() == whole, "{name}");
        store.set_launch_options(&["--port=2".to_owned()]).unwrap();
        // Killed now, and ended.
        let killed = fs::read(store.path()).unwrap();
        drop(store);
        let ended = fs::read(path(&prefix)).unwrap();
        for bytes in [killed, ended] {
            fs::write(path(&prefix), bytes).unwrap();
            let (peers, options, more) = read_all(&prefix).unwrap();
            assert_eq!((&peers, &more), (&expected.0, &expected.2), "{name}");
            assert_eq!(options, ["--port=2"], "{name}");
        }
    }
}

/// A kill while what was held back is being written.
#[test]
fn a_kill_at_the_first_change_leaves_the_state() {
    for (name, whole) in files_with_content() {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("one");
        let killed = directory.path().join("two");
        fs::write(path(&prefix), &whole).unwrap();
        let expected = read_all(&prefix).unwrap();
        let store = Store::open(&prefix).unwrap();
        store.check().unwrap();
        let backend = store.with(|_, backend| Ok(backend.clone())).unwrap();
        let mut steps = 0;
        while backend.release_one() {
            steps += 1;
            fs::copy(store.path(), path(&killed)).unwrap();
            assert!(read_all(&killed).unwrap() == expected, "{name}, {steps}");
        }
        println!("{name}: {steps} steps");
        assert!(steps > 3, "{name}: {steps}");
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
