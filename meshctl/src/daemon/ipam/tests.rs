//! The allocator with a real disk, and without a mesh.

use std::io;

use ipam::allocator::Init;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::tempdir;

use super::testing::{begin, cidr, config};
use super::*;

fn alone() -> Config {
    config(Init::Consensus(Some(1)), "10.32.0.0/24")
}

/// Waits until nothing of the allocator is left that holds the state file.
async fn end(ipam: Ipam) {
    ipam.close().await;
}

async fn owned(ipam: &Ipam) -> Vec<String> {
    let owned = ipam.list().await.unwrap().into_iter();
    let owned = owned.flat_map(|(ident, owned)| {
        let cidrs = owned.cidrs.into_iter();
        cidrs.map(move |cidr| format!("{ident} {cidr}"))
    });
    owned.collect()
}

#[tokio::test]
async fn what_was_given_out_is_there_after_a_restart() {
    let directory = tempdir().unwrap();
    let ipam = begin(directory.path(), alone());
    let first = ipam.allocate("c", None, true).await.unwrap();
    let subnet = cidr("10.32.0.128/25");
    let second = ipam.allocate("c", Some(subnet), true).await.unwrap();
    let third = ipam.allocate("_", None, false).await.unwrap();
    ipam.claim("d", cidr("192.168.1.1/16"), false, false)
        .await
        .unwrap();
    ipam.allocate("gone", None, false).await.unwrap();
    ipam.release_all("gone").await.unwrap();
    let before = owned(&ipam).await;
    assert_eq!(
        before,
        [
            "10.32.0.2 10.32.0.2/24",
            "c 10.32.0.1/24",
            "c 10.32.0.129/25",
            "d 192.168.1.1/16"
        ]
    );
    let status = ipam.status();
    end(ipam).await;
    let ipam = begin(directory.path(), alone());
    assert_eq!(owned(&ipam).await, before);
    assert_eq!(ipam.status(), status);
    assert_eq!(ipam.allocate("c", None, true).await.unwrap(), first);
    let again = ipam.allocate("c", Some(subnet), true).await.unwrap();
    assert_eq!(again, second);
    let fourth = ipam.allocate("_", None, false).await.unwrap();
    assert_ne!(fourth, third);
    // Still a container, whose death frees what it has.
    ipam.container("c", ContainerEvent::Died);
    ipam.container("c", ContainerEvent::Started);
    assert!(!ipam.lookup("c", None).await.unwrap().is_empty());
    ipam.container("c", ContainerEvent::Destroyed);
    assert!(ipam.lookup("c", None).await.unwrap().is_empty());
}

#[tokio::test]
async fn another_name_or_range_begins_anew() {
    let directory = tempdir().unwrap();
    let ipam = begin(directory.path(), alone());
    ipam.allocate("c", None, true).await.unwrap();
    end(ipam).await;
    let other = config(Init::Consensus(Some(1)), "10.33.0.0/24");
    let ipam = begin(directory.path(), other);
    assert!(owned(&ipam).await.is_empty());
    assert!(ipam.status().entries.is_empty());
    let first = ipam.allocate("d", None, true).await.unwrap();
    assert_eq!(first, cidr("10.33.0.1/24"));
    end(ipam).await;
    // What was dropped stays dropped.
    let ipam = begin(directory.path(), alone());
    assert!(owned(&ipam).await.is_empty());
    assert!(ipam.status().entries.is_empty());
}

#[tokio::test]
async fn an_acceptor_keeps_its_word_over_a_restart() {
    let directory = tempdir().unwrap();
    let of_three = || config(Init::Consensus(Some(3)), "10.32.0.0/24");
    let ipam = begin(directory.path(), of_three());
    let primed = tokio::time::timeout(std::time::Duration::from_millis(50), ipam.prime()).await;
    assert!(primed.is_err());
    end(ipam).await;
    let store = Store::open(&directory.path().join("")).unwrap();
    let saved = disk::load(&store).unwrap().unwrap();
    let (id, claims) = saved.acceptor.clone().unwrap();
    assert_eq!(id.name, of_three().name);
    assert!(claims.promise.round > 0, "{claims:?}");
    let ipam = Ipam::begin(of_three(), &store).unwrap();
    end(ipam).await;
    assert_eq!(disk::load(&store).unwrap().unwrap(), saved);
}

#[tokio::test]
async fn an_address_that_nobody_took_comes_back() {
    let directory = tempdir().unwrap();
    let ipam = begin(directory.path(), alone());
    ipam.prime().await.unwrap();
    for ident in ["_", "c"] {
        // Fulfilled at once, but the answer waits for the disk.
        let request = ipam.ask(ident == ANONYMOUS, |allocator, now| {
            allocator.allocate(ident, cidr("10.32.0.0/24"), false, now)
        });
        drop(request);
    }
    ipam.release_all("c").await.unwrap();
    // Another one whose answer has come, but is not looked at.
    let request = ipam.ask(true, |allocator, now| {
        allocator.allocate("_", cidr("10.32.0.0/24"), false, now)
    });
    ipam.allocate("d", None, false).await.unwrap();
    drop(request);
    while owned(&ipam).await.len() != 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(owned(&ipam).await.len(), 1);
    assert_eq!(ipam.status().active_count, 1);
}

