//! Both ends of SIP over TCP, as small as they can be.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::Sender;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::calls::response;

/// Message after message of a connection.
pub struct Messages {
    stream: TcpStream,
    begun: Vec<u8>,
}

impl Messages {
    pub fn of(stream: &TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { stream: stream.try_clone().unwrap(), begun: Vec::new() }
    }

    /// `None` where the connection ends, or nothing comes.
    pub fn next(&mut self) -> Option<String> {
        loop {
            if let Some(head) = self.begun.windows(4).position(|window| window == b"\r\n\r\n") {
                let text = std::str::from_utf8(&self.begun[..head]).unwrap();
                let length = text.split("\r\n").find_map(|line| line.strip_prefix("Content-Length: "));
                let end = head + 4 + length.map_or(0, |length| length.parse().unwrap());
                if self.begun.len() >= end {
                    let rest = self.begun.split_off(end);
                    let message = std::mem::replace(&mut self.begun, rest);
                    return Some(String::from_utf8(message).unwrap());
                }
            }
            let mut room = [0; 65_536];
            match self.stream.read(&mut room) {
                Ok(0) | Err(_) => return None,
                Ok(len) => self.begun.extend_from_slice(&room[..len]),
            }
        }
    }
}

pub fn header<'t>(message: &'t str, name: &str) -> &'t str {
    let line = message.split("\r\n").find(|line| line.starts_with(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no {name} in {message}")).split_once(": ").unwrap().1
}

/// Answers everything that comes over any connection with 200, and tells what it was and whose answer it waits for.
pub fn serve_tcp(listener: TcpListener, seen: Sender<(usize, String)>, number: usize) {
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let seen = seen.clone();
            std::thread::spawn(move || {
                let (mut messages, mut out) = (Messages::of(&stream), stream);
                out.set_read_timeout(None).unwrap();
                while let Some(request) = messages.next() {
                    if request.starts_with("SIP/") || seen.send((number, request.clone())).is_err() {
                        continue;
                    }
                    if !request.starts_with("ACK") {
                        let answer = response(&request, "200 OK", &["Contact: <sip:pbx@127.0.0.1>"]);
                        let _ = out.write_all(&answer);
                    }
                }
            });
        }
    });
}

pub fn serve_udp(socket: UdpSocket, seen: Sender<(usize, String)>, number: usize) {
    socket.set_read_timeout(None).unwrap();
    std::thread::spawn(move || {
        let mut datagram = [0; 65_535];
        while let Ok((len, from)) = socket.recv_from(&mut datagram) {
            let request = String::from_utf8(datagram[..len].to_vec()).unwrap();
            if seen.send((number, request.clone())).is_err() {
                return;
            }
            socket.send_to(&response(&request, "200 OK", &["Contact: <sip:pbx@127.0.0.1>"]), from).unwrap();
        }
    });
}

/// An INVITE of a call with this number.
pub fn invite(call: usize, transport: &str) -> String {
    format!(
        "INVITE sip:100@sim.example SIP/2.0\r\nVia: SIP/2.0/{transport} 192.168.1.2:5060;branch=z9hG4bK{call:x}\r\n\
         From: <sip:a@sim.example>;tag={call:x}\r\nTo: <sip:100@sim.example>\r\nCall-ID: {call:x}@streams\r\n\
         CSeq: 1 INVITE\r\nContact: <sip:a@192.168.1.2>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Whether the other end closes it within a minute, and says nothing before.
pub fn is_closed(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    match (&*stream).read(&mut [0; 1]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// A connection from an address of one's own.
pub fn connect_from(source: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}
