//! The seal of shuttle: authenticated encryption with a counter as nonce.
//!
//! ```text
//! nonce   4 zero bytes | counter, u64 big-endian
//! sealed  ciphertext (as long as the message) | tag (16)
//! ```
//!
//! A key seals one direction of one epoch of one link, so that a counter is a nonce; see
//! [`super::keys`]. Two suites: AES-256-GCM (NIST SP 800-38D), by far the faster where the processor
//! has it in hardware, and ChaCha20-Poly1305 (RFC 8439), fast everywhere. Both ends say what they
//! prefer, and the choice is the same on both: see [`Suites::common`].
//!
//! AES is that of the crate aws-lc-rs, ChaCha20 that of dryoc, each the fastest of those measured.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use dryoc::classic::crypto_aead_chacha20poly1305_ietf::{
    crypto_aead_chacha20poly1305_ietf_decrypt_detached_inplace,
    crypto_aead_chacha20poly1305_ietf_encrypt_detached_inplace,
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::secretbox::BadSeal;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;
/// Bytes that sealing adds, behind the message.
pub const TAG_LEN: usize = 16;

const NONCE_LEN: usize = 12;

/// What proves that a message is genuine.
pub type Tag = [u8; TAG_LEN];

/// A cipher with its authenticator. The numbers are those on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Suite {
    /// Fast where the processor helps.
    Aes256Gcm = 1,
    /// Fast everywhere.
    ChaCha20Poly1305 = 2,
}

impl Suite {
    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        }
    }
}

/// The suites that an end wants to use, as a set of bits on the wire: bit 0 says AES-256-GCM, bit 1
/// ChaCha20-Poly1305. Other bits are for later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suites(pub u8);

impl Suites {
    const AES: u8 = 1;
    const CHACHA: u8 = 2;

    /// Only ChaCha20-Poly1305.
    pub const CHACHA_ONLY: Self = Self(Self::CHACHA);
    /// Both.
    pub const ALL: Self = Self(Self::AES | Self::CHACHA);

    /// What this processor is good at.
    pub fn of_this_machine() -> Self {
        if has_aes() {
            Self::ALL
        } else {
            Self::CHACHA_ONLY
        }
    }

    /// What two ends agree on: the first of AES-256-GCM and ChaCha20-Poly1305 that both want.
    pub const fn common(self, other: Self) -> Option<Suite> {
        let common = self.0 & other.0;
        if common & Self::AES != 0 {
            Some(Suite::Aes256Gcm)
        } else if common & Self::CHACHA != 0 {
            Some(Suite::ChaCha20Poly1305)
        } else {
            None
        }
    }
}

/// Whether the processor has instructions for AES and for the multiplication of GCM.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes")
            && std::arch::is_aarch64_feature_detected!("pmull")
    }
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

/// A cipher of this build gives wrong results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0} gives wrong results on this machine; nothing may be sealed with it")]
pub struct SelfTestFailed(&'static str);

/// The key of one direction, ready for use. Wiped from memory when dropped.
pub struct AeadKey(Cipher);

enum Cipher {
    Aes(Box<LessSafeKey>),
    ChaCha(Box<Zeroizing<[u8; KEY_LEN]>>),
}

impl AeadKey {
    /// From 32 secret bytes that are used for nothing else.
    pub fn new(suite: Suite, key: &[u8; KEY_LEN]) -> Self {
        if suite == Suite::Aes256Gcm
            && let Ok(key) = UnboundKey::new(&AES_256_GCM, key)
        {
            return Self(Cipher::Aes(Box::new(LessSafeKey::new(key))));
        }
        // AES keys of 32 bytes are always taken, so that this is ChaCha20.
        Self(Cipher::ChaCha(Box::new(Zeroizing::new(*key))))
    }

    /// Seals `message` where it stands, together with `header`, which stays readable. Returns the
    /// tag, which goes behind it. The caller uses each counter once.
    #[inline]
    #[must_use]
    pub fn seal_in_place(&self, counter: u64, header: &[u8], message: &mut [u8]) -> Tag {
        let nonce = nonce(counter);
        let mut tag = [0; TAG_LEN];
        match &self.0 {
            Cipher::Aes(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                match key.seal_in_place_separate_tag(nonce, Aad::from(header), message) {
                    Ok(made) => tag.copy_from_slice(made.as_ref()),
                    // It refuses 64 GB in one message, and nothing else. What was to be secret must
                    // not get out.
                    Err(_) => message.fill(0),
                }
            }
            Cipher::ChaCha(key) => {
                let sealed = crypto_aead_chacha20poly1305_ietf_encrypt_detached_inplace(
                    message,
                    &mut tag,
                    Some(header),
                    &nonce,
                    key,
                );
                if sealed.is_err() {
                    message.fill(0);
                }
            }
        }
        tag
    }

    /// Opens what stands before `tag`, where it stands. If the seal is broken its content is
    /// arbitrary afterwards.
    #[inline]
    pub fn open_in_place(
        &self,
        counter: u64,
        header: &[u8],
        sealed: &mut [u8],
        tag: &Tag,
    ) -> Result<(), BadSeal> {
        let nonce = nonce(counter);
        match &self.0 {
            Cipher::Aes(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_in_place_separate_tag(nonce, Aad::from(header), tag, sealed)
                    .map_err(|_| BadSeal)?;
                Ok(())
            }
            Cipher::ChaCha(key) => crypto_aead_chacha20poly1305_ietf_decrypt_detached_inplace(
                sealed,
                tag,
                Some(header),
                &nonce,
                key,
            )
            .map_err(|_| BadSeal),
        }
    }
}

impl std::fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AeadKey(secret)")
    }
}

