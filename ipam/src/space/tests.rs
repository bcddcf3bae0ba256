use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::testing::{address, range, vectors};

fn runs<'a>(runs: impl Iterator<Item = Range> + 'a) -> Vec<String> {
    runs.map(|run| format!("{}+{}", run.start, run.size()))
        .collect()
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().unwrap();
    list.iter()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn blocks_and_covers_as_recorded() {
    let vectors = vectors("ipam-space.json");
    let cases = vectors[0]["expected"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let given = range(&case["range"]);
        assert_eq!(given.aligned_block(), range(&case["biggest"]), "{given}");
        assert_eq!(given.cidr_text(), case["as_cidr_string"].as_str().unwrap());
        let subnets: Vec<String> = given.subnets().iter().map(ToString::to_string).collect();
        assert_eq!(subnets, texts(&case["cidrs"]), "{given}");
    }
}

#[test]
fn operations_as_recorded() {
    let vectors = vectors("ipam-space.json");
    assert!(vectors.len() > 10);
    for vector in &vectors[1..] {
        let mut space = Space::new();
        for (at, step) in vector["expected"].as_array().unwrap().iter().enumerate() {
            let context = format!("{} step {at}: {step}", vector["name"]);
            match step["op"].as_str().unwrap() {
                "add" => space.add(range(&step["range"])),
                "allocate" => {
                    let expected = step["ok"]
                        .as_bool()
                        .unwrap()
                        .then(|| address(&step["address"]));
                    assert_eq!(space.allocate(range(&step["range"])), expected, "{context}");
                }
                "donate" => {
                    let expected = step["ok"]
                        .as_bool()
                        .unwrap()
                        .then(|| range(&step["donated"]));
                    assert_eq!(space.donate(range(&step["range"])), expected, "{context}");
                }
                op @ ("claim" | "free") => {
                    let at = address(&step["address"]);
                    let result = if op == "claim" {
                        space.claim(at)
                    } else {
                        space.release(at)
                    };
                    let text = result
                        .err()
                        .map(|error| error.to_string())
                        .unwrap_or_default();
                    assert_eq!(text, step["error"].as_str().unwrap(), "{context}");
                }
                "num_free_in_range" => {
                    let number = |key: &str| u32::try_from(step[key].as_u64().unwrap()).unwrap();
                    let count = space.free_count_within(range(&step["range"]));
                    assert_eq!(count, number("count"), "{context}");
                    assert_eq!(space.free_count(), number("free_total"), "{context}");
                    assert_eq!(space.used_count(), number("owned"), "{context}");
                    let ours: Vec<Range> = step["owned_ranges"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(range)
                        .collect();
                    assert_eq!(space.ours(), ours, "{context}");
                }
                other => panic!("{other}"),
            }
            assert_eq!(
                runs(space.free()),
                texts(&step["state"]["free"]),
                "{context}"
            );
            assert_eq!(
                runs(space.used()),
                texts(&step["state"]["used"]),
                "{context}"
            );
        }
    }
}

/// The same, address by address.
#[derive(Default)]
struct Model {
    used: BTreeSet<u32>,
    free: BTreeSet<u32>,
}

#[derive(Debug, Clone)]
enum Op {
    Add(u32, u32),
    Remove(u32, u32),
    Allocate(u32, u32),
    Claim(u32),
    Release(u32),
    Donate(u32, u32),
}

fn op() -> impl Strategy<Value = Op> {
    let span = (0_u32..40, 0_u32..20);
    prop_oneof![
        span.clone().prop_map(|(start, len)| Op::Add(start, len)),
        span.clone().prop_map(|(start, len)| Op::Remove(start, len)),
        span.clone()
            .prop_map(|(start, len)| Op::Allocate(start, len)),
        (0_u32..70).prop_map(Op::Claim),
        (0_u32..70).prop_map(Op::Release),
        span.prop_map(|(start, len)| Op::Donate(start, len)),
    ]
}

proptest! {
    #[test]
    fn agrees_with_sets_of_single_addresses(ops in proptest::collection::vec(op(), 0..60)) {
        let mut space = Space::new();
        let mut model = Model::default();
        let span = |start: u32, len: u32| Range::sized(Address(start), len);
        for op in ops {
            match op {
                Op::Add(start, len) => {
                    space.add(span(start, len));
                    model.free.extend((start..start + len).filter(|a| !model.used.contains(a)));
                }
                Op::Remove(start, len) => {
                    space.remove(span(start, len));
                    model.free.retain(|a| !(start..start + len).contains(a));
                    model.used.retain(|a| !(start..start + len).contains(a));
                }
                Op::Allocate(start, len) => {
                    let lowest = model.free.range(start..start + len).next().copied();
                    prop_assert_eq!(space.allocate(span(start, len)), lowest.map(Address));
                    if let Some(address) = lowest {
                        model.free.remove(&address);
                        model.used.insert(address);
                    }
                }
                Op::Claim(at) => {
                    let free = model.free.remove(&at);
                    prop_assert_eq!(space.claim(Address(at)).is_ok(), free);
                    model.used.extend(free.then_some(at));
                }
                Op::Release(at) => {
                    let used = model.used.remove(&at);
                    prop_assert_eq!(space.release(Address(at)).is_ok(), used);
                    model.free.extend(used.then_some(at));
                }
                Op::Donate(start, len) => {
                    let before = model.free.range(start..start + len).count();
                    let given = space.donate(span(start, len));
                    prop_assert_eq!(given.is_some(), before > 0);
                    if let Some(given) = given {
                        prop_assert!(given.size() as usize <= before.div_ceil(2));
                        for at in given.start.0..given.end.0 {
                            prop_assert!((start..start + len).contains(&at));
                            prop_assert!(model.free.remove(&at));
                        }
                    }
                }
            }
            let flat = |runs: Vec<Range>| -> Vec<u32> {
                runs.iter().flat_map(|run| run.start.0..run.end.0).collect()
            };
            prop_assert_eq!(flat(space.free().collect()), Vec::from_iter(model.free.iter().copied()));
            prop_assert_eq!(flat(space.used().collect()), Vec::from_iter(model.used.iter().copied()));
            prop_assert_eq!(space.free_count() as usize, model.free.len());
            prop_assert_eq!(space.used_count() as usize, model.used.len());
            for runs in [space.free().collect::<Vec<_>>(), space.used().collect()] {
                prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
            for at in 0..70 {
                let one = Range::single(Address(at));
                prop_assert_eq!(space.is_busy(one), !model.free.contains(&at));
                prop_assert_eq!(space.is_used(Address(at)), model.used.contains(&at));
            }
        }
    }
}
