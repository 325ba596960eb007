//! What people write by mistake, or by a habit from elsewhere: one fault each, and the remedy is what they wanted.

use super::super::Config;

const GOOD: &str = r#"
[[frontend]]
name = "sip"
bind = "udp://10.0.0.1:5060"
inside = "10.0.0.2"
advertise = "203.0.113.10"
backend = "pbx"

[[frontend]]
name = "other"
bind = ["udp://10.0.0.1:5070", "tls://10.0.0.1:5061"]
inside = "10.0.0.2"
backend = "pbx"

[frontend.tls]
certificates = "/certs"

[frontend.limits]
per_source_rate = "5/s"

[[backend]]
name = "pbx"

[[backend.region]]
name = "lagos"

[[backend.server]]
name = "n1"
region = "lagos"
address = "udp://10.0.0.9:5060"
"#;

const RELAY: &str = r#"
[[frontend]]
name = "rtp"
mode = "relay"
bind = "udp://10.0.0.1:10000-10099"
backend = "media"

[[backend]]
name = "media"

[[backend.server]]
name = "m1"
address = "udp://10.0.0.9"
ports = "10000-10099"
"#;

/// The paragraphs of all faults.
fn faults(text: &str) -> Vec<String> {
    let Err(faults) = Config::parse(text) else { return Vec::new() };
    let shown = faults.render("FILE", text).to_string();
    shown.split("FILE:").skip(1).map(str::to_owned).collect()
}

/// The one fault that a change makes, or nothing.
fn fault(base: &str, from: &str, to: &str) -> String {
    assert!(base.contains(from), "{from}");
    let found = faults(&base.replacen(from, to, 1));
    assert!(found.len() < 2, "{to}: {} faults\n{}", found.len(), found.join("\n"));
    found.into_iter().next().unwrap_or_default()
}

#[test]
fn a_server_at_an_address_of_ours_is_refused() {
    for address in ["udp://10.0.0.2:5060", "udp://10.0.0.2:5070", "udp://10.0.0.1:5070", "udp://203.0.113.10:5060"] {
        let found = fault(GOOD, "udp://10.0.0.9:5060", address);
        assert!(found.contains("server pbx/n1 is this balancer itself"), "{address}: {found}");
        assert!(found.contains("write the address of a SIP server"), "{address}: {found}");
    }
    assert!(fault(&GOOD.replace("10.0.0.1:5060", "0.0.0.0:5060"), "10.0.0.9", "127.0.0.1").contains("itself"));
    // Somebody else on this host: another port, or no transport of ours.
    for address in ["udp://10.0.0.2:5062", "udp://10.0.0.1:5062", "tcp://10.0.0.2:5060", "udp://203.0.113.10:5080"] {
        assert_eq!(fault(GOOD, "udp://10.0.0.9:5060", address), "", "{address}");
    }
}

#[test]
fn a_value_that_cannot_be_read_has_no_followers() {
    for bind in ["*:5060", ":5060", "10.0.0.1:5060", "udp://*:5060", "udp://10.0.0.1:5063-5060", "udp://10.0.0.1"] {
        let found = fault(GOOD, "udp://10.0.0.1:5060", bind);
        assert!(found.contains("`bind` is not an address"), "{bind}: {found}");
    }
    assert!(fault(GOOD, "tls://10.0.0.1:5061", "tls:10.0.0.1:5061").contains("\"tls:10.0.0.1:5061\" in `bind` is not"));
    assert!(fault(GOOD, "\"udp://10.0.0.1:5060\"", "[]").contains("frontend \"sip\" listens nowhere"));
    assert!(fault(RELAY, "10.0.0.1:10000-10099", "10.0.0.1:10099-10000").contains("`bind` is not an address"));
    assert!(fault(RELAY, "\"10000-10099\"", "\"10099-10000\"").contains("`ports` is not ports"));
    assert!(fault(GOOD, "10.0.0.9:5060", "10.0.0.900:5060").contains("`address` is not an address"));
    assert!(fault(GOOD, "address = \"udp://10.0.0.9:5060\"", "").contains("has no `address`"));
}

