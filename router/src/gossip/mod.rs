//! Gossip: payloads on named channels, spread from neighbour to neighbour.
//!
//! A received message goes to [`Channels`], which hands its payload to the owner of the channel and
//! says what to pass on. Channels without an owner here are relayed all the same, so that services
//! which only some peers run reach one another through all of them. What is to be sent waits in one
//! [`Outbox`] per connection, merged, until the connection can take it.
//!
//! Source: Weave mesh protocol, section 7.

pub mod channels;
pub mod outbox;
mod pending;

use std::fmt;
use std::sync::Arc;

pub use channels::Channels;
pub use outbox::Outbox;
pub use pending::Pending;

/// Name of a channel: any bytes, compared exactly. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelName(Arc<[u8]>);

impl ChannelName {
    /// The channel on which peers describe themselves.
    pub const TOPOLOGY: &'static [u8] = b"topology";

    /// The bytes, as on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for ChannelName {
    fn from(name: &[u8]) -> Self {
        Self(name.into())
    }
}

impl From<&str> for ChannelName {
    fn from(name: &str) -> Self {
        name.as_bytes().into()
    }
}

/// For maps keyed by channel to be searched by bytes.
impl std::borrow::Borrow<[u8]> for ChannelName {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Comes from anybody and goes to logs: no control characters.
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
