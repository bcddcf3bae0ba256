//! Queries for names, as containers and people make them: with `dig` and `getent`, through a server
//! upstream that is a real one (dnsmasq).
//!
//! What the feature inventory, section 3 lists:
//!
//! | row | here |
//! |---|---|
//! | D01, D10, D11, D24 | [`answers`], [`in_containers`] |
//! | D02, D06 | [`domain_and_ttl`] |
//! | D03 | [`listening`] |
//! | D04, D05, D07 to D09, D12 | [`answers`] |
//! | D13 | [`upstream`], [`broken_upstream`] |
//! | D15 to D18, D22, D23 | [`verbs`], [`without_names`] |
//! | D19, D21 | [`super::names`], [`skewed_clock`] |
//! | D14, D20 | what Docker tells of its containers: there is no Docker proxy yet |
//! | D25 | `expose` and `hide` are no verbs of this version |
//! | D26 | `launch-dns` and `stop-dns` are tested with the command line |

use std::fs;
use std::process::Command;

use super::names::SOON;
use crate::dig::{self, Answer};
use crate::lab::{ContainerId, Lab, address};
use crate::node::{Kind, Options};
use crate::wait;

/// Where daemons of these labs answer.
const SERVER: &str = "@127.0.0.1";
/// Addresses of a name with many.
const MANY: usize = 100;

impl Lab {
    /// Asks from a host.
    #[track_caller]
    pub fn dig(&self, number: usize, args: &[&str]) -> Answer {
        Answer::parse(&self.run(number, dig::command(args)).stdout)
    }
}

fn one_host(kind: Kind, extra: &[&str]) -> Lab {
    let mut lab = Lab::new(1, 1500);
    lab.start(1, kind, &serving(extra));
    lab
}

fn serving(extra: &[&str]) -> Options {
    Options {
        names: true,
        extra: extra.iter().map(|it| (*it).to_owned()).collect(),
        ..Options::default()
    }
}

