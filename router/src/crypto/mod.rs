//! Key agreement, sealing and the replay window.

pub mod aead;
pub mod keys;
pub mod replay;
pub mod secretbox;
pub mod session;
