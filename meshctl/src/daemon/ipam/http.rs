//! The calls about addresses.
//!
//! | method | path | answer |
//! |---|---|---|
//! | GET | `/ipinfo/defaultsubnet`, `/ipinfo/tracker` | text |
//! | POST | `/ip/{id}`, `/ip/{id}/{ip}/{len}` | an address, by and by; `check-alive=true` for containers |
//! | GET | `/ip/{id}`, `/ip/{id}/{ip}/{len}` | its addresses, with blanks between |
//! | GET | `/ip` | JSON: all addresses given out |
//! | PUT | `/ip/{id}/{ip}/{len}` | 204, by and by; `check-alive=true`, `noErrorOnUnknown=true` |
//! | DELETE | `/ip/{id}/{ip}`, `/ip/{id}` | 204 |
//! | GET | `/ring` | 200 as soon as there is a ring |
//! | DELETE | `/peer` | 204 when our ranges have been handed over |
//! | DELETE | `/peer/{id}` | `N IPs taken over from ID`; own: 409 if that is not safe, unless `force=true` |
//! | GET | `/peer/{id}/plan` | own: what the call above would do, text or JSON |
//!
//! What the allocator refuses is 400; what it cancels is 200 with the body `cancelled`. Without
//! allocation there are the calls about peers alone, which do nothing then.
//!
//! A request waits as long as its client does.
//!
//! Source: Weave IPAM protocol, section 13; feature inventory, section 6.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, delete, get};
use axum::{Json, Router};
use ipam::allocator::Refusal;
use ipam::range::{Address, BadAddress, Cidr};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::{Ipam, IpamError, plan};
use crate::daemon::admin::server::Patience;
use crate::daemon::admin::{Form, bad_request, internal_error};

/// Clients that may wait at a time; places for connections are left for those who only ask.
const MAX_CLIENTS: usize = 960;

/// Longest identifier, in bytes; that of a container has 64.
const MAX_IDENT_LEN: usize = 1024;

const TOO_MANY: &str = "too many requests are waiting; try again later";

/// The calls, for a daemon with or without allocation.
pub fn routes<S: Clone + Send + Sync + 'static>(ipam: Option<Ipam>) -> Router<S> {
    match ipam {
        Some(ipam) => Router::new()
            .route("/ipinfo/defaultsubnet", only_get(get(default_subnet)))
            .route("/ipinfo/tracker", only_get(get(tracker)))
            .route("/ring", only_get(get(prime)))
            .route("/ip", only_get(get(list)))
            .route(
                "/ip/{id}",
                only_get(get(lookup).post(allocate).delete(release_all)),
            )
            .route("/ip/{id}/{ip}", delete(release))
            .route(
                "/ip/{id}/{ip}/{len}",
                only_get(get(lookup_within).post(allocate_within).put(claim)),
            )
            .route("/peer", delete(shut_down))
            .route("/peer/{id}", delete(take_over))
            .route("/peer/{id}/plan", get(show_plan))
            .with_state(Service {
                ipam,
                places: Arc::new(Semaphore::new(MAX_CLIENTS)),
            }),
        None => Router::new()
            .route("/peer", delete(no_content))
            .route("/peer/{id}", delete(nothing_taken_over)),
    }
}

/// All addresses given out, as JSON.
#[derive(Serialize)]
struct Mappings<'a> {
    owned: Option<Vec<Mapping<'a>>>,
}

#[derive(Serialize)]
struct Mapping<'a> {
    #[serde(rename = "containerid")]
    container: &'a str,
    #[serde(rename = "addrs")]
    addresses: &'a [Cidr],
}

#[derive(Clone)]
struct Service {
    ipam: Ipam,
    places: Arc<Semaphore>,
}

