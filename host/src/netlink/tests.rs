//! Against the kernel, each test in a network namespace of its own, which takes root; see
//! [`may_run`].

use std::fs::File;
use std::future::Future;

use rtnetlink::LinkBridge;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;
use crate::netns::tests::may_run;

/// Runs `test` on a runtime whose only thread is in a new network namespace.
fn isolated<F: Future<Output = ()>>(test: impl FnOnce(Netlink) -> F + Send) {
    if !may_run() {
        return;
    }
    let in_new_namespace = || {
        new_namespace().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { test(Netlink::current().unwrap()).await });
    };
    std::thread::scope(|scope| scope.spawn(in_new_namespace).join().unwrap());
}

#[expect(
    unsafe_code,
    reason = "rustix marks unshare unsafe because of CLONE_FILES"
)]
fn new_namespace() -> io::Result<()> {
    // SAFETY: NEWNET leaves the table of file descriptors shared.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// The network namespace of the calling thread.
fn own_namespace() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

const MAC: MacAddr = MacAddr([0x7a, 0x9f, 0xeb, 0xb6, 0x0c, 0x6e]);

#[test]
fn masks_cut_the_host_bits() {
    for (given, network) in [
        ("10.2.0.1/16", "10.2.0.0/16"),
        ("10.2.3.4/32", "10.2.3.4/32"),
        ("10.2.3.4/0", "0.0.0.0/0"),
        ("fe80::1:2/64", "fe80::/64"),
        ("fe80::1/128", "fe80::1/128"),
        ("fe80::1/0", "::/0"),
    ] {
        assert_eq!(cidr(given).masked(), cidr(network), "{given}");
    }
}

#[test]
fn cidr_text_round_trips() {
    for text in [
        "10.32.0.1/12",
        "0.0.0.0/0",
        "fe80::1/64",
        "::/0",
        "1.2.3.4/32",
    ] {
        assert_eq!(cidr(text).to_string(), text);
    }
    for bad in [
        "",
        "10.0.0.1",
        "10.0.0.1/",
        "10.0.0.1/33",
        "10.0.0.1/+8",
        "::/129",
        "a/8",
    ] {
        assert!(bad.parse::<Cidr>().is_err(), "{bad}");
    }
}

#[test]
fn names_the_kernel_would_refuse_are_refused_before() {
    for bad in [
        "",
        ".",
        "..",
        "sixteen-letters-",
        "a b",
        "a/b",
        "a:b",
        "a\0",
    ] {
        assert!(check_name(bad).is_err(), "{bad:?}");
    }
    assert!(check_name("fifteen-letters").is_ok());
}

#[test]
fn bridge_is_made_once_and_keeps_its_mac_and_mtu() {
    isolated(async |netlink: Netlink| {
        let bridge = netlink
            .ensure_bridge("weave", Some(MAC), None)
            .await
            .unwrap();
        assert_eq!((bridge.mac, bridge.mtu), (Some(MAC), BRIDGE_MTU));
        assert_eq!((bridge.kind, bridge.up), (LinkKind::Bridge, false));
        assert_eq!(
            netlink
                .ensure_bridge("weave", Some(MAC), None)
                .await
                .unwrap(),
            bridge
        );
        assert_eq!(
            netlink.ensure_bridge("weave", None, None).await.unwrap(),
            bridge
        );

        // A narrow port with a lower address changes neither.
        netlink.add_veth("a", "b").await.unwrap();
        netlink
            .set_mac("a", MacAddr([2, 0, 0, 0, 0, 1]))
            .await
            .unwrap();
        netlink.set_master("a", Some("weave")).await.unwrap();
        assert_eq!(netlink.existing("weave").await.unwrap(), bridge);

        let narrow = netlink
            .ensure_bridge("weave", None, Some(1376))
            .await
            .unwrap();
        assert_eq!(
            (narrow.index, narrow.mac, narrow.mtu),
            (bridge.index, Some(MAC), 1376)
        );
    });
}

#[test]
fn bridge_gets_no_larger_mtu_than_its_tap_can_take() {
    isolated(async |netlink: Netlink| {
        let bridge = netlink.ensure_bridge("weave", None, Some(65535)).await;
        assert_eq!(bridge.unwrap().mtu, BRIDGE_MTU);
    });
}

#[test]
fn bridge_without_a_given_mac_keeps_its_random_one() {
    isolated(async |netlink: Netlink| {
        let bridge = netlink.ensure_bridge("weave", None, None).await.unwrap();
        netlink.add_veth("a", "b").await.unwrap();
        netlink
            .set_mac("a", MacAddr([2, 0, 0, 0, 0, 1]))
            .await
            .unwrap();
        netlink.add_port("weave", "a").await.unwrap();
        assert_eq!(netlink.existing("weave").await.unwrap(), bridge);
        let port = netlink.existing("a").await.unwrap();
        assert_eq!(
            (port.master, port.mtu, port.up),
            (Some(bridge.index), BRIDGE_MTU, true)
        );
        assert_eq!(port.kind, LinkKind::Veth);
        netlink.add_port("weave", "a").await.unwrap();
        netlink.set_hairpin("a", true).await.unwrap();
        netlink.set_master("a", None).await.unwrap();
        assert_eq!(netlink.existing("a").await.unwrap().master, None);
    });
}

#[test]
fn port_does_not_narrow_a_bridge_whose_mtu_nobody_set() {
    isolated(async |netlink: Netlink| {
        let message = LinkBridge::new("br").build();
        netlink.handle.link().add(message).execute().await.unwrap();
        netlink.add_veth("wide", "wide-far").await.unwrap();
        netlink.set_mtu("wide", 9000).await.unwrap();
        netlink.set_master("wide", Some("br")).await.unwrap();
        assert_eq!(netlink.existing("br").await.unwrap().mtu, 9000);
        netlink.add_veth("narrow", "narrow-far").await.unwrap();
        netlink.add_port("br", "narrow").await.unwrap();
        assert_eq!(netlink.existing("br").await.unwrap().mtu, 9000);
        assert_eq!(netlink.existing("narrow").await.unwrap().mtu, 9000);
    });
}

#[test]
fn other_device_in_the_bridges_place_is_reported() {
    isolated(async |netlink: Netlink| {
        netlink.add_veth("weave", "b").await.unwrap();
        let error = netlink
            .ensure_bridge("weave", None, None)
            .await
            .unwrap_err();
        assert!(
            matches!(&error, Error::NotABridge(name) if name == "weave"),
            "{error}"
        );
        assert!(error.to_string().contains("ip link delete weave"));
        let error = netlink.add_port("weave", "b").await.unwrap_err();
        assert!(matches!(error, Error::NotABridge(_)), "{error}");
    });
}

#[test]
fn links_are_listed_changed_renamed_and_deleted() {
    isolated(async |netlink: Netlink| {
        netlink.add_veth("a", "b").await.unwrap();
        let twice = netlink.add_veth("a", "c").await.unwrap_err();
        assert!(
            twice
                .to_string()
                .starts_with("cannot create veth pair a and c: "),
            "{twice}"
        );
        let mut names: Vec<_> = netlink
            .links()
            .await
            .unwrap()
            .into_iter()
            .map(|link| link.name)
            .collect();
        names.sort();
        assert_eq!(names, ["a", "b", "lo"]);

        netlink.set_mtu("a", 1376).await.unwrap();
        netlink.set_mac("a", MAC).await.unwrap();
        netlink.set_up("a").await.unwrap();
        let link = netlink.existing("a").await.unwrap();
        assert_eq!((link.mtu, link.mac, link.up), (1376, Some(MAC), true));
        netlink.set_down("a").await.unwrap();
        netlink.rename("a", "eth0").await.unwrap();
        let renamed = netlink.existing("eth0").await.unwrap();
        assert_eq!((renamed.index, renamed.up), (link.index, false));

        assert!(netlink.delete_link("eth0").await.unwrap());
        assert!(!netlink.delete_link("eth0").await.unwrap());
        assert_eq!(netlink.link("b").await.unwrap(), None);
        let gone = netlink.set_up("b").await.unwrap_err();
        assert_eq!(gone.to_string(), "there is no network device named \"b\"");
    });
}

#[test]
fn addresses_and_routes_are_idempotent() {
    isolated(async |netlink: Netlink| {
        netlink.add_veth("a", "b").await.unwrap();
        netlink.set_up("a").await.unwrap();
        netlink.set_up("b").await.unwrap();
        let address = cidr("10.32.0.1/12");
        assert!(netlink.add_address("a", address).await.unwrap());
        assert!(!netlink.add_address("a", address).await.unwrap());
        let v4 = |all: Vec<Cidr>| -> Vec<Cidr> {
            all.into_iter()
                .filter(|cidr| cidr.address.is_ipv4())
                .collect()
        };
        assert_eq!(v4(netlink.addresses("a").await.unwrap()), [address]);
        let index = netlink.existing("a").await.unwrap().index;
        let all = netlink.all_addresses().await.unwrap();
        assert!(all.contains(&(index, address)), "{all:?}");

        assert!(netlink.add_route(Cidr::MULTICAST, "a").await.unwrap());
        assert!(!netlink.add_route(Cidr::MULTICAST, "a").await.unwrap());
        let gateway = "10.32.0.2".parse().unwrap();
        assert!(netlink.add_route_via(Cidr::ANY, gateway).await.unwrap());
        let routes = netlink.routes().await.unwrap();
        let route = |destination: Cidr| {
            routes
                .iter()
                .find(|route| route.destination == destination)
                .unwrap()
        };
        assert_eq!(route(Cidr::MULTICAST).device, Some(index));
        assert!(route(Cidr::MULTICAST).link_scope);
        assert_eq!(route(Cidr::ANY).gateway, Some(gateway));
        assert!(!route(Cidr::ANY).link_scope);
        assert_eq!(route(cidr("10.32.0.0/12")).gateway, None);
        assert_eq!(routes.len(), 3);

        assert!(netlink.delete_address("a", address).await.unwrap());
        assert!(!netlink.delete_address("a", address).await.unwrap());
        assert_eq!(v4(netlink.addresses("a").await.unwrap()), []);
    });
}

#[test]
fn acts_inside_another_namespace() {
    isolated(async |netlink: Netlink| {
        // The namespace of a thread that has already ended lives on in the open file.
        let other = std::thread::spawn(|| new_namespace().map(|()| own_namespace()));
        let other = other.join().unwrap().unwrap();
        let inside = Netlink::inside(other.as_fd()).unwrap();

        netlink.add_veth("a", "b").await.unwrap();
        netlink
            .set_namespace("b", other.as_fd(), Some("ethwe"))
            .await
            .unwrap();
        assert_eq!(netlink.link("b").await.unwrap(), None);
        let moved = inside.existing("ethwe").await.unwrap();
        assert!(!moved.up);
        inside
            .add_address("ethwe", cidr("10.2.1.1/24"))
            .await
            .unwrap();
        inside.set_up("ethwe").await.unwrap();
        assert_eq!(inside.link("a").await.unwrap(), None);

        inside.tune("ethwe").await.unwrap();
        let setting = |path: &'static str| {
            let path = format!("/proc/sys/net/{path}");
            let read = || std::fs::read_to_string(&path);
            in_namespace(Some(other.as_fd()), read)
                .unwrap()
                .trim()
                .to_owned()
        };
        assert_eq!(setting("ipv4/neigh/ethwe/base_reachable_time"), "5");
        assert_eq!(setting("ipv4/neigh/ethwe/delay_first_probe_time"), "2");
        assert_eq!(setting("ipv4/neigh/ethwe/ucast_solicit"), "1");
        assert_eq!(setting("ipv6/conf/ethwe/accept_ra"), "0");
        let missing = netlink.tune("ethwe").await.unwrap_err();
        assert!(
            missing
                .to_string()
                .contains("/proc/sys/net/ipv4/neigh/ethwe"),
            "{missing}"
        );
    });
}

