//! Serves HTTP/1 on a listener, within bounds: so many connections at a time, so long for a head,
//! so long in all, not counting what a request may [wait](Patience). Whoever comes above the bound
//! waits in the kernel's queue.
//!
//! When a client goes away its request is dropped, wherever it was.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::address::Address;

/// Connections per listener.
const MAX_CONNECTIONS: usize = 1024;
/// From the first byte of a connection, or the end of the request before, to the end of the head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection of this age ends, whatever it does, unless it waits: no answer takes so long.
const MAX_AGE: Duration = Duration::from_secs(120);
/// For what is left to be done by a connection of that age after it has waited.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Pause after a failure to accept, which will not be gone at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that is listening.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket, whose file goes with it.
    Unix(UnixListener, PathBuf),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// Listens on `address`; `None` if it is off.
    pub async fn bind(address: &Address, flag: &str) -> anyhow::Result<Option<Self>> {
        if let Address::Unix(path) = address {
            return Ok(Some(Self::bind_unix(path).await?));
        }
        let Some((host, port)) = address.host_to_bind() else {
            return Ok(None);
        };
        match TcpListener::bind((host, port)).await {
            Ok(listener) => Ok(Some(Self::Tcp(listener))),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
                "{address} is in use: is meshctl or Weave Net running already? choose another \
                 address with {flag}"
            ),
            Err(error) => Err(error).with_context(|| format!("cannot serve on {address} ({flag})")),
        }
    }

    async fn bind_unix(path: &Path) -> anyhow::Result<Self> {
        // A socket that nobody listens on was left behind by a kill.
        if let Ok(metadata) = std::fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                bail!("{} is in the way: it is not a socket", path.display());
            }
            if UnixStream::connect(path).await.is_ok() {
                bail!("{} is in use: is meshctl running already?", path.display());
            }
            std::fs::remove_file(path)
                .with_context(|| format!("cannot remove the old socket {}", path.display()))?;
        }
        let bind = || -> io::Result<UnixListener> {
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = bind().with_context(|| format!("cannot serve on {}", path.display()))?;
        Ok(Self::Unix(listener, path.to_owned()))
    }

    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(..))
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Lets requests take as long as their client likes. Every request brings that of its connection
/// along as an extension.
#[derive(Debug, Clone)]
pub struct Patience(Arc<watch::Sender<usize>>);

/// While this is there, the connection does not end.
#[derive(Debug)]
pub struct Waiting(Arc<watch::Sender<usize>>);

impl Patience {
    fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// From now on the request waits for something that may be long in coming.
    pub fn wait(&self) -> Waiting {
        self.0.send_modify(|count| *count += 1);
        Waiting(self.0.clone())
    }

    /// Ends when the connection is to end.
    async fn run_out(&self) {
        sleep(MAX_AGE).await;
        let mut count = self.0.subscribe();
        while *count.borrow_and_update() > 0 {
            // The sender is here.
            let _ = count.wait_for(|count| *count == 0).await;
            sleep(LAST_WORDS).await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Serves until `end`; then requests under way are cut off.
pub async fn serve(listener: Listener, router: Router, end: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accept = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            () = end.cancelled() => return,
            accepted = accept => accepted,
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the control API");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, end) = (router.clone(), end.clone());
        tokio::spawn(async move {
            let _place = place;
            let patience = Patience::new();
            let served = async {
                match stream {
                    Stream::Tcp(stream) => serve_one(stream, router, &patience).await,
                    Stream::Unix(stream) => serve_one(stream, router, &patience).await,
                }
            };
            tokio::select! {
                () = end.cancelled() => {}
                () = patience.run_out() => {}
                () = served => {}
            }
        });
    }
}

async fn serve_one(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    patience: &Patience,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(patience.clone());
        router.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the control API ended");
    }
}
