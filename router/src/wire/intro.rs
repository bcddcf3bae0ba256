//! What both ends of a control connection say first: the header with the protocol versions, and
//! the features, a map of strings by which they introduce themselves.
//!
//! ```text
//! header    "weave" | lowest version | highest version          7 bytes
//! features  gob: map[string]string
//! ```
//!
//! Version 1 knows five keys only, and one more for the public key. In version 2 new keys may be
//! added freely: other ends ignore what they do not know.
//!
//! Source: Weave mesh protocol, sections 1.2, 1.4 and 1.7.

use std::borrow::Cow;

use proto::gob::{self, Encoder, TypeId, Value, put_bytes, put_uint};
use proto::{PeerName, PeerUid, ShortId};
use thiserror::Error;

use crate::constants::{MAX_PROTOCOL, MIN_PROTOCOL};
use crate::crypto::session::PUBLIC_KEY_LEN;

/// Bytes of the header.
pub const HEADER_LEN: usize = 7;

const MAGIC: [u8; 5] = *b"weave";
const FLAVOUR: &str = "mac";

/// The protocol versions that one end speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The lowest.
    pub min: u8,
    /// The highest.
    pub max: u8,
}

impl Default for Versions {
    /// All that exist.
    fn default() -> Self {
        Self {
            min: MIN_PROTOCOL,
            max: MAX_PROTOCOL,
        }
    }
}

/// The other end cannot be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadHeader {
    /// It does not speak this protocol at all.
    #[error("remote protocol header not recognised: {0:?} (is that the port of a mesh?)")]
    NotRecognised([u8; 5]),
    /// It speaks none of our versions.
    #[error(
        "remote version range [{},{}] is incompatible with ours [{},{}] \
         (see --min-protocol-version)", theirs.min, theirs.max, ours.min, ours.max
    )]
    Incompatible {
        /// What we speak.
        ours: Versions,
        /// What it speaks.
        theirs: Versions,
    },
}

impl Versions {
    /// The header that announces them.
    pub fn header(self) -> [u8; HEADER_LEN] {
        let [w, e, a, v, e2] = MAGIC;
        [w, e, a, v, e2, self.min, self.max]
    }

    /// The version to speak with an end that sent `header`: the highest common one.
    pub fn choose(self, header: [u8; HEADER_LEN]) -> Result<u8, BadHeader> {
        let [magic @ .., min, max] = header;
        if magic != MAGIC {
            return Err(BadHeader::NotRecognised(magic));
        }
        let highest = self.max.min(max);
        if self.min.max(min) > highest {
            return Err(BadHeader::Incompatible {
                ours: self,
                theirs: Self { min, max },
            });
        }
        Ok(highest)
    }
}

/// How one end introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// Its name.
    pub name: PeerName,
    /// Free text, which should be UTF-8 but may be any bytes.
    pub nickname: Vec<u8>,
    /// The life it is in.
    pub uid: PeerUid,
    /// A random number of this attempt to connect.
    pub conn_id: u64,
    /// Its short id, if it has one. Never in version 1.
    pub short_id: Option<ShortId>,
    /// Whether it trusts the address of the other end. Never in version 1.
    pub trusted: bool,
    /// The overlays that it speaks, in order of preference and separated by single blanks. `None`
    /// for an end that knows only sleeve; always so in version 1.
    pub overlays: Option<String>,
    /// Its public key, if it has a password. In version 1 only.
    pub public_key: Option<[u8; PUBLIC_KEY_LEN]>,
}

/// An introduction that must be refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadFeatures {
    /// Not a map of strings.
    #[error("features cannot be read: {0}")]
    Gob(#[from] gob::Error),
    /// A needed key is missing.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// Its names are of another kind.
    #[error("Peer name flavour mismatch (ours: '{FLAVOUR}', theirs: '{0}')")]
    Flavour(String),
    /// A value is not what its key says.
    #[error("field {key} has the bad value {value:?}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// The value, cut to a length that can be shown.
        value: String,
    },
}

