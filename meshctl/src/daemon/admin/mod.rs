//! The control API: Weave Net 2.8.1's, as far as the router is concerned, and `/stop`.
//!
//! | method | path | answer |
//! |---|---|---|
//! | GET | `/status`, `/status/{targets,connections,peers,ipam}` | text; 503 while not ready |
//! | GET | `/report` | JSON, or a template: `?format=` |
//! | GET | `/metrics` | OpenMetrics |
//! | POST | `/connect` | form: `peer=`..., `replace=true`; 400 with one line per bad peer, the good ones are added |
//! | POST | `/forget` | form: `peer=`... |
//! | POST | `/stop` | own: ends the daemon; `reset=true` removes bridge and state as well |
//! | | `/domain`, `/dns-address*`, `/name*`, `/status/dns` | see [`names`] |
//!
//! The calls about addresses are those of [`ipam::http`].
//!
//! An unknown path is 404, a known one with another method 405, a form that cannot be read 400.
//! [`guard`] keeps web pages out, [`server`] bounds what a client may cost.
//!
//! Source: feature inventory, section 6.

pub mod guard;
mod names;
pub mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::control::{Control, NoRouter, Refusal};
use super::dns::NameService;
use super::ipam::{self, Ipam};
use super::{metrics, template};
use crate::cli::to_json;
use crate::form;
use crate::report::{Facts, Report};
use crate::text;

/// Longest body of a request: thousands of peers.
const MAX_BODY: usize = 256 * 1024;
/// The router answers within milliseconds. One that needs longer is not ready.
const ROUTER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the daemon is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Somebody asked for it.
    Stop,
    /// Somebody asked for it, and to remove bridge and state.
    Reset,
}

/// What the daemon serves besides the mesh; `None`: it is off.
#[derive(Debug, Clone, Default)]
pub struct Services {
    /// Address allocation.
    pub ipam: Option<Ipam>,
    /// Names of containers.
    pub names: Option<Arc<NameService>>,
}

/// What all requests share.
pub struct Admin {
    control: Arc<dyn Control>,
    services: Services,
    facts: Facts,
    ready: AtomicBool,
    stop: mpsc::Sender<Stop>,
}

impl Admin {
    /// `facts` without readiness, which is [`set_ready`](Self::set_ready)'s to tell.
    pub fn new(
        control: Arc<dyn Control>,
        services: Services,
        facts: Facts,
        stop: mpsc::Sender<Stop>,
    ) -> Arc<Self> {
        Arc::new(Self {
            control,
            services,
            facts,
            ready: AtomicBool::new(false),
            stop,
        })
    }

    /// Everything is up, or no longer.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// The report of this moment.
    pub async fn report(&self) -> Result<Report, NoRouter> {
        let facts = Facts {
            ready: self.ready.load(Ordering::Relaxed),
            ..self.facts.clone()
        };
        let status = self.router(self.control.status()).await?;
        let mut ipam = self.services.ipam.as_ref().map(Ipam::status);
        if let Some(ipam) = &mut ipam {
            // The mesh knows the nicknames of those who have not gossiped of addresses yet.
            let peers = &status.mesh.peers;
            ipam.name_owners(|owner| {
                let peer = peers.iter().find(|peer| peer.name == owner)?;
                Some(peer.nickname.clone())
            });
        }
        let mut report = Report {
            ipam,
            ..Report::new(&facts, &status, SystemTime::now())
        };
        if let Some(names) = &self.services.names {
            names.report(&mut report);
        }
        Ok(report)
    }

    async fn metrics(&self) -> Result<String, NoRouter> {
        let status = self.router(self.control.status()).await?;
        let ipam = self.services.ipam.as_ref().map(Ipam::status);
        let names = self.services.names.as_deref();
        Ok(metrics::encode(
            &status,
            ipam.as_ref(),
            names,
            &self.facts.version,
        ))
    }

    async fn router<T, E: From<NoRouter>>(
        &self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        timeout(ROUTER_TIMEOUT, answer)
            .await
            .unwrap_or(Err(NoRouter.into()))
    }
}

/// The whole API.
pub fn control(admin: Arc<Admin>, guard: guard::Guard) -> Router {
    status_routes()
        .merge(metrics_routes())
        .merge(ipam::http::routes(admin.services.ipam.clone()))
        .route("/connect", post(connect))
        .route("/forget", post(forget))
        .route("/stop", post(stop))
        .merge(names::routes())
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .layer(middleware::map_response(plainly))
        .with_state(admin)
}

/// What changes nothing.
pub fn status(admin: Arc<Admin>) -> Router {
    status_routes()
        .merge(metrics_routes())
        .fallback(not_found)
        .layer(middleware::map_response(plainly))
        .with_state(admin)
}

/// Metrics alone.
pub fn metrics(admin: Arc<Admin>) -> Router {
    metrics_routes()
        .fallback(not_found)
        .layer(middleware::map_response(plainly))
        .with_state(admin)
}

/// Keeps a browser from taking text in which peers have a say for something else.
async fn plainly(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn status_routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/status", get(|state| show(state, text::status)))
        .route("/status/targets", get(|state| show(state, text::targets)))
        .route(
            "/status/connections",
            get(|state| show(state, text::connections)),
        )
        .route("/status/peers", get(|state| show(state, text::peers)))
        .route("/status/ipam", get(show_ipam))
        .route("/status/dns", get(names::show_status))
        .route("/report", get(report))
}

