//! What the tests of all modules need: the recorded vectors and their notations.

use serde_json::Value;

use proto::PeerName;

use crate::range::{Address, Range};
use crate::ring::{Entry, Ring};

/// The vectors in a file of `tests/vectors`.
pub(crate) fn vectors(file: &str) -> Vec<Value> {
    let path = format!("{}/../tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    list.as_array().unwrap().clone()
}

pub(crate) fn address(value: &Value) -> Address {
    value.as_str().unwrap().parse().unwrap()
}

pub(crate) fn range(value: &Value) -> Range {
    Range::new(address(&value["start"]), address(&value["end"]))
}

pub(crate) fn peer(value: &Value) -> PeerName {
    value.as_str().unwrap().parse().unwrap()
}

pub(crate) fn number(value: &Value) -> u32 {
    value.as_u64().unwrap().try_into().unwrap()
}

pub(crate) fn list<T>(value: &Value, item: impl FnMut(&Value) -> T) -> Vec<T> {
    value.as_array().unwrap().iter().map(item).collect()
}

pub(crate) fn ring(value: &Value) -> Ring {
    let entries = list(&value["entries"], |entry| Entry {
        token: address(&entry["token"]),
        peer: peer(&entry["peer"]),
        version: number(&entry["version"]),
        free: number(&entry["free"]),
    });
    Ring::from_parts(range(value), entries, list(&value["seeds"], peer))
}
