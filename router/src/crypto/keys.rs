//! The keys of shuttle: a chain of agreements, one per epoch.
//!
//! ```text
//! secret(n)  = X25519(own ephemeral of n, other end's ephemeral of n)
//! prk(n)     = HKDF-Extract(salt = chain(n-1), ikm = secret(n))
//! chain(n)   = HKDF-Expand(prk(n), context | 0, 32)
//! key(n, d)  = HKDF-Expand(prk(n), context | d, 32)
//! context    = "meshctl shuttle 1" | suite u8 | epoch n u16 | dialler's ephemeral public key (32)
//!              | acceptor's ephemeral public key (32) | hash of both introductions (32)
//! d          = 1: sealed by the dialler of the connection, 2: sealed by the acceptor
//! ```
//!
//! HKDF is that of RFC 5869 with SHA-256; integers are big-endian. `chain(-1)` is the session key of
//! the TCP connection, into which the password has gone: whoever does not know it arrives at other
//! keys. Every epoch has ephemeral keys of its own, which are wiped as soon as they are used, and
//! every `chain` is one-way: what an end holds today opens nothing of an epoch that it has dropped.
//! And a fresh agreement in every epoch means that today's keys, if they get out, do not open the
//! next epoch to somebody who only listens.
//!
//! Source: docs/wire/shuttle.md; the arrangement is that of TLS 1.3's schedule and of `WireGuard`'s
//! chaining key.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::aead::{AeadKey, KEY_LEN, Suite};
use super::session::{LowOrderKey, PUBLIC_KEY_LEN, SessionKey};

const LABEL: &[u8] = b"meshctl shuttle 1";
const FOR_CHAIN: u8 = 0;
const BY_DIALLER: u8 = 1;
const BY_ACCEPTOR: u8 = 2;

/// Bytes of a hash of what both ends have said.
pub const TRANSCRIPT_LEN: usize = digest::SHA256_OUTPUT_LEN;

/// The secret that the next epoch's keys are made with. Wiped from memory when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Chain([u8; KEY_LEN]);

impl Chain {
    /// Begins with the secret that the TCP connection has agreed on.
    pub fn new(session: &SessionKey) -> Self {
        Self(session.0)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chain(secret)")
    }
}

/// A key pair of one epoch. Wiped from memory when dropped.
pub struct Ephemeral(StaticSecret);

impl Ephemeral {
    /// From 32 fresh random bytes that no kept state leads back to.
    pub fn new(secret: &Zeroizing<[u8; KEY_LEN]>) -> Self {
        Self(StaticSecret::from(**secret))
    }

    /// The half for the other end.
    pub fn public(&self) -> [u8; PUBLIC_KEY_LEN] {
        PublicKey::from(&self.0).to_bytes()
    }
}

impl fmt::Debug for Ephemeral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ephemeral(secret)")
    }
}

/// What both ends know of an agreement, and each puts into its keys.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// The cipher of the link.
    pub suite: Suite,
    /// Number of the epoch.
    pub epoch: u16,
    /// Whether this end dialled the connection.
    pub is_dialler: bool,
    /// Hash of both introductions.
    pub transcript: [u8; TRANSCRIPT_LEN],
}

/// The keys of one epoch, and what the next is made with.
#[derive(Debug)]
pub struct EpochKeys {
    /// Seals what we send.
    pub seal: AeadKey,
    /// Opens what we receive.
    pub open: AeadKey,
    /// For the next epoch.
    pub chain: Chain,
}

/// Hash of what the dialler and then the acceptor have said.
pub fn transcript(by_dialler: &[u8], by_acceptor: &[u8]) -> [u8; TRANSCRIPT_LEN] {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in [by_dialler, by_acceptor] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut out = [0; TRANSCRIPT_LEN];
    out.copy_from_slice(hash.finish().as_ref());
    out
}

