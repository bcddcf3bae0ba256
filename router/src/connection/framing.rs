//! How messages are cut from the stream, and sealed.

use proto::gob::{Decoder, Encoder, Limits, Types, Value, message_len};

use super::{ConnectionError, SendError};
use crate::constants::MAX_MESSAGE_LEN;
use crate::crypto::secretbox::{self, TAG_LEN, seal_in_place, tcp_nonce};
use crate::crypto::session::SessionKey;

/// What a gob message adds to the `[]byte` that it holds: length, type, a zero, length again.
const GOB_OVERHEAD: usize = 16;

/// A buffer that grew beyond this for a long message is given back after it.
const KEPT_CAPACITY: usize = 64 * 1024;

/// Bytes that have come in and have not been read. Grows by what comes in, never by what is
/// announced.
#[derive(Debug, Default)]
pub(super) struct Input {
    buffer: Vec<u8>,
    /// So many bytes at the front of the buffer have been read.
    read_len: usize,
}

impl Input {
    pub(super) fn unread(&self) -> &[u8] {
        self.buffer.get(self.read_len..).unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read_len);
        self.read_len = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_CAPACITY {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes `len` bytes, which must be unread, off the front.
    pub(super) fn consume(&mut self, len: usize) {
        self.read_len = (self.read_len + len).min(self.buffer.len());
    }
}

/// How the bytes between the seal and the TCP stream are laid out.
#[derive(Debug)]
pub(super) enum Framing {
    /// Version 2: a length before each message.
    LengthPrefix,
    /// Version 1: all messages of one direction make up one gob stream. The types that the other
    /// end has defined in it.
    Gob(Types),
}

impl Framing {
    pub(super) fn gob() -> Self {
        Self::Gob(Types::default())
    }
}

/// Makes messages of bytes, and bytes of messages.
#[derive(Debug)]
pub(super) struct Codec {
    pub(super) framing: Framing,
    /// Whether this end dialled: goes into nonces.
    outbound: bool,
    seal: Option<Seal>,
}

#[derive(Debug)]
struct Seal {
    key: SessionKey,
    sent_count: u64,
    received_count: u64,
}

impl Codec {
    pub(super) fn new(framing: Framing, outbound: bool) -> Self {
        Self {
            framing,
            outbound,
            seal: None,
        }
    }

    /// Seals everything from here on, in both directions.
    pub(super) fn seal_with(&mut self, key: SessionKey) {
        self.seal = Some(Seal {
            key,
            sent_count: 0,
            received_count: 0,
        });
    }

    pub(super) fn session_key(&self) -> Option<&SessionKey> {
        self.seal.as_ref().map(|seal| &seal.key)
    }

    /// The bytes that carry `message`.
    pub(super) fn frame(&mut self, message: &[u8]) -> Result<Vec<u8>, SendError> {
        let tag_len = if self.seal.is_some() { TAG_LEN } else { 0 };
        let body_len = message.len() + tag_len;
        let prefix = match u32::try_from(body_len) {
            Ok(len) if body_len <= MAX_MESSAGE_LEN => len.to_be_bytes(),
            _ => return Err(SendError::TooLong { len: body_len }),
        };
        let mut frame = Vec::with_capacity(prefix.len() + body_len);
        frame.extend_from_slice(&prefix);
        frame.resize(prefix.len() + tag_len, 0);
        frame.extend_from_slice(message);
        if let Some(seal) = &mut self.seal
            && let Some((tag, text)) = frame[prefix.len()..].split_first_chunk_mut()
        {
            let nonce = tcp_nonce(self.outbound, seal.sent_count);
            *tag = seal_in_place(&seal.key, &nonce, text);
            seal.sent_count += 1;
        }
        Ok(match self.framing {
            Framing::LengthPrefix => frame,
            Framing::Gob(_) => {
                let mut stream = Encoder::new();
                stream.bytes(&frame[prefix.len()..]);
                stream.finish()
            }
        })
    }

    /// The next message, of `limit` bytes as sealed, once it is complete.
    pub(super) fn next(
        &mut self,
        input: &mut Input,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, ConnectionError> {
        let body = match &mut self.framing {
            Framing::LengthPrefix => length_prefixed(input, limit)?,
            Framing::Gob(types) => gob_value(input, limit, types, |value| {
                value
                    .bytes()
                    .map(<[u8]>::to_vec)
                    .map_err(ConnectionError::from_gob)
            })?,
        };
        match (body, &mut self.seal) {
            (Some(mut body), Some(seal)) => {
                let sequence = seal.received_count;
                let nonce = tcp_nonce(!self.outbound, sequence);
                seal.received_count += 1;
                if secretbox::open(&seal.key, &nonce, &mut body).is_err() {
                    return Err(match sequence {
                        0 => ConnectionError::WrongPassword,
                        sequence => ConnectionError::BadSeal { sequence },
                    });
                }
                body.drain(..TAG_LEN);
                Ok(Some(body))
            }
            (body, _) => Ok(body),
        }
    }
}

fn length_prefixed(input: &mut Input, limit: usize) -> Result<Option<Vec<u8>>, ConnectionError> {
    let Some((prefix, rest)) = input.unread().split_first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*prefix);
    let Some(body_len) = usize::try_from(len).ok().filter(|len| *len <= limit) else {
        let len = len.into();
        return Err(ConnectionError::TooLong { len, limit });
    };
    let Some(body) = rest.get(..body_len) else {
        return Ok(None);
    };
    let body = body.to_vec();
    input.consume(4 + body_len);
    Ok(Some(body))
}

/// Reads the next value of a gob stream once it is complete, and the definitions before it.
pub(super) fn gob_value<T>(
    input: &mut Input,
    limit: usize,
    types: &mut Types,
    mut read: impl FnMut(Value<'_, '_>) -> Result<T, ConnectionError>,
) -> Result<Option<T>, ConnectionError> {
    let limits = Limits {
        message_len: limit + GOB_OVERHEAD,
        types: 16,
        ..Limits::GOSSIP
    };
    loop {
        let message = match message_len(input.unread(), &limits) {
            Ok(Some(len)) => input.unread().get(..len),
            Ok(None) => None,
            Err(error) => return Err(ConnectionError::from_gob(error)),
        };
        let Some(message) = message else {
            return Ok(None);
        };
        let message_len = message.len();
        let mut stream = Decoder::resume(message, limits, std::mem::take(types));
        let value = match stream.next_value() {
            Ok(value) => value.map(&mut read).transpose()?,
            Err(error) => return Err(ConnectionError::from_gob(error)),
        };
        *types = stream.into_types();
        input.consume(message_len);
        if value.is_some() {
            return Ok(value);
        }
    }
}
