//! How both ends of a link come to keys, and to new ones.
//!
//! ```text
//! dialler                                        acceptor
//!   hello ----------------------------------------->
//!   <----------------------------------------- hello        keys of epoch 0
//!   ..
//!   key n+1 --------------------------------------->        can open n+1
//!   <---------------------------------- key answer n+1
//!   can open n+1; seals under n+1
//!   done n+1 -------------------------------------->        seals under n+1
//! ```
//!
//! Nobody seals under keys that the other end cannot open yet, and nobody forgets how to open the
//! old ones until a while after packets under the new ones come in: so no packet is lost. The
//! messages travel in order over the TCP connection. The dialler begins, when the keys have been
//! used for [`RekeyLimits::interval`] or for [`RekeyLimits::volume`], counted in either direction.

use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::constants::{REKEY_GRACE, REKEY_INTERVAL, REKEY_VOLUME};
use crate::crypto::aead::{AeadKey, KEY_LEN, Suite};
use crate::crypto::keys::{Chain, Context, Ephemeral, EpochKeys, agree, transcript};
use crate::crypto::session::{LowOrderKey, PUBLIC_KEY_LEN, SessionKey};

/// How long the keys of one epoch are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RekeyLimits {
    /// Default: [`REKEY_INTERVAL`]. Not below 100 ms.
    pub interval: Duration,
    /// In bytes sealed or opened; looked at every few seconds. Default: [`REKEY_VOLUME`].
    pub volume: u64,
}

impl Default for RekeyLimits {
    fn default() -> Self {
        Self {
            interval: REKEY_INTERVAL,
            volume: REKEY_VOLUME,
        }
    }
}

/// The keys of a link, without those in use.
#[derive(Debug)]
pub(super) struct Keys {
    chain: Chain,
    context: Context,
    limits: RekeyLimits,
    stage: Stage,
    /// When the keys have been used long enough.
    due_at: Instant,
    /// When they must not be used any more.
    expires_at: Instant,
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// The dialler waits for the answer.
    Offered(Ephemeral),
    /// The acceptor waits until the dialler is done.
    Answered(AeadKey),
}

/// Keys to be put to use.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) epoch: u16,
    /// To open the neighbour's packets.
    pub(super) open: AeadKey,
}

impl Keys {
    /// The keys of epoch 0, once both have said hello. Returns our key and the neighbour's, in
    /// this order.
    pub(super) fn first(
        session: &SessionKey,
        suite: Suite,
        is_dialler: bool,
        (our_hello, their_hello): (&[u8], &[u8]),
        (ours, theirs): (Ephemeral, &[u8; PUBLIC_KEY_LEN]),
        limits: RekeyLimits,
        now: Instant,
    ) -> Result<(Self, AeadKey, AeadKey), LowOrderKey> {
        let transcript = if is_dialler {
            transcript(our_hello, their_hello)
        } else {
            transcript(their_hello, our_hello)
        };
        let context = Context {
            suite,
            epoch: 0,
            is_dialler,
            transcript,
        };
        let EpochKeys { seal, open, chain } = agree(&Chain::new(session), ours, theirs, &context)?;
        let mut keys = Self {
            chain,
            context,
            limits,
            stage: Stage::Idle,
            due_at: now,
            expires_at: now,
        };
        keys.begin(now);
        Ok((keys, seal, open))
    }

    pub(super) const fn suite(&self) -> Suite {
        self.context.suite
    }

    /// New keys are in use.
    fn begin(&mut self, now: Instant) {
        let interval = self.limits.interval.max(Duration::from_millis(100));
        self.due_at = now + interval;
        self.expires_at = now + interval + REKEY_GRACE;
    }

    /// When [`offer`](Self::offer) is due, for the dialler.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let is_waiting = self.context.is_dialler && matches!(self.stage, Stage::Idle);
        is_waiting.then_some(self.due_at)
    }

    /// Whether the keys are too old to be used. The TCP connection must be in a bad state.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        now >= self.expires_at
    }

    /// When keys get too old.
    pub(super) const fn expires_at(&self) -> Instant {
        self.expires_at
    }

    /// The next epoch's number and public key, if we are the dialler and it is time, or `volume`
    /// bytes are enough. `secret` is fresh.
    pub(super) fn offer(
        &mut self,
        volume: u64,
        now: Instant,
        secret: impl FnOnce() -> Zeroizing<[u8; KEY_LEN]>,
    ) -> Option<(u16, [u8; PUBLIC_KEY_LEN])> {
        let is_due = self.due_at <= now || volume >= self.limits.volume;
        if !is_due || !self.context.is_dialler || !matches!(self.stage, Stage::Idle) {
            return None;
        }
        let ephemeral = Ephemeral::new(&secret());
        let public = ephemeral.public();
        self.stage = Stage::Offered(ephemeral);
        Some((self.next_epoch(), public))
    }

    /// The dialler's offer. Returns what opens its packets to come, and our public key. An offer
    /// out of turn is passed over.
    pub(super) fn answer(
        &mut self,
        epoch: u16,
        theirs: &[u8; PUBLIC_KEY_LEN],
        secret: impl FnOnce() -> Zeroizing<[u8; KEY_LEN]>,
    ) -> Option<(Fresh, [u8; PUBLIC_KEY_LEN])> {
        let is_idle = matches!(self.stage, Stage::Idle);
        if self.context.is_dialler || !is_idle || epoch != self.next_epoch() {
            return None;
        }
        let ephemeral = Ephemeral::new(&secret());
        let public = ephemeral.public();
        let (seal, open) = self.advance(epoch, ephemeral, theirs)?;
        self.stage = Stage::Answered(seal);
        Some((Fresh { epoch, open }, public))
    }

    /// The acceptor's answer. Returns what opens its packets, and what seals ours from now on.
    pub(super) fn answered(
        &mut self,
        epoch: u16,
        theirs: &[u8; PUBLIC_KEY_LEN],
        now: Instant,
    ) -> Option<(Fresh, AeadKey)> {
        if epoch != self.next_epoch() {
            return None;
        }
        let Stage::Offered(ephemeral) = std::mem::replace(&mut self.stage, Stage::Idle) else {
            return None;
        };
        let (seal, open) = self.advance(epoch, ephemeral, theirs)?;
        self.begin(now);
        Some((Fresh { epoch, open }, seal))
    }

    /// The dialler can open our packets of this epoch. Returns what seals them from now on.
    pub(super) fn done(&mut self, epoch: u16, now: Instant) -> Option<AeadKey> {
        if epoch != self.context.epoch {
            return None;
        }
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Answered(seal) => {
                self.begin(now);
                Some(seal)
            }
            other => {
                self.stage = other;
                None
            }
        }
    }

    const fn next_epoch(&self) -> u16 {
        self.context.epoch.wrapping_add(1)
    }

    fn advance(
        &mut self,
        epoch: u16,
        ephemeral: Ephemeral,
        theirs: &[u8; PUBLIC_KEY_LEN],
    ) -> Option<(AeadKey, AeadKey)> {
        let context = Context {
            epoch,
            ..self.context
        };
        // No honest end has a key of low order; the old keys last until they expire.
        let EpochKeys { seal, open, chain } =
            agree(&self.chain, ephemeral, theirs, &context).ok()?;
        self.chain = chain;
        self.context = context;
        Some((seal, open))
    }
}
