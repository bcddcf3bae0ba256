use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Values = BTreeMap<Vec<u8>, Vec<u8>>;

fn values(pairs: &[(&str, usize)]) -> Values {
    let pairs = pairs.iter();
    pairs
        .map(|(key, len)| (key.as_bytes().to_vec(), vec![key.as_bytes()[0]; *len]))
        .collect()
}

fn read(file: &[u8]) -> Result<Values, Error> {
    let database = Database::open(file)?;
    let entries = database.bucket(b"top")?.expect("the bucket");
    let entries = entries.into_iter();
    Ok(entries.map(|(k, v)| (k.to_vec(), v.to_vec())).collect())
}

fn sample() -> (Vec<u8>, Values) {
    let values = values(&[("a", 3), ("b", 0), ("c", 9000), ("d", 1)]);
    (encode(PageLen::USUAL, 1, b"top", &values).unwrap(), values)
}

/// Changes a header and makes its checksum fit again.
fn change_header(file: &mut [u8], page: usize, change: impl Fn(&mut [u8])) {
    let meta = &mut file[page * 4096 + 16..][..64];
    change(meta);
    let sum = checksum(&meta[..56]);
    meta[56..].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn checksums_are_fnv() {
    // The test values of the draft that defines it.
    assert_eq!(checksum(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(checksum(b"foobar"), 0x8594_4171_f739_67e8);
}

#[test]
fn what_is_written_is_read() {
    let (file, values) = sample();
    assert_eq!(file.len(), (4 + 3) * 4096);
    assert_eq!(read(&file), Ok(values));
    let database = Database::open(&file).unwrap();
    assert_eq!(database.oddity(), None);
    assert_eq!(database.bucket(b"other"), Ok(None));
    for len in [1024, 16384, 65536] {
        let len = PageLen::new(len).unwrap();
        let file = encode(len, 1, b"top", &Values::new()).unwrap();
        assert_eq!(read(&file), Ok(Values::new()));
    }
    assert_eq!(PageLen::new(4095), None);
    assert_eq!(PageLen::new(512), None);
}

#[test]
fn transactions_take_turns() {
    for (number, stored, pages) in [
        (0, 1, [0, 1]),
        (1, 1, [0, 1]),
        (2, 2, [2, 1]),
        (7, 7, [6, 7]),
    ] {
        let file = encode(PageLen::USUAL, number, b"top", &Values::new()).unwrap();
        assert_eq!(Database::open(&file).unwrap().transaction(), stored);
        for (page, number) in pages.into_iter().enumerate() {
            assert_eq!(file[page * 4096], u8::try_from(page).unwrap());
            assert_eq!(file[page * 4096 + 16 + 48], number);
        }
    }
}

#[test]
fn too_many_keys_are_refused() {
    let key = |number: u32| number.to_be_bytes().to_vec();
    let mut values: Values = (0..65535).map(|number| (key(number), Vec::new())).collect();
    assert!(encode(PageLen::USUAL, 1, b"top", &values).is_ok());
    values.insert(key(65535), Vec::new());
    assert_eq!(encode(PageLen::USUAL, 1, b"top", &values), Err(TooBig));
}

#[test]
fn either_header_will_do() {
    let (file, values) = sample();
    for page in [0, 1] {
        let mut file = file.clone();
        file[page * 4096 + 20] ^= 1;
        let database = Database::open(&file).unwrap();
        assert_eq!(database.oddity(), Some(Oddity::HeaderLost));
        assert_eq!(read(&file).as_ref(), Ok(&values));
    }
    let mut file = file;
    file[20] ^= 1;
    file[4096 + 60] ^= 1;
    assert_eq!(read(&file), Err(Error::NoHeader));
}

#[test]
fn the_later_header_counts() {
    let (file, values) = sample();
    for later in [0, 1] {
        let mut file = file.clone();
        change_header(&mut file, later, |meta| meta[48] = 9);
        // Leads to the list of free pages.
        change_header(&mut file, 1 - later, |meta| meta[16] = 2);
        assert_eq!(read(&file).as_ref(), Ok(&values));
        change_header(&mut file, 1 - later, |meta| meta[48] = 10);
        let what = "it is neither branch nor leaf";
        assert_eq!(read(&file), Err(Error::Page { page: 2, what }));
    }
}

#[test]
fn other_files_are_told_apart() {
    let (mut file, _) = sample();
    assert_eq!(read(b""), Err(Error::Empty));
    assert_eq!(read(b"redb and more"), Err(Error::NoHeader));
    assert_eq!(read(&[0; 1 << 16]), Err(Error::NoHeader));
    change_header(&mut file, 0, |meta| meta[4] = 3);
    assert_eq!(read(&file), Err(Error::Version(3)));
    change_header(&mut file, 0, |meta| meta[..4].reverse());
    assert_eq!(read(&file), Err(Error::ByteOrder));
}

#[test]
fn files_cut_off() {
    let (file, _) = sample();
    for len in 1..file.len() {
        let error = read(&file[..len]).unwrap_err();
        let expected = match len {
            0..0x1050 => {
                assert!(matches!(error, Error::NoHeader | Error::Short { page: 3 }));
                continue;
            }
            0x1050..0x4000 => Error::Short { page: 3 },
            _ => Error::Short { page: 4 },
        };
        assert_eq!(error, expected, "at {len}");
    }
}

#[test]
fn pages_that_lie() {
    let (file, _) = sample();
    let damaged = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        read(&file)
    };
    let page = |page, what| Err(Error::Page { page, what });
    let at = 4 * 4096;
    assert_eq!(damaged(at, &[9]), page(4, "it says that it is another"));
    // As a branch it leads to its own lengths of values.
    assert!(matches!(damaged(at + 8, &[1]), Err(Error::Short { .. })));
    assert_eq!(
        damaged(at + 8, &[8]),
        page(4, "it is neither branch nor leaf")
    );
    let what = "it has no room for its elements";
    assert_eq!(damaged(at + 10, &[0xff, 0xff]), page(4, what));
    assert_eq!(damaged(at + 12, &[0xff; 4]), Err(Error::Short { page: 4 }));
    let first = at + 16;
    let what = "an element outside of it";
    assert_eq!(damaged(first + 4, &[0xff; 4]), page(4, what));
    assert_eq!(damaged(first + 12, &[0xff; 4]), page(4, what));
    let what = "keys that do not ascend";
    assert_eq!(damaged(first + 64, b"x"), page(4, what));
    let what = "elements that overlap";
    assert_eq!(damaged(first + 12, &9030_u32.to_le_bytes()), page(4, what));
    // The root's element.
    let root = 3 * 4096 + 16;
    let what = "two others lead to it";
    assert_eq!(damaged(root + 19, &[3]), page(3, what));
    let what = "a bucket of too few bytes";
    assert_eq!(damaged(root + 12, &[15]), page(3, what));
    // Inline, where nothing follows.
    let what = "it has no room for its elements";
    assert_eq!(damaged(root + 19, &[0]), page(3, what));
}

#[test]
fn a_tree_with_branches_and_an_inline_bucket() {
    // Root: a leaf with the bucket "top", whose root is a branch over two leaves.
    let (mut file, _) = sample();
    let leaf = |id: u64, key: &[u8]| {
        let one = BTreeMap::from([(key.to_vec(), key.to_vec())]);
        let mut page = encode(PageLen::USUAL, 1, b"top", &one).unwrap()[4 * 4096..].to_vec();
        page[..8].copy_from_slice(&id.to_le_bytes());
        page
    };
    let mut branch = vec![0; 4096];
    branch[0] = 7;
    branch[8] = 1;
    branch[10] = 2;
    branch[24] = 8;
    branch[40] = 9;
    file.extend(&branch);
    file.extend(leaf(8, b"left"));
    file.extend(leaf(9, b"right"));
    let root = 3 * 4096 + 16 + 16 + 3;
    file[root] = 7;
    let pair = |key: &[u8]| (key.to_vec(), key.to_vec());
    assert_eq!(read(&file), Ok([pair(b"left"), pair(b"right")].into()));
    // In the wrong order, in a circle, and nowhere.
    let at = 7 * 4096;
    let mut bad = file.clone();
    bad.swap(at + 24, at + 40);
    assert!(matches!(read(&bad), Err(Error::Page { page: 8, .. })));
    bad[at + 40] = 7;
    assert!(matches!(read(&bad), Err(Error::Page { page: 7, .. })));
    bad[at + 10] = 0;
    let what = "a branch that leads nowhere";
    assert_eq!(read(&bad), Err(Error::Page { page: 7, what }));
    // The same leaf, inline: its page id is 0, and it is as long as its content.
    let mut bucket = vec![0; 16];
    let page = leaf(0, b"k");
    bucket.extend(&page[..16 + 16 + 2]);
    let root = BTreeMap::from([(b"top".to_vec(), bucket)]);
    let mut file = encode(PageLen::USUAL, 1, b"x", &root).unwrap();
    // The leaf becomes the root, and its element a bucket.
    change_header(&mut file, 0, |meta| meta[16] = 4);
    change_header(&mut file, 1, |meta| meta[16] = 4);
    file[4 * 4096 + 16] = 1;
    assert_eq!(read(&file), Ok([pair(b"k")].into()));
}

proptest! {
    #[test]
    fn any_map_survives(
        values in proptest::collection::btree_map(
            proptest::collection::vec(any::<u8>(), 0..20),
            proptest::collection::vec(any::<u8>(), 0..3000),
            0..40,
        ),
        bits in 10_u32..17,
    ) {
        let file = encode(PageLen::new(1 << bits).unwrap(), 1, b"top", &values).unwrap();
        prop_assert_eq!(read(&file), Ok(values));
    }

    #[test]
    fn no_damage_does_harm(
        changes in proptest::collection::vec((0_usize..7 * 4096, any::<u8>()), 1..40),
        near in proptest::collection::vec((0_usize..7, 0_usize..120, any::<u8>()), 0..8),
        resum in any::<bool>(),
    ) {
        let (mut file, _) = sample();
        for (at, byte) in changes {
            file[at] = byte;
        }
        for (page, at, byte) in near {
            file[page * 4096 + at] = byte;
        }
        if resum {
            change_header(&mut file, 0, |_| {});
        }
        if let Ok(database) = Database::open(&file) {
            let _ = database.bucket(b"top");
        }
    }
}
