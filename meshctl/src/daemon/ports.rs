//! Frames of containers that were attached without offloads, joined on their way in.
//!
//! The original switches transmit offloads of a container's interface off, since it captures
//! frames from the bridge. Such a container sends every segment by itself, and each would cross
//! bridge and TAP device alone. With receive offload (GRO) on the bridge's end of the container's
//! veth pair the kernel joins them again, for TCP and, where it can, for UDP. Interfaces with
//! offloads are passed over by the kernel.

use std::collections::BTreeSet;
use std::time::Duration;

use host::ethtool::set_features;
use host::netlink::{LinkKind, Netlink, Watch};
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
        let watch = match Watch::current() {
            Ok(watch) => watch,
            Err(error) => return tracing::warn!("new ports stay without receive offload: {error}"),
        };
        let mut watch = watch;
        loop {
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "cannot look at the bridge's ports");
            }
            tokio::select! {
                () = watch.changed() => sleep(SETTLE).await,
                () = end.cancelled() => return,
            }
        }
    }

    async fn look(&mut self) -> host::netlink::Result<()> {
        let Some(bridge) = self.netlink.link(&self.bridge).await? else {
            self.known.clear();
            return Ok(());
        };
        let ports = self.netlink.links().await?;
        let ports: Vec<_> = ports
            .into_iter()
            .filter(|link| link.master == Some(bridge.index) && link.kind == LinkKind::Veth)
            .collect();
        // An index may be given to another device later.
        self.known
            .retain(|index| ports.iter().any(|port| port.index == *index));
        for port in ports {
            if !self.known.insert(port.index) {
                continue;
            }
            let name = &port.name;
            match set_features(name, &[("rx-gro", true)]) {
                Ok(()) => tracing::debug!(port = %name, "receive offload is on"),
                Err(error) => tracing::info!(port = %name, %error, "no receive offload on a port"),
            }
            // Kernels before 5.12 do not know it.
            if let Err(error) = set_features(name, &[("rx-udp-gro-forwarding", true)]) {
                tracing::debug!(port = %name, %error, "no receive offload for UDP on a port");
            }
        }
        Ok(())
    }
}
