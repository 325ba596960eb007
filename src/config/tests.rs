//! A whole configuration, and every fault that the contract names, all in one run.

mod http;
mod slips;

use super::*;

/// The faults of a text as `line: what`.
fn faults(text: &str) -> Vec<String> {
    match Config::parse(text) {
        Ok(_) => Vec::new(),
        Err(faults) => faults
            .render("f", text)
            .to_string()
            .lines()
            .filter(|line| line.starts_with("f:"))
            .map(str::to_owned)
            .collect(),
    }
}

const GOOD: &str = r#"
[global]
workers = 4
cluster_key_file = "key"

[[frontend]]
name = "sip"
mode = "proxy"
bind = ["udp://0.0.0.0:5060", "udp://[::]:5060"]
advertise = ["203.0.113.10", "2001:db8::10"]
inside = "10.0.1.10"
aliases = ["sip.example.ng"]
backend = "opensips"
path = "supported"
force_rport = "never"
send_to = ["10.9.0.0/16"]
source_header = "X-Trunkline-Source"
dscp = "cs3"

[frontend.limits]
per_source_rate = "200/s"
trusted = ["198.51.100.0/24"]
deny = ["192.0.2.1"]
deny_user_agent = ["Friendly-Scanner"]
max_message = 4000

[[frontend.route]]
methods = ["REGISTER"]
hosts = ["Other.Example"]
backend = "single"

[[backend]]
name = "opensips"
balance = "hash"
pin = { expire = "1h", size = 5000 }
stick = { on = "source", ipv6_prefix = 64, expire = "30m", size = 2000 }
check = { type = "options", interval = "2s", timeout = "1s", rise = 1, fall = 2, fast_interval = "500ms", down_codes = [408] }
when_all_down = "forward"
spill_below = "30%"

[[backend.region]]
name = "lagos"
weight = 70
clients = ["10.1.2.3/16"]

[[backend.region]]
name = "abuja"
weight = 15

[[backend.server]]
name = "lagos-1"
region = "lagos"
address = "udp://10.0.10.11:5060"
sources = ["10.0.10.11", "10.0.10.12:5070", "10.0.20.0/24"]
weight = 200

[[backend.server]]
name = "abuja-1"
region = "abuja"
address = "udp://10.1.10.11"
backup = true

[[backend]]
name = "single"
check = { type = "none" }

[[backend.server]]
name = "pbx"
address = "udp://[2001:db8::5]:5062"
"#;

#[test]
fn every_key_arrives() {
    let config = Config::good(GOOD);
    assert_eq!((config.workers, config.cluster_key_file.to_str()), (4, Some("key")));
    let frontend = &config.frontends[0];
    assert_eq!(frontend.binds.len(), 2);
    assert_eq!(frontend.advertise.like("::1".parse().unwrap()), Some("2001:db8::10".parse().unwrap()));
    assert_eq!((frontend.inside.v4, frontend.inside.v6), (Some("10.0.1.10".parse().unwrap()), None));
    assert_eq!((frontend.path, frontend.force_rport, frontend.dscp), (Path::Supported, ForceRport::Never, Some(24)));
    let limits = &frontend.limits;
    assert_eq!(limits.per_source.map(|l| (l.rate.interval(), l.burst)), Some((5_000_000, 400)));
    assert_eq!((limits.deny_user_agent[0].as_str(), limits.max_message), ("friendly-scanner", 4000));
    assert_eq!((frontend.routes[0].hosts[0].as_str(), frontend.routes[0].backend), ("other.example", 1));
    let [opensips, single] = &config.backends[..] else { panic!() };
    assert_eq!(opensips.pin, Pin { expire: Duration::from_secs(3600), size: 5000 });
    let stick = Stick { on: StickOn::Source { v6_prefix: 64 }, expire: Duration::from_secs(1800), size: 2000 };
    assert_eq!(opensips.stick, Some(stick));
    assert_eq!(opensips.check.as_ref().map(|c| (c.rise, c.fall, c.down_codes.clone())), Some((1, 2, vec![408])));
    assert_eq!((opensips.when_all_down, opensips.spill_below), (WhenAllDown::Forward, 30));
    assert_eq!(opensips.regions[0].clients, ["10.1.0.0/16".parse().unwrap()]);
    let lagos = &opensips.servers[0];
    assert_eq!((lagos.id, lagos.weight, lagos.sources.len()), (NameHash::of("opensips/lagos-1"), 200, 3));
    assert_eq!((opensips.servers[1].address.port(), opensips.servers[1].backup), (5060, true));
    assert_eq!(
        opensips.servers[1].sources,
        [Source { net: "10.1.10.11/32".parse().unwrap(), port: Some(5060), written: false }]
    );
    assert_eq!((single.check.clone(), single.regions.len(), single.servers[0].region), (None, 1, 0));
}

