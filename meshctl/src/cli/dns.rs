//! `dns-add`, `dns-remove`, `dns-lookup`, `dns-args`: names of containers.
//!
//! The words are those of Weave's script. What it learnt from Docker has to be said here: the full
//! name of a container, and its addresses unless they were allocated by the daemon.

use std::net::{IpAddr, SocketAddr};

use clap::ArgAction;
use hyper::Method;
use serde_json::json;

use super::{Exit, Failure, Global, output};
use crate::client::{Answer, Client};
use crate::resolve;

/// Names that belong to no container are entered under this one.
const EXTERN: &str = "weave:extern";

/// Flags of `dns-add` and `dns-remove`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct NameArgs {
    /// Addresses, then the container; without a container -h is needed
    #[arg(value_name = "ADDRESS... | [ADDRESS...] CONTAINER", required = true)]
    words: Vec<String>,
    /// Full name
    #[arg(short = 'h', long, value_name = "FQDN")]
    fqdn: Option<String>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Flags of `dns-lookup`.
#[derive(Debug, clap::Args)]
pub struct LookupArgs {
    /// Name; one without dots lies in the domain
    name: String,
}

/// What `dns-add` and `dns-remove` are about.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    addresses: Vec<IpAddr>,
    container: Option<String>,
    fqdn: Option<String>,
}

impl NameArgs {
    fn target(self) -> Result<Target, Failure> {
        let mut addresses = Vec::new();
        let mut words = self.words.into_iter();
        let mut container = None;
        for word in words.by_ref() {
            let address = word.split('/').next().unwrap_or_default();
            match address.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => {
                    container = Some(word);
                    break;
                }
            }
        }
        if let Some(more) = words.next() {
            let container = container.unwrap_or_default();
            return Err(Failure::usage(format!(
                "{more:?} is one word too many: {container:?} was taken for the container"
            ))
            .hint("addresses come first, a name behind -h"));
        }
        let fqdn = self.fqdn.filter(|fqdn| !fqdn.is_empty());
        if container.is_none() && fqdn.is_none() {
            return Err(Failure::usage(
                "without a container the name has to be given: -h NAME",
            ));
        }
        Ok(Target {
            addresses,
            container,
            fqdn,
        })
    }

    pub(super) async fn add(self, global: &Global) -> Result<(), Failure> {
        let mut target = self.target()?;
        let client = global.client();
        let container = target.container.as_deref().unwrap_or(EXTERN);
        let Some(fqdn) = &target.fqdn else {
            return Err(Failure::usage(format!(
                "the name of container {container} is not known, as there is no Docker to ask"
            ))
            .hint("give it with -h NAME"));
        };
        if target.addresses.is_empty() {
            target.addresses = allocated(&client, container).await?;
        }
        let mut form = vec![("fqdn", fqdn.as_str())];
        if target.container.is_some() {
            form.push(("check-alive", "true"));
        }
        for address in &target.addresses {
            let path = format!("/name/{}/{address}", segment(container));
            let answer = client.call(Method::PUT, &path, None, &form).await?;
            done(answer, &path)?;
        }
        told(global, "dns-add", &target)
    }

    pub(super) async fn remove(self, global: &Global) -> Result<(), Failure> {
        let target = self.target()?;
        let client = global.client();
        let container = segment(target.container.as_deref().unwrap_or(EXTERN));
        let query: Vec<_> = target.fqdn.iter().map(|it| ("fqdn", it.as_str())).collect();
        let mut paths: Vec<_> = (target.addresses.iter())
            .map(|address| format!("/name/{container}/{address}"))
            .collect();
        if paths.is_empty() {
            // All addresses of the container, whichever those are.
            paths.push(format!("/name/{container}"));
        }
        for path in paths {
            let answer = client.call(Method::DELETE, &path, None, &query).await?;
            done(answer, &path)?;
        }
        told(global, "dns-remove", &target)
    }
}

fn told(global: &Global, verb: &str, target: &Target) -> Result<(), Failure> {
    if !global.json {
        return Ok(());
    }
    let container = target.container.as_deref().unwrap_or(EXTERN);
    output::print_json(&json!({verb: {
        "container": container, "addresses": target.addresses, "fqdn": target.fqdn,
    }}))
}

/// A warning is no failure, but the user should see it.
fn done(answer: Answer, path: &str) -> Result<(), Failure> {
    if let Some(warning) = &answer.warning {
        output::warn(warning);
    }
    answer.text(path).map(drop)
}

