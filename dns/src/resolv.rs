//! The file that names the servers upstream, `resolv.conf`.
//!
//! Only lines `nameserver ADDRESS` count, in their order. All else is skipped, whatever it says: the
//! file is other people's, and a name server that stops because of an option that it does not know
//! is worse than one that has none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// As many servers are used; more would only make failing slower.
pub const MAX_SERVERS: usize = 8;

/// The servers that a file names, each once.
pub fn parse(text: &str) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A scope (`fe80::1%eth0`) cannot be told from the address alone; such a server is skipped.
        let addr = words.next().and_then(|word| word.parse().ok());
        // Who connects to no address in particular gets to the host itself.
        let addr = match addr {
            Some(IpAddr::V4(addr)) if addr.is_unspecified() => Some(Ipv4Addr::LOCALHOST.into()),
            Some(IpAddr::V6(addr)) if addr.is_unspecified() => Some(Ipv6Addr::LOCALHOST.into()),
            addr => addr,
        };
        if let Some(addr) = addr
            && !servers.contains(&addr)
            && servers.len() < MAX_SERVERS
        {
            servers.push(addr);
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        parse(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn servers_in_order() {
        let text = "search a b\nnameserver 10.0.0.2 # first\n\tnameserver\t10.0.0.3 more\n\
                    nameserver fd00::1\nnameserver 10.0.0.2\n";
        assert_eq!(parsed(text), ["10.0.0.2", "10.0.0.3", "fd00::1"]);
    }

    #[test]
    fn nonsense_is_skipped() {
        let text = "options trust-ad ndots:5 timeout:\nnameserver\nnameserver x\n; nameserver \
                    1.1.1.1\n#nameserver 1.1.1.1\nnameserver1.1.1.1\nnameserver fe80::1%eth0\n\
                    \0\u{fffd}nameserver\nnameserver 10.0.0.2;x";
        assert_eq!(parsed(text), ["10.0.0.2"]);
        assert_eq!(
            parsed("nameserver 0.0.0.0\nnameserver ::"),
            ["127.0.0.1", "::1"]
        );
        assert_eq!(parsed(""), [""; 0]);
    }

    #[test]
    fn servers_are_bounded() {
        let text: String = (0..100)
            .map(|n| format!("nameserver 10.0.0.{n}\n"))
            .collect();
        assert_eq!(parse(&text).len(), MAX_SERVERS);
    }
}
