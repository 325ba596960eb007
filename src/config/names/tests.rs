use super::*;

use proptest::prelude::*;

const TEXT: &str = r#"
[[frontend]]
name = "sip"
bind = ["udp://10.0.0.1:5060", "udp://0.0.0.0:5070"]
advertise = "203.0.113.10"
inside = "10.0.0.2"
backend = "b"

[[backend]]
name = "b"

[[backend.server]]
name = "first"
address = "udp://10.0.1.1:5060"

[[backend.server]]
name = "pbx"
address = "udp://pbx.example.ng:5060"
weight = 7

[[backend.server]]
name = "second"
address = "udp://10.0.1.2:5060"

[[backend.server]]
name = "sbc"
address = "udp://Example.ng."
"#;

fn query(port: Option<u16>, host: &str) -> Query {
    Query { transport: Transport::Udp, host: host.to_owned(), port }
}

fn target(host: &str, port: u16, srv: Option<(u16, u16)>, ips: &[&str]) -> Target {
    let addresses = Some(ips.iter().map(|ip| ip.parse().unwrap()).collect());
    let srv = srv.map(|(priority, weight)| Srv { priority, weight });
    Target { host: host.to_owned(), port, srv, v6: false, addresses }
}

fn pbx(ips: &[&str]) -> Answers {
    [(query(Some(5060), "pbx.example.ng"), members(&[target("pbx.example.ng", 5060, None, ips)], &[]))].into()
}

fn here() -> [IpAddr; 1] {
    ["10.0.0.3".parse().unwrap()]
}

fn expanded(file: &Config, answers: &Answers) -> (Config, Vec<Refused>) {
    expand(file, answers, &|address| is_own(file, &here(), address))
}

/// Names and weights, backups with a star.
fn shown(config: &Config) -> Vec<String> {
    let show = |server: &Server| {
        format!("{} {} {}{}", server.name, server.address, server.weight, if server.backup { "*" } else { "" })
    };
    config.backends.iter().flat_map(|backend| backend.servers.iter().map(show)).collect()
}

#[test]
fn names_are_asked_for_as_they_are_written() {
    let file = Config::good(TEXT);
    let queries: Vec<_> = file.queries().cloned().collect();
    assert_eq!(queries, [query(Some(5060), "pbx.example.ng"), query(None, "example.ng")]);
    assert_eq!(queries[1].service().as_deref(), Some("_sip._udp.example.ng"));
    assert_eq!((queries[0].service(), queries[0].to_string().as_str()), (None, "udp://pbx.example.ng:5060"));
    assert_eq!(file.families(), (true, false));
}

#[test]
fn each_address_is_a_server_in_the_place_of_its_name() {
    let file = Config::good(TEXT);
    let (config, refused) = expanded(&file, &pbx(&["10.0.2.2", "10.0.2.1"]));
    assert_eq!(
        shown(&config),
        [
            "first 10.0.1.1:5060 100",
            "pbx@10.0.2.1:5060 10.0.2.1:5060 7",
            "pbx@10.0.2.2:5060 10.0.2.2:5060 7",
            "second 10.0.1.2:5060 100"
        ]
    );
    assert_eq!(refused, []);
    let server = &config.backends[0].servers[1];
    assert_eq!(server.id, NameHash::of("b/pbx@10.0.2.1:5060"));
    assert_eq!((server.of_name(), config.backends[0].servers[0].of_name()), (Some("pbx"), None));
    assert_eq!(server.sources, [Source::of(Transport::Udp, "10.0.2.1:5060".parse().unwrap())]);
    assert_eq!(expanded(&file, &Answers::new()).0, file, "what has no address has no server");
}

#[test]
fn what_can_be_no_server_is_refused_by_name() {
    let file = Config::good(TEXT);
    for (address, why) in [
        ("0.0.0.0", "no host has it"),
        ("0.1.2.3", "no host has it"),
        ("255.255.255.255", "no host has it"),
        ("224.0.1.75", "it is a multicast address"),
        ("169.254.169.254", "it is a link-local address"),
        ("127.0.0.1", "it is a loopback address, and no frontend speaks from one"),
        ("10.0.0.1", "it is this balancer's own"),
        ("10.0.0.2", "it is this balancer's own"),
        ("203.0.113.10", "it is this balancer's own"),
        ("10.0.1.2", "another server has it"),
        ("2001:db8::1", "a frontend has no address of its family"),
        ("ff02::1", "it is a multicast address"),
        ("fe80::1", "it is a link-local address"),
        ("::", "no host has it"),
        ("::1", "it is a loopback address, and no frontend speaks from one"),
        ("::ffff:224.0.1.75", "it is a multicast address"),
    ] {
        let (config, refused) = expanded(&file, &pbx(&[address, "10.0.2.1"]));
        assert_eq!(config.backends[0].servers.len(), 3, "{address}");
        assert_eq!(refused.iter().map(|refused| refused.why).collect::<Vec<_>>(), [why], "{address}");
        assert_eq!(refused[0].server, "b/pbx");
    }
    // On a wildcard every address of this node is its own, on that port.
    for (port, ip, own) in [(5070, "10.0.0.3", true), (5070, "127.0.0.9", true), (5060, "10.0.0.3", false)] {
        assert_eq!(is_own(&file, &here(), SocketAddr::new(ip.parse().unwrap(), port)), own, "{ip}:{port}");
    }
}

