//! SIP over TCP beside HAProxy, nginx and Kamailio, handshakes of TLS beside HAProxy, and relays of connections beside both.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::contestant::{each, nginx_with, trunkline_with};
use super::load::{SIZE, number};
use super::process::{Program, free};
use super::rounds::{Load, Part, Sample};
use super::table::{Mark, version};
use super::talk::{self, Manner};
use super::{BALANCER_CORE, LOAD_CORE, Plan};

/// Several, for the ports of connections that were closed rest for a while.
const CLIENTS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(127, 0, 1, 86),
    Ipv4Addr::new(127, 0, 1, 87),
    Ipv4Addr::new(127, 0, 1, 88),
    Ipv4Addr::new(127, 0, 1, 89),
];
const SERVERS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(127, 0, 3, 86), Ipv4Addr::new(127, 0, 3, 87), Ipv4Addr::new(127, 0, 3, 88)];

const STREAMS: Part = Part {
    mark: Mark("streams"),
    who: &["Trunkline", "HAProxy", "nginx", "Kamailio", "Trunkline again"],
    loads: &[
        Load {
            title: "100 connections, 4 requests in flight on each",
            unit: "message",
            closed: true,
            bars: &[0.0, 1.7, 0.0, 0.15],
        },
        Load {
            title: "Connect, one request and its answer, close; 32 at a time",
            unit: "connection",
            closed: true,
            bars: &[],
        },
    ],
};

const HANDSHAKES: Part = Part {
    mark: Mark("handshakes"),
    who: &["Trunkline", "HAProxy", "Trunkline again"],
    loads: &[
        Load { title: "Connect, handshake, close; 32 at a time", unit: "handshake", closed: true, bars: &[0.0, 1.1] },
        Load {
            title: "Connect, handshake, one request and its answer, close; 32 at a time",
            unit: "connection",
            closed: true,
            bars: &[],
        },
    ],
};

const RELAYED: Part = Part {
    mark: Mark("relayed connections"),
    who: &["Trunkline", "HAProxy", "nginx", "Trunkline again"],
    loads: &[
        Load {
            title: "100 connections, 4 requests in flight on each",
            unit: "message",
            closed: true,
            bars: &[0.0, 1.1],
        },
        Load {
            title: "Connect, one request and its answer, close; 32 at a time",
            unit: "connection",
            closed: true,
            bars: &[0.0, 1.1],
        },
    ],
};

const RELAYED_TLS: Part = Part {
    mark: Mark("relayed connections with TLS"),
    who: &["Trunkline", "HAProxy", "Trunkline again"],
    loads: &[
        Load {
            title: "100 connections over TLS, 4 requests in flight on each",
            unit: "message",
            closed: true,
            bars: &[0.0, 1.1],
        },
        Load {
            title: "Connect, handshake, one request and its answer, close; 32 at a time",
            unit: "connection",
            closed: true,
            bars: &[0.0, 1.1],
        },
    ],
};

/// What the clients do under each load.
const TALKS: [Manner; 2] = [
    Manner { connections: 100, flight: 4, stays: true, tls: false },
    Manner { connections: 32, flight: 1, stays: false, tls: false },
];
const HANDSHAKE_TALKS: [Manner; 2] = [
    Manner { connections: 32, flight: 0, stays: false, tls: true },
    Manner { connections: 32, flight: 1, stays: false, tls: true },
];

const RELAYED_TLS_TALKS: [Manner; 2] =
    [Manner { connections: 100, flight: 4, stays: true, tls: true }, HANDSHAKE_TALKS[1]];

/// A contestant that runs, and the servers that it was told of.
struct Running {
    name: &'static str,
    program: Program,
    front: SocketAddr,
    servers: Vec<SocketAddr>,
}

/// Measures, shows and keeps both parts; says which bars were missed.
pub fn run(plan: &Plan, folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let versions = [version("/usr/sbin/haproxy")?, version("/usr/sbin/nginx")?, version("/usr/sbin/kamailio")?];
    let servers = SERVERS.len();
    let about = || format!("{}; OPTIONS of {SIZE} bytes, {servers} servers\n", versions.join(", "));
    let start = |at: usize| start(&STREAMS, at, None, folder);
    let measure = |who: &Running, load: usize, time| Ok(measure(who, TALKS[load], time, folder)?.0);
    let mut missed = STREAMS.run(plan, about, start, measure)?;
    missed.extend(handshakes(plan, folder)?);
    Ok(missed)
}

