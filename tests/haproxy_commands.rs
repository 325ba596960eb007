//! Every command of HAProxy's runtime API, and its errors, said to HAProxy 2.6 and to Trunkline: the same answers, or it is
//! written here why not, and in docs/haproxy.md.

mod support;

use std::io::Write;
use std::net::Shutdown;

use support::haproxy::{Both, SIDES, read};

/// What is answered the same, octet by octet.
const SAME: &[&str] = &[
    // Levels, and the words of this connection.
    "show cli level",
    "operator;show cli level",
    "user;show cli level",
    "user;operator;show cli level",
    "operator;user;operator;show cli level",
    "operator x;user x;show cli level",
    "operator;set server pbx/one state drain",
    "operator;set server",
    "operator;set weight pbx/one 5",
    "operator;disable server pbx/one",
    "operator;enable server pbx/one",
    "operator;clear counters",
    "operator;clear counters all",
    "operator;shutdown session 0x1",
    "operator;shutdown sessions server pbx/one",
    "operator;set maxconn global 5",
    "operator;set maxconn frontend",
    "operator;set rate-limit connections global 5",
    "operator;clear table pbx",
    "operator;set table pbx key 1",
    "operator;add server pbx/new",
    "operator;del server pbx/one",
    "operator;enable agent pbx/one",
    "operator;enable health pbx/one",
    "operator;enable frontend sip",
    "operator;shutdown frontend",
    "operator;set timeout cli 5",
    "user;clear counters",
    "user;show errors",
    "user;show sess",
    "user;show env",
    "user;show peers",
    "user;show backend",
    "user;show table",
    "user;show table pbx",
    "user;show map",
    "user;get weight pbx/one",
    "user;set weight pbx/one 1",
    "user;clear table pbx",
    "user;disable server",
    "user;shutdown session",
    "user;set timeout cli 5",
    "user;set severity-output number",
    // Lines: several commands, what is escaped, blanks, a carriage return, two lines in one piece.
    "get weight pbx/one;get weight pbx/zz",
    "get weight pbx\\/one",
    "get weight pbx/o\\ne",
    "get weight pbx/one\\;",
    "  get   weight   pbx/one  ",
    "get\tweight\tpbx/one",
    "get weight pbx/one\r",
    "get weight pbx/one\nget weight pbx/two",
    "get weight pbx/one extra words",
    "get weight pbx/one # no comment",
    "quit",
    "quit now",
    // How grave it is.
    "set severity-output",
    "set severity-output bogus",
    "set severity-output none",
    "set severity-output number;get weight pbx/zz",
    "set severity-output string;get weight pbx/zz",
    "set severity-output number;get weight pbx/one",
    "set severity-output number;show cli level",
    "set severity-output string;show cli level",
    "set severity-output string;set server pbx/one state bogus",
    "set severity-output number;set server pbx/one weight 300",
    "set severity-output number;set timeout cli x",
    "set timeout cli 5m",
    "set timeout cli 1h",
    "set timeout cli 500ms",
    "set timeout cli 0",
    "set timeout cli 5x",
    "set timeout cli",
    "set severity-output number;enable agent pbx/one",
    "set severity-output number;set severity-output bogus",
    "set severity-output number;show table nosuch",
    "set severity-output number;show stat nosuch -1 -1",
    "set severity-output number;show errors nosuch",
    "set severity-output number;show resolvers nosuch",
    "set severity-output number;show servers state nosuch",
    "set severity-output number;shutdown session 0x1",
    "set severity-output number;user;clear counters",
    // What is shown.
    "show backend",
    "show backend extra",
    "show stat nosuch -1 -1",
    "show servers state nosuch",
    "show servers conn nosuch",
    "show table",
    "show table nosuch",
    "show table pbx",
    "show table nosuch key 1",
    "show table pbx data.gpc0 gt 0",
    "show table pbx data.server_id",
    "show table pbx data.server_id xx 1",
    "show table pbx data.server_id eq",
    "show table pbx data.server_id eq x",
    "show table pbx data.server_id eq 1",
    "show errors nosuch",
    "show errors bogus request",
    "show peers",
    "show peers nosuch",
    "show resolvers nosuch",
    "show startup-logs",
    "show map",
    "show map nosuch",
    "show acl nosuch",
    "show tls-keys",
    "show cache",
    "show ssl cert",
    // Servers: states, weights, health, and what is wrong with them.
    "set server",
    "set server pbx",
    "set server pbx/",
    "set server /one",
    "set server nobe/",
    "set server pbx/one",
    "set server pbx/one bogus",
    "set server pbx/one state",
    "set server pbx/one state bogus",
    "set server pbx/nosuch state drain",
    "set server nobe/nosuch state drain",
    "set server pbx/one state\\ drain",
    "set server pbx/one state drain extra",
    "set server pbx/one state maint",
    "set server #3/#1 state ready",
    "set server pbx/one health",
    "set server pbx/one health bogus",
    "set server pbx/one health up",
    "set server pbx/one weight",
    "set server pbx/one weight 300",
    "set server pbx/one weight 300x",
    "set server pbx/one weight -1",
    "set server pbx/one weight -1%",
    "set server pbx/one weight 257",
    "set server pbx/one weight 99999999999999999999",
    "set server pbx/one weight 0%",
    "get weight pbx/one",
    "set server pbx/one weight 256",
    "get weight pbx/one",
    "set server pbx/one weight 100%",
    "get weight pbx/one",
    "set server pbx/one addr",
    "set server pbx/one fqdn",
    "set server pbx/one agent up",
    "set server pbx/one agent bogus",
    "set server pbx/one agent-send x",
    "set weight",
    "set weight pbx",
    "set weight pbx/one",
    "set weight pbx/one 300",
    "set weight pbx/nosuch 1",
    "set weight nobe/x 1",
    "set weight pbx/one 50%",
    "get weight pbx/one",
    "set weight pbx/one 100%",
    "get weight",
    "get weight pbx",
    "get weight pbx/",
    "get weight pbx/nosuch",
    "get weight nobe/x",
    "get weight 3/1",
    "get weight #3/#1",
    "get weight #9/#1",
    "get weight #3/#9",
    "enable server",
    "enable server pbx",
    "enable server pbx/nosuch",
    "enable server nobe/x",
    "enable server pbx/one",
    "enable server pbx/one extra",
    "disable server",
    "disable server pbx",
    "disable server pbx/nosuch",
    "disable server nobe/x",
    "disable server pbx/one",
    "enable server pbx/one",
    "enable health",
    "enable health pbx",
    "enable health pbx/nosuch",
    "disable health pbx/nosuch",
    "disable health pbx/one",
    "disable health pbx/one",
    "set server pbx/one health stopping",
    "set server pbx/one health up",
    "enable health pbx/one",
    "enable health pbx/one",
    "enable health free/four",
    "disable health free/four",
    "enable agent",
    "enable agent pbx",
    "enable agent pbx/nosuch",
    "enable agent pbx/one",
    "disable agent",
    "disable agent pbx/nosuch",
    "disable agent pbx/one",
    "shutdown session",
    "shutdown session 0x1",
    "shutdown session bogus",
    "shutdown sessions server",
    "shutdown sessions server pbx",
    "shutdown sessions server pbx/nosuch",
    // Frontends, limits, tables, counters, the idle time.
    "enable frontend",
    "enable frontend nosuch",
    "enable frontend sip",
    "disable frontend",
    "disable frontend nosuch",
    "shutdown frontend",
    "shutdown frontend nosuch",
    "set maxconn frontend",
    "set maxconn frontend nosuch",
    "set maxconn frontend nosuch 1",
    "set maxconn frontend sip",
    "set maxconn server",
    "set maxconn server pbx/nosuch 1",
    "set maxconn server pbx/one",
    "set maxconn server pbx/one 100",
    "set maxconn server pbx/one 0",
    "set maxconn global",
    "set rate-limit connections global",
    "set rate-limit sessions global",
    "set rate-limit ssl-sessions global",
    "set rate-limit http-compression global",
    "clear counters",
    "clear counters all",
    "clear counters bogus",
    "clear table",
    "clear table nosuch",
    "clear table pbx",
    "clear table pbx key 1",
    "set table",
    "set table nosuch",
    "set table nosuch key 1",
    "set table pbx key 1",
    "set timeout",
    "set timeout bogus",
    "set timeout cli",
    "set timeout cli x",
    "set timeout cli 20",
    "set timeout cli 20s",
];

