//! `rmpeer`: takes over the addresses of hosts that are gone for good.

use hyper::Method;
use serde_json::{Value, json};

use super::{Exit, Failure, Global, ipam, output};
use crate::form;

/// Flags of `rmpeer`.
#[derive(Debug, clap::Args)]
pub struct RmpeerArgs {
    /// Names or nicknames of hosts; "meshctl status ipam" shows both
    #[arg(value_name = "PEER", required = true)]
    peers: Vec<String>,
    /// Also if the host can be reached, or another host has taken over from it. If it still gives
    /// out addresses there will be two owners of them
    #[arg(long)]
    force: bool,
}

impl RmpeerArgs {
    /// Goes on with the next host if one is refused, as the original does.
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let client = global.client();
        let query: &[_] = if self.force {
            &[("force", "true")]
        } else {
            &[]
        };
        let (mut told, mut refused) = (Vec::new(), Vec::new());
        for peer in &self.peers {
            let path = format!("/peer/{}", form::segment(peer));
            let answer = client.call(Method::DELETE, &path, None, query).await?;
            let body = answer.body.trim_end().to_owned();
            if (200..300).contains(&answer.status) {
                if !global.json {
                    output::print(&answer.body)?;
                }
                told.push(json!({"peer": peer, "ips": taken_over(&body)}));
            } else {
                told.push(json!({"peer": peer, "error": body}));
                refused.push((answer.status, body));
            }
        }
        if global.json {
            output::print_json(&told)?;
        }
        let Some((status, _)) = refused.first() else {
            return Ok(());
        };
        if *status == 404 {
            return Err(ipam::off());
        }
        let texts: Vec<_> = refused.iter().map(|(_, text)| text.as_str()).collect();
        let failure = Failure::new(Exit::Failed, texts.join("\n"));
        Err(if *status == 409 {
            failure.hint(
                "\"meshctl ipam plan rmpeer PEER\" shows what would happen; --force does it anyway",
            )
        } else {
            failure
        })
    }
}

/// How many addresses there were, by the daemon's words.
fn taken_over(body: &str) -> Option<Value> {
    let count: u64 = body.split(' ').next()?.parse().ok()?;
    Some(count.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found() {
        assert_eq!(taken_over("12 IPs taken over from x"), Some(json!(12)));
        assert_eq!(taken_over(""), None);
    }
}
