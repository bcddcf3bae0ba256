//! Sockets, the TAP device, and what drives the engines: the only module with system calls, clocks
//! and threads.
//!
//! * [`tap`]: the device on the local bridge.
//! * [`udp`]: the socket of the data plane.

pub mod tap;
pub mod udp;
