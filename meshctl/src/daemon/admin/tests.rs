//! The API over real listeners on loopback, with a router that is not there.

mod names;

use std::sync::Mutex;

use hyper::Method;
use router::status::RouterStatus;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::server::{Listener, serve};
use super::*;
use crate::address::Address;
use crate::client::{Answer, Client, NoAnswer};
use crate::daemon::control::BoxFuture;
use crate::text::tests::{alone, busy};

/// Answers as told, and remembers what it was asked.
struct Fake {
    status: Option<RouterStatus>,
    asked: Mutex<Vec<String>>,
}

impl Fake {
    fn note(&self, text: String) {
        self.asked.lock().unwrap().push(text);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Control for Fake {
    fn status(&self) -> BoxFuture<'_, Result<RouterStatus, NoRouter>> {
        Box::pin(async { self.status.clone().ok_or(NoRouter) })
    }

    fn connect(&self, peers: Vec<String>, replace: bool) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            self.note(format!("connect {peers:?} {replace}"));
            let bad = peers.into_iter().filter(|peer| peer.contains('!'));
            let bad: Vec<_> = bad.map(|peer| format!("bad peer {peer}")).collect();
            if bad.is_empty() {
                Ok(())
            } else {
                Err(Refusal::Bad(bad))
            }
        })
    }

    fn forget(&self, peers: Vec<String>) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async move {
            self.note(format!("forget {peers:?}"));
            Ok(())
        })
    }
}

/// A served API; its end goes with it.
struct Served {
    fake: Arc<Fake>,
    admin: Arc<Admin>,
    stopped: mpsc::Receiver<Stop>,
    address: Address,
    client: Client,
    end: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Served {
    async fn start(status: Option<RouterStatus>) -> Self {
        Self::start_with(status, |admin| control(admin, guard::Guard::new([], false))).await
    }

    async fn start_with(
        status: Option<RouterStatus>,
        routes: impl FnOnce(Arc<Admin>) -> Router,
    ) -> Self {
        Self::start_as(status, Services::default(), routes).await
    }

    async fn start_as(
        status: Option<RouterStatus>,
        services: Services,
        routes: impl FnOnce(Arc<Admin>) -> Router,
    ) -> Self {
        let fake = Arc::new(Fake {
            status,
            asked: Mutex::default(),
        });
        let (stop, stopped) = mpsc::channel(1);
        let facts = Facts {
            version: "0.1.0".to_owned(),
            pid: 42,
            ..Facts::default()
        };
        let admin = Admin::new(fake.clone(), services, facts, stop);
        admin.set_ready(true);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let end = CancellationToken::new();
        tokio::spawn(serve(
            Listener::Tcp(listener),
            routes(admin.clone()),
            end.clone(),
        ));
        Self {
            fake,
            admin,
            stopped,
            client: Client::new(&address),
            address,
            end,
        }
    }

    async fn call(&self, method: Method, path: &str, form: &[(&str, &str)]) -> Answer {
        self.client.call(method, path, None, form).await.unwrap()
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[]).await
    }

    /// What comes back for these very bytes, until the end of the connection.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address.host_to_call().unwrap())
            .await
            .unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn raw_post(&self, path: &str, headers: &str, body: &str) -> String {
        let len = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {len}\r\n");
        let answer = self.raw(&format!("{head}{headers}\r\n{body}")).await;
        answer.split(' ').nth(1).unwrap().to_owned()
    }
}

#[tokio::test]
async fn status_is_the_text_of_the_original() {
    let served = Served::start(Some(busy())).await;
    let answer = served.get("/status").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer
            .body
            .starts_with("        Version: 0.1.0 (version check update disabled)\n\n")
    );
    assert!(
        answer
            .body
            .ends_with(" TrustedSubnets: 10.0.0.0/8, 192.168.0.0/16\n")
    );
    assert_eq!(
        served.get("/status/targets").await.body,
        "10.0.0.2\nhost3:6784\n"
    );
    assert!(
        served
            .get("/status/connections")
            .await
            .body
            .contains("-> 10.0.0.2:6783         estab")
    );
    assert!(
        served
            .get("/status/peers")
            .await
            .body
            .contains("   <- 10.0.0.1:51234        00:00")
    );
}

