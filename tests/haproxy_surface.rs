//! The same servers behind HAProxy 2.6 and behind Trunkline, asked and told the same. What differs stands here with its
//! reason, and in docs/haproxy.md; what is no longer different must not stand here.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use support::haproxy::{Both, SIDES, csv, name_of};
use support::process::{DEADLINE, wait_for, within};

/// Cells that only one of both fills: row, column, who fills it, why. A server's are those of any of its states.
const CELLS: &[(&str, &str, &str, &str)] = &[
    ("server", "hanafail", "ours", "live traffic is always watched, as with HAProxy's `observe`"),
    ("server", "last_chk", "ours", "a check that passed says what was answered"),
];

/// Where rows are typed or JSON, their fields are called, tagged and typed alike.
fn shapes(typed: &str) -> BTreeMap<String, String> {
    let lines = typed.lines().filter(|line| !line.is_empty());
    let shape = |line: &str| {
        let mut parts = line.splitn(4, ':');
        let (name, tags, kind) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        (name.to_owned(), format!("{tags}:{kind}"))
    };
    lines.map(shape).collect()
}

/// The cells that one of both fills and the other does not.
fn unlike(both: &Both, found: &mut BTreeSet<(String, String, String)>) {
    let [ours, theirs] = SIDES.map(|side| both.rows(side));
    let names = |rows: &[BTreeMap<String, String>]| rows.iter().map(name_of).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs), "the rows, in this order");
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let kind = match &*ours["svname"] {
            of @ ("FRONTEND" | "BACKEND") => of,
            _ => "server",
        };
        for (column, cell) in ours {
            let who = match (cell.is_empty(), theirs[column].is_empty()) {
                (false, true) => "ours",
                (true, false) => "theirs",
                _ => continue,
            };
            found.insert((kind.to_owned(), column.clone(), who.to_owned()));
        }
    }
}

#[test]
fn show_stat_has_the_columns_and_the_cells_of_haproxy() {
    let both = Both::start(1);
    let [ours, theirs] = both.ask_both("show stat\n");
    let header = |text: &str| text.lines().next().unwrap().split_once(",-,").unwrap().0.to_owned();
    assert_eq!(header(&ours), header(&theirs));
    let http = SIDES.map(|side| get(both.stats[side], "/stats;csv").body);
    for (socket, http) in [&ours, &theirs].into_iter().zip(&http) {
        assert!(socket.ends_with(",\n\n") && !socket.ends_with("\n\n\n"), "an empty line ends it: {socket}");
        assert!(http.ends_with(",\n") && !http.ends_with("\n\n"), "and none does over HTTP: {http}");
        assert_eq!(csv(http).len(), csv(socket).len());
    }
    let mut found = BTreeSet::new();
    unlike(&both, &mut found);
    for line in ["state drain", "state maint", "health down", "health stopping", "weight 0"] {
        // What was in maintenance is not checked anew at once.
        both.ask_both("set server pbx/one state ready;set server pbx/one health up\n");
        both.ask_both(&format!("set server pbx/one {line}\n"));
        // How soon the next check comes is not compared.
        let status = |side: usize| both.rows(side)[1]["status"].replace("DOWN 1/2", "DOWN");
        let is_same = || both.rows(0)[1]["weight"] == both.rows(1)[1]["weight"] && status(0) == status(1);
        assert!(within(DEADLINE, is_same), "{line}: {} {}", status(0), status(1));
        unlike(&both, &mut found);
    }
    let listed = CELLS.iter().map(|(row, column, who, _)| [row, column, who].map(|word| (*word).to_owned()).into());
    assert_eq!(found, listed.collect(), "found, and listed");
    both.ours.stop();
}

