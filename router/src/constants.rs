//! Numbers that everything else refers to, in two sections.
//!
//! **Fixed by the protocol**: changing one breaks the mesh with Weave Net 2.8.1 hosts.
//! **Chosen by us**: each with its reason.

use std::time::Duration;

// ---------------------------------------------------------------- fixed by the protocol

/// TCP port of the mesh, and UDP port of sleeve.
pub const PORT: u16 = 6783;
/// Lowest protocol version that exists.
pub const MIN_PROTOCOL: u8 = 1;
/// Highest protocol version that exists.
pub const MAX_PROTOCOL: u8 = 2;
/// From the start of a connection to the other end's 7 header bytes.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// From the header to the end of the introduction; also how long an introduced neighbour may be
/// silent on TCP.
pub const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval of heartbeats on TCP.
pub const TCP_HEARTBEAT: Duration = Duration::from_secs(30);
/// Largest body of one message in protocol version 2, as sealed.
pub const MAX_MESSAGE_LEN: usize = 10 * 1024 * 1024;
/// Each channel's whole state goes to some neighbours this often.
pub const GOSSIP_INTERVAL: Duration = Duration::from_secs(30);
/// Own topology changes are collected this long before they are sent.
pub const TOPOLOGY_DELAY: Duration = Duration::from_secs(1);
/// Peers out of reach are collected this long after an update.
pub const GC_DELAY: Duration = Duration::from_secs(1);
/// Routes are calculated this long after the first request.
pub const ROUTES_DELAY: Duration = Duration::from_millis(100);
/// A channel without owner remembers payloads at least this long, to relay each once.
pub const SURROGATE_MEMORY: Duration = Duration::from_secs(30);
/// First interval between two attempts to dial.
pub const RETRY_INITIAL: Duration = Duration::from_secs(2);
/// Longest interval between two attempts to dial.
pub const RETRY_MAX: Duration = Duration::from_secs(360);
/// A connection that lived this long past its due time is redialled at once.
pub const RETRY_RESET_AFTER: Duration = Duration::from_secs(60);
/// Accepted connections per second are bounded by a bucket of this many tokens.
pub const ACCEPT_TOKENS: u32 = 20;
/// One token of the accept bucket comes back in this time.
pub const ACCEPT_INTERVAL: Duration = Duration::from_millis(50);
/// Overlay heartbeats until the other end has acknowledged one.
pub const FAST_HEARTBEAT: Duration = Duration::from_millis(500);
/// Overlay heartbeats afterwards.
pub const SLOW_HEARTBEAT: Duration = Duration::from_secs(10);
/// An overlay that heard no heartbeat for this long has failed.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(60);
/// The fragmentation test of sleeve is repeated this often.
pub const FRAG_TEST_INTERVAL: Duration = Duration::from_secs(300);
/// First timeout of an MTU test; each repetition doubles it.
pub const MTU_TEST_TIMEOUT: Duration = Duration::from_millis(10);
/// Tests per candidate MTU.
pub const MTU_TEST_COUNT: u32 = 8;
/// Overlay MTU that is taken to work without a test.
pub const MTU_FLOOR: u16 = 552;
/// Overlay MTU before anything is known about the path.
pub const MTU_UNKNOWN: u16 = 65535;
/// Largest payload of a UDP datagram over IPv4.
pub const MAX_UDP_PAYLOAD: usize = 65507;
/// A MAC address not seen for this long is forgotten.
pub const MAC_MAX_AGE: Duration = Duration::from_secs(600);
/// The table of MAC addresses is swept this often.
pub const MAC_SWEEP: Duration = Duration::from_secs(60);

// ---------------------------------------------------------------- chosen by us

