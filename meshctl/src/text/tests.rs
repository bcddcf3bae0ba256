//! Golden texts.

use std::time::{Duration, UNIX_EPOCH};

use ipam::status::EntryStatus;
use proto::{MacAddr, PeerName, PeerUid, ShortId};
use router::status::{
    ConnectionState, ConnectionStatus, DataStatus, LinkStatus, MacStatus, MeshStatus,
    PeerConnectionStatus, PeerStatus, RouterStatus, Traffic,
};

use super::*;
use crate::report::Facts;

fn name(text: &str) -> PeerName {
    text.parse().unwrap()
}

/// A host alone in the world.
pub fn alone() -> RouterStatus {
    RouterStatus {
        mesh: MeshStatus {
            protocol: (1, 2),
            name: name("::1"),
            nickname: "host1".to_owned(),
            port: 6783,
            encryption: false,
            discovery: true,
            conn_limit: 200,
            trusted_subnets: Vec::new(),
            targets: Vec::new(),
            connections: Vec::new(),
            peers: vec![peer("::1", "host1", Vec::new())],
            unicast_routes: vec![(name("::1"), PeerName::UNKNOWN)],
            broadcast_routes: vec![(name("::1"), Vec::new())],
            terminations: 0,
        },
        data: DataStatus::default(),
    }
}

fn peer(own: &str, nickname: &str, connections: Vec<PeerConnectionStatus>) -> PeerStatus {
    PeerStatus {
        name: name(own),
        nickname: nickname.to_owned(),
        uid: PeerUid(7),
        short_id: Some(ShortId(3)),
        version: 2,
        connections,
    }
}

fn listed(far: &str, nickname: &str, address: &str, out: bool, up: bool) -> PeerConnectionStatus {
    PeerConnectionStatus {
        name: name(far),
        nickname: nickname.to_owned(),
        address: address.to_owned(),
        outbound: out,
        established: up,
    }
}

fn link(peer: &str, encrypted: bool, mtu: u16) -> LinkStatus {
    LinkStatus {
        peer: name(peer),
        overlay: "sleeve",
        fallback: None,
        cipher: None,
        established: true,
        encrypted,
        address: Some("10.0.0.2:6783".parse().unwrap()),
        mtu,
        fragments: true,
        queues: 1,
        traffic: Traffic {
            rx_frames: 1,
            rx_bytes: 100,
            tx_frames: 2,
            tx_bytes: 200,
        },
    }
}

fn target(address: &str, state: ConnectionState, error: Option<&str>) -> ConnectionStatus {
    ConnectionStatus {
        outbound: true,
        address: address.to_owned(),
        state,
        peer: None,
        error: error.map(str::to_owned),
        retry_in: None,
        encrypted: None,
        link: None,
    }
}

/// Every kind of connection at once.
pub fn busy() -> RouterStatus {
    let mut status = alone();
    let mesh = &mut status.mesh;
    mesh.encryption = true;
    mesh.discovery = false;
    mesh.trusted_subnets = vec!["10.0.0.0/8".to_owned(), "192.168.0.0/16".to_owned()];
    mesh.targets = vec!["10.0.0.2".to_owned(), "host3:6784".to_owned()];
    mesh.connections = vec![
        ConnectionStatus {
            peer: Some((name("::2"), "host2".to_owned())),
            encrypted: Some(true),
            link: Some(link("::2", true, 1414)),
            ..target("10.0.0.2:6783", ConnectionState::Established, None)
        },
        ConnectionStatus {
            outbound: false,
            peer: Some((name("7a:9f:eb:b6:0c:6e"), "host3".to_owned())),
            encrypted: Some(false),
            link: Some(link("7a:9f:eb:b6:0c:6e", false, 65535)),
            ..target("10.0.0.3:40312", ConnectionState::Pending, None)
        },
        target("10.0.0.4:6783", ConnectionState::Connecting, None),
        target(
            "10.0.0.5:6783",
            ConnectionState::Retrying,
            Some("read tcp: reset"),
        ),
        ConnectionStatus {
            retry_in: Some(2.5),
            ..target(
                "10.0.0.6:6783",
                ConnectionState::Failed,
                Some("connection refused"),
            )
        },
        target(
            "10.0.0.7:6783",
            ConnectionState::Failed,
            Some("Cannot connect to ourself"),
        ),
    ];
    mesh.peers = vec![
        peer(
            "::1",
            "host1",
            vec![
                listed("::2", "host2", "10.0.0.2:6783", true, true),
                listed("7a:9f:eb:b6:0c:6e", "host3", "10.0.0.3:40312", false, false),
            ],
        ),
        peer(
            "::2",
            "host2\u{1b}[2J",
            vec![listed("::1", "host1", "10.0.0.1:51234", false, true)],
        ),
    ];
    status.data = DataStatus {
        macs: vec![MacStatus {
            mac: MacAddr([2, 0, 0, 0, 0, 9]),
            peer: name("::2"),
            age: 60.0,
        }],
        links: vec![link("::2", true, 1414)],
        local: Traffic {
            rx_frames: 10,
            ..Traffic::default()
        },
        drops: vec![("mac_unknown", 3), ("queue_full", 4)],
    };
    status
}