#[test]
fn a_breaker_counts_what_can_be_seen() {
    let relay = GOOD.replacen("bind = \"udp://10.0.0.1:5060\"", "mode = \"relay\"\nbind = \"tcp://10.0.0.1:8443\"", 1);
    let relay = relay.replacen(
        "inside = \"10.0.0.2\"\nadvertise = \"203.0.113.10\"\nbackend = \"pbx\"",
        "backend = \"api\"",
        1,
    ) + "[[backend]]\nname = \"api\"\nbalance = \"hash\"\n[[backend.server]]\nname = \"a1\"\naddress = \"tcp://10.0.0.8:8443\"\n";
    let with = |keys: &str| fault(&relay, "name = \"api\"\nbalance", &format!("name = \"api\"\n{keys}\nbalance"));
    assert_eq!(with("breaker = { checks = true, failures = 2 }"), "");
    let found = with("breaker = { codes = [500] }");
    assert!(found.contains("has `codes` of some") && found.contains("`checks = true` counts"), "{found}");
    let found = with("breaker = { checks = true }\ncheck = { type = \"none\" }");
    assert!(found.contains("counts checks, and its servers have none"), "{found}");
}

#[test]
fn an_address_belongs_to_one_server_of_the_file() {
    let other = |backend: &str| {
        format!("{GOOD}{backend}[[backend.server]]\nname = \"r1\"\naddress = \"udp://10.0.0.9:5060\"\n")
    };
    let two = faults(&other("[[backend]]\nname = \"reg\"\n"));
    assert_eq!(two.len(), 1, "{two:?}");
    assert!(two[0].contains("pbx/n1 and reg/r1 have the same address"), "{two:?}");
    assert!(two[0].contains("a server stands in one backend only"), "{two:?}");
    let one = faults(&(other("") + "region = \"lagos\"\n"));
    assert!(one.len() == 1 && one[0].contains("pbx/n1 and pbx/r1 have the same address"), "{one:?}");
    assert!(one[0].contains("`weight`"), "{one:?}");
}