#[tokio::test]
async fn a_daemon_that_is_not_ready_says_so_in_full() {
    let served = Served::start(Some(alone())).await;
    served.admin.set_ready(false);
    let answer = served.get("/status").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("Service: router"), "{}", answer.body);
    // A router that is gone has nothing to say.
    let served = Served::start(None).await;
    for path in ["/status", "/metrics", "/report?format=x"] {
        let answer = served.get(path).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (503, "the router does not answer\n")
        );
    }
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let served = Served::start(Some(alone())).await;
    for path in [
        "/",
        "/status/dns",
        "/ip/x",
        "/name",
        "/debug/pprof/",
        "/ring",
    ] {
        let answer = served.get(path).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (404, "404 page not found\n"),
            "{path}"
        );
    }
    for (method, path) in [
        (Method::POST, "/status"),
        (Method::DELETE, "/report"),
        (Method::GET, "/connect"),
        (Method::PUT, "/forget"),
        (Method::GET, "/stop"),
    ] {
        assert_eq!(served.call(method, path, &[]).await.status, 405, "{path}");
    }
}

#[tokio::test]
async fn the_report_is_json_or_a_template() {
    let served = Served::start(Some(busy())).await;
    let answer = served.get("/status/ipam").await;
    let failed = "error during template execution\n";
    assert_eq!((answer.status, answer.body.as_str()), (500, failed));
    let report = served.client.report().await.unwrap();
    assert_eq!(report.router.name, "00:00:00:00:00:01");
    assert!(report.ready);
    let json = served.client.report_json().await.unwrap();
    assert!(
        json.starts_with("{\n    \"Ready\": true,\n    \"Version\": \"0.1.0\""),
        "{json}"
    );
    let format = [("format", "{{.Router.Name}} {{len .Router.Peers}}")];
    let answer = served.call(Method::GET, "/report", &format).await;
    assert_eq!(answer.body, "00:00:00:00:00:01 2");
    for (query, status, text) in [
        (vec![], 400, "error: must supply one format parameter\n"),
        (
            vec![("format", "a"), ("format", "b")],
            400,
            "error: must supply one format parameter\n",
        ),
        (vec![("format", "{{")], 400, "template: unclosed action\n"),
        (
            vec![("format", "{{.DNS.Domain}}")],
            500,
            "error during template execution\n",
        ),
    ] {
        let answer = served.call(Method::GET, "/report", &query).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, text));
    }
}

