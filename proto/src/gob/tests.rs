use gobwire::{Decoder as Oracle, Dynamic, Progress, StructType, Type, Value as Tree};
use proptest::prelude::*;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;

macro_rules! vectors {
    ($file:literal) => {
        serde_json::from_str::<Json>(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/vectors/",
            $file
        )))
        .unwrap()["vectors"]
            .as_array()
            .unwrap()
    };
}

fn hex_of(vector: &Json) -> Vec<u8> {
    hex::decode(vector["hex"].as_str().unwrap()).unwrap()
}

#[test]
fn primitives_as_go_writes_them() {
    for vector in vectors!("gob_primitives.json") {
        let name = vector["name"].as_str().unwrap();
        let bytes = hex_of(vector);
        let text = vector["inputs"]["value"].as_str().unwrap_or_default();
        let mut decoder = Decoder::new(&bytes, Limits::GOSSIP);
        let value = decoder.require_value().unwrap();
        let mut encoder = Encoder::new();
        match value.kind().unwrap() {
            Kind::Uint => {
                assert_eq!(value.uint().unwrap().to_string(), text, "{name}");
                encoder.uint(text.parse().unwrap());
            }
            Kind::Int => {
                assert_eq!(value.int().unwrap().to_string(), text, "{name}");
                encoder.int(text.parse().unwrap());
            }
            Kind::Bool => {
                assert_eq!(value.bool().unwrap().to_string(), text, "{name}");
                encoder.bool(text.parse().unwrap());
            }
            Kind::String => {
                assert_eq!(value.string().unwrap(), text.as_bytes(), "{name}");
                encoder.string(text.as_bytes());
            }
            Kind::Bytes => {
                let expected =
                    hex::decode(vector["inputs"]["value_hex"].as_str().unwrap()).unwrap();
                assert_eq!(value.bytes().unwrap(), expected, "{name}");
                encoder.bytes(&expected);
            }
            other => panic!("{name}: {other}"),
        }
        assert!(decoder.next_value().unwrap().is_none(), "{name}");
        assert_eq!(hex::encode(encoder.finish()), hex::encode(&bytes), "{name}");
    }
}

fn read_string_map(bytes: &[u8]) -> Result<BTreeMap<String, String>, Error> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut decoder = Decoder::new(bytes, Limits::GOSSIP);
    let mut map = decoder.require_value()?.into_map()?;
    let mut read = BTreeMap::new();
    while let Some(key) = map.next_key()? {
        let key = key.string()?;
        read.insert(text(key), text(map.value()?.string()?));
    }
    Ok(read)
}

#[test]
fn maps_that_go_takes_or_refuses() {
    for vector in vectors!("gob_features.json") {
        let name = vector["name"].as_str().unwrap();
        let read = read_string_map(&hex_of(vector));
        let expected = match vector["meaning"]["accepted"].as_bool() {
            Some(false) => {
                assert!(read.is_err(), "{name}: {read:?}");
                continue;
            }
            Some(true) => &vector["meaning"]["decoded"],
            None => &vector["inputs"],
        };
        let expected: BTreeMap<String, String> = serde_json::from_value(expected.clone()).unwrap();
        assert_eq!(read, Ok(expected), "{name}");
    }
}

#[derive(Debug, Default, PartialEq)]
struct Peer {
    name: Vec<u8>,
    nickname: Vec<u8>,
    uid: u64,
    version: u64,
    short_id: u16,
    has_short_id: bool,
    connections: Vec<(Vec<u8>, Vec<u8>, bool, bool)>,
}

fn read_topology(bytes: &[u8]) -> Result<Vec<Peer>, Error> {
    let mut decoder = Decoder::new(bytes, Limits::GOSSIP);
    let mut peers = Vec::new();
    while let Some(summary) = decoder.next_value()? {
        let mut peer = Peer::default();
        let mut summary = summary.into_struct()?;
        while let Some((name, value)) = summary.next_field()? {
            match name {
                b"NameByte" => peer.name = value.bytes()?.to_vec(),
                b"NickName" => peer.nickname = value.string()?.to_vec(),
                b"UID" => peer.uid = value.uint()?,
                b"Version" => peer.version = value.uint()?,
                b"ShortID" => peer.short_id = value.uint_as()?,
                b"HasShortID" => peer.has_short_id = value.bool()?,
                _ => {}
            }
        }
        let Some(list) = decoder.next_value()? else {
            break;
        };
        let mut list = list.into_slice()?;
        while let Some(connection) = list.next_element()? {
            let mut read = (Vec::new(), Vec::new(), false, false);
            let mut connection = connection.into_struct()?;
            while let Some((name, value)) = connection.next_field()? {
                match name {
                    b"NameByte" => read.0 = value.bytes()?.to_vec(),
                    b"RemoteTCPAddr" => read.1 = value.string()?.to_vec(),
                    b"Outbound" => read.2 = value.bool()?,
                    b"Established" => read.3 = value.bool()?,
                    _ => {}
                }
            }
            peer.connections.push(read);
        }
        peers.push(peer);
    }
    Ok(peers)
}

