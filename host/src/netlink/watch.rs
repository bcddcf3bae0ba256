//! Hearing of changes to network devices.

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};

use super::{Result, failed};

/// `RTMGRP_LINK` of linux/rtnetlink.h: devices that come, change or go.
const LINKS: u32 = 1;
/// What is heard is not read, so it may be cut.
const NOTICE_LEN: usize = 4096;

/// Tells that network devices of one namespace have changed, but not which: whoever wants to know
/// looks at all of them, and so misses nothing even when the kernel had to drop notices.
pub struct Watch {
    socket: TokioSocket,
    notice: Vec<u8>,
}

impl Watch {
    /// Of the calling thread's network namespace.
    pub fn current() -> Result<Self> {
        let open = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, LINKS))?;
            Ok(socket)
        };
        let socket = open().map_err(|error| failed("watch the network devices", error))?;
        Ok(Self {
            socket,
            notice: Vec::with_capacity(NOTICE_LEN),
        })
    }

    /// Waits for the next change. Cancelling it loses nothing.
    pub async fn changed(&mut self) {
        self.notice.clear();
        // An error says that notices were dropped, which is a notice itself.
        if let Err(error) = self.socket.recv(&mut self.notice).await {
            tracing::debug!(%error, "notices of network devices were dropped");
        }
    }
}