#[tokio::test]
async fn connect_and_forget_take_forms() {
    let served = Served::start(Some(alone())).await;
    let form = [("peer", "a"), ("peer", "b:6784"), ("replace", "true")];
    let answer = served.call(Method::POST, "/connect", &form).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    assert_eq!(served.fake.asked(), ["connect [\"a\", \"b:6784\"] true"]);
    let form = [("peer", "a!"), ("peer", "b"), ("peer", "c!")];
    let answer = served.call(Method::POST, "/connect", &form).await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (400, "bad peer a!\nbad peer c!\n")
    );
    assert_eq!(
        served
            .call(Method::POST, "/forget", &[("peer", "a b")])
            .await
            .status,
        200
    );
    assert_eq!(served.fake.asked()[1..], ["forget [\"a b\"]"]);
    // The query counts as well, and a form need not call itself one.
    let status = served
        .raw_post("/connect?peer=q", "Host: localhost\r\n", "peer=x")
        .await;
    assert_eq!(status, "200");
    assert_eq!(served.fake.asked(), ["connect [\"x\", \"q\"] false"]);
    assert_eq!(
        served
            .raw_post("/forget", "Host: localhost\r\n", "peer=%zz")
            .await,
        "400"
    );
    let long = "x".repeat(MAX_BODY + 1);
    assert_eq!(
        served
            .raw_post("/forget", "Host: localhost\r\n", &long)
            .await,
        "413"
    );
    assert_eq!(served.fake.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn web_pages_are_kept_out() {
    let served = Served::start(Some(alone())).await;
    let host = format!("Host: {}\r\n", served.address);
    for (headers, status) in [
        (host.clone(), "200"),
        (
            format!("{host}Origin: http://{}\r\n", served.address),
            "200",
        ),
        (format!("{host}Origin: http://evil.example\r\n"), "403"),
        (format!("{host}Sec-Fetch-Site: cross-site\r\n"), "403"),
        ("Host: evil.example\r\n".to_owned(), "403"),
    ] {
        let answer = served.raw_post("/connect", &headers, "peer=x").await;
        assert_eq!(answer, status, "{headers}");
        assert_eq!(served.fake.asked().len(), usize::from(status == "200"));
    }
    let answer =
        served.raw("GET /report HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    let answer = answer.await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(
        answer.contains("x-content-type-options: nosniff\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn stop_says_who_stops() {
    let mut served = Served::start(Some(alone())).await;
    let answer = served.call(Method::POST, "/stop", &[]).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "{\"pid\":42}"));
    // Once more does not hang.
    assert_eq!(
        served
            .call(Method::POST, "/stop", &[("reset", "true")])
            .await
            .status,
        200
    );
    assert_eq!(served.stopped.recv().await, Some(Stop::Stop));
    served
        .call(Method::POST, "/stop", &[("reset", "true")])
        .await;
    assert_eq!(served.stopped.recv().await, Some(Stop::Reset));
    served.end.cancel();
    loop {
        match served.client.call(Method::GET, "/status", None, &[]).await {
            Err(NoAnswer::NotRunning(..)) => break,
            _ => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn the_other_listeners_change_nothing() {
    let served = Served::start_with(Some(busy()), status).await;
    assert_eq!(served.get("/status").await.status, 200);
    assert_eq!(served.get("/report?format=x").await.body, "x");
    assert!(
        served
            .get("/metrics")
            .await
            .body
            .contains("weave_connections{")
    );
    for path in ["/connect", "/forget", "/stop"] {
        assert_eq!(
            served.call(Method::POST, path, &[]).await.status,
            404,
            "{path}"
        );
    }
    let served = Served::start_with(Some(busy()), metrics).await;
    assert!(served.get("/metrics").await.body.ends_with("# EOF\n"));
    assert_eq!(served.get("/status").await.status, 404);
}

#[tokio::test]
async fn a_unix_socket_takes_over_what_a_kill_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let address = Address::Unix(path.clone());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = Listener::bind(&address, "--http-addr")
        .await
        .unwrap()
        .unwrap();
    assert!(listener.is_unix());
    let error = Listener::bind(&address, "--http-addr").await.unwrap_err();
    assert!(error.to_string().contains("running already"), "{error}");

    let (stop, _stopped) = mpsc::channel(1);
    let fake = Arc::new(Fake {
        status: Some(alone()),
        asked: Mutex::default(),
    });
    let admin = Admin::new(fake.clone(), Services::default(), Facts::default(), stop);
    let routes = control(admin, guard::Guard::new([], true));
    let end = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, routes, end.clone()));
    let client = Client::new(&address);
    client.post("/connect", &[("peer", "a")]).await.unwrap();
    assert_eq!(fake.asked().len(), 1);
    end.cancel();
    serving.await.unwrap();
    assert!(!path.exists());

    std::fs::write(&path, "not a socket").unwrap();
    let error = Listener::bind(&address, "--http-addr").await.unwrap_err();
    assert!(error.to_string().contains("in the way"), "{error}");
}

#[tokio::test]
async fn an_address_in_use_is_explained() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let error = Listener::bind(&address, "--status-addr")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("running already") && error.contains("--status-addr"),
        "{error}"
    );
    assert!(
        Listener::bind(&Address::Off, "--http-addr")
            .await
            .unwrap()
            .is_none()
    );
}