/// The addresses that the daemon has allocated for a container.
async fn allocated(client: &Client, container: &str) -> Result<Vec<IpAddr>, Failure> {
    let path = format!("/ip/{}", segment(container));
    let answer = client.call(Method::GET, &path, None, &[]).await?;
    let addresses: Vec<IpAddr> = match answer.status {
        200 => (answer.body.split_whitespace())
            .filter_map(|cidr| cidr.split('/').next()?.parse().ok())
            .collect(),
        // Addresses are not allocated here.
        _ => Vec::new(),
    };
    if addresses.is_empty() {
        let message = format!("no address of container {container} is known");
        return Err(Failure::usage(message).hint("give its addresses in front of it"));
    }
    Ok(addresses)
}

/// A part of a path, with all that has a meaning there escaped.
fn segment(text: &str) -> String {
    let mut path = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                path.push(char::from(byte));
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

impl LookupArgs {
    /// Prints what `dig +short` does.
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let path = "/dns-address-port";
        let address = global.client().text(path, &[]).await?;
        let server: SocketAddr = address.trim().parse().map_err(|_| {
            Failure::new(Exit::Failed, format!("the daemon answers at {address:?}"))
        })?;
        let found = resolve::query(reachable(server), &self.name).await?;
        if global.json {
            return output::print_json(&found);
        }
        if found.records.is_empty() && output::on_terminal() {
            output::warn(&format!("{}: {}", self.name, found.status));
        }
        let lines = found.records.iter().map(|record| format!("{record}\n"));
        output::print(&lines.collect::<String>())
    }
}

/// Where a server that listens on all addresses can be asked.
fn reachable(server: SocketAddr) -> SocketAddr {
    match server.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => ([127, 0, 0, 1], server.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            (std::net::Ipv6Addr::LOCALHOST, server.port()).into()
        }
        _ => server,
    }
}

/// Prints the options that make a container ask our server: nothing where there is none.
pub async fn args(global: &Global) -> Result<(), Failure> {
    let client = global.client();
    let mut found = Vec::new();
    for path in ["/domain", "/dns-address"] {
        let answer = client.call(Method::GET, path, None, &[]).await?;
        if answer.status == 404 {
            return if global.json {
                output::print_json(&json!({"dns": null, "dns-search": null}))
            } else {
                Ok(())
            };
        }
        found.push(answer.text(path)?);
    }
    let (domain, address) = (found.remove(0), found.remove(0));
    if global.json {
        return output::print_json(&json!({"dns": address, "dns-search": domain}));
    }
    let end = if output::on_terminal() { "\n" } else { "" };
    output::print(&format!("--dns={address} --dns-search={domain}{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(line: &str, fqdn: Option<&str>) -> Result<Target, Failure> {
        NameArgs {
            words: line.split(' ').map(str::to_owned).collect(),
            fqdn: fqdn.map(str::to_owned),
            help: None,
        }
        .target()
    }

    #[test]
    fn addresses_come_before_the_container() {
        let found = target("10.2.1.1/24 10.2.1.2 c1", None).unwrap();
        assert_eq!(found.container.as_deref(), Some("c1"));
        let addresses: Vec<_> = found.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.2.1.1", "10.2.1.2"]);
        let found = target("10.2.1.1", Some("a.weave.local")).unwrap();
        assert_eq!(found.container, None);
        assert_eq!(target("c1", None).unwrap().addresses, [] as [IpAddr; 0]);
        for line in ["c1 10.2.1.1", "10.2.1.1 c1 c2"] {
            assert!(target(line, None).is_err(), "{line}");
        }
        for empty in [None, Some("")] {
            assert!(target("10.2.1.1", empty).is_err());
        }
    }

    #[test]
    fn segments_cannot_leave_their_place() {
        assert_eq!(segment("weave:extern"), "weave:extern");
        assert_eq!(segment("a/b?c#d e%ü"), "a%2Fb%3Fc%23d%20e%25%C3%BC");
    }

    #[test]
    fn a_server_on_all_addresses_is_asked_on_loopback() {
        for (server, asked) in [
            ("0.0.0.0:53", "127.0.0.1:53"),
            ("[::]:53", "[::1]:53"),
            ("172.17.0.1:53", "172.17.0.1:53"),
        ] {
            assert_eq!(reachable(server.parse().unwrap()).to_string(), asked);
        }
    }
}
