//! What the page, the CSV, the runtime socket and /metrics say agrees with each other and with the ledgers of those who
//! called and answered, to the message.

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;

use serde_json::Value;
use support::http::{admin, get};
use support::process::{Balancer, wait_for, within};
use support::regions::{Net, ROUND, SERVERS, answer, stop};
use trunkline::admin::client::ask;
use trunkline::load::{Generator, Timers};

/// What one of the renderers says of one server.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Said {
    calls: u64,
    requests: u64,
    responses: [u64; 6],
    bytes: [u64; 2],
}

/// The rows of a CSV by column.
fn csv(text: &str) -> Vec<HashMap<&str, &str>> {
    let mut lines = text.lines();
    let names: Vec<_> = lines.next().unwrap().trim_start_matches("# ").split(',').collect();
    let rows = lines.filter(|line| !line.is_empty());
    rows.map(|line| {
        let cells: Vec<_> = line.split(',').collect();
        assert_eq!(cells.len(), names.len(), "{line}");
        names.iter().copied().zip(cells).collect()
    })
    .collect()
}

const CLASSES: [&str; 6] = ["hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other"];

fn by_csv(text: &str, server: &str) -> Said {
    let rows = csv(text);
    let row = rows.iter().find(|row| row["svname"] == server).unwrap_or_else(|| panic!("{server}: {text}"));
    let number = |column: &str| row[column].parse().unwrap_or_else(|_| panic!("{column} of {server}: {row:?}"));
    Said {
        calls: number("stot"),
        requests: number("req_tot"),
        responses: CLASSES.map(number),
        bytes: [number("bin"), number("bout")],
    }
}

/// `S.3.1.7.stot.1:MCP:u64:12`
fn by_typed(text: &str, server: &str) -> Said {
    let cells: Vec<(Vec<&str>, &str)> = text
        .lines()
        .filter(|line| line.starts_with("S."))
        .map(|line| {
            let mut parts = line.splitn(4, ':');
            (parts.next().unwrap().split('.').collect(), parts.nth(2).unwrap())
        })
        .collect();
    let is = |cell: &&(Vec<&str>, &str)| cell.0[4] == "svname" && cell.1 == server;
    let row = &cells.iter().find(is).unwrap_or_else(|| panic!("{server}: {text}")).0[..3];
    let number = |column: &str| {
        let cell = cells.iter().find(|(key, _)| &key[..3] == row && key[4] == column);
        cell.unwrap_or_else(|| panic!("{column} of {server}")).1.parse().unwrap()
    };
    Said {
        calls: number("stot"),
        requests: number("req_tot"),
        responses: CLASSES.map(number),
        bytes: [number("bin"), number("bout")],
    }
}

fn by_page(picture: &Value, server: &str) -> Said {
    let servers = picture["backends"][0]["servers"].as_array().unwrap();
    let row = servers.iter().find(|row| row["name"] == server).unwrap();
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value}"));
    Said {
        calls: number(&row["calls_total"]),
        requests: number(&row["requests"]),
        responses: std::array::from_fn(|class| number(&row["responses"][class])),
        bytes: [number(&row["bytes_in"]), number(&row["bytes_out"])],
    }
}

/// The sum of a family's samples that have all of these labels.
fn metric(text: &str, family: &str, labels: &[&str]) -> u64 {
    let samples = text.lines().filter(|line| line.starts_with(&format!("{family}{{")));
    let own = samples.filter(|line| labels.iter().all(|label| line.contains(label)));
    own.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64).sum()
}

fn by_metrics(text: &str, server: &str) -> Said {
    let own = format!("server=\"{server}\"");
    let of = |family: &str| metric(text, family, &[&own]);
    let class = |class: usize| {
        let digit = (1..=6).nth(class).unwrap();
        let code = |code: &str| metric(text, "trunkline_responses_total", &[&own, &format!("code=\"{code}")]);
        code(&digit.to_string())
    };
    Said {
        calls: of("haproxy_server_sessions_total"),
        requests: of("trunkline_requests_total"),
        responses: std::array::from_fn(class),
        bytes: [of("haproxy_server_bytes_in_total"), of("haproxy_server_bytes_out_total")],
    }
}

