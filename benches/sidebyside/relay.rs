//! Mode `relay` beside nginx: what a datagram of media costs that goes through unread.

use std::error::Error;
use std::fmt::Write;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::contestant::{nginx_with, trunkline_with};
use super::load::number;
use super::media::{self, SIZE, STREAMS};
use super::process::Program;
use super::rounds::{Load, Part, Sample};
use super::table::Mark;
use super::{BALANCER_CORE, LOAD_CORE, Plan};

/// In the order of a round. Trunkline has two turns: what they differ by is noise.
const WHO: [&str; 3] = ["Trunkline", "nginx", "Trunkline again"];

const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 84);
const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 3, 84), Ipv4Addr::new(127, 0, 3, 85)];

/// Datagrams in flight for each stream of each load; none: at their pace.
const FLIGHT: [u32; 2] = [1, 0];

const PART: Part = Part {
    mark: Mark("relay"),
    who: &WHO,
    loads: &[
        Load {
            title: "Closed loop, one datagram in flight for each stream",
            unit: "datagram",
            closed: true,
            bars: &[0.0, 1.0],
        },
        Load { title: "50 datagrams a second for each stream", unit: "datagram", closed: false, bars: &[] },
    ],
};

/// Measures, shows and keeps; says which bar was missed.
pub fn run(plan: &Plan, folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let about =
        || format!("{STREAMS} streams of {SIZE} bytes, {} servers with a part of the range each\n", SERVERS.len());
    PART.run(plan, about, |at| start(at, folder), |relay, load, time| measure(relay, FLIGHT[load], time, folder))
}

/// Starts one of [`WHO`], on an address and in a folder of its own.
fn start(at: usize, folder: &Path) -> Result<(Program, SocketAddr), Box<dyn Error>> {
    let folder = folder.join(format!("relay-{at}"));
    fs::create_dir_all(&folder)?;
    let ip = Ipv4Addr::new(127, 0, 2, 101 + at as u8);
    let first = free_range(ip)?;
    let front = SocketAddr::new(ip.into(), first);
    let command = if WHO[at] == "nginx" { nginx(front, &folder) } else { trunkline(front, &folder) }?;
    let mut program = Program::start(WHO[at], &command, Stdio::null(), BALANCER_CORE, &folder)?;
    program.listens_on(SocketAddr::new(ip.into(), first + STREAMS - 1))?;
    Ok((program, front))
}

/// A first port such that all streams' are free, here and at the servers.
fn free_range(ip: Ipv4Addr) -> Result<u16, Box<dyn Error>> {
    let free = |first: &u16| {
        let ports = *first..*first + STREAMS;
        SERVERS.iter().chain([&ip]).all(|ip| ports.clone().all(|port| UdpSocket::bind((*ip, port)).is_ok()))
    };
    let found = (10_000..30_000).step_by(usize::from(STREAMS)).find(free);
    found.ok_or_else(|| format!("{ip} has no {STREAMS} free ports in a row").into())
}

/// Each server's part of a range that begins here.
fn parts(first: u16) -> impl Iterator<Item = (Ipv4Addr, u16, u16)> {
    let part = STREAMS / SERVERS.len() as u16;
    SERVERS.into_iter().zip(0..).map(move |(ip, n)| (ip, first + n * part, first + (n + 1) * part - 1))
}

fn trunkline(front: SocketAddr, folder: &Path) -> Result<Command, Box<dyn Error>> {
    let (first, last) = (front.port(), front.port() + STREAMS - 1);
    let mut text = format!(
        "[[frontend]]\nname = \"rtp\"\nmode = \"relay\"\n\
         bind = \"udp://{}:{first}-{last}\"\nbackend = \"media\"\n[[backend]]\nname = \"media\"\n",
        front.ip(),
    );
    for (ip, first, last) in parts(first) {
        write!(text, "[[backend.server]]\nname = \"{ip}\"\naddress = \"udp://{ip}\"\nports = \"{first}-{last}\"\n")?;
    }
    trunkline_with(&text, folder)
}

/// UDP by nginx, a server block for each server's part; no end after so many answers, for a stream has none.
fn nginx(front: SocketAddr, folder: &Path) -> Result<Command, Box<dyn Error>> {
    let mut servers = String::new();
    for (ip, first, last) in parts(front.port()) {
        write!(
            servers,
            "  server {{\n    listen {}:{first}-{last} udp rcvbuf=512k;\n    proxy_pass {ip}:$server_port;\n    proxy_timeout 2m;\n  }}\n",
            front.ip()
        )?;
    }
    nginx_with(&servers, folder)
}

fn measure(
    (program, front): &(Program, SocketAddr),
    flight: u32,
    time: Duration,
    folder: &Path,
) -> Result<Sample, Box<dyn Error>> {
    let output = folder.join("media.json");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(media::WORD).args([CLIENT.to_string(), front.to_string()]);
    command.args([time.as_millis().to_string(), flight.to_string()]).args(SERVERS.map(|ip| ip.to_string()));
    let before = program.cpu_time();
    let mut media = Program::start("media", &command, File::create(&output)?, LOAD_CORE, folder)?;
    media.ended(time + Duration::from_secs(10))?;
    let used = program.cpu_time() - before;
    let json = fs::read_to_string(&output)?;
    let number = |name: &str| number(&json, name).ok_or_else(|| format!("no {name} in {json}: {}", media.said()));
    let (sent, echoed) = (number("sent")?, number("echoed")?);
    if echoed == 0.0 {
        return Err(format!("nothing came back: {json}{}{}", media.said(), program.said()).into());
    }
    Ok(Sample {
        micros: used.as_secs_f64() * 1e6 / (2.0 * echoed),
        busy: used.as_secs_f64() / time.as_secs_f64(),
        rate: 2.0 * echoed / time.as_secs_f64(),
        lost: (sent - echoed) as u64,
        memory: program.peak_memory(),
    })
}
