//! What `launch` runs.
//!
//! [`app`] starts everything in order and takes it down again: the state ([`store`]; [`migrate`] takes it over
//! from Weave Net), the own name
//! ([`identity`]), the bridge ([`bridge`]), address allocation ([`ipam`]), the router, the control API ([`admin`]); then it tells
//! systemd ([`notify`]) and waits.

mod adapter;
pub mod admin;
mod app;
pub mod bridge;
pub mod config;
mod control;
mod dns;
pub mod identity;
pub mod ipam;
mod log;
mod metrics;
pub mod migrate;
mod notify;

mod peers;
mod ports;
pub mod store;
mod template;

pub use app::run;
pub use bridge::NAME as BRIDGE;
