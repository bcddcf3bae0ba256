//! Pulls values out of a gob stream.

use super::read::{check_len, read_bytes, read_count, read_delta, read_int, read_uint};
use super::types::{Definition, Types};
use super::{Error, Kind, Limits, TypeId};
use crate::codec::Reader;

/// Something of which a part has not been read yet.
#[derive(Debug, Clone, Copy)]
enum Frame {
    /// A whole value.
    Value(TypeId),
    /// The rest of a struct, before a delta; `next` is one more than the index of the last field.
    Struct { id: TypeId, next: usize },
    /// So many elements of a slice or array.
    List { element: TypeId, left: usize },
    /// So many pairs of a map, preceded by the value of the current pair if `in_pair`.
    Map {
        key: TypeId,
        element: TypeId,
        left: usize,
        in_pair: bool,
    },
}

/// Where in the current value we are. The frames are all that remains of the value, the innermost
/// last: a reader that resumes below the top first skips what lies above it. So values handed out
/// need not be read, and nothing is ever read twice.
#[derive(Debug)]
struct Cursor<'a> {
    input: Reader<'a>,
    frames: Vec<Frame>,
    limits: Limits,
    elements_left: usize,
}

impl<'a> Cursor<'a> {
    fn push(&mut self, frame: Frame) -> Result<(), Error> {
        // A value within the innermost container is a frame too.
        if self.frames.len() > self.limits.depth {
            return Err(Error::TooMany {
                what: "levels",
                limit: self.limits.depth,
            });
        }
        self.frames.push(frame);
        Ok(())
    }

    /// Reads the count of a slice, array or map.
    fn count(&mut self) -> Result<usize, Error> {
        let count = read_count(&mut self.input)?;
        self.elements_left = self
            .elements_left
            .checked_sub(count)
            .ok_or(Error::TooMany {
                what: "elements",
                limit: self.limits.elements,
            })?;
        Ok(count)
    }

    /// Puts the frame of a container in the place of its unread value, which is on top. Reads its
    /// count if it has one.
    fn open(&mut self, id: TypeId, types: &Types) -> Result<usize, Error> {
        let (frame, count) = match types.definition(id)? {
            Definition::Struct { .. } => (Frame::Struct { id, next: 0 }, 0),
            Definition::Slice { element } => {
                let left = self.count()?;
                let element = *element;
                (Frame::List { element, left }, left)
            }
            Definition::Array { element, len } => {
                let left = self.count()?;
                if left as u64 != *len {
                    return Err(Error::BadArray);
                }
                let element = *element;
                (Frame::List { element, left }, left)
            }
            Definition::Map { key, element } => {
                let left = self.count()?;
                let frame = Frame::Map {
                    key: *key,
                    element: *element,
                    left,
                    in_pair: false,
                };
                (frame, left)
            }
            Definition::Opaque => return Err(Error::BadDefinition),
        };
        self.frames.pop();
        self.push(frame)?;
        Ok(count)
    }

    /// The next part of the container on top, as a value on top of it, or `None` and the container
    /// is gone. For structs also the index of the field.
    fn advance(&mut self, types: &Types) -> Result<Option<(TypeId, usize)>, Error> {
        let part = match self.frames.last_mut() {
            Some(Frame::Struct { id, next }) => match read_delta(&mut self.input)? {
                None => None,
                Some(delta) => {
                    let fields = types.fields(*id)?;
                    let delta = usize::try_from(delta.get()).map_err(|_| Error::BadField)?;
                    *next = next.checked_add(delta).ok_or(Error::BadField)?;
                    let index = *next - 1;
                    let field = fields.get(index).ok_or(Error::BadField)?;
                    Some((field.type_id, index))
                }
            },
            None
            | Some(
                Frame::Value(_)
                | Frame::List { left: 0, .. }
                | Frame::Map {
                    left: 0,
                    in_pair: false,
                    ..
                },
            ) => None,
            // Each element takes at least one byte.
            Some(_) if self.input.is_empty() => return Err(Error::Truncated),
            Some(Frame::List { element, left }) => {
                *left -= 1;
                Some((*element, 0))
            }
            Some(Frame::Map {
                element,
                in_pair: in_pair @ true,
                ..
            }) => {
                *in_pair = false;
                Some((*element, 0))
            }
            Some(Frame::Map {
                key, left, in_pair, ..
            }) => {
                *left -= 1;
                *in_pair = true;
                Some((*key, 0))
            }
        };
        match part {
            Some((id, _)) => self.push(Frame::Value(id))?,
            None => {
                self.frames.pop();
            }
        }
        Ok(part)
    }