/// The report about `status` at a fixed moment.
pub fn report(status: &RouterStatus) -> Report {
    let facts = Facts {
        ready: true,
        version: "0.1.0".to_owned(),
        interface: "vethwe-tap (via TAP)".to_owned(),
        pid: 42,
        bridge: "weave".to_owned(),
        state: "/var/lib/meshctl/data.redb".to_owned(),
    };
    Report::new(
        &facts,
        status,
        UNIX_EPOCH + Duration::from_secs(1_611_576_000),
    )
}

#[test]
fn status_of_a_host_alone() {
    assert_eq!(
        status(&report(&alone())),
        "        Version: 0.1.0 (version check update disabled)

        Service: router
       Protocol: weave 1..2
           Name: 00:00:00:00:00:01(host1)
     Encryption: disabled
  PeerDiscovery: enabled
        Targets: 0
    Connections: 0
          Peers: 1
 TrustedSubnets: none
"
    );
}

#[test]
fn status_counts_only_what_occurs() {
    let mut busy = busy();
    busy.mesh.protocol = (2, 2);
    assert_eq!(
        status(&report(&busy)),
        "        Version: 0.1.0 (version check update disabled)

        Service: router
       Protocol: weave 2
           Name: 00:00:00:00:00:01(host1)
     Encryption: enabled
  PeerDiscovery: disabled
        Targets: 2
    Connections: 6 (1 established, 1 pending, 1 retrying, 2 failed, 1 connecting)
          Peers: 2 (with 2 established, 1 pending connections)
 TrustedSubnets: 10.0.0.0/8, 192.168.0.0/16
"
    );
}

/// An allocator in the middle of its life, with a neighbour out of reach.
pub fn allocating() -> Allocation {
    let entry = |token: &str, size, peer: &str, nickname: &str, known| EntryStatus {
        token: token.parse().unwrap(),
        size,
        peer: name(peer),
        nickname: nickname.to_owned(),
        is_known_peer: known,
        version: 1,
    };
    Allocation {
        paxos: None,
        range: "10.32.0.0/24".parse().unwrap(),
        range_size: 256,
        active_count: 2,
        default_subnet: "10.32.0.0/25".parse().unwrap(),
        entries: vec![
            entry("10.32.0.0", 128, "::2", "host\n2", false),
            entry("10.32.0.128", 128, "::1", "host1", true),
        ],
        pending_claims: Vec::new(),
        pending_allocates: vec!["c 10.32.0.0/24".to_owned()],
        name: name("::1"),
        save_error: None,
        quorum: None,
        quorum_warning: None,
    }
}

#[test]
fn status_tells_of_allocation() {
    let mut allocation = allocating();
    assert_eq!(
        ipam(&allocation),
        "00:00:00:00:00:01(host1)                   128 IPs (50.0% of total) (2 active)
00:00:00:00:00:02(host\u{fffd}2)                  128 IPs (50.0% of total) - unreachable!
"
    );
    let mut report = report(&alone());
    report.ipam = Some(allocation.clone());
    let begin = status(&self::report(&alone()));
    let text = status(&report);
    let (_, own) = text.split_once(&begin).unwrap();
    assert_eq!(
        own,
        "
        Service: ipam
         Status: waiting for IP(s) to become available
          Range: 10.32.0.0/24
  DefaultSubnet: 10.32.0.0/25
"
    );
    allocation.quorum_warning = Some("odd".to_owned());
    let shares = ipam(&allocation);
    allocation.save_error = Some("full".to_owned());
    assert_eq!(ipam(&allocation), shares + "Warning: full\n");
    report.ipam = Some(allocation);
    let end = "        Warning: odd\n        Warning: full\n";
    assert!(status(&report).ends_with(end));
    let json = serde_json::to_string(&report).unwrap();
    let back = Report::from_json(&json).unwrap();
    assert_eq!(status(&back), status(&report));
    assert_eq!(back.ipam, report.ipam);
}