/// Measures, shows and keeps what relays of connections cost; says which bars were missed.
pub fn run_relayed(plan: &Plan, folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let versions = [version("/usr/sbin/haproxy")?, version("/usr/sbin/nginx")?];
    let about =
        || format!("{}; OPTIONS of {SIZE} bytes, {} servers, unread by all\n", versions.join(", "), SERVERS.len());
    let measure = |who: &Running, manner: Manner, time| Ok(measure(who, manner, time, folder)?.0);
    let plain = |at: usize| start(&RELAYED, at, None, folder);
    let mut missed =
        RELAYED.run(plan, about, plain, |who: &Running, load: usize, time| measure(who, TALKS[load], time))?;
    let certificate = certificate(folder)?;
    let secured = |at: usize| start(&RELAYED_TLS, at, Some(&certificate), folder);
    missed.extend(
        RELAYED_TLS.run(plan, about, secured, |who: &Running, load: usize, time| {
            measure(who, RELAYED_TLS_TALKS[load], time)
        })?,
    );
    Ok(missed)
}

fn handshakes(plan: &Plan, folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let certificate = certificate(folder)?;
    let agreed = RefCell::new(BTreeMap::new());
    let about = || {
        let each = agreed.borrow().iter().map(|(who, what)| format!("; {who}: {what}")).collect::<String>();
        format!("TLS 1.3, a certificate with a key on P-256, nothing resumed{each}\n")
    };
    let start = |at: usize| start(&HANDSHAKES, at, Some(&certificate), folder);
    let measure = |who: &Running, load: usize, time| {
        let (sample, what) = measure(who, HANDSHAKE_TALKS[load], time, folder)?;
        agreed.borrow_mut().insert(who.name, what);
        Ok(sample)
    };
    HANDSHAKES.run(plan, about, start, measure)
}