#[tokio::test]
async fn nothing_is_told_that_is_not_on_disk() {
    let directory = tempdir().unwrap();
    let store = Store::open(&directory.path().join("")).unwrap();
    let ipam = Ipam::begin(alone(), &store).unwrap();
    ipam.allocate("a", None, false).await.unwrap();
    let broken = store.break_down(io::ErrorKind::StorageFull);
    let request = ipam.allocate("b", None, false);
    tokio::pin!(request);
    loop {
        tokio::select! {
            answer = &mut request => panic!("told {answer:?}"),
            () = tokio::task::yield_now() => {}
        }
        if let Some(error) = ipam.status().save_error {
            assert!(error.contains("data.redb"), "{error}");
            assert!(error.contains("make room"), "{error}");
            break;
        }
    }
    drop(broken);
    // Without a mesh nobody looks at the clock.
    let retry = async {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            ipam.0.call(Allocator::handle_timeout);
        }
    };
    let address = tokio::select! {
        address = &mut request => address.unwrap(),
        () = retry => unreachable!(),
    };
    assert_eq!(address, cidr("10.32.0.2/24"));
    assert_eq!(ipam.status().save_error, None);
    ipam.close().await;
    let saved = disk::load(&store).unwrap().unwrap();
    let idents: Vec<_> = saved.owned.keys().map(String::as_str).collect();
    assert_eq!(idents, ["a", "b"]);
}

#[tokio::test]
async fn what_comes_while_the_disk_is_busy_is_saved_together() {
    let directory = tempdir().unwrap();
    let ipam = begin(
        directory.path(),
        config(Init::Consensus(Some(1)), "10.32.0.0/16"),
    );
    ipam.prime().await.unwrap();
    let mut all = tokio::task::JoinSet::new();
    for index in 0..500 {
        let ipam = ipam.clone();
        all.spawn(async move { ipam.allocate(&format!("c{index}"), None, true).await });
    }
    let mut addresses = std::collections::BTreeSet::new();
    while let Some(answer) = all.join_next().await {
        assert!(addresses.insert(answer.unwrap().unwrap().address));
    }
    assert_eq!(addresses.len(), 500);
    end(ipam).await;
    let store = Store::open(&directory.path().join("")).unwrap();
    assert_eq!(disk::load(&store).unwrap().unwrap().owned.len(), 500);
}

#[tokio::test]
async fn a_ring_that_is_none_is_not_replaced_by_a_new_one() {
    let directory = tempdir().unwrap();
    let ipam = begin(directory.path(), alone());
    ipam.prime().await.unwrap();
    end(ipam).await;
    let store = Store::open(&directory.path().join("")).unwrap();
    let mut saved = disk::load(&store).unwrap().unwrap();
    let token = "10.33.0.0".parse().unwrap();
    let mut changes = ipam::allocator::Changes {
        name: saved.name,
        universe: saved.ring.universe(),
        seeds: saved.ring.seeds().to_vec(),
        ..Default::default()
    };
    let mut entry = saved.ring.entries()[0];
    entry.token = token;
    changes.entries.insert(token, entry);
    disk::save(&store, &changes).unwrap();
    saved.apply(&changes);
    assert_eq!(disk::load(&store).unwrap().unwrap(), saved);
    let error = Ipam::begin(alone(), &store).unwrap_err().to_string();
    assert!(error.contains("data.redb is damaged"), "{error}");
    assert!(error.contains("move it away"), "{error}");
}

/// Damage to the file is found, or harmless; in no case there is another ring than before.
#[tokio::test]
async fn damage_is_never_taken_for_a_state() {
    let seed = std::env::var("MESHCTL_SEED").map_or(2026, |seed| seed.parse().unwrap());
    println!("MESHCTL_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let directory = tempdir().unwrap();
    let ipam = begin(directory.path(), alone());
    for index in 0..50 {
        let ident = format!("container-{index}");
        ipam.allocate(&ident, None, true).await.unwrap();
    }
    end(ipam).await;
    let prefix = directory.path().join("");
    let saved = {
        let store = Store::open(&prefix).unwrap();
        store.check().unwrap();
        disk::load(&store).unwrap()
    };
    let file = directory.path().join("data.redb");
    let whole = std::fs::read(&file).unwrap();
    let mut found = 0;
    for _ in 0..100 {
        let mut bytes = whole.clone();
        for _ in 0..rng.random_range(1..2000) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
        // Another file, as the old one may be locked for good by what panicked.
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, &bytes).unwrap();
        let read = || -> Result<_, StoreError> {
            let store = Store::open(&prefix)?;
            store.check()?;
            disk::load(&store)
        };
        match read() {
            Ok(read) => assert_eq!(read, saved),
            Err(error) => {
                found += 1;
                assert!(error.to_string().contains("data.redb"), "{error}");
            }
        }
    }
    assert!(found > 20, "{found}");
}
