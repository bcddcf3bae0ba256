//! What tests of several modules share: golden bytes.

use serde_json::Value as Json;

/// The vectors of one file of golden bytes; there are some.
pub(crate) fn vectors(file: &str) -> Vec<Json> {
    let Json::Array(vectors) = golden(file)["vectors"].take() else {
        panic!("{file} has no vectors");
    };
    assert!(!vectors.is_empty());
    vectors
}

/// A whole file of golden bytes.
pub(crate) fn golden(file: &str) -> Json {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors");
    let text = std::fs::read_to_string(format!("{directory}/{file}")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The bytes of a hex string.
pub(crate) fn bytes(text: &Json) -> Vec<u8> {
    hex::decode(text.as_str().unwrap()).unwrap()
}
