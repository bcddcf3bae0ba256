//! Sockets, the TAP device, and what drives the engines: the only module with system calls, clocks
//! and threads.
//!
//! ```text
//!            async runtime                              threads
//!   users ──► control task (mesh engine) ◄─bounded──► data threads (data engine)
//!                │      ▲        queues                 │            │
//!             tcp tasks: one reader and one           tap          udp
//!             writer each, dials, accepts          local bridge   neighbours
//! ```
//!
//! [`Router`] starts all of it.

mod data;
mod driver;
mod tcp;
#[cfg(test)]
mod testing;

pub mod tap;
pub mod udp;

pub use driver::{
    ConnectError, Router, RouterConfig, RouterHandle, SendError, StartError, Stopped,
};
