//! Routers, ours and the original's, and what they are told.

use tests::lab::{self, Lab};
use tests::node::{Kind, Options, at};

use super::{Programs, UNDERLAY_MTU};

/// Of hosts that seal.
const PASSWORD: &str = "correct horse battery staple";

/// A router on each host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mesh {
    /// As it is called on the command line and in tables.
    pub name: &'static str,
    /// What is particular about it.
    pub about: &'static str,
    /// The router of the sender, and that of the receiver.
    pub kinds: [Kind; 2],
    /// Whether there is a password.
    pub sealed: bool,
    /// Whether containers keep the offloads that a veth has, as whoever attaches them with `ip`
    /// leaves them; otherwise transmit checksums are off, and with them segmentation, as after
    /// `weave attach`.
    pub offloads: bool,
    /// What frames travel by.
    pub overlay: &'static str,
    /// What the routers are told besides.
    pub extra: &'static [&'static str],
}

use Kind::{Meshctl, Weaver};

impl Mesh {
    const OURS: Self = Self {
        name: "meshctl",
        about: "shuttle, containers with offloads",
        kinds: [Meshctl; 2],
        sealed: true,
        offloads: true,
        overlay: "shuttle",
        extra: &[],
    };
    const THEIRS: Self = Self {
        name: "weaver",
        about: "the original at both ends",
        kinds: [Weaver; 2],
        sealed: true,
        offloads: false,
        overlay: "sleeve",
        extra: &[],
    };
    const SLEEVE: Self = Self {
        name: "meshctl-sleeve",
        about: "Weave's format, containers with offloads",
        overlay: "sleeve",
        extra: &["--overlays=sleeve"],
        ..Self::OURS
    };

    /// The reference: two of the original.
    pub const WEAVER: &Self = &Self::THEIRS;
    /// As users run it.
    pub const MESHCTL: &Self = &Self::OURS;
    /// Containers attached by others.
    pub const TX_OFF: &Self = &Self {
        name: "meshctl-tx-off",
        about: "shuttle, containers attached as by Weave",
        offloads: false,
        ..Self::OURS
    };
    /// The other cipher.
    pub const CHACHA: &Self = &Self {
        name: "meshctl-chacha",
        about: "shuttle with ChaCha20-Poly1305, containers with offloads",
        extra: &["--cipher=chacha20"],
        ..Self::OURS
    };
    /// Keys that change under way.
    pub const REKEY: &Self = &Self {
        name: "meshctl-rekey",
        about: "shuttle with new keys every second",
        extra: &["--rekey-interval=1"],
        ..Self::OURS
    };
    /// Flows spread over threads.
    pub const THREADS: &Self = &Self {
        name: "meshctl-2-threads",
        about: "shuttle with two data threads on each host",
        extra: &["--data-threads=2"],
        ..Self::OURS
    };
    /// No cipher.
    pub const CLEAR: &Self = &Self {
        name: "meshctl-clear",
        about: "shuttle without a password",
        sealed: false,
        ..Self::OURS
    };
    /// The other overlay.
    pub const BY_SLEEVE: &Self = &Self::SLEEVE;
    /// The other overlay, and containers attached by others.
    pub const BY_SLEEVE_TX_OFF: &Self = &Self {
        name: "meshctl-sleeve-tx-off",
        about: "Weave's format, containers attached as by Weave",
        offloads: false,
        ..Self::SLEEVE
    };
    /// What is left where kernel and underlay help with nothing.
    pub const NO_OFFLOAD: &Self = &Self {
        name: "meshctl-no-offload",
        about: "shuttle, plain TAP devices, every datagram by itself, containers as by Weave",
        offloads: false,
        extra: &["--tap=plain", "--udp-offload=false", "--port-gro=false"],
        ..Self::OURS
    };
    /// The last resort.
    pub const STREAM: &Self = &Self {
        name: "meshctl-stream",
        about: "frames in the TCP connection, as where no UDP passes",
        overlay: "stream",
        extra: &["--overlays=stream"],
        ..Self::OURS
    };
    /// Ours sends.
    pub const TO_WEAVER: &Self = &Self {
        name: "meshctl-to-weaver",
        about: "one of each, ours sends",
        kinds: [Meshctl, Weaver],
        ..Self::THEIRS
    };
    /// Ours receives.
    pub const FROM_WEAVER: &Self = &Self {
        name: "weaver-to-meshctl",
        about: "one of each, the original sends",
        kinds: [Weaver, Meshctl],
        ..Self::THEIRS
    };
    /// The original without a password.
    pub const WEAVER_CLEAR: &Self = &Self {
        name: "weaver-clear",
        about: "the original at both ends, without a password",
        sealed: false,
        ..Self::THEIRS
    };

    /// What fits into one datagram, as containers are told.
    pub(super) fn mtu(&self) -> u32 {
        match self.overlay {
            "shuttle" => UNDERLAY_MTU - 78,
            // Of an encrypted sleeve: 1414 in truth.
            _ => UNDERLAY_MTU - 90,
        }
    }

    /// Starts both routers and waits until they know how much goes into one datagram.
    ///
    /// # Panics
    ///
    /// When they do not find each other, or do not agree on what they are to use.
    pub(super) fn start(&self, lab: &mut Lab, programs: &Programs) {
        for (number, kind) in [1, 2].into_iter().zip(self.kinds) {
            lab.start(number, kind, &self.options(number, programs));
        }
        lab.await_full_mesh(&[1, 2]);
        for number in [1, 2] {
            lab.await_connection(number, "established", self.overlay);
            let connection = lab.await_connection(number, "established", "mtu=");
            let as_wanted = connection.info.contains(self.overlay)
                && connection.info.starts_with("encrypted") == self.sealed;
            assert!(as_wanted, "not as wanted: {connection:?}");
        }
    }

    fn options(&self, number: usize, programs: &Programs) -> Options {
        let peers = if number == 1 {
            vec![]
        } else {
            vec![lab::address(1)]
        };
        let mut extra = vec![format!("--mtu={}", self.mtu())];
        extra.extend(self.extra.iter().map(ToString::to_string));
        Options {
            log_level: Some("info".to_owned()),
            program: Some(programs.meshctl.clone()),
            extra,
            ..Options::new(self.sealed.then_some(PASSWORD), &peers)
        }
    }

    /// Frames and datagrams that both routers have dropped so far, whatever the reason; only ours
    /// say.
    pub(super) fn dropped(&self, lab: &Lab) -> Option<u64> {
        (self.kinds == [Meshctl; 2]).then(|| {
            let of = |number| -> u64 {
                let report = lab.report(number);
                let drops = at(&report, "/Meshctl/Drops").as_object();
                let drops = drops.into_iter().flat_map(|drops| drops.values());
                drops.filter_map(serde_json::Value::as_u64).sum()
            };
            of(1) + of(2)
        })
    }
}
