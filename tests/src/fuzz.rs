//! One fuzz target for each decoder and each engine: bytes in, no panic, and what decodes must
//! survive the way back.
//!
//! The test `fuzz` replays the golden bytes and mutates them from a printed seed;
//! `MESHCTL_FUZZ_RUNS` lets it go on for as long as one likes. The targets are plain functions, so
//! that any other fuzzer can drive them too.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::gob::{Decoder, Limits};
use proto::gossip::GossipData;
use proto::{ConnectionUid, PeerName, PeerUid, ShortId};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use router::LinkId;
use router::connection::{Connection, ConnectionEvent, Local, Role};
use router::crypto::session::Password;
use router::dataplane::{Command, DataOptions, DataPlane, Event, LinkConfig, OverlayControl};
use router::mesh::{Mesh, MeshConfig, Output};
use router::offload::Offload;
use router::topology::{Peers, Routes};
use router::wire::control::{ControlForm, GossipKind, GossipMessage, Message};
use router::wire::ethernet::Frame;
use router::wire::intro::{Features, Versions};
use router::wire::sleeve::{Records, Special};

/// A target.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("gob", gob),
    ("control", control),
    ("intro", intro),
    ("sleeve", sleeve),
    ("shuttle", shuttle),
    ("topology", topology),
    ("names", names),
    ("query", query),
    ("ring", ring),
    ("weave_state", weave_state),
    ("allocator", allocator),
    ("connection", connection),
    ("dataplane", dataplane),
    ("mesh", mesh),
];

/// Any gob stream.
pub fn gob(data: &[u8]) {
    let mut decoder = Decoder::new(data, Limits::GOSSIP);
    while let Ok(Some(value)) = decoder.next_value() {
        if value.skip().is_err() {
            break;
        }
    }
}

/// One control message, in both forms.
pub fn control(data: &[u8]) {
    for form in [ControlForm::Legacy, ControlForm::Switch] {
        if let Ok(message) = Message::decode(data.to_vec(), form)
            && !matches!(message, Message::Unknown { .. })
        {
            let again = Message::decode(message.encode(form), form);
            assert_eq!(again.as_ref(), Ok(&message), "{form:?}");
        }
    }
}

/// The features of an introduction, in both versions.
pub fn intro(data: &[u8]) {
    let decode = |stream: &[u8], version| {
        let mut decoder = Decoder::new(stream, Limits::GOSSIP);
        let value = decoder.require_value().ok()?;
        Features::decode(value, version).ok()
    };
    for version in [1, 2] {
        if let Some(features) = decode(data, version) {
            assert_eq!(decode(&features.encode(version), version), Some(features));
        }
    }
}

/// The body of a sleeve packet, down to the headers in its frames.
pub fn sleeve(data: &[u8]) {
    let mut end = 0;
    for record in Records::new(data, 0) {
        let Ok(record) = record else { break };
        assert_eq!(data.get(record.range.clone()), Some(record.frame));
        assert!(record.range.start > end || end == 0);
        end = record.range.end;
        if let Ok(frame) = Frame::new_checked(record.frame) {
            let _ = (Special::classify(&frame), frame.ipv4());
        }
    }
    if let Ok(frame) = Frame::new_checked(data) {
        let _ = (Special::classify(&frame), frame.ipv4());
    }
}