const FAULTY: &str = include_str!("../../tests/data/faulty.toml");

#[test]
fn all_faults_come_in_one_run_with_their_places() {
    let expected = [
        "f:3:1: error: unknown key `wrokers` in [global]",
        "f:4:13: error: `state_dir` cannot be \"x\"",
        "f:8:9: error: \"udp://0.0.0.0\" in `bind` is not an address with its port, such as \"udp://0.0.0.0:5060\"",
        "f:9:11: error: there is no backend \"opensip\"",
        "f:10:8: error: `path` cannot be \"allways\"",
        "f:13:20: error: `per_source_burst` without `per_source_rate`",
        "f:16:8: error: there are two frontends \"sip\"",
        "f:17:8: error: `mode` cannot be \"relais\"",
        "f:20:17: error: `source_header` cannot be \"Via\"",
        "f:22:1: error: this route has no condition",
        "f:27:18: error: `expire` is not a duration such as \"500ms\", \"10s\", \"2m\" or \"2h\"",
        "f:27:33: error: `size` is 1",
        "f:28:16: error: `on` cannot be \"colour\"",
        "f:32:10: error: `weight` is 5000",
        "f:37:11: error: `address` is not an address such as \"udp://10.0.10.11:5060\" or a name such as \"udp://pbx.example.ng\"",
        "f:40:8: error: server \"b\" is in no region",
        "f:44:8: error: opensips/b and opensips/c have the same address",
        "f:47:1: error: unknown key `wieght` in [[backend.server]]",
        "f:49:1: error: backend \"empty\" has no server",
    ];
    let found = faults(FAULTY);
    assert_eq!(found, expected, "\n{}", Config::parse(FAULTY).unwrap_err().render("f", FAULTY));
}

#[test]
fn what_is_remembered_is_so_for_a_second_at_least() {
    for (section, written) in [("pin", "expire = \"1h\""), ("stick", "expire = \"30m\"")] {
        assert!(Config::parse(&GOOD.replace(written, "expire = \"1s\"")).is_ok(), "{section}");
        for short in ["0s", "999ms"] {
            let found = faults(&GOOD.replace(written, &format!("expire = \"{short}\"")));
            assert!(found.len() == 1 && found[0].contains("`expire` is "), "{section} {short}: {found:?}");
        }
    }
}

#[test]
fn algorithms_and_limits_are_read_and_wrong_ones_taught() {
    let server = "address = \"udp://10.0.10.11:5060\"";
    let limits = "max_calls = 500\nmax_rate = \"60/m\"\nslow_start = \"30s\"";
    let text = GOOD.replace("\"hash\"", "\"leastconn\"").replacen(server, &format!("{server}\n{limits}"), 1);
    let config = Config::good(&text);
    assert_eq!(config.backends[0].balance, Algorithm::LeastConn);
    let server_read = &config.backends[0].servers[0];
    let rate = Rate { events: 60, per: Duration::from_secs(60) };
    assert_eq!((server_read.max_calls, server_read.max_rate), (500, Some(rate)));
    assert_eq!(server_read.slow_start, Duration::from_secs(30));
    let wrong = text
        .replace("leastconn", "leastcon")
        .replace("500", "17_000_000")
        .replace("60/m", "60")
        .replace("\"30s\"", "\"2h\"");
    let said = Config::parse(&wrong).unwrap_err().render("f", &wrong).to_string();
    for fault in [
        "`balance` cannot be \"leastcon\"",
        "did you mean \"leastconn\"?",
        "`max_calls` is 17000000",
        "`max_rate` is not a rate",
        "`slow_start` is longer than an hour",
    ] {
        assert!(said.contains(fault), "{fault} is not in\n{said}");
    }
}

