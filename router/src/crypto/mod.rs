//! Key agreement, sealing and the replay window.

pub mod replay;
pub mod secretbox;
pub mod session;
