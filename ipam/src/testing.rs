//! What the tests of all modules need: the recorded vectors and their notations.

use serde_json::Value;

use proto::{PeerName, PeerUid};

use crate::paxos::{AcceptedValue, Claims, NodeClaims, NodeId, ProposalId};
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

/// As in "02:00:00:00:00:0a/11".
pub(crate) fn node_id(text: &str) -> NodeId {
    let (name, uid) = text.split_once('/').unwrap();
    NodeId {
        name: name.parse().unwrap(),
        uid: PeerUid(uid.parse().unwrap()),
    }
}

pub(crate) fn proposal_id(value: &Value) -> ProposalId {
    ProposalId {
        round: value["round"].as_u64().unwrap(),
        proposer: node_id(value["proposer"].as_str().unwrap()),
    }
}

pub(crate) fn claims(value: &Value) -> Claims {
    let claims = |value: &Value| {
        let accepted = &value["accepted_val"];
        let peers = accepted
            .get("value")
            .or(accepted.get("value_sorted"))
            .unwrap();
        NodeClaims {
            promise: proposal_id(&value["promise"]),
            accepted: proposal_id(&value["accepted"]),
            accepted_value: AcceptedValue {
                value: list(peers, peer),
                origin: proposal_id(&accepted["origin"]),
            },
        }
    };
    let all = value.as_object().unwrap();
    all.iter()
        .map(|(id, value)| (node_id(id), claims(value)))
        .collect()
}