/// What all of them say of all servers, once each: in the order page, CSV, socket, /metrics.
fn all(balancer: &Balancer, at: SocketAddr) -> [Vec<Said>; 4] {
    let page: Value = serde_json::from_str(&get(at, "/api/v1/picture")).unwrap();
    let (text, metrics) = (get(at, "/stats;csv"), get(at, "/metrics"));
    let typed = ask(&balancer.folder.path().join("admin.sock"), "show stat typed").unwrap();
    let each = |of: &dyn Fn(&str) -> Said| SERVERS.iter().map(|(name, _)| of(name)).collect();
    [
        each(&|name| by_page(&page, name)),
        each(&|name| by_csv(&text, name)),
        each(&|name| by_typed(&typed, name)),
        each(&|name| by_metrics(&metrics, name)),
    ]
}

#[test]
fn after_ten_thousand_calls_everybody_says_the_same() {
    let (net, starts) = (Net(76), 10_000_u64.next_multiple_of(ROUND));
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let servers = answer(&named, Timers::default());
    let looked_at = net.free(3);
    let frontend = admin(looked_at);
    let check = "check = { type = \"none\" }";
    let (balancer, at) = net.balance_by(["udp", "udp"], &addresses, [&frontend, check, ""]);
    let calls = Generator::start(net.callers(at, starts, 600.0)).unwrap().finish().unwrap();
    let answered = stop(servers);
    assert!(calls.succeeded() && calls.total().answered == starts, "{calls}");
    let counters: Vec<_> = answered.servers.iter().map(|server| &server.counters).collect();
    let of_servers: Vec<_> = counters
        .iter()
        .map(|of| (of.new_calls.get(), of.requests.iter().map(|n| n.get()).sum::<u64>(), of.responses.get()))
        .collect();
    let as_ledger = |said: &Said| (said.calls, said.requests, said.responses.iter().sum::<u64>());
    // A batch is counted when it has left, and a picture is a quarter of a second old.
    let mut said = all(&balancer, looked_at);
    within(std::time::Duration::from_secs(10), || {
        said = all(&balancer, looked_at);
        said.iter().all(|said| said.iter().map(as_ledger).eq(of_servers.iter().copied()))
    });
    for (other, whose) in said.iter().zip(["the page", "the CSV", "the socket", "/metrics"]) {
        assert_eq!(other, &said[0], "{whose}");
    }
    let (text, metrics) = (get(looked_at, "/stats;csv"), get(looked_at, "/metrics"));
    println!("{calls}\n{:?}", said[0]);
    assert_eq!(said[0].iter().map(as_ledger).collect::<Vec<_>>(), of_servers, "what the servers themselves counted");
    // What the whole says is the sum of its parts.
    let rows = csv(&text);
    let [front, back] = ["FRONTEND", "BACKEND"].map(|name| rows.iter().find(|row| row["svname"] == name).unwrap());
    let number = |row: &HashMap<&str, &str>, column: &str| row[column].parse::<u64>().unwrap();
    let sum = |of: &dyn Fn(&Said) -> u64| said[0].iter().map(of).sum::<u64>();
    assert_eq!([number(back, "stot"), number(front, "stot")], [sum(&|said| said.calls); 2]);
    assert_eq!(number(back, "req_tot"), sum(&|said| said.requests));
    for (class, column) in CLASSES.iter().enumerate() {
        assert_eq!(number(back, column), sum(&|said| said.responses[class]), "{column}");
        assert_eq!(
            metric(
                &metrics,
                "haproxy_backend_http_responses_total",
                &[&format!("code=\"{}\"", if class == 5 { "other".to_owned() } else { format!("{}xx", class + 1) })]
            ),
            number(back, column)
        );
    }
    // Every request that a client sent came in: the system lost none.
    let sent = metric(&metrics, "trunkline_frontend_requests_total", &["proxy=\"sip\""]);
    assert_eq!(sent, number(front, "req_tot"));
    wait_for("no call to be left", || {
        let picture: Value = serde_json::from_str(&get(looked_at, "/api/v1/picture")).unwrap();
        picture["backends"][0]["calls"] == 0
    });
    nothing_falls(&balancer, looked_at);
    balancer.stop();
}

