//! Writes gob streams, byte for byte as Go does.

use super::TypeId;

/// Appends an unsigned integer in its shortest form.
pub fn put_uint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        out.extend_from_slice(&value.to_be_bytes()[7..]);
        return;
    }
    let zeros = value.leading_zeros() as usize / 8;
    // The marks 256 - n of n = 8 - zeros bytes; a value of 128 or more has at most 7 zeros.
    out.push([0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff][zeros]);
    out.extend_from_slice(&value.to_be_bytes()[zeros..]);
}

/// Appends a signed integer.
pub fn put_int(out: &mut Vec<u8>, value: i64) {
    let coded = if value < 0 {
        !value << 1 | 1
    } else {
        value << 1
    };
    put_uint(out, coded.cast_unsigned());
}

/// Appends the length of `bytes` and `bytes`: a string or `[]byte`.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Builds one stream. The caller defines each type once, before the first value that needs it;
/// Go defines the outermost type first.
#[derive(Debug, Default)]
pub struct Encoder {
    stream: Vec<u8>,
    body: Vec<u8>,
}

impl Encoder {
    /// An empty stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.stream.len()
    }

    /// Whether nothing has been written yet.
    pub fn is_empty(&self) -> bool {
        self.stream.is_empty()
    }

    /// The stream.
    pub fn finish(self) -> Vec<u8> {
        self.stream
    }

    /// Appends messages that are ready made.
    pub fn raw(&mut self, messages: &[u8]) -> &mut Self {
        self.stream.extend_from_slice(messages);
        self
    }

    fn message(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        self.body.clear();
        write(&mut self.body);
        put_bytes(&mut self.stream, &self.body);
        self
    }

    fn define(&mut self, id: TypeId, index: u64, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.message(|body| {
            put_int(body, -i64::from(id.0));
            put_uint(body, index + 1); // of the seven fields of a description, the one set
            put_uint(body, 1); // its first field: the part common to all descriptions
            let mut common = StructWriter::new(body);
            common.bytes(name.as_bytes()).int(i64::from(id.0)).end();
            write(body);
            body.push(0);
            body.push(0);
        });
    }

    /// Defines a slice type. Unnamed types have an empty `name`.
    pub fn define_slice(&mut self, id: TypeId, name: &str, element: TypeId) -> &mut Self {
        self.define(id, 1, name, |body| {
            put_uint(body, 1);
            put_int(body, element.0.into());
        });
        self
    }

    /// Defines a map type.
    pub fn define_map(
        &mut self,
        id: TypeId,
        name: &str,
        key: TypeId,
        element: TypeId,
    ) -> &mut Self {
        self.define(id, 3, name, |body| {
            put_uint(body, 1);
            put_int(body, key.0.into());
            put_uint(body, 1);
            put_int(body, element.0.into());
        });
        self
    }

    /// Defines a struct type with the names and types of its fields.
    pub fn define_struct(
        &mut self,
        id: TypeId,
        name: &str,
        fields: &[(&str, TypeId)],
    ) -> &mut Self {
        self.define(id, 2, name, |body| {
            if fields.is_empty() {
                return;
            }
            put_uint(body, 1);
            put_uint(body, fields.len() as u64);
            for (name, id) in fields {
                let mut field = StructWriter::new(body);
                field.bytes(name.as_bytes()).int(id.0.into()).end();
            }
        });
        self
    }

    /// Writes a value of a defined struct type.
    pub fn struct_value(
        &mut self,
        id: TypeId,
        write: impl FnOnce(&mut StructWriter<'_>),
    ) -> &mut Self {
        self.message(|body| {
            put_int(body, id.0.into());
            StructWriter::write(body, write);
        })
    }

    /// Writes a value of any type that is not a struct; `write` appends the value's bytes.
    pub fn value(&mut self, id: TypeId, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        self.message(|body| {
            put_int(body, id.0.into());
            body.push(0);
            write(body);
        })
    }

    /// Writes an unsigned integer.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.value(TypeId::UINT, |body| put_uint(body, value))
    }

    /// Writes a signed integer.
    pub fn int(&mut self, value: i64) -> &mut Self {
        self.value(TypeId::INT, |body| put_int(body, value))
    }

    /// Writes a bool.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.value(TypeId::BOOL, |body| body.push(value.into()))
    }

    /// Writes a string.
    pub fn string(&mut self, value: &[u8]) -> &mut Self {
        self.byte_string(TypeId::STRING, value)
    }

    /// Writes `[]byte`.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.byte_string(TypeId::BYTES, value)
    }

    /// Like [`value`](Self::value), but copies only once what may be megabytes.
    fn byte_string(&mut self, id: TypeId, value: &[u8]) -> &mut Self {
        let head = &mut self.body;
        head.clear();
        put_int(head, id.0.into());
        head.push(0);
        put_uint(head, value.len() as u64);
        put_uint(&mut self.stream, (head.len() + value.len()) as u64);
        self.stream.extend_from_slice(head);
        self.stream.extend_from_slice(value);
        self
    }
}

/// Writes a struct: one call per field of its definition, in order. Zero values are left out.
#[derive(Debug)]
pub struct StructWriter<'b> {
    out: &'b mut Vec<u8>,
    delta: u64,
}

impl<'b> StructWriter<'b> {
    fn new(out: &'b mut Vec<u8>) -> Self {
        Self { out, delta: 1 }
    }

    /// Appends a struct to `out`, for instance as an element of a slice.
    pub fn write(out: &mut Vec<u8>, write: impl FnOnce(&mut StructWriter<'_>)) {
        let mut writer = StructWriter::new(out);
        write(&mut writer);
        writer.end();
    }

    fn end(&mut self) {
        self.out.push(0);
    }

    /// Leaves the next field out.
    pub fn omit(&mut self) -> &mut Self {
        self.delta += 1;
        self
    }

    /// The next field, whatever its type, even if zero: `write` appends the value's bytes.
    pub fn field(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        put_uint(self.out, self.delta);
        self.delta = 1;
        write(self.out);
        self
    }

    fn field_unless(&mut self, zero: bool, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        if zero { self.omit() } else { self.field(write) }
    }

    /// The next field, an unsigned integer.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.field_unless(value == 0, |out| put_uint(out, value))
    }

    /// The next field, a signed integer.
    pub fn int(&mut self, value: i64) -> &mut Self {
        self.field_unless(value == 0, |out| put_int(out, value))
    }

    /// The next field, a bool.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.field_unless(!value, |out| out.push(1))
    }

    /// The next field, a string or `[]byte`.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.field_unless(value.is_empty(), |out| put_bytes(out, value))
    }

    /// The next field, a struct. Go sends it even if everything in it is zero.
    pub fn nested(&mut self, write: impl FnOnce(&mut StructWriter<'_>)) -> &mut Self {
        self.field(|out| StructWriter::write(out, write))
    }

    /// The next field, a slice; `element` appends the bytes of one element.
    pub fn slice<T>(
        &mut self,
        elements: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        mut element: impl FnMut(&mut Vec<u8>, T),
    ) -> &mut Self {
        let elements = elements.into_iter();
        self.field_unless(elements.len() == 0, |out| {
            put_uint(out, elements.len() as u64);
            for item in elements {
                element(out, item);
            }
        })
    }
}
