//! HAProxy and a balancer of ours before the same servers, to be asked the same.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use super::process::{Balancer, DEADLINE, Process, wait_for};
use super::workers::free_port;

const WORKERS: usize = 4;
/// Ours, theirs.
pub const SIDES: [usize; 2] = [0, 1];

/// Both, each before the same servers: three that are checked, and one in a backend of its own that is not.
pub struct Both {
    pub ours: Balancer,
    _theirs: Process,
    sockets: [PathBuf; 2],
    pub stats: [SocketAddr; 2],
}

/// A server that answers both's checks at one address: OPTIONS of SIP over UDP, OPTIONS of HTTP over TCP.
fn server(ip: &str) -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind(format!("{ip}:0")).unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            break (udp, tcp);
        }
    };
    let at = udp.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut datagram = [0; 4096];
        while let Ok((got, from)) = udp.recv_from(&mut datagram) {
            let request = String::from_utf8_lossy(&datagram[..got]).into_owned();
            let Some((_, head)) = request.split_once("\r\n") else { continue };
            let _ = udp.send_to(format!("SIP/2.0 200 OK\r\n{head}").as_bytes(), from);
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
        }
    });
    at
}

impl Both {
    pub fn start(net: u8) -> Self {
        let ip = format!("127.0.6.{net}");
        let servers = [(); 4].map(|()| server(&ip));
        let free = || SocketAddr::new(ip.parse().unwrap(), free_port(&ip));
        let (stats, sip) = ([free(), free()], free());
        let mut config = format!(
            "[admin]\nstats = \"{}\"\nhealth = \"{}\"\nmetrics = \"off\"\n[[frontend]]\nname = \"sip\"\nbind = \"udp://{sip}\"\n\
             backend = \"pbx\"\n[[backend]]\nname = \"pbx\"\nbalance = \"roundrobin\"\n\
             check = {{ interval = \"60s\", fast_interval = \"60s\", rise = 2, fall = 3 }}\n",
            stats[0], stats[0]
        );
        let mut theirs = String::new();
        let lines =
            [("one", "weight = 70"), ("two", "weight = 30"), ("three", "weight = 10\nbackup = true\nmax_calls = 5")];
        for ((name, more), at) in lines.iter().zip(&servers) {
            config += &format!("[[backend.server]]\nname = \"{name}\"\naddress = \"udp://{at}\"\n{more}\n");
            let more =
                more.replace("max_calls", "maxconn").replace("= true", "").replace(" = ", " ").replace('\n', " ");
            theirs += &format!("  server {name} {at} {more} check inter 60s rise 2 fall 3\n");
        }
        config += &format!(
            "[[backend]]\nname = \"free\"\nbalance = \"roundrobin\"\ncheck = {{ type = \"none\" }}\n\
             [[backend.server]]\nname = \"four\"\naddress = \"udp://{}\"\n",
            servers[3]
        );
        let ours = Balancer::start(WORKERS, &config);
        let sockets = ["admin.sock", "haproxy.sock"].map(|name| ours.folder.path().join(name));
        let config = format!(
            "global\n  nbthread 1\n  max-spread-checks 50ms\n  node edge\n  description other\n\
             \x20 stats socket {} mode 600 level admin\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n  timeout check 5s\n\
             frontend sip\n  id 2\n  bind {}\n  stats enable\n  stats uri /stats\n  stats refresh 10s\n  default_backend pbx\n\
             backend pbx\n  id 3\n  balance roundrobin\n  option httpchk OPTIONS /\n{theirs}\
             backend free\n  id 4\n  balance roundrobin\n  server four {} weight 100\n",
            sockets[1].display(),
            stats[1],
            servers[3]
        );
        let file = ours.folder.path().join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let process = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(file));
        wait_for("HAProxy listens", || TcpStream::connect(stats[1]).is_ok());
        let both = Self { ours, _theirs: process, sockets, stats };
        // Ours begin within the first tenth of the interval.
        wait_for("every check has passed", || {
            SIDES.iter().all(|side| both.ask(*side, "show stat\n").matches(",L7OK,").count() == 3)
        });
        both
    }

    pub fn connect(&self, side: usize) -> UnixStream {
        let stream = UnixStream::connect(&self.sockets[side]).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Says it all at once, and reads until the other side closes or shows a prompt.
    pub fn ask(&self, side: usize, text: &str) -> String {
        let mut stream = self.connect(side);
        stream.write_all(text.as_bytes()).unwrap();
        read(&mut stream, 1)
    }

    pub fn ask_both(&self, text: &str) -> [String; 2] {
        SIDES.map(|side| self.ask(side, text))
    }

    pub fn rows(&self, side: usize) -> Vec<BTreeMap<String, String>> {
        csv(&self.ask(side, "show stat\n"))
    }
}

/// Until the other side closes or has shown so many prompts.
pub fn read(stream: &mut UnixStream, prompts: usize) -> String {
    let (mut answer, mut bytes) = (Vec::new(), [0; 65_536]);
    loop {
        match stream.read(&mut bytes).unwrap() {
            0 => break,
            got => answer.extend_from_slice(&bytes[..got]),
        }
        if answer.ends_with(b"\n> ") && answer.windows(3).filter(|bytes| bytes == b"\n> ").count() == prompts {
            break;
        }
    }
    String::from_utf8(answer).unwrap()
}

/// The rows by column, up to `-`.
pub fn csv(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let names: Vec<_> = lines.next().unwrap().strip_prefix("# ").unwrap().split(',').collect();
    let row = |line: &str| {
        let cells: Vec<_> = line.split(',').collect();
        assert_eq!(cells.len(), names.len(), "{line}");
        assert_eq!(cells.last(), Some(&""), "{line}");
        let pairs = names.iter().zip(cells).take_while(|(name, _)| **name != "-");
        pairs.map(|(name, cell)| ((*name).to_owned(), cell.to_owned())).collect()
    };
    lines.map(row).collect()
}

/// `backend/server`
pub fn name_of(row: &BTreeMap<String, String>) -> String {
    format!("{}/{}", row["pxname"], row["svname"])
}
