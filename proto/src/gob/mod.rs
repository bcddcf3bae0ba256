//! Go's gob encoding, as far as it appears in Weave's protocols.
//!
//! A stream is a row of messages; every message is either the definition of a type or a value:
//!
//! ```text
//! definition:  count | int -id | description of the type             (fills the message exactly)
//! value:       count | int  id | struct value
//!              count | int  id | 00 | any other value                (surplus bytes are ignored)
//! ```
//!
//! * uint: one byte below 128; else one byte `256 - n` and `n` big-endian bytes, `n` = 1..8.
//! * int: as uint of `v << 1`, or of `(!v << 1) | 1` if negative. bool: uint 0 or 1.
//! * string, bytes: uint length, then the bytes. A Go string is any bytes, not only UTF-8.
//! * slice: uint count, then the elements. map: uint count, then key and value in turn.
//! * struct: each field sent is preceded by its index minus that of the previous one (which starts
//!   at -1); 0, or the end of the message, ends the struct. Fields that are zero are left out.
//!
//! Ids below 64 are Go's basic types; all others are handed out per process, so they mean nothing
//! but "the definition before": a reader matches structs by the names of their fields.
//!
//! [`Decoder`] pulls values out of a stream without copying them. It takes whatever Go's decoder
//! takes of bool, int, uint, bytes, string, slice, map and struct values; all other kinds can be
//! skipped but not read. [`Limits`] bound what a stream may ask for. [`Encoder`] writes the bytes
//! that Go would.
//!
//! ```
//! use proto::gob::{Decoder, Encoder, Limits, StructWriter, TypeId, put_uint};
//!
//! # fn main() -> Result<(), proto::gob::Error> {
//! let (list, point) = (TypeId(65), TypeId(66));
//! let mut encoder = Encoder::new();
//! encoder.define_slice(list, "", point);
//! encoder.define_struct(point, "", &[("X", TypeId::INT), ("Y", TypeId::INT)]);
//! encoder.value(list, |out| {
//!     put_uint(out, 1);
//!     StructWriter::write(out, |fields| {
//!         fields.int(22).int(-33);
//!     });
//! });
//! let stream = encoder.finish();
//!
//! let mut decoder = Decoder::new(&stream, Limits::GOSSIP);
//! let mut points = decoder.require_value()?.into_slice()?;
//! while let Some(point) = points.next_element()? {
//!     let (mut x, mut y) = (0, 0);
//!     let mut fields = point.into_struct()?;
//!     while let Some((name, value)) = fields.next_field()? {
//!         match name {
//!             b"X" => x = value.int()?,
//!             b"Y" => y = value.int()?,
//!             _ => {} // a field that is not read is skipped
//!         }
//!     }
//!     assert_eq!((x, y), (22, -33));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Source: Weave mesh protocol, section 3; IPAM protocol, section 3.2.

mod decode;
mod encode;
mod error;
mod read;
mod types;

pub use decode::{Decoder, MapReader, SliceReader, StructReader, Value};
pub use encode::{Encoder, StructWriter, put_bytes, put_int, put_uint};
pub use error::{Error, Limits};
pub use read::message_len;
pub use types::Types;

/// Number of a type. Below 64: Go's basic types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub u32);

impl TypeId {
    /// `bool`.
    pub const BOOL: Self = Self(1);
    /// Signed integers of all widths.
    pub const INT: Self = Self(2);
    /// Unsigned integers of all widths.
    pub const UINT: Self = Self(3);
    /// Floating-point numbers.
    pub const FLOAT: Self = Self(4);
    /// `[]byte`.
    pub const BYTES: Self = Self(5);
    /// `string`.
    pub const STRING: Self = Self(6);
    /// Complex numbers.
    pub const COMPLEX: Self = Self(7);
    /// Any interface.
    pub const INTERFACE: Self = Self(8);
    /// The lowest id that a stream may define.
    pub const FIRST_DEFINED: Self = Self(64);
}

impl std::fmt::Display for TypeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What sort of value a type describes. Values of different kinds are never read as one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `bool`.
    Bool,
    /// Signed integer.
    Int,
    /// Unsigned integer.
    Uint,
    /// Floating-point number; can only be skipped.
    Float,
    /// `[]byte`.
    Bytes,
    /// `string`.
    String,
    /// Complex number; can only be skipped.
    Complex,
    /// A value that names its own type; can only be skipped.
    Interface,
    /// Array; can only be skipped.
    Array,
    /// Slice.
    Slice,
    /// Map.
    Map,
    /// Struct.
    Struct,
    /// A value that marshals itself; can only be skipped.
    Opaque,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Float => "float",
            Self::Bytes => "bytes",
            Self::String => "string",
            Self::Complex => "complex",
            Self::Interface => "interface",
            Self::Array => "array",
            Self::Slice => "slice",
            Self::Map => "map",
            Self::Struct => "struct",
            Self::Opaque => "opaque",
        })
    }
}

#[cfg(test)]
mod tests;