/// As a vector states it.
fn stated_topology(meaning: &Json) -> Vec<Peer> {
    let text = |value: &Json| value.as_str().unwrap().as_bytes().to_vec();
    let name = |value: &Json| hex::decode(value.as_str().unwrap().replace(':', "")).unwrap();
    let number = |value: &Json| match value {
        Json::String(text) => text.parse().unwrap(),
        number => number.as_u64().unwrap(),
    };
    let peers = meaning["peers_in_order"].as_array().unwrap().iter();
    peers
        .map(|peer| Peer {
            name: name(&peer["name"]),
            nickname: text(&peer["nickname"]),
            uid: number(&peer["uid"]),
            version: number(&peer["version"]),
            short_id: u16::try_from(number(&peer["short_id"])).unwrap(),
            has_short_id: peer["has_short_id"].as_bool().unwrap(),
            connections: peer["connections"]
                .as_array()
                .unwrap()
                .iter()
                .map(|connection| {
                    (
                        name(&connection["remote"]),
                        text(&connection["remote_tcp_addr"]),
                        connection["outbound"].as_bool().unwrap(),
                        connection["established"].as_bool().unwrap(),
                    )
                })
                .collect(),
        })
        .collect()
}

#[test]
fn structs_and_slices_that_go_takes_or_refuses() {
    for vector in vectors!("topology_updates.json") {
        let name = vector["name"].as_str().unwrap();
        let mut read = read_topology(&hex_of(vector));
        if vector["meaning"]["accepted"] == false {
            assert!(read.is_err(), "{name}: {read:?}");
            continue;
        }
        let mut stated = stated_topology(&vector["meaning"]);
        for peer in read.iter_mut().flatten().chain(&mut stated) {
            peer.connections.sort();
        }
        assert_eq!(read, Ok(stated), "{name}");
    }
}

#[test]
fn structs_and_slices_as_go_takes_them() {
    let vectors = serde_json::from_str::<Json>(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/topology_updates.json"
    )))
    .unwrap();
    let vector = vectors["vectors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|vector| vector["name"] == "minimal anonymous descriptors, made by hand")
        .unwrap();
    let bytes = hex_of(vector);
    let (peer_type, connection_type, list_type) = (TypeId(65), TypeId(66), TypeId(67));
    let mut encoder = Encoder::new();
    for (index, peer) in read_topology(&bytes).unwrap().into_iter().enumerate() {
        if index == 0 {
            encoder.define_struct(
                peer_type,
                "",
                &[
                    ("NameByte", TypeId::BYTES),
                    ("NickName", TypeId::STRING),
                    ("UID", TypeId::UINT),
                    ("Version", TypeId::UINT),
                    ("ShortID", TypeId::UINT),
                    ("HasShortID", TypeId::BOOL),
                ],
            );
        }
        encoder.struct_value(peer_type, |fields| {
            fields
                .bytes(&peer.name)
                .bytes(&peer.nickname)
                .uint(peer.uid)
                .uint(peer.version)
                .uint(peer.short_id.into())
                .bool(peer.has_short_id);
        });
        if index == 0 {
            encoder
                .define_slice(list_type, "", connection_type)
                .define_struct(
                    connection_type,
                    "",
                    &[
                        ("NameByte", TypeId::BYTES),
                        ("RemoteTCPAddr", TypeId::STRING),
                        ("Outbound", TypeId::BOOL),
                        ("Established", TypeId::BOOL),
                    ],
                );
        }
        encoder.value(list_type, |out| {
            put_uint(out, peer.connections.len() as u64);
            for (name, address, outbound, established) in &peer.connections {
                StructWriter::write(out, |fields| {
                    fields
                        .bytes(name)
                        .bytes(address)
                        .bool(*outbound)
                        .bool(*established);
                });
            }
        });
    }
    assert_eq!(hex::encode(encoder.finish()), hex::encode(bytes));
}

