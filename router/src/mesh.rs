//! The control engine: connections, topology, gossip and connector joined.
