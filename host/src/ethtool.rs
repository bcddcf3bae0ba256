//! Offloads of network devices, switched by the ethtool ioctl.
//!
//! A veth leaves checksums to the hardware that it does not have: frames travel with a partial
//! checksum and a note to fill it in. A router that captures frames from the bridge by packet
//! socket, as the original does, never sees that note, so its containers' interfaces must compute
//! checksums themselves. A TAP device without offloads makes the kernel fill them in, and needs
//! none of this.

#![expect(unsafe_code, reason = "there is no safe form of the ethtool ioctl")]

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// `ETHTOOL_STXCSUM` of linux/ethtool.h: set whether checksums of sent packets are offloaded.
const SET_TX_CHECKSUM: u32 = 0x17;
/// `SIOCETHTOOL` of linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Makes a device of the calling thread's namespace compute the checksums of what it sends. This
/// also turns off its segmentation offloads, which need the other.
///
/// # Errors
///
/// Without the rights (`CAP_NET_ADMIN`), and when there is no such device or it cannot.
pub fn disable_tx_checksum(device: &str) -> io::Result<()> {
    let mut value = Value {
        command: SET_TX_CHECKSUM,
        data: 0,
    };
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero, as the end of the name.
    if device.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: the request has the layout that this ioctl takes; it and the value that it points to
    // outlive the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::netlink::Netlink;
    use crate::netns::tests::may_run;
    use crate::netns::{Netns, name_for};

    #[test]
    fn a_veth_takes_it_and_a_missing_device_does_not() {
        if !may_run() {
            return;
        }
        let netns = Netns::create(&name_for("ethtooltest", "1")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            Netlink::inside(netns.as_fd())
                .unwrap()
                .add_veth("a", "b")
                .await
                .unwrap();
        });
        netns.run(|| disable_tx_checksum("a")).unwrap().unwrap();
        let missing = netns.run(|| disable_tx_checksum("c")).unwrap().unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENODEV));
        let too_long = disable_tx_checksum("sixteen-letters-").unwrap_err();
        assert_eq!(too_long.kind(), io::ErrorKind::InvalidInput);
    }
}