    /// Whether the frame on top is a map of which the value of a pair is due.
    fn in_pair(&self) -> bool {
        matches!(self.frames.last(), Some(Frame::Map { in_pair: true, .. }))
    }

    /// Skips everything above the first `level` frames.
    fn skip_to(&mut self, level: usize, types: &Types) -> Result<(), Error> {
        while self.frames.len() > level {
            match self.frames.last() {
                Some(Frame::Value(id)) => self.skip_value(*id, types)?,
                _ => {
                    self.advance(types)?;
                }
            }
        }
        Ok(())
    }

    /// Skips the value on top, or opens it if it is a container.
    fn skip_value(&mut self, id: TypeId, types: &Types) -> Result<(), Error> {
        let input = &mut self.input;
        match types.kind(id)? {
            Kind::Bool | Kind::Int | Kind::Uint | Kind::Float => {
                read_uint(input)?;
            }
            Kind::Complex => {
                read_uint(input)?;
                read_uint(input)?;
            }
            Kind::Bytes | Kind::String | Kind::Opaque => {
                read_bytes(input)?;
            }
            Kind::Interface => {
                // The name of a type, its id and the value as a message; an empty name is nil.
                if !read_bytes(input)?.is_empty() {
                    if read_int(input)? < 0 {
                        return Err(Error::UnsupportedInterface);
                    }
                    read_bytes(input)?;
                }
            }
            Kind::Array | Kind::Slice | Kind::Map | Kind::Struct => {
                self.open(id, types)?;
                return Ok(());
            }
        }
        self.frames.pop();
        Ok(())
    }
}

/// Reads a stream value by value; definitions are taken in on the way.
///
/// A value, or the rest of one, that its reader leaves alone is skipped when the decoder or the
/// enclosing reader is asked for the next.
#[derive(Debug)]
pub struct Decoder<'a> {
    stream: Reader<'a>,
    stream_len: usize,
    cursor: Cursor<'a>,
    types: Types,
}

impl<'a> Decoder<'a> {
    /// Reads a stream from its start.
    pub fn new(stream: &'a [u8], limits: Limits) -> Self {
        Self::resume(stream, limits, Types::default())
    }

    /// Goes on with a stream whose earlier messages have defined `types`.
    pub fn resume(stream: &'a [u8], limits: Limits, types: Types) -> Self {
        Self {
            stream: Reader::new(stream),
            stream_len: stream.len(),
            cursor: Cursor {
                input: Reader::new(&[]),
                frames: Vec::new(),
                limits,
                elements_left: limits.elements,
            },
            types,
        }
    }

    /// How far into the stream it has been read: after a value has been read, where it ended.
    pub fn position(&self) -> usize {
        let unread = self.stream.rest().len() + self.cursor.input.rest().len();
        self.stream_len - unread
    }

    /// The types defined up to now.
    pub fn into_types(self) -> Types {
        self.types
    }