/// A shuttle packet, as its records would be walked once it is open, and its control messages.
pub fn shuttle(data: &[u8]) {
    use router::offload::Checksum;
    use router::wire::shuttle::{
        Control, Header, RECORD_HEADER_LEN, Record, RecordHeader, Records,
    };
    if let Ok(header) = Header::decode(data) {
        assert_eq!(data.get(..16), Some(&header.encode()[..]));
    }
    for start in [0, 16] {
        let mut count = 0;
        for record in Records::new(data, start) {
            count += 1;
            let Ok(Record::Frame {
                names,
                checksum,
                frame,
                range,
            }) = record
            else {
                continue;
            };
            assert_eq!(data.get(range.clone()), Some(frame));
            if let Checksum::Partial { start, offset } = checksum {
                assert!(usize::from(start + offset) + 2 <= frame.len());
            }
            // What was read can be written, and is read alike. Names may be missing where they say
            // nothing, and a flag without a start means nothing.
            let len = u16::try_from(frame.len()).expect("it has 16 bits");
            let header = RecordHeader::frame(len, checksum, names).expect("it was read");
            let again = [header.bytes(), frame].concat();
            let mut walked = Records::new(&again, 0);
            let Some(Ok(Record::Frame {
                names: n,
                checksum: c,
                frame: f,
                ..
            })) = walked.next()
            else {
                panic!("it was a frame");
            };
            assert_eq!((n, c, f), (names, checksum, frame));
        }
        assert!(count <= data.len() / RECORD_HEADER_LEN + 1);
    }
    if let Some((tag, body)) = data.split_first()
        && let Ok(control) = Control::decode(*tag, body)
    {
        let (tag, body) = control.encode();
        assert_eq!(Control::decode(tag, &body), Ok(control));
    }
}

/// A topology update, applied, routed over, passed on and collected.
pub fn topology(data: &[u8]) {
    let mut rng = StdRng::seed_from_u64(1);
    let name = PeerName::from_bytes([0, 0, 0, 0, 0, 1]);
    let mut peers = Peers::new(name, "us", PeerUid(7), ShortId(5));
    if peers.apply(data, &mut rng).is_err() {
        assert_eq!(peers.len(), 1, "a refused update changes nothing");
        return;
    }
    let routes = Routes::calculate(&peers);
    for peer in peers.names() {
        let _ = (routes.unicast(peer), routes.broadcast(peer));
    }
    let payload = peers.encode(peers.names());
    let other = PeerName::from_bytes([0, 0, 0, 0, 0, 2]);
    let mut others = Peers::new(other, "them", PeerUid(8), ShortId(6));
    assert!(
        others.apply(&payload, &mut rng).is_ok(),
        "what we pass on can be read"
    );
    peers.collect_garbage(&mut rng);
}

/// A table of names.
pub fn names(data: &[u8]) {
    if let Ok(update) = dns::Update::decode(data) {
        let sent = update.encode();
        let again = dns::Update::decode(&sent).expect("what we send can be read");
        assert_eq!(again.encode(), sent);
    }
}

/// A packet for the responder: what it answers is an answer to that packet, and not too long. And a
/// packet from a server upstream, about a question that may be the same.
pub fn query(data: &[u8]) {
    use dns::query::{HEADER_LEN, Received, read};
    use dns::reply::{MAX_UDP_LEN, Scratch, Transport};
    use dns::responder::{Action, Responder};
    use std::sync::LazyLock;
    static RESPONDER: LazyLock<Responder> = LazyLock::new(|| {
        let ours = PeerName::from_bytes([0, 0, 0, 0, 0, 1]);
        let domain = "weave.local".parse().expect("a domain");
        let mut nameserver = dns::Nameserver::new(ours, domain);
        for name in ["web", "Mixed", "two", "many", "a.b"] {
            for last in 0..if name == "many" { 200 } else { 2 } {
                let name = format!("{name}.weave.local");
                for addr in [
                    [10, 32, 0, last].into(),
                    [0xfd00, 0, 0, 0, 0, 0, 0, 7].into(),
                ] {
                    let added = nameserver.add(&name, "c1", addr, 1);
                    assert!(added.is_ok_and(|update| update.is_some()));
                }
            }
        }
        Responder::new(nameserver.names(), 1)
    });
    let mut rng = StdRng::seed_from_u64(1);
    let question_len = match read(data) {
        Received::Plain(query) => query.question.len(),
        _ => 0,
    };
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut answer = Vec::new();
        let mut scratch = Scratch::default();
        match RESPONDER.respond(data, transport, &mut rng, &mut scratch, &mut answer) {
            Action::Reply(..) => {
                assert_eq!(answer.get(..2), data.get(..2));
                assert!(answer.len() >= HEADER_LEN);
                let limit = match transport {
                    Transport::Udp => MAX_UDP_LEN,
                    Transport::Tcp => u16::MAX,
                };
                assert!(answer.len() <= limit.into());
                if question_len > 0 {
                    assert!(dns::relay::is_answer(data, question_len, &answer));
                }
            }
            Action::Forward | Action::Parse | Action::Ignore => assert!(answer.is_empty()),
        }
    }
    if let Received::Plain(query) = read(data) {
        // Turned round it is an answer, to itself.
        let mut turned = data.to_vec();
        turned[2] |= 0x80;
        assert!(dns::relay::is_answer(data, question_len, &turned));
        let relayed = dns::relay::relay((&query).into(), Transport::Udp, &turned);
        assert_eq!(relayed, turned);
    }
    let Some((asked, said)) = data.split_at_checked(data.len() / 2) else {
        return;
    };
    dns::relay::is_answer(asked, question_len, said);
    let _ = dns::resolv::parse(&String::from_utf8_lossy(data));
}

