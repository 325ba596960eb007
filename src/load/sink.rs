//! The simplest server that answers: the request comes back with another first line.

use std::io;
use std::os::fd::AsFd;

use super::flood::SLOT;
use super::socket::{Port, send_all};
use crate::net::mmsg::{BATCH, Inbox, Outbox};

/// An echo server. All header lines come back as they came, every Via among them, whatever proxies added; the answer
/// goes to where the request came from.
pub struct Sink {
    pub port: Port,
    /// Requests that were answered.
    pub echoed: u64,
    /// Answers that the system did not take.
    pub not_sent: u64,
}

/// The first line of every answer. It is written over the end of the request's first line, so nothing moves.
const STATUS_LINE: &[u8] = b"SIP/2.0 200 OK\r\n";

/// Batches from one socket before the others have their turn.
const BATCHES_IN_A_ROW: usize = 4;

impl Sink {
    /// One on this socket.
    pub fn new(port: Port) -> Self {
        Self { port, echoed: 0, not_sent: 0 }
    }

    /// Answers what is queued. Hot path: no allocation.
    pub fn echo(&mut self, inbox: &mut Inbox, outbox: &mut Outbox, memory: &mut [u8]) {
        let slot = |n: usize| n * SLOT..(n + 1) * SLOT;
        for _ in 0..BATCHES_IN_A_ROW {
            let received: io::Result<usize> = inbox.receive(self.port.socket().as_fd(), false, memory, slot);
            let count = received.unwrap_or(0);
            outbox.clear();
            for n in 0..count {
                let Some(arrival) = inbox.arrival(n) else { continue };
                let start = n * SLOT;
                if let Some(from) = answer_in_place(&mut memory[start..start + arrival.len]) {
                    outbox.push(start + from..start + arrival.len, arrival.remote, None);
                }
            }
            self.echoed += outbox.len() as u64;
            let refused = send_all(outbox, &self.port, memory);
            self.echoed -= refused;
            self.not_sent += refused;
            if count < BATCH {
                return;
            }
        }
    }
}

/// Turns a request into its answer and says where that begins; `None` for what gets none: responses, ACK, junk.
#[inline]
fn answer_in_place(bytes: &mut [u8]) -> Option<usize> {
    if bytes.starts_with(b"SIP/") || bytes.starts_with(b"ACK ") {
        return None;
    }
    let behind = memchr::memchr(b'\n', bytes)? + 1;
    let from = behind.checked_sub(STATUS_LINE.len())?;
    bytes[from..behind].copy_from_slice(STATUS_LINE);
    Some(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_keeps_every_header_line_and_its_order() {
        let head =
            "Via: a\r\nRecord-Route: <sip:r;lr>\r\nVia: b\r\nFrom: f\r\nTo: t\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n\r\n";
        let mut bytes = format!("OPTIONS sip:a@b SIP/2.0\r\n{head}").into_bytes();
        let from = answer_in_place(&mut bytes).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes[from..]), format!("SIP/2.0 200 OK\r\n{head}"));
    }

    #[test]
    fn responses_acks_and_junk_get_no_answer() {
        for bytes in
            ["SIP/2.0 200 OK\r\n\r\n", "ACK sip:a@b SIP/2.0\r\n\r\n", "short\r\n\r\n", "no line end at all, none", ""]
        {
            assert_eq!(answer_in_place(&mut bytes.as_bytes().to_vec()), None, "{bytes}");
        }
    }
}