/// The keys of an epoch. Uses up our ephemeral key.
pub fn agree(
    chain: &Chain,
    ours: Ephemeral,
    theirs: &[u8; PUBLIC_KEY_LEN],
    context: &Context,
) -> Result<EpochKeys, LowOrderKey> {
    let our_public = ours.public();
    let Ephemeral(secret) = ours;
    let secret = secret.diffie_hellman(&PublicKey::from(*theirs));
    if !secret.was_contributory() {
        return Err(LowOrderKey);
    }
    let (dialler, acceptor) = if context.is_dialler {
        (&our_public, theirs)
    } else {
        (theirs, &our_public)
    };
    let epoch = context.epoch.to_be_bytes();
    let suite = [context.suite as u8];
    let prk = Salt::new(HKDF_SHA256, &chain.0).extract(secret.as_bytes());
    let derive = |purpose: u8| {
        let purpose = [purpose];
        let info = [
            LABEL,
            &suite,
            &epoch,
            dialler,
            acceptor,
            &context.transcript,
            &purpose,
        ];
        let mut key = Zeroizing::new([0; KEY_LEN]);
        // It fails for lengths that HKDF cannot make only.
        if let Ok(output) = prk.expand(&info, KeyLen) {
            output.fill(&mut *key).map_err(|_| LowOrderKey)?;
            Ok(key)
        } else {
            Err(LowOrderKey)
        }
    };
    let (by_us, by_them) = if context.is_dialler {
        (BY_DIALLER, BY_ACCEPTOR)
    } else {
        (BY_ACCEPTOR, BY_DIALLER)
    };
    Ok(EpochKeys {
        seal: AeadKey::new(context.suite, &*derive(by_us)?),
        open: AeadKey::new(context.suite, &*derive(by_them)?),
        chain: Chain(*derive(FOR_CHAIN)?),
    })
}

struct KeyLen;

impl KeyType for KeyLen {
    fn len(&self) -> usize {
        KEY_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Len(usize);

    impl KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }

    fn bytes(text: &str) -> Vec<u8> {
        hex::decode(text).unwrap()
    }

    /// RFC 5869, appendix A, cases 1 to 3.
    #[test]
    fn hkdf_known_answers() {
        let counting = |range: std::ops::RangeInclusive<u8>| range.collect::<Vec<u8>>();
        let cases = [
            (
                vec![0x0b; 22],
                counting(0..=0x0c),
                counting(0xf0..=0xf9),
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf\
                 34007208d5b887185865",
            ),
            (
                counting(0..=0x4f),
                counting(0x60..=0xaf),
                counting(0xb0..=0xff),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c\
                 59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71\
                 cc30c58179ec3e87c14c01d5c1f3434f1d87",
            ),
            (
                vec![0x0b; 22],
                Vec::new(),
                Vec::new(),
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d\
                 9d201395faa4b61a96c8",
            ),
        ];
        for (ikm, salt, info, okm) in cases {
            let okm = bytes(okm);
            let prk = Salt::new(HKDF_SHA256, &salt).extract(&ikm);
            let mut out = vec![0; okm.len()];
            let info = [&info[..]];
            prk.expand(&info, Len(okm.len()))
                .unwrap()
                .fill(&mut out)
                .unwrap();
            assert_eq!(out, okm);
        }
    }

    fn ephemeral(byte: u8) -> Ephemeral {
        Ephemeral::new(&Zeroizing::new([byte; 32]))
    }

    fn both(session: [&[u8; 32]; 2], contexts: [Context; 2]) -> [EpochKeys; 2] {
        let (a, b) = (ephemeral(1), ephemeral(2));
        let (public_a, public_b) = (a.public(), b.public());
        let [chain_a, chain_b] = session.map(|key| Chain(*key));
        [
            agree(&chain_a, a, &public_b, &contexts[0]).unwrap(),
            agree(&chain_b, b, &public_a, &contexts[1]).unwrap(),
        ]
    }

    const CONTEXT: Context = Context {
        suite: Suite::ChaCha20Poly1305,
        epoch: 5,
        is_dialler: true,
        transcript: [9; 32],
    };

