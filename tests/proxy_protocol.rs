//! The PROXY protocol with HAProxy and nginx at either end: they tell us whom they speak for, and we tell them.
#![allow(clippy::disallowed_methods, reason = "a test waits with a deadline")]

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use support::http::{admin, get};
use support::process::{Balancer, DEADLINE, Process, wait_for};
use support::regions::Net;
use support::streams::{connect_from, header, invite, is_closed, serve_tcp};
use trunkline::sip::proxy_protocol::{Proxied, Version, write};

const WORKERS: usize = 4;

/// Who sends headers: where it listens, and where it connects to.
struct Senders {
    haproxy: String,
    nginx: String,
    source: Ipv4Addr,
}

impl Senders {
    fn add(&mut self, kind: &str, at: SocketAddr, to: SocketAddr) {
        let source = self.source;
        match kind {
            "nginx" => {
                self.nginx +=
                    &format!("server {{ listen {at}; proxy_pass {to}; proxy_protocol on; proxy_bind {source}; }}\n");
            }
            option => {
                self.haproxy +=
                    &format!("listen {option}-{}\n  bind {at}\n  server s {to} {option} source {source}\n", at.port());
            }
        }
    }
}

/// HAProxy and nginx with these senders, and with receivers that answer every request with whom it came from.
fn start(folder: &std::path::Path, senders: &Senders, [haproxy, nginx]: [SocketAddr; 2]) -> [Process; 2] {
    let place = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "global\n  nbthread 1\n  maxconn 500\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n\
         {}frontend receiver\n  mode http\n  bind {haproxy} accept-proxy\n  \
         http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port]\"\n",
        senders.haproxy
    );
    std::fs::write(place("haproxy.cfg"), text).unwrap();
    let text = format!(
        "daemon off;\nmaster_process off;\nuser root;\nerror_log {0};\npid {1};\n\
         load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nevents {{}}\nhttp {{ access_log off; server {{ \
         listen {nginx} proxy_protocol; location / {{ return 200 \"$proxy_protocol_addr:$proxy_protocol_port\"; }} }} }}\n\
         stream {{\n{2}}}\n",
        place("nginx.log"),
        place("nginx.pid"),
        senders.nginx
    );
    std::fs::write(place("nginx.conf"), text).unwrap();
    let started = [
        Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(place("haproxy.cfg"))),
        Process::start(Command::new("nginx").arg("-c").arg(place("nginx.conf"))),
    ];
    for at in [haproxy, nginx] {
        wait_for("the receivers listen", || TcpStream::connect(at).is_ok());
    }
    started
}

