//! The name of this host in the mesh.
//!
//! In this order:
//! 1. what the user chose;
//! 2. the MAC address of an existing bridge: peers and containers know the host by it;
//! 3. the name stored before, unless the state has come from another machine, as it does when a
//!    virtual machine is cloned;
//! 4. a name made from the identity of the machine: the same after a loss of the state, and the
//!    same that Weave Net gives itself there;
//! 5. a random one.
//!
//! Whatever it is gets stored. Made names: SHA-256 over the text `9oBJ0Jmip-`, the machine id file
//! as read, and the BIOS or hypervisor UUID file as read; of the first 6 bytes, bit 0 of the first
//! is cleared (an individual address) and bit 1 set (local).
//!
//! Source: Weave mesh protocol, section 11; feature inventory, R21 and R22.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use dryoc::classic::crypto_hash::crypto_hash_sha256;
use host::netlink::{LinkKind, Netlink};
use proto::{MacAddr, PeerName};
use rand::TryRng as _;
use rand::rngs::SysRng;

use super::migrate::{self, WeaveDb};
use super::store::{Store, StoredIdentity};

/// Goes before everything else into the hash.
const SALT: &[u8] = b"9oBJ0Jmip-";
/// Files that identify the installation, the first that is there.
const MACHINE_ID: [&str; 2] = ["etc/machine-id", "var/lib/dbus/machine-id"];
/// Files that identify the hardware, the first that is there.
const HARDWARE_ID: [&str; 2] = ["sys/class/dmi/id/product_uuid", "sys/hypervisor/uuid"];

/// Where the name may come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// What the user chose.
    pub name: Option<PeerName>,
    /// Name of the bridge, which may or may not exist.
    pub bridge: Option<String>,
    /// Which state file of Weave Net may tell it.
    pub weave_db: WeaveDb,
    /// Where the state is.
    pub db_prefix: PathBuf,
    /// Root directory of the files that identify the machine.
    pub host_root: PathBuf,
}

/// The name, and where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The name.
    pub name: PeerName,
    /// Where it came from, in words.
    pub origin: &'static str,
}

/// Finds the name and stores it.
pub async fn determine(sources: &Sources, store: &Store) -> anyhow::Result<Identity> {
    let machine = Machine::read(&sources.host_root);
    let stored = store.identity()?;
    let bridge = bridge_mac(sources).await?;
    let identity = match choose(sources.name, bridge, stored.as_ref(), &machine) {
        Some(identity) => identity,
        None => Identity {
            name: random_name()?,
            origin: "at random, as this machine has no identity of its own",
        },
    };
    let keep = StoredIdentity {
        name: identity.name,
        machine: machine.mark(),
    };
    if stored.as_ref() != Some(&keep) {
        store.set_identity(&keep)?;
    }
    Ok(identity)
}

/// The name that a daemon launched now would have, as far as it can be told while another one may
/// hold the state.
pub async fn preview(sources: &Sources) -> anyhow::Result<PeerName> {
    let machine = Machine::read(&sources.host_root);
    let bridge = bridge_mac(sources).await?;
    if let Some(identity) = choose(sources.name, bridge, None, &machine)
        && (sources.name.is_some() || bridge.is_some())
    {
        return Ok(identity.name);
    }
    let store = Store::open(&sources.db_prefix)?;
    if let Some(name) = migrate::name_to_be(sources, &store)? {
        return Ok(name);
    }
    Ok(determine(sources, &store).await?.name)
}

/// A name that was taken over, as it is stored.
pub fn of_this_machine(sources: &Sources, name: PeerName) -> StoredIdentity {
    let machine = Machine::read(&sources.host_root).mark();
    StoredIdentity { name, machine }
}

/// The name that an existing bridge stands for, unless the user chose one.
pub async fn bridge_name(sources: &Sources) -> anyhow::Result<Option<PeerName>> {
    Ok(bridge_mac(sources).await?.map(PeerName::from))
}

/// What identifies the machine: contents of files, empty where there are none.
#[derive(Debug, Default)]
struct Machine {
    machine_id: Vec<u8>,
    hardware_id: Vec<u8>,
}

impl Machine {
    fn read(root: &Path) -> Self {
        let root = if root.as_os_str().is_empty() {
            Path::new("/")
        } else {
            root
        };
        let first = |files: [&str; 2]| {
            for file in files {
                match std::fs::read(root.join(file)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::debug!(file, %error, "cannot read the identity of the machine");
                        return Vec::new();
                    }
                    Ok(content) => return content,
                }
            }
            Vec::new()
        };
        Self {
            machine_id: first(MACHINE_ID),
            hardware_id: first(HARDWARE_ID),
        }
    }

    fn name(&self) -> Option<PeerName> {
        if self.machine_id.is_empty() && self.hardware_id.is_empty() {
            return None;
        }
        let mut digest = [0; 32];
        crypto_hash_sha256(
            &mut digest,
            &[SALT, &self.machine_id, &self.hardware_id].concat(),
        );
        Some(individual_and_local(digest.first_chunk().copied()?))
    }

    /// Tells machines apart without giving away their serial numbers.
    fn mark(&self) -> Option<String> {
        if self.hardware_id.is_empty() {
            return None;
        }
        let mut digest = [0; 32];
        crypto_hash_sha256(
            &mut digest,
            &[b"meshctl machine ", self.hardware_id.as_slice()].concat(),
        );
        Some(hex::encode(&digest[..16]))
    }
}

