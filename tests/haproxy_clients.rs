//! Programs that were written for HAProxy read and act here, unmodified: HATop, haproxyadmin, Prometheus' HAProxy exporter.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::http::get;
use support::process::{Balancer, Process, output, wait_for};
use support::regions::{Net, SERVERS, answer, stop};
use trunkline::admin::client::ask;
use trunkline::load::{Answerer, Generator, Timers};

/// A balancer with five servers that had some calls.
fn begin(net: &Net) -> (Balancer, Answerer) {
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let servers = answer(&named, Timers::default());
    let check = "check = { type = \"options\", interval = \"200ms\" }";
    let (balancer, at) = net.balance_by(["udp", "udp"], &addresses, ["", check, ""]);
    let calls = Generator::start(net.callers(at, 120, 200.0)).unwrap().finish().unwrap();
    assert!(calls.succeeded(), "{calls}");
    (balancer, servers)
}

fn socket(balancer: &Balancer) -> PathBuf {
    balancer.folder.path().join("admin.sock")
}

/// What a script of tests/clients says, which must end well.
fn run(program: &Path, arguments: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = output(Command::new(program).args(arguments).current_dir(root));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (said, complained) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{program:?} {arguments:?}: {said}\n{complained}");
    said
}

fn status(balancer: &Balancer, server: &str) -> String {
    let stat = ask(&socket(balancer), "show stat").unwrap();
    let row = stat.lines().find(|line| line.starts_with(&format!("pbx,{server},"))).unwrap().to_owned();
    row.split(',').nth(17).unwrap().to_owned()
}

#[test]
fn hatop_shows_every_server_and_its_console_drains_one() {
    let net = Net(78);
    let (balancer, servers) = begin(&net);
    wait_for("checks to have passed", || status(&balancer, "lagos-1") == "UP");
    let socket = socket(&balancer);
    let command = "disable server pbx/lagos-2";
    let said = run(Path::new("python3"), &["tests/clients/hatop.py", socket.to_str().unwrap(), command]);
    for word in ["HAProxy Version: 2.6.0-trunkline", "lagos-1", "asaba-1", "BACKEND", "FRONTEND"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(status(&balancer, "lagos-2"), "MAINT", "{said}");
    balancer.stop();
    stop(servers);
}

#[test]
fn haproxyadmin_reads_drains_and_weighs() {
    let net = Net(79);
    let (balancer, servers) = begin(&net);
    wait_for("checks to have passed", || status(&balancer, "lagos-1") == "UP");
    // tests/setup puts it there.
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/bin/python3");
    let said = run(&python, &["tests/clients/admin.py", socket(&balancer).to_str().unwrap(), "lagos-1"]);
    assert!(said.ends_with("done\n") && said.contains("backend pbx UP"), "{said}");
    assert!(SERVERS.iter().all(|(name, _)| said.contains(&format!("server {name} UP 100 127.0.79."))), "{said}");
    balancer.stop();
    stop(servers);
}

#[test]
fn the_exporter_exports() {
    let net = Net(80);
    let (balancer, servers) = begin(&net);
    wait_for("checks to have passed", || status(&balancer, "lagos-1") == "UP");
    let at = net.free(4);
    let uri = format!("--haproxy.scrape-uri=unix:{}", socket(&balancer).display());
    let listen = format!("--web.listen-address={at}");
    let mut exporter = Process::start(Command::new("prometheus-haproxy-exporter").args([&uri, &listen]));
    exporter.line_with("Listening on");
    let metrics = get(at, "/metrics");
    let value = |sample: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(sample));
        line.unwrap_or_else(|| panic!("{sample}: {metrics}")).trim().to_owned()
    };
    assert_eq!((value("haproxy_up"), value("haproxy_exporter_csv_parse_failures_total")), ("1".into(), "0".into()));
    for (name, _) in SERVERS {
        assert_eq!(value(&format!("haproxy_server_up{{backend=\"pbx\",server=\"{name}\"}}")), "1");
    }
    let stat = ask(&socket(&balancer), "show stat").unwrap();
    let total =
        stat.lines().find(|line| line.starts_with("pbx,BACKEND,")).unwrap().split(',').nth(7).unwrap().to_owned();
    assert_eq!(value("haproxy_backend_sessions_total{backend=\"pbx\"}"), total);
    drop(exporter);
    balancer.stop();
    stop(servers);
}
