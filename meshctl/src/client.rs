//! The client of the control API: one request per connection, over TCP or a Unix socket.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::address::Address;
use crate::cli::{Exit, Failure};
use crate::form;
use crate::report::Report;

/// As long as the original waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The daemon answers within milliseconds; this is for one that hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// No answer is longer; a report about a thousand peers, each connected to all, has about 200 MB.
const MAX_BODY: usize = 512 << 20;

/// Calls one daemon.
#[derive(Debug, Clone)]
pub struct Client {
    address: Address,
    /// How long an answer may take; `None`: as long as it takes.
    patience: Option<Duration>,
}

/// What the daemon answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body, if it is text.
    pub body: String,
    /// What was done, but perhaps not as meant: the text of the header `Warning`.
    pub warning: Option<String>,
}

/// The daemon did not answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody listens there.
    #[error("no daemon answers on {0}")]
    NotRunning(String, #[source] std::io::Error),
    /// It does listen, but something else went wrong.
    #[error("the daemon on {0} did not answer: {1}")]
    Failed(String, String),
}

impl From<NoAnswer> for Failure {
    fn from(error: NoAnswer) -> Self {
        match &error {
            NoAnswer::NotRunning(_, source) => {
                let denied = source.kind() == std::io::ErrorKind::PermissionDenied;
                let hint = if denied {
                    "the socket belongs to root: try again with sudo"
                } else {
                    "start it with \"meshctl launch\", or name its address with --http-addr or \
                     WEAVE_HTTP_ADDR"
                };
                Self::new(Exit::NotRunning, error.to_string()).hint(hint)
            }
            NoAnswer::Failed(..) => Self::new(Exit::NotRunning, error.to_string()),
        }
    }
}

impl Client {
    /// A client of the daemon that serves on `address`.
    pub fn new(address: &Address) -> Self {
        Self {
            address: address.clone(),
            patience: Some(ANSWER_TIMEOUT),
        }
    }

    /// The same for calls that the daemon answers only when it can: it waits for as long as that
    /// takes, or until the user has had enough.
    #[must_use]
    pub fn patient(self) -> Self {
        Self {
            patience: None,
            ..self
        }
    }

    /// One request; `accept` goes into the header, `form` into the body of a POST and the query of
    /// anything else.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        accept: Option<&str>,
        form: &[(&str, &str)],
    ) -> Result<Answer, NoAnswer> {
        let refused = |error| NoAnswer::NotRunning(self.address.to_string(), error);
        let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
        match (&self.address, self.address.host_to_call()) {
            (Address::Unix(socket), _) => {
                let stream = timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await;
                let stream = stream.map_err(|_| refused(late()))?.map_err(refused)?;
                self.exchange(stream, method, path, accept, form).await
            }
            (_, Some(target)) => {
                let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await;
                let stream = stream.map_err(|_| refused(late()))?.map_err(refused)?;
                self.exchange(stream, method, path, accept, form).await
            }
            _ => {
                let error = "the address is empty".to_owned();
                Err(NoAnswer::Failed(self.address.to_string(), error))
            }
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        method: Method,
        path: &str,
        accept: Option<&str>,
        form: &[(&str, &str)],
    ) -> Result<Answer, NoAnswer> {
        let failed = |error: String| NoAnswer::Failed(self.address.to_string(), error);
        let host = match &self.address {
            Address::Tcp { .. } => self.address.to_string(),
            _ => "localhost".to_owned(),
        };
        let form = form::encode(form);
        let post = method == Method::POST;
        let path = match form.as_str() {
            "" => path.to_owned(),
            _ if post => path.to_owned(),
            query => format!("{path}?{query}"),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host);
        if post {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        if let Some(accept) = accept {
            request = request.header(header::ACCEPT, accept);
        }
        let body = if post { form } else { String::new() };
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| failed(error.to_string()))?;
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let warning = response.headers().get(header::WARNING).and_then(warning);
            let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
            connection.abort();
            Ok::<_, hyper::Error>((status, warning, body))
        };
        let answer = match self.patience {
            Some(patience) => timeout(patience, exchange)
                .await
                .map_err(|_| failed(format!("nothing came for {} s", patience.as_secs())))?,
            None => exchange.await,
        };
        let (status, warning, body) = answer.map_err(|error| failed(error.to_string()))?;
        let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
        Ok(Answer {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
            warning,
        })
    }

    /// The text behind `path`. What is not a success is a failure with the exit code of its kind.
    pub async fn text(&self, path: &str, query: &[(&str, &str)]) -> Result<String, Failure> {
        self.call(Method::GET, path, None, query).await?.text(path)
    }

    /// Sends a form.
    pub async fn post(&self, path: &str, form: &[(&str, &str)]) -> Result<String, Failure> {
        self.call(Method::POST, path, None, form).await?.text(path)
    }

    /// The report, as JSON text.
    pub async fn report_json(&self) -> Result<String, Failure> {
        let accept = Some("application/json");
        self.call(Method::GET, "/report", accept, &[])
            .await?
            .text("/report")
    }

    /// The report.
    pub async fn report(&self) -> Result<Report, Failure> {
        let json = self.report_json().await?;
        Report::from_json(&json).map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("the daemon's report cannot be read: {error}"),
            )
            .hint("is it a meshctl of another version? compare with \"meshctl version\"")
        })
    }
}

/// The text of a warning as RFC 7234, section 5.5 writes it: code, agent, and a quoted text.
fn warning(value: &header::HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    let (_, quoted) = text.split_once('"')?;
    Some(quoted.strip_suffix('"')?.to_owned())
}

impl Answer {
    /// The body. What is not a success is a failure with the exit code of its kind.
    pub fn text(self, path: &str) -> Result<String, Failure> {
        match self.status {
            200..=299 => Ok(self.body),
            404 => Err(Failure::new(
                Exit::NotServed,
                format!("the daemon does not serve {path}"),
            )),
            _ => {
                let body = self.body.trim_end();
                let message = if body.is_empty() {
                    format!("the daemon answered {path} with status {}", self.status)
                } else {
                    body.to_owned()
                };
                Err(Failure::new(Exit::Failed, message))
            }
        }
    }
}
