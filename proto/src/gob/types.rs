//! The types that a stream defines.

use std::collections::BTreeMap;

use super::read::{read_bytes, read_count, read_delta, read_int, read_type_id};
use super::{Error, Kind, Limits, TypeId};
use crate::codec::Reader;

#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: Box<[u8]>,
    pub(super) type_id: TypeId,
}

#[derive(Debug, Clone)]
pub(super) enum Definition {
    Array { element: TypeId, len: u64 },
    Slice { element: TypeId },
    Map { key: TypeId, element: TypeId },
    Struct { fields: Box<[Field]> },
    Opaque,
}

#[derive(Debug, Clone)]
struct Defined {
    definition: Definition,
    /// Every type that a value of this one can contain is known to be defined.
    complete: bool,
}

/// The types that a stream has defined so far. Outlives the [`Decoder`](super::Decoder) where a
/// stream arrives piecemeal.
#[derive(Debug, Clone, Default)]
pub struct Types {
    defined: BTreeMap<TypeId, Defined>,
    field_count: usize,
}

impl Types {
    pub(super) fn kind(&self, id: TypeId) -> Result<Kind, Error> {
        Ok(match id {
            TypeId::BOOL => Kind::Bool,
            TypeId::INT => Kind::Int,
            TypeId::UINT => Kind::Uint,
            TypeId::FLOAT => Kind::Float,
            TypeId::BYTES => Kind::Bytes,
            TypeId::STRING => Kind::String,
            TypeId::COMPLEX => Kind::Complex,
            TypeId::INTERFACE => Kind::Interface,
            defined => match self.definition(defined)? {
                Definition::Array { .. } => Kind::Array,
                Definition::Slice { .. } => Kind::Slice,
                Definition::Map { .. } => Kind::Map,
                Definition::Struct { .. } => Kind::Struct,
                Definition::Opaque => Kind::Opaque,
            },
        })
    }

    pub(super) fn definition(&self, id: TypeId) -> Result<&Definition, Error> {
        match self.defined.get(&id) {
            Some(defined) => Ok(&defined.definition),
            None => Err(Error::UndefinedType(id)),
        }
    }

    pub(super) fn fields(&self, id: TypeId) -> Result<&[Field], Error> {
        match self.definition(id)? {
            Definition::Struct { fields } => Ok(fields),
            _ => Err(Error::BadDefinition),
        }
    }

    /// Adds the definition in `reader`, which follows the negative id.
    pub(super) fn define(
        &mut self,
        id: TypeId,
        reader: &mut Reader<'_>,
        limits: &Limits,
    ) -> Result<(), Error> {
        if id < TypeId::FIRST_DEFINED || self.defined.contains_key(&id) {
            return Err(Error::DuplicateType(id));
        }
        let too_many = |what, limit| Err(Error::TooMany { what, limit });
        if self.defined.len() >= limits.types {
            return too_many("types", limits.types);
        }
        let len = reader.rest().len();
        if len > limits.definition_len {
            return Err(Error::TooLong {
                len: len as u64,
                limit: limits.definition_len,
            });
        }
        let definition = read_definition(reader)?;
        if !reader.is_empty() {
            return Err(Error::SurplusAfterDefinition);
        }
        if let Definition::Struct { fields } = &definition {
            self.field_count = self.field_count.saturating_add(fields.len());
            if self.field_count > limits.fields {
                return too_many("fields", limits.fields);
            }
        }
        self.defined.insert(
            id,
            Defined {
                definition,
                complete: false,
            },
        );
        Ok(())
    }

    /// Checks that `id` and all types that its values can contain are defined, also those of
    /// fields that are not sent: Go refuses such a value too.
    pub(super) fn check_complete(&mut self, id: TypeId) -> Result<(), Error> {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if id < TypeId::FIRST_DEFINED {
                self.kind(id)?;
                continue;
            }
            let defined = self.defined.get_mut(&id).ok_or(Error::UndefinedType(id))?;
            // Set before the parts are looked at, since a type may contain itself. If a part turns
            // out to be undefined, the whole stream has failed.
            if std::mem::replace(&mut defined.complete, true) {
                continue;
            }
            match &defined.definition {
                Definition::Array { element, .. } | Definition::Slice { element } => {
                    open.push(*element);
                }
                Definition::Map { key, element } => open.extend([*key, *element]),
                Definition::Struct { fields } => {
                    open.extend(fields.iter().map(|field| field.type_id));
                }
                Definition::Opaque => {}
            }
        }
        Ok(())
    }
}

