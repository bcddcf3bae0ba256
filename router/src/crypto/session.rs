//! Agreement on the session key of one connection.
//!
//! ```text
//! shared      = HSalsa20(key = X25519(own secret, remote public), input = 16 zero bytes)
//! session key = SHA-256(shared | password)
//! ```
//!
//! Both ends make a fresh secret for each connection. Both must know the password; without it
//! they get different keys, which shows when the first sealed message does not open.
//!
//! Source: Weave mesh protocol, section 1.5. Unlike the original we refuse a public key of low
//! order, with which `shared` would be known to everybody: no honest end ever sends one.

use std::fmt;

use dryoc::classic::crypto_core::crypto_core_hsalsa20;
use dryoc::classic::crypto_hash::{
    crypto_hash_sha256_final, crypto_hash_sha256_init, crypto_hash_sha256_update,
};
use thiserror::Error;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of a public key on the wire.
pub const PUBLIC_KEY_LEN: usize = 32;

/// The password of the mesh: any bytes, at least one. Wiped from memory when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Password(Box<[u8]>);

impl Password {
    /// `None` if there are no bytes: an empty password means that there is none.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Option<Self> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            None
        } else {
            Some(Self(bytes))
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(secret)")
    }
}

/// The 32-byte key that seals one connection's messages and its sleeve packets.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionKey(pub(crate) [u8; 32]);

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(secret)")
    }
}

/// The remote end's public key makes a secret that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("remote public key is of low order, so that anybody could read the connection")]
pub struct LowOrderKey;

/// The key pair of one connection, of which only the public half leaves this process.
pub struct KeyPair(StaticSecret);

impl KeyPair {
    /// From 32 random bytes that are used for nothing else.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(StaticSecret::from(secret))
    }

    /// The public half, for the other end.
    pub fn public(&self) -> [u8; PUBLIC_KEY_LEN] {
        PublicKey::from(&self.0).to_bytes()
    }

    /// The key that both ends arrive at if both know `password`.
    pub fn agree(
        &self,
        remote_public: [u8; PUBLIC_KEY_LEN],
        password: &Password,
    ) -> Result<SessionKey, LowOrderKey> {
        let secret = self.0.diffie_hellman(&PublicKey::from(remote_public));
        if !secret.was_contributory() {
            return Err(LowOrderKey);
        }
        let mut shared = [0; 32];
        crypto_core_hsalsa20(&mut shared, &[0; 16], secret.as_bytes(), None);
        let mut key = SessionKey([0; 32]);
        let mut hash = crypto_hash_sha256_init();
        crypto_hash_sha256_update(&mut hash, &shared);
        crypto_hash_sha256_update(&mut hash, &password.0);
        crypto_hash_sha256_final(hash, &mut key.0);
        shared.zeroize();
        Ok(key)
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(secret)")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    fn array(value: &Json) -> [u8; 32] {
        hex::decode(value.as_str().unwrap())
            .unwrap()
            .try_into()
            .unwrap()
    }

    #[test]
    fn recorded_agreements() {
        let file: Json = serde_json::from_str(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/vectors/session_key.json"
        )))
        .unwrap();
        let mut agreed = 0;
        for vector in file["vectors"].as_array().unwrap() {
            let inputs = &vector["inputs"];
            if vector["name"] == "all-zero remote public key" {
                continue;
            }
            let password = hex::decode(inputs["password_hex"].as_str().unwrap()).unwrap();
            let password = Password::new(password).unwrap();
            let a = KeyPair::new(array(&inputs["private_a"]));
            let b = KeyPair::new(array(&inputs["private_b"]));
            assert_eq!(a.public(), array(&inputs["public_a"]));
            assert_eq!(b.public(), array(&inputs["public_b"]));
            let expected = array(&vector["meaning"]["session_key"]);
            assert_eq!(a.agree(b.public(), &password).unwrap().0, expected);
            assert_eq!(b.agree(a.public(), &password).unwrap().0, expected);
            agreed += 1;
        }
        assert_eq!(agreed, 12);
    }

    #[test]
    fn keys_of_low_order_are_refused() {
        let password = Password::new(*b"secret").unwrap();
        let pair = KeyPair::new([1; 32]);
        let low_order = [
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000",
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        for key in low_order {
            let key = array(&Json::from(key));
            assert_eq!(pair.agree(key, &password).unwrap_err(), LowOrderKey);
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let password = Password::new(*b"hunter2").unwrap();
        let key = SessionKey([7; 32]);
        let text = format!("{password:?} {key:?} {:?}", KeyPair::new([7; 32]));
        assert_eq!(text, "Password(secret) SessionKey(secret) KeyPair(secret)");
        assert!(Password::new([]).is_none());
    }
}
