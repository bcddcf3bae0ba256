//! Why connections end, in words for both operators: where one can mend it, the text says how.

use proto::gob;
use thiserror::Error;

use crate::constants::{HEADER_TIMEOUT, MAX_MESSAGE_LEN, READ_TIMEOUT};
use crate::crypto::session::LowOrderKey;
use crate::wire::control::BadMessage;
use crate::wire::intro::{BadFeatures, BadHeader};

/// Why a connection must be closed. Nothing of the connection can be used after any of these.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConnectionError {
    /// No header in time.
    #[error(
        "failed to receive remote protocol header: nothing within {} s",
        HEADER_TIMEOUT.as_secs()
    )]
    HeaderTimeout,
    /// A header, but not the rest of the introduction in time.
    #[error("introduction not completed within {} s", READ_TIMEOUT.as_secs())]
    IntroductionTimeout,
    /// No message in time.
    #[error("no message received for {} s", READ_TIMEOUT.as_secs())]
    ReadTimeout,
    /// Not a mesh at all, or no version in common.
    #[error(transparent)]
    Header(#[from] BadHeader),
    /// Only we have a password.
    #[error(
        "password specified, but peer requested an unencrypted connection \
         (give the same password to all peers)"
    )]
    ExpectedCrypto,
    /// Only the other end has a password.
    #[error(
        "no password specified, but peer requested an encrypted connection \
         (give the same password to all peers)"
    )]
    ExpectedNoCrypto,
    /// Neither plain nor encrypted.
    #[error("bad encryption flag {0}")]
    BadFlag(u8),
    /// The other end sent a public key that protects nothing.
    #[error(transparent)]
    LowOrderKey(#[from] LowOrderKey),
    /// The first sealed message does not open.
    #[error(
        "unable to decrypt the first message: the peer has another password \
         (give the same password to all peers)"
    )]
    WrongPassword,
    /// A later sealed message does not open.
    #[error("unable to decrypt message {sequence}: it was damaged or forged on the way")]
    BadSeal {
        /// Its number, from 0.
        sequence: u64,
    },
    /// An introduction that must be refused.
    #[error(transparent)]
    Features(#[from] BadFeatures),
    /// Our own introduction exceeds the length of a message: the nickname must be shortened.
    #[error("own introduction is too long (shorten the nickname)")]
    OwnFeaturesTooLong,
    /// A message of this length was announced.
    #[error("incoming message of {len} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Announced length.
        len: u64,
        /// The limit.
        limit: usize,
    },
    /// The stream of version 1 is damaged.
    #[error("bad stream: {0}")]
    Stream(gob::Error),
    /// A message that its sender cannot mean.
    #[error(transparent)]
    Message(#[from] BadMessage),
    /// More than the longest message has come in and was not polled for.
    #[error("too much received before the connection was admitted")]
    TooMuchUnread,
    /// The other end has closed the connection, or it broke.
    #[error("connection lost: {0}")]
    HungUp(String),
    /// The same before the other end had introduced itself. It has a reason, but cannot tell us.
    #[error(
        "peer hung up during the introduction: {0} (it may have another password or protocol \
         version, or refuse us for a reason that its log shows)"
    )]
    HungUpDuringIntroduction(String),
    /// The same after the first sealed message was sent to it: most often it does not open there.
    #[error(
        "peer hung up when encryption began: {0} (it probably has another password; \
         give the same password to all peers)"
    )]
    HungUpOnceSealed(String),
}

impl ConnectionError {
    pub(super) fn from_gob(error: gob::Error) -> Self {
        match error {
            gob::Error::TooLong { len, limit } => Self::TooLong { len, limit },
            error => Self::Stream(error),
        }
    }
}

/// Why a message was not queued. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// The other end would close the connection.
    #[error("outgoing message of {len} bytes exceeds the limit of {MAX_MESSAGE_LEN}")]
    TooLong {
        /// Length of the message, as sealed.
        len: usize,
    },
    /// The other end has not introduced itself yet.
    #[error("connection is not introduced yet")]
    NotIntroduced,
}