#[test]
fn targets_as_the_user_wrote_them() {
    assert_eq!(targets(&report(&busy())), "10.0.0.2\nhost3:6784\n");
    assert_eq!(targets(&report(&alone())), "");
}

#[test]
fn connections_of_every_kind() {
    assert_eq!(
        connections(&report(&busy())),
        "\
-> 10.0.0.2:6783         established encrypted   sleeve 00:00:00:00:00:02(host2) encrypted=truemtu=1414
<- 10.0.0.3:40312        pending     unencrypted sleeve 7a:9f:eb:b6:0c:6e(host3) mtu=65535
-> 10.0.0.4:6783         connecting   
-> 10.0.0.5:6783         retrying    read tcp: reset 
-> 10.0.0.6:6783         failed      connection refused, retry: 2021-01-25 12:00:02.5 +0000 UTC 
-> 10.0.0.7:6783         failed      Cannot connect to ourself, retry: never 
"
    );
}

#[test]
fn connections_without_password() {
    let mut status = busy();
    status.mesh.connections.truncate(2);
    status.mesh.connections[0].encrypted = None;
    status.mesh.connections[1].encrypted = None;
    status.mesh.connections[1].link = None;
    assert_eq!(
        connections(&report(&status)),
        "\
-> 10.0.0.2:6783         established sleeve 00:00:00:00:00:02(host2) mtu=1414
<- 10.0.0.3:40312        pending     none   7a:9f:eb:b6:0c:6e(host3) 
"
    );
}

#[test]
fn peers_with_what_they_list() {
    assert_eq!(
        peers(&report(&busy())),
        "\
00:00:00:00:00:01(host1)
   -> 10.0.0.2:6783         00:00:00:00:00:02(host2)              established
   <- 10.0.0.3:40312        7a:9f:eb:b6:0c:6e(host3)              pending
00:00:00:00:00:02(host2\u{fffd}[2J)
   <- 10.0.0.1:51234        00:00:00:00:00:01(host1)              established
"
    );
}

#[test]
fn report_has_the_keys_of_the_original() {
    let json = serde_json::to_value(report(&busy())).unwrap();
    assert_eq!(json["Ready"], true);
    assert_eq!(json["VersionCheck"]["NextCheckAt"], "0001-01-01T00:00:00Z");
    let router = &json["Router"];
    let keys: Vec<_> = router.as_object().unwrap().keys().cloned().collect();
    let expected = "BroadcastRoutes CaptureStats Connections Encryption Interface MACs Name \
        NickName OverlayDiagnostics PeerDiscovery Peers Port Protocol ProtocolMaxVersion \
        ProtocolMinVersion Targets TerminationCount TrustedSubnets UnicastRoutes";
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(sorted.join(" "), expected);
    assert_eq!(router["Peers"][0]["UID"], 7);
    assert_eq!(router["Peers"][0]["ShortID"], 3);
    assert_eq!(router["MACs"][0]["LastSeen"], "2021-01-25T11:59:00Z");
    assert_eq!(router["MACs"][0]["NickName"], "host2\u{1b}[2J");
    assert_eq!(router["Connections"][0]["Attrs"]["mtu"], 1414);
    assert_eq!(router["Connections"][2]["Attrs"], Value::Null);
    assert_eq!(
        router["Connections"][4]["RetryAt"],
        "2021-01-25T12:00:02.5Z"
    );
    assert_eq!(router["UnicastRoutes"][0]["Via"], "00:00:00:00:00:00");
    assert_eq!(json["Meshctl"]["Drops"]["queue_full"], 4);
    assert_eq!(json["IPAM"], Value::Null);
    let back: Report = serde_json::from_value(json).unwrap();
    assert_eq!(connections(&back), connections(&report(&busy())));
}
