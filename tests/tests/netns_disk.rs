//! meshctl and the disk that its state is on: one that is full, and one that has lost something.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, a panic is how a failure is reported"
)]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tests::as_root;
use tests::http::Pending;
use tests::lab::{Lab, address};
use tests::node::{Kind, Node, Options, at, name_of};
use tests::wait;

const M: Kind = Kind::Meshctl;
/// More than the state file has at first, and less than it will need.
const DISK_LEN: &str = "size=4m";
/// A disk that takes more than so many addresses is not full.
const TOO_MANY: usize = 20_000;

/// A file system of its own for the state of a host. It goes before the lab's files do.
struct Disk(PathBuf);

impl Disk {
    fn mount(lab: &Lab, number: usize) -> Self {
        let path = state_file(lab, number).parent().unwrap().to_owned();
        fs::create_dir_all(&path).unwrap();
        let options = std::ffi::CString::new(DISK_LEN).unwrap();
        mount(
            "none",
            &path,
            "tmpfs",
            MountFlags::empty(),
            options.as_c_str(),
        )
        .unwrap();
        Self(path)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        let mut len = 1 << 16;
        while len > 0 {
            if file.write_all(&vec![1; len]).is_err() {
                len /= 2;
            }
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.display());
        }
    }
}

fn state_file(lab: &Lab, number: usize) -> PathBuf {
    let mut path = Node::db_prefix(lab.directory(number)).into_os_string();
    path.push("data.redb");
    path.into()
}

/// The first host has all addresses, the second one none.
fn told_in(number: usize) -> Options {
    let peers: Vec<_> = (1..number).map(address).collect();
    let seed = format!("seed={}", name_of(1));
    Options {
        services: Some("10.32.0.0/16".to_owned()),
        extra: vec!["--ipalloc-init".to_owned(), seed],
        log_level: Some("info".to_owned()),
        ..Options::new(None, &peers)
    }
}

fn save_error(lab: &Lab, number: usize) -> Option<String> {
    let report = lab.report(number);
    at(&report, "/IPAM/SaveError").as_str().map(str::to_owned)
}

/// What was told, and who waits.
struct Client {
    told: Vec<(String, String)>,
    waiting: Vec<(String, Pending)>,
    next: usize,
}

impl Client {
    /// Draws addresses until one does not come because the disk is full.
    fn draw_until_full(&mut self, lab: &Lab) {
        let caller = lab.caller(1);
        loop {
            self.next += 1;
            assert!(self.next < TOO_MANY, "the disk does not get full");
            let ident = format!("c{}", self.next);
            let pending = caller.begin("POST", &format!("/ip/{ident}")).unwrap();
            let is_full = wait::until("an address, or none", || {
                if pending.is_answered() {
                    return Ok(false);
                }
                wait::check(save_error(lab, 1).is_some(), || "neither".to_owned()).map(|()| true)
            });
            if is_full {
                assert!(!pending.is_answered());
                self.waiting.push((ident, pending));
                return;
            }
            self.note(ident, pending);
        }
    }

    fn note(&mut self, ident: String, pending: Pending) {
        let answer = pending.answer(wait::PATIENCE).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(
            self.told.iter().all(|(_, address)| *address != answer.body),
            "{} is given out twice",
            answer.body
        );
        self.told.push((ident, answer.body));
    }

    /// Everything that was told is there.
    fn check(&self, lab: &Lab) {
        for (ident, address) in &self.told {
            assert_eq!(lab.get(1, &format!("/ip/{ident}")), *address, "{ident}");
        }
    }
}

