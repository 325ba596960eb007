//! Messages that break parsers, one file each in tests/data, written after the categories of RFC 4475 and RFC 5118, and
//! what becomes of each: it is passed on with everything in it as it was, answered, or dropped by name.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use support::calls::feed;
use support::core::{INSIDE, Node, OUTSIDE, Outcome, PHONE, SERVER, addr};
use support::lines::{Pieces, VIA, is_named};
use support::model::{check_agreement, text};
use trunkline::sip::Message;

const CONFIG: &str = r#"
[[frontend]]
name = "sip"
bind = ["udp://203.0.113.10:5060", "udp://[2001:db8:f::10]:5060"]
inside = "10.0.1.10"
aliases = ["sip.lagos.example"]
backend = "pbx"

[[backend]]
name = "pbx"
pin = { size = 1000 }
[[backend.server]]
name = "k"
address = "udp://10.0.10.11:5060"
"#;

const V6_PHONE: &str = "[2001:db8::9]:5060";
const V6_OUTSIDE: &str = "[2001:db8:f::10]:5060";

/// What becomes of a message.
#[derive(Clone, Copy)]
enum Fate {
    /// A request goes to the server.
    Server,
    /// A response goes to this client.
    Client(&'static str),
    /// It is answered with this status, and counted as this.
    Answer(u16, &'static str),
    Drop(&'static str),
}

use Fate::{Answer, Client, Drop, Server};

const BAD: Fate = Answer(400, "malformed");

/// File, fate, and the section that has one like it (4475 where no RFC is named).
const CASES: [(&str, Fate, &str); 66] = [
    // What only looks broken.
    ("spread-out", Server, "3.1.1.1"),
    ("odd-method", Server, "3.1.1.2"),
    ("escaped-user", Server, "3.1.1.3"),
    ("escaped-nul", Server, "3.1.1.4"),
    ("percent-is-no-escape", Server, "3.1.1.5"),
    ("no-blank-before-angle", Server, "3.1.1.6"),
    ("long-values", Server, "3.1.1.7"),
    ("trailing-octets", Server, "3.1.1.8: the octets behind it go nowhere"),
    ("semicolon-in-user", Server, "3.1.1.9"),
    ("many-transports", Server, "3.1.1.10"),
    ("binary-multipart", Server, "3.1.1.11"),
    ("utf8-reason", Client(PHONE), "3.1.1.12"),
    ("no-reason", Client(PHONE), "3.1.1.13"),
    // What is broken.
    ("empty-parameters", Drop("unanswerable"), "3.1.2.1: an answer would go by the very Via that nobody can read"),
    ("length-too-large", BAD, "3.1.2.2"),
    ("length-negative", BAD, "3.1.2.3"),
    ("overflowing-request", BAD, "3.1.2.4"),
    ("overflowing-hops", BAD, "3.1.2.4"),
    ("overflowing-response", Drop("unanswerable"), "3.1.2.5"),
    ("unbalanced-quote", Server, "3.1.2.6: of To only the tag is needed"),
    ("angled-request-uri", BAD, "3.1.2.7"),
    ("blanks-in-request-uri", BAD, "3.1.2.8"),
    ("blanks-in-start-line", BAD, "3.1.2.9"),
    ("blanks-behind-start-line", BAD, "3.1.2.10"),
    ("continued-start-line", BAD, "ours: it would continue what we write behind the start line"),
    ("headers-in-request-uri", BAD, "3.1.2.11"),
    // The server's business: routing does not need it (docs/rules.md 3).
    ("date-without-gmt", Server, "3.1.2.12"),
    ("bare-contact-with-question-mark", Server, "3.1.2.13"),
    ("blanks-inside-angles", Server, "3.1.2.14"),
    ("comma-in-bare-name", Server, "3.1.2.15"),
    ("version-seven", Answer(505, "version"), "3.1.2.16"),
    ("version-two-point-one", Answer(505, "version"), "3.1.2.16"),
    ("method-mismatch", BAD, "3.1.2.17"),
    ("unknown-method-mismatch", BAD, "3.1.2.18"),
    ("method-in-lower-case", BAD, "3.1.2.17: methods are case-sensitive"),
    ("status-too-large", Drop("not_sip"), "3.1.2.19"),
    // Transactions and applications.
    ("cookie-only-branch", Server, "3.2.1: as a client of RFC 2543"),
    ("nothing-to-answer", Drop("unanswerable"), "3.3.1: an answer would lack From, To and Call-ID"),
    ("unknown-scheme-elsewhere", Server, "3.3.2: not addressed to us"),
    ("unknown-scheme-at-us", Answer(416, "unknown_scheme"), "3.3.2"),
    ("dotted-scheme", Server, "3.3.3"),
    ("unknown-schemes-in-headers", Server, "3.3.4"),
    ("proxy-require", Answer(420, "unknown_extension"), "3.3.5"),
    ("unknown-body-type", Server, "3.3.6"),
    ("unknown-authorization", Server, "3.3.7"),
    ("repeated-singles", BAD, "3.3.8"),
    ("two-lengths", BAD, "3.3.9"),
    ("broadcast-response", Drop("bad_destination"), "3.3.10"),
    ("no-hops-options", Answer(200, "answered"), "3.3.11"),
    ("no-hops-invite", Answer(483, "too_many_hops"), "3.3.11"),
    ("contact-parameter-outside", Server, "3.3.12"),
    ("contact-parameter-inside", Server, "3.3.13"),
    ("escaped-route-in-contact", Server, "3.3.14"),
    ("accepts-no-sdp", Server, "3.3.15"),
    ("rfc2543-invite", Server, "3.4.1"),
    // IPv6.
    ("v6-everywhere", Server, "RFC 5118 4.1"),
    ("v6-without-brackets", Server, "RFC 5118 4.2: the server's business, nothing here goes by it"),
    ("v6-port-inside-brackets", Server, "RFC 5118 4.3"),
    ("v6-port-behind-brackets", Server, "RFC 5118 4.4"),
    ("v6-received-bare", Client("[2001:db8::9:255]:5060"), "RFC 5118 4.5"),
    ("v6-received-in-brackets", Client("[2001:db8::9:255]:5070"), "RFC 5118 4.5"),
    ("v6-in-sdp", Server, "RFC 5118 4.6"),
    ("v4-and-v6-in-sdp", Server, "RFC 5118 4.8"),
    ("v4-and-v6-vias", Server, "RFC 5118 4.7"),
    ("v6-mapped-v4", Server, "RFC 5118 4.9"),
    ("v6-three-colons", Server, "RFC 5118 4.10"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name).with_extension("sip")).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Where a message of the table comes from and to.
fn road(name: &str, fate: Fate, bytes: &[u8]) -> (&'static str, &'static str) {
    match fate {
        _ if bytes.starts_with(b"SIP/") => (SERVER, INSIDE),
        Server if name.starts_with('v') && name[1..].starts_with(['4', '6']) => (V6_PHONE, V6_OUTSIDE),
        _ => (PHONE, OUTSIDE),
    }
}

/// All header lines but those that must change, in their order, and the body are as they were.
fn check_untouched(name: &str, before: &[u8], after: &[u8]) {
    let end = Message::parse(before).unwrap().end as usize;
    let (old, new) = (Pieces::of(&before[..end]), Pieces::of(after));
    assert_eq!((text(&new.start), text(&new.rest)), (text(&old.start), text(&old.rest)), "{name}");
    let fixed = |line: &&Vec<u8>| !is_named(line, VIA) && !is_named(line, &["max-forwards"]);
    let mut sent = new.lines.iter().filter(fixed);
    for line in old.lines.iter().filter(fixed) {
        assert!(sent.any(|other| other == line), "{name}: {}", text(line));
    }
    assert_eq!(Message::parse(after).unwrap().fault, None, "{name}");
}

#[test]
fn every_message_meets_its_fate() {
    let mut node = Node::new(CONFIG);
    for (name, fate, section) in CASES {
        let bytes = read(name);
        let (from, to) = road(name, fate, &bytes);
        // What is no SIP at all is counted in front of the core.
        if let Drop("not_sip") = fate {
            assert!(Message::parse(&bytes).is_err(), "{name}: {section}");
            continue;
        }
        let counter = match fate {
            Server => "requests_to_servers",
            Client(_) => "responses_to_clients",
            Answer(_, counter) | Drop(counter) => counter,
        };
        println!("{name}: {section}");
        let outcome = feed(&mut node, addr(from), addr(to), &bytes, counter);
        match (fate, &outcome) {
            (Server, Outcome::Sent { to, bytes: sent, .. }) => {
                assert_eq!(*to, addr(SERVER), "{name}");
                check_untouched(name, &bytes, sent);
            }
            (Client(client), Outcome::Sent { to, bytes: sent, .. }) => {
                assert_eq!(*to, addr(client), "{name}");
                check_untouched(name, &bytes, sent);
            }
            (Answer(status, _), Outcome::Answered { .. }) => assert_eq!(outcome.status(), Some(status), "{name}"),
            (Drop(_), Outcome::Dropped(_)) => {}
            _ => panic!("{name}, {section}: {outcome:?}"),
        }
        node.now.0 += 1_000_000_000;
    }
}

#[test]
fn every_file_is_in_the_table_and_both_parsers_agree_about_it() {
    let files: BTreeSet<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sip"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let named = CASES.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(files, named);
    for name in files {
        assert_eq!(check_agreement(&read(&name)), Ok(()), "{name}");
    }
}

/// Cut anywhere, nothing panics, and no piece of a message is taken for the whole of it.
#[test]
fn every_message_cut_at_every_place_is_judged_without_a_panic() {
    let mut node = Node::new(CONFIG);
    for (name, fate, _) in CASES {
        let bytes = read(name);
        let (from, to) = road(name, fate, &bytes);
        let step = 1 + bytes.len() / 500;
        for cut in (0..bytes.len()).step_by(step) {
            node.now.0 += 1_000_000_000;
            let outcome = node.receive(addr(from), addr(to), &bytes[..cut]);
            let whole = Message::parse(&bytes[..cut]).is_ok_and(|message| message.fault.is_none());
            assert_eq!(matches!(outcome, Outcome::Sent { .. }), whole && sendable(fate), "{name} cut at {cut}");
        }
    }
}

fn sendable(fate: Fate) -> bool {
    matches!(fate, Server | Client(_))
}
