//! Peers named and forgotten while the daemon runs, and remembered over its restarts.

use crate::lab::{Lab, address};
use crate::node::{Kind, Options};
use crate::wait;

/// Without discovery, the targets decide who is dialled; they are kept for `--resume`.
pub fn connect_forget_replace_resume(kinds: [Kind; 3]) {
    let mut lab = Lab::new(3, 1500);
    let alone = Options {
        no_discovery: true,
        ..Options::default()
    };
    for (number, kind) in (1..).zip(kinds) {
        lab.start(number, kind, &alone);
    }
    assert_eq!(lab.get(1, "/status/targets"), "");
    let targets = |lab: &Lab| lab.get(1, "/status/targets").trim().to_owned();
    let [second, third] = [address(2), address(3)].map(|address| address.to_string());

    post(&lab, "/connect", &format!("peer={second}"), 200);
    lab.await_neighbours(1, &["h2"]);
    assert_eq!(targets(&lab), second);

    // One that makes no sense does not keep the others from being taken.
    post(
        &lab,
        "/connect",
        &format!("peer=:6783&peer={third}&replace=true"),
        400,
    );
    lab.await_neighbours(1, &["h2", "h3"]);
    assert_eq!(targets(&lab), third);

    // What was replaced is not dialled again once it is gone.
    lab.crash(2);
    lab.await_neighbours(1, &["h3"]);
    lab.start(2, kinds[1], &alone);
    lab.crash(3);
    lab.await_neighbours(1, &[]);
    lab.start(3, kinds[2], &alone);
    lab.await_neighbours(1, &["h3"]);

    lab.stop(1);
    lab.start(
        1,
        kinds[0],
        &Options {
            resume: true,
            ..alone.clone()
        },
    );
    lab.await_neighbours(1, &["h3"]);
    assert_eq!(targets(&lab), third);

    // Forgetting leaves the connection alone.
    post(&lab, "/forget", &format!("peer={third}"), 200);
    wait::until("the target to be forgotten", || {
        let left = targets(&lab);
        wait::check(left.is_empty(), || left)
    });
    lab.await_neighbours(1, &["h3"]);
}

#[track_caller]
fn post(lab: &Lab, path: &str, form: &str, status: u16) {
    let answer = lab.request(1, "POST", path, form);
    assert_eq!(answer.status, status, "POST {path} {form}: {}", answer.body);
}
