//! Integers, byte strings and counts, read from a message.

use std::num::NonZero;

use super::{Error, Limits, TypeId};
use crate::codec::Reader;

pub(super) fn read_uint(reader: &mut Reader<'_>) -> Result<u64, Error> {
    let first = reader.u8()?;
    if first < 0x80 {
        return Ok(u64::from(first));
    }
    let len = usize::from(first.wrapping_neg());
    if len > 8 {
        return Err(Error::BadInteger(first));
    }
    let bytes = reader.bytes(len)?;
    Ok(bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

pub(super) fn read_int(reader: &mut Reader<'_>) -> Result<i64, Error> {
    let coded = read_uint(reader)?;
    let magnitude = (coded >> 1).cast_signed();
    Ok(if coded & 1 == 0 {
        magnitude
    } else {
        !magnitude
    })
}

/// A count of things of which each takes at least one byte, so that no claim can exceed the input.
pub(super) fn read_count(reader: &mut Reader<'_>) -> Result<usize, Error> {
    let count = usize::try_from(read_uint(reader)?).map_err(|_| Error::Truncated)?;
    if count > reader.rest().len() {
        return Err(Error::Truncated);
    }
    Ok(count)
}

pub(super) fn read_bytes<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Error> {
    let len = read_count(reader)?;
    Ok(reader.bytes(len)?)
}

pub(super) fn read_type_id(reader: &mut Reader<'_>) -> Result<TypeId, Error> {
    u32::try_from(read_int(reader)?)
        .map(TypeId)
        .map_err(|_| Error::BadDefinition)
}

/// Length of the first message in `bytes`, with its count, or `None` if `bytes` end before the
/// count does. The message itself need not be there: this is for a stream that arrives piecemeal.
pub fn message_len(bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Error> {
    let mut reader = Reader::new(bytes);
    let len = match read_uint(&mut reader) {
        Ok(len) => len,
        Err(Error::Truncated) => return Ok(None),
        Err(error) => return Err(error),
    };
    let body = check_len(len, limits.message_len)?;
    Ok(Some(bytes.len() - reader.rest().len() + body))
}

pub(super) fn check_len(len: u64, limit: usize) -> Result<usize, Error> {
    usize::try_from(len)
        .ok()
        .filter(|len| *len <= limit)
        .ok_or(Error::TooLong { len, limit })
}

/// What stands before each field of a struct, or `None` at its end. Like Go's decoder, this takes
/// the end of a message for the end of all structs that are still open.
pub(super) fn read_delta(reader: &mut Reader<'_>) -> Result<Option<NonZero<u64>>, Error> {
    if reader.is_empty() {
        Ok(None)
    } else {
        read_uint(reader).map(NonZero::new)
    }
}