/// About so much is said before a connection whose gossip we refuse is closed: a ring of ten
/// thousand entries has half of it.
pub const MAX_LAST_WORDS_LEN: usize = 1 << 20;
/// Connections to hold at most, established or not, unless `--conn-limit` says otherwise. The
/// original's default since 2.6.0.
pub const CONN_LIMIT: usize = 200;
/// MAC addresses to know at most; the longest unseen makes room. Ten thousand containers and more,
/// in about 1 MB.
pub const MAC_TABLE_LEN: usize = 16_384;
/// The time of a MAC address's last sighting is kept in steps of this: fine enough to tell a moved
/// container from a frame that came back, coarse enough to write nothing for most frames. The
/// original renews it once a minute, which nobody else can see.
pub const MAC_REFRESH: Duration = Duration::from_secs(1);
/// A frame from the local bridge whose source was heard at another peer less than this ago is taken
/// for a copy of that peer's frame, and dropped; later it means that the address has moved here.
/// Copies come within milliseconds; a container takes longer to move. The real silence needed is up
/// to [`MAC_REFRESH`] shorter.
pub const MAC_MOVE_HOLD: Duration = Duration::from_secs(3);
/// Datagrams of equal size that are handed over as one run. Linux takes 64 segments in one send
/// (more since 6.9).
pub const RUN_LEN: usize = 64;
/// Records in one packet. The original's limit per round of its sender.
pub const PACKET_RECORDS: usize = 100;
/// Runs that may wait to be sent, each with a buffer of 64 KB. The IO side takes them after every
/// frame or datagram, so this only fills when it does not.
pub const TRANSMIT_QUEUE_LEN: usize = 512;
/// Buffers kept for reuse when nothing waits: a batch in which no two frames share a run.
pub const TRANSMIT_POOL_LEN: usize = BATCH_LEN;
/// Frames that may wait for the local bridge: more than one message over TCP can bring.
pub const INJECT_QUEUE_LEN: usize = 4096;
/// Answers to a neighbour's tests that may wait to go to the control half. An honest neighbour has
/// a few in flight.
pub const ANSWER_QUEUE_LEN: usize = 256;
/// Frames taken from the TAP device, or datagrams from the socket, before the other side gets its
/// turn: long enough to make batches, short enough for latency.
pub const BATCH_LEN: usize = 64;
/// Bytes in frames taken from the TAP device before the other side gets its turn: a few frames of
/// the greatest length.
pub const BATCH_BYTES: usize = 256 * 1024;
/// Dials under way at once; further targets wait for one of them to end. Bounds sockets and
/// handshakes when many addresses fall due together.
pub const MAX_DIALS: usize = 64;
/// Callers that have not introduced themselves yet. At the rate at which connections are accepted,
/// this is what silent ones add up to in some ten seconds; honest ones need a few round trips.
pub const MAX_STRANGERS: usize = 256;
/// A dial that got no answer for this long is given up; the kernel would wait for two minutes, and
/// the slot is needed for others.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// Gossip to be passed on that waits for a calculation of routes, in bytes received; with more, the
/// calculation is done at once.
pub const MAX_WAITING_RELAY_LEN: usize = 16 * 1024 * 1024;
/// Addresses to keep track of as possible peers. A mesh has at most 4096 peers with a short id;
/// this leaves room for two addresses of each.
pub const MAX_TARGETS: usize = 8192;
/// Addresses of one host name that are tried.
pub const MAX_ADDRESSES_PER_NAME: usize = 256;
/// Peers to know at most, besides ourselves; records of further ones are ignored. Four times as many
/// as there are short ids, and what a 16-bit index can count.
pub const MAX_PEERS: usize = 16_384;
/// Connections in all records to know at most; a record that would exceed it is ignored. Twice the
/// full mesh of a thousand peers, in about 80 MB.
pub const MAX_PEER_CONNECTIONS: usize = 1 << 21;
/// Longest nickname or address in a topology record; a record with a longer one is ignored.
pub const MAX_TOPOLOGY_TEXT_LEN: usize = 1024;
/// Unicasts that may wait for one connection.
pub const MAX_OUTBOX_UNICASTS: usize = 1024;
/// Bytes of unicasts that may wait for one connection: room for the largest message and some more.
pub const MAX_OUTBOX_UNICAST_LEN: usize = 16 * 1024 * 1024;
/// Sources whose broadcasts may wait for one connection, over all channels.
pub const MAX_OUTBOX_BROADCASTS: usize = 4096;
/// Bytes that may wait for one connection on channels that nobody owns here: room for the largest
/// message and some more. Connections share what waits for several of them.
pub const MAX_OUTBOX_RELAY_LEN: usize = 16 * 1024 * 1024;
/// Payloads on channels without owner to remember; beyond that new ones are not relayed, since to
/// forget one too early would let it circle. Five hundred a second, in about 1 MB.
pub const MAX_RELAY_MEMORY: usize = 16_384;
/// Channels without owner to list; further ones are relayed but not listed.
pub const MAX_RELAYED_CHANNELS: usize = 64;
/// Longest name of a channel without owner; messages on longer ones are dropped.
pub const MAX_CHANNEL_NAME_LEN: usize = 255;
/// Longest introduction to read. Real ones have a few hundred bytes; the rest is room for a long
/// nickname. Bounds what somebody without the password can make us hold.
pub const MAX_FEATURES_LEN: usize = 64 * 1024;
/// Bytes of one control connection that may wait to be cut into messages: the longest message and
/// a read after it.
pub const MAX_UNREAD_LEN: usize = MAX_MESSAGE_LEN + 256 * 1024;
/// Neighbours to which a data thread tests its queue at once; each takes a transmit buffer.
pub const QUEUE_TESTS: usize = 32;
/// Shuttle heartbeats once the neighbour hears us. A third of [`SHUTTLE_SILENCE`], so that two may
/// get lost.
pub const SHUTTLE_HEARTBEAT: Duration = Duration::from_secs(3);
/// A shuttle link on which nothing genuine came in for this long is lost, and the neighbour told to
/// use another overlay.
pub const SHUTTLE_SILENCE: Duration = Duration::from_secs(10);
/// Longest interval between heartbeats of a shuttle link whose neighbour does not hear us: soon
/// enough to come back from a slower overlay, and next to nothing for a link without UDP.
pub const SHUTTLE_PROBE_MAX: Duration = Duration::from_secs(5);
/// How often shuttle makes sure that packets of its MTU still get through.
pub const SHUTTLE_MTU_CHECK: Duration = Duration::from_secs(60);
/// Every how many of these checks shuttle asks whether longer packets would.
pub const SHUTTLE_MTU_RAISE: u32 = 10;
/// Keys of shuttle are replaced after this. Bounds what somebody reads who gets hold of keys; two
/// agreements of some 100 us in it are nothing.
pub const REKEY_INTERVAL: Duration = Duration::from_secs(120);
/// Keys of shuttle are replaced after so many bytes. At 2^36 bytes under one key the best known
/// attack on AES-256-GCM tells them from random with a chance of 2^-64.
pub const REKEY_VOLUME: u64 = 1 << 36;
/// Bytes after which a key of shuttle is not used any more, replaced or not.
pub const KEY_VOLUME_MAX: u64 = 1 << 38;
/// How long after its interval a key of shuttle may wait to be replaced. A TCP connection that
/// brings nothing for this long is about to be given up.
pub const REKEY_GRACE: Duration = Duration::from_secs(120);
/// How long packets under old keys are still opened after the first under new ones: longer than
/// any path delays them.
pub const SHUTTLE_OLD_KEYS: Duration = Duration::from_secs(10);
/// How long a link tries UDP before it sends frames over TCP.
pub const STREAM_DELAY: Duration = Duration::from_secs(3);
/// Bytes of records in one message of frames over TCP.
pub const STREAM_MESSAGE_LEN: usize = 16 * 1024;
/// Bytes of frames over TCP that the neighbour has not confirmed. More is dropped: this is what can
/// wait in a slow connection, before gossip and heartbeats.
pub const STREAM_WINDOW: u64 = 512 * 1024;
/// Between two neighbours that can send frames over TCP, sleeve counts as heard only as long as
/// confirmations come: two and a half heartbeats.
pub const SLEEVE_ACK_TIMEOUT: Duration = Duration::from_secs(25);
/// What somebody says of its own address in ARP or neighbour discovery is told others for this long,
/// if at all: as long as Linux itself takes an answer for good, more or less.
pub const NEIGHBOUR_MAX_AGE: Duration = Duration::from_secs(60);
/// Addresses to remember for that. As many as MAC addresses.
pub const NEIGHBOUR_TABLE_LEN: usize = MAC_TABLE_LEN;
/// Frames a second from the local bridge to all neighbours, unless `--flood-limit` says otherwise:
/// more than any sound network broadcasts, less than harms one.
pub const FLOOD_LIMIT: u32 = 20_000;
