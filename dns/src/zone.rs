//! From a question to what is to be said: no bytes, no records yet.
//!
//! Three kinds of names are ours: those in the domain, those without a dot, which are looked up in
//! the domain and never leave the host, and the reverse names of addresses that are behind names of
//! ours. All others belong to upstream servers.
//!
//! Source: Weave nameserver protocol, sections 7.2 to 7.4. It answers differently where the original
//! does not keep to the RFCs, always so that clients of the original are content:
//!
//! | question | the original | here | why |
//! |---|---|---|---|
//! | the domain itself | no such name | no such record, or its SOA | it owns the SOA of RFC 2308, section 3 |
//! | a name only above others | no such name | no such record | RFC 8020, section 2 |
//! | type DS in the domain | asks upstream | no such record | RFC 4035, section 3.1.4.1; names stay here |
//! | type ANY | no such record | HINFO | RFC 8482, section 4.2 |
//! | transfers | no such record | refused | RFC 5936, section 2.2.1 |
//! | class other than IN, in the domain | as IN | refused; ANY as IN | RFC 1035, section 3.2.4 |
//! | reverse name of ours, not PTR | no such name | no such record | RFC 2308, section 2.2 |
//! | reverse name, not ours, not PTR | no such name | asks upstream | as it does for PTR |
//! | reverse name of IPv6 | asks upstream | the same, unless it is ours | |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::name::{self, MAX_NAME_LEN, WireName};
use crate::names::{Addresses, Names};
use crate::query::{class, rtype};

const IN_ADDR_ARPA: &[u8] = b"\x07in-addr\x04arpa\0";
const IP6_ARPA: &[u8] = b"\x03ip6\x04arpa\0";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'q> {
    /// Name in folded wire form.
    pub name: &'q [u8],
    /// Type of record.
    pub qtype: u16,
    /// Class of record.
    pub qclass: u16,
}

/// What is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'n> {
    /// These addresses.
    A(&'n [Ipv4Addr]),
    /// These addresses.
    Aaaa(&'n [Ipv6Addr]),
    /// This name.
    Ptr(&'n WireName),
    /// The record of authority over the domain.
    Soa,
    /// The record that stands for all others (RFC 8482).
    Hinfo,
    /// The name exists, but no such record.
    NoData {
        /// Whether it is in the domain, so that the SOA tells how long this holds.
        in_domain: bool,
    },
    /// There is no such name.
    NxDomain {
        /// Whether it would be in the domain. If not, no SOA is given, so that nobody keeps this
        /// answer: that there is no container `com` must not become that there is no `com`.
        in_domain: bool,
    },
    /// We do not answer this.
    Refused,
    /// Others may know.
    Forward,
}

/// Decides, and shows the verdict.
pub fn decide<T>(names: &Names, question: Question<'_>, show: impl FnOnce(Verdict<'_>) -> T) -> T {
    let Question { name, qtype, .. } = question;
    let is_transfer = matches!(qtype, rtype::AXFR | rtype::IXFR);
    if is_transfer {
        return show(Verdict::Refused);
    }
    let is_internet = matches!(question.qclass, class::IN | class::ANY);
    let domain = names.domain();
    if let Some(below) = name::strip_zone(name, domain) {
        return if !is_internet {
            show(Verdict::Refused)
        } else if below.is_empty() {
            show(match qtype {
                rtype::SOA => Verdict::Soa,
                rtype::ANY => Verdict::Hinfo,
                _ => Verdict::NoData { in_domain: true },
            })
        } else {
            decide_local(names, name, qtype, true, show)
        };
    }
    if name::label_count(name) <= 1 {
        if !is_internet {
            return show(Verdict::Refused);
        }
        let mut qualified = [0; MAX_NAME_LEN];
        // Without the empty label at its end.
        let label = name.split_last().map_or(&[][..], |(_, label)| label);
        let len = label.len().saturating_add(domain.len());
        let Some(into) = qualified.get_mut(..len).filter(|_| !label.is_empty()) else {
            return show(Verdict::NxDomain { in_domain: false });
        };
        for (into, byte) in into.iter_mut().zip(label.iter().chain(domain)) {
            *into = *byte;
        }
        return decide_local(names, into, qtype, false, show);
    }
    let addr = if !is_internet {
        None
    } else if let Some(below) = name::strip_zone(name, IN_ADDR_ARPA) {
        let Some(addr) = ipv4_of(below) else {
            return show(Verdict::NxDomain { in_domain: false });
        };
        Some(IpAddr::V4(addr))
    } else if let Some(below) = name::strip_zone(name, IP6_ARPA) {
        ipv6_of(below).map(IpAddr::V6)
    } else {
        None
    };
    let Some(addr) = addr else {
        return show(Verdict::Forward);
    };
    names.with_name(addr, |name| {
        show(match (name, qtype) {
            (None, _) => Verdict::Forward,
            (Some(name), rtype::PTR) => Verdict::Ptr(name),
            (Some(_), rtype::ANY) => Verdict::Hinfo,
            (Some(_), _) => Verdict::NoData { in_domain: false },
        })
    })
}

fn decide_local<T>(
    names: &Names,
    name: &[u8],
    qtype: u16,
    in_domain: bool,
    show: impl FnOnce(Verdict<'_>) -> T,
) -> T {
    names.with_addresses(name, |addresses| {
        show(match (addresses, qtype) {
            (None, _) => Verdict::NxDomain { in_domain },
            (Some(Addresses { v4, .. }), rtype::A) if !v4.is_empty() => Verdict::A(v4),
            (Some(Addresses { v6, .. }), rtype::AAAA) if !v6.is_empty() => Verdict::Aaaa(v6),
            (Some(_), rtype::ANY) => Verdict::Hinfo,
            (Some(_), _) => Verdict::NoData { in_domain },
        })
    })
}

/// Labels of a name without its end.
fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let (&len, after) = rest.split_first()?;
        let (label, after) = after.split_at_checked(usize::from(len))?;
        rest = after;
        Some(label)
    })
}

/// The address of which these are the octets, the last one first.
fn ipv4_of(below: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut labels = labels(below);
    for octet in octets.iter_mut().rev() {
        let text = std::str::from_utf8(labels.next()?).ok()?;
        // Neither signs nor leading zeros: one address, one name.
        let plain = text.bytes().all(|digit| digit.is_ascii_digit());
        if !plain || (text.len() > 1 && text.starts_with('0')) {
            return None;
        }
        *octet = text.parse().ok()?;
    }
    labels.next().is_none().then(|| octets.into())
}

/// The address of which these are the hexadecimal digits, the last one first (RFC 3596,
/// section 2.5).
fn ipv6_of(below: &[u8]) -> Option<Ipv6Addr> {
    let mut labels = labels(below);
    let mut bits = 0_u128;
    for place in 0..32 {
        let &[digit] = labels.next()? else {
            return None;
        };
        let digit = char::from(digit).to_digit(16)?;
        bits |= u128::from(digit) << (4 * place);
    }
    labels.next().is_none().then(|| Ipv6Addr::from_bits(bits))
}