impl Service {
    /// Waits for `answer`, if there is room for one more who waits.
    async fn wait<T>(
        &self,
        patience: Option<Extension<Patience>>,
        answer: impl Future<Output = Result<T, IpamError>>,
    ) -> Result<Result<T, IpamError>, Response> {
        let Ok(_place) = self.places.try_acquire() else {
            return Err(unavailable(TOO_MANY));
        };
        let _patience = patience.as_ref().map(|patience| patience.wait());
        Ok(answer.await)
    }
}

/// The original knows no HEAD.
fn only_get<S: Clone + Send + Sync + 'static>(methods: MethodRouter<S>) -> MethodRouter<S> {
    methods.on(MethodFilter::HEAD, method_not_allowed)
}

async fn method_not_allowed() -> StatusCode {
    StatusCode::METHOD_NOT_ALLOWED
}

async fn no_content() -> StatusCode {
    StatusCode::NO_CONTENT
}

async fn nothing_taken_over(Path(who): Path<String>) -> Response {
    text(taken_over(0, &who))
}

async fn default_subnet(State(service): State<Service>) -> Response {
    text(service.ipam.default_subnet().to_string())
}

/// The tracker is the part that keeps a cloud's routes up to date; there is none.
async fn tracker() -> Response {
    text("\n".to_owned())
}

async fn prime(
    State(service): State<Service>,
    patience: Option<Extension<Patience>>,
) -> Result<Response, Response> {
    let primed = service.wait(patience, service.ipam.prime()).await?;
    Ok(match primed {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => refused("", &error),
    })
}