/// Names of one host, asked for in all ways that matter; the original passes as well, but for what
/// we do better.
pub fn answers(kind: Kind) {
    let ours = kind == Kind::Meshctl;
    let lab = one_host(kind, &["--resolv-conf="]);
    lab.add_name(1, "web", "c1", "10.40.0.1");
    lab.add_name(1, "two", "c1", "10.40.0.1");
    lab.add_name(1, "two", "c2", "10.40.0.2");
    lab.add_name(1, "Mixed", "c3", "10.40.0.3");
    lab.add_name(1, "a.b", "c4", "10.40.0.4");
    for index in 1..=MANY {
        lab.add_name(1, "many", &format!("m{index}"), &format!("10.40.1.{index}"));
    }
    let ask = |args: &[&str]| lab.dig(1, &[&[SERVER], args].concat());

    // A, with TTL 1, from an authority that offers recursion (D04, D06, D24).
    let found = ask(&["web.weave.local"]);
    assert_eq!(
        (found.status.as_str(), found.data()),
        ("NOERROR", vec!["10.40.0.1"])
    );
    assert!(
        found.has("aa") && found.has("ra") && found.has("rd"),
        "{found:#?}"
    );
    assert_eq!(
        (found.answers[0].name.as_str(), found.answers[0].ttl),
        ("web.weave.local.", 1)
    );
    // Other types of a name that exists: nothing, but no error (D04).
    for other in ["AAAA", "MX", "TXT", "SRV", "SOA"] {
        let found = ask(&["web.weave.local", other]);
        assert_eq!(
            (found.status.as_str(), found.answers.len()),
            ("NOERROR", 0),
            "{other}"
        );
    }
    // A name that does not exist (D04, D07): ours says for how long that may be remembered.
    for kind in ["A", "AAAA", "MX"] {
        let found = ask(&["nobody.weave.local", kind]);
        assert_eq!(
            (found.status.as_str(), found.answers.len()),
            ("NXDOMAIN", 0),
            "{kind}"
        );
        let soa: Vec<_> = found.authority.iter().map(|it| it.kind.as_str()).collect();
        assert_eq!(soa, if ours { vec!["SOA"] } else { vec![] });
    }
    // All addresses, in a new order each time (D05).
    let mut repeated = vec![SERVER];
    repeated.extend(["two.weave.local"; 100]);
    let mut command = Command::new("dig");
    command
        .args(["+noall", "+answer", "+time=8"])
        .args(repeated);
    let text = lab.run(1, command).stdout;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 200, "{text}");
    let first = lines
        .chunks(2)
        .filter(|pair| pair[0].ends_with("10.40.0.1"))
        .count();
    // Fair coins fall outside of this once in 10^9 times.
    assert!((20..=80).contains(&first), "{first} of 100");
    // Backwards (D08).
    for (addr, name) in [
        ("10.40.0.3", "Mixed.weave.local."),
        ("10.40.0.4", "a.b.weave.local."),
        // The alphabetically first of two.
        ("10.40.0.1", "two.weave.local."),
    ] {
        assert_eq!(ask(&["-x", addr]).data(), [name]);
    }
    // Case does not matter, and stays as it was asked (D09).
    let found = ask(&["wEB.Weave.LOCAL"]);
    assert_eq!(found.data(), ["10.40.0.1"]);
    assert!(found.text.contains("wEB.Weave.LOCAL."), "{}", found.text);
    assert_eq!(ask(&["mixed.weave.local"]).data(), ["10.40.0.3"]);
    // Sub-domains (D10).
    assert_eq!(ask(&["a.b.weave.local"]).data(), ["10.40.0.4"]);
    assert_eq!(ask(&["x.a.b.weave.local"]).status, "NXDOMAIN");
    // Single labels (D11).
    assert_eq!(ask(&["web"]).data(), ["10.40.0.1"]);
    assert_eq!(ask(&["nobody"]).status, "NXDOMAIN");
    // As much as fits (D12): what is cut says so, and TCP has it all.
    for size in ["+noedns", "+bufsize=512"] {
        let found = ask(&["+notcp", "+ignore", size, "many.weave.local"]);
        assert!(found.has("tc"), "{size}: {found:#?}");
        assert!(
            (14..MANY).contains(&found.answers.len()),
            "{size}: {}",
            found.answers.len()
        );
    }
    let found = ask(&["+notcp", "+ignore", "+bufsize=1232", "many.weave.local"]);
    assert!(
        (37..MANY).contains(&found.answers.len()),
        "{}",
        found.answers.len()
    );
    for way in ["+tcp", "+notcp"] {
        // Without +ignore dig asks again over TCP.
        let found = ask(&[way, "many.weave.local"]);
        assert_eq!(found.answers.len(), MANY, "{way}");
        assert!(!found.has("tc"));
    }
    // Nobody upstream (D13).
    assert_eq!(ask(&["www.example.test"]).status, "SERVFAIL");
    // Deleted names are gone at once.
    lab.delete_names(1, "/c1");
    assert_eq!(ask(&["web.weave.local"]).status, "NXDOMAIN");
    assert_eq!(ask(&["two.weave.local"]).data(), ["10.40.0.2"]);
    if ours {
        // Types of IPv6, which only this host can have.
        lab.add_name(1, "six", "c6", "fd00::6");
        assert_eq!(ask(&["six.weave.local", "AAAA"]).data(), ["fd00::6"]);
        assert_eq!(ask(&["six.weave.local", "A"]).status, "NOERROR");
    }
}