#[test]
fn typed_lines_and_json_have_haproxy_s_names_tags_and_types() {
    let both = Both::start(2);
    let [ours, theirs] = both.ask_both("show stat typed\n").map(|text| shapes(&text));
    let shared: Vec<_> = theirs.iter().filter(|(name, _)| ours.contains_key(*name)).collect();
    assert!(shared.len() > 200, "{}", shared.len());
    for (name, shape) in shared {
        assert_eq!(&ours[name], shape, "{name}");
    }
    let [ours, theirs] = both.ask_both("show stat json\n").map(|text| json(&text));
    let cells = |value: &Value| {
        let cells = value.as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
        cells.map(|cell| (where_of(cell), shape_of(cell))).collect::<BTreeMap<_, _>>()
    };
    let (ours, theirs) = (cells(&ours), cells(&theirs));
    let shared: Vec<_> = theirs.iter().filter(|(name, _)| ours.contains_key(*name)).collect();
    assert!(shared.len() > 200, "{}", shared.len());
    for (name, shape) in shared {
        assert_eq!(&ours[name], shape, "{name}");
    }
    both.ours.stop();
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Which field of which object it is.
fn where_of(cell: &Value) -> String {
    let field = &cell["field"];
    format!("{} {} {} {} {}", cell["objType"], cell["proxyId"], cell["id"], field["pos"], field["name"])
}

/// Everything but the value: the keys, the tags, the type.
fn shape_of(cell: &Value) -> String {
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let (tags, of) = (&cell["tags"], &cell["value"]);
    let tags = ["origin", "nature", "scope"].map(|key| &tags[key]);
    format!("{:?} {:?} {tags:?} {}", keys(cell), keys(of), of["type"])
}

#[test]
fn show_info_has_haproxy_s_lines_in_its_order() {
    let both = Both::start(3);
    let names = |text: &String| {
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.map(|line| line.split(": ").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let [ours, theirs] = both.ask_both("show info\n");
    assert_eq!(names(&ours), names(&theirs));
    for text in [&ours, &theirs] {
        assert!(text.lines().take(9).all(|line| line.matches(':').count() == 1), "{text}");
    }
    let in_order = |text: &String| {
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.map(|line| line.splitn(4, ':').take(3).collect::<Vec<_>>().join(":")).collect::<Vec<_>>()
    };
    let [ours, theirs] = both.ask_both("show info typed\n");
    assert_eq!(in_order(&ours), in_order(&theirs));
    let [ours, theirs] = both.ask_both("show info json\n").map(|text| json(&text));
    let cells = |value: &Value| {
        let cells = value.as_array().unwrap().iter();
        cells.map(|cell| (where_of(cell), shape_of(cell))).collect::<Vec<_>>()
    };
    assert_eq!(cells(&ours), cells(&theirs));
    both.ours.stop();
}

/// Columns of `show servers state` that differ, and why.
const STATE: &[(&str, &str)] = &[("bk_f_forced_id", "the numbers of backends are not written in our configuration")];

#[test]
fn show_servers_state_and_conn_have_haproxy_s_columns() {
    let both = Both::start(4);
    let [ours, theirs] = both.ask_both("show servers state\n");
    let table = |text: &String| {
        let lines = text.lines().filter(|line| !line.is_empty());
        lines.map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let (ours, theirs) = (table(&ours), table(&theirs));
    assert_eq!(ours[..2], theirs[..2], "the version of the format, and the columns");
    assert_eq!(ours.len(), theirs.len());
    let mut found = BTreeSet::new();
    for (ours, theirs) in ours.iter().zip(&theirs).skip(2) {
        assert_eq!((ours.len(), theirs.len()), (25, 25));
        let columns = theirs.iter().zip(ours).enumerate().filter(|(_, (theirs, ours))| theirs != ours);
        found.extend(columns.map(|(at, _)| table(&both.ask(1, "show servers state\n"))[1][at + 1].clone()));
    }
    // Both count seconds, and ask a moment apart.
    found.remove("srv_time_since_last_change");
    assert_eq!(found, STATE.iter().map(|(column, _)| (*column).to_owned()).collect());
    let [ours, theirs] = both.ask_both("show servers conn\n").map(|text| table(&text));
    assert_eq!(ours[0], theirs[0]);
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!((&ours[..4], ours.len()), (&theirs[..4], theirs.len()));
    }
    both.ours.stop();
}

/// What is done to both.
const STEPS: &[&str] = &[
    "set server pbx/one state drain",
    "set server pbx/two state drain",
    "set server pbx/two state ready",
    "set server pbx/one state ready",
    "set server pbx/one state maint",
    "set server pbx/one state ready",
    "set server pbx/one health up",
    "set server pbx/one weight 50%",
    "set server pbx/one weight 100%",
    "set weight pbx/one 0",
    "set weight pbx/one 7",
    "set weight pbx/one 70",
    "disable server pbx/one",
    "enable server pbx/one",
    "set server pbx/one health up",
    "set server pbx/one health stopping",
    "set server pbx/one state drain",
    "set server pbx/one state ready",
    "set server pbx/one health up",
    "set server pbx/one health down",
    "set server pbx/two health down",
    "set server pbx/three health down",
    "set server pbx/three health up",
    "set server pbx/one state drain",
    "set server pbx/one state maint",
    "set server pbx/one health up",
    "set server pbx/one state ready",
    "set server pbx/one health up",
    "disable server free/four",
    "enable server free/four",
    "set server free/four state drain",
    "set server free/four state ready",
];

/// Words that differ after a step: theirs, ours, why.
const WORDS: &[(&str, &str, &str)] =
    &[("one UP 1/3 70", "one UP 70", "what was known of its health before it was taken out counts still")];

#[test]
fn the_same_dance_has_the_same_steps() {
    let both = Both::start(5);
    // How soon the next check comes is not compared.
    let figure = |side: usize| {
        let columns = ["status", "weight", "act", "bck", "uweight"];
        let of = |row: &BTreeMap<String, String>| columns.map(|column| row[column].as_str()).join(" ");
        both.rows(side)[1..]
            .iter()
            .map(|row| format!("{} {}", row["svname"], of(row)))
            .collect::<Vec<_>>()
            .join(", ")
            .replace("DOWN 1/2", "DOWN")
    };
    let (mut wrong, mut needed) = (Vec::new(), BTreeSet::<&str>::new());
    for line in STEPS {
        assert_eq!(both.ask_both(&format!("{line}\n")), ["\n", "\n"], "{line}");
        let theirs = figure(1);
        let as_listed = WORDS.iter().fold(theirs.clone(), |figure, (theirs, ours, _)| figure.replace(theirs, ours));
        let is_listed = || figure(0) == as_listed;
        if !within(Duration::from_secs(3), || figure(0) == theirs || is_listed()) {
            wrong.push(format!("{line}\n  ours   {}\n  theirs {theirs}", figure(0)));
        }
        needed.extend(WORDS.iter().map(|(word, ..)| *word).filter(|word| theirs.contains(word)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(needed.len(), WORDS.len(), "these are listed and gone: {needed:?}");
    both.ours.stop();
}

/// What comes over HTTP.
struct Page {
    status: String,
    headers: BTreeMap<String, String>,
    body: String,
}

fn get(at: SocketAddr, path: &str) -> Page {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (status, lines) = head.split_once("\r\n").unwrap();
    let headers: BTreeMap<_, _> = lines
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let body = if headers.contains_key("transfer-encoding") { joined(body) } else { body.to_owned() };
    Page { status: status.to_owned(), headers, body }
}

/// The chunks of a body, one behind the other.
fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let (chunk, rest) = rest.split_at(usize::from_str_radix(length, 16).unwrap());
        body += chunk;
        chunks = rest.strip_prefix("\r\n").unwrap_or_default();
    }
    body
}

#[test]
fn the_stats_page_s_other_forms_have_the_same_headers_and_choose_the_same_rows() {
    let both = Both::start(8);
    let down = "set server pbx/two health down;disable server pbx/three\n";
    assert_eq!(both.ask_both(down), ["\n\n", "\n\n"]);
    wait_for("two is down and three is in maintenance", || {
        let rows = SIDES.map(|side| both.rows(side));
        rows.iter().all(|rows| rows[2]["status"].starts_with("DOWN") && rows[3]["status"] == "MAINT")
    });
    for path in [
        "/stats;csv",
        "/stats/;csv",
        "/stats?;csv",
        "/stats;csv;norefresh",
        "/stats;csv;up",
        "/stats;csv;no-maint",
        "/stats;csv;up;no-maint;norefresh",
        "/stats;csv?scope=pb",
        "/stats;csv?scope=free",
        "/stats;csv?scope=nosuch",
        "/stats;csv?scope=PBX",
        "/stats;csv;scope=one",
        "/stats;typed",
        "/stats;typed;norefresh",
        "/stats;json",
        "/stats;json;norefresh",
        "/stats;json-schema",
    ] {
        let [ours, theirs] = both.stats.map(|at| get(at, path));
        let head = |page: &Page| {
            let headers = ["content-type", "cache-control", "refresh"].map(|name| page.headers.get(name).cloned());
            (page.status.clone(), headers)
        };
        assert_eq!(head(&ours), head(&theirs), "{path}");
        let chosen = |page: &Page| match path {
            _ if path.contains(";csv") => csv(&page.body).iter().map(name_of).collect::<Vec<_>>(),
            _ if path.contains(";typed") => {
                page.body.lines().filter(|line| line.contains(".svname.")).map(str::to_owned).collect()
            }
            _ => vec![json(&page.body).is_array().to_string()],
        };
        assert_eq!(chosen(&ours), chosen(&theirs), "{path}");
    }
    for [ours, theirs] in ["up", "no-maint", "-1 4 -1", "3 -1 -1", "pbx -1 2", "-1 1 -1", "9 -1 -1", "pbx", "-1 2 0 up"]
        .map(|options| both.ask_both(&format!("show stat {options}\n")))
    {
        let names = |text: &str| csv(text).iter().map(name_of).collect::<Vec<_>>();
        assert_eq!(names(&ours), names(&theirs));
    }
    both.ours.stop();
}