#[test]
fn what_only_shows_when_two_sections_are_seen_together() {
    let with = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        faults(&GOOD.replace(from, to))
    };
    for (from, to, expected) in [
        (
            "\"udp://0.0.0.0:5060\", ",
            "\"udp://[::]:5060\", ",
            "f:9:28: error: [::]:5060 is bound twice, by \"sip\" before",
        ),
        (", \"udp://[::]:5060\"]", "]", "f:6:1: error: frontend \"sip\" has no IPv6 address to reach single/pbx from"),
        (
            "region = \"abuja\"",
            "region = \"lagos\"",
            "f:47:8: error: region \"abuja\" of backend \"opensips\" has no server",
        ),
        ("udp://[2001:db8::5]:5062", "udp://10.0.10.12:5070", "could be opensips/lagos-1's or single/pbx's"),
        ("weight = 70", "weight = 0", ""),
        (
            "inside = \"10.0.1.10\"",
            "inside = [\"10.0.1.10\", \"10.0.1.11\"]",
            "`inside` has two addresses of one family",
        ),
        ("inside = \"10.0.1.10\"", "inside = \"0.0.0.0\"", "`inside` cannot be 0.0.0.0"),
        ("inside = \"10.0.1.10\"", "inside = \"255.255.255.255\"", "`inside` cannot be 255.255.255.255"),
        ("name = \"single\"", "name = \"sin gle\"", "\"sin gle\" is no name for a backend"),
        ("[\"sip.example.ng\"]", "[\"sip:sip.example.ng:5060\"]", "`aliases` cannot hold \"sip:sip.example.ng:5060\""),
        ("[\"sip.example.ng\"]", "[\"[2001:db8::1]\", \"\"]", "`aliases` cannot hold \"\""),
        ("udp://[2001:db8::5]:5062", "udp://[::]:5060", "`address` is not"),
        ("udp://[2001:db8::5]:5062", "udp://240.0.0.1:5060", "`address` is not"),
        ("udp://0.0.0.0:5060", "udp://10.0.10.11:5060", "server opensips/lagos-1 is this balancer itself"),
        ("[\"Friendly-Scanner\"]", "[\"Friendly-Scanner\", \"\"]", "an empty text is in every User-Agent"),
        (
            "rise = 1",
            "rise = 1, interval = \"1s\", fast_interval = \"60s\"",
            "`fast_interval` is longer than `interval`",
        ),
        ("mode = \"proxy\"", "mode = \"http\"", "`mode` cannot be \"http\""),
    ] {
        let found = with(from, to);
        match expected {
            "" => assert_eq!(found, [""; 0], "{to}"),
            _ => assert!(found.iter().any(|fault| fault.contains(expected)), "{to}: {found:?}"),
        }
    }
    let zero = GOOD.replace("weight = 70", "weight = 0").replace("weight = 15", "weight = 0");
    assert!(faults(&zero)[0].contains("nobody may serve"));
}

#[test]
fn names_with_one_hash_are_refused() {
    // Found by search: two server names of backend "b" with one 32-bit hash.
    let mut seen = std::collections::HashMap::new();
    let (a, b) = (0u32..)
        .find_map(|n| seen.insert(NameHash::of(&format!("s{n}")).0, n).map(|before| (before, n)))
        .expect("with 2^32 hashes two of a few hundred thousand names collide");
    let text = format!(
        "[[frontend]]\nname = \"f\"\nbind = \"udp://1.1.1.1:5060\"\nbackend = \"s{a}\"\n\
         [[backend]]\nname = \"s{a}\"\n[[backend.server]]\nname = \"x\"\naddress = \"udp://1.1.1.2\"\n\
         [[backend]]\nname = \"s{b}\"\n[[backend.server]]\nname = \"x\"\naddress = \"udp://1.1.1.3\"\n"
    );
    assert!(faults(&text).iter().any(|fault| fault.contains("have one hash")), "s{a} s{b}");
}