    /// The next value, or `None` at the end of the stream.
    pub fn next_value(&mut self) -> Result<Option<Value<'_, 'a>>, Error> {
        self.cursor.skip_to(0, &self.types)?;
        while !self.stream.is_empty() {
            let limits = &self.cursor.limits;
            let len = check_len(read_uint(&mut self.stream)?, limits.message_len)?;
            let mut body = Reader::new(self.stream.bytes(len)?);
            let id = read_int(&mut body)?;
            let magnitude = u32::try_from(id.unsigned_abs()).map_err(|_| Error::BadDefinition)?;
            if id < 0 {
                self.types.define(TypeId(magnitude), &mut body, limits)?;
                continue;
            }
            let id = TypeId(magnitude);
            self.types.check_complete(id)?;
            if self.types.kind(id)? != Kind::Struct && read_uint(&mut body)? != 0 {
                return Err(Error::NotSingle);
            }
            self.cursor.input = body;
            self.cursor.push(Frame::Value(id))?;
            return Ok(Some(Value {
                cursor: &mut self.cursor,
                types: &self.types,
                id,
            }));
        }
        Ok(None)
    }

    /// The next value, which must be there.
    pub fn require_value(&mut self) -> Result<Value<'_, 'a>, Error> {
        self.next_value()?.ok_or(Error::Truncated)
    }
}

/// One value, not read yet.
#[derive(Debug)]
pub struct Value<'d, 'a> {
    cursor: &'d mut Cursor<'a>,
    types: &'d Types,
    id: TypeId,
}

impl<'d, 'a> Value<'d, 'a> {
    /// Its kind.
    pub fn kind(&self) -> Result<Kind, Error> {
        self.types.kind(self.id)
    }

    fn expect(&self, expected: Kind) -> Result<(), Error> {
        let found = self.kind()?;
        if found == expected {
            Ok(())
        } else {
            Err(Error::WrongKind { expected, found })
        }
    }

    fn take<T>(
        self,
        kind: Kind,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.expect(kind)?;
        let value = read(&mut self.cursor.input)?;
        self.cursor.frames.pop();
        Ok(value)
    }

    /// Reads a bool. Any number but 0 is true.
    pub fn bool(self) -> Result<bool, Error> {
        self.take(Kind::Bool, read_uint).map(|value| value != 0)
    }

    /// Reads a signed integer.
    pub fn int(self) -> Result<i64, Error> {
        self.take(Kind::Int, read_int)
    }

    /// Reads an unsigned integer.
    pub fn uint(self) -> Result<u64, Error> {
        self.take(Kind::Uint, read_uint)
    }

    /// Reads an unsigned integer into a narrower type.
    pub fn uint_as<T: TryFrom<u64>>(self) -> Result<T, Error> {
        T::try_from(self.uint()?).map_err(|_| Error::OutOfRange)
    }

    /// Reads a signed integer into a narrower type.
    pub fn int_as<T: TryFrom<i64>>(self) -> Result<T, Error> {
        T::try_from(self.int()?).map_err(|_| Error::OutOfRange)
    }

    /// Reads `[]byte`.
    pub fn bytes(self) -> Result<&'a [u8], Error> {
        self.take(Kind::Bytes, read_bytes)
    }

    /// Reads a string, which may be any bytes.
    pub fn string(self) -> Result<&'a [u8], Error> {
        self.take(Kind::String, read_bytes)
    }

    /// Reads a struct field by field.
    pub fn into_struct(self) -> Result<StructReader<'d, 'a>, Error> {
        let (inside, _) = self.enter(Kind::Struct)?;
        Ok(StructReader { inside })
    }

    /// Reads a slice element by element.
    pub fn into_slice(self) -> Result<SliceReader<'d, 'a>, Error> {
        let (inside, len) = self.enter(Kind::Slice)?;
        Ok(SliceReader { inside, len })
    }

    /// Reads a map pair by pair.
    pub fn into_map(self) -> Result<MapReader<'d, 'a>, Error> {
        let (inside, len) = self.enter(Kind::Map)?;
        Ok(MapReader { inside, len })
    }

    fn enter(self, kind: Kind) -> Result<(Inside<'d, 'a>, usize), Error> {
        self.expect(kind)?;
        let level = self.cursor.frames.len();
        let count = self.cursor.open(self.id, self.types)?;
        let inside = Inside {
            cursor: self.cursor,
            types: self.types,
            id: self.id,
            level,
            ended: false,
        };
        Ok((inside, count))
    }

    /// Passes over the value, checking its form.
    pub fn skip(self) -> Result<(), Error> {
        let level = self.cursor.frames.len().saturating_sub(1);
        self.cursor.skip_to(level, self.types)
    }
}

