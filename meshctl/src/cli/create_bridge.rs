//! `create-bridge`: the bridge with its address and routes, before the daemon runs.
//!
//! For services of the host that need an address of the overlay to bind to. It takes no password,
//! may be run as often as one likes, before and after the daemon's start, and replaces the `ip`
//! lines of the classic unit.

use std::path::PathBuf;

use anyhow::Context as _;
use host::netlink::{Cidr, Netlink};
use serde_json::json;

use super::{Failure, Global, output};
use crate::daemon::migrate::WeaveDb;
use crate::daemon::store::DB_PREFIX;
use crate::daemon::{bridge, identity};

/// Flags of `create-bridge`.
#[derive(Debug, clap::Args)]
pub struct CreateBridgeArgs {
    /// Address of the host on the bridge, with its prefix length
    #[arg(long, env = "WEAVE_BRIDGE_ADDRESS", value_name = "CIDR", value_parser = optional_cidr)]
    address: Option<OptionalCidr>,
    /// A network to reach over the bridge that the address does not cover
    #[arg(long, env = "WEAVE_BREAKOUT_ROUTE", value_name = "CIDR", value_parser = optional_cidr)]
    breakout_route: Option<OptionalCidr>,
    /// Do not send multicast over the bridge
    #[arg(long)]
    no_multicast_route: bool,
    /// Name of the bridge
    #[arg(long, default_value = bridge::NAME, value_name = "NAME")]
    weave_bridge: String,
    /// MTU of the bridge; 0 means the largest
    #[arg(long, env = "WEAVE_MTU", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=65535), hide_default_value = true)]
    mtu: u32,
    /// Name that the daemon will have, as given to launch
    #[arg(long, value_name = "NAME")]
    name: Option<proto::PeerName>,
    /// What the path of the daemon's state file begins with
    #[arg(long, default_value = DB_PREFIX, value_name = "PREFIX")]
    db_prefix: PathBuf,
    /// State file of Weave Net that will be taken over, or "none", as for launch
    #[arg(long, value_name = "FILE")]
    weave_db: Option<WeaveDb>,
    /// Where the files that identify the host are: its root directory
    #[arg(
        long,
        default_value = "/",
        hide_default_value = true,
        value_name = "DIRECTORY"
    )]
    host_root: PathBuf,
}

/// A variable in an environment file may be empty.
#[derive(Debug, Clone, Copy)]
struct OptionalCidr(Option<Cidr>);

fn optional_cidr(text: &str) -> Result<OptionalCidr, String> {
    if text.is_empty() {
        return Ok(OptionalCidr(None));
    }
    let cidr: Cidr = text
        .parse()
        .map_err(|error: host::netlink::BadCidr| error.to_string())?;
    Ok(OptionalCidr(Some(cidr)))
}

impl CreateBridgeArgs {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let sources = identity::Sources {
            name: self.name,
            bridge: Some(self.weave_bridge.clone()),
            weave_db: self.weave_db.unwrap_or_default(),
            db_prefix: self.db_prefix,
            host_root: self.host_root,
        };
        let peer = identity::preview(&sources).await?;
        let netlink = Netlink::current().context("cannot speak with the kernel")?;
        let mtu = (self.mtu > 0).then_some(self.mtu);
        let name = &self.weave_bridge;
        bridge::ensure(&netlink, name, peer, mtu).await?;
        let given = |cidr: Option<OptionalCidr>| cidr.and_then(|cidr| cidr.0);
        let mut routes: Vec<_> = given(self.breakout_route)
            .iter()
            .map(Cidr::masked)
            .collect();
        if !self.no_multicast_route {
            routes.push(Cidr::MULTICAST);
        }
        let added = bridge::furnish(&netlink, name, given(self.address), &routes).await?;
        if global.json {
            let bridge = json!({"bridge": name, "mac": peer, "added": added});
            return output::print_json(&bridge);
        }
        if added.is_empty() {
            return output::print(&format!("{name} is as it should be\n"));
        }
        output::print(&format!("{name} has got {}\n", added.join(", ")))
    }
}
