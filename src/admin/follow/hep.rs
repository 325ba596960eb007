//! Copies for a Homer collector: HEPv3, one packet a message, over UDP (the protocol is described in sipcapture's
//! "HEP3 rev 12"). What the network or the kernel does not take is lost and counted: nothing waits for a collector.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::config::follow::Hep;
use crate::sip::Transport;
use crate::state::tap::{Ends, Step};

/// The longest message that fits into a packet; the rest of a longer one is cut off.
const LONGEST: usize = 65_000;

/// Chunks of the generic vendor, by their numbers.
mod chunk {
    pub const FAMILY: u16 = 1;
    pub const PROTOCOL: u16 = 2;
    pub const SOURCE_V4: u16 = 3;
    pub const DESTINATION_V4: u16 = 4;
    pub const SOURCE_V6: u16 = 5;
    pub const DESTINATION_V6: u16 = 6;
    pub const SOURCE_PORT: u16 = 7;
    pub const DESTINATION_PORT: u16 = 8;
    pub const SECONDS: u16 = 9;
    pub const MICROSECONDS: u16 = 10;
    pub const PAYLOAD_TYPE: u16 = 11;
    pub const AGENT: u16 = 12;
    pub const PAYLOAD: u16 = 15;
}

/// The way to a collector.
pub(super) struct Mirror {
    socket: UdpSocket,
    agent: u32,
    packet: Vec<u8>,
}

impl Mirror {
    /// # Errors
    /// Where there is no way to the collector.
    pub fn open(hep: &Hep) -> io::Result<Self> {
        let any = if hep.collector.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.connect(hep.collector)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, agent: hep.agent_id, packet: Vec::new() })
    }

    /// Sends one message. After an ICMP error the kernel refuses one packet, which is tried again.
    ///
    /// # Errors
    /// Where it could not leave.
    pub fn send(&mut self, step: &Step, bytes: &[u8], at: f64) -> io::Result<()> {
        encode(&mut self.packet, &step.ends, bytes, at, self.agent);
        let again = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        match self.socket.send(&self.packet) {
            Err(error) if again(&error) => self.socket.send(&self.packet).map(drop),
            sent => sent.map(drop),
        }
    }
}

/// One packet: `HEP3`, its length, then chunks of vendor, type, length (these six octets with it) and value.
fn encode(packet: &mut Vec<u8>, ends: &Ends, bytes: &[u8], at: f64, agent: u32) {
    /// Payload of SIP.
    const SIP: u8 = 1;
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    packet.clear();
    packet.extend_from_slice(b"HEP3\0\0");
    let mut put = |kind: u16, value: &[u8]| {
        packet.extend_from_slice(&[0, 0]);
        packet.extend_from_slice(&kind.to_be_bytes());
        packet.extend_from_slice(&(6 + value.len() as u16).to_be_bytes());
        packet.extend_from_slice(value);
    };
    let protocol = if ends.transport == Transport::Udp { libc::IPPROTO_UDP } else { libc::IPPROTO_TCP };
    match (ends.from.ip().to_canonical(), ends.to.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            put(chunk::FAMILY, &[libc::AF_INET as u8]);
            put(chunk::SOURCE_V4, &from.octets());
            put(chunk::DESTINATION_V4, &to.octets());
        }
        (from, to) => {
            let wide = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            put(chunk::FAMILY, &[libc::AF_INET6 as u8]);
            put(chunk::SOURCE_V6, &wide(from).octets());
            put(chunk::DESTINATION_V6, &wide(to).octets());
        }
    }
    put(chunk::PROTOCOL, &[protocol as u8]);
    put(chunk::SOURCE_PORT, &ends.from.port().to_be_bytes());
    put(chunk::DESTINATION_PORT, &ends.to.port().to_be_bytes());
    put(chunk::SECONDS, &(at as u32).to_be_bytes());
    put(chunk::MICROSECONDS, &((at.fract() * 1e6) as u32).to_be_bytes());
    put(chunk::PAYLOAD_TYPE, &[SIP]);
    put(chunk::AGENT, &agent.to_be_bytes());
    put(chunk::PAYLOAD, bytes);
    let len = packet.len() as u16;
    packet[4..6].copy_from_slice(&len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A collector of today and one of tomorrow must read the same.
    #[test]
    fn golden_packet() {
        let ends = |from: &str, to: &str| Ends {
            transport: Transport::Udp,
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
        };
        let mut packet = Vec::new();
        encode(&mut packet, &ends("192.0.2.1:5060", "198.51.100.2:5070"), b"SIP", 1_700_000_000.5, 2001);
        let golden: &[&[u8]] = &[
            b"HEP3\x00\x66",
            b"\0\0\0\x01\0\x07\x02",
            b"\0\0\0\x03\0\x0a\xc0\x00\x02\x01",
            b"\0\0\0\x04\0\x0a\xc6\x33\x64\x02",
            b"\0\0\0\x02\0\x07\x11",
            b"\0\0\0\x07\0\x08\x13\xc4",
            b"\0\0\0\x08\0\x08\x13\xce",
            b"\0\0\0\x09\0\x0a\x65\x53\xf1\x00",
            b"\0\0\0\x0a\0\x0a\x00\x07\xa1\x20",
            b"\0\0\0\x0b\0\x07\x01",
            b"\0\0\0\x0c\0\x0a\x00\x00\x07\xd1",
            b"\0\0\0\x0f\0\x09SIP",
        ];
        assert_eq!(packet, golden.concat());
        assert_eq!(packet.len(), 0x66);
        encode(&mut packet, &ends("[2001:db8::1]:5060", "[2001:db8::2]:5060"), &[b'x'; 70_000], 1.0, 1);
        assert!(packet.len() <= 65_507, "it fits into a datagram: {}", packet.len());
        assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), packet.len());
        assert_eq!(packet[12], libc::AF_INET6 as u8);
    }
}