/// Reads the fields of a struct whose layout is fixed: calls `field` with the index of each field
/// sent. The fields of definitions are the only such structs.
fn read_fixed<'a>(
    reader: &mut Reader<'a>,
    mut field: impl FnMut(u64, &mut Reader<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    // One more than the index of the last field.
    let mut next = 0_u64;
    while let Some(delta) = read_delta(reader)? {
        next = next.checked_add(delta.get()).ok_or(Error::BadField)?;
        field(next - 1, reader)?;
    }
    Ok(())
}

/// The part that all definitions have in common: a name and an id, which mean nothing to us.
fn skip_common(reader: &mut Reader<'_>) -> Result<(), Error> {
    read_fixed(reader, |index, reader| match index {
        0 => read_bytes(reader).map(drop),
        1 => read_int(reader).map(drop),
        _ => Err(Error::BadDefinition),
    })
}

fn read_definition(reader: &mut Reader<'_>) -> Result<Definition, Error> {
    let mut definition = None;
    read_fixed(reader, |index, reader| {
        let described = match index {
            0 => read_array(reader)?,
            1 => read_slice(reader)?,
            2 => read_struct(reader)?,
            3 => read_map(reader)?,
            4..=6 => read_opaque(reader)?,
            _ => return Err(Error::BadDefinition),
        };
        match definition.replace(described) {
            None => Ok(()),
            Some(_) => Err(Error::BadDefinition),
        }
    })?;
    definition.ok_or(Error::BadDefinition)
}

fn read_array(reader: &mut Reader<'_>) -> Result<Definition, Error> {
    let (mut element, mut len) = (TypeId(0), 0);
    read_fixed(reader, |index, reader| {
        match index {
            0 => skip_common(reader)?,
            1 => element = read_type_id(reader)?,
            2 => len = u64::try_from(read_int(reader)?).map_err(|_| Error::BadDefinition)?,
            _ => return Err(Error::BadDefinition),
        }
        Ok(())
    })?;
    Ok(Definition::Array { element, len })
}

fn read_slice(reader: &mut Reader<'_>) -> Result<Definition, Error> {
    let mut element = TypeId(0);
    read_fixed(reader, |index, reader| {
        match index {
            0 => skip_common(reader)?,
            1 => element = read_type_id(reader)?,
            _ => return Err(Error::BadDefinition),
        }
        Ok(())
    })?;
    Ok(Definition::Slice { element })
}

fn read_map(reader: &mut Reader<'_>) -> Result<Definition, Error> {
    let (mut key, mut element) = (TypeId(0), TypeId(0));
    read_fixed(reader, |index, reader| {
        match index {
            0 => skip_common(reader)?,
            1 => key = read_type_id(reader)?,
            2 => element = read_type_id(reader)?,
            _ => return Err(Error::BadDefinition),
        }
        Ok(())
    })?;
    Ok(Definition::Map { key, element })
}

fn read_struct(reader: &mut Reader<'_>) -> Result<Definition, Error> {
    let mut fields = Vec::new();
    read_fixed(reader, |index, reader| {
        match index {
            0 => skip_common(reader)?,
            1 => {
                for _ in 0..read_count(reader)? {
                    fields.push(read_field(reader)?);
                }
            }
            _ => return Err(Error::BadDefinition),
        }
        Ok(())
    })?;
    Ok(Definition::Struct {
        fields: fields.into(),
    })
}

fn read_field(reader: &mut Reader<'_>) -> Result<Field, Error> {
    let (mut name, mut type_id) = (&[][..], TypeId(0));
    read_fixed(reader, |index, reader| {
        match index {
            0 => name = read_bytes(reader)?,
            1 => type_id = read_type_id(reader)?,
            _ => return Err(Error::BadDefinition),
        }
        Ok(())
    })?;
    Ok(Field {
        name: name.into(),
        type_id,
    })
}

fn read_opaque(reader: &mut Reader<'_>) -> Result<Definition, Error> {
    read_fixed(reader, |index, reader| match index {
        0 => skip_common(reader),
        _ => Err(Error::BadDefinition),
    })?;
    Ok(Definition::Opaque)
}