/// What is answered to a request from this host, and from where it was sent.
fn ask(from: Ipv4Addr, at: SocketAddr, before: &[u8]) -> (String, SocketAddr) {
    let mut stream = connect_from(from.into(), at);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    let own = stream.local_addr().unwrap();
    // Whoever is turned away may be so before it has said all.
    for piece in before.chunks(5) {
        let _ = stream.write_all(piece);
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
    if !before.is_empty() {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    // A reset is an answer too: none.
    let _ = stream.read_to_end(&mut answer);
    (String::from_utf8(answer).unwrap(), own)
}

/// A relay before each receiver for each version that it is told in, and to each of them a road from each sender.
fn relays(
    net: &Net,
    senders: &mut Senders,
    receivers: [SocketAddr; 2],
) -> (String, Vec<SocketAddr>, Vec<(String, SocketAddr)>) {
    let (mut config, mut roads, mut relays) = (String::new(), Vec::new(), Vec::new());
    let listed = senders.source;
    for (to, receiver) in ["haproxy", "nginx"].iter().zip(receivers) {
        // A server stands in one backend only: each version has an address of its own that leads there.
        for version in ["v1", "v2"] {
            let (at, way) = (net.free(1), net.free(23));
            forward(way, receiver);
            config += &format!(
                "[[frontend]]\nname = \"{to}-{version}\"\nmode = \"relay\"\nbind = \"tcp://{at}\"\nbackend = \"{to}-{version}\"\n\
                 accept_proxy = [\"{listed}\"]\n[frontend.limits]\ndeny = [\"{}\"]\n\
                 [[backend]]\nname = \"{to}-{version}\"\nsend_proxy = \"{version}\"\ncheck = {{ type = \"none\" }}\n\
                 [[backend.server]]\nname = \"s\"\naddress = \"tcp://{way}\"\n",
                net.ip(150)
            );
            relays.push(at);
            for from in ["send-proxy", "send-proxy-v2", "nginx"] {
                let door = net.free(24);
                senders.add(from, door, at);
                roads.push((format!("{from} -> {version} {to}"), door));
            }
        }
    }
    (config, relays, roads)
}

#[test]
fn whoever_is_believed_is_believed_and_told_on_and_nobody_else() {
    let net = Net(111);
    let (listed, client) = (net.ip(40), net.ip(130));
    let receivers = [net.free(21), net.free(22)];
    let mut senders = Senders { haproxy: String::new(), nginx: String::new(), source: listed };
    let (looked_at, sip, pbx) = (net.free(3), net.free(1), net.free(11));
    let mut config = admin(looked_at);
    let (sections, relays, roads) = relays(&net, &mut senders, receivers);
    config += &sections;
    config += &format!(
        "[[frontend]]\nname = \"sip\"\nbind = \"tcp://{sip}\"\naccept_proxy = [\"{listed}\"]\ninside = \"{}\"\nbackend = \"pbx\"\n\
         source_header = \"X-Source\"\n[[backend]]\nname = \"pbx\"\ncheck = {{ type = \"none\" }}\n\
         [[backend.server]]\nname = \"p\"\naddress = \"tcp://{pbx}\"\n",
        net.ip(2)
    );
    // Its server believes headers, and it sends none.
    let (trusted, trusted_door, way) = (net.free(1), net.free(24), net.free(23));
    forward(way, receivers[0]);
    config += &format!(
        "[[frontend]]\nname = \"trusted\"\nmode = \"relay\"\nbind = \"tcp://{trusted}\"\nbackend = \"trusted\"\n\
         accept_proxy = [\"{listed}\"]\n[[backend]]\nname = \"trusted\"\ncheck = {{ type = \"none\" }}\n\
         [[backend.server]]\nname = \"s\"\naddress = \"tcp://{way}\"\n"
    );
    senders.add("send-proxy", trusted_door, trusted);
    let sip_door = net.free(25);
    senders.add("send-proxy-v2", sip_door, sip);
    let (seen, requests) = channel();
    serve_tcp(TcpListener::bind(pbx).unwrap(), seen, 0);
    let balancer = Balancer::start(WORKERS, &config);
    let _peers = start(balancer.folder.path(), &senders, receivers);

    for (road, door) in &roads {
        wait_for("the senders listen", || TcpStream::connect(door).is_ok());
        let (answer, own) = ask(client, *door, b"");
        assert!(answer.ends_with(&format!("\r\n\r\n{own}")), "{road}: {own}: {answer}");
    }
    // Who speaks for himself is told on as himself.
    let (answer, own) = ask(client, relays[0], b"");
    assert!(answer.ends_with(&format!("\r\n\r\n{own}")), "{own}: {answer}");
    // Lists are about who it is for.
    assert_eq!(ask(net.ip(150), roads[0].1, b"").0, "");

    // A call by a connection that HAProxy opened.
    let mut caller = connect_from(client.into(), sip_door);
    caller.write_all(invite(1, "TCP").as_bytes()).unwrap();
    let (_, request) = requests.recv_timeout(DEADLINE).unwrap();
    let own = caller.local_addr().unwrap();
    assert_eq!(header(&request, "X-Source"), format!("sip:{own};transport=tcp"));
    assert!(request.contains(&format!("received={}", own.ip())) || request.contains("rport"), "{request}");

    let proxied = Proxied { source: ([10, 9, 9, 9], 999).into(), destination: ([10, 9, 9, 8], 998).into() };
    for version in [Version::V1, Version::V2] {
        let forged = write(version, Some(proxied));
        for at in [trusted, trusted_door] {
            assert_eq!(ask(client, at, &forged).0, "", "{version:?}: it goes no further");
        }
        // Its second version begins like a keepalive, which has its answer.
        assert!(["", "\r\n"].contains(&ask(client, sip, &forged).0.as_str()), "{version:?}");
    }
    // Who should say it and does not: at once, and never.
    assert_eq!(ask(listed, relays[0], b"").0, "");
    assert_eq!(ask(listed, relays[0], b"PROXY TCP4 1.2.3.4 nonsense\r\n").0, "");
    assert!(is_closed(&connect_from(listed.into(), relays[0])));
    let ends = |proxy: &str, reason: &str| {
        let metrics = get(looked_at, "/metrics");
        let begin = format!("trunkline_connections_ended_total{{proxy=\"{proxy}\",reason=\"{reason}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&begin)?.parse::<u64>().ok()).unwrap_or(0)
    };
    for (proxy, reason, count) in [
        ("trusted", "forged_proxy_header", 4),
        ("haproxy-v1", "no_proxy_header", 3),
        ("haproxy-v1", "denied", 1),
        ("sip", "not_sip", 2),
    ] {
        wait_for(reason, || ends(proxy, reason) == count);
    }
    balancer.stop();
}

/// Another address of the same server.
fn forward(at: SocketAddr, to: SocketAddr) {
    let listener = TcpListener::bind(at).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(to).unwrap();
            let ways = [(stream.try_clone().unwrap(), server.try_clone().unwrap()), (server, stream)];
            for (mut from, mut to) in ways {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    to.shutdown(Shutdown::Write)
                });
            }
        }
    });
}