/// The same words; HAProxy leaves out the empty line behind them, and so ends in the middle of an answer for whoever waits
/// for that line.
const UNENDED: &[&str] = &[
    "show events bogus",
    "set server pbx/one weight x",
    "set server pbx/one weight 5x",
    "set server pbx/one weight 5%x",
    "set server pbx/one weight %",
    "set weight pbx/one x",
    "set maxconn server pbx/one x",
    "set maxconn server pbx/one 1x",
    "set server pbx/one agent-addr 1.2.3.4",
    "set server pbx/one agent-port 1",
    "set server free/four check-port 80",
    "add server",
    "add server pbx",
    "del server",
    "del server pbx",
    "del server pbx/nosuch",
];

/// What is no command here: both begin alike, each goes on with the commands that it has.
const UNKNOWN: &[&str] = &[
    "",
    "show stats",
    "show cli",
    "show cli bogus",
    "show schema",
    "show ssl",
    "show proc",
    "sh ver",
    "SHOW VERSION",
    "get",
    "get bogus",
    "get\\ weight pbx/one",
    "set",
    "set bogus",
    "set maxconn",
    "set maxconn bogus",
    "enable",
    "enable bogus",
    "disable",
    "disable bogus",
    "shutdown",
    "shutdown sessions",
    "shutdown sessions bogus",
    "clear",
    "clear bogus",
    "add",
    "del",
    "# comment",
    ";get weight pbx/one",
    "set severity-output number;bogus",
    "set severity-output string;bogus",
    "get weight pbx/one;",
    "help",
    "help get",
    "set severity-output number;help get",
];

