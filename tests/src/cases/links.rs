//! Two hosts: who dials, which version they speak, what they trust.

use super::{LONG, PASSWORD, SHORT, TRANSFER, attach_one_each};
use crate::lab::{Lab, address};
use crate::node::{Kind, Options};

/// One host dials, the other is dialled; with `protocol` 1, one of ours among them speaks nothing
/// newer.
pub fn dial(dialler: Kind, acceptor: Kind, password: Option<&str>, protocol: u8) {
    assert!(
        protocol == 2 || dialler == Kind::Meshctl || acceptor == Kind::Meshctl,
        "the original cannot be kept from version 2"
    );
    let options = |kind, peers: &[_]| Options {
        max_protocol: (kind == Kind::Meshctl && protocol == 1).then_some(1),
        min_protocol: (protocol == 2).then_some(2),
        ..Options::new(password, peers)
    };
    let mut lab = Lab::new(2, 1500);
    lab.start(1, acceptor, &options(acceptor, &[]));
    lab.start(2, dialler, &options(dialler, &[address(1)]));
    lab.await_full_mesh(&[1, 2]);
    let (accepted, dialled) = (&lab.connections(1)[0], &lab.connections(2)[0]);
    assert!(!accepted.outbound, "{accepted:?}");
    assert!(
        accepted.address.starts_with(&format!("{}:", address(2))),
        "{accepted:?}"
    );
    assert!(dialled.outbound, "{dialled:?}");
    assert_eq!(dialled.address, format!("{}:6783", address(1)));
    for connection in [accepted, dialled] {
        let sealed = connection.info.starts_with("encrypted");
        assert_eq!(sealed, password.is_some(), "{connection:?}");
        // An end that speaks protocol 1 says nothing of overlays.
        let is_ours = [acceptor, dialler] == [Kind::Meshctl; 2] && protocol == 2;
        let overlay = if is_ours { "shuttle" } else { "sleeve" };
        assert!(connection.info.contains(overlay), "{connection:?}");
    }
    for number in [1, 2] {
        lab.await_log(number, &format!("using protocol version {protocol}"));
    }
    let containers = attach_one_each(&mut lab, &[1, 2]);
    lab.ping_all(&containers, SHORT);
    lab.ping_all(&containers, LONG);
    lab.transfer(containers[0], containers[1], TRANSFER);
    lab.transfer(containers[1], containers[0], TRANSFER);
}

/// Both dial each other at once, again and again: one connection is left each time.
pub fn both_dial(kinds: [Kind; 2], password: Option<&str>) {
    let mut lab = Lab::new(2, 1500);
    lab.start(1, kinds[0], &Options::new(password, &[address(2)]));
    lab.start(2, kinds[1], &Options::new(password, &[address(1)]));
    lab.await_full_mesh(&[1, 2]);
    let containers = attach_one_each(&mut lab, &[1, 2]);
    lab.ping_all(&containers, SHORT);
    let dialled: usize = [1, 2]
        .iter()
        .map(|number| {
            lab.connections(*number)
                .iter()
                .filter(|found| found.outbound)
                .count()
        })
        .sum();
    assert_eq!(
        dialled,
        1,
        "{:?} {:?}",
        lab.connections(1),
        lab.connections(2)
    );
}

/// Hosts that trust each other's subnet send frames in clear, although there is a password; when
/// only one trusts the other, they do not.
pub fn trusted(kinds: [Kind; 2], both: bool) {
    let subnet = "192.168.77.0/24".to_owned();
    let mut lab = Lab::new(2, 1500);
    let options = |trusts: bool, peers: &[_]| Options {
        trusted_subnets: trusts.then(|| subnet.clone()),
        ..Options::new(PASSWORD, peers)
    };
    lab.start(1, kinds[0], &options(true, &[]));
    lab.start(2, kinds[1], &options(both, &[address(1)]));
    lab.await_full_mesh(&[1, 2]);
    for number in [1, 2] {
        let connection = lab.connections(number).remove(0);
        let clear = connection.info.starts_with("unencrypted");
        assert_eq!(clear, both, "host {number}: {connection:?}");
    }
    let containers = attach_one_each(&mut lab, &[1, 2]);
    lab.ping_all(&containers, SHORT);
    lab.ping_all(&containers, LONG);
}