/// A container that is being read: the frame number `level - 1` is its own.
#[derive(Debug)]
struct Inside<'d, 'a> {
    cursor: &'d mut Cursor<'a>,
    types: &'d Types,
    id: TypeId,
    level: usize,
    ended: bool,
}

impl<'d, 'a> Inside<'d, 'a> {
    fn next(&mut self) -> Result<Option<(usize, Value<'_, 'a>)>, Error> {
        if self.ended {
            return Ok(None);
        }
        self.cursor.skip_to(self.level, self.types)?;
        match self.cursor.advance(self.types)? {
            None => {
                self.ended = true;
                Ok(None)
            }
            Some((id, index)) => {
                let value = Value {
                    cursor: self.cursor,
                    types: self.types,
                    id,
                };
                Ok(Some((index, value)))
            }
        }
    }
}

/// Reads a struct. Fields that are zero are not sent, so start from zero values.
#[derive(Debug)]
pub struct StructReader<'d, 'a> {
    inside: Inside<'d, 'a>,
}

impl<'d, 'a> StructReader<'d, 'a> {
    /// Name and value of the next field sent, or `None` at the end of the struct.
    pub fn next_field(&mut self) -> Result<Option<(&'d [u8], Value<'_, 'a>)>, Error> {
        let fields = self.inside.types.fields(self.inside.id)?;
        match self.inside.next()? {
            None => Ok(None),
            Some((index, value)) => {
                let field = fields.get(index).ok_or(Error::BadField)?;
                Ok(Some((&field.name, value)))
            }
        }
    }
}

/// Reads a slice.
#[derive(Debug)]
pub struct SliceReader<'d, 'a> {
    inside: Inside<'d, 'a>,
    len: usize,
}

impl<'a> SliceReader<'_, 'a> {
    /// Number of elements the slice claims; never more than bytes follow.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next element, or `None` after the last.
    pub fn next_element(&mut self) -> Result<Option<Value<'_, 'a>>, Error> {
        Ok(self.inside.next()?.map(|(_, value)| value))
    }
}

/// Reads a map. A key that comes twice is the stream's affair: Go lets the last one win.
#[derive(Debug)]
pub struct MapReader<'d, 'a> {
    inside: Inside<'d, 'a>,
    len: usize,
}

impl<'a> MapReader<'_, 'a> {
    /// Number of pairs the map claims; never more than bytes follow.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Key of the next pair, or `None` after the last. To be followed by [`value`](Self::value),
    /// else the value is skipped.
    pub fn next_key(&mut self) -> Result<Option<Value<'_, 'a>>, Error> {
        let inside = &mut self.inside;
        inside.cursor.skip_to(inside.level, inside.types)?;
        if inside.cursor.in_pair() {
            inside.next()?;
        }
        Ok(inside.next()?.map(|(_, key)| key))
    }

    /// Value of the pair whose key was the last that [`next_key`](Self::next_key) gave.
    pub fn value(&mut self) -> Result<Value<'_, 'a>, Error> {
        let inside = &mut self.inside;
        inside.cursor.skip_to(inside.level, inside.types)?;
        if inside.ended || !inside.cursor.in_pair() {
            return Err(Error::NoPair);
        }
        match inside.next()? {
            Some((_, value)) => Ok(value),
            None => Err(Error::NoPair),
        }
    }
}