/// The ring's messages and stored values.
pub fn ring(data: &[u8]) {
    use ipam::wire::{GossipState, Unicast, persist};
    if let Ok(state) = GossipState::decode(data) {
        assert_eq!(GossipState::decode(&state.encode()).as_ref(), Ok(&state));
    }
    if let Ok(message) = Unicast::decode(data) {
        assert_eq!(Unicast::decode(&message.encode()).as_ref(), Ok(&message));
    }
    let _ = persist::decode_name(data);
    let _ = persist::decode_ring(data);
    let _ = persist::decode_owned(data);
}

/// A state file of the original. The data as a whole is one; and it is each value of one that is
/// sound otherwise; and it tells how sound ones are damaged: in threes of bytes, where and by what.
pub fn weave_state(data: &[u8]) {
    use std::sync::LazyLock;
    use weavedb::{State, bolt};
    static SOUND: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/weave-data.db");
        let original = std::fs::read(path).expect("a vector file can be read");
        let state = State::decode(&original).expect("it is sound");
        let len = bolt::PageLen::new(1024).expect("pages may have that length");
        [original, state.encode(len).expect("it is small")]
    });
    let check = |file: &[u8]| {
        if let Ok(mut state) = State::decode(file) {
            state.oddity = None;
            state.transaction = state.transaction.max(1);
            let again = state.encode(bolt::PageLen::USUAL).expect("it is small");
            assert_eq!(State::decode(&again).as_ref(), Ok(&state));
        }
    };
    check(data);
    for key in ["peername", "ring", "ownedAddresses", "directPeers"] {
        let values = [(key.as_bytes().to_vec(), data.to_vec())].into();
        check(&bolt::encode(bolt::PageLen::USUAL, 1, b"top", &values).expect("it is small"));
    }
    for sound in &*SOUND {
        let mut file = sound.clone();
        for damage in data.chunks_exact(3) {
            let at = usize::from(u16::from_le_bytes([damage[0], damage[1]])) % file.len();
            file[at] ^= damage[2];
        }
        check(&file);
    }
}

