//! meshctl and the host that it runs on: what stays and what goes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, a panic is how a failure is reported"
)]

use std::fs;
use std::process::Command;

use host::netlink::Netlink;
use tests::as_root;
use tests::cases::{PASSWORD, targets};
use tests::lab::{ContainerId, Lab, address};
use tests::node::{Kind, Node, Options, at, meshctl};

const M: Kind = Kind::Meshctl;

#[test]
fn connect_forget_replace_resume() {
    as_root(|| targets::connect_forget_replace_resume([M; 3]));
}

/// Peer name of a host.
#[track_caller]
fn name(lab: &Lab, number: usize) -> String {
    at(&lab.report(number), "/Router/Name")
        .as_str()
        .unwrap()
        .to_owned()
}

/// Index of the bridge, if there is one.
#[track_caller]
fn bridge(lab: &Lab, number: usize) -> Option<u32> {
    let find = async |net: &Netlink| net.link("weave").await.unwrap();
    lab.with_net(number, find).map(|bridge| bridge.index)
}

/// Master of a container's port.
#[track_caller]
fn master(lab: &Lab, id: ContainerId) -> Option<u32> {
    let port = lab.port(id);
    lab.with_net(1, async |net| net.existing(port).await.unwrap())
        .master
}

#[test]
fn a_stop_leaves_bridge_and_containers_and_a_reset_does_not() {
    as_root(|| {
        let mut lab = Lab::new(1, 1500);
        lab.start(1, M, &Options::default());
        let container = lab.attach(1, "10.40.0.1/16");
        let (before, link) = (name(&lab, 1), bridge(&lab, 1));
        assert!(link.is_some() && master(&lab, container) == link);

        let stopped = lab.meshctl(1, &["stop"]);
        assert!(stopped.status.success(), "{stopped:?}");
        lab.await_end(1);
        assert_eq!((bridge(&lab, 1), master(&lab, container)), (link, link));
        let again = lab.meshctl(1, &["stop"]);
        assert!(
            again.status.success() && !again.stderr.is_empty(),
            "{again:?}"
        );

        lab.start(1, M, &Options::default());
        assert_eq!((name(&lab, 1), bridge(&lab, 1)), (before, link));

        let reset = lab.meshctl(1, &["reset"]);
        assert!(reset.status.success(), "{reset:?}");
        lab.await_end(1);
        assert_eq!((bridge(&lab, 1), master(&lab, container)), (None, None));
        let directory = Node::db_prefix(lab.directory(1));
        let left: Vec<_> = fs::read_dir(directory.parent().unwrap()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn the_name_outlives_a_kill_and_the_bridge() {
    as_root(|| {
        let mut lab = Lab::new(1, 1500);
        let own_choice = Options {
            name: Some(String::new()),
            ..Options::default()
        };
        lab.start(1, M, &own_choice);
        let before = name(&lab, 1);
        for _ in 0..3 {
            lab.crash(1);
            // As after a reboot.
            lab.with_net(1, async |net| net.delete_link("weave").await.unwrap());
            lab.start(1, M, &own_choice);
            assert_eq!(name(&lab, 1), before);
        }
    });
}

#[test]
fn options_come_back_with_resume() {
    as_root(|| {
        let mut lab = Lab::new(2, 1500);
        lab.start(1, M, &Options::new(PASSWORD, &[]));
        let chosen = Options {
            no_discovery: true,
            conn_limit: Some(7),
            nickname: Some("second".to_owned()),
            ..Options::new(PASSWORD, &[address(1)])
        };
        lab.start(2, M, &chosen);
        lab.await_neighbours(2, &["h1"]);
        lab.crash(2);
        // The password is no option to store.
        let resumed = Options {
            resume: true,
            ..Options::new(PASSWORD, &[])
        };
        lab.start(2, M, &resumed);
        lab.await_neighbours(2, &["h1"]);
        let report = lab.report(2);
        assert_eq!(at(&report, "/Router/PeerDiscovery"), false);
        assert_eq!(at(&report, "/Meshctl/ConnLimit"), 7);
    });
}

#[test]
fn the_password_is_nowhere_to_be_seen() {
    as_root(|| {
        let secret = PASSWORD.unwrap();
        let mut lab = Lab::new(1, 1500);
        let flag = Options {
            extra: vec![format!("--password={secret}")],
            ..Options::default()
        };
        lab.start(1, M, &flag);
        assert!(lab.get(1, "/status").contains("Encryption: enabled"));
        let process = format!("/proc/{}", lab.node(1).pid());
        let read = |file: &str| {
            String::from_utf8_lossy(&fs::read(format!("{process}/{file}")).unwrap()).into_owned()
        };
        assert!(!read("cmdline").contains(secret));
        assert!(!read("environ").contains(secret));
        for path in ["/status", "/report", "/metrics"] {
            assert!(!lab.get(1, path).contains(secret), "{path}");
        }
        // The first line of the log is the harness's own, which has the command line.
        let log = lab.node(1).log();
        assert!(
            log.lines()
                .filter(|line| !line.starts_with("===="))
                .all(|l| !l.contains(secret))
        );
    });
}

/// The most that an idle daemon may have in use.
const IDLE_KIB: u64 = 12 * 1000;

#[test]
fn an_idle_host_in_a_mesh_of_three_needs_little_memory() {
    as_root(|| {
        let mut lab = Lab::new(3, 1500);
        for number in 1..=3 {
            let peers: Vec<_> = (1..number).map(address).collect();
            lab.start(number, M, &Options::new(PASSWORD, &peers));
        }
        lab.await_full_mesh(&[1, 2, 3]);
        for number in 1..=3 {
            let used = lab.node(number).resident_kib();
            assert!(used < IDLE_KIB, "host {number} uses {used} KiB");
            eprintln!("host {number} uses {used} KiB");
        }
    });
}

#[test]
fn a_range_in_the_way_of_the_host_is_noticed() {
    as_root(|| {
        let mut lab = Lab::new(1, 1500);
        lab.with_net(1, async |net| {
            net.add_veth("lan", "lan-peer").await.unwrap();
            net.set_up("lan").await.unwrap();
            let address = "10.40.3.1/24".parse().unwrap();
            net.add_address("lan", address).await.unwrap();
        });
        // Nobody asked for 10.32.0.0/12.
        let mut launch = Command::new("timeout");
        launch
            .arg("30")
            .arg(meshctl())
            .args(["launch", "--weave-db", "none"]);
        launch
            .arg("--db-prefix")
            .arg(lab.directory(1).join("trial/"));
        let ended = lab.run(1, launch);
        let told = ended.stderr + &ended.stdout;
        assert_eq!(ended.status.code(), Some(1), "{told}");
        let part = "Default --ipalloc-range 10.32.0.0/12 overlaps with the route to 10.40.3.0/24 \
                    through lan on this host";
        assert!(told.contains(part), "{told}");
        assert_eq!(bridge(&lab, 1), None, "{told}");

        let options = Options {
            services: Some("10.40.0.0/16".to_owned()),
            ..Options::default()
        };
        lab.start(1, M, &options);
        lab.await_log(
            1,
            "--ipalloc-range 10.40.0.0/16 overlaps with the route to 10.40.3.0/24",
        );
        // The address of the bridge itself is in nobody's way.
        let told = lab.meshctl(1, &["create-bridge", "--address", "10.40.9.1/24"]);
        assert!(told.status.success(), "{told:?}");
        for (address, warned) in [("10.40.3.7/16", true), ("10.40.9.7/16", false)] {
            let claimed = lab.meshctl(1, &["ipam", "claim", "c", address]);
            assert!(claimed.status.success(), "{claimed:?}");
            let told = &claimed.stderr;
            assert_eq!(told.contains("warning: "), warned, "{told}");
        }
    });
}

#[test]
fn addresses_of_containers_are_found_when_the_state_is_lost() {
    as_root(|| {
        let mut lab = Lab::new(1, 1500);
        let options = Options {
            services: Some("10.32.0.0/16".to_owned()),
            extra: vec!["--ipalloc-init=consensus=1".to_owned()],
            ..Options::default()
        };
        lab.start(1, M, &options);
        let container = lab.attach(1, "10.32.0.1/16");
        let mut process = Command::new("sleep");
        process.arg("600");
        let _process = lab.container_netns(container).spawn(process).unwrap();
        lab.stop(1);
        let mut state = Node::db_prefix(lab.directory(1)).into_os_string();
        state.push("data.redb");
        fs::remove_file(state).unwrap();
        lab.start(1, M, &options);
        let given = lab.request(1, "POST", "/ip/other", "");
        assert_eq!((given.status, given.body.as_str()), (200, "10.32.0.2/16"));
        let listed: serde_json::Value = serde_json::from_str(&lab.get(1, "/ip")).unwrap();
        let mut listed = listed["owned"].as_array().unwrap().clone();
        listed.sort_by_key(ToString::to_string);
        let owner = |ident: &str, address: &str| serde_json::json!({"containerid": ident, "addrs": [address]});
        let expected = [
            owner("10.32.0.1", "10.32.0.1/16"),
            owner("other", "10.32.0.2/16"),
        ];
        let mut expected = expected.to_vec();
        expected.sort_by_key(ToString::to_string);
        assert_eq!(listed, expected);
    });
}