/// Two hosts that answer at their bridges' addresses, as containers see them.
pub fn in_containers(kind: Kind) {
    let mut lab = Lab::new(3, 1500);
    let dnsmasq = Dnsmasq::start(&lab, 3, &["--host-record=www.example.test,192.0.2.1"]);
    let resolv_conf = lab.directory(3).join("resolv.conf");
    fs::write(&resolv_conf, format!("nameserver {}\n", address(3))).unwrap();
    for number in [1, 2] {
        give_bridge(&lab, number);
        let options = Options {
            peers: vec![address(3 - number).to_string()],
            ..serving(&[
                "--dns-listen-address",
                &format!("{}:53", bridge_address(number)),
                "--resolv-conf",
                resolv_conf.to_str().unwrap(),
            ])
        };
        lab.start(number, kind, &options);
    }
    lab.await_full_mesh(&[1, 2]);
    let containers = [1, 2].map(|number| lab.attach(number, &format!("10.40.0.{number}/16")));
    for number in [1, 2] {
        lab.add_name(
            number,
            &format!("web{number}"),
            "c",
            &format!("10.40.0.{number}"),
        );
    }
    lab.await_names(SOON, &[1, 2], &[("web1", 1), ("web2", 2)]);
    for (container, number) in containers.into_iter().zip(1..) {
        let lookup = |database: &str, name: &str| {
            let found = in_container(&lab, container, number, &["getent", database, name]);
            found
                .stdout
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        for (name, addr, host) in [
            ("web1", "10.40.0.1", "web1.weave.local"),
            ("web2", "10.40.0.2", "web2.weave.local"),
            ("web2.weave.local", "10.40.0.2", "web2.weave.local"),
            ("WEB2.weave.local.", "10.40.0.2", "WEB2.weave.local"),
            ("www.example.test", "192.0.2.1", "www.example.test"),
            ("10.40.0.2", "10.40.0.2", "web2.weave.local"),
        ] {
            assert_eq!(
                lookup("hosts", name),
                [addr, host],
                "{name} in {container:?}"
            );
        }
        assert_eq!(
            lookup("ahostsv4", "web1").first().map(String::as_str),
            Some("10.40.0.1")
        );
        for nobody in ["nobody", "nobody.weave.local", "nobody.example.test"] {
            assert_eq!(lookup("hosts", nobody), [""; 0]);
        }
        let found = in_container(
            &lab,
            container,
            number,
            &["dig", "+search", "+short", "web2"],
        );
        assert_eq!(found.stdout, "10.40.0.2\n");
        let found = in_container(&lab, container, number, &["ping", "-c1", "-w20", "web1"]);
        assert!(found.status.success(), "{found:?}");
    }
    drop(dnsmasq);
}

/// A server upstream is asked for all that is not ours, and for nothing else.
pub fn upstream(kind: Kind) {
    let ours = kind == Kind::Meshctl;
    let mut lab = Lab::new(2, 1500);
    let long: String = (0..20).map(|index| format!("\"{index:0>200}\",")).collect();
    let dnsmasq = Dnsmasq::start(
        &lab,
        2,
        &[
            "--host-record=www.example.test,192.0.2.1,2001:db8::1",
            "--host-record=single,192.0.2.9",
            "--host-record=web.weave.local,192.0.2.9",
            "--ptr-record=7.2.0.192.in-addr.arpa,seven.example.test",
            "--mx-host=example.test,mail.example.test,5",
            "--cname=alias.example.test,www.example.test",
            &format!(
                "--txt-record=long.example.test,{}",
                long.trim_end_matches(',')
            ),
            "--local=/example.test/",
            "--auth-soa=1",
        ],
    );
    let resolv_conf = lab.directory(1).join("resolv.conf");
    let good = format!(
        "# comment\nsearch x y\noptions trust-ad ndots:3\nnameserver {}\n",
        address(2)
    );
    // The original cannot read this option.
    let good = if ours {
        good
    } else {
        good.replace("trust-ad ", "")
    };
    fs::write(&resolv_conf, &good).unwrap();
    lab.start(
        1,
        kind,
        &serving(&["--resolv-conf", resolv_conf.to_str().unwrap()]),
    );
    lab.add_name(1, "known", "c", "10.40.0.1");
    let ask = |args: &[&str]| lab.dig(1, &[&[SERVER], args].concat());

    for (name, type_, data) in [
        ("www.example.test", "A", vec!["192.0.2.1"]),
        ("WWW.example.test", "A", vec!["192.0.2.1"]),
        ("www.example.test", "AAAA", vec!["2001:db8::1"]),
        ("example.test", "MX", vec!["5 mail.example.test."]),
        (
            "alias.example.test",
            "A",
            vec!["192.0.2.1", "www.example.test."],
        ),
    ] {
        for way in ["+notcp", "+tcp"] {
            let found = ask(&[way, name, type_]);
            assert_eq!(
                (found.status.as_str(), found.data()),
                ("NOERROR", data.clone()),
                "{found:#?}"
            );
            assert!(!found.has("ad"), "{found:#?}");
        }
    }
    assert_eq!(ask(&["-x", "192.0.2.7"]).data(), ["seven.example.test."]);
    assert_eq!(ask(&["nobody.example.test"]).status, "NXDOMAIN");
    assert_eq!(ask(&["www.example.test", "TXT"]).status, "NOERROR");
    // Too long for a datagram: cut here and there, and whole over TCP.
    let found = ask(&[
        "+ignore",
        "+notcp",
        "+bufsize=512",
        "long.example.test",
        "TXT",
    ]);
    assert!(found.has("tc"), "{found:#?}");
    assert_eq!(ask(&["long.example.test", "TXT"]).answers.len(), 1);
    // What is ours is not asked for there, nor what has no domain.
    assert_eq!(ask(&["web.weave.local"]).status, "NXDOMAIN");
    assert_eq!(ask(&["known.weave.local", "MX"]).status, "NOERROR");
    assert_eq!(ask(&["single"]).status, "NXDOMAIN");
    assert_eq!(ask(&["-x", "10.40.0.1"]).data(), ["known.weave.local."]);
    let asked = dnsmasq.log();
    assert!(asked.contains("www.example.test"), "{asked}");
    for ours in ["weave.local", " single ", "1.0.40.10.in-addr.arpa"] {
        assert!(!asked.contains(ours), "{ours} was asked for: {asked}");
    }
    let status = lab.get(1, "/status");
    assert!(
        status.contains(&format!("Upstream: {}\n", address(2))),
        "{status}"
    );
}

/// Servers upstream that are missing, dead, slow, many or ourselves.
pub fn broken_upstream() {
    let mut lab = Lab::new(2, 1500);
    let records = ["--host-record=www.example.test,192.0.2.1"];
    let dnsmasq = Dnsmasq::start(&lab, 2, &records);
    let resolv_conf = lab.directory(1).join("resolv.conf");
    let use_servers = |servers: &[&str]| {
        let text: String = servers
            .iter()
            .map(|it| format!("nameserver {it}\n"))
            .collect();
        // As resolvconf and NetworkManager do it: another file takes its place.
        let new = resolv_conf.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &resolv_conf).unwrap();
    };
    let good = address(2).to_string();
    lab.start(
        1,
        Kind::Meshctl,
        &serving(&[
            "--dns-fallback-timeout=300ms",
            "--resolv-conf",
            resolv_conf.to_str().unwrap(),
        ]),
    );
    let ask = || lab.dig(1, &[SERVER, "www.example.test"]);
    let await_upstream = |expected: &str| {
        wait::until(&format!("the servers upstream to be {expected}"), || {
            let status = lab.get(1, "/status");
            wait::check(status.contains(&format!("Upstream: {expected}\n")), || {
                status
            })
        });
    };
    // A file that is not there yet.
    assert_eq!(ask().status, "SERVFAIL");
    await_upstream("none");
    use_servers(&[&good]);
    await_upstream(&good);
    assert_eq!(ask().data(), ["192.0.2.1"]);
    // Nobody is at the first two; the third knows.
    use_servers(&["192.168.77.200", "192.168.77.1", &good]);
    await_upstream(&format!("192.168.77.200, 192.168.77.1, {good}"));
    assert_eq!(ask().data(), ["192.0.2.1"]);
    // We ourselves are no server upstream.
    use_servers(&["127.0.0.1", &good]);
    await_upstream(&good);
    assert_eq!(ask().data(), ["192.0.2.1"]);
    use_servers(&["127.0.0.1"]);
    await_upstream("none");
    assert_eq!(ask().status, "SERVFAIL");
    // All are dead.
    use_servers(&["192.168.77.200", "192.168.77.201"]);
    await_upstream("192.168.77.200, 192.168.77.201");
    assert_eq!(ask().status, "SERVFAIL");
    use_servers(&[&good]);
    await_upstream(&good);
    drop(dnsmasq);
    assert_eq!(ask().status, "SERVFAIL");
    let dnsmasq = Dnsmasq::start(&lab, 2, &records);
    assert_eq!(ask().data(), ["192.0.2.1"]);
    drop(dnsmasq);
    // Whatever happens upstream, our own names are answered.
    lab.add_name(1, "web", "c", "10.40.0.1");
    assert_eq!(
        lab.dig(1, &[SERVER, "web.weave.local"]).data(),
        ["10.40.0.1"]
    );
}

