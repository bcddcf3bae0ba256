//! Those who wait for an address.

use super::{await_status, call, draw, options, waiting_count};
use crate::lab::Lab;
use crate::node::{Kind, at};
use crate::wait;

/// Whoever goes away does not wait any longer, whatever for.
pub fn client_gone(kind: Kind) {
    let mut lab = Lab::new(1, 1500);
    // Two addresses, once somebody else is there.
    lab.start(1, kind, &options("10.32.0.0/30", "consensus=2", &[]));
    let caller = lab.caller(1);
    let asked = [
        ("GET", "/ring"),
        ("POST", "/ip/a"),
        ("POST", "/ip/b?check-alive=true"),
        ("PUT", "/ip/c/10.32.0.2/30"),
    ];
    let asked = asked.map(|(method, path)| caller.begin(method, path).unwrap());
    wait::until("all to wait", || {
        let count = waiting_count(&lab, 1);
        wait::check(count == 3, || format!("{count} do"))
    });
    await_status(&lab, 1, "awaiting consensus (quorum: 2, known: 1)");
    drop(asked);
    wait::until("nobody to wait", || {
        let count = waiting_count(&lab, 1);
        wait::check(count == 0, || format!("{count} do"))
    });
    lab.stop(1);

    // With a ring, and nothing left in it.
    lab.start(1, kind, &options("10.32.0.0/30", "consensus=1", &[]));
    for ident in ["a", "b"] {
        draw(&lab, 1, ident);
    }
    let late = caller.begin("POST", "/ip/late").unwrap();
    await_status(&lab, 1, "waiting for IP(s) to become available");
    drop(late);
    await_status(&lab, 1, "Status: ready");
    call(&lab, 1, "DELETE", "/ip/a", 204);
    // Nobody took it for the one that went away.
    assert_eq!(at(&lab.report(1), "/IPAM/ActiveIPs"), 1);
    draw(&lab, 1, "c");
}

/// Those who ask in the name of a container get and keep their addresses as others do, and are not
/// told any when allocation ends.
pub fn containers(kind: Kind) {
    let mut lab = Lab::new(1, 1500);
    let told_in = options("10.32.0.0/29", "consensus=1", &[]);
    lab.start(1, kind, &told_in);
    let path = "/ip/c?check-alive=true";
    let first = call(&lab, 1, "POST", path, 200);
    call(&lab, 1, "PUT", "/ip/c/10.32.0.5/29?check-alive=true", 204);
    assert_eq!(call(&lab, 1, "POST", path, 200), first);
    lab.crash(1);
    lab.start(1, kind, &told_in);
    assert_eq!(call(&lab, 1, "POST", path, 200), first);
    for ident in ["d", "e", "f", "g"] {
        draw(&lab, 1, ident);
    }
    let late = lab
        .caller(1)
        .begin("POST", "/ip/late?check-alive=true")
        .unwrap();
    await_status(&lab, 1, "waiting for IP(s) to become available");
    call(&lab, 1, "DELETE", "/peer", 204);
    let late = late.answer(wait::PATIENCE).unwrap();
    assert_eq!((late.status, late.body.as_str()), (200, "cancelled"));
    assert_eq!(call(&lab, 1, "POST", "/ip/new", 200), "cancelled");
}
