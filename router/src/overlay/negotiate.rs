//! Which overlays two ends have in common.
//!
//! Each end offers its overlays by name in the feature `Overlays`, in order of preference, joined by
//! one space. The common list is in the order of our own preference; a position in it is the index
//! in control messages, so both ends must list the names they share in the same relative order.
//! [`SUPPORTED`] therefore never changes the order of the names that it has once had.
//!
//! Source: Weave data plane, sections 3.1 and 3.3.

use thiserror::Error;

/// Userspace overlay over UDP on the mesh port, which every peer speaks.
pub const SLEEVE: &str = "sleeve";

/// Our own overlay over UDP on the mesh port.
pub const SHUTTLE: &str = "shuttle";

/// Frames over the TCP connection, for want of anything better.
pub const STREAM: &str = "stream";

/// The overlays that this program speaks, in order of preference.
pub const SUPPORTED: &[&str] = &[SHUTTLE, SLEEVE, STREAM];

/// An index is one byte.
const MAX_COUNT: usize = 256;

/// The two ends share no overlay: the connection must be refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no overlay in common: we offer {ours:?}, the other end {theirs:?}")]
pub struct NoCommonOverlay {
    /// What we offer, as sent.
    pub ours: String,
    /// What they offer, as received.
    pub theirs: String,
}

/// The value of the feature `Overlays` for our list.
fn offer<S: AsRef<str>>(ours: &[S]) -> String {
    let names: Vec<&str> = ours.iter().map(AsRef::as_ref).collect();
    names.join(" ")
}

/// The common list. `theirs` is the other end's feature `Overlays`; without that feature the other
/// end speaks sleeve only.
pub fn common<S: AsRef<str>>(
    ours: &[S],
    theirs: Option<&str>,
) -> Result<Vec<String>, NoCommonOverlay> {
    let offered = theirs.unwrap_or(SLEEVE);
    let mut list: Vec<String> = Vec::new();
    for name in ours.iter().map(AsRef::as_ref) {
        let is_shared = !name.is_empty() && offered.split(' ').any(|other| other == name);
        if is_shared && !list.iter().any(|listed| listed == name) && list.len() < MAX_COUNT {
            list.push(name.to_owned());
        }
    }
    if list.is_empty() {
        return Err(NoCommonOverlay {
            ours: offer(ours),
            theirs: offered.to_owned(),
        });
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector() {
        for vector in crate::testing::vectors("overlay_switch.json") {
            let name = vector["name"].as_str().unwrap();
            let strings = |value: &serde_json::Value| -> Vec<String> {
                let items = value.as_array().unwrap().iter();
                items
                    .map(|item| item.as_str().unwrap().to_owned())
                    .collect()
            };
            let ours = strings(&vector["inputs"]["our_overlays_in_order"]);
            assert_eq!(
                offer(&ours),
                vector["inputs"]["our_feature"].as_str().unwrap(),
                "{name}"
            );
            let theirs = vector["inputs"]["remote_feature"].as_str();
            let got = common(&ours, theirs);
            if vector["meaning"]["connection_refused"].as_bool().unwrap() {
                assert!(got.is_err(), "{name}");
            } else {
                let expected = strings(&vector["meaning"]["forwarders_in_index_order"]);
                assert_eq!(got, Ok(expected), "{name}");
            }
        }
    }

    #[test]
    fn without_the_feature_it_is_sleeve() {
        assert_eq!(
            common(&["new", "sleeve"], None),
            Ok(vec!["sleeve".to_owned()])
        );
        assert!(common(&["new"], None).is_err());
        assert!(common(&[""], Some("  ")).is_err());
        assert_eq!(
            common(&["sleeve"], Some("fastdp")).unwrap_err().to_string(),
            "no overlay in common: we offer \"sleeve\", the other end \"fastdp\""
        );
    }
}
