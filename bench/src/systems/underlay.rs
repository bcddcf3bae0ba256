//! What the kernel carries: bridges, VXLAN, and how the underlay treats long packets.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use host::ethtool::set_features;
use host::netns::Netns;
use host::stage::INTERFACE;
use tests::lab::{self, Lab};
use tests::weather::Weather;

use super::UNDERLAY_MTU;
use super::peers::ip;

/// The bridge of a host.
pub(super) const BRIDGE: &str = "weave";
/// The kernel's device.
pub(super) const VXLAN: &str = "vxlan0";
/// MTU of containers behind it: without its own headers, Ethernet's included.
pub(super) const VXLAN_MTU: u32 = UNDERLAY_MTU - 50;

/// How the underlay treats packets longer than its MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// As a veth does: super-packets of a sender that segments late cross it whole.
    Veth,
    /// As a network card without transmit offloads: nothing crosses that is longer than the MTU.
    /// The receiver joins packets (GRO).
    Mtu,
}

/// What is between the hosts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Underlay {
    /// How it treats long packets, if it is fast.
    pub wire: Wire,
    /// Share of frames that it loses. With this, a delay or a rate it is made in user space: slow,
    /// and the same for all systems. Nothing crosses it that is longer than the MTU, and each packet
    /// is lost by itself: of a super-packet as much as of one that was sent alone. Nothing is joined
    /// on arrival.
    pub loss: f64,
    /// The time that each frame takes.
    pub delay: Duration,
    /// Bytes a second in each direction, if it bounds them.
    pub rate: Option<f64>,
    /// Decides which frames get lost.
    pub seed: u64,
}

impl Underlay {
    /// Two hosts with this between them.
    pub(super) fn build(&self) -> Result<Lab> {
        if self.loss > 0.0 || !self.delay.is_zero() || self.rate.is_some() {
            let lab = Lab::outdoors(2, self.seed);
            lab.set_weather(Weather {
                loss: self.loss,
                delay: self.delay,
                rate: self.rate,
                ..Weather::default()
            });
            return Ok(lab);
        }
        let lab = Lab::back_to_back(UNDERLAY_MTU);
        if self.wire == Wire::Mtu {
            for number in [1, 2] {
                segment_before_wire(lab.netns(number))?;
            }
        }
        Ok(lab)
    }
}

/// Makes a bridge on each host, of which `port` is a port.
pub(super) fn join_bridges(lab: &Lab, port: &str, mtu: u32) -> Result<()> {
    for number in [1, 2] {
        lab.with_net(number, async |net| -> Result<()> {
            net.ensure_bridge(BRIDGE, None, Some(mtu)).await?;
            net.set_up(BRIDGE).await?;
            net.set_mtu(port, mtu).await?;
            Ok(net.add_port(BRIDGE, port).await?)
        })?;
    }
    Ok(())
}

/// Whether the kernel knows VXLAN.
pub(super) fn kernel_has_vxlan() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--net", "ip", "link", "add", VXLAN, "type", "vxlan"]);
    command.args(["id", "42", "dstport", "4789"]);
    let status = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

pub(super) fn add_vxlan(lab: &Lab, number: usize) -> Result<()> {
    let ends = [number, 3 - number].map(|number| IpAddr::from(lab::address(number)).to_string());
    let [local, remote] = &ends;
    let what = [
        "link", "add", VXLAN, "type", "vxlan", "id", "42", "dstport", "4789",
    ];
    let way = ["dev", INTERFACE, "local", local, "remote", remote];
    ip(lab, number, &[&what[..], &way[..]].concat()).context("the kernel makes no VXLAN device")
}

/// Gives a container back what it lost when it was attached as to a router that captures frames.
pub(super) fn restore_offloads(container: &Netns) -> Result<()> {
    let on = [("tx-checksum-ip-generic", true)];
    container
        .run(|| set_features(INTERFACE, &on))?
        .context("cannot switch on checksum offload")
}

/// Lets nothing longer than the MTU cross the underlay.
fn segment_before_wire(host: &Netns) -> Result<()> {
    let features = [
        ("tx-tcp-segmentation", false),
        ("tx-tcp-ecn-segmentation", false),
        ("tx-tcp-mangleid-segmentation", false),
        ("tx-tcp6-segmentation", false),
        ("tx-udp-segmentation", false),
        ("tx-generic-segmentation", false),
        ("rx-gro", true),
    ];
    host.run(|| set_features(INTERFACE, &features))?
        .context("cannot switch offloads of the underlay")
}
