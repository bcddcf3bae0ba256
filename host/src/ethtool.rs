//! Offloads of network devices, switched by the ethtool ioctl.
//!
//! A veth leaves checksums to the hardware that it does not have: frames travel with a partial
//! checksum and a note to fill it in. A router that captures frames from the bridge by packet
//! socket, as the original does, never sees that note, so its containers' interfaces must compute
//! checksums themselves. A TAP device without offloads makes the kernel fill them in, and needs
//! none of this.
//!
//! Benchmarks switch other offloads too, to make a virtual device more like a real one.

#![expect(unsafe_code, reason = "there is no safe form of the ethtool ioctl")]

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// `ETHTOOL_STXCSUM` of linux/ethtool.h: set whether checksums of sent packets are offloaded.
const SET_TX_CHECKSUM: u32 = 0x17;
/// `ETHTOOL_GSTRINGS`: get the names in a set.
const GET_STRINGS: u32 = 0x1b;
/// `ETHTOOL_GSSET_INFO`: get the size of a set of names.
const GET_SET_INFO: u32 = 0x37;
/// `ETHTOOL_GFEATURES`: get features, in blocks of 32 by their place in the set of names.
const GET_FEATURES: u32 = 0x3a;
/// `ETHTOOL_SFEATURES`: set features, by their place in the set of names.
const SET_FEATURES: u32 = 0x3b;
/// `ETH_SS_FEATURES`: the set of the features' names.
const FEATURE_NAMES: u32 = 4;
/// `ETH_GSTRING_LEN`: bytes of a name, padded with zeros.
const NAME_LEN: usize = 32;
/// Linux has some sixty features.
const MAX_FEATURES: usize = 1024;
/// `SIOCETHTOOL` of linux/sockios.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// Makes a device of the calling thread's namespace compute the checksums of what it sends. This
/// also turns off its segmentation offloads, which need the other.
///
/// # Errors
///
/// Without the rights (`CAP_NET_ADMIN`), and when there is no such device or it cannot.
pub fn disable_tx_checksum(device: &str) -> io::Result<()> {
    ethtool(device, &mut [SET_TX_CHECKSUM, 0])
}

/// Switches features of a device of the calling thread's namespace, by the names that `ethtool
/// --show-features` has, such as `tx-generic-segmentation`. What a device cannot switch stays as it
/// is, without an error.
///
/// # Errors
///
/// As [`disable_tx_checksum`], and when the kernel knows no feature of that name.
pub fn set_features(device: &str, features: &[(&str, bool)]) -> io::Result<()> {
    let names = feature_names(device)?;
    // Of each block of 32 features: which to change, and what to.
    let mut blocks = vec![[0u32; 2]; names.len().div_ceil(32)];
    for (name, on) in features {
        let index = feature_index(&names, name)?;
        let [change, value] = &mut blocks[index / 32];
        *change |= 1 << (index % 32);
        *value |= u32::from(*on) << (index % 32);
    }
    let count = u32::try_from(blocks.len()).map_err(io::Error::other)?;
    let mut request = vec![SET_FEATURES, count];
    request.extend(blocks.as_flattened());
    ethtool(device, &mut request)
}

/// Whether a feature of a device of the calling thread's namespace is on.
///
/// # Errors
///
/// When there is no such device, or the kernel knows no feature of that name.
pub fn feature(device: &str, name: &str) -> io::Result<bool> {
    let names = feature_names(device)?;
    let index = feature_index(&names, name)?;
    // Of each block: available, requested, active, never changed.
    let count = names.len().div_ceil(32);
    let mut request = vec![0; 2 + 4 * count];
    request[..2].copy_from_slice(&[
        GET_FEATURES,
        u32::try_from(count).map_err(io::Error::other)?,
    ]);
    ethtool(device, &mut request)?;
    let active = request[2 + 4 * (index / 32) + 2];
    Ok(active & 1 << (index % 32) != 0)
}

fn feature_index(names: &[Vec<u8>], name: &str) -> io::Result<usize> {
    let index = names.iter().position(|known| known == name.as_bytes());
    index.ok_or_else(|| {
        let message = format!("the kernel has no feature {name}");
        io::Error::new(io::ErrorKind::NotFound, message)
    })
}

/// Names of all features, in the kernel's order.
fn feature_names(device: &str) -> io::Result<Vec<Vec<u8>>> {
    // Command, nothing, mask of sets, and one size.
    let [mask_low, mask_high] = if cfg!(target_endian = "little") {
        [1 << FEATURE_NAMES, 0]
    } else {
        [0, 1 << FEATURE_NAMES]
    };
    let mut info = [GET_SET_INFO, 0, mask_low, mask_high, 0];
    ethtool(device, &mut info)?;
    let count = usize::try_from(info[4]).map_err(io::Error::other)?;
    if count > MAX_FEATURES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Command, set, number of names, names.
    let mut strings = vec![0; 3 + count * NAME_LEN / size_of::<u32>()];
    strings[..3].copy_from_slice(&[GET_STRINGS, FEATURE_NAMES, info[4]]);
    ethtool(device, &mut strings)?;
    let bytes: Vec<u8> = strings[3..]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let trimmed = |name: &[u8]| name.split(|byte| *byte == 0).next().map(<[u8]>::to_vec);
    Ok(bytes.chunks(NAME_LEN).filter_map(trimmed).collect())
}

/// Gives `request`, which starts with a command, to the kernel, which may write its answer there.
/// Every command used here takes no more room than its request says.
fn ethtool(device: &str, request: &mut [u32]) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid ifreq.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte stays zero, as the end of the name.
    if device.len() >= ifreq.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in ifreq.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed();
    }
    ifreq.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: the ifreq has the layout that this ioctl takes; it and the request that it points to
    // outlive the call, and the callers in this module give each command as many words as it reads
    // and writes.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) };
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
    fn features_are_switched_by_name() {
        if !may_run() {
            return;
        }
        let netns = Netns::create(&name_for("ethtooltest", "2")).unwrap();
        netns
            .run(|| {
                let names = feature_names("lo").unwrap();
                assert!(names.iter().any(|name| name == b"tx-udp-segmentation"));
                let off = [("tx-generic-segmentation", false), ("rx-gro", true)];
                set_features("lo", &off).unwrap();
                assert!(!feature("lo", "tx-generic-segmentation").unwrap());
                assert!(feature("lo", "rx-gro").unwrap());
                set_features("lo", &[("tx-generic-segmentation", true)]).unwrap();
                assert!(feature("lo", "tx-generic-segmentation").unwrap());
                let unknown = set_features("lo", &[("no-such-feature", true)]).unwrap_err();
                assert_eq!(unknown.kind(), io::ErrorKind::NotFound);
            })
            .unwrap();
    }

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