/// An allocator that hears anything, of anybody, and gives out addresses meanwhile. The data as a
/// whole is a payload of each kind; and its bytes choose what else happens.
pub fn allocator(data: &[u8]) {
    use ipam::allocator::{Allocator, Config, Init, Now, Output};
    let peer = |number| PeerName::from_bytes([2, 0, 0, 0, 0, number]);
    let mut now = Now {
        at: Instant::now(),
        unix: 0,
    };
    let universe = "10.32.0.0/24".parse().expect("a subnet");
    let init = match data.first().map_or(0, |byte| byte % 3) {
        0 => Init::Seed(vec![peer(10), peer(11)]),
        1 => Init::Consensus(Some(1)),
        _ => Init::Observer,
    };
    let config = Config {
        name: peer(10),
        uid: PeerUid(7),
        nickname: "us".to_owned(),
        universe,
        default_subnet: universe,
        init,
        pre_claims: Vec::new(),
        rng_seed: [3; 32],
    };
    let mut allocator = Allocator::start(config, None, now).expect("a sound config");
    allocator.handle_reachable([peer(11), peer(12)].into(), now);
    for (index, byte) in data.iter().enumerate().step_by(data.len() / 16 + 1) {
        let ident = format!("c{}", byte % 8);
        match byte % 8 {
            0 | 1 => {
                allocator.allocate(&ident, universe, byte & 16 == 0, now);
            }
            2 => {
                let address = ipam::range::Address(0x0a20_0000 + u32::from(*byte));
                let cidr = ipam::range::Cidr::new(address, 24);
                allocator.claim(&ident, cidr, false, byte & 16 == 0, now);
            }
            3 => {
                allocator.release_all(&ident, now);
            }
            4 => {
                let _ = allocator.handle_gossip(data, now);
            }
            5 => {
                let _ = allocator.handle_broadcast(peer(11), data, now);
            }
            6 => {
                let payload = data.get(index..).unwrap_or(data);
                let _ = allocator.handle_unicast(peer(12), payload, now);
                let _ = allocator.handle_unicast(peer(11), &[&[byte >> 6], data].concat(), now);
            }
            _ => {
                now.at += Duration::from_secs(5);
                allocator.handle_timeout(now);
            }
        }
        while let Some(output) = allocator.poll_output() {
            match output {
                Output::Save(save) if byte & 32 == 0 => allocator.handle_saved(save.seq, now),
                Output::Save(save) => {
                    allocator.handle_save_failed(save.seq, "full".to_owned(), now);
                }
                Output::Answer(..) | Output::Broadcast | Output::Unicast { .. } => {}
            }
        }
        assert_eq!(allocator.check_consistency(), Ok(()));
        let state = allocator.encode_state(now.unix);
        assert!(ipam::wire::GossipState::decode(&state).is_ok());
    }
    let _ = (
        allocator.status().shares_text(),
        allocator.plan_take_over("us"),
    );
}

/// What the other end of a control connection says, in pieces. The first byte chooses role, password
/// and version; what follows comes after a valid header.
pub fn connection(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    let now = Instant::now();
    let version = 1 + (choice & 1);
    let local = Local {
        name: PeerName::from_bytes([0, 0, 0, 0, 0, 1]),
        uid: PeerUid(7),
        nickname: "us".to_owned(),
        short_id: Some(ShortId(5)),
        password: if choice & 2 == 0 {
            None
        } else {
            Password::new(*b"secret")
        },
        versions: Versions {
            min: version,
            max: version,
        },
        overlays: vec!["sleeve".to_owned()],
    };
    let role = if choice & 4 == 0 {
        Role::Dialler
    } else {
        Role::Acceptor
    };
    let mut connection = Connection::new(role, &local, 3, [9; 32], choice & 8 == 0, now);
    connection.handle_bytes(
        &Versions {
            min: version,
            max: version,
        }
        .header(),
        now,
    );
    // Vectors of whole introductions bring a header of their own.
    let rest = rest
        .strip_prefix(b"weave")
        .and_then(|rest| rest.get(2..))
        .unwrap_or(rest);
    for piece in rest.chunks(1 + usize::from(choice >> 4) * 97) {
        connection.handle_bytes(piece, now);
        while let Some(event) = connection.poll_event() {
            if matches!(event, ConnectionEvent::Introduced(_)) {
                connection.admit(now);
            }
        }
        while connection.poll_transmit().is_some() {}
    }
}

