//! Load between two network namespaces. Every generator is bounded in time, runs in this process,
//! and only its sockets live in the namespaces.

pub mod rtt;
pub mod tcp;
pub mod udp;