impl Features {
    /// A gob stream with all that goes into `version`.
    pub fn encode(&self, version: u8) -> Vec<u8> {
        let mut entries: Vec<(&str, Cow<'_, [u8]>)> = vec![
            ("PeerNameFlavour", FLAVOUR.as_bytes().into()),
            ("Name", self.name.to_string().into_bytes().into()),
            ("NickName", self.nickname.as_slice().into()),
            ("UID", self.uid.to_string().into_bytes().into()),
            ("ConnID", self.conn_id.to_string().into_bytes().into()),
        ];
        if version == 1 {
            if let Some(key) = self.public_key {
                entries.push(("PublicKey", hex::encode(key).into_bytes().into()));
            }
        } else {
            if let Some(id) = self.short_id {
                entries.push(("ShortID", id.to_string().into_bytes().into()));
            }
            entries.push(("Trusted", self.trusted.to_string().into_bytes().into()));
            if let Some(overlays) = &self.overlays {
                entries.push(("Overlays", overlays.as_bytes().into()));
            }
        }
        // Any id would do; this is the first that is free.
        let id = TypeId(65);
        let mut stream = Encoder::new();
        stream.define_map(id, "", TypeId::STRING, TypeId::STRING);
        stream.value(id, |out| {
            put_uint(out, entries.len() as u64);
            for (key, value) in entries {
                put_bytes(out, key.as_bytes());
                put_bytes(out, &value);
            }
        });
        stream.finish()
    }

    /// Reads the map of an end that speaks `version`.
    pub fn decode(value: Value<'_, '_>, version: u8) -> Result<Self, BadFeatures> {
        let raw = RawFeatures::read(value)?;
        let extended = |value| if version == 1 { None } else { value };

        let flavour = need("PeerNameFlavour", raw.flavour)?;
        if flavour != FLAVOUR.as_bytes() {
            return Err(BadFeatures::Flavour(shown(flavour)));
        }
        let name = need("Name", raw.name)?;
        let nickname = need("NickName", raw.nickname)?;
        let uid = need("UID", raw.uid)?;
        let conn_id = need("ConnID", raw.conn_id)?;
        Ok(Self {
            name: std::str::from_utf8(name)
                .ok()
                .and_then(|name| name.parse().ok())
                .ok_or_else(|| bad("Name", name))?,
            nickname: nickname.to_vec(),
            uid: PeerUid(number("UID", uid)?),
            conn_id: number("ConnID", conn_id)?,
            short_id: extended(raw.short_id).map(short_id).transpose()?,
            trusted: extended(raw.trusted).map_or(Ok(false), boolean)?,
            overlays: extended(raw.overlays)
                .map(|overlays| String::from_utf8_lossy(overlays).into_owned()),
            public_key: match (version, raw.public_key) {
                (1, Some(key)) => Some(public_key(key)?),
                _ => None,
            },
        })
    }
}

/// The values of the keys that we know. Where a key comes twice the last one counts.
#[derive(Default)]
struct RawFeatures<'a> {
    flavour: Option<&'a [u8]>,
    name: Option<&'a [u8]>,
    nickname: Option<&'a [u8]>,
    uid: Option<&'a [u8]>,
    conn_id: Option<&'a [u8]>,
    short_id: Option<&'a [u8]>,
    trusted: Option<&'a [u8]>,
    overlays: Option<&'a [u8]>,
    public_key: Option<&'a [u8]>,
}

impl<'a> RawFeatures<'a> {
    fn read(value: Value<'_, 'a>) -> Result<Self, gob::Error> {
        let mut raw = Self::default();
        let mut map = value.into_map()?;
        while let Some(key) = map.next_key()? {
            let key = key.string()?;
            let value = map.value()?.string()?;
            let slot = match key {
                b"PeerNameFlavour" => &mut raw.flavour,
                b"Name" => &mut raw.name,
                b"NickName" => &mut raw.nickname,
                b"UID" => &mut raw.uid,
                b"ConnID" => &mut raw.conn_id,
                b"ShortID" => &mut raw.short_id,
                b"Trusted" => &mut raw.trusted,
                b"Overlays" => &mut raw.overlays,
                b"PublicKey" => &mut raw.public_key,
                _ => continue,
            };
            *slot = Some(value);
        }
        Ok(raw)
    }
}

fn need<'a>(key: &'static str, value: Option<&'a [u8]>) -> Result<&'a [u8], BadFeatures> {
    value.ok_or(BadFeatures::Missing(key))
}

/// What a message can show of a value.
fn shown(value: &[u8]) -> String {
    const SHOWN_LEN: usize = 64;
    let cut = value.get(..SHOWN_LEN).unwrap_or(value);
    String::from_utf8_lossy(cut).into_owned()
}

fn bad(key: &'static str, value: &[u8]) -> BadFeatures {
    BadFeatures::BadValue {
        key,
        value: shown(value),
    }
}

/// Decimal digits only: neither signs nor blanks.
fn number(key: &'static str, value: &[u8]) -> Result<u64, BadFeatures> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| bad(key, value))
}

