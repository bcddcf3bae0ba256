//! `ipam`: addresses by hand.
//!
//! What is piped is what the daemon answers, which is what the original's scripts read.

mod plan;

use std::io::Write as _;

use clap::Subcommand;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Exit, Failure, Global, output};
use crate::client::Client;
use crate::daemon::BRIDGE;
use crate::form;
use crate::host_routes;
use crate::text::printable;

/// The parts of `ipam`.
#[derive(Debug, clap::Args)]
pub struct IpamArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Give an identifier an address, or tell the one that it has; waits until there is one
    Allocate(Allocate),
    /// Give an identifier these addresses; waits until it is settled whose they are
    Claim(Claim),
    /// Take addresses back from an identifier: those named, or all
    Release(Release),
    /// Show the addresses of an identifier
    Lookup(Lookup),
    /// Show all addresses that this host has given out
    List,
    /// Show the subnet that addresses come from if none is asked for
    DefaultSubnet,
    /// Show what something would do, without doing it
    Plan {
        #[command(subcommand)]
        verb: plan::Verb,
    },
}

#[derive(Debug, clap::Args)]
struct Allocate {
    /// Who it is for: the id of a container, or any other text; "_" for nobody in particular
    #[arg(value_name = "ID")]
    id: String,
    /// From this subnet: net:CIDR or CIDR [default: the default subnet]
    #[arg(value_name = "SUBNET")]
    subnet: Option<String>,
    /// The identifier is that of a container, whose death frees the address
    #[arg(long)]
    check_alive: bool,
}

#[derive(Debug, clap::Args)]
struct Claim {
    /// Who they are for
    #[arg(value_name = "ID")]
    id: String,
    /// Addresses, each with the length of its subnet's prefix: CIDR or ip:CIDR
    #[arg(value_name = "CIDR", required = true)]
    addresses: Vec<String>,
    /// The identifier is that of a container, whose death frees the addresses
    #[arg(long)]
    check_alive: bool,
    /// Do not wait for the owner of an address that cannot be asked now
    #[arg(long)]
    no_error_on_unknown: bool,
}

#[derive(Debug, clap::Args)]
struct Release {
    /// Who has them
    #[arg(value_name = "ID")]
    id: String,
    /// Addresses, with or without prefix length [default: all]
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct Lookup {
    /// Who may have some
    #[arg(value_name = "ID")]
    id: String,
    /// Only those in this subnet
    #[arg(value_name = "SUBNET")]
    subnet: Option<String>,
}

/// One call, whose answer is a text.
pub async fn call(
    client: &Client,
    method: Method,
    path: &str,
    query: &[(&str, &str)],
) -> Result<String, Failure> {
    let answer = client.call(method, path, None, query).await?;
    if answer.status == 404 {
        return Err(off());
    }
    answer.text(path)
}

/// The daemon allocates no addresses.
pub fn off() -> Failure {
    Failure::new(
        Exit::NotServed,
        "the daemon allocates no addresses: its --ipalloc-range is empty",
    )
    .hint("launch it with --ipalloc-range CIDR, the same on all hosts")
}

impl IpamArgs {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client();
        match self.what {
            What::Allocate(allocate) => allocate.run(global, &client.patient()).await,
            What::Claim(claim) => claim.run(global, &client.patient()).await,
            What::Release(release) => release.run(global, &client).await,
            What::Lookup(lookup) => lookup.run(global, &client).await,
            What::List => list(global, &client).await,
            What::DefaultSubnet => {
                let subnet = call(&client, Method::GET, "/ipinfo/defaultsubnet", &[]).await?;
                if global.json {
                    return output::print_json(&json!({"subnet": subnet}));
                }
                output::print(&format!("{subnet}\n"))
            }
            What::Plan { verb } => verb.run(global, &client).await,
        }
    }
}

/// The text after `prefix`, if it has that, which must be an address with a prefix length: no more
/// than two elements of a path.
fn cidr<'t>(text: &'t str, prefix: &str) -> Result<&'t str, Failure> {
    let text = text.strip_prefix(prefix).unwrap_or(text);
    let parsed = text.parse::<ipam::range::Cidr>();
    parsed.map_err(|error| {
        Failure::usage(error).hint("write an address with prefix length, as in 10.32.1.0/24")
    })?;
    Ok(text)
}

/// The flags that are set.
fn flags<'n>(all: &[(&'n str, bool)]) -> Vec<(&'n str, &'static str)> {
    let set = all.iter().filter(|(_, set)| *set);
    set.map(|(name, _)| (*name, "true")).collect()
}

fn cancelled() -> Failure {
    Failure::new(
        Exit::Failed,
        "cancelled: the container has ended, or the host is handing its addresses over",
    )
}

