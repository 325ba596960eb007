//! One connection, over TCP or TLS: bytes read and written as far as the other end lets us, never waiting for it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::sip::MAX_MESSAGE;
use crate::sip::Message;
use crate::sip::framing::{Frame, Framing};

/// What may wait to be written. Starts are refused from half of it on, so that it is there for what a call must say.
pub const MOST_QUEUED: usize = 256 * 1024;

/// Reads from one connection before the others have their turn.
const READS_IN_A_ROW: usize = 4;

/// What is given to TLS at once: the size of its records.
const RECORD: usize = 16 * 1024;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As we wanted, or at the end of everything.
    Closed,
    /// It never was there: refused, or its handshake failed.
    Failed,
    /// The other end closed it, or the system did.
    Broken,
    /// What came over it is no SIP, or cannot be framed.
    Malformed,
}

/// One connection.
pub struct Stream {
    socket: TcpStream,
    tls: Option<Box<rustls::Connection>>,
    pub remote: SocketAddr,
    /// Neither the connection nor its handshake is complete.
    opening: bool,
    /// We want to say no more: what waits is written, then the other end shall close.
    closing: bool,
    /// And it knows.
    said: bool,
    framing: Framing,
    /// What came and is no whole message.
    begun: Vec<u8>,
    queued: Vec<u8>,
    /// How much of `queued` was written.
    written: usize,
}

impl Stream {
    /// One that is being opened, or was accepted.
    pub fn new(socket: TcpStream, remote: SocketAddr, tls: Option<rustls::Connection>) -> Self {
        Self {
            socket,
            tls: tls.map(Box::new),
            remote,
            opening: true,
            closing: false,
            said: false,
            framing: Framing::default(),
            begun: Vec::new(),
            queued: Vec::new(),
            written: 0,
        }
    }

    /// The socket, to wait for.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether there is room for the requests of a new call, behind so many bytes.
    pub fn has_room(&self, before: usize) -> bool {
        self.queued.len() - self.written + before <= MOST_QUEUED / 2
    }

    /// Queues a message. False where that is too much.
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        if self.closing || self.queued.len() - self.written + bytes.len() > MOST_QUEUED {
            return false;
        }
        self.queued.extend_from_slice(bytes);
        true
    }

    /// Whether something waits until the other end takes it, or until it lets us in.
    pub fn wants_write(&self) -> bool {
        let tls = self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        tls || self.written < self.queued.len() || (self.opening && self.tls.is_none())
    }

    /// Says that nothing more will come from us; the other end is expected to close.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Writes what the other end takes.
    ///
    /// # Errors
    /// How the connection ended.
    pub fn write(&mut self) -> Result<(), End> {
        if self.opening && self.tls.is_none() {
            match self.is_there() {
                Ok(true) => self.opening = false,
                Ok(false) => return Ok(()),
                Err(_) => return Err(End::Failed),
            }
        }
        match self.push() {
            Ok(()) => {}
            Err(error) if is_pause(&error) => {}
            Err(_) => return Err(self.end()),
        }
        if self.written == self.queued.len() {
            self.queued.clear();
            self.written = 0;
        } else if self.written > MOST_QUEUED / 2 {
            self.queued.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Whether the other end has let us in.
    fn is_there(&self) -> io::Result<bool> {
        match self.socket.take_error()? {
            Some(error) => Err(error),
            None => Ok(self.socket.peer_addr().is_ok()),
        }
    }

    fn push(&mut self) -> io::Result<()> {
        let Self { socket, tls, queued, written, .. } = self;
        match tls {
            None => {
                while *written < queued.len() {
                    *written += socket.write(&queued[*written..])?;
                }
            }
            Some(tls) => loop {
                while tls.wants_write() {
                    tls.write_tls(socket)?;
                }
                // What is written before the handshake is over would be kept in there without limit.
                if tls.is_handshaking() || *written == queued.len() {
                    break;
                }
                let record = &queued[*written..queued.len().min(*written + RECORD)];
                *written += tls.writer().write(record)?;
            },
        }
        let done = *written == queued.len() && !tls.as_ref().is_some_and(|tls| tls.is_handshaking());
        if self.closing && done && !self.said {
            self.said = true;
            if let Some(tls) = tls {
                tls.send_close_notify();
                tls.write_tls(socket)?;
            }
            // It may be gone already.
            let _ = socket.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    /// Reads what came into `room` and gives each whole message to `each`.
    ///
    /// # Errors
    /// How the connection ended, after the messages that came before.
    pub fn read(&mut self, room: &mut [u8], mut each: impl FnMut(&[u8])) -> Result<(), End> {
        for _ in 0..READS_IN_A_ROW {
            match self.pull(room) {
                Ok(true) => {}
                Ok(false) => {
                    self.find(&mut each)?;
                    return Err(self.end());
                }
                Err(error) if is_pause(&error) => return Ok(()),
                Err(_) => return Err(self.end()),
            }
            self.opening &= self.tls.as_ref().is_some_and(|tls| tls.is_handshaking());
            self.find(&mut each)?;
        }
        Ok(())
    }

    /// Reads once; false where nothing more will come.
    fn pull(&mut self, room: &mut [u8]) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else {
            let len = self.socket.read(room)?;
            self.begun.extend_from_slice(&room[..len]);
            return Ok(len > 0);
        };
        let is_there = tls.read_tls(&mut self.socket)? > 0;
        if let Err(error) = tls.process_new_packets() {
            // Let the other end know why.
            let _ = tls.write_tls(&mut self.socket);
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        loop {
            match tls.reader().read(room) {
                Ok(0) => return Ok(false),
                Ok(len) => self.begun.extend_from_slice(&room[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(is_there),
                Err(error) => return Err(error),
            }
        }
    }

    /// Message after message in what came.
    fn find(&mut self, each: &mut impl FnMut(&[u8])) -> Result<(), End> {
        let (mut at, mut message) = (0, Message::default());
        loop {
            match self.framing.next(&self.begun[at..], &mut message, MAX_MESSAGE) {
                Frame::Message { end } => {
                    each(&self.begun[at..at + end]);
                    at += end;
                }
                Frame::KeepAlive { len, pings } => {
                    at += len;
                    for _ in 0..pings {
                        self.put(b"\r\n");
                    }
                }
                Frame::Incomplete => break,
                Frame::TooLarge { .. } | Frame::Broken(_) | Frame::NotSip => return Err(End::Malformed),
            }
        }
        self.begun.drain(..at);
        if self.begun.is_empty() && self.begun.capacity() > MAX_MESSAGE {
            self.begun = Vec::new();
        }
        Ok(())
    }

    fn end(&self) -> End {
        match () {
            () if self.closing => End::Closed,
            () if self.opening => End::Failed,
            () => End::Broken,
        }
    }
}

/// Whether there is nothing to be done now, or not yet anybody there: no error.
fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected)
}

#[cfg(test)]
mod tests;
