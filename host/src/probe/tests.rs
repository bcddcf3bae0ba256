use std::os::fd::AsFd;

use super::*;
use crate::netlink::Netlink;
use crate::netns::name_for;
use crate::netns::tests::may_run;

/// A namespace whose loopback works.
fn netns(name: &str) -> Netns {
    let netns = Netns::create(&name_for("probetest", name)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    runtime.block_on(async {
        Netlink::inside(netns.as_fd())
            .unwrap()
            .set_up("lo")
            .await
            .unwrap();
    });
    netns
}

#[test]
fn checksum_is_that_of_the_internet() {
    // The example of RFC 1071, section 3.
    assert_eq!(
        checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
        !0xddf2
    );
    assert_eq!(checksum(&[0xff]), 0x00ff);
    assert_eq!(checksum(&echo(ECHO_REQUEST, 0x1234, 57)), 0);
}

#[test]
fn the_long_and_the_short_ping_come_back() {
    if !may_run() {
        return;
    }
    let netns = netns("ping");
    for len in [0, 1, 56, 1473, 65000, MAX_ECHO_LEN] {
        let rtt = netns
            .run(|| ping(Ipv4Addr::LOCALHOST, len, Duration::from_secs(60)))
            .unwrap();
        assert!(rtt.is_ok(), "{len} bytes: {rtt:?}");
    }
    let too_long = ping(Ipv4Addr::LOCALHOST, MAX_ECHO_LEN + 1, Duration::ZERO).unwrap_err();
    assert_eq!(too_long.kind(), io::ErrorKind::InvalidInput);
    let nowhere = Ipv4Addr::new(192, 0, 2, 1);
    let refused = netns
        .run(|| ping(nowhere, 56, Duration::from_secs(60)))
        .unwrap()
        .unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::NetworkUnreachable);
}

#[test]
fn a_transfer_delivers_what_was_sent() {
    if !may_run() {
        return;
    }
    let netns = netns("transfer");
    for bytes in [0, 1, 250, 1_000_003] {
        let done = transfer(&netns, &netns, Ipv4Addr::LOCALHOST, Amount::Bytes(bytes)).unwrap();
        assert_eq!(done.bytes, bytes);
    }
    let a_moment = Amount::For(Duration::from_millis(50));
    let done = transfer(&netns, &netns, Ipv4Addr::LOCALHOST, a_moment).unwrap();
    assert!(done.bytes > 0 && done.megabits_per_second() > 0.0);

    let elsewhere = super::tests::netns("elsewhere");
    let failed = transfer(&elsewhere, &netns, Ipv4Addr::LOCALHOST, Amount::Bytes(1)).unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::ConnectionRefused);
}
