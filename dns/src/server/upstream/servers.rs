//! The list of servers upstream, from a file that may change at any time.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;
use crate::resolv;

/// The file is looked at that often, when there are queries.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// More of it is not read. A real one has some lines.
const MAX_FILE_LEN: u64 = 64 << 10;

/// The servers that a file names.
pub(super) struct Servers {
    file: Option<PathBuf>,
    ours: Vec<SocketAddr>,
    port: u16,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    looked_at: Option<Instant>,
    version: Option<Version>,
    servers: Vec<IpAddr>,
}

/// By which a changed file is told: another file, or another time or length.
#[derive(PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Servers {
    pub(super) fn new(file: Option<PathBuf>, ours: Vec<SocketAddr>, port: u16) -> Self {
        Self {
            file,
            ours,
            port,
            seen: Mutex::default(),
        }
    }

    /// The servers as of now, or of a second ago.
    pub(super) fn current(&self) -> Vec<IpAddr> {
        let Some(file) = &self.file else {
            return Vec::new();
        };
        let mut seen = lock(&self.seen);
        if seen
            .looked_at
            .is_some_and(|looked_at| looked_at.elapsed() < LOOK_INTERVAL)
        {
            return seen.servers.clone();
        }
        seen.looked_at = Some(Instant::now());
        let version = version_of(file);
        if version.is_some() && version != seen.version {
            match read(file) {
                Ok(text) => {
                    let mut servers = resolv::parse(&text);
                    servers.retain(|server| !self.is_ours(*server));
                    if servers != seen.servers {
                        tracing::info!(?servers, file = %file.display(), "DNS servers upstream");
                    }
                    seen.servers = servers;
                    seen.version = version;
                }
                // What was known still holds; a file is away for a moment when it is replaced.
                Err(error) => {
                    tracing::debug!(%error, file = %file.display(), "cannot read DNS servers");
                }
            }
        }
        seen.servers.clone()
    }

    /// Whether who asks this server asks us.
    fn is_ours(&self, server: IpAddr) -> bool {
        self.ours.iter().any(|ours| {
            let all = ours.ip().is_unspecified() && ours.is_ipv4() == server.is_ipv4();
            ours.port() == self.port && (ours.ip() == server || (all && is_local(server)))
        })
    }
}

/// Whether an address is one of this host: then, and only then, can it be bound to.
fn is_local(addr: IpAddr) -> bool {
    UdpSocket::bind((addr, 0)).is_ok()
}

fn version_of(file: &Path) -> Option<Version> {
    let metadata = fs::metadata(file).ok()?;
    // Opening a pipe would wait for somebody to write.
    metadata.is_file().then(|| Version {
        device: metadata.dev(),
        inode: metadata.ino(),
        len: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

fn read(file: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(file)?
        .take(MAX_FILE_LEN)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