/// A data engine between a plain and a sealed neighbour: the input as a datagram, behind the name
/// of either; as a frame of the bridge; and as overlay control.
pub fn dataplane(data: &[u8]) {
    let now = Instant::now();
    let name = |last| PeerName::from_bytes([0, 0, 0, 0, 0, last]);
    let from: SocketAddr = ([127, 0, 0, 1], 6783).into();
    let mut rng = StdRng::seed_from_u64(1);
    let mut peers = Peers::new(name(1), "us", PeerUid(7), ShortId(5));
    let mut engine = DataPlane::new(
        name(1),
        DataOptions::default(),
        Box::new(StdRng::seed_from_u64(1)),
        now,
    );
    let secret = {
        use router::crypto::session::KeyPair;
        let password = Password::new(*b"secret").expect("it is not empty");
        let remote = KeyPair::new([8; 32]).public();
        KeyPair::new([9; 32])
            .agree(remote, &password)
            .expect("a good key")
    };
    for (link, key) in [(2, None), (3, Some(secret))] {
        connect(&mut peers, name(link), from, &mut rng);
        // Links count once both ends list them.
        let mut theirs = Peers::new(name(link), "", PeerUid(1), ShortId(link.into()));
        connect(&mut theirs, name(1), from, &mut rng);
        let update = theirs.encode([name(link)]);
        peers
            .apply(&update, &mut rng)
            .expect("an update of our own making");
        let config = LinkConfig {
            link: LinkId(link.into()),
            peer: name(link),
            uid: ConnectionUid(0x0102_0304_0506_0708),
            outbound: link == 2,
            local: from,
            remote: Some(from),
            key,
            overlays: ["sleeve", "shuttle", "stream"].map(str::to_owned).to_vec(),
        };
        engine.handle_command(Command::AddLink(Box::new(config)), now);
        engine.handle_command(Command::Confirm(LinkId(link.into())), now);
    }
    let routes = Routes::calculate(&peers);
    assert_eq!(routes.unicast(name(3)), Some(name(3)));
    engine.handle_command(Command::Routes(Arc::new(routes)), now);
    // Both links of shuttle come up as far as they can without a neighbour.
    let mut sessions = Vec::new();
    while let Some(event) = engine.poll_event() {
        if let Event::Control(link, hello) = event
            && let Some(session) = hello.body.get(2..6)
        {
            sessions.push(session.to_vec());
            engine.handle_command(Command::Control(link, hello), now);
        }
    }
    assert_eq!(sessions.len(), 2);
    for session in sessions {
        for kind in [0, 1] {
            let header = [&[0x53, kind, 0, 0], &session[..], &[0; 8]].concat();
            let mut datagram = [&header, data].concat();
            let len = datagram.len();
            for frame in engine.handle_datagram(from, &mut datagram, now) {
                assert!(frame.range.end <= len);
            }
        }
    }
    for sender in [None, Some(2), Some(3)] {
        let mut datagram = sender
            .map(|last| name(last).to_bytes().to_vec())
            .unwrap_or_default();
        datagram.extend_from_slice(data);
        let len = datagram.len();
        for frame in engine.handle_datagram(from, &mut datagram, now) {
            assert!(frame.range.end <= len);
        }
    }
    engine.handle_frame(data, &Offload::NONE, now);
    if let Some((tag, body)) = data.split_first() {
        for index in 0..3 {
            let control = OverlayControl {
                index,
                tag: *tag,
                body: body.to_vec(),
            };
            engine.handle_command(Command::Control(LinkId(2), control), now);
        }
    }
    engine.handle_too_long(LinkId(3), 1500, now);
    engine.flush();
    while engine.poll_transmit().is_some() {}
    while engine.poll_frame().is_some() {}
    while engine.poll_event().is_some() {}
}

/// A control engine with two neighbours: the input as a message of the first, as the payload of its
/// gossip, and as the first bytes of a stranger; and the seconds that follow.
pub fn mesh(data: &[u8]) {
    let mut now = Instant::now();
    let name = |last| PeerName::from_bytes([0, 0, 0, 0, 0, last]);
    let ours: SocketAddr = ([127, 0, 0, 1], 6783).into();
    let config = MeshConfig {
        name: name(1),
        nickname: "us".to_owned(),
        password: None,
        versions: Versions::default(),
        overlays: vec!["sleeve".to_owned()],
        port: 6783,
        discovery: true,
        conn_limit: 4,
        trusted_subnets: Vec::new(),
    };
    let mut mesh = Mesh::new(config, [3; 32], now);
    let mut neighbours = Vec::new();
    for last in [2, 3] {
        let local = Local {
            name: name(last),
            uid: PeerUid(last.into()),
            nickname: String::new(),
            short_id: Some(ShortId(last.into())),
            password: None,
            versions: Versions::default(),
            overlays: vec!["sleeve".to_owned()],
        };
        let remote = ([127, 0, 0, last], 40_000).into();
        let link = mesh.handle_accepted(remote, ours, now);
        let mut far = Connection::new(Role::Dialler, &local, 3, [9; 32], false, now);
        exchange(&mut mesh, link, &mut far, now);
        far.admit(now);
        mesh.handle_data_event(Event::Established(link), now);
        neighbours.push((link, far));
    }
    assert_eq!(mesh.peers().ours().connections.len(), 2);

    let (link, far) = &mut neighbours[0];
    let len = u32::try_from(data.len())
        .expect("short input")
        .to_be_bytes();
    mesh.handle_bytes(*link, &[&len, data].concat(), now);
    for channel in ["topology", "strange"] {
        for kind in [GossipKind::Neighbours, GossipKind::Broadcast] {
            let message = GossipMessage::new(channel.as_bytes(), kind, name(2), data);
            far.send(&Message::Gossip(message)).expect("it is short");
            exchange(&mut mesh, *link, far, now);
        }
    }
    let stranger = mesh.handle_accepted(([127, 0, 0, 9], 9).into(), ours, now);
    mesh.handle_bytes(stranger, data, now);
    let end = now + Duration::from_secs(40);
    while let Some(due) = mesh.poll_timeout().filter(|due| *due <= end) {
        assert!(due > now, "the engine spins");
        now = due;
        mesh.handle_timeout(now);
        while let Some(output) = mesh.poll_output() {
            if let Output::Dial { link, .. } = output {
                mesh.handle_dialled(link, Err("unreachable".to_owned()), now);
            }
        }
        for (link, far) in &mut neighbours {
            exchange(&mut mesh, *link, far, now);
        }
    }
    let _ = mesh.status(now);
}