/// Another domain, in any case, and another TTL.
pub fn domain_and_ttl(kind: Kind) {
    // The original does not find names in a domain with capital letters.
    let domain = if kind == Kind::Meshctl {
        "Corp.Example"
    } else {
        "corp.example"
    };
    let lab = one_host(
        kind,
        &["--dns-domain", domain, "--dns-ttl=30", "--resolv-conf="],
    );
    assert_eq!(lab.get(1, "/domain"), format!("{domain}."));
    for (fqdn, addr) in [
        ("web.corp.example", "10.40.0.1"),
        ("WEB2.CORP.EXAMPLE.", "10.40.0.2"),
        ("web.weave.local", "10.40.0.3"),
    ] {
        let answer = lab.request(
            1,
            "PUT",
            &format!("/name/c/{addr}"),
            &format!("fqdn={fqdn}"),
        );
        assert_eq!(answer.status, 204);
    }
    let found = lab.dig(1, &[SERVER, "web.corp.EXAMPLE"]);
    assert_eq!(
        (found.data(), found.answers[0].ttl),
        (vec!["10.40.0.1"], 30)
    );
    assert_eq!(lab.dig(1, &[SERVER, "web2"]).data(), ["10.40.0.2"]);
    assert_eq!(lab.dig(1, &[SERVER, "web.weave.local"]).status, "SERVFAIL");
    assert!(
        lab.get(1, "/status")
            .contains("TTL: 30\n        Entries: 2\n")
    );
    assert_eq!(
        lab.meshctl(1, &["dns-args"]).stdout,
        format!("--dns=127.0.0.1 --dns-search={domain}.")
    );
}