#[test]
fn map_definition_as_go_writes_it() {
    let mut encoder = Encoder::new();
    encoder.define_map(TypeId(65), "", TypeId::STRING, TypeId::STRING);
    encoder.value(TypeId(65), |out| {
        put_uint(out, 1);
        put_bytes(out, b"Name");
        put_bytes(out, b"A");
    });
    assert_eq!(
        hex::encode(encoder.finish()),
        "0eff81040102ff8200010c010c00000bff820001044e616d650141"
    );
}

/// A stream with a struct, a slice of it, a map of slices and an array, after one another.
fn nested_stream() -> Vec<u8> {
    let (pair, list, map) = (TypeId(70), TypeId(71), TypeId(72));
    let mut encoder = Encoder::new();
    encoder
        .define_map(map, "M", TypeId::UINT, list)
        .define_slice(list, "L", pair)
        .define_struct(pair, "P", &[("A", TypeId::INT), ("B", TypeId::STRING)]);
    encoder.value(map, |out| {
        put_uint(out, 2);
        for key in [7, 300] {
            put_uint(out, key);
            put_uint(out, 2);
            for a in [-1, 5] {
                StructWriter::write(out, |fields| {
                    fields.int(a).bytes(b"b");
                });
            }
        }
    });
    encoder.string(b"after");
    encoder.finish()
}

#[test]
fn what_is_left_alone_is_skipped() {
    let stream = nested_stream();
    let mut decoder = Decoder::new(&stream, Limits::GOSSIP);
    // Nothing of the value is read.
    assert_eq!(decoder.require_value().unwrap().kind(), Ok(Kind::Map));
    assert_eq!(decoder.require_value().unwrap().string(), Ok(&b"after"[..]));

    // A part of a part is read, at each level something is left.
    let mut decoder = Decoder::new(&stream, Limits::GOSSIP);
    let mut map = decoder.require_value().unwrap().into_map().unwrap();
    assert_eq!(map.len(), 2);
    assert_eq!(map.value().unwrap_err(), Error::NoPair);
    assert_eq!(map.next_key().unwrap().unwrap().uint(), Ok(7));
    let list = map.value().unwrap();
    let mut list = list.into_slice().unwrap();
    let mut first = list.next_element().unwrap().unwrap().into_struct().unwrap();
    let (name, a) = first.next_field().unwrap().unwrap();
    assert_eq!((name, a.int()), (&b"A"[..], Ok(-1)));
    let mut second = list.next_element().unwrap().unwrap().into_struct().unwrap();
    let (name, _) = second.next_field().unwrap().unwrap();
    assert_eq!(name, b"A");
    let (name, b) = second.next_field().unwrap().unwrap();
    assert_eq!((name, b.string()), (&b"B"[..], Ok(&b"b"[..])));
    assert_eq!(map.next_key().unwrap().unwrap().uint(), Ok(300));
    map.value().unwrap().skip().unwrap();
    assert_eq!(map.value().unwrap_err(), Error::NoPair);
    assert!(map.next_key().unwrap().is_none());
    assert!(map.next_key().unwrap().is_none());
    assert_eq!(map.value().unwrap_err(), Error::NoPair);
    assert_eq!(decoder.require_value().unwrap().string(), Ok(&b"after"[..]));
    assert!(decoder.next_value().unwrap().is_none());
}

#[test]
fn a_value_of_the_wrong_kind_can_still_be_skipped() {
    let stream = nested_stream();
    let mut decoder = Decoder::new(&stream, Limits::GOSSIP);
    assert_eq!(
        decoder.require_value().unwrap().string(),
        Err(Error::WrongKind {
            expected: Kind::String,
            found: Kind::Map
        })
    );
    assert_eq!(decoder.require_value().unwrap().string(), Ok(&b"after"[..]));
}