/// Carries bytes between an engine and the other end of one of its connections.
fn exchange(mesh: &mut Mesh, link: LinkId, far: &mut Connection, now: Instant) {
    loop {
        let mut moved = false;
        while let Some(bytes) = mesh.poll_transmit(link) {
            moved = true;
            far.handle_bytes(&bytes, now);
        }
        while far.poll_event().is_some() {}
        while let Some(bytes) = far.poll_transmit() {
            moved = true;
            mesh.handle_bytes(link, &bytes, now);
        }
        if !moved {
            return;
        }
    }
}

fn connect(peers: &mut Peers, to: PeerName, address: SocketAddr, rng: &mut StdRng) {
    peers
        .introduce(to, PeerUid(1), "", None, true, rng)
        .expect("a new peer");
    peers.add_connection(to, address, true);
    peers.establish_connection(to);
}

/// Every string of hex digits under a key `hex` in the golden vectors.
pub fn seeds(vectors: &Path) -> Vec<Vec<u8>> {
    fn collect(value: &serde_json::Value, in_hex: bool, found: &mut Vec<Vec<u8>>) {
        match value {
            serde_json::Value::String(text) if in_hex => found.extend(hex::decode(text)),
            serde_json::Value::Array(list) => {
                list.iter().for_each(|item| collect(item, in_hex, found));
            }
            serde_json::Value::Object(map) => {
                map.iter()
                    .for_each(|(key, item)| collect(item, key == "hex", found));
            }
            _ => {}
        }
    }
    let mut files: Vec<_> = std::fs::read_dir(vectors)
        .expect("tests/vectors is there")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a vector file can be read");
        collect(
            &serde_json::from_str(&text).expect("a vector file is JSON"),
            false,
            &mut found,
        );
    }
    found
}

/// Damages `input`: bytes changed, inserted, removed, repeated, cut off, or taken from `other`.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    const INTERESTING: [u8; 10] = [0, 1, 2, 0x7f, 0x80, 0xf8, 0xfc, 0xfe, 0xff, b':'];
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=input.len());
        match rng.random_range(0..7) {
            0 if at < input.len() => input[at] = rng.random(),
            1 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            2 if at < input.len() => {
                input[at] = INTERESTING[rng.random_range(0..INTERESTING.len())];
            }
            3 => input.insert(at, rng.random()),
            4 => {
                let end = input.len().min(at + rng.random_range(0..9));
                input.drain(at..end);
            }
            5 => {
                let from = rng.random_range(0..=other.len());
                let to = other.len().min(from + rng.random_range(0..64));
                let piece: Vec<u8> = other[from..to].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                if rng.random_range(0..8) == 0 {
                    input.truncate(at);
                } else {
                    let mut noise = [0; 4];
                    rng.fill_bytes(&mut noise);
                    input.splice(at..at, noise);
                }
            }
        }
    }
    input.truncate(1 << 16);
}