/// Where queries are answered, and where they cannot be.
pub fn listening() {
    let mut lab = Lab::new(1, 1500);
    // An empty flag is no flag.
    lab.start(1, Kind::Meshctl, &serving(&["--dns-listen-address="]));
    // There is no Docker here, and the bridge has no address yet.
    assert_eq!(lab.request(1, "GET", "/dns-address", "").status, 404);
    let status = lab.get(1, "/status");
    assert!(status.contains("Address: none, as no bridge has an IPv4 address (docker0, weave)"));
    assert_eq!(lab.meshctl(1, &["dns-args"]).stdout, "");
    assert_eq!(
        lab.meshctl(1, &["dns-lookup", "web"]).status.code(),
        Some(4)
    );
    lab.add_name(1, "web", "c", "10.40.0.1");
    give_bridge(&lab, 1);
    wait::until("the bridge's address to be found", || {
        let answer = lab.request(1, "GET", "/dns-address-port", "");
        let expected = format!("{}:53", bridge_address(1));
        wait::check(answer.body == expected, || answer.body)
    });
    let server = format!("@{}", bridge_address(1));
    assert_eq!(lab.dig(1, &[&server, "web"]).data(), ["10.40.0.1"]);
    assert!(!lab.get(1, "/status").contains("Address: none"));
    assert_eq!(lab.meshctl(1, &["dns-lookup", "web"]).stdout, "10.40.0.1\n");
    lab.stop(1);

    // A port that somebody has: a problem that is told, where nobody has asked for that port.
    let dnsmasq = Dnsmasq::start(&lab, 1, &[]);
    lab.start(1, Kind::Meshctl, &serving(&["--dns-listen-address="]));
    let status = lab.get(1, "/status");
    assert!(
        status.contains("Address: none, cannot serve DNS at"),
        "{status}"
    );
    drop(dnsmasq);
    wait::until("the port to be had", || {
        let status = lab.get(1, "/status");
        wait::check(!status.contains("Address: none"), || status)
    });
    lab.stop(1);

    // An address that the user wants and cannot have is an error.
    for (address, part) in [
        ("192.0.2.1:53", "192.0.2.1:53"),
        ("127.0.0.1:1:1", "172.17.0.1:53"),
    ] {
        let args = [
            "launch",
            "--dns-listen-address",
            address,
            "--db-prefix",
            "/dev/shm/meshctl-names-",
        ];
        let ran = lab.meshctl(1, &args);
        assert!(!ran.status.success());
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
}

/// Our verbs, with either daemon.
pub fn verbs(kind: Kind) {
    let lab = one_host(kind, &["--resolv-conf="]);
    let run = |line: &str| {
        let ran = lab.meshctl(1, &line.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.status.code(), Some(0), "{line}: {}", ran.stderr);
        assert!(
            ran.stderr.is_empty() || ran.stderr.starts_with("warning: "),
            "{}",
            ran.stderr
        );
        (ran.stdout, ran.stderr)
    };
    let names = || {
        let line = |(name, addr, container, _)| format!("{name} {addr} {container}");
        lab.names(1).into_iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(
        run("dns-add 10.40.0.1/16 10.40.0.2 c1 -h web.weave.local").0,
        ""
    );
    run("dns-add 10.40.0.1 c1 -h alias.weave.local.");
    run("dns-add 10.40.0.9 -h ext.weave.local");
    assert_eq!(
        names(),
        [
            "alias 10.40.0.1 c1",
            "ext 10.40.0.9 weave:extern",
            "web 10.40.0.1 c1",
            "web 10.40.0.2 c1",
        ]
    );
    let (out, warning) = run("dns-add 10.40.0.1 c1 -h web.example.test");
    assert_eq!((out.as_str(), names().len()), ("", 4));
    if kind == Kind::Meshctl {
        assert!(warning.contains("outside of weave.local."), "{warning}");
    }
    let (out, _) = run("dns-lookup web");
    let mut lines: Vec<_> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["10.40.0.1", "10.40.0.2"]);
    assert_eq!(run("dns-lookup alias.weave.local").0, "10.40.0.1\n");
    assert_eq!(run("dns-lookup nobody").0, "");
    let json: serde_json::Value = serde_json::from_str(&run("--json dns-lookup nobody").0).unwrap();
    assert_eq!(json["status"], "NXDOMAIN");
    assert_eq!(
        run("dns-args").0,
        "--dns=127.0.0.1 --dns-search=weave.local."
    );
    assert_eq!(run("status dns").0, lab.get(1, "/status/dns"));
    if kind == Kind::Meshctl {
        let json: serde_json::Value = serde_json::from_str(&run("--json status dns").0).unwrap();
        assert_eq!(json["Entries"].as_array().unwrap().len(), 4);
    }
    run("dns-remove 10.40.0.1 c1 -h web.weave.local");
    run("dns-remove 10.40.0.9 -h ext.weave.local");
    assert_eq!(names(), ["alias 10.40.0.1 c1", "web 10.40.0.2 c1"]);
    run("dns-remove c1");
    assert_eq!(names(), [""; 0]);
}

/// A daemon without names says so, and leaves everything else alone.
pub fn without_names() {
    let mut lab = Lab::new(1, 1500);
    lab.start(1, Kind::Meshctl, &Options::default());
    for (line, code) in [
        ("dns-args", 0),
        ("dns-add 10.40.0.1 c -h x.weave.local", 4),
        ("dns-remove c", 4),
        ("dns-lookup x", 4),
        ("status dns", 4),
        ("--json status dns", 4),
        ("status", 0),
    ] {
        let ran = lab.meshctl(1, &line.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.status.code(), Some(code), "{line}: {}", ran.stderr);
        assert!(!ran.stdout.contains("dns"), "{}", ran.stdout);
    }
    assert!(lab.report(1).get("DNS").is_none());
    assert!(!lab.get(1, "/metrics").contains("dns"));
}

/// The clock of the second host is 20 minutes fast. That is told, and names cross all the same; the
/// third host, an original, takes them from the first, and refuses to talk to the second.
pub fn skewed_clock(third: Kind) {
    let mut lab = Lab::new(3, 1500);
    let script = lab.directory(2).join("meshctl-ahead");
    let meshctl = crate::node::meshctl().display();
    // The program `faketime` would stay between us and the daemon, which then outlives it.
    let text = format!(
        "#!/bin/sh\nexport FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME=+20m\n\
         export LD_PRELOAD='/usr/$LIB/faketime/libfaketime.so.1'\nexec {meshctl} \"$@\"\n"
    );
    fs::write(&script, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).unwrap();
    for (number, kind) in [(1, Kind::Meshctl), (2, Kind::Meshctl), (3, third)] {
        let options = Options {
            peers: (1..number).map(|it| address(it).to_string()).collect(),
            program: (number == 2).then(|| script.clone()),
            ..serving(&[])
        };
        lab.start(number, kind, &options);
    }
    match third {
        Kind::Meshctl => lab.await_full_mesh(&[1, 2, 3]),
        Kind::Weaver => {
            lab.await_neighbours(1, &["h2", "h3"]);
            wait::until("the original to refuse the clock", || {
                let log = lab.node(3).log();
                wait::check(log.contains("clock skew"), || "not yet".to_owned())
            });
        }
    }
    for number in 1..=3 {
        lab.add_name(
            number,
            &format!("web{number}"),
            "c",
            &format!("10.40.0.{number}"),
        );
    }
    // The round of gossip brings what a broadcast could not.
    let all = [("web1", 1), ("web2", 2), ("web3", 3)];
    lab.await_names(wait::PATIENCE, &[1, 2, 3], &all);
    lab.delete_names(2, "");
    lab.add_name(2, "more2", "c", "10.40.0.5");
    let all = [("web1", 1), ("more2", 2), ("web3", 3)];
    lab.await_names(wait::PATIENCE, &[1, 2, 3], &all);
    // The first host never lost the third over it.
    let log = lab.node(1).log();
    assert!(
        log.contains("the clock of peer 7a:00:00:00:00:02 is"),
        "{log}"
    );
    assert!(
        !lab.node(3).log().contains("skew of -"),
        "{}",
        lab.node(3).log()
    );
    let status = lab.get(1, "/status");
    assert!(
        status.contains("ClockSkew: 7a:00:00:00:00:02(h2) is 1"),
        "{status}"
    );
    assert!(status.contains(" s ahead\n"), "{status}");
    assert!(lab.get(2, "/status").contains(" s behind\n"));
    let metrics = lab.get(1, "/metrics");
    let line = metrics.lines().find(|line| {
        line.starts_with("meshctl_dns_clock_offset_seconds{peer=\"7a:00:00:00:00:02\"")
    });
    let offset: i64 = line
        .unwrap()
        .split(' ')
        .next_back()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1190..=1210).contains(&offset), "{offset}");
}

