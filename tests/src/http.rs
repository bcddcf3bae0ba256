//! The little of HTTP that asking a daemon takes: one request per connection, version 1.0, so that
//! the answer ends with the connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use host::netns::Netns;

/// A daemon answers sooner, or not at all.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// What follows the head.
    pub body: String,
}

/// A request that has been sent. Dropped, its client goes away.
#[derive(Debug)]
pub struct Pending(TcpStream);

impl Pending {
    /// Whether an answer has begun to come, or the daemon has hung up.
    pub fn is_answered(&self) -> bool {
        let mut byte = [0];
        self.0.set_nonblocking(true).is_ok()
            && self.0.peek(&mut byte).is_ok()
            && self.0.set_nonblocking(false).is_ok()
    }

    /// Waits for the answer, this long at most.
    pub fn answer(mut self, patience: Duration) -> io::Result<Response> {
        self.0.set_nonblocking(false)?;
        self.0.set_read_timeout(Some(patience))?;
        let mut answer = String::new();
        self.0.read_to_string(&mut answer)?;
        parse(&answer).ok_or_else(|| io::Error::other(format!("no HTTP: {answer:?}")))
    }
}

/// Sends a request from inside a namespace, and does not wait for the answer. Header lines end with
/// CR LF each.
pub fn begin(
    netns: &Netns,
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> io::Result<Pending> {
    let connect = || TcpStream::connect_timeout(&to, TIMEOUT);
    let mut stream = netns.run(connect).map_err(io::Error::other)??;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let len = body.len();
    let head =
        format!("{method} {path} HTTP/1.0\r\nHost: {to}\r\nContent-Length: {len}\r\n{headers}\r\n");
    stream.write_all(format!("{head}{body}").as_bytes())?;
    Ok(Pending(stream))
}

/// Sends a request from inside a namespace, and waits for the answer.
pub fn request(
    netns: &Netns,
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> io::Result<Response> {
    begin(netns, to, method, path, headers, body)?.answer(TIMEOUT)
}

fn parse(answer: &str) -> Option<Response> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Response {
        status,
        body: body.to_owned(),
    })
}
