//! Names over the API, against recorded exchanges.

use serde_json::Value;

use super::*;
use crate::daemon::config::{Listen, NamesConfig};
use crate::daemon::dns::{NameService, Names};

/// Peer of the recording.
const OURS: &str = "02:00:00:00:00:0a";

async fn served() -> (Served, Arc<NameService>) {
    let domain: dns::Domain = "weave.local".parse().unwrap();
    let names = Names::new(OURS.parse().unwrap(), domain.clone(), Vec::new());
    let config = NamesConfig {
        domain,
        listen: Listen::Given("127.0.0.1:0".parse().unwrap()),
        ttl: 1,
        timeout: Duration::from_secs(5),
        resolv_conf: None,
    };
    let service = Arc::new(NameService::start(names, config, None).await.unwrap());
    let services = Services {
        names: Some(service.clone()),
        ..Services::default()
    };
    let served = Served::start_as(Some(alone()), services, |admin| {
        control(admin, guard::Guard::new([], false))
    });
    (served.await, service)
}

/// Method, path, extra headers and body of a recorded request.
fn request(inputs: &Value) -> String {
    let (method, path) = (
        inputs["method"].as_str().unwrap(),
        inputs["path"].as_str().unwrap(),
    );
    let body = inputs["body"].as_str().unwrap_or("");
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in inputs["headers"].as_object().unwrap() {
        head += &format!("{name}: {}\r\n", value.as_str().unwrap());
    }
    if !body.is_empty() {
        head += "Content-Type: application/x-www-form-urlencoded\r\n";
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    format!("{head}\r\n{body}")
}

/// What time it was does not matter, only whether it was noted.
fn timeless(body: &str) -> Value {
    let Ok(mut value) = serde_json::from_str::<Value>(body) else {
        return Value::from(body);
    };
    for entry in value.as_array_mut().into_iter().flatten() {
        if entry["Tombstone"].as_i64() > Some(0) {
            entry["Tombstone"] = "then".into();
        }
    }
    value
}

#[tokio::test]
async fn exchanges_go_as_recorded() {
    let (served, service) = served().await;
    let port = service.address().unwrap().port();
    let vectors: Vec<Value> = serde_json::from_str(include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/vectors/dns-http.json"
    )))
    .unwrap();
    let mut count = 0;
    for vector in &vectors {
        let (inputs, expected) = (&vector["inputs"], &vector["expected"]);
        let Some(path) = inputs["path"].as_str() else {
            continue;
        };
        let is_ours = ["/name", "/domain", "/dns-address", "/status/dns"];
        if !is_ours.iter().any(|own| path.starts_with(own)) {
            continue;
        }
        let name = &vector["name"];
        let answer = served.raw(&request(inputs)).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status: u64 = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(status, expected["status"].as_u64().unwrap(), "{name}");
        // The original puts 0.0.0.0 in the place of an IPv6 address.
        let told = expected["body"].as_str().unwrap();
        let told = told.replace("\"0.0.0.0\"", "\"fd00::1\"");
        let told = told.replace("0.0.0.0 ", "fd00::1 ");
        let told = told.replace("127.0.0.1:53", &format!("127.0.0.1:{port}"));
        assert_eq!(timeless(body), timeless(&told), "{name}");
        if let Some(kind) = expected["content_type"].as_str() {
            let kind = format!("content-type: {kind}");
            assert!(head.lines().any(|line| line == kind), "{name}: {head}");
        }
        count += 1;
    }
    assert_eq!(count, 29, "exchanges");
}

#[tokio::test]
async fn what_is_not_taken_is_told_in_a_header() {
    let (served, _service) = served().await;
    for (fqdn, warning) in [
        (
            "db.example.com",
            "db.example.com is ignored: it is outside of weave.local.",
        ),
        ("a..weave.local", "is not a host name"),
        ("", "is not a host name"),
        ("\u{1}\"\\\n.weave.local", "is ignored"),
        ("good.weave.local", ""),
    ] {
        let answer = served
            .call(Method::PUT, "/name/c/10.0.0.1", &[("fqdn", fqdn)])
            .await;
        assert_eq!(answer.status, 204, "{fqdn:?}");
        let told = answer.warning.unwrap_or_default();
        // A name with odd characters is one, but not one for a header.
        if !fqdn.starts_with('\u{1}') {
            assert!(
                told.contains(warning) && told.is_empty() == warning.is_empty(),
                "{told}"
            );
        }
    }
}

#[tokio::test]
async fn everything_about_names_is_missing_where_they_are_not_served() {
    let served = Served::start(Some(alone())).await;
    for (method, path) in [
        (Method::GET, "/domain"),
        (Method::GET, "/dns-address"),
        (Method::GET, "/dns-address-port"),
        (Method::GET, "/name"),
        (Method::DELETE, "/name"),
        (Method::DELETE, "/name/c"),
        (Method::PUT, "/name/c/10.0.0.1"),
        (Method::DELETE, "/name/c/10.0.0.1"),
        (Method::GET, "/status/dns"),
    ] {
        let answer = served.call(method.clone(), path, &[]).await;
        assert_eq!(answer.status, 404, "{method} {path}");
    }
    assert!(!served.get("/status").await.body.contains("dns"));
}

#[tokio::test]
async fn status_report_and_metrics_tell_of_names() {
    let (served, service) = served().await;
    for (host, container, addr) in [
        ("web.weave.local", "c1", "10.0.0.1"),
        (
            "a-name-longer-than-12.weave.local.",
            "0123456789abcdef",
            "10.0.0.2",
        ),
        ("gone.weave.local", "c3", "10.0.0.3"),
    ] {
        let addr = addr.parse().unwrap();
        service.names().add(host, container, addr).unwrap();
    }
    let gone = dns::Selection {
        container: Some("c3"),
        ..dns::Selection::default()
    };
    service.names().delete(&gone);
    let status = served.get("/status").await.body;
    assert!(
        status.ends_with(
            "
        Service: dns
         Domain: weave.local.
       Upstream: none
            TTL: 1
        Entries: 2
"
        ),
        "{status}"
    );
    let text = served.get("/status/dns").await.body;
    assert_eq!(
        text,
        format!(
            "a-name-longer-than-12 10.0.0.2        0123456789ab {OURS}\n\
             web          10.0.0.1                  c1 {OURS}\n"
        )
    );
    let report: Value = serde_json::from_str(&served.client.report_json().await.unwrap()).unwrap();
    assert_eq!(report["DNS"]["TTL"], 1);
    let entries = report["DNS"]["Entries"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    assert_eq!(entries[1]["Hostname"], "gone.weave.local.");
    assert!(entries[1]["Tombstone"].as_i64() > Some(0));
    assert_eq!(entries[2]["Origin"], OURS);
    let metrics = served.get("/metrics").await.body;
    for line in [
        "weave_dns_entries 2",
        "meshctl_dns_entries 2",
        "meshctl_dns_listening 1",
        "meshctl_dns_queries_total{kind=\"a\",result=\"answered\"} 0",
        "meshctl_dns_latency_seconds_count 0",
    ] {
        assert!(metrics.lines().any(|own| own == line), "{line}\n{metrics}");
    }
}