/// Signs itself; chain and key in one file, as all want it.
fn certificate(folder: &Path) -> Result<std::path::PathBuf, Box<dyn Error>> {
    let [key, chain, both] = ["key.pem", "chain.pem", "both.pem"].map(|name| folder.join(name));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]);
    command.args(["-subj", "/CN=sip.example.ng", "-addext", "subjectAltName=DNS:sip.example.ng", "-keyout"]);
    let output = command.arg(&key).arg("-out").arg(&chain).output()?;
    if !output.status.success() {
        return Err(format!("openssl: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    fs::write(&both, fs::read_to_string(chain)? + &fs::read_to_string(key)?)?;
    Ok(both)
}

/// Starts one contestant, on an address and in a folder of its own.
fn start(part: &Part, at: usize, tls: Option<&Path>, folder: &Path) -> Result<Running, Box<dyn Error>> {
    let folder = folder.join(format!("{}-{at}", part.mark.0.replace(' ', "-")));
    fs::create_dir_all(&folder)?;
    let servers: Vec<SocketAddr> = SERVERS.into_iter().map(free).collect::<Result<_, _>>()?;
    let front = free(Ipv4Addr::new(127, 0, 2, 111 + at as u8))?;
    let command = match part.who[at] {
        "HAProxy" => haproxy(front, &servers, tls, &folder),
        "nginx" => nginx(front, &servers, &folder),
        "Kamailio" => kamailio(front, &servers, &folder),
        _ => {
            let relays = [RELAYED.mark.0, RELAYED_TLS.mark.0].contains(&part.mark.0);
            trunkline(front, &servers, (tls, if relays { "relay" } else { "proxy" }), &folder)
        }
    }?;
    let mut program = Program::start(part.who[at], &command, Stdio::null(), BALANCER_CORE, &folder)?;
    program.listens_on(front)?;
    Ok(Running { name: part.who[at], program, front, servers })
}

fn trunkline(
    front: SocketAddr,
    servers: &[SocketAddr],
    (tls, mode): (Option<&Path>, &str),
    folder: &Path,
) -> Result<Command, Box<dyn Error>> {
    let servers =
        each(servers, |n, at| format!("[[backend.server]]\nname = \"server-{n}\"\naddress = \"tcp://{at}\"\n"));
    // The address that servers know it by.
    let IpAddr::V4(outside) = front.ip() else { return Err("IPv4 only".into()) };
    let inside = Ipv4Addr::from_bits(outside.to_bits() + 10);
    let (scheme, certificates) = match tls {
        None => ("tcp", String::new()),
        Some(file) => ("tls", format!("[frontend.tls]\ncertificates = \"{}\"\n", file.display())),
    };
    let text = format!(
        "[[frontend]]\nname = \"sip\"\nmode = \"{mode}\"\nbind = \"{scheme}://{front}\"\n\
         inside = \"{inside}\"\nbackend = \"b\"\n{certificates}\
         [[backend]]\nname = \"b\"\ncheck = {{ type = \"none\" }}\n{servers}",
    );
    trunkline_with(&text, folder)
}

/// Bytes both ways, a server by turns for each connection; it asks for none until a client has said something.
fn haproxy(
    front: SocketAddr,
    servers: &[SocketAddr],
    tls: Option<&Path>,
    folder: &Path,
) -> Result<Command, Box<dyn Error>> {
    let servers = each(servers, |n, at| format!("    server server-{n} {at}\n"));
    let (bind, global, wait) = match tls {
        None => (String::new(), "", ""),
        Some(file) => (
            format!(" ssl crt {} ssl-min-ver TLSv1.3 no-tls-tickets", file.display()),
            "    tune.ssl.cachesize 0\n",
            "    tcp-request inspect-delay 30s\n    tcp-request content accept if { req.len gt 0 }\n",
        ),
    };
    let text = format!(
        "global\n    nbthread 1\n    maxconn 4000\n{global}\
         listen sip\n    mode tcp\n    bind {front}{bind}\n    timeout connect 5s\n    timeout client 1m\n    \
         timeout server 1m\n    balance roundrobin\n{wait}{servers}"
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text)?;
    let mut command = Command::new("/usr/sbin/haproxy");
    command.args(["-db", "-f"]).arg(file);
    Ok(command)
}

fn nginx(front: SocketAddr, servers: &[SocketAddr], folder: &Path) -> Result<Command, Box<dyn Error>> {
    let servers = each(servers, |_, at| format!(" server {at};"));
    let stream =
        format!("  upstream servers {{{servers} }}\n  server {{\n    listen {front};\n    proxy_pass servers;\n  }}\n");
    nginx_with(&stream, folder)
}

/// As over UDP: a server by the hash of the Call-ID, no transaction, nothing logged; one process that reads connections,
/// beside the one that accepts them. The longer queues hold what is in flight on a connection to a server.
fn kamailio(front: SocketAddr, servers: &[SocketAddr], folder: &Path) -> Result<Command, Box<dyn Error>> {
    let list = folder.join("dispatcher.list");
    fs::write(&list, each(servers, |_, at| format!("1 sip:{at};transport=tcp\n")))?;
    let text = format!(
        "debug=-1\nlog_stderror=yes\ntcp_children=1\nchildren=1\nauto_aliases=no\ndns=no\nrev_dns=no\nuse_dns_cache=off\n\
         server_signature=no\ntcp_max_connections=16384\ntcp_conn_wq_max=1048576\ntcp_wq_max=67108864\n\
         tcp_rd_buf_size=65536\nlisten=tcp:{front}\nloadmodule \"dispatcher.so\"\n\
         modparam(\"dispatcher\", \"list_file\", \"{}\")\n\
         request_route {{\n    if (!ds_select_dst(\"1\", \"0\")) exit;\n    forward();\n}}\n",
        list.display(),
    );
    let file = folder.join("kamailio.cfg");
    fs::write(&file, text)?;
    let mut command = Command::new("/usr/sbin/kamailio");
    command.arg("-f").arg(file).args(["-DD", "-E", "-m", "64", "-w"]).arg(folder).arg("-Y").arg(folder);
    Ok(command)
}

/// Presses one for a while and reads the clocks of its processes before and after; says too what its handshakes agreed on.
fn measure(who: &Running, manner: Manner, time: Duration, folder: &Path) -> Result<(Sample, String), Box<dyn Error>> {
    let Running { program, front, servers, .. } = who;
    let output = folder.join("talk.json");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(talk::WORD).arg(CLIENTS.map(|client| client.to_string()).join(",")).arg(front.to_string());
    command.arg(time.as_millis().to_string()).args(manner.words()).args(servers.iter().map(SocketAddr::to_string));
    let before = program.cpu_time();
    let mut talk = Program::start("talk", &command, File::create(&output)?, LOAD_CORE, folder)?;
    talk.ended(time + Duration::from_secs(10))?;
    let used = (program.cpu_time() - before).as_secs_f64();
    let json = fs::read_to_string(&output)?;
    let number = |name: &str| number(&json, name).ok_or_else(|| format!("no {name} in {json}: {}", talk.said()));
    let [sent, answered, refused, wrong, opened, closed, seconds] = [
        number("sent")?,
        number("answered")?,
        number("refused")?,
        number("wrong")?,
        number("opened")?,
        number("closed")?,
        number("seconds")?,
    ];
    let through = if manner.stays { 2.0 * answered } else { closed };
    // Who hands an answer to somebody who did not ask has no cost worth measuring.
    if through == 0.0 || wrong > 0.0 || answered + refused > sent || closed > opened {
        return Err(format!("the books do not balance: {json}{}{}", talk.said(), program.said()).into());
    }
    let agreed = json.split_once("\"agreed\":\"").map_or("", |(_, rest)| rest.split('"').next().unwrap_or_default());
    let tickets = if closed > 0.0 { number("tickets")? / closed } else { 0.0 };
    let sample = Sample {
        micros: used * 1e6 / through,
        busy: used / seconds,
        rate: through / seconds,
        lost: (sent - answered + opened - closed) as u64,
        memory: program.peak_memory(),
    };
    Ok((sample, format!("{agreed}, tickets sent: {tickets:.0}")))
}