fn choose(
    chosen: Option<PeerName>,
    bridge: Option<MacAddr>,
    stored: Option<&StoredIdentity>,
    machine: &Machine,
) -> Option<Identity> {
    let from = |origin| move |name| Identity { name, origin };
    let cloned = |stored: &StoredIdentity| match (&stored.machine, machine.mark()) {
        (Some(then), Some(now)) => *then != now,
        _ => false,
    };
    if let Some(stored) = stored.filter(|stored| cloned(stored)) {
        tracing::warn!(
            name = %stored.name,
            "the state comes from another machine: its name is not used here"
        );
    }
    let stored = stored
        .filter(|stored| !cloned(stored))
        .map(|stored| stored.name);
    (chosen.map(from("as chosen")))
        .or(bridge.map(PeerName::from).map(from("from the bridge")))
        .or(stored.map(from("as stored")))
        .or(machine.name().map(from("from the identity of the machine")))
}

async fn bridge_mac(sources: &Sources) -> anyhow::Result<Option<MacAddr>> {
    let (None, Some(bridge)) = (sources.name, &sources.bridge) else {
        return Ok(None);
    };
    let netlink = Netlink::current().context("cannot ask the kernel for the bridge")?;
    let link = netlink.link(bridge).await?;
    Ok(link
        .filter(|link| link.kind == LinkKind::Bridge)
        .and_then(|link| link.mac))
}

fn random_name() -> anyhow::Result<PeerName> {
    let mut bytes = [0; 6];
    SysRng
        .try_fill_bytes(&mut bytes)
        .context("the kernel gives no random numbers")?;
    Ok(individual_and_local(bytes))
}

fn individual_and_local(mut bytes: [u8; 6]) -> PeerName {
    bytes[0] = bytes[0] & !1 | 2;
    PeerName::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(id: &str, hardware: &str) -> Machine {
        Machine {
            machine_id: id.into(),
            hardware_id: hardware.into(),
        }
    }

    fn name(text: &str) -> PeerName {
        text.parse().unwrap()
    }

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, content) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        root
    }

    fn sources(root: &Path) -> Sources {
        Sources {
            name: None,
            bridge: None,
            weave_db: WeaveDb::Usual,
            db_prefix: root.join("state/"),
            host_root: root.to_owned(),
        }
    }

    #[test]
    fn files_are_taken_as_they_are() {
        let both = root(&[
            ("etc/machine-id", "8b4c\n"),
            ("var/lib/dbus/machine-id", "other"),
            ("sys/class/dmi/id/product_uuid", "4C4C-4544\n"),
        ]);
        let read = Machine::read(both.path());
        assert_eq!(read.machine_id, b"8b4c\n");
        assert_eq!(read.hardware_id, b"4C4C-4544\n");
        let second = root(&[
            ("var/lib/dbus/machine-id", "other"),
            ("sys/hypervisor/uuid", "hyper"),
        ]);
        let read = Machine::read(second.path());
        assert_eq!(
            (read.machine_id, read.hardware_id),
            (b"other".into(), b"hyper".into())
        );
        let none = root(&[]);
        assert_eq!(Machine::read(none.path()).name(), None);
    }

    #[test]
    fn made_names_are_individual_and_local() {
        for id in 0..100 {
            let name = machine(&id.to_string(), "").name().unwrap();
            assert_eq!(name.to_bytes()[0] & 3, 2);
        }
    }

    #[test]
    fn the_order_of_sources() {
        let stored = StoredIdentity {
            name: name("::3"),
            machine: machine("", "here").mark(),
        };
        let here = machine("id", "here");
        let there = machine("id", "there");
        let chosen = |a, b, c, m: &Machine| choose(a, b, c, m).unwrap().name;
        let mac = Some(MacAddr([0, 0, 0, 0, 0, 2]));
        assert_eq!(
            chosen(Some(name("::1")), mac, Some(&stored), &here),
            name("::1")
        );
        assert_eq!(chosen(None, mac, Some(&stored), &here), name("::2"));
        assert_eq!(chosen(None, None, Some(&stored), &here), name("::3"));
        // A clone does not take the name of its original; a machine that cannot be told apart does.
        assert_eq!(
            chosen(None, None, Some(&stored), &there),
            there.name().unwrap()
        );
        assert_eq!(
            chosen(None, None, Some(&stored), &machine("id", "")),
            name("::3")
        );
        assert_eq!(chosen(None, None, None, &here), here.name().unwrap());
        assert_eq!(choose(None, None, None, &machine("", "")), None);
    }

    #[tokio::test]
    async fn a_random_name_stays() {
        let root = root(&[]);
        let sources = sources(root.path());
        let first = {
            let store = Store::open(&sources.db_prefix).unwrap();
            determine(&sources, &store).await.unwrap()
        };
        assert!(first.origin.starts_with("at random"));
        assert_eq!(preview(&sources).await.unwrap(), first.name);
        let store = Store::open(&sources.db_prefix).unwrap();
        let again = determine(&sources, &store).await.unwrap();
        assert_eq!((again.name, again.origin), (first.name, "as stored"));
    }

    #[tokio::test]
    async fn a_chosen_name_stays_when_it_is_no_longer_chosen() {
        let root = root(&[("etc/machine-id", "8b4c\n")]);
        let mut sources = sources(root.path());
        let store = Store::open(&sources.db_prefix).unwrap();
        sources.name = Some(name("::5"));
        assert_eq!(determine(&sources, &store).await.unwrap().name, name("::5"));
        sources.name = None;
        assert_eq!(determine(&sources, &store).await.unwrap().name, name("::5"));
    }
}