/// Two servers leave, and what all have counted stays: Prometheus takes a smaller number for a new start.
fn nothing_falls(balancer: &Balancer, at: SocketAddr) {
    let counted = || {
        let (text, metrics) = (get(at, "/stats;csv"), get(at, "/metrics"));
        let rows = csv(&text);
        let back = rows.iter().find(|row| row["svname"] == "BACKEND").unwrap();
        let sum = metric(&metrics, "haproxy_backend_sessions_total", &[]);
        (
            ["stot", "req_tot", "bin", "bout", "hrsp_2xx", "lbtot"].map(|column| back[column].parse::<u64>().unwrap()),
            sum,
        )
    };
    let before = counted();
    assert!(before.0.iter().all(|n| *n > 0) && before.1 > 0, "{before:?}");
    let file = balancer.folder.path().join("trunkline.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let parts: Vec<_> = text.split("[[backend.server]]").collect();
    let gone = [SERVERS[0].0, SERVERS[1].0];
    let stays = |part: &&&str| !gone.iter().any(|name| part.starts_with(&format!("\nname = \"{name}\"")));
    let kept: Vec<_> = parts.iter().filter(stays).copied().collect();
    assert_eq!(kept.len() + gone.len(), parts.len(), "{text}");
    std::fs::write(&file, kept.join("[[backend.server]]")).unwrap();
    let say = |line: &str| ask(&balancer.folder.path().join("admin.sock"), line).unwrap();
    // Who is in maintenance has no calls to keep, and is gone with the reload.
    gone.iter().for_each(|name| drop(say(&format!("set server pbx/{name} state maint"))));
    let said = say("reload");
    assert!(said.contains("reloaded"), "{said}");
    wait_for("both to be gone", || {
        let now = counted();
        assert_eq!(now, before);
        !gone.iter().any(|name| get(at, "/stats;csv").contains(name))
    });
    // Seconds later what was there is known by what was written down.
    let until = || {
        let history: Value = serde_json::from_str(&get(at, "/api/v1/history")).unwrap();
        history["until"].as_f64().unwrap()
    };
    let gone_at = until();
    wait_for("two seconds more", || {
        assert_eq!(counted(), before);
        until() >= gone_at + 2.0
    });
}

/// However many look, it is read at most four times a second.
#[test]
fn fifty_viewers_see_the_picture_that_one_sees() {
    let net = Net(77);
    let looked_at = net.free(3);
    let frontend = admin(looked_at);
    let check = "check = { type = \"none\" }";
    let (balancer, _) = net.balance_by(["udp", "udp"], &net.servers(), [&frontend, check, ""]);
    let number = || {
        let picture: Value = serde_json::from_str(&get(looked_at, "/api/v1/picture")).unwrap();
        (picture["number"].as_u64().unwrap(), picture["made_at"].as_f64().unwrap())
    };
    let first = number();
    let seen = std::thread::scope(|scope| {
        let viewers: Vec<_> = (0..50).map(|_| scope.spawn(|| (0..20).map(|_| number()).collect::<Vec<_>>())).collect();
        viewers.into_iter().flat_map(|viewer| viewer.join().unwrap()).collect::<Vec<_>>()
    });
    let last = number();
    // Each lived for a quarter of a second at least.
    let most = ((last.1 - first.1) / 0.25).floor() as u64;
    assert!(last.0 - first.0 <= most, "{} pictures in {} s", last.0 - first.0, last.1 - first.1);
    assert_eq!(seen.len(), 1000);
    let mut by_number = HashMap::new();
    assert!(seen.iter().all(|(number, made)| *by_number.entry(number).or_insert(made) == made));
    balancer.stop();
}
