//! Sealing with NaCl's secretbox: XSalsa20-Poly1305 with a 24-byte nonce.
//!
//! ```text
//! sealed = tag (16) | ciphertext (as long as the message)
//! ```
//!
//! One session key seals both the messages of a TCP connection and its sleeve packets; their
//! nonces never meet, since a bit tells the transport and another the direction:
//!
//! ```text
//! byte  0       bit 7: the sender dialled the TCP connection; bit 6: sealed for TCP
//! bytes 1..16   zero (for TCP)
//! bytes 16..24  sequence number, u64 big-endian, from 0, per direction (for TCP)
//! ```
//!
//! Source: Weave mesh protocol, section 1.5. The cipher is that of the crate dryoc.

use dryoc::classic::crypto_box::{
    crypto_box_detached_afternm_inplace, crypto_box_open_detached_afternm_inplace,
};
use thiserror::Error;

use super::session::SessionKey;

/// Bytes that sealing adds.
pub const TAG_LEN: usize = 16;
/// Bytes of a nonce.
pub const NONCE_LEN: usize = 24;

/// What stands before the ciphertext and proves that it is genuine.
pub type Tag = [u8; TAG_LEN];
/// Must be different for all that one key seals.
pub type Nonce = [u8; NONCE_LEN];

/// The tag does not belong to this ciphertext, nonce and key. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("seal broken, or made with another key")]
pub struct BadSeal;

/// Seals `message` where it stands and returns the tag, which goes before it.
#[must_use]
pub fn seal_in_place(key: &SessionKey, nonce: &Nonce, message: &mut [u8]) -> Tag {
    let mut tag = [0; TAG_LEN];
    crypto_box_detached_afternm_inplace(message, &mut tag, nonce, &key.0);
    tag
}

/// Opens what stood behind `tag` where it stands. If the seal is broken nothing is changed.
pub fn open_in_place(
    key: &SessionKey,
    nonce: &Nonce,
    sealed: &mut [u8],
    tag: &Tag,
) -> Result<(), BadSeal> {
    crypto_box_open_detached_afternm_inplace(sealed, tag, nonce, &key.0).map_err(|_| BadSeal)
}

/// Opens `sealed`, tag first, where it stands, and returns the message within it.
pub fn open<'a>(
    key: &SessionKey,
    nonce: &Nonce,
    sealed: &'a mut [u8],
) -> Result<&'a mut [u8], BadSeal> {
    let (tag, message) = sealed.split_first_chunk_mut().ok_or(BadSeal)?;
    open_in_place(key, nonce, message, tag)?;
    Ok(message)
}

/// Nonce of message number `sequence` of one direction of a TCP connection. `outbound`: the
/// sender's end of the connection dialled.
#[must_use]
pub fn tcp_nonce(outbound: bool, sequence: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[0] = if outbound { 0xc0 } else { 0x40 };
    nonce[16..].copy_from_slice(&sequence.to_be_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use crypto_secretbox::XSalsa20Poly1305;
    use crypto_secretbox::aead::{AeadInPlace, KeyInit};
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;

    fn bytes(value: &Json) -> Vec<u8> {
        hex::decode(value.as_str().unwrap()).unwrap()
    }

    fn key(bytes: &[u8]) -> SessionKey {
        SessionKey(bytes.try_into().unwrap())
    }

    #[test]
    fn recorded_messages() {
        let file: Json = serde_json::from_str(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/vectors/tcp_encrypted.json"
        )))
        .unwrap();
        let vectors = file["vectors"].as_array().unwrap();
        assert_eq!(vectors.len(), 12);
        for vector in vectors {
            let inputs = &vector["inputs"];
            let key = key(&bytes(&inputs["session_key"]));
            let nonce = tcp_nonce(
                inputs["sender_outbound"].as_bool().unwrap(),
                inputs["sequence"].as_u64().unwrap(),
            );
            assert_eq!(nonce[..], bytes(&vector["meaning"]["nonce"]));
            let mut message = bytes(&inputs["plaintext"]);
            let mut sealed = bytes(&vector["meaning"]["sealed"]);
            assert_eq!(
                open(&key, &nonce, &mut sealed.clone()),
                Ok(&mut message[..])
            );
            let tag = seal_in_place(&key, &nonce, &mut message);
            assert_eq!([&tag[..], &message].concat(), sealed);
            sealed[15] ^= 1;
            assert_eq!(open(&key, &nonce, &mut sealed), Err(BadSeal));
        }
    }

    #[test]
    fn what_is_shorter_than_a_tag_does_not_open() {
        let key = key(&[1; 32]);
        assert_eq!(open(&key, &tcp_nonce(true, 0), &mut [0; 15]), Err(BadSeal));
    }

    proptest! {
        #[test]
        fn agrees_with_crypto_secretbox(
            secret in any::<[u8; 32]>(),
            nonce in any::<[u8; 24]>(),
            message in prop::collection::vec(any::<u8>(), 0..2000),
            flip in any::<prop::sample::Index>(),
        ) {
            let ours = key(&secret);
            let theirs = XSalsa20Poly1305::new((&secret).into());
            let mut sealed = message.clone();
            let tag = seal_in_place(&ours, &nonce, &mut sealed);
            let mut expected = message.clone();
            let expected_tag = theirs
                .encrypt_in_place_detached((&nonce).into(), b"", &mut expected)
                .unwrap();
            prop_assert_eq!(&sealed, &expected);
            prop_assert_eq!(&tag[..], &expected_tag[..]);

            // One flipped bit anywhere, and nothing opens nor changes.
            let mut forged = [&tag[..], &sealed].concat();
            let bit = flip.index(forged.len() * 8);
            forged[bit / 8] ^= 1 << (bit % 8);
            let before = forged.clone();
            prop_assert_eq!(open(&ours, &nonce, &mut forged), Err(BadSeal));
            prop_assert_eq!(forged, before);

            open_in_place(&ours, &nonce, &mut sealed, &tag).unwrap();
            prop_assert_eq!(sealed, message);
        }
    }
}