#[test]
fn limits_hold() {
    let stream = nested_stream();
    let read = |change: fn(&mut Limits)| {
        let mut limits = Limits::GOSSIP;
        change(&mut limits);
        let mut decoder = Decoder::new(&stream, limits);
        loop {
            match decoder.next_value() {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    let too_many = |what, limit| Err(Error::TooMany { what, limit });
    assert_eq!(read(|_| ()), Ok(()));
    assert_eq!(read(|limits| limits.depth = 2), too_many("levels", 2));
    assert_eq!(read(|limits| limits.depth = 3), Ok(()));
    assert_eq!(read(|limits| limits.types = 2), too_many("types", 2));
    assert_eq!(read(|limits| limits.fields = 1), too_many("fields", 1));
    assert_eq!(read(|limits| limits.elements = 5), too_many("elements", 5));
    assert_eq!(read(|limits| limits.elements = 6), Ok(()));
    for change in [
        (|limits| limits.message_len = 10) as fn(&mut Limits),
        |limits| limits.definition_len = 10,
    ] {
        assert!(matches!(read(change), Err(Error::TooLong { .. })));
    }
}

#[test]
fn types_that_contain_themselves_end_at_the_depth_limit() {
    let mut encoder = Encoder::new();
    encoder.define_struct(TypeId(65), "", &[("Inner", TypeId(65))]);
    let mut stream = encoder.finish();
    let mut body = vec![0xff, 0x82];
    body.extend([1; 100]);
    body.extend([0; 101]);
    put_bytes(&mut stream, &body);
    let mut decoder = Decoder::new(&stream, Limits::GOSSIP);
    let value = decoder.require_value().unwrap();
    assert_eq!(
        value.skip(),
        Err(Error::TooMany {
            what: "levels",
            limit: 16
        })
    );
}

#[test]
fn undefined_types_are_refused_even_where_no_value_is_sent() {
    let mut encoder = Encoder::new();
    encoder.define_struct(TypeId(65), "", &[("A", TypeId::INT), ("B", TypeId(90))]);
    encoder.struct_value(TypeId(65), |fields| {
        fields.int(1);
    });
    let stream = encoder.finish();
    let mut decoder = Decoder::new(&stream, Limits::GOSSIP);
    assert_eq!(
        decoder.next_value().unwrap_err(),
        Error::UndefinedType(TypeId(90))
    );
}

#[test]
fn a_stream_may_arrive_piecemeal() {
    let stream = nested_stream();
    let mut rest = &stream[..];
    let mut types = Types::default();
    let mut kinds = Vec::new();
    while !rest.is_empty() {
        assert_eq!(message_len(&[], &Limits::GOSSIP), Ok(None));
        let len = message_len(rest, &Limits::GOSSIP).unwrap().unwrap();
        let (message, after) = rest.split_at(len);
        rest = after;
        let mut decoder = Decoder::resume(message, Limits::GOSSIP, types);
        if let Some(value) = decoder.next_value().unwrap() {
            kinds.push(value.kind().unwrap());
        }
        types = decoder.into_types();
    }
    assert_eq!(kinds, [Kind::Map, Kind::String]);
    assert_eq!(
        message_len(&[0xfc, 0x40, 0, 0, 0], &Limits::GOSSIP),
        Err(Error::TooLong {
            len: 0x4000_0000,
            limit: Limits::GOSSIP.message_len
        })
    );
    assert_eq!(message_len(&[0xfc, 0x40, 0, 0], &Limits::GOSSIP), Ok(None));
    assert_eq!(
        message_len(&[0x80], &Limits::GOSSIP),
        Err(Error::BadInteger(0x80))
    );
}

// ------------------------------------------------------------------ against the crate gobwire

/// Reads a whole value through our decoder into the oracle's tree, for the type that the oracle
/// has found.
fn read_tree(value: Value<'_, '_>, ty: &Type) -> Result<Tree, Error> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| Error::OutOfRange);
    Ok(match ty {
        Type::Bool => Tree::Bool(value.bool()?),
        Type::Int => Tree::Int(value.int()?),
        Type::Uint => Tree::Uint(value.uint()?),
        Type::Bytes => Tree::Bytes(value.bytes()?.to_vec()),
        Type::String => Tree::String(text(value.string()?)?),
        Type::Slice(element) => {
            let mut elements = Vec::new();
            let mut slice = value.into_slice()?;
            while let Some(value) = slice.next_element()? {
                elements.push(read_tree(value, element)?);
            }
            Tree::Slice(elements)
        }
        Type::Map(key, element) => {
            let mut pairs = Vec::new();
            let mut map = value.into_map()?;
            while let Some(value) = map.next_key()? {
                let key = read_tree(value, key)?;
                pairs.push((key, read_tree(map.value()?, element)?));
            }
            Tree::Map(pairs)
        }
        Type::Struct(ty) => {
            let mut fields = vec![None; ty.fields.len()];
            let mut reader = value.into_struct()?;
            while let Some((name, value)) = reader.next_field()? {
                let name = text(name)?;
                let index = ty.fields.iter().position(|field| field.0 == name).unwrap();
                fields[index] = Some(read_tree(value, &ty.fields[index].1)?);
            }
            Tree::Struct(fields)
        }
        other => panic!("not generated: {other:?}"),
    })
}

/// Types of up to three levels and values of them.
fn dynamic() -> impl Strategy<Value = Dynamic> {
    let leaf = prop_oneof![
        Just(Type::Bool),
        Just(Type::Int),
        Just(Type::Uint),
        Just(Type::Bytes),
        Just(Type::String),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            inner
                .clone()
                .prop_map(|element| Type::Slice(Arc::new(element))),
            (inner.clone(), inner.clone())
                .prop_map(|(key, element)| Type::Map(Arc::new(key), Arc::new(element))),
            prop::collection::vec(inner, 1..5).prop_map(|types| {
                let named = types
                    .into_iter()
                    .enumerate()
                    .map(|(index, ty)| (format!("F{index}"), ty));
                Type::Struct(Arc::new(StructType {
                    name: "S".into(),
                    fields: named.collect(),
                }))
            }),
        ]
    })
    .prop_flat_map(|ty| {
        value_of(&ty).prop_map(move |value| Dynamic {
            ty: ty.clone(),
            value,
        })
    })
}

