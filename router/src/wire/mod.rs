//! Layouts on the wire, as checked views and plain `decode`/`encode` pairs.

pub mod control;
pub mod ethernet;
pub mod intro;
pub mod shuttle;
pub mod sleeve;