#[test]
fn missing_right_is_named() {
    let error = failed(
        "create bridge weave",
        io::Error::from_raw_os_error(libc::EPERM),
    );
    assert_eq!(
        error.to_string(),
        "cannot create bridge weave: permission denied; run as root or with CAP_NET_ADMIN"
    );
}

#[test]
fn namespaces_at_the_other_end_have_numbers() {
    isolated(async |netlink: Netlink| {
        let [far, unconnected] = [(); 2].map(|()| {
            std::thread::scope(|scope| {
                let made = scope.spawn(|| {
                    new_namespace().unwrap();
                    own_namespace()
                });
                made.join().unwrap()
            })
        });
        netlink.add_veth("port", "eth0").await.unwrap();
        assert_eq!(netlink.existing("port").await.unwrap().peer_namespace, None);
        assert_eq!(netlink.number_of(far.as_fd()).await.unwrap(), None);
        let moved = netlink.set_namespace("eth0", far.as_fd(), None).await;
        moved.unwrap();
        let number = netlink.number_of(far.as_fd()).await.unwrap();
        assert!(number.is_some());
        let port = netlink.existing("port").await.unwrap();
        assert_eq!(port.peer_namespace, number);
        assert_ne!(
            netlink.number_of(unconnected.as_fd()).await.unwrap(),
            number
        );
    });
}