/// What `bind(2)` or `sendmsg(2)` would refuse later is refused here.
#[test]
fn addresses_that_no_socket_takes_are_refused() {
    let text = |bind: &str, inside: &str, server: &str| {
        format!(
            "[[frontend]]\nname = \"f\"\nbind = \"udp://{bind}:5060\"\ninside = \"{inside}\"\nbackend = \"b\"\n[[backend]]\nname = \"b\"\n\
             [[backend.server]]\nname = \"s\"\naddress = \"udp://{server}:5060\"\n"
        )
    };
    let (good, mapped, link_local) = ("2001:db8::1", "::ffff:10.0.0.1", "fe80::1");
    assert_eq!(faults(&text("[2001:db8::9]", good, "[2001:db8::2]")), [""; 0]);
    for (bad, said) in [(mapped, "10.0.0.1 instead of ::ffff:10.0.0.1"), (link_local, "beyond one link")] {
        let brackets = format!("[{bad}]");
        for text in [
            text(&brackets, good, "[2001:db8::2]"),
            text("[2001:db8::9]", bad, "[2001:db8::2]"),
            text("[2001:db8::9]", good, &brackets),
        ] {
            let faults = faults(&text);
            assert!(faults.iter().any(|fault| fault.contains(said)), "{bad}: {faults:?}\n{text}");
        }
    }
}

#[test]
fn servers_with_one_hash_are_refused_by_the_names_that_tokens_have_for_them() {
    let two = |(one, a): (&str, &str), (other, b): (&str, &str)| {
        let server = |name, host| format!("[[backend.server]]\nname = \"{name}\"\naddress = \"udp://1.1.1.{host}\"\n");
        let other = if one == other { String::new() } else { format!("[[backend]]\nname = \"{other}\"\n") };
        let first = format!("[[backend]]\nname = \"{one}\"\n{}", server(a, 2));
        let text = format!(
            "[[frontend]]\nname = \"f\"\nbind = \"udp://1.1.1.1:5060\"\nbackend = \"{one}\"\n{first}{other}{}",
            server(b, 3)
        );
        faults(&text).iter().any(|fault| fault.contains("have one hash"))
    };
    let hash = |backend: &str, n: u32| NameHash::of(&format!("{backend}/s{n}")).0;
    // Found by search, as above: in one backend, and in two.
    let mut seen = std::collections::HashMap::new();
    let (a, b) = (0u32..).find_map(|n| seen.insert(hash("pbx", n), n).map(|before| (before, n))).unwrap();
    assert!(two(("pbx", &format!("s{a}")), ("pbx", &format!("s{b}"))), "s{a} s{b}");
    let (a, b) = (0u32..).find_map(|n| seen.get(&hash("media", n)).map(|pbx| (*pbx, n))).unwrap();
    assert!(two(("pbx", &format!("s{a}")), ("media", &format!("s{b}"))), "s{a} s{b}");
    assert!(!two(("pbx", "one"), ("media", "one")) && !two(("pbx", "one"), ("pbx", "two")));
}

#[test]
fn broken_toml_names_every_break() {
    let text = "[global\nworkers = \n[[frontend]]\nname = sip\n";
    let found = faults(text);
    assert!(
        found.len() >= 3 && found.iter().any(|f| f.starts_with("f:1:")) && found.iter().any(|f| f.starts_with("f:4:")),
        "{found:?}"
    );
}

#[test]
fn a_generated_key_file_reads_back_and_a_broken_one_says_why() {
    let text = key::generate([7; 16], [9; 16]);
    let keys = key::parse(&text).unwrap();
    let same = key::parse(&text.replace("# ", "#  ")).unwrap();
    assert_eq!(keys.fingerprint(), same.fingerprint());
    assert_ne!(keys.fingerprint(), key::parse(&key::generate([7; 16], [8; 16])).unwrap().fingerprint());
    for (from, to, what) in [
        ("seal_with = 1", "seal_with = 2", "no [[seal]] has this id"),
        ("route = \"07", "route = \"zz", "`route` is not 32 hexadecimal digits"),
        ("secret", "sceret", "[[seal]] has no `secret`"),
        ("[[seal]]", "[seal", "not TOML"),
        ("seal_with = 1", "07070707070707070707070707070707 = \"route\"\nseal_with = 1", "unknown key in the key file"),
        ("id = 1", "id = 1\n\"09090909090909090909090909090909\" = 1", "unknown key in [[seal]]"),
    ] {
        let Err(faults) = key::parse(&text.replace(from, to)) else { panic!("{to} was accepted") };
        let shown = faults.render_secret("cluster.key", &text.replace(from, to)).to_string();
        assert!(shown.contains(what), "{to}: {shown}");
        assert!(!shown.contains("0707") && !shown.contains("0909"), "a secret is shown: {shown}");
    }
}

