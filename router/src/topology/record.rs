//! One peer as the mesh describes it. Kept small: a full mesh of a thousand peers has a million
//! connection records.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::net::{SocketAddr, SocketAddrV4};

use proto::{PeerName, PeerUid, ShortId};

/// A peer's own description of itself, in the newest version known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: PeerName,
    /// Free text by which people know it.
    pub nickname: Nickname,
    /// The life it is in. 0: known only as the far end of somebody's connection.
    pub uid: PeerUid,
    /// Goes up with every change that the peer makes to its record.
    pub version: u64,
    /// Its short id, if it has one. Updates may carry ids beyond [`ShortId::COUNT`].
    pub short_id: Option<ShortId>,
    /// The connections it lists, established or not.
    pub connections: Connections,
}

impl Peer {
    /// A peer of which nothing but the name is known.
    pub(super) fn placeholder(name: PeerName) -> Self {
        Self {
            name,
            nickname: Nickname::default(),
            uid: PeerUid(0),
            version: 0,
            short_id: None,
            connections: Connections::default(),
        }
    }
}

/// Free text from the wire. It should be UTF-8 but may be any bytes; those are kept, so that a
/// record passed on is the record received.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nickname(Box<[u8]>);

impl Nickname {
    /// The bytes as received.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text to show: what is not UTF-8 is replaced.
    pub fn to_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl From<&[u8]> for Nickname {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<Vec<u8>> for Nickname {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&str> for Nickname {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

impl From<String> for Nickname {
    fn from(text: String) -> Self {
        Self(text.into_bytes().into())
    }
}

impl fmt::Display for Nickname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_text())
    }
}

impl fmt::Debug for Nickname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_text(), f)
    }
}

/// One connection in a peer's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConnection {
    /// The far end.
    pub remote: PeerName,
    /// Its address as the listing peer sees it: what it dialled if `outbound`, else the far end's
    /// ephemeral port.
    pub address: RemoteAddress,
    /// Whether the listing peer dialled.
    pub outbound: bool,
    /// Whether the overlay works, as the listing peer sees it.
    pub established: bool,
}

/// The connections of one peer: at most one per far end, in ascending order of its name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Connections(Vec<PeerConnection>);

impl Connections {
    /// The connection to `remote`.
    pub fn get(&self, remote: PeerName) -> Option<&PeerConnection> {
        self.position(remote).ok().and_then(|at| self.0.get(at))
    }

    /// All of them, by ascending name of the far end.
    pub fn iter(&self) -> std::slice::Iter<'_, PeerConnection> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, connection: PeerConnection) {
        match self.position(connection.remote) {
            Ok(at) => {
                if let Some(old) = self.0.get_mut(at) {
                    *old = connection;
                }
            }
            Err(at) => self.0.insert(at, connection),
        }
    }

    pub(super) fn get_mut(&mut self, remote: PeerName) -> Option<&mut PeerConnection> {
        self.position(remote).ok().and_then(|at| self.0.get_mut(at))
    }

    pub(super) fn remove(&mut self, remote: PeerName) -> Option<PeerConnection> {
        self.position(remote).ok().map(|at| self.0.remove(at))
    }

    fn position(&self, remote: PeerName) -> Result<usize, usize> {
        self.0.binary_search_by_key(&remote, |known| known.remote)
    }
}

impl FromIterator<PeerConnection> for Connections {
    /// In any order; of several connections to one far end the last one counts.
    fn from_iter<I: IntoIterator<Item = PeerConnection>>(connections: I) -> Self {
        let mut all: Vec<_> = connections.into_iter().collect();
        all.reverse();
        all.sort_by_key(|connection| connection.remote);
        all.dedup_by_key(|connection| connection.remote);
        all.shrink_to_fit();
        Self(all)
    }
}