/// A host whose disk is full tells nobody of an address, and no other host of its space, until
/// there is room, and says why. Killed meanwhile, it has lost nothing.
#[test]
fn full() {
    as_root(|| {
        let mut lab = Lab::new(2, 1500);
        let disk = Disk::mount(&lab, 1);
        lab.start(1, M, &told_in(1));
        lab.start(2, M, &told_in(2));
        lab.await_full_mesh(&[1, 2]);
        let mut client = Client {
            told: Vec::new(),
            waiting: Vec::new(),
            next: 0,
        };
        disk.fill();
        client.draw_until_full(&lab);
        let error = save_error(&lab, 1).unwrap();
        assert!(
            error.contains("data.redb") && error.contains("make room"),
            "{error}"
        );
        let status = lab.get(1, "/status");
        assert!(
            status.contains("Warning: ") && status.contains("make room"),
            "{status}"
        );
        assert!(
            lab.get(1, "/metrics")
                .contains("meshctl_ipam_save_failing 1")
        );
        // What there is can still be looked up.
        client.check(&lab);
        // The second host asks for space, and is told nothing.
        let second = lab.caller(2).begin("POST", "/ip/second").unwrap();
        wait::until("the second host to wait", || {
            let report = lab.report(2);
            let waiting = at(&report, "/IPAM/PendingAllocates")
                .as_array()
                .map(Vec::len);
            wait::check(waiting == Some(1), || format!("{waiting:?}"))
        });
        assert!(!second.is_answered());

        disk.make_room();
        for (ident, pending) in std::mem::take(&mut client.waiting) {
            client.note(ident, pending);
        }
        let second = second.answer(wait::PATIENCE).unwrap();
        assert_eq!(second.status, 200, "{}", second.body);
        assert_eq!(save_error(&lab, 1), None);
        client.check(&lab);

        // Again, and killed before there is room.
        disk.fill();
        client.draw_until_full(&lab);
        lab.crash(1);
        client.waiting.clear();
        disk.make_room();
        lab.start(1, M, &told_in(1));
        client.check(&lab);
        lab.await_full_mesh(&[1, 2]);
        let pending = lab.caller(1).begin("POST", "/ip/last").unwrap();
        client.note("last".to_owned(), pending);
        let (_, last) = client.told.last().unwrap();
        assert_ne!(*last, second.body);
        drop(disk);
    });
}

/// Ways to damage a file. An empty one is none, see below.
fn damages(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut begin = good.to_vec();
    begin[..512].fill(0x55);
    let mut pages = good.to_vec();
    for page in pages.chunks_mut(4096).skip(1) {
        page[100..200].fill(0x55);
    }
    let mut zeros = good.to_vec();
    zeros[4096..].fill(0);
    vec![
        ("another program's", begin),
        ("cut in half", good[..good.len() / 2].to_vec()),
        ("cut to a page", good[..4096].to_vec()),
        ("overwritten in every page", pages),
        ("full of zeros", zeros),
    ]
}

/// A host with a state file that is damaged does not start, says why, and leaves the file alone;
/// unless all that matters is still there.
#[test]
fn damaged() {
    as_root(|| {
        let mut lab = Lab::new(1, 1500);
        lab.start(1, M, &told_in(1));
        let draw = |lab: &Lab, ident: &str| {
            let drawn = lab.request(1, "POST", &format!("/ip/{ident}"), "");
            assert_eq!(drawn.status, 200, "{}", drawn.body);
            drawn.body
        };
        let told = ["a", "b", "c"].map(|ident| (ident, draw(&lab, ident)));
        lab.crash(1);
        let path = state_file(&lab, 1);
        let good = fs::read(&path).unwrap();
        for (what, bytes) in damages(&good) {
            fs::write(&path, &bytes).unwrap();
            match lab.try_start(1, M, &told_in(1)) {
                Ok(()) => {
                    eprintln!("{what}: it starts");
                    for (ident, address) in &told {
                        assert_eq!(lab.get(1, &format!("/ip/{ident}")), *address, "{what}");
                    }
                    lab.crash(1);
                }
                Err(said) => {
                    eprintln!("{what}: {said}");
                    let names_it =
                        said.contains("is damaged") || said.contains("not a state file of meshctl");
                    assert!(names_it && said.contains("move it away"), "{what}: {said}");
                    let left = fs::read(&path).unwrap();
                    assert!(left == bytes, "{what}: the file has changed");
                }
            }
        }
        fs::write(&path, &good).unwrap();
        lab.start(1, M, &told_in(1));
        for (ident, address) in told {
            assert_eq!(lab.get(1, &format!("/ip/{ident}")), address);
            assert_eq!(draw(&lab, ident), address);
        }
    });
}

/// A state file without anything in it, as a kill at the very first start leaves it, is one of a new
/// host, but nobody has to find that out by himself.
#[test]
fn emptied() {
    as_root(|| {
        let mut lab = Lab::new(1, 1500);
        let path = state_file(&lab, 1);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        lab.start(1, M, &told_in(1));
        let log = lab.node(1).log();
        let warning = log.lines().find(|line| line.contains("but empty"));
        let warning = warning.unwrap_or_else(|| panic!("no warning: {log}"));
        assert!(
            warning.starts_with("WARN") && warning.contains(&path.display().to_string()),
            "{warning}"
        );
        lab.crash(1);
        lab.start(1, M, &told_in(1));
        let log = lab.node(1).log();
        assert_eq!(log.matches("but empty").count(), 1, "{log}");
    });
}