fn short_id(value: &[u8]) -> Result<ShortId, BadFeatures> {
    let key = "ShortID";
    u16::try_from(number(key, value)?)
        .ok()
        .filter(|id| *id < ShortId::COUNT)
        .map(ShortId)
        .ok_or_else(|| bad(key, value))
}

/// All spellings that Go takes for a bool.
fn boolean(value: &[u8]) -> Result<bool, BadFeatures> {
    match value {
        b"1" | b"t" | b"T" | b"TRUE" | b"true" | b"True" => Ok(true),
        b"0" | b"f" | b"F" | b"FALSE" | b"false" | b"False" => Ok(false),
        _ => Err(bad("Trusted", value)),
    }
}

fn public_key(value: &[u8]) -> Result<[u8; PUBLIC_KEY_LEN], BadFeatures> {
    let mut key = [0; PUBLIC_KEY_LEN];
    hex::decode_to_slice(value, &mut key).map_err(|_| bad("PublicKey", value))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use proto::gob::{Decoder, Limits};
    use serde_json::Value as Json;

    use super::*;

    fn vectors(file: &str) -> Vec<Json> {
        let file: Json = serde_json::from_str(file).unwrap();
        file["vectors"].as_array().unwrap().clone()
    }

    #[test]
    fn versions_as_the_original_chooses() {
        let vectors = vectors(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/vectors/handshake.json"
        )));
        let mut count = 0;
        for vector in vectors {
            let name = vector["name"].as_str().unwrap();
            let inputs = &vector["inputs"];
            let number = |key: &str| u8::try_from(inputs[key].as_u64().unwrap()).unwrap();
            let header = || {
                let bytes = hex::decode(vector["hex"].as_str().unwrap()).unwrap();
                <[u8; HEADER_LEN]>::try_from(bytes).unwrap()
            };
            if name.starts_with("header ") {
                let (min, max) = (number("min"), number("max"));
                assert_eq!(Versions { min, max }.header(), header());
            } else if name.starts_with("negotiate ") {
                let (min, max) = (number("our_min"), number("our_max"));
                let chosen = Versions { min, max }.choose(header()).ok();
                let expected = vector["meaning"]["version"]
                    .as_u64()
                    .map(|version| u8::try_from(version).unwrap());
                assert_eq!(chosen, expected, "{name}");
            } else {
                continue;
            }
            count += 1;
        }
        assert_eq!(count, 11);
    }

    #[test]
    fn refused_headers_say_why() {
        let refusal = |header: &[u8; 7]| Versions::default().choose(*header).unwrap_err();
        assert_eq!(
            refusal(b"SSH-2.0").to_string(),
            "remote protocol header not recognised: [83, 83, 72, 45, 50] \
             (is that the port of a mesh?)"
        );
        assert_eq!(
            refusal(b"weave\x03\x04").to_string(),
            "remote version range [3,4] is incompatible with ours [1,2] \
             (see --min-protocol-version)"
        );
        assert!(Versions::default().choose(*b"weave\x00\x00").is_err());
    }

    fn decode(stream: &[u8], version: u8) -> Result<Features, BadFeatures> {
        let mut decoder = Decoder::new(stream, Limits::GOSSIP);
        Features::decode(decoder.require_value()?, version)
    }

    fn stream(entries: &[(&str, &str)]) -> Vec<u8> {
        let id = TypeId(70);
        let mut stream = Encoder::new();
        stream.define_map(id, "", TypeId::STRING, TypeId::STRING);
        stream.value(id, |out| {
            put_uint(out, entries.len() as u64);
            for (key, value) in entries {
                put_bytes(out, key.as_bytes());
                put_bytes(out, value.as_bytes());
            }
        });
        stream.finish()
    }

    const ENTRIES: [(&str, &str); 8] = [
        ("PeerNameFlavour", "mac"),
        ("Name", "7a:9f:eb:b6:0c:6e"),
        ("NickName", ""),
        ("UID", "18446744073709551615"),
        ("ConnID", "007"),
        ("ShortID", "4095"),
        ("Trusted", "T"),
        ("Overlays", "fastdp sleeve"),
    ];

    /// `ENTRIES` with one value replaced, or left out.
    fn with(key: &str, value: Option<&str>) -> Vec<u8> {
        let mut entries = ENTRIES.to_vec();
        entries.retain(|entry| entry.0 != key);
        entries.extend(value.map(|value| (key, value)));
        stream(&entries)
    }

    fn features() -> Features {
        Features {
            name: "7a:9f:eb:b6:0c:6e".parse().unwrap(),
            nickname: Vec::new(),
            uid: PeerUid(u64::MAX),
            conn_id: 7,
            short_id: Some(ShortId(4095)),
            trusted: true,
            overlays: Some("fastdp sleeve".into()),
            public_key: None,
        }
    }

    #[test]
    fn both_versions_round_trip() {
        let mut features = features();
        assert_eq!(decode(&stream(&ENTRIES), 2), Ok(features.clone()));
        assert_eq!(decode(&features.encode(2), 2), Ok(features.clone()));
        features.public_key = Some([0xab; 32]);
        let old = Features {
            short_id: None,
            trusted: false,
            overlays: None,
            ..features.clone()
        };
        // Version 1 neither sends nor takes the others.
        assert_eq!(decode(&features.encode(1), 1), Ok(old));
        let new = Features {
            public_key: None,
            ..features.clone()
        };
        assert_eq!(decode(&features.encode(2), 2), Ok(new));
        let old = decode(&stream(&ENTRIES), 1).unwrap();
        assert_eq!(
            (old.short_id, old.trusted, old.overlays),
            (None, false, None)
        );
    }

    #[test]
    fn recorded_features() {
        let vectors = vectors(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/vectors/gob_features.json"
        )));
        let by_name = |name: &str| {
            let vector = vectors.iter().find(|vector| vector["name"] == name);
            decode(
                &hex::decode(vector.unwrap()["hex"].as_str().unwrap()).unwrap(),
                2,
            )
        };
        let typical = by_name("typical sleeve only").unwrap();
        assert_eq!(typical.name, "::1".parse().unwrap());
        assert_eq!(typical.nickname, b"h1");
        assert_eq!(typical.uid, PeerUid(10_523_372_839_173_287_463));
        assert_eq!(typical.conn_id, 6_213_872_361_872_638_712);
        assert_eq!(typical.short_id, Some(ShortId(3107)));
        assert_eq!(typical.overlays.as_deref(), Some("sleeve"));
        assert!(!typical.trusted);
        let typical = by_name("typical fastdp and sleeve").unwrap();
        assert_eq!(typical.short_id, Some(ShortId(0)));
        assert!(typical.trusted);
        let old = by_name("version 1 filtered").unwrap();
        assert_eq!((old.short_id, old.overlays), (None, None));
        assert_eq!(
            by_name("one entry").unwrap_err(),
            BadFeatures::Missing("PeerNameFlavour")
        );
    }

    #[test]
    fn values_are_strict() {
        for key in ["PeerNameFlavour", "Name", "NickName", "UID", "ConnID"] {
            assert_eq!(decode(&with(key, None), 2), Err(BadFeatures::Missing(key)));
        }
        for key in ["ShortID", "Trusted", "Overlays", "Unknown"] {
            assert!(decode(&with(key, None), 2).is_ok(), "{key}");
        }
        let too_large = "18446744073709551616";
        for (key, value) in [
            ("Name", ""),
            ("Name", "::"),
            ("Name", "host"),
            ("UID", ""),
            ("UID", "-1"),
            ("UID", "+1"),
            ("UID", "0x1"),
            ("UID", " 1"),
            ("UID", too_large),
            ("ConnID", ""),
            ("ConnID", "1_0"),
            ("ConnID", too_large),
            ("ShortID", ""),
            ("ShortID", "4096"),
            ("ShortID", "65536"),
            ("Trusted", ""),
            ("Trusted", "yes"),
            ("Trusted", "tRUE"),
        ] {
            let value = value.to_owned();
            assert_eq!(
                decode(&with(key, Some(&value)), 2),
                Err(BadFeatures::BadValue { key, value })
            );
        }
        assert_eq!(
            decode(&with("PeerNameFlavour", Some("hash")), 2)
                .unwrap_err()
                .to_string(),
            "Peer name flavour mismatch (ours: 'mac', theirs: 'hash')"
        );
        for key in ["", "00", &"g".repeat(64), &"0".repeat(66)] {
            assert!(decode(&with("PublicKey", Some(key)), 1).is_err());
            // Not a feature of version 2.
            assert!(decode(&with("PublicKey", Some(key)), 2).is_ok());
        }
        for (text, trusted) in [("1", true), ("True", true), ("f", false), ("FALSE", false)] {
            assert_eq!(
                decode(&with("Trusted", Some(text)), 2).unwrap().trusted,
                trusted
            );
        }
        // What version 1 does not know it does not check.
        assert!(decode(&with("ShortID", Some("bad")), 1).is_ok());
    }

    #[test]
    fn long_values_are_not_repeated() {
        let long = "x".repeat(100_000);
        let error = decode(&with("Name", Some(&long)), 2)
            .unwrap_err()
            .to_string();
        assert!(error.len() < 200, "{error}");
    }
}