    fn opens(from: &EpochKeys, to: &EpochKeys) -> bool {
        let mut message = *b"message";
        let tag = from.seal.seal_in_place(3, b"header", &mut message);
        to.open
            .open_in_place(3, b"header", &mut message, &tag)
            .is_ok()
            && &message == b"message"
    }

    #[test]
    fn both_ends_arrive_at_the_same_keys() {
        for suite in [Suite::ChaCha20Poly1305, Suite::Aes256Gcm] {
            let context = Context { suite, ..CONTEXT };
            let accepted = Context {
                is_dialler: false,
                ..context
            };
            let [a, b] = both([&[7; 32], &[7; 32]], [context, accepted]);
            assert!(opens(&a, &b) && opens(&b, &a));
            assert_eq!(a.chain.0, b.chain.0);
            // No reflection: what an end has sealed it does not open itself.
            assert!(!opens(&a, &a) && !opens(&b, &b));
            assert_ne!(a.chain.0, [7; 32]);
        }
    }

    #[test]
    fn everything_that_went_in_counts() {
        let accepted = Context {
            is_dialler: false,
            ..CONTEXT
        };
        let other = [
            Context {
                suite: Suite::Aes256Gcm,
                ..accepted
            },
            Context {
                epoch: 6,
                ..accepted
            },
            Context {
                transcript: [8; 32],
                ..accepted
            },
            CONTEXT,
        ];
        for accepted in other {
            let [a, b] = both([&[7; 32], &[7; 32]], [CONTEXT, accepted]);
            assert!(!opens(&a, &b) && !opens(&b, &a));
        }
        let [a, b] = both([&[7; 32], &[6; 32]], [CONTEXT, accepted]);
        assert!(!opens(&a, &b) && !opens(&b, &a) && a.chain.0 != b.chain.0);
    }

    /// The schedule once more, with nothing but HMAC and in the words of RFC 5869.
    #[test]
    fn the_schedule_step_by_step() {
        use aws_lc_rs::hmac;
        let mac = |key: &[u8], parts: &[&[u8]]| -> [u8; 32] {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key);
            hmac::sign(&key, &parts.concat())
                .as_ref()
                .try_into()
                .unwrap()
        };
        let accepted = Context {
            is_dialler: false,
            ..CONTEXT
        };
        let [a, _] = both([&[7; 32], &[7; 32]], [CONTEXT, accepted]);
        let (dialler, acceptor) = (ephemeral(1), ephemeral(2));
        let secret = dialler
            .0
            .diffie_hellman(&PublicKey::from(acceptor.public()));
        let prk = mac(&[7; 32], &[secret.as_bytes()]);
        let context = [
            &b"meshctl shuttle 1"[..],
            &[2],
            &[0, 5],
            &dialler.public(),
            &acceptor.public(),
            &[9; 32],
        ]
        .concat();
        assert_eq!(a.chain.0, mac(&prk, &[&context, &[0], &[1]]));
        for (purpose, key) in [(1, &a.seal), (2, &a.open)] {
            let expected = AeadKey::new(CONTEXT.suite, &mac(&prk, &[&context, &[purpose], &[1]]));
            let mut message = *b"message";
            let tag = key.seal_in_place(1, &[], &mut message);
            assert!(expected.open_in_place(1, &[], &mut message, &tag).is_ok());
        }
    }

    #[test]
    fn a_key_of_low_order_is_refused() {
        let chain = Chain([7; 32]);
        let agreed = agree(&chain, ephemeral(1), &[0; 32], &CONTEXT);
        assert_eq!(agreed.unwrap_err(), LowOrderKey);
    }

    #[test]
    fn the_transcript_tells_its_parts_apart() {
        assert_ne!(transcript(b"ab", b"c"), transcript(b"a", b"bc"));
        assert_ne!(transcript(b"a", b"b"), transcript(b"b", b"a"));
    }

    #[test]
    fn secrets_are_not_printed() {
        let text = format!("{:?} {:?}", Chain([7; 32]), ephemeral(7));
        assert_eq!(text, "Chain(secret) Ephemeral(secret)");
    }
}
