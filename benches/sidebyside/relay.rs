//! Mode `relay` beside nginx: what a datagram of media costs that goes through unread.

use std::error::Error;
use std::fmt::Write;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::load::number;
use super::media::{self, SIZE, STREAMS};
use super::process::Program;
use super::table::{Mark, Spread};
use super::{BALANCER_CORE, LOAD_CORE, Plan};

/// In the order of a round. Trunkline has two turns: what they differ by is noise.
const WHO: [&str; 3] = ["Trunkline", "nginx", "Trunkline again"];

const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 84);
const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 3, 84), Ipv4Addr::new(127, 0, 3, 85)];

/// Datagrams in flight for each stream; none: at their pace.
const LOADS: [(&str, u32); 2] =
    [("Closed loop, one datagram in flight for each stream", 1), ("50 datagrams a second for each stream", 0)];

/// The most that a datagram may cost Trunkline, in those of nginx.
const BAR: f64 = 1.0;

pub const MARK: Mark = Mark("relay");

#[derive(Clone, Copy)]
struct Sample {
    /// Processor time of the relay for each datagram that it passed on, microseconds.
    micros: f64,
    busy: f64,
    /// Datagrams a second, both ways together.
    rate: f64,
    lost: u64,
    /// kB
    memory: u64,
}

/// By load, then by [`WHO`].
type Round = Vec<[Sample; WHO.len()]>;

/// Measures, shows and keeps; says which bar was missed.
pub fn run(plan: &Plan, folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut rounds = Vec::new();
    for number in 0..plan.rounds {
        eprintln!("relay, round {} of {}", number + 1, plan.rounds);
        let round = round(plan, number % 2 == 1, folder)?;
        if number > 0 {
            rounds.push(round);
        }
    }
    let (text, missed) = write(&rounds)?;
    println!("{text}");
    if plan.keep {
        MARK.keep(&text)?;
    }
    Ok(missed)
}

fn round(plan: &Plan, backwards: bool, folder: &Path) -> Result<Round, Box<dyn Error>> {
    let start = |at: usize| start(at, folder);
    let running: Vec<(Program, SocketAddr)> = (0..WHO.len()).map(start).collect::<Result<_, _>>()?;
    for (program, front) in &running {
        measure(program, *front, 1, super::WARM_UP, folder)?;
    }
    let mut round = Vec::new();
    for (title, flight) in LOADS {
        let mut samples = [None; WHO.len()];
        for turn in 0..WHO.len() {
            let turn = if backwards { WHO.len() - 1 - turn } else { turn };
            let (program, front) = &running[turn];
            let time = if flight > 0 { plan.closed } else { plan.open * 2 };
            let sample = measure(program, *front, flight, time, folder)?;
            eprintln!("  {title:<52}{:<16}{:6.2} us{:9.0}/s", WHO[turn], sample.micros, sample.rate);
            samples[turn] = Some(sample);
        }
        round.push(samples.map(|sample| sample.expect("everybody had a turn")));
    }
    Ok(round)
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
        "[global]\nworkers = 1\ncluster_key_file = \"{}\"\n[[frontend]]\nname = \"rtp\"\nmode = \"relay\"\n\
         bind = \"udp://{}:{first}-{last}\"\nbackend = \"media\"\n[[backend]]\nname = \"media\"\n",
        folder.join("cluster.key").display(),
        front.ip(),
    );
    for (ip, first, last) in parts(first) {
        write!(text, "[[backend.server]]\nname = \"{ip}\"\naddress = \"udp://{ip}\"\nports = \"{first}-{last}\"\n")?;
    }
    let file = folder.join("trunkline.toml");
    fs::write(&file, text)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command.args(["run", "-c"]).arg(file);
    Ok(command)
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
    let text = format!(
        "daemon off;\nworker_processes 1;\npid {}/nginx.pid;\nerror_log stderr error;\n\
         load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nevents {{ worker_connections 16384; }}\nstream {{\n{servers}}}\n",
        folder.display(),
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(folder).args(["-e", "stderr", "-c"]).arg(file);
    Ok(command)
}

fn measure(
    program: &Program,
    front: SocketAddr,
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

fn write(rounds: &[Round]) -> Result<(String, Vec<String>), Box<dyn Error>> {
    let (mut text, mut missed) = (String::new(), Vec::new());
    writeln!(text, "{STREAMS} streams of {SIZE} bytes, {} servers with a part of the range each", SERVERS.len())?;
    for (load, (title, flight)) in LOADS.into_iter().enumerate() {
        let spread = |of: &dyn Fn(&[Sample; WHO.len()]) -> f64| Spread::of(rounds.iter().map(|round| of(&round[load])));
        writeln!(text, "\n### {title}\n")?;
        writeln!(text, "| | CPU per datagram, µs | × nginx | datagrams/s | core busy | lost | memory, MB |")?;
        writeln!(text, "|---|---|---|---|---|---|---|")?;
        for (at, name) in WHO.into_iter().enumerate() {
            let lost: u64 = rounds.iter().map(|round| round[load][at].lost).sum();
            let lost = if lost == 0 { "none".to_owned() } else { format!("**{lost}**") };
            writeln!(
                text,
                "| {name} | {} | {} | {:.0} | {:.0} % | {lost} | {:.0} |",
                spread(&|round| round[at].micros).show(),
                spread(&|round| round[at].micros / round[1].micros).show(),
                spread(&|round| round[at].rate).median,
                spread(&|round| round[at].busy * 100.0).median,
                spread(&|round| round[at].memory as f64 / 1024.0).median,
            )?;
        }
        let ratio = spread(&|round| (round[0].micros + round[2].micros) / 2.0 / round[1].micros).median;
        writeln!(text, "\nControl, Trunkline again ÷ Trunkline: {}.", spread(&|r| r[2].micros / r[0].micros).show())?;
        if flight > 0 {
            let verdict = if ratio <= BAR { "met" } else { "**missed**" };
            writeln!(text, "\n- bar of {BAR} × nginx: {verdict}, {ratio:.3}")?;
            if ratio > BAR {
                missed.push(format!("relay: {ratio:.3} × nginx instead of at most {BAR}"));
            }
        }
    }
    Ok((text, missed))
}
