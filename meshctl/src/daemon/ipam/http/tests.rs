//! The calls, over a real listener on loopback.

use std::path::Path;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ipam::allocator::Init;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::daemon::admin::server::{Listener, serve};
use crate::daemon::ipam::testing::{begin, config};

struct Answer {
    status: u16,
    content_type: Option<String>,
    body: String,
}

/// A served allocator; its end goes with it.
struct Served {
    ipam: Option<Ipam>,
    address: std::net::SocketAddr,
    end: CancellationToken,
    _directory: TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Served {
    async fn start(init: Option<Init>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ipam = init.map(|init| begin(directory.path(), config(init, "10.32.0.0/12")));
        let not_found = || async { (StatusCode::NOT_FOUND, "404 page not found\n") };
        let router = routes::<()>(ipam.clone()).fallback(not_found);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let end = CancellationToken::new();
        tokio::spawn(serve(Listener::Tcp(listener), router, end.clone()));
        Self {
            ipam,
            address,
            end,
            _directory: directory,
        }
    }

    /// A host that is the only one there is, and knows that.
    async fn alone() -> Self {
        Self::start(Some(Init::Consensus(Some(1)))).await
    }

    /// One whose requests wait for others that never come.
    async fn waiting() -> Self {
        Self::start(Some(Init::Consensus(Some(3)))).await
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.map(|text| text.to_str().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        Answer {
            status,
            content_type,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    async fn expect(&self, method: &str, path: &str, status: u16, body: &str) {
        let answer = self.call(method, path, "").await;
        let got = (answer.status, answer.body.as_str());
        assert_eq!(got, (status, body), "{method} {path}");
    }

    /// Waits until so many requests wait.
    async fn await_waiting(&self, count: usize) {
        let ipam = self.ipam.as_ref().unwrap();
        loop {
            let status = ipam.status();
            if status.pending_allocates.len() + status.pending_claims.len() == count {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn every_exchange_of_the_original() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/ipam-http.json"
    );
    let vectors = std::fs::read_to_string(Path::new(path)).unwrap();
    let vectors: Vec<Value> = serde_json::from_str(&vectors).unwrap();
    let served = Served::alone().await;
    let mut count = 0;
    for vector in &vectors {
        let name = vector["name"].as_str().unwrap();
        if name == "_setup" {
            continue;
        }
        let (inputs, expected) = (&vector["inputs"], &vector["expected"]);
        let method = inputs["method"].as_str().unwrap();
        let path = inputs["path"].as_str().unwrap();
        let body = inputs["body"].as_str().unwrap_or("");
        let answer = served.call(method, path, body).await;
        assert_eq!(u64::from(answer.status), expected["status"], "{name}");
        assert_eq!(
            answer.content_type.as_deref(),
            expected["content_type"].as_str(),
            "{name}"
        );
        let expected = expected["body"].as_str().unwrap();
        if path == "/ip" && method == "GET" {
            // In no particular order.
            let sorted = |text: &str| {
                let mut all: Value = serde_json::from_str(text).unwrap();
                if let Some(owned) = all["owned"].as_array_mut() {
                    owned.sort_by_key(Value::to_string);
                }
                all
            };
            assert_eq!(sorted(&answer.body), sorted(expected), "{name}");
        } else {
            assert_eq!(answer.body, expected, "{name}");
        }
        count += 1;
    }
    assert_eq!(count, 46);
}

#[tokio::test]
async fn without_allocation_only_peers_are_left() {
    let served = Served::start(None).await;
    for (method, path) in [
        ("GET", "/ip"),
        ("POST", "/ip/c"),
        ("GET", "/ring"),
        ("GET", "/ipinfo/defaultsubnet"),
        ("GET", "/peer/x/plan"),
    ] {
        served
            .expect(method, path, 404, "404 page not found\n")
            .await;
    }
    served.expect("DELETE", "/peer", 204, "").await;
    let none = "0 IPs taken over from x\n";
    served.expect("DELETE", "/peer/x", 200, none).await;
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_along() {
    let served = Served::waiting().await;
    for (method, path) in [
        ("POST", "/ip/c"),
        ("POST", "/ip/_"),
        ("PUT", "/ip/c/10.32.0.9/12"),
    ] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
            .await
            .unwrap();
        served.await_waiting(1).await;
        drop(stream);
        served.await_waiting(0).await;
    }
}

#[tokio::test]
async fn requests_are_cancelled_when_our_ranges_are_handed_over() {
    let served = Served::waiting().await;
    let allocate = served.call("POST", "/ip/c", "check-alive=true");
    let claim = served.call("PUT", "/ip/c/10.32.0.9/12", "");
    let prime = served.call("GET", "/ring", "");
    let shut_down = async {
        served.await_waiting(2).await;
        served.call("DELETE", "/peer", "").await
    };
    let (allocate, claim, prime, shut_down) = tokio::join!(allocate, claim, prime, shut_down);
    assert_eq!(
        (allocate.status, allocate.body.as_str()),
        (200, "cancelled")
    );
    assert_eq!((claim.status, claim.body.as_str()), (200, "cancelled"));
    assert_eq!((prime.status, prime.body.as_str()), (200, ""));
    assert_eq!((shut_down.status, shut_down.body.as_str()), (204, ""));
    served.expect("POST", "/ip/late", 200, "cancelled").await;
}

#[tokio::test]
async fn a_claim_may_be_answered_before_it_is_settled() {
    let served = Served::waiting().await;
    let path = "/ip/c/10.32.0.9/12?noErrorOnUnknown=true";
    served.expect("PUT", path, 204, "").await;
    served.await_waiting(1).await;
    // A body that cannot be read is no body.
    let answer = served.call("PUT", "/ip/c/10.32.0.9/12", "a=%zz").await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn identifiers_have_an_end() {
    let served = Served::alone().await;
    let ident = "c".repeat(1025);
    let text = "the identifier is too long\n";
    let path = format!("/ip/{ident}");
    served.expect("POST", &path, 400, text).await;
    let path = format!("/ip/{ident}/10.32.0.1/12");
    served.expect("PUT", &path, 400, text).await;
    served.expect("GET", "/ip", 200, "{\"owned\":null}\n").await;
    // They may have anything in them but a slash.
    let path = "/ip/a%20b%2Cc";
    served.expect("POST", path, 200, "10.32.0.1/12").await;
    served.expect("GET", path, 200, "10.32.0.1/12").await;
}

#[tokio::test]
async fn a_plan_changes_nothing() {
    let served = Served::alone().await;
    served.expect("POST", "/ip/c", 200, "10.32.0.1/12").await;
    let text = "rmpeer nosuch: no peer is known by this name\n";
    served.expect("GET", "/peer/nosuch/plan", 200, text).await;
    let text = "rmpeer host-a: 0 IPs would be taken over from 02:00:00:00:00:0a(host-a)\n";
    served.expect("GET", "/peer/host-a/plan", 200, text).await;
    let plan = plan::Plan::new(served.ipam.as_ref().unwrap(), "2::b".to_owned());
    assert_eq!(
        serde_json::to_value(plan).unwrap(),
        json!({
            "Who": "2::b", "Peer": "02:00:00:00:00:0b", "Nickname": "", "Ranges": [],
            "NumIPs": 0, "Refusal": null, "Unheard": [],
        })
    );
}