/// What is changed in the good file, to what; what is wrong then, and what to do.
const HABITS: &[[&str; 4]] = &[
    ["backend = \"pbx\"", "backend = \"pbx\"\ndefault_backend = \"pbx\"", "`default_backend`", "write `backend`"],
    ["backend = \"pbx\"", "backend = \"pbx\"\ndefault-backend = \"pbx\"", "`default-backend`", "write `backend`"],
    ["backend = \"pbx\"", "backend = \"pbx\"\nuse_backend = \"pbx\"", "`use_backend`", "[[frontend.route]]"],
    ["backend = \"pbx\"", "backend = \"pbx\"\nmaxconn = 5", "`maxconn`", "[frontend.limits]"],
    ["name = \"n1\"", "name = \"n1\"\nmaxconn = 5", "`maxconn`", "write `max_calls`"],
    ["name = \"n1\"", "name = \"n1\"\ncheck = true", "`check`", "[backend.check]"],
    ["name = \"n1\"", "name = \"n1\"\ninter = \"2s\"", "`inter`", "`interval` in [backend.check]"],
    ["name = \"n1\"", "name = \"n1\"\nfall = 3", "`fall`", "`fall` in [backend.check]"],
    ["name = \"pbx\"", "name = \"pbx\"\ncheck = { inter = \"2s\" }", "`inter`", "write `interval`"],
    ["name = \"pbx\"", "name = \"pbx\"\nstick_table = 5", "`stick_table`", "`stick = { on = \"source\" }`"],
    ["name = \"pbx\"", "name = \"pbx\"\noption = \"httpchk\"", "`option`", "[backend.check]"],
    ["name = \"pbx\"", "name = \"pbx\"\nbalance = \"source\"", "cannot be \"source\"", "stick = { on = \"source\" }"],
    ["name = \"pbx\"", "name = \"pbx\"\nbalance = \"static-rr\"", "cannot be \"static-rr\"", "\"roundrobin\""],
    ["\n[[frontend]]", "[global]\nnbthread = 4\n[[frontend]]", "`nbthread`", "write `workers`"],
    ["\n[[frontend]]", "[global]\nmaxconn = 4\n[[frontend]]", "`maxconn`", "[frontend.limits]"],
    ["\n[[frontend]]", "[defaults]\nmode = \"tcp\"\n[[frontend]]", "`defaults`", "no defaults"],
    ["\n[[frontend]]", "[[listen]]\nname = \"x\"\n[[frontend]]", "`listen`", "[[frontend]] and [[backend]]"],
    // Parts of a section at the top.
    ["\n[[frontend]]", "[[region]]\nname = \"x\"\n[[frontend]]", "unknown key `region`", "write [[backend.region]]"],
    ["\n[[frontend]]", "[[server]]\nname = \"x\"\n[[frontend]]", "unknown key `server`", "write [[backend.server]]"],
    ["\n[[frontend]]", "[check]\nrise = 1\n[[frontend]]", "unknown key `check`", "write [backend.check]"],
    ["\n[[frontend]]", "[limits]\nmax_message = 1\n[[frontend]]", "unknown key `limits`", "write [frontend.limits]"],
    // A value instead of a section.
    [
        "name = \"pbx\"",
        "name = \"pbx\"\ncheck = true",
        "`check` is not a table",
        "write [backend.check] or `check = { ... }`",
    ],
    ["name = \"pbx\"", "name = \"pbx\"\nbreaker = 1", "`breaker` is not a table", "write [backend.breaker] or"],
    // Texts without quotes.
    ["name = \"n1\"", "name = n1", "a text without quotes", "write `\"n1\"`"],
    ["\"udp://10.0.0.9:5060\"", "udp://10.0.0.9:5060", "a text without quotes", "write `\"udp://10.0.0.9:5060\"`"],
    ["name = \"pbx\"", "name = \"pbx\"\ncheck = { interval = 5s }", "a text without quotes", "write `\"5s\"`"],
    ["\"udp://10.0.0.9:5060\"", "10.0.0.9:5060", "a text without quotes", "write `\"10.0.0.9:5060\"`"],
    ["name = \"pbx\"", "name = \"pbx\"\ncheck = { rise = 1 2 }", "not TOML", "see https://toml.io"],
    ["name = \"pbx\"", "name = \"pbx\"\ncheck = { type = none }", "a text without quotes", "write `\"none\"`"],
    [
        "region = \"lagos\"",
        "region = \"lagos\"\nsources = [\"10.0.0.3\", \"10.0.0.300\"]",
        "\"10.0.0.300\" in `sources`",
        "write an address",
    ],
];

#[test]
fn habits_are_told_what_is_wanted() {
    for [from, to, what, remedy] in HABITS {
        assert!(GOOD.contains(from), "{from}");
        let found = faults(&GOOD.replacen(from, to, 1));
        let fault = found.iter().find(|fault| fault.contains(what));
        assert!(fault.is_some_and(|fault| fault.contains(remedy)), "{to}: {what}: {remedy}\n{}", found.join("\n"));
    }
}

#[test]
fn known_keys_are_listed_once() {
    let found = faults(&GOOD.replacen("[frontend.limits]", "[frontend.limits]\nqqqqqqqqqqqqqqqqqqqqqqqq = 1", 1));
    let (_, known) = found[0].split_once(" knows ").unwrap();
    let known: Vec<_> = known.lines().next().unwrap().split(", ").collect();
    let mut once = known.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(known.len(), once.len(), "a key twice: {known:?}");
}

