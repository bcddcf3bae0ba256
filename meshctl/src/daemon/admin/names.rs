//! Names of containers in the control API.
//!
//! | method | path | answer |
//! |---|---|---|
//! | GET | `/domain` | the domain, with its final dot |
//! | GET | `/dns-address`, `/dns-address-port` | where queries are answered; 404 if nowhere |
//! | PUT | `/name/{container}/{ip}` | form: `fqdn=`, `check-alive=true`; 204 |
//! | DELETE | `/name`, `/name/{container}`, `/name/{container}/{ip}` | query: `fqdn=`; what is left out stands for any; 204, also if nothing was there |
//! | GET | `/name` | JSON of all entries, but only with `Accept: application/json`; otherwise 405 |
//! | GET | `/status/dns` | text: live entries |
//!
//! An address that is none is 400. A name that is not taken, since it lies outside of the domain or
//! cannot be one, is 204 as well; the header `Warning` then says why. The body of a DELETE is not
//! read. With `--no-dns` all of them are 404.
//!
//! `check-alive` has no effect as long as the daemon knows no container runtime.
//!
//! Source: Weave nameserver protocol, section 9.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, put};
use dns::{Entry, Selection};
use serde::Serialize;

use super::{Admin, Form, bad_request, internal_error, not_found, show};
use crate::daemon::dns::{Added, NameService};
use crate::text;

pub(super) fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/domain", get(domain))
        .route("/dns-address", get(address))
        .route("/dns-address-port", get(address_port))
        .route("/name", delete(remove_all).get(list))
        .route("/name/{container}", delete(remove_container))
        .route("/name/{container}/{ip}", put(add).delete(remove_address))
}

/// `GET /status/dns`.
pub(super) async fn show_status(State(admin): State<Arc<Admin>>) -> Response {
    if admin.services.names.is_none() {
        return not_found().await;
    }
    show(State(admin), text::names).await
}

/// What a request is for, or 404 if there are no names here.
struct Served(Arc<NameService>);

impl axum::extract::FromRequestParts<Arc<Admin>> for Served {
    type Rejection = Response;

    async fn from_request_parts(
        _: &mut axum::http::request::Parts,
        admin: &Arc<Admin>,
    ) -> Result<Self, Response> {
        match &admin.services.names {
            Some(service) => Ok(Self(service.clone())),
            None => Err(not_found().await),
        }
    }
}

async fn domain(Served(service): Served) -> String {
    service.names().domain().to_string()
}

async fn address(Served(service): Served) -> Response {
    match service.address() {
        Some(address) => address.ip().to_string().into_response(),
        None => nowhere(),
    }
}

async fn address_port(Served(service): Served) -> Response {
    match service.address() {
        Some(address) => address.to_string().into_response(),
        None => nowhere(),
    }
}

fn nowhere() -> Response {
    (StatusCode::NOT_FOUND, "no queries are answered here\n").into_response()
}

async fn add(
    Served(service): Served,
    Path((container, ip)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    body: String,
) -> Response {
    let Some(form) = Form::decode(query.as_deref(), &body) else {
        return bad_request("the form cannot be read");
    };
    let Some(addr) = parse(&ip) else {
        return no_address(&ip);
    };
    let fqdn = form.value("fqdn").unwrap_or("");
    match service.names().add(fqdn, &container, addr) {
        Ok(Added::Registered) => StatusCode::NO_CONTENT.into_response(),
        Ok(Added::Foreign) => {
            let domain = service.names().domain();
            ignored(&format!("{fqdn} is ignored: it is outside of {domain}"))
        }
        Err(error) => {
            tracing::info!(container, "ignoring a name: {error}");
            ignored(&format!("the name is ignored: {error}"))
        }
    }
}

/// Done as the original does it, with a word about what was not done.
fn ignored(why: &str) -> Response {
    let why: String = why.chars().filter(|c| (' '..='~').contains(c)).collect();
    let why = why.replace('\\', "").replace('"', "'");
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("299 meshctl \"{why}\"")) {
        response.headers_mut().insert(header::WARNING, value);
    }
    response
}

async fn remove_all(Served(service): Served, RawQuery(query): RawQuery) -> Response {
    remove(&service, query.as_deref(), None, None)
}

async fn remove_container(
    Served(service): Served,
    Path(container): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    remove(&service, query.as_deref(), Some(&container), None)
}

async fn remove_address(
    Served(service): Served,
    Path((container, ip)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    match parse(&ip) {
        Some(addr) => remove(&service, query.as_deref(), Some(&container), Some(addr)),
        None => no_address(&ip),
    }
}

fn remove(
    service: &NameService,
    query: Option<&str>,
    container: Option<&str>,
    addr: Option<IpAddr>,
) -> Response {
    let Some(form) = Form::decode(query, "") else {
        return bad_request("the query cannot be read");
    };
    let qualified = form
        .value("fqdn")
        .filter(|fqdn| !fqdn.is_empty())
        .map(|fqdn| format!("{}.", fqdn.strip_suffix('.').unwrap_or(fqdn)));
    service.names().delete(&Selection {
        hostname: qualified.as_deref(),
        container,
        addr,
    });
    StatusCode::NO_CONTENT.into_response()
}

fn parse(ip: &str) -> Option<IpAddr> {
    ip.parse().ok()
}

fn no_address(ip: &str) -> Response {
    bad_request(&format!("invalid IP Address: {ip}"))
}

/// An entry as the original prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RawEntry {
    #[serde(rename = "ContainerID")]
    container_id: String,
    origin: u64,
    addr: String,
    hostname: String,
    version: i64,
    tombstone: i64,
}

impl From<Entry> for RawEntry {
    fn from(Entry { key, mark }: Entry) -> Self {
        Self {
            container_id: key.container,
            origin: key.origin.as_u64(),
            addr: key.addr.to_string(),
            hostname: key.hostname,
            version: mark.version,
            tombstone: mark.tombstone,
        }
    }
}

async fn list(Served(service): Served, headers: HeaderMap) -> Response {
    let accepts_json =
        (headers.get_all(header::ACCEPT).iter()).any(|accept| accept == "application/json");
    if !accepts_json {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let entries: Vec<RawEntry> = service
        .names()
        .entries()
        .into_iter()
        .map(Into::into)
        .collect();
    // Go has no empty list here.
    let entries = (!entries.is_empty()).then_some(entries);
    match serde_json::to_string(&entries) {
        Ok(mut json) => {
            json.push('\n');
            json.into_response()
        }
        Err(error) => internal_error(&error.to_string()),
    }
}