impl<'a> IntoIterator for &'a Connections {
    type Item = &'a PeerConnection;
    type IntoIter = std::slice::Iter<'a, PeerConnection>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// An address as some peer wrote it. It should be `ip:port` but may be any bytes; those are kept,
/// so that a record passed on is the record received.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteAddress(Form);

#[derive(Clone, PartialEq, Eq)]
enum Form {
    /// Text that is exactly what this address prints.
    V4(SocketAddrV4),
    Other(Box<[u8]>),
}

impl RemoteAddress {
    /// The address, if it is one.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Form::V4(address) => Some((*address).into()),
            Form::Other(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        }
    }

    /// Gives `take` the bytes as received.
    pub(super) fn with_bytes<R>(&self, take: impl FnOnce(&[u8]) -> R) -> R {
        match &self.0 {
            Form::V4(address) => {
                let mut text = ShortText::default();
                // Cannot overflow: no IPv4 address with port has more than 21 characters.
                let _ = write!(text, "{address}");
                take(text.as_bytes())
            }
            Form::Other(bytes) => take(bytes),
        }
    }
}

impl From<&[u8]> for RemoteAddress {
    fn from(bytes: &[u8]) -> Self {
        let v4 = std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse::<SocketAddrV4>().ok())
            .filter(|address| {
                let mut printed = ShortText::default();
                write!(printed, "{address}").is_ok() && printed.as_bytes() == bytes
            });
        Self(v4.map_or_else(|| Form::Other(bytes.into()), Form::V4))
    }
}

impl From<&str> for RemoteAddress {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<SocketAddr> for RemoteAddress {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self(Form::V4(address)),
            SocketAddr::V6(_) => address.to_string().as_str().into(),
        }
    }
}

impl fmt::Display for RemoteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_bytes(|bytes| f.pad(&String::from_utf8_lossy(bytes)))
    }
}

impl fmt::Debug for RemoteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_bytes(|bytes| fmt::Debug::fmt(&String::from_utf8_lossy(bytes), f))
    }
}

/// Text on the stack, long enough for an IPv4 address with port.
#[derive(Default)]
struct ShortText {
    bytes: [u8; 24],
    len: usize,
}

impl ShortText {
    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Write for ShortText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let room = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_bytes() {
        for bytes in [
            &b"192.168.77.1:6783"[..],
            b"255.255.255.255:65535",
            b"10.0.0.1:06783",
            b"[fd00::1]:6783",
            b"a",
            b"",
            b"\xff\xfe",
        ] {
            let address = RemoteAddress::from(bytes);
            assert_eq!(address.with_bytes(<[u8]>::to_vec), bytes);
        }
        let address = RemoteAddress::from("10.0.0.5:6783");
        assert!(matches!(address.0, Form::V4(_)));
        assert_eq!(address.socket_addr(), "10.0.0.5:6783".parse().ok());
        assert_eq!(address.to_string(), "10.0.0.5:6783");
        assert_eq!(
            RemoteAddress::from("[fd00::1]:1").socket_addr(),
            "[fd00::1]:1".parse().ok()
        );
        assert_eq!(RemoteAddress::from("host:1").socket_addr(), None);
        assert!(std::mem::size_of::<PeerConnection>() <= 40);
    }

    #[test]
    fn of_two_connections_to_one_peer_the_last_counts() {
        let connection = |remote: u64, address: &str| PeerConnection {
            remote: PeerName::from_u64(remote).unwrap(),
            address: address.into(),
            outbound: false,
            established: false,
        };
        let list: Connections = [connection(2, "b"), connection(1, "a"), connection(2, "c")]
            .into_iter()
            .collect();
        let expected = vec![connection(1, "a"), connection(2, "c")];
        assert_eq!(list.0, expected);
        assert_eq!(
            list.get(PeerName::from_u64(2).unwrap()),
            Some(&connection(2, "c"))
        );
        assert_eq!(list.get(PeerName::from_u64(3).unwrap()), None);
    }

    #[test]
    fn nicknames_keep_bytes_that_are_no_text() {
        let nickname = Nickname::from(&b"caf\xe9"[..]);
        assert_eq!(nickname.as_bytes(), b"caf\xe9");
        assert_eq!(nickname.to_string(), "caf\u{fffd}");
    }
}
