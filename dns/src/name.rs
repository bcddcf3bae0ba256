//! Names as the DNS carries them: labels, each behind its length, and an empty one at the end.
//!
//! ```text
//! 3 w e b 5 w e a v e 5 l o c a l 0        web.weave.local.
//! ```
//!
//! At most 63 bytes a label and 255 in all (RFC 1035, section 2.3.4). Letters are equal to
//! themselves in the other case (RFC 4343); all other bytes are just bytes.

/// Longest name, with all lengths.
pub const MAX_NAME_LEN: usize = 255;
/// Longest label.
pub const MAX_LABEL_LEN: usize = 63;

/// A name in wire form, in the case in which it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WireName(Box<[u8]>);

impl WireName {
    /// Encodes a name in text, fully qualified or not; `None` if the DNS cannot carry it.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(text.len().saturating_add(2));
        let bare = text.strip_suffix('.').unwrap_or(text);
        if !bare.is_empty() {
            for label in bare.split('.') {
                let len = u8::try_from(label.len()).ok()?;
                if len == 0 || label.len() > MAX_LABEL_LEN {
                    return None;
                }
                bytes.push(len);
                bytes.extend_from_slice(label.as_bytes());
            }
        }
        bytes.push(0);
        (bytes.len() <= MAX_NAME_LEN).then(|| Self(bytes.into()))
    }

    /// In lower case: the form in which names are compared.
    pub fn folded(text: &str) -> Option<Self> {
        let mut name = Self::new(text)?;
        // No length is as high as the code of a letter.
        name.0.make_ascii_lowercase();
        Some(name)
    }

    /// The name above all.
    pub fn root() -> Self {
        Self([0].into())
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The name that is left when the first label is taken away; `None` for the root.
pub fn parent(name: &[u8]) -> Option<&[u8]> {
    let (&len, rest) = name.split_first()?;
    if len == 0 {
        return None;
    }
    rest.get(usize::from(len)..)
}

/// Number of labels; the root has none.
pub fn label_count(name: &[u8]) -> usize {
    std::iter::successors(Some(name), |name| parent(name))
        .count()
        .saturating_sub(1)
}

/// What of `name` lies below `zone`, if it is the zone or below; both in the same case.
pub fn strip_zone<'n>(name: &'n [u8], zone: &[u8]) -> Option<&'n [u8]> {
    let (below, end) = name.split_at_checked(name.len().checked_sub(zone.len())?)?;
    if end != zone {
        return None;
    }
    // The end must begin where a label does.
    let starts_label = std::iter::successors(Some(name), |name| parent(name))
        .any(|suffix| suffix.len() == zone.len());
    starts_label.then_some(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str) -> Vec<u8> {
        WireName::folded(text).unwrap().as_bytes().to_vec()
    }

    #[test]
    fn text_and_wire() {
        assert_eq!(
            WireName::new("Web.a.").unwrap().as_bytes(),
            b"\x03Web\x01a\0"
        );
        assert_eq!(WireName::new("Web.a"), WireName::new("Web.a."));
        assert_eq!(folded("WEB.a"), b"\x03web\x01a\0");
        assert_eq!(folded("."), b"\0");
        assert_eq!(folded(""), b"\0");
    }

    #[test]
    fn rfc1035_2_3_4_lengths() {
        assert!(WireName::new(&format!("{}.", "a".repeat(63))).is_some());
        assert!(WireName::new(&format!("{}.", "a".repeat(64))).is_none());
        let longest = format!(
            "{}{}",
            format!("{}.", "a".repeat(63)).repeat(3),
            "a".repeat(61)
        );
        assert_eq!(WireName::new(&longest).unwrap().as_bytes().len(), 255);
        assert!(WireName::new(&format!("{longest}a")).is_none());
        assert!(WireName::new("a..b").is_none());
        assert!(WireName::new("a..").is_none());
    }

    #[test]
    fn zones() {
        let zone = folded("weave.local");
        assert_eq!(
            strip_zone(&folded("web.weave.local"), &zone),
            Some(&b"\x03web"[..])
        );
        assert_eq!(strip_zone(&zone, &zone), Some(&b""[..]));
        assert_eq!(strip_zone(&folded("xweave.local"), &zone), None);
        assert_eq!(strip_zone(&folded("local"), &zone), None);
        // A label whose content looks like the zone with its lengths.
        assert_eq!(strip_zone(b"\x0dx\x05weave\x05local\0", &zone), None);
        assert_eq!(strip_zone(b"\x01x\0", b"\0"), Some(&b"\x01x"[..]));
    }

    #[test]
    fn labels() {
        assert_eq!(label_count(&folded(".")), 0);
        assert_eq!(label_count(&folded("a.bc.d")), 3);
        assert_eq!(parent(&folded("a.bc")), Some(folded("bc").as_slice()));
        assert_eq!(parent(&folded(".")), None);
    }
}
