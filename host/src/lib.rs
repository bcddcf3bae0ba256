//! What a host needs around the router: network devices, addresses, routes, namespaces.
//!
//! The router itself knows nothing of this crate; the daemon uses it to make the bridge, to attach
//! the TAP device and to give containers their interface.

pub mod ethtool;
pub mod netlink;
pub mod netns;
pub mod probe;
pub mod sockdiag;
pub mod stage;
