//! conf/trunkline.toml on loopback: five servers in three regions, as sockets of the test.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use super::process::Balancer;
use super::workers::{bound, free_port};

/// The servers in the order of the file.
pub const NAMES: [&str; 5] = ["lagos-1", "lagos-2", "lagos-3", "abuja-1", "asaba-1"];
const ADDRESSES: [&str; 5] = ["10.0.10.11", "10.0.10.12", "10.0.10.13", "10.1.10.11", "10.2.10.11"];

/// The production file.
pub fn file() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/trunkline.toml")).unwrap()
}

/// The file with its regions and servers in the other order.
pub fn reordered(text: &str) -> String {
    let mut parts: Vec<_> = text.split("\n[[").collect();
    let first = parts.iter().position(|part| part.starts_with("backend.region")).expect("regions");
    parts[first..].reverse();
    parts.join("\n[[") + "\n"
}

/// The file without this server, and without its region where that has no other.
pub fn without(text: &str, server: &str) -> String {
    let region = server.split('-').next().filter(|region| *region != "lagos").unwrap_or("none");
    let named = [server, region].map(|name| format!("name = \"{name}\"\n"));
    let kept = |part: &&str| !named.iter().any(|named| part.contains(named));
    text.split("\n[[").filter(kept).collect::<Vec<_>>().join("\n[[") + "\n"
}

/// The servers, and the addresses of one node in 127.`net`.0.0/16.
pub struct Nigeria {
    pub servers: Vec<UdpSocket>,
    pub net: u8,
    port: u16,
}

impl Nigeria {
    pub fn new(net: u8) -> Self {
        let servers = (0..NAMES.len()).map(|n| bound(&format!("127.{net}.10.{}:0", n + 1))).collect();
        Self { servers, net, port: free_port(&format!("127.{net}.2.1")) }
    }

    /// Where the n-th node is reached by clients, and where by servers.
    pub fn addresses(&self, node: u8) -> (SocketAddr, SocketAddr) {
        let at = |side: u8| SocketAddr::new([127, self.net, side, node].into(), self.port);
        (at(2), at(3))
    }

    /// A real process: the n-th node, with this file moved to loopback. Nothing is checked or limited.
    pub fn start(&self, node: u8, workers: usize, text: &str) -> Balancer {
        let (outside, inside) = self.addresses(node);
        let mut text = text.replace("203.0.113.10:5060", &outside.to_string());
        text = text.replace("203.0.113.10", &outside.ip().to_string()).replace("10.0.1.10", &inside.ip().to_string());
        for (address, server) in ADDRESSES.iter().zip(&self.servers) {
            text = text.replace(&format!("{address}:5060"), &server.local_addr().unwrap().to_string());
        }
        let line = |line: &&str| !line.starts_with("per_source_") && !line.starts_with("check =");
        text = text.lines().filter(line).map(|line| line.to_owned() + "\n").collect();
        let frontend = text.find("[[frontend]]").expect("a frontend");
        let text = text[frontend..].replace("balance = \"hash\"", "balance = \"hash\"\ncheck = { type = \"none\" }");
        Balancer::start(workers, &text)
    }

    /// What waits at the servers, as (position, text).
    pub fn arrived(&self) -> Vec<(usize, String)> {
        let at = |(n, server): (usize, &UdpSocket)| {
            std::iter::from_fn(|| super::wire::take(server)).map(move |text| (n, text)).collect::<Vec<_>>()
        };
        self.servers.iter().enumerate().flat_map(at).collect()
    }
}

/// Which server got which Call-ID.
pub type Picks = HashMap<String, usize>;