#[test]
fn a_loopback_address_is_good_where_we_speak_from_one() {
    let file = Config::good(&TEXT.replace("inside = \"10.0.0.2\"", "inside = \"127.0.0.2\""));
    let (config, refused) = expanded(&file, &pbx(&["127.0.0.3", "127.0.0.2"]));
    assert_eq!((config.backends[0].servers.len(), refused.len()), (3, 1), "{refused:?}");
}

#[test]
fn an_address_is_one_server_s_only() {
    let text = TEXT.to_owned()
        + "[[backend]]\nname = \"c\"\n[[backend.server]]\nname = \"pbx\"\naddress = \"udp://pbx.example.ng:5060\"\n";
    let (config, refused) = expanded(&Config::good(&text), &pbx(&["10.0.2.1"]));
    assert_eq!((config.backends[0].servers.len(), config.backends[1].servers.len()), (3, 0));
    assert_eq!((refused[0].server.as_str(), refused[0].why), ("c/pbx", "another server has it"));
}

#[test]
fn there_is_a_limit_and_the_log_says_so_in_one_line() {
    let ips: Vec<_> = (0..100).map(|n| format!("10.1.0.{n}")).collect();
    let (config, refused) = expanded(&Config::good(TEXT), &pbx(&ips.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(config.backends[0].servers.len(), 2 + MOST_ADDRESSES);
    assert_eq!((refused.len(), refused[0].addresses.len()), (1, 36));
    assert!(refused[0].to_string().ends_with("10.1.0.71:5060 and 28 more"), "{}", refused[0]);
    assert!(refused[0].why.contains(&MOST_ADDRESSES.to_string()));
}

fn service(targets: &[Target]) -> Answers {
    [(query(None, "example.ng"), members(targets, &[]))].into()
}

#[test]
fn the_lowest_priority_serves_and_weights_are_the_records() {
    let file = Config::good(TEXT);
    let of = |targets: &[Target]| {
        let shown = shown(&expanded(&file, &service(targets)).0);
        shown.into_iter().filter_map(|line| line.strip_prefix("sbc@").map(str::to_owned)).collect::<Vec<_>>()
    };
    let (a, b) = (|srv| target("a", 5060, Some(srv), &["10.0.3.1"]), |srv| target("b", 5080, Some(srv), &["10.0.3.2"]));
    for (first, second, weights) in [
        ((10, 60), (10, 20), ["60", "20"]),
        ((10, 0), (10, 0), ["1", "1"]),
        ((10, 60_000), (10, 30_000), ["256", "128"]),
        ((10, 65_535), (10, 1), ["256", "1"]),
        ((10, 5), (20, 5), ["5", "5*"]),
        ((7, 5), (3, 5), ["5", "5*"]),
    ] {
        let (one, two) = (a(first), b(second));
        let expected = match first.0 <= second.0 {
            true => ["10.0.3.1:5060", "10.0.3.2:5080"],
            false => ["10.0.3.2:5080", "10.0.3.1:5060"],
        };
        let expected: Vec<_> = expected.iter().zip(weights).map(|(at, weight)| format!("{at} {at} {weight}")).collect();
        assert_eq!(of(&[one, two]), expected, "{first:?} {second:?}");
    }
    let zero = Config::good(&(TEXT.to_owned() + "weight = 0\n"));
    let (config, _) = expanded(&zero, &service(&[a((1, 9))]));
    assert!(shown(&config).contains(&"sbc@10.0.3.1:5060 10.0.3.1:5060 0".to_owned()), "the file wants no new calls");
}

#[test]
fn a_host_that_nobody_could_ask_for_keeps_its_addresses() {
    let before =
        members(&[target("a", 5060, Some((1, 9)), &["10.0.3.1"]), target("b", 5060, None, &["10.0.3.2"])], &[]);
    let unknown = |host, v6| Target { addresses: None, v6, ..target(host, 5060, Some((2, 8)), &[]) };
    let after = members(&[unknown("a", false), unknown("a", true), target("c", 5060, None, &["10.0.3.3"])], &before);
    let shown: Vec<_> = after.iter().map(|m| (m.host.as_str(), m.address.ip().to_string(), m.srv.is_some())).collect();
    assert_eq!(shown, [("c", "10.0.3.3".to_owned(), false), ("a", "10.0.3.1".to_owned(), true)]);
    assert_eq!(after[1].srv, Some(Srv { priority: 2, weight: 8 }), "what is known of it is new");
    assert_eq!(members(&[unknown("a", true)], &before), [], "IPv4 addresses are no IPv6 addresses");
}

proptest! {
    /// Against a naive model: which addresses are servers depends on the set of the answer, never on its order; each has
    /// an identity of its own, the same in every answer; literal servers stay as they are.
    #[test]
    fn servers_are_the_set_of_the_answer(
        mut octets in proptest::collection::vec((0u8..4, 1u8..40), 0..120),
        turn in 0usize..120,
    ) {
        let file = Config::good(TEXT);
        let ip = |(net, host): (u8, u8)| match net {
            0 => format!("10.0.1.{host}"),
            1 => format!("224.0.0.{host}"),
            _ => format!("10.0.{net}.{host}"),
        };
        let expand_all = |octets: &[(u8, u8)]| {
            let ips: Vec<_> = octets.iter().map(|at| ip(*at)).collect();
            expanded(&file, &pbx(&ips.iter().map(String::as_str).collect::<Vec<_>>())).0
        };
        let config = expand_all(&octets);
        let model: std::collections::BTreeSet<SocketAddr> = octets.iter()
            .filter(|at| at.0 != 1 && ip(**at) != "10.0.1.1" && ip(**at) != "10.0.1.2")
            .map(|at| format!("{}:5060", ip(*at)).parse().unwrap())
            .collect();
        let servers: Vec<_> = config.backends[0].servers.iter().filter(|server| server.of_name().is_some()).collect();
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        prop_assert_eq!(&addresses, &model.into_iter().take(MOST_ADDRESSES).collect::<Vec<_>>());
        for server in &servers {
            prop_assert_eq!(server.id, NameHash::of(&format!("b/pbx@{}", server.address)));
        }
        let literal: Vec<_> = config.backends[0].servers.iter().filter(|server| server.of_name().is_none()).collect();
        prop_assert_eq!(literal, file.backends[0].servers.iter().collect::<Vec<_>>());
        if !octets.is_empty() {
            let turn = turn % octets.len();
            octets.rotate_left(turn);
        }
        prop_assert_eq!(expand_all(&octets), config);
    }
}

#[test]
fn servers_of_two_relays_may_have_one_address() {
    let relay = |name: &str, port: u16| {
        format!(
            "[[frontend]]\nname = \"{name}\"\nmode = \"relay\"\nbind = \"tcp://10.0.0.1:{port}\"\nbackend = \"{name}\"\n\
             [[backend]]\nname = \"{name}\"\n[[backend.server]]\nname = \"s\"\naddress = \"tcp://pbx.example.ng:443\"\n"
        )
    };
    let file = Config::good(&(relay("api", 443) + &relay("page", 444)));
    let query = Query { transport: Transport::Tcp, host: "pbx.example.ng".to_owned(), port: Some(443) };
    let members = members(&[target("pbx.example.ng", 443, None, &["10.0.1.9"])], &[]);
    let (config, refused) = expanded(&file, &[(query, members)].into());
    assert!(refused.is_empty(), "{refused:?}");
    let servers: Vec<_> = config.backends.iter().flat_map(|backend| &backend.servers).collect();
    assert!(servers.len() == 2 && servers.iter().all(|server| server.sources.is_empty()));
}

/// A server that opens a connection does so from any port of its address, whether that was written or a name has it.
#[test]
fn a_name_s_servers_open_connections_from_any_port() {
    let text = TEXT.replace("udp://pbx.example.ng:5060", "tcp://pbx.example.ng:5060");
    let query = |port| Query { transport: Transport::Tcp, host: "pbx.example.ng".to_owned(), port: Some(port) };
    let at = |port| members(&[target("pbx.example.ng", port, None, &["10.0.2.1"])], &[]);
    let (config, refused) = expanded(&Config::good(&text), &[(query(5060), at(5060))].into());
    let server = config.backends[0].servers.iter().find(|server| server.of_name() == Some("pbx")).unwrap();
    assert!(refused.is_empty() && server.sources[0].port.is_none(), "{:?} {refused:?}", server.sources);
    // Who sends from elsewhere is told from one on another port there.
    let elsewhere = text.replace("udp://10.0.1.2:5060", "tcp://10.0.2.1:5090\"\nsources = [\"10.0.9.0/24\"]\n#");
    let (_, refused) = expanded(&Config::good(&elsewhere), &[(query(5060), at(5060))].into());
    assert!(refused.is_empty(), "{refused:?}");
    // So another one there could not be told from it, on whatever port it listens.
    let two = text
        + "[[backend]]\nname = \"c\"\n[[backend.server]]\nname = \"pbx\"\naddress = \"tcp://pbx.example.ng:5070\"\n";
    let answers = [(query(5060), at(5060)), (query(5070), at(5070))].into();
    let (config, refused) = expanded(&Config::good(&two), &answers);
    assert_eq!((config.backends[1].servers.len(), refused[0].why), (0, "another server has it"));
}