fn value_of(ty: &Type) -> BoxedStrategy<Tree> {
    match ty {
        Type::Bool => any::<bool>().prop_map(Tree::Bool).boxed(),
        Type::Int => any::<i64>().prop_map(Tree::Int).boxed(),
        Type::Uint => prop_oneof![0..300_u64, any::<u64>()]
            .prop_map(Tree::Uint)
            .boxed(),
        Type::Bytes => prop::collection::vec(any::<u8>(), 0..200)
            .prop_map(Tree::Bytes)
            .boxed(),
        Type::String => "\\PC{0,20}".prop_map(Tree::String).boxed(),
        Type::Slice(element) => prop::collection::vec(value_of(element), 0..4)
            .prop_map(Tree::Slice)
            .boxed(),
        Type::Map(key, element) => prop::collection::vec((value_of(key), value_of(element)), 0..4)
            .prop_map(Tree::Map)
            .boxed(),
        Type::Struct(ty) => {
            let fields: Vec<_> = ty
                .fields
                .iter()
                .map(|(_, ty)| value_of(ty).prop_map(Some))
                .collect();
            fields.prop_map(Tree::Struct).boxed()
        }
        other => panic!("not generated: {other:?}"),
    }
}

/// First value of a stream, as the oracle reads it.
fn oracle_reads(mut stream: &[u8]) -> Option<Dynamic> {
    let mut oracle = Oracle::new();
    loop {
        let (width, len) = gobwire::parse_length_prefix(stream).ok()??;
        let body = stream.get(width..width.checked_add(len)?)?;
        stream = &stream[width + len..];
        match oracle.push_message(body).ok()? {
            Progress::Ready => return oracle.decode().ok(),
            Progress::TypeDefinition(_) => {}
            Progress::NeedMore => return None,
        }
    }
}

/// Reads or skips everything in every way there is.
fn walk(stream: &[u8], limits: Limits) -> Result<usize, Error> {
    fn visit(value: Value<'_, '_>) -> Result<usize, Error> {
        let mut count = 1;
        match value.kind()? {
            Kind::Bool => drop(value.bool()?),
            Kind::Int => drop(value.int()?),
            Kind::Uint => drop(value.uint()?),
            Kind::Bytes => drop(value.bytes()?),
            Kind::String => drop(value.string()?),
            Kind::Slice => {
                let mut slice = value.into_slice()?;
                while let Some(element) = slice.next_element()? {
                    count += visit(element)?;
                }
            }
            Kind::Map => {
                let mut map = value.into_map()?;
                while let Some(key) = map.next_key()? {
                    count += visit(key)?;
                    count += visit(map.value()?)?;
                }
            }
            Kind::Struct => {
                let mut fields = value.into_struct()?;
                while let Some((_, value)) = fields.next_field()? {
                    count += visit(value)?;
                }
            }
            _ => value.skip()?,
        }
        Ok(count)
    }
    let mut decoder = Decoder::new(stream, limits);
    let mut count = 0;
    while let Some(value) = decoder.next_value()? {
        count += visit(value)?;
    }
    Ok(count)
}