const FILE: &str = "the configuration is the one place for it; a reload loses nothing";
const INSIDE: &str = "it shows HAProxy's inside";
const OTHER: &str = "each shows what it has";

/// What is answered otherwise: how our answer begins, and why.
const OTHERWISE: &[(&str, &str, &str)] = &[
    ("show version", "2.6.0-trunkline", "the version of the surface, and ours"),
    ("show env", "", "a value may be a secret: names alone"),
    (
        "show cli sockets",
        "# socket lvl processes\nruntime_socket admin all\n",
        "there is one, and it is not named by its path",
    ),
    ("show servers", "trunkline ", "ours: the same as `status`"),
    ("show errors", "Total events captured : 0\n", "no date in the first line"),
    ("show errors -1 request", "Total events captured : 0\n", "no date in the first line"),
    ("show sess", "server ", "calls have no pointer: how many each server has"),
    ("show sess all", "server ", "calls have no pointer: how many each server has"),
    ("show sess 0x1234", "server ", "calls have no pointer: how many each server has"),
    ("show events", "1 ", OTHER),
    ("show resolvers", "Resolvers section default\n", OTHER),
    ("show activity", "thread_id: 1 (1..4)\n", INSIDE),
    ("show pools", "Dumping pools usage.", INSIDE),
    ("show schema json", "{\"$schema\":", "the same keys, described in fewer words"),
    ("show acl", "# id (file) description\n\n", "there are no lists here"),
    ("show ssl cert nosuch", "\n", "certificates are not shown"),
    ("show fd", "Unknown command", INSIDE),
    ("show threads", "Unknown command", INSIDE),
    ("show profiling", "Unknown command", INSIDE),
    ("show trace", "Unknown command", INSIDE),
    ("show libs", "Unknown command", INSIDE),
    ("trace", "Unknown command", INSIDE),
    ("expert-mode", "Unknown command", INSIDE),
    ("experimental-mode on", "Unknown command", INSIDE),
    ("user;show startup-logs", "\n\n", "there is nothing in it to hide"),
    ("set server free/four health up", "health checks are not", "nobody would ever take it back"),
    ("set server pbx/one check-addr 127.0.0.1", "Addresses are changed in the configuration", FILE),
    ("set server pbx/one check-port 80", "Addresses are changed in the configuration", FILE),
    ("set server pbx/one addr bogus", "Addresses are changed in the configuration", FILE),
    ("set server pbx/one addr 127.0.0.1 port 1", "Addresses are changed in the configuration", FILE),
    ("set server pbx/one fqdn x.example", "Addresses are changed in the configuration", FILE),
    ("set server pbx/one ssl", "Addresses are changed in the configuration", FILE),
    ("set server pbx/one ssl on", "Addresses are changed in the configuration", FILE),
    ("set maxconn frontend sip 100", "Limits are set in the configuration", FILE),
    ("set maxconn global 100", "Limits are set in the configuration", FILE),
    ("set rate-limit", "Limits are set in the configuration", FILE),
    ("set rate-limit bogus", "Limits are set in the configuration", FILE),
    ("set rate-limit connections global 100", "Limits are set in the configuration", FILE),
    ("add server pbx/new", "Servers are added and removed", FILE),
    ("add server pbx/new 127.0.0.1:1", "Servers are added and removed", FILE),
    ("del server pbx/one", "Servers are added and removed", FILE),
    ("shutdown sessions server pbx/one", "Calls end at their ends", "only their two ends can end a call"),
    ("get weight /x", "Require 'backend/server'.", "as every other command says it"),
    // Last: HAProxy's frontend is gone after it.
    ("disable frontend sip", "Frontends are added and removed", FILE),
    ("shutdown frontend sip", "Frontends are added and removed", FILE),
];