async fn list(State(service): State<Service>) -> Response {
    let owned = match service.ipam.list().await {
        Ok(owned) => owned,
        Err(error) => return refused("", &error),
    };
    let owned: Vec<Mapping<'_>> = owned
        .iter()
        .map(|(ident, owned)| Mapping {
            container: ident,
            addresses: &owned.cidrs,
        })
        .collect();
    let mappings = Mappings {
        owned: Some(owned).filter(|owned| !owned.is_empty()),
    };
    match serde_json::to_string(&mappings) {
        Ok(mut body) => {
            body.push('\n');
            ([(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        Err(error) => internal_error(&error.to_string()),
    }
}

async fn lookup(State(service): State<Service>, Path(ident): Path<String>) -> Response {
    show(service.ipam.lookup(&ident, None).await)
}

async fn lookup_within(
    State(service): State<Service>,
    Path((ident, ip, len)): Path<(String, String, String)>,
) -> Response {
    match Cidr::parse_subnet(&format!("{ip}/{len}")) {
        Ok(subnet) => show(service.ipam.lookup(&ident, Some(subnet)).await),
        Err(error) => bad_address(&error),
    }
}

fn show(found: Result<Vec<Cidr>, IpamError>) -> Response {
    match found {
        Ok(cidrs) => {
            let texts: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
            text(texts.join(" "))
        }
        Err(error) => refused("", &error),
    }
}

async fn allocate(
    State(service): State<Service>,
    Path(ident): Path<String>,
    patience: Option<Extension<Patience>>,
    RawQuery(query): RawQuery,
    body: String,
) -> Result<Response, Response> {
    allocated(&service, &ident, None, patience, query.as_deref(), &body).await
}

async fn allocate_within(
    State(service): State<Service>,
    Path((ident, ip, len)): Path<(String, String, String)>,
    patience: Option<Extension<Patience>>,
    RawQuery(query): RawQuery,
    body: String,
) -> Result<Response, Response> {
    let subnet = Cidr::parse_subnet(&format!("{ip}/{len}")).map_err(|error| bad_address(&error))?;
    let query = query.as_deref();
    allocated(&service, &ident, Some(subnet), patience, query, &body).await
}

async fn allocated(
    service: &Service,
    ident: &str,
    subnet: Option<Cidr>,
    patience: Option<Extension<Patience>>,
    query: Option<&str>,
    body: &str,
) -> Result<Response, Response> {
    let is_container = Form::decode(query, body)
        .ok_or_else(bad_form)?
        .is_set("check-alive");
    check_ident(ident).map_err(bad_request)?;
    let answer = service.ipam.allocate(ident, subnet, is_container);
    Ok(match service.wait(patience, answer).await? {
        Ok(cidr) => text(cidr.to_string()),
        Err(error) => refused("", &error),
    })
}

async fn claim(
    State(service): State<Service>,
    Path((ident, ip, len)): Path<(String, String, String)>,
    patience: Option<Extension<Patience>>,
    RawQuery(query): RawQuery,
    body: String,
) -> Result<Response, Response> {
    let cidr: Cidr = format!("{ip}/{len}")
        .parse()
        .map_err(|error| bad_address(&error))?;
    let form = Form::decode(query.as_deref(), &body).ok_or_else(bad_form)?;
    check_ident(&ident).map_err(bad_request)?;
    let answer = service.ipam.claim(
        &ident,
        cidr,
        form.is_set("check-alive"),
        form.is_set("noErrorOnUnknown"),
    );
    Ok(match service.wait(patience, answer).await? {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => refused("Unable to claim: ", &error),
    })
}

async fn release(
    State(service): State<Service>,
    Path((ident, ip)): Path<(String, String)>,
) -> Response {
    let address: Address = match ip.parse() {
        Ok(address) => address,
        Err(error) => return bad_address(&error),
    };
    match service.ipam.release(&ident, address).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => refused("Unable to free: ", &error),
    }
}

async fn release_all(State(service): State<Service>, Path(ident): Path<String>) -> Response {
    match service.ipam.release_all(&ident).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => refused("", &error),
    }
}

async fn shut_down(State(service): State<Service>) -> Response {
    tracing::info!("told to hand over our ranges");
    match service.ipam.shut_down().await {
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => refused("", &error),
    }
}

async fn take_over(
    State(service): State<Service>,
    Path(who): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Response> {
    let form = Form::decode(query.as_deref(), "").ok_or_else(bad_form)?;
    let force = form.is_set("force");
    tracing::info!(who, force, "told to take over the ranges of a peer");
    Ok(match service.ipam.take_over(&who, force).await {
        Ok(count) => text(taken_over(count, &who)),
        Err(error) => refused("", &error),
    })
}

fn taken_over(count: u32, who: &str) -> String {
    format!("{count} IPs taken over from {who}\n")
}

async fn show_plan(
    State(service): State<Service>,
    Path(who): Path<String>,
    headers: HeaderMap,
) -> Response {
    let plan = plan::Plan::new(&service.ipam, who);
    let wants_json =
        (headers.get_all(header::ACCEPT).iter()).any(|accept| accept == "application/json");
    if wants_json {
        Json(plan).into_response()
    } else {
        text(plan.to_string())
    }
}

fn check_ident(ident: &str) -> Result<(), &'static str> {
    if ident.len() > MAX_IDENT_LEN {
        return Err("the identifier is too long");
    }
    Ok(())
}

fn bad_form() -> Response {
    bad_request("the form cannot be read")
}

/// Text, which has a type unless it is empty.
fn text(text: String) -> Response {
    if text.is_empty() {
        return Body::empty().into_response();
    }
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

fn bad_address(error: &BadAddress) -> Response {
    bad_request(&error.to_string())
}

fn unavailable(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

fn refused(what: &str, error: &IpamError) -> Response {
    match error {
        IpamError::Refused(Refusal::Cancelled { .. }) => {
            tracing::info!("{error}");
            text("cancelled".to_owned())
        }
        IpamError::Refused(
            Refusal::StillReachable(_) | Refusal::AlreadyTaken { .. } | Refusal::Ambiguous { .. },
        ) => (StatusCode::CONFLICT, format!("{error}\n")).into_response(),
        IpamError::Refused(Refusal::TooManyWaiting) | IpamError::Stopped => {
            unavailable(&error.to_string())
        }
        IpamError::Refused(refusal) => {
            let text = format!("{what}{refusal}");
            tracing::warn!("{text}");
            bad_request(&text)
        }
    }
}

#[cfg(test)]
mod tests;