#[inline]
const fn nonce(counter: u64) -> [u8; NONCE_LEN] {
    let [a, b, c, d, e, f, g, h] = counter.to_be_bytes();
    [0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

/// Seals and opens a known message with each suite. To be called before any is used: a compiler or
/// a processor that gets one wrong would otherwise show as a mesh that carries nothing, or leaks.
pub fn self_test() -> Result<(), SelfTestFailed> {
    const TAGS: [(Suite, Tag); 2] = [
        (
            Suite::Aes256Gcm,
            [
                0xfd, 0x6c, 0xf1, 0xae, 0x60, 0xb7, 0xdf, 0xa9, 0x88, 0xad, 0x1a, 0x3b, 0xb6, 0x28,
                0x6f, 0xdf,
            ],
        ),
        (
            Suite::ChaCha20Poly1305,
            [
                0x46, 0x6e, 0xd7, 0x88, 0x16, 0xe5, 0xa3, 0xc0, 0xf2, 0x39, 0x52, 0x5a, 0x92, 0x4c,
                0xe7, 0xf1,
            ],
        ),
    ];
    for (suite, expected) in TAGS {
        let failed = SelfTestFailed(suite.name());
        let key = AeadKey::new(suite, &[0x42; KEY_LEN]);
        // Long enough for every path of a vectorised cipher.
        let mut message = [0x17; 1111];
        let tag = key.seal_in_place(7, b"header", &mut message);
        let is_sealed = tag == expected && message.iter().any(|&byte| byte != 0x17);
        let opened = key.open_in_place(7, b"header", &mut message, &tag);
        if !is_sealed || opened.is_err() || message != [0x17; 1111] {
            return Err(failed);
        }
        let mut forged = tag;
        forged[15] ^= 1;
        if key.open_in_place(7, b"header", &mut message, &forged) != Err(BadSeal) {
            return Err(failed);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::aead::{AeadInOut, KeyInit};
    use chacha20poly1305::{ChaCha20Poly1305, Tag as OracleTag};
    use proptest::prelude::*;

    use super::*;

    fn bytes(hex_text: &str) -> Vec<u8> {
        hex::decode(hex_text.replace(' ', "")).unwrap()
    }

    /// Seals and opens with the whole nonce given, since published vectors use all 12 bytes.
    fn known(suite: Suite, key: &str, nonce: &str, aad: &str, plain: &str, sealed: &str) {
        let key: [u8; 32] = bytes(key).try_into().unwrap();
        let nonce: [u8; 12] = bytes(nonce).try_into().unwrap();
        let (aad, plain, sealed) = (bytes(aad), bytes(plain), bytes(sealed));
        let mut message = plain.clone();
        let mut tag = [0; TAG_LEN];
        match AeadKey::new(suite, &key).0 {
            Cipher::Aes(key) => {
                let made = key
                    .seal_in_place_separate_tag(
                        Nonce::assume_unique_for_key(nonce),
                        Aad::from(&aad),
                        &mut message,
                    )
                    .unwrap();
                tag.copy_from_slice(made.as_ref());
            }
            Cipher::ChaCha(key) => crypto_aead_chacha20poly1305_ietf_encrypt_detached_inplace(
                &mut message,
                &mut tag,
                Some(&aad),
                &nonce,
                &key,
            )
            .unwrap(),
        }
        assert_eq!([&message[..], &tag[..]].concat(), sealed, "{suite:?}");
        // The counter is the end of the nonce, so that some vectors pass through our own door too.
        if let [0, 0, 0, 0, counter @ ..] = nonce {
            let counter = u64::from_be_bytes(counter);
            let ours = AeadKey::new(suite, &key);
            let mut message = plain.clone();
            let tag = ours.seal_in_place(counter, &aad, &mut message);
            assert_eq!([&message[..], &tag[..]].concat(), sealed);
            ours.open_in_place(counter, &aad, &mut message, &tag)
                .unwrap();
            assert_eq!(message, plain);
        }
    }

    /// Cases 13 to 16 of the specification that McGrew and Viega submitted to NIST.
    #[test]
    fn gcm_known_answers() {
        let zero_key = "00".repeat(32);
        let zero_nonce = "00".repeat(12);
        let suite = Suite::Aes256Gcm;
        known(
            suite,
            &zero_key,
            &zero_nonce,
            "",
            "",
            "530f8afbc74536b9a963b4f1c4cb738b",
        );
        known(
            suite,
            &zero_key,
            &zero_nonce,
            "",
            &"00".repeat(16),
            "cea7403d4d606b6e074ec5d3baf39d18 d0d1c8a799996bf0265b98b5d48ab919",
        );
        let key = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
        let plain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                     1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
        let sealed = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                      8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad";
        let nonce = "cafebabefacedbaddecaf888";
        known(
            suite,
            key,
            nonce,
            "",
            plain,
            &format!("{sealed}b094dac5d93471bdec1a502270e3cc6c"),
        );
        known(
            suite,
            key,
            nonce,
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            &plain[..120],
            &format!("{}76fc6ece0f4e1768cddf8853bb2d551b", &sealed[..120]),
        );
    }

    /// RFC 8439, section 2.8.2, and appendix A.5 read backwards.
    #[test]
    fn chacha_known_answers() {
        let plain = hex::encode(
            "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the \
             future, sunscreen would be it.",
        );
        known(
            Suite::ChaCha20Poly1305,
            "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
            "070000004041424344454647",
            "50515253c0c1c2c3c4c5c6c7",
            &plain,
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6
             3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36
             92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc
             3ff4def08e4b7a9de576d26586cec64b6116 1ae10b594f09e26a7e902ecbd0600691"
                .replace('\n', "")
                .as_str(),
        );
        let plain = hex::encode(
            "Internet-Drafts are draft documents valid for a maximum of six months and may be \
             updated, replaced, or obsoleted by other documents at any time. It is inappropriate \
             to use Internet-Drafts as reference material or to cite them other than as /\u{201c}work \
             in progress./\u{201d}",
        );
        known(
            Suite::ChaCha20Poly1305,
            "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0",
            "000000000102030405060708",
            "f33388860000000000004e91",
            &plain,
            "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb2
             4c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100d4f03b7f355894cf
             332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855
             9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4
             b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523e
             af4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a
             0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a10
             49e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29
             a6ad5cb4022b02709b eead9d67890cbb22392336fea1851f38"
                .replace('\n', "")
                .as_str(),
        );
    }

    #[test]
    fn this_build_passes_its_own_test() {
        self_test().unwrap();
    }

    #[test]
    fn both_ends_choose_alike() {
        for a in 0..=u8::MAX {
            for b in 0..=u8::MAX {
                let chosen = Suites(a).common(Suites(b));
                assert_eq!(chosen, Suites(b).common(Suites(a)));
                let expected = match a & b & 3 {
                    0 => None,
                    2 => Some(Suite::ChaCha20Poly1305),
                    _ => Some(Suite::Aes256Gcm),
                };
                assert_eq!(chosen, expected);
            }
        }
        assert!(Suites::of_this_machine().0 & Suites::CHACHA != 0);
    }

    #[test]
    fn keys_are_not_printed() {
        let key = AeadKey::new(Suite::Aes256Gcm, &[7; 32]);
        assert_eq!(format!("{key:?}"), "AeadKey(secret)");
    }

    proptest! {
        #[test]
        fn chacha_agrees_with_the_oracle(
            key in any::<[u8; 32]>(),
            counter in any::<u64>(),
            header in prop::collection::vec(any::<u8>(), 0..40),
            message in prop::collection::vec(any::<u8>(), 0..3000),
        ) {
            let oracle = ChaCha20Poly1305::new(&key.into());
            let mut expected = message.clone();
            let expected_tag: OracleTag = oracle
                .encrypt_inout_detached(&nonce(counter).into(), &header, (&mut expected[..]).into())
                .unwrap();
            let ours = AeadKey::new(Suite::ChaCha20Poly1305, &key);
            let mut sealed = message.clone();
            let tag = ours.seal_in_place(counter, &header, &mut sealed);
            prop_assert_eq!(&sealed, &expected);
            prop_assert_eq!(&tag[..], &expected_tag[..]);
            ours.open_in_place(counter, &header, &mut sealed, &tag).unwrap();
            prop_assert_eq!(sealed, message);
        }

        #[test]
        fn one_flipped_bit_breaks_the_seal(
            key in any::<[u8; 32]>(),
            counter in any::<u64>(),
            message in prop::collection::vec(any::<u8>(), 0..2000),
            flip in any::<prop::sample::Index>(),
        ) {
            for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
                let key = AeadKey::new(suite, &key);
                let header = *b"sixteen byte hdr";
                let mut sealed = message.clone();
                let tag = key.seal_in_place(counter, &header, &mut sealed);
                let mut all = [&header[..], &sealed, &tag].concat();
                let bit = flip.index(all.len() * 8);
                all[bit / 8] ^= 1 << (bit % 8);
                let (header, rest) = all.split_at_mut(16);
                let (sealed_part, tag_part) = rest.split_last_chunk_mut::<TAG_LEN>().unwrap();
                prop_assert_eq!(
                    key.open_in_place(counter, header, sealed_part, tag_part),
                    Err(BadSeal)
                );
                let opened = key.open_in_place(counter ^ 1, b"sixteen byte hdr", &mut sealed, &tag);
                prop_assert_eq!(opened, Err(BadSeal));
            }
        }
    }
}
