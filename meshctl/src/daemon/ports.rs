//! Frames of containers that were attached without offloads, joined on their way in.
//!
//! The original switches transmit offloads of a container's interface off, since it captures
//! frames from the bridge. Such a container sends every segment by itself, and each would cross
//! bridge and TAP device alone. With receive offload (GRO) on the bridge's end of the container's
//! veth pair the kernel joins them again, for TCP and, where it can, for UDP. Interfaces with
//! offloads are passed over by the kernel.
//!
//! In the end it is switched off again: the original, if it comes back, would capture the joined
//! frames and find them too long.

use std::collections::BTreeSet;
use std::time::Duration;

use host::ethtool::set_features;
use host::netlink::{Link, LinkKind, Netlink, Watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Changes of a device come in swarms; how long to let them pass.
const SETTLE: Duration = Duration::from_millis(100);

/// Looks after the ports of a bridge.
pub(super) struct Ports {
    netlink: Netlink,
    bridge: String,
    /// Ports that have been switched, by their index.
    known: BTreeSet<u32>,
}

impl Ports {
    pub(super) fn new(netlink: Netlink, bridge: String) -> Self {
        Self {
            netlink,
            bridge,
            known: BTreeSet::new(),
        }
    }

    /// Looks after the ports until told to end.
    pub(super) async fn run(mut self, end: CancellationToken) {
        let mut watch = match Watch::current() {
            Ok(watch) => watch,
            Err(error) => return tracing::warn!("new ports stay without receive offload: {error}"),
        };
        loop {
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "cannot look at the bridge's ports");
            }
            tokio::select! {
                () = watch.changed() => sleep(SETTLE).await,
                () = end.cancelled() => break,
            }
        }
        match self.ports().await {
            Ok(ports) => {
                for port in ports {
                    switch(&port.name, false);
                }
            }
            Err(error) => tracing::warn!("receive offload of ports stays on: {error}"),
        }
    }

    /// Those of containers.
    async fn ports(&self) -> host::netlink::Result<Vec<Link>> {
        let Some(bridge) = self.netlink.link(&self.bridge).await? else {
            return Ok(Vec::new());
        };
        let mut links = self.netlink.links().await?;
        links.retain(|link| link.master == Some(bridge.index) && link.kind == LinkKind::Veth);
        Ok(links)
    }

    async fn look(&mut self) -> host::netlink::Result<()> {
        let ports = self.ports().await?;
        // An index may be given to another device later.
        self.known
            .retain(|index| ports.iter().any(|port| port.index == *index));
        for port in ports {
            if !self.known.insert(port.index) {
                continue;
            }
            switch(&port.name, true);
        }
        Ok(())
    }
}

fn switch(port: &str, on: bool) {
    match set_features(port, &[("rx-gro", on)]) {
        Ok(()) => tracing::debug!(%port, on, "receive offload"),
        Err(error) => tracing::info!(%port, on, %error, "cannot switch receive offload of a port"),
    }
    // Kernels before 5.12 do not know it.
    if let Err(error) = set_features(port, &[("rx-udp-gro-forwarding", on)]) {
        tracing::debug!(%port, on, %error, "cannot switch receive offload for UDP of a port");
    }
}