impl Allocate {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let mut path = format!("/ip/{}", form::segment(&self.id));
        match self.subnet.as_deref() {
            None | Some("net:default") => {}
            Some(subnet) => path = format!("{path}/{}", cidr(subnet, "net:")?),
        }
        let form = flags(&[("check-alive", self.check_alive)]);
        let address = call(client, Method::POST, &path, &form).await?;
        if address == "cancelled" {
            return Err(cancelled());
        }
        if global.json {
            return output::print_json(&json!({"id": self.id, "address": address}));
        }
        output::print(&format!("{address}\n"))
    }
}

impl Claim {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let flags = flags(&[
            ("check-alive", self.check_alive),
            ("noErrorOnUnknown", self.no_error_on_unknown),
        ]);
        // None is claimed if one of them makes no sense.
        let addresses = self.addresses.iter().map(|address| cidr(address, "ip:"));
        let addresses: Vec<_> = addresses.collect::<Result<_, _>>()?;
        for address in &addresses {
            warn_of_conflicts(global, address).await;
            let path = format!("/ip/{}/{address}", form::segment(&self.id));
            if call(client, Method::PUT, &path, &flags).await? == "cancelled" {
                return Err(cancelled());
            }
        }
        if global.json {
            output::print_json(&json!({"id": self.id, "addresses": addresses}))?;
        }
        Ok(())
    }
}

/// Tells if an address is in the way of the host's own networks, as far as that can be found out.
async fn warn_of_conflicts(global: &Global, address: &str) {
    let Ok(cidr) = address.parse() else { return };
    let bridge = global.client().report().await;
    let bridge = bridge.map(|report| report.meshctl.bridge);
    let bridge = bridge.unwrap_or_else(|_| BRIDGE.to_owned());
    let Ok(conflicts) = host_routes::conflicts(Some(&bridge), cidr).await else {
        return;
    };
    if !conflicts.is_empty() {
        let conflicts = conflicts.join(", ");
        let warning = format!("warning: {address} overlaps with {conflicts} on this host");
        let _ = writeln!(anstream::stderr().lock(), "{warning}");
    }
}

impl Release {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let path = format!("/ip/{}", form::segment(&self.id));
        let mut addresses = Vec::new();
        for text in &self.addresses {
            let address = text
                .split_once('/')
                .map_or(text.as_str(), |(address, _)| address);
            let parsed = address.parse::<ipam::range::Address>();
            addresses.push(parsed.map_err(Failure::usage)?);
        }
        if addresses.is_empty() {
            call(client, Method::DELETE, &path, &[]).await?;
        }
        for address in &addresses {
            call(client, Method::DELETE, &format!("{path}/{address}"), &[]).await?;
        }
        if global.json {
            output::print_json(&json!({"id": self.id, "released": true}))?;
        }
        Ok(())
    }
}

impl Lookup {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Failure> {
        let mut path = format!("/ip/{}", form::segment(&self.id));
        if let Some(subnet) = &self.subnet {
            path = format!("{path}/{}", cidr(subnet, "net:")?);
        }
        let found = call(client, Method::GET, &path, &[]).await?;
        let addresses: Vec<_> = found.split_whitespace().collect();
        if global.json {
            return output::print_json(&json!({"id": self.id, "addresses": addresses}));
        }
        if addresses.is_empty() {
            return Ok(());
        }
        output::print(&format!("{}\n", addresses.join(" ")))
    }
}

/// What `GET /ip` answers.
#[derive(Debug, Deserialize)]
struct Listing {
    owned: Option<Vec<Owner>>,
}

#[derive(Debug, Deserialize)]
struct Owner {
    containerid: String,
    addrs: Vec<String>,
}

async fn list(global: &Global, client: &Client) -> Result<(), Failure> {
    let text = call(client, Method::GET, "/ip", &[]).await?;
    let listing: Listing = serde_json::from_str(&text)?;
    let owners = listing.owned.unwrap_or_default();
    if global.json {
        let owners = owners.iter();
        let owners = owners.map(|owner| json!({"id": owner.containerid, "addresses": owner.addrs}));
        return output::print_json(&owners.collect::<Value>());
    }
    if output::on_terminal() {
        let mut table = output::table(&["ID", "ADDRESSES"]);
        for owner in &owners {
            table.add_row([&*printable(&owner.containerid), &owner.addrs.join(" ")]);
        }
        return output::print(&format!("{table}\n"));
    }
    let lines = owners.iter();
    let lines = lines.map(|owner| {
        format!(
            "{} {}\n",
            printable(&owner.containerid),
            owner.addrs.join(" ")
        )
    });
    output::print(&lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_two_elements_of_a_path() {
        assert_eq!(cidr("net:10.32.0.0/12", "net:").unwrap(), "10.32.0.0/12");
        assert_eq!(cidr("10.32.0.1/12", "ip:").unwrap(), "10.32.0.1/12");
        for bad in [
            "10.32.0.1",
            "10.32.0.1/33",
            "../../peer/12",
            "ip:10.0.0.1/8",
            "",
        ] {
            assert!(cidr(bad, "net:").is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_given_out_is_null() {
        let listing: Listing = serde_json::from_str(r#"{"owned":null}"#).unwrap();
        assert!(listing.owned.is_none());
    }
}
