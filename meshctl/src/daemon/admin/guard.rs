//! Keeps web pages from driving the daemon through the browser of whoever looks at them.
//!
//! A page may send a form to any address, 127.0.0.1 included, and the browser says where the page
//! came from in `Origin`. A page may also have its own name resolve to 127.0.0.1 and then speaks
//! as if it had come from here, but the browser sends that name in `Host`. So:
//!
//! * what changes something is refused when `Origin` names anything but what `Host` names, or when
//!   `Sec-Fetch-Site` says that the request crosses sites;
//! * all is refused when `Host` is a name that is not this host's.
//!
//! Programs send none of these headers but `Host`, and address the daemon by number, as
//! `localhost`, or by the name of this host. What comes through a Unix socket comes from a program.

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// What is known about the listener.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Names of this host, in lower case.
    names: Vec<String>,
    /// Whether it is a Unix socket.
    unix: bool,
}

impl Guard {
    /// A guard for a host that is called `names`.
    pub fn new(names: impl IntoIterator<Item = String>, unix: bool) -> Self {
        let names = names.into_iter().map(|name| name.to_lowercase());
        Self {
            names: names.collect(),
            unix,
        }
    }

    /// Why this request is refused.
    fn objection(&self, method: &Method, headers: &HeaderMap) -> Option<&'static str> {
        if self.unix {
            return None;
        }
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(HOST.as_str()).unwrap_or("");
        if !self.is_ours(host) {
            return Some("the name in the Host header is not one of this host");
        }
        if matches!(*method, Method::GET | Method::HEAD) {
            return None;
        }
        if headers.contains_key(ORIGIN) {
            let origin = text(ORIGIN.as_str()).and_then(|origin| origin.strip_prefix("http://"));
            if origin.is_none_or(|origin| !origin.eq_ignore_ascii_case(host)) {
                return Some("the request comes from a web page of another origin");
            }
        }
        match text("sec-fetch-site") {
            None | Some("same-origin" | "none") => None,
            Some(_) => Some("the request comes from a web page of another site"),
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        if let Some((address, port)) = bracketed {
            let port = port.is_empty() || port.starts_with(':');
            return port && address.parse::<std::net::Ipv6Addr>().is_ok();
        }
        let name = host.split_once(':').map_or(host, |(name, _)| name);
        let name = name.trim_end_matches('.').to_lowercase();
        name.parse::<std::net::Ipv4Addr>().is_ok()
            || name == "localhost"
            || self.names.contains(&name)
    }
}

/// Lets a request pass, or answers 403.
pub async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.objection(request.method(), request.headers()) {
        None => next.run(request).await,
        Some(why) => {
            tracing::warn!(method = %request.method(), path = request.uri().path(), "refused: {why}");
            (StatusCode::FORBIDDEN, format!("refused: {why}\n")).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(method: &Method, headers: &[(&'static str, &'static str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let guard = Guard::new(["Azure-prd-01".to_owned()], false);
        guard.objection(method, &headers).is_some()
    }

    #[test]
    fn programs_pass() {
        for host in [
            "127.0.0.1:6784",
            "127.0.0.1",
            "10.0.0.1:6784",
            "localhost:6784",
            "LOCALHOST.",
            "[::1]:6784",
            "[::1]",
            "azure-prd-01:6784",
        ] {
            assert!(!objects(&Method::POST, &[("host", host)]), "{host}");
            assert!(!objects(&Method::GET, &[("host", host)]), "{host}");
        }
        assert!(!objects(
            &Method::POST,
            &[
                ("host", "127.0.0.1:6784"),
                ("origin", "http://127.0.0.1:6784")
            ]
        ));
        assert!(!objects(
            &Method::POST,
            &[("host", "127.0.0.1:6784"), ("sec-fetch-site", "none")]
        ));
    }

    #[test]
    fn pages_do_not() {
        for origin in [
            "http://evil.example",
            "https://127.0.0.1:6784",
            "http://127.0.0.1:8080",
            "http://127.0.0.1",
            "null",
            "",
        ] {
            let headers = [("host", "127.0.0.1:6784"), ("origin", origin)];
            assert!(objects(&Method::POST, &headers), "{origin}");
            assert!(objects(&Method::DELETE, &headers), "{origin}");
            assert!(!objects(&Method::GET, &headers), "{origin}");
        }
        for site in ["cross-site", "same-site"] {
            let headers = [("host", "127.0.0.1:6784"), ("sec-fetch-site", site)];
            assert!(objects(&Method::POST, &headers), "{site}");
        }
    }

    #[test]
    fn names_of_others_do_not() {
        for host in [
            "evil.example:6784",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "[::1",
            "[::1]evil",
            "[evil]:1",
            "",
        ] {
            assert!(objects(&Method::GET, &[("host", host)]), "{host}");
            assert!(objects(&Method::POST, &[("host", host)]), "{host}");
        }
        assert!(objects(&Method::GET, &[]));
    }

    #[test]
    fn a_unix_socket_is_for_programs() {
        let guard = Guard::new([], true);
        assert_eq!(guard.objection(&Method::POST, &HeaderMap::new()), None);
    }
}
