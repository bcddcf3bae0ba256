//! One query to one server, as `dig` sends it: over UDP, and over TCP if the answer was cut.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::cli::{Exit, Failure};

/// How long to wait for an answer: longer than the server waits for a server upstream.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
/// How often a query that nothing comes of is sent.
const TRIES: usize = 2;
/// As much as is taken in one datagram.
const PAYLOAD_LEN: u16 = 1232;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The name that was asked for.
    pub name: String,
    /// In the words of the DNS: `NOERROR`, `NXDOMAIN`.
    pub status: String,
    /// What the records say: addresses, mostly.
    pub records: Vec<String>,
}

/// Asks `server` for the IPv4 addresses behind a name, which is taken for fully qualified.
pub async fn query(server: SocketAddr, name: &str) -> Result<Found, Failure> {
    let parsed = Name::from_ascii(name)
        .map_err(|error| Failure::usage(format!("{name:?} is not a name: {error}")))?;
    let mut id = [0; 2];
    SysRng
        .try_fill_bytes(&mut id)
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    let mut request = Message::new(u16::from_be_bytes(id), MessageType::Query, OpCode::Query);
    let mut absolute = parsed;
    absolute.set_fqdn(true);
    request.metadata.recursion_desired = true;
    request.add_query(Query::query(absolute, RecordType::A));
    let mut edns = hickory_proto::op::Edns::new();
    edns.set_max_payload(PAYLOAD_LEN);
    request.set_edns(edns);
    let failed =
        |what: String| Failure::new(Exit::Failed, format!("the name server at {server} {what}"));
    let packet = request
        .to_vec()
        .map_err(|error| failed(error.to_string()))?;
    let answer = over_udp(server, &packet).await;
    let answer = answer.map_err(|error| failed(format!("does not answer: {error}")))?;
    let mut answer = decode(&answer, &request).map_err(failed)?;
    if answer.metadata.truncation {
        let whole = timeout(ANSWER_TIMEOUT, over_tcp(server, &packet)).await;
        let whole = whole.map_err(|_| failed("does not answer over TCP".to_owned()))?;
        let whole = whole.map_err(|error| failed(format!("does not answer over TCP: {error}")))?;
        answer = decode(&whole, &request).map_err(failed)?;
    }
    Ok(Found {
        name: name.to_owned(),
        status: status(answer.metadata.response_code),
        records: (answer.answers.iter())
            .map(|record| record.data.to_string())
            .collect(),
    })
}

/// The usual words.
fn status(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => format!("RCODE{}", u16::from(other)),
    }
}

fn decode(packet: &[u8], request: &Message) -> Result<Message, String> {
    let answer = Message::from_vec(packet).map_err(|error| format!("answers nonsense: {error}"))?;
    if answer.metadata.id != request.metadata.id {
        return Err("answers somebody else".to_owned());
    }
    Ok(answer)
}

async fn over_udp(server: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0; 16], 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    for _ in 0..TRIES {
        socket.send(packet).await?;
        let wait = async {
            loop {
                let len = socket.recv(&mut buffer).await?;
                // A late answer to somebody else on our port.
                if buffer.get(..2) == packet.get(..2) {
                    return std::io::Result::Ok(len);
                }
            }
        };
        if let Ok(received) = timeout(ANSWER_TIMEOUT, wait).await {
            buffer.truncate(received?);
            return Ok(buffer);
        }
    }
    Err(std::io::ErrorKind::TimedOut.into())
}

async fn over_tcp(server: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(packet.len()).map_err(std::io::Error::other)?;
    stream
        .write_all(&[&len.to_be_bytes(), packet].concat())
        .await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(len)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