/// A name where an address could be, and what only looks like one.
#[test]
fn a_server_s_address_may_be_a_name() {
    let minimal = |address: &str, more: &str| {
        format!(
            "{more}\n[[frontend]]\nname = \"f\"\nbind = \"udp://0.0.0.0:5060\"\nbackend = \"b\"\n[[backend]]\nname = \"b\"\n\
             [[backend.server]]\nname = \"s\"\naddress = \"{address}\"\n"
        )
    };
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(51));
    for address in ["pbx", "pbx.example.ng:5080", "PBX.Example.NG.", "my_pbx.x9", "3com.example", longest.as_str()] {
        assert_eq!(faults(&minimal(&format!("udp://{address}"), "")), [""; 0], "{address}");
    }
    let long = format!("{longest}a");
    let bad = ["", ":5060", "a..b", "a b", "10.0.10", "10.0.0.300:5060", "a:0", "a:99999", "a:b", "_sip._udp.a", "a/b"];
    for address in bad.into_iter().chain([long.as_str()]) {
        let found = faults(&minimal(&format!("udp://{address}"), ""));
        let says = |fault: &String| fault.contains("or a name such as");
        assert!(found.iter().any(says), "{address}: {found:?}");
    }
    let sources = faults(&(minimal("udp://pbx.example.ng", "") + "sources = [\"10.0.0.1\"]\n"));
    assert!(sources.len() == 1 && sources[0].contains("`sources` with a name"), "{sources:?}");
    let ports = faults(&(minimal("udp://pbx.example.ng", "") + "ports = \"10-20\"\n"));
    assert!(ports.iter().any(|fault| fault.contains("`ports` with a name")), "{ports:?}");
    let mixed = minimal("udp://pbx.example.ng", "")
        + "[[backend.server]]\nname = \"x\"\naddress = \"udp://10.0.0.9\"\nports = \"10-20\"\n";
    assert!(
        faults(&mixed).iter().any(|fault| fault.contains("b/s is a name, which can have none")),
        "{:?}",
        faults(&mixed)
    );
    let nobody = faults(&(minimal("udp://pbx.example.ng", "") + "weight = 0\n"));
    assert!(nobody.len() == 1 && nobody[0].contains("nobody may serve"), "{nobody:?}");
    let twice = minimal("udp://a", "") + "[[backend.server]]\nname = \"s\"\naddress = \"udp://b\"\n";
    assert!(faults(&twice).len() == 1 && faults(&twice)[0].contains("there are two servers \"b/s\""));
    let many: String = (0..=names::MOST_NAMES)
        .map(|n| format!("[[backend.server]]\nname = \"s{n}\"\naddress = \"udp://a{n}\"\n"))
        .collect();
    let many = faults(&(minimal("udp://10.0.0.1", "") + &many));
    assert!(many.len() == 1 && many[0].contains("more than 1000 servers are written with a name"), "{many:?}");
}

#[test]
fn the_dns_has_limits() {
    let with = |lines: &str| faults(&(format!("[dns]\n{lines}\n") + GOOD));
    for good in [
        "",
        "nameservers = [\"10.0.0.53\", \"[::1]:5353\", \"::1\"]",
        "ttl_min = \"1s\"\nttl_max = \"1d\"\ntimeout = \"100ms\"",
        "ttl_min = \"10m\"",
    ] {
        assert_eq!(with(good), [""; 0], "{good}");
    }
    for (bad, what) in [
        ("nameservers = \"ns.example\"", "`nameservers` is not the address of a nameserver"),
        ("nameservers = \"224.0.0.251\"", "`nameservers` is not the address of a nameserver"),
        ("nameservers = \"0.0.0.0\"", "`nameservers` is not the address of a nameserver"),
        (
            "nameservers = [\"1.1.1.1\",\"1.1.1.2\",\"1.1.1.3\",\"1.1.1.4\",\"1.1.1.5\",\"1.1.1.6\",\"1.1.1.7\",\"1.1.1.8\",\"1.1.1.9\"]",
            "more than 8 nameservers",
        ),
        ("ttl_min = \"999ms\"", "`ttl_min` is 999ms"),
        ("ttl_max = \"2d\"", "`ttl_max` is 172800s"),
        ("ttl_min = \"1m\"\nttl_max = \"30s\"", "`ttl_max` is shorter than `ttl_min`"),
        ("timeout = \"1m\"", "`timeout` is 60s"),
        ("timeout = \"10ms\"", "`timeout` is 10ms"),
        ("ttl = \"1m\"", "unknown key `ttl` in [dns]"),
    ] {
        let found = with(bad);
        assert!(found.len() == 1 && found[0].contains(what), "{bad}: {found:?}");
    }
}