// ------------------------------------------------------------------ what the cases are made of

/// Address of a host on its bridge.
fn bridge_address(number: usize) -> String {
    format!("10.40.255.{number}")
}

/// Makes the bridge, unless it is there, and gives it the address.
#[track_caller]
fn give_bridge(lab: &Lab, number: usize) {
    let cidr = format!("{}/16", bridge_address(number)).parse().unwrap();
    lab.with_net(number, async |net| {
        net.ensure_bridge("weave", None, None).await.unwrap();
        net.add_address("weave", cidr).await.unwrap();
        net.set_up("weave").await.unwrap();
    });
}

/// Runs a program in a container whose resolv.conf names its host's server.
#[track_caller]
fn in_container(
    lab: &Lab,
    container: ContainerId,
    number: usize,
    program: &[&str],
) -> crate::lab::Output {
    let resolv_conf = lab.directory(number).join("container-resolv.conf");
    let text = format!(
        "nameserver {}\nsearch weave.local.\n",
        bridge_address(number)
    );
    fs::write(&resolv_conf, text).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg("mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"");
    command.arg(resolv_conf).args(program);
    lab.run_in_container(container, command)
}

/// A server upstream, which logs what it is asked.
struct Dnsmasq {
    process: host::netns::Resident,
    log: std::path::PathBuf,
}

impl Dnsmasq {
    #[track_caller]
    fn start(lab: &Lab, number: usize, records: &[&str]) -> Self {
        let log = lab.directory(number).join("dnsmasq.log");
        let _ = fs::remove_file(&log);
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--log-queries",
        ]);
        command
            .arg(format!("--log-facility={}", log.display()))
            .args(records);
        let process = lab.netns(number).spawn(command).unwrap();
        let server = Self { process, log };
        wait::until("dnsmasq to answer", || {
            let mut command = Command::new("dig");
            command.args([
                "+time=1",
                "+tries=1",
                "@127.0.0.1",
                "version.bind",
                "CH",
                "TXT",
            ]);
            let ran = lab.run(number, command);
            wait::check(ran.status.success(), || ran.stdout + &server.log())
        });
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        self.process.kill();
    }
}
