//! Agreement on the session key of one connection.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// The 32-byte key that seals one connection's messages and its sleeve packets.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionKey(pub(crate) [u8; 32]);

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey(secret)")
    }
}
