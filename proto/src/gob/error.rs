//! What may be asked for, and what goes wrong.

use thiserror::Error;

use super::{Kind, TypeId};
use crate::codec::Truncated;

/// What a stream may ask for. All are upper bounds; one more is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in one message.
    pub message_len: usize,
    /// Bytes in one definition.
    pub definition_len: usize,
    /// Structs, slices and maps within one another.
    pub depth: usize,
    /// Types defined in one stream.
    pub types: usize,
    /// Fields of all structs defined in one stream.
    pub fields: usize,
    /// Elements of all slices and pairs of all maps read or skipped by one [`Decoder`](super::Decoder).
    pub elements: usize,
}

impl Limits {
    /// Room for any payload that fits into a message of the mesh, about ten times over.
    pub const GOSSIP: Self = Self {
        message_len: 10 * 1024 * 1024,
        definition_len: 4096,
        depth: 16,
        types: 64,
        fields: 256,
        elements: 1 << 20,
    };
}

/// A stream that cannot be read. The decoder is of no further use after one, except after
/// [`WrongKind`](Self::WrongKind), which leaves the value to be skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// The stream or a message ends within a value.
    #[error("gob: data ends too early")]
    Truncated,
    /// No integer starts with this byte.
    #[error("gob: bad integer (first byte {0:#04x})")]
    BadInteger(u8),
    /// A message or definition is longer than [`Limits`] allow.
    #[error("gob: message of {len} bytes exceeds the limit of {limit}")]
    TooLong {
        /// Claimed length.
        len: u64,
        /// The limit.
        limit: usize,
    },
    /// More levels, types, fields or elements than [`Limits`] allow.
    #[error("gob: too many {what} (limit {limit})")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A definition that describes no type.
    #[error("gob: bad type definition")]
    BadDefinition,
    /// A definition does not fill its message exactly.
    #[error("gob: surplus bytes after a type definition")]
    SurplusAfterDefinition,
    /// The id is defined already, or not free to be defined.
    #[error("gob: type {0} defined twice")]
    DuplicateType(TypeId),
    /// The type of a value, or a type within it, is not defined.
    #[error("gob: type {0} is not defined")]
    UndefinedType(TypeId),
    /// The byte before a value that is not a struct must be zero.
    #[error("gob: value of a type that is not a struct starts with a field number")]
    NotSingle,
    /// The struct has fewer fields.
    #[error("gob: field number out of range")]
    BadField,
    /// The count of an array's elements is not that of its type.
    #[error("gob: array of the wrong length")]
    BadArray,
    /// An interface value that brings its own type definitions.
    #[error("gob: interface value with type definitions is not supported")]
    UnsupportedInterface,
    /// The value is of another kind than the one asked for.
    #[error("gob: {found} in the place of {expected}")]
    WrongKind {
        /// What the reader asked for.
        expected: Kind,
        /// What the stream has.
        found: Kind,
    },
    /// A [`MapReader`](super::MapReader) was asked for a value without a key before.
    #[error("gob: value of a map asked for before its key")]
    NoPair,
    /// The number does not fit the width asked for.
    #[error("gob: number out of range")]
    OutOfRange,
}

impl From<Truncated> for Error {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}