#[test]
fn every_command_is_answered_as_there_or_it_is_known_why_not() {
    let both = Both::start(6);
    let mut wrong = Vec::new();
    let mut check = |line: &str, is_right: &dyn Fn(&str, &str) -> bool| {
        let [ours, theirs] = both.ask_both(&format!("{line}\n"));
        if !is_right(&ours, &theirs) {
            wrong.push(format!("{line:?}\n  ours   {ours:.200?}\n  theirs {theirs:.200?}"));
        }
    };
    for line in SAME {
        check(line, &|ours, theirs| ours == theirs);
    }
    for line in UNENDED {
        check(line, &|ours, theirs| ours.strip_suffix('\n') == Some(theirs));
    }
    // Up to the list.
    let head = |text: &str| text.split("\n  ").next().unwrap().to_owned();
    for line in UNKNOWN {
        check(line, &|ours, theirs| head(ours) == head(theirs) && ours.ends_with("\n\n"));
    }
    for (line, begins, _) in OTHERWISE {
        check(line, &|ours, theirs| ours.starts_with(begins) && ours.ends_with('\n') && ours != theirs);
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
    both.ours.stop();
}

#[test]
fn a_prompt_and_half_a_line_are_dealt_with_alike() {
    let both = Both::start(7);
    let mut streams = SIDES.map(|side| both.connect(side));
    for line in [
        "prompt",
        "set timeout cli 20",
        "show cli level",
        "get weight pbx/one;get weight pbx/zz",
        "set severity-output number",
        "get weight pbx/zz",
        "set weight pbx/one 70",
        "operator",
        "set weight pbx/one 70",
        "get weight pbx/one\r",
        "  show backend",
    ] {
        let [ours, theirs] = streams.each_mut().map(|stream| {
            stream.write_all(format!("{line}\n").as_bytes()).unwrap();
            // A prompt stands behind each command's answer.
            read(stream, line.split(';').count())
        });
        assert_eq!(ours, theirs, "{line}");
    }
    let rest = streams.each_mut().map(|stream| {
        stream.write_all(b"quit\n").unwrap();
        read(stream, 1)
    });
    assert_eq!(rest, ["", ""]);
    let half = SIDES.map(|side| {
        let mut stream = both.connect(side);
        stream.write_all(b"show version").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read(&mut stream, 1)
    });
    assert_eq!(half, ["", ""], "a line without its end is no command");
    both.ours.stop();
}