#[test]
fn a_region_without_servers_is_shown() {
    let found = fault(GOOD, "[[backend.server]]", "[[backend.region]]\nname = \"empty\"\n\n[[backend.server]]");
    assert!(found.contains("region \"empty\" of backend \"pbx\" has no server"), "{found}");
    assert!(found.contains("| name = \"empty\""), "{found}");
}

#[test]
fn a_section_has_a_name_and_a_fault_its_place() {
    for name in ["sip", "pbx", "lagos", "n1"] {
        let found = faults(&GOOD.replacen(&format!("name = \"{name}\""), "name = \"\"", 1));
        assert!(found.iter().any(|fault| fault.contains("has an empty `name`")), "{name}: {found:?}");
    }
    for (to, what) in [
        ("name = \"pbx\"\ncheck = { type = \"none\" }\nbreaker = { checks = true }", "counts checks, and its servers"),
        ("name = \"pbx\"\ncheck = { type = \"tcp\" }", "connects, and server"),
    ] {
        let found = fault(&GOOD.replace("backend = \"pbx\"", "backend = \"pbx\" "), "name = \"pbx\"", to);
        assert!(found.contains(what) && found.contains("| [[backend]]"), "{found}");
    }
}

#[test]
fn weights_of_zero_are_seen_across_regions() {
    let text = GOOD.replace("name = \"lagos\"", "name = \"lagos\"\nweight = 70")
        + "weight = 0\n\n[[backend.region]]\nname = \"abuja\"\nweight = 0\n\n\
           [[backend.server]]\nname = \"n2\"\nregion = \"abuja\"\naddress = \"udp://10.0.0.8:5060\"\n";
    assert!(faults(&text).len() == 1 && faults(&text)[0].contains("nobody may serve"), "{:?}", faults(&text));
    let prefers = "name = \"abuja\"\nclients = [\"10.9.0.0/16\"]";
    assert_eq!(faults(&text.replace("name = \"abuja\"", prefers)), [""; 0], "who prefers it is served there");
    assert_eq!(faults(&text.replacen("weight = 0", "weight = 1", 1)), [""; 0]);
}

/// Which answers of a check make a server down, and which let it rest.
#[test]
fn a_code_means_one_thing() {
    let codes = |check: &str| {
        let text = GOOD.replacen("name = \"pbx\"", &format!("name = \"pbx\"\ncheck = {{ {check} }}"), 1);
        let check = Config::parse(&text).unwrap().backends[0].check.clone().unwrap();
        (check.down_codes, check.resting_codes)
    };
    assert_eq!(codes("down_codes = [500, 503]"), (vec![500, 503], vec![]));
    assert_eq!(codes("down_codes = []"), (vec![], vec![503]));
    let (down, resting) = codes("resting_codes = []");
    assert!(down.contains(&408) && down.contains(&500) && !down.contains(&503) && resting.is_empty());
    let (down, resting) = codes("resting_codes = [408, 503]");
    assert!(!down.contains(&408) && down.contains(&500) && resting == [408, 503]);
    let both = "name = \"pbx\"\ncheck = { down_codes = [480], resting_codes = [480] }";
    let found = faults(&GOOD.replacen("name = \"pbx\"", both, 1));
    assert!(found.len() == 1 && found[0].contains("480 is in `down_codes` and in `resting_codes`"), "{found:?}");
}

#[test]
fn a_code_point_is_the_number_that_is_written() {
    for (written, point) in [("24", 24), ("0x18", 24), ("0o56", 46), ("0x2e", 46), ("0b11", 3)] {
        let text = GOOD.replacen("inside =", &format!("dscp = {written}\ninside ="), 1);
        assert_eq!(Config::parse(&text).unwrap().frontends[0].dscp, Some(point), "{written}");
    }
    assert!(fault(GOOD, "inside =", "dscp = 0x40\ninside =").contains("0 to 63"));
}