fn skip_all(stream: &[u8], limits: Limits) -> Result<(), Error> {
    let mut decoder = Decoder::new(stream, limits);
    while let Some(value) = decoder.next_value()? {
        value.skip()?;
    }
    Ok(())
}

proptest! {
    #[test]
    fn reads_what_gobwire_writes(dynamic in dynamic()) {
        let stream = gobwire::Encoder::new().encode(&dynamic).unwrap();
        // Zero fields are not sent, so take what the oracle reads back.
        let expected = oracle_reads(&stream).unwrap();
        let mut decoder = Decoder::new(&stream, Limits::GOSSIP);
        let read = read_tree(decoder.require_value().unwrap(), &expected.ty);
        prop_assert_eq!(read, Ok(expected.value));
        prop_assert!(decoder.next_value().unwrap().is_none());
    }

    #[test]
    fn agrees_with_gobwire_on_damaged_streams(
        dynamic in dynamic(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut stream = gobwire::Encoder::new().encode(&dynamic).unwrap();
        for (index, byte) in damage {
            let index = index.index(stream.len());
            stream[index] = byte;
        }
        let skipped = skip_all(&stream, Limits::GOSSIP);
        let walked = walk(&stream, Limits::GOSSIP);
        prop_assert_eq!(skipped.is_ok(), walked.is_ok(), "{:?} {:?}", skipped, walked);
        if let Some(expected) = oracle_reads(&stream) && plain(&expected.ty) {
            let mut decoder = Decoder::new(&stream, Limits::GOSSIP);
            match decoder.require_value().and_then(|value| read_tree(value, &expected.ty)) {
                Ok(read) => prop_assert_eq!(read, expected.value),
                // Our own limits, and definitions that describe two types at once.
                Err(Error::TooMany { .. } | Error::TooLong { .. } | Error::BadDefinition) => {}
                Err(error) => prop_assert!(false, "{}: gobwire reads {expected:?}, but we: {error}", hex::encode(&stream)),
            }
        }
    }

    #[test]
    fn garbage_never_panics(stream in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = walk(&stream, Limits::GOSSIP);
        let _ = skip_all(&stream, Limits::GOSSIP);
    }

    #[test]
    fn gobwire_reads_what_we_write(
        peers in prop::collection::vec(
            ("\\PC{0,9}", any::<u64>(), any::<i64>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)),
            0..6,
        ),
    ) {
        let (list, element) = (TypeId(65), TypeId(1000));
        let fields = [
            ("A", TypeId::STRING), ("B", TypeId::UINT), ("C", TypeId::INT), ("D", TypeId::BOOL), ("E", TypeId::BYTES),
        ];
        let mut encoder = Encoder::new();
        encoder.define_slice(list, "List", element).define_struct(element, "", &fields);
        encoder.value(list, |out| {
            put_uint(out, peers.len() as u64);
            for (a, b, c, d, e) in &peers {
                StructWriter::write(out, |fields| {
                    fields.bytes(a.as_bytes()).uint(*b).int(*c).bool(*d).bytes(e);
                });
            }
        });
        let stream = encoder.finish();
        let some = |tree: Tree, zero: bool| if zero { None } else { Some(tree) };
        let expected = peers.iter().map(|(a, b, c, d, e)| Tree::Struct(vec![
            some(Tree::String(a.clone()), a.is_empty()),
            some(Tree::Uint(*b), *b == 0),
            some(Tree::Int(*c), *c == 0),
            some(Tree::Bool(true), !*d),
            some(Tree::Bytes(e.clone()), e.is_empty()),
        ]));
        prop_assert_eq!(
            oracle_reads(&stream).map(|dynamic| dynamic.value),
            Some(Tree::Slice(expected.collect()))
        );
    }
}

/// Whether our decoder reads all that is in a value of this type, and struct fields can be told
/// apart by their names.
fn plain(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Int | Type::Uint | Type::Bytes | Type::String => true,
        Type::Slice(element) => plain(element),
        Type::Map(key, element) => plain(key) && plain(element),
        Type::Struct(ty) => {
            let mut names: Vec<_> = ty.fields.iter().map(|field| &field.0).collect();
            names.sort();
            names.dedup();
            names.len() == ty.fields.len() && ty.fields.iter().all(|(_, ty)| plain(ty))
        }
        _ => false,
    }
}