/// A backend of two servers with these keys.
fn backend(keys: &str) -> String {
    format!(
        "[[frontend]]\nname = \"f\"\nbind = \"udp://1.1.1.1:5060\"\nbackend = \"b\"\n[[backend]]\nname = \"b\"\n{keys}\n\
         [[backend.server]]\nname = \"x\"\naddress = \"udp://1.1.1.2\"\n\
         [[backend.server]]\nname = \"y\"\naddress = \"udp://1.1.1.3\"\n"
    )
}

#[test]
fn breakers_are_off_unless_asked_for_and_their_keys_have_defaults() {
    let read = |keys: &str| Config::good(&backend(keys)).backends.remove(0);
    let (two, half_a_minute) = (Duration::from_secs(2), Duration::from_secs(30));
    let plain = read("");
    assert_eq!((plain.suspect, plain.breaker), (Suspect { unanswered: 5, after: two }, None));
    let usual = Breaker {
        checks: false,
        failures: 5,
        successes: 2,
        open_for: half_a_minute,
        half_open_max: 3,
        answer_within: Duration::from_secs(5),
        codes: Vec::new(),
        max_open: 50,
    };
    assert_eq!(read("breaker = {}").breaker, Some(usual.clone()));
    let written = read(
        "breaker = { half_open_max = 1, checks = true, codes = [500, 503], max_open = \"100%\", open_for = \"1m\" }",
    );
    let expected = Breaker {
        checks: true,
        successes: 1,
        half_open_max: 1,
        codes: vec![500, 503],
        max_open: 100,
        open_for: Duration::from_secs(60),
        ..usual
    };
    assert_eq!(written.breaker, Some(expected));
    let suspect = Suspect { unanswered: 1, after: Duration::from_millis(500) };
    assert_eq!(read("suspect = { unanswered = 1, after = \"500ms\" }").suspect, suspect);
}

#[test]
fn what_stands_behind_a_missing_quote_is_not_told() {
    let text =
        "[[frontend]]\nname = \"f\nbind = [\"udp://192.0.2.1:5060\"]\nbackend = \"b\"\n[[backend]]\nname = \"b\"\n";
    let faults = Config::parse(text).unwrap_err().render("f", text).to_string();
    assert!(faults.starts_with("f:2:"), "the line to mend comes first: {faults}");
    assert!(!faults.contains("there is no") && faults.matches("error:").count() <= 3, "{faults}");
}

#[test]
fn faults_of_breakers_teach() {
    let keys = "suspect = { unanswered = 0, after = \"1m\" }\n\
        breaker = { failures = 0, successes = 4, half_open_max = 3, open_for = \"1ms\", answer_within = \"100ms\", \
        codes = [200, 500, 700], max_open = \"0%\", succeses = 1 }";
    let expected = [
        "f:7:26: error: `unanswered` is 0",
        "f:7:37: error: `after` is 60s",
        "f:8:24: error: `failures` is 0",
        "f:8:39: error: 4 successes cannot come from 3 trial calls",
        "f:8:72: error: `open_for` is 1ms",
        "f:8:95: error: `answer_within` is 100ms",
        "f:8:113: error: 200 cannot stand here",
        "f:8:123: error: 700 cannot stand here",
        "f:8:140: error: a breaker that may take away 0% never opens",
        "f:8:146: error: unknown key `succeses` in [backend.breaker]",
    ];
    let found = faults(&backend(keys));
    assert_eq!(found, expected);
    assert!(faults(&backend("breaker = { codes = [100] }"))[0].contains("100 is no final status"));
}