fn metrics_routes() -> Router<Arc<Admin>> {
    Router::new().route("/metrics", get(show_metrics))
}

async fn show(State(admin): State<Arc<Admin>>, text: fn(&Report) -> String) -> Response {
    match admin.report().await {
        Ok(report) if report.ready => text(&report).into_response(),
        Ok(report) => (StatusCode::SERVICE_UNAVAILABLE, text(&report)).into_response(),
        Err(error) => error.into_response(),
    }
}

/// As in the original, which fails to fill in its template if there is no allocation.
async fn show_ipam(State(admin): State<Arc<Admin>>) -> Response {
    let report = match admin.report().await {
        Ok(report) => report,
        Err(error) => return error.into_response(),
    };
    match &report.ipam {
        Some(ipam) if report.ready => text::ipam(ipam).into_response(),
        Some(ipam) => (StatusCode::SERVICE_UNAVAILABLE, text::ipam(ipam)).into_response(),
        None => internal_error("error during template execution"),
    }
}

async fn report(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let wants_json =
        (headers.get_all(header::ACCEPT).iter()).any(|accept| accept == "application/json");
    let template = if wants_json {
        None
    } else {
        let pairs = query.as_deref().and_then(form::decode).unwrap_or_default();
        let mut formats = pairs.into_iter().filter(|(name, _)| name == "format");
        let (Some((_, format)), None) = (formats.next(), formats.next()) else {
            return bad_request("error: must supply one format parameter");
        };
        match template::Template::parse(&format) {
            Ok(template) => Some(template),
            Err(error) => return bad_request(&error.to_string()),
        }
    };
    let report = match admin.report().await {
        Ok(report) => report,
        Err(error) => return error.into_response(),
    };
    let Some(template) = template else {
        return match to_json(&report) {
            Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
            Err(error) => internal_error(&error.to_string()),
        };
    };
    let value = match serde_json::to_value(&report) {
        Ok(value) => value,
        Err(error) => return internal_error(&error.to_string()),
    };
    match template.render(&value) {
        Ok(text) => text.into_response(),
        Err(error) => {
            tracing::debug!(%error, "a template for the report failed");
            internal_error("error during template execution")
        }
    }
}

async fn show_metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics().await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => error.into_response(),
    }
}

async fn connect(
    State(admin): State<Arc<Admin>>,
    RawQuery(query): RawQuery,
    body: String,
) -> Response {
    let Some(form) = Form::decode(query.as_deref(), &body) else {
        return bad_request("the form cannot be read");
    };
    let replace = form.value("replace") == Some("true");
    let peers = form.values("peer");
    tracing::info!(?peers, replace, "told to connect");
    answer(admin.router(admin.control.connect(peers, replace)).await)
}

async fn forget(
    State(admin): State<Arc<Admin>>,
    RawQuery(query): RawQuery,
    body: String,
) -> Response {
    let Some(form) = Form::decode(query.as_deref(), &body) else {
        return bad_request("the form cannot be read");
    };
    let peers = form.values("peer");
    tracing::info!(?peers, "told to forget");
    answer(admin.router(admin.control.forget(peers)).await)
}

async fn stop(
    State(admin): State<Arc<Admin>>,
    RawQuery(query): RawQuery,
    body: String,
) -> Response {
    let Some(form) = Form::decode(query.as_deref(), &body) else {
        return bad_request("the form cannot be read");
    };
    let stop = match form.value("reset") {
        Some("true") => Stop::Reset,
        _ => Stop::Stop,
    };
    tracing::info!(
        "told to {}",
        if stop == Stop::Reset { "reset" } else { "stop" }
    );
    // A full queue means that we are stopping already.
    let _ = admin.stop.try_send(stop);
    axum::Json(json!({"pid": admin.facts.pid})).into_response()
}

/// Fields of a form: those of the body come before those of the query, as in Go.
pub struct Form(Vec<(String, String)>);

impl Form {
    /// `None` if one of them cannot be read.
    pub fn decode(query: Option<&str>, body: &str) -> Option<Self> {
        let mut pairs = form::decode(body)?;
        pairs.extend(form::decode(query.unwrap_or(""))?);
        Some(Self(pairs))
    }

    /// Whether a switch is on.
    pub fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }

    fn value(&self, name: &str) -> Option<&str> {
        (self.0.iter())
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
    }

    fn values(&self, name: &str) -> Vec<String> {
        let with = self.0.iter().filter(|(own, _)| own == name);
        with.map(|(_, value)| value.clone()).collect()
    }
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

fn answer(result: Result<(), Refusal>) -> Response {
    match result {
        Ok(()) => StatusCode::OK.into_response(),
        Err(Refusal::NoRouter(error)) => error.into_response(),
        Err(error) => bad_request(&error.to_string()),
    }
}

/// A 400 that says why.
pub fn bad_request(text: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response()
}

/// A 500 that says why.
pub fn internal_error(text: &str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{text}\n")).into_response()
}

impl IntoResponse for NoRouter {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{self}\n")).into_response()
    }
}

#[cfg(test)]
mod tests;
