//! What underlays of different widths do to packets of different lengths.

use super::{LONG, SHORT, TRANSFER, attach_one_each};
use crate::lab::{Lab, address};
use crate::node::{Kind, Options};
use crate::wait;

/// Bytes that the overlay adds to a packet: outer IP and UDP headers, names, length, Ethernet
/// header; and nonce and authenticator when sealed.
const OVERHEAD: u32 = 62;
const SEALED_OVERHEAD: u32 = 86;
/// The same between two of ours that seal: a longer header and an authenticator, and no names.
const SHUTTLE_OVERHEAD: u32 = 78;

/// Two hosts on an underlay of this MTU find out how much goes in one datagram, and carry packets of
/// any length, with and without the permission to fragment.
pub fn underlay(kinds: [Kind; 2], password: Option<&str>, mtu: u32) {
    let mut lab = Lab::new(2, mtu);
    lab.start(1, kinds[0], &Options::new(password, &[]));
    lab.start(2, kinds[1], &Options::new(password, &[address(1)]));
    lab.await_full_mesh(&[1, 2]);
    let overhead = match (kinds == [Kind::Meshctl; 2], password.is_some()) {
        (_, false) => OVERHEAD,
        (true, true) => SHUTTLE_OVERHEAD,
        (false, true) => SEALED_OVERHEAD,
    };
    let widest = mtu - overhead;
    for number in [1, 2] {
        lab.await_connection(number, "established", &format!("mtu={widest}"));
    }
    let containers = attach_one_each(&mut lab, &[1, 2]);
    // IP and ICMP headers are 28 bytes. The longest that goes whole, the next one, and the longest
    // that there is.
    let whole = usize::try_from(widest).unwrap() - 28;
    for len in [SHORT, whole, whole + 1, 1472, LONG, 65507] {
        lab.ping_all(&containers, len);
    }
    lab.transfer(containers[0], containers[1], TRANSFER);
    lab.transfer(containers[1], containers[0], TRANSFER);
}

/// The path between two hosts gets narrower while they use it; the overlay finds out.
pub fn narrowing(kinds: [Kind; 2], password: Option<&str>) {
    let mut lab = Lab::new(2, 1500);
    lab.start(1, kinds[0], &Options::new(password, &[]));
    lab.start(2, kinds[1], &Options::new(password, &[address(1)]));
    lab.await_full_mesh(&[1, 2]);
    let containers = attach_one_each(&mut lab, &[1, 2]);
    lab.ping_all(&containers, LONG);
    for number in [1, 2] {
        lab.with_net(number, async |net| net.set_mtu("eth0", 1300).await.unwrap());
    }
    lab.ping_all(&containers, SHORT);
    wait::until("TCP to adapt to the narrower path", || {
        lab.try_transfer(containers[0], containers[1], TRANSFER)
    });
    lab.ping_all(&containers, LONG);
}
