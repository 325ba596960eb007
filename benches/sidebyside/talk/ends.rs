//! The ends of connections: a client that asks, and a server that answers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use memchr::memmem;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use trunkline::load::{ClientTls, tls};

use crate::load::SIZE;

/// What became of everything.
#[derive(Default)]
pub struct Books {
    pub sent: u64,
    /// With 200, on the connection that asked.
    pub answered: u64,
    /// With something else.
    pub refused: u64,
    /// What no connection asked that it came by.
    pub wrong: u64,
    pub opened: u64,
    /// By both ends, and in order.
    pub closed: u64,
    pub tickets: u64,
    /// The cipher suite and the key exchange of the last handshake.
    pub agreed: String,
}

/// A connection, and the bytes that wait on it.
pub struct Pipe {
    pub stream: TcpStream,
    /// A message that is not whole.
    pub begun: Vec<u8>,
    /// What the kernel did not take yet.
    pub output: Vec<u8>,
}

pub struct Client {
    pub pipe: Pipe,
    pub tls: Option<ClientConnection>,
    /// No other connection has it.
    pub number: u32,
    /// The CSeq of each request in flight; 0: there is none.
    pub asked: Vec<u32>,
    pub next: u32,
    pub leaving: bool,
}

impl Pipe {
    pub fn of(stream: TcpStream) -> Self {
        Self { stream, begun: Vec::new(), output: Vec::new() }
    }

    /// Reads once; false where the other end has closed.
    pub fn read(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        match self.stream.read(scratch) {
            Ok(0) => return Ok(false),
            Ok(len) => self.begun.extend_from_slice(&scratch[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    pub fn write(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.output.len() {
            match self.stream.write(&self.output[written..]) {
                Ok(len) => written += len,
                // Not before it is connected either.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) => return Err(error),
            }
        }
        self.output.drain(..written);
        Ok(())
    }

    /// A server: the answer is the request with another first line.
    pub fn serve(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        if !self.read(scratch)? {
            return Ok(false);
        }
        let mut at = 0;
        while let Some(len) = memmem::find(&self.begun[at..], b"\r\n\r\n") {
            let request = &self.begun[at..at + len + 4];
            at += len + 4;
            let line = memchr::memchr(b'\n', request).unwrap_or_default();
            self.output.extend_from_slice(b"SIP/2.0 200 OK\r\n");
            self.output.extend_from_slice(&request[line + 1..]);
        }
        self.begun.drain(..at);
        self.write()?;
        Ok(true)
    }
}

impl Client {
    pub fn read(&mut self, scratch: &mut [u8]) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return self.pipe.read(scratch) };
        let mut open = true;
        match tls.read_tls(&mut self.pipe.stream) {
            Ok(len) => open = len > 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        tls.process_new_packets().map_err(io::Error::other)?;
        match tls.reader().read(scratch) {
            Ok(len) => self.pipe.begun.extend_from_slice(&scratch[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(open)
    }

    /// Queues a request.
    pub fn ask(&mut self, place: usize, books: &mut Books) {
        self.next += 1;
        self.asked[place] = self.next;
        books.sent += 1;
        let output = &mut self.pipe.output;
        match &mut self.tls {
            None => request(self.number, place, self.next, output),
            Some(tls) => {
                let mut text = Vec::with_capacity(SIZE);
                request(self.number, place, self.next, &mut text);
                // It keeps what it is given until the handshake is over.
                tls.writer().write_all(&text).expect("memory takes everything");
            }
        }
    }

    /// Sees whose answer came, if it is one of ours.
    pub fn answered(&mut self, message: &[u8], books: &mut Books) -> Option<usize> {
        let place = self.place(message);
        match place {
            None => books.wrong += 1,
            Some(place) => {
                self.asked[place] = 0;
                match message.starts_with(b"SIP/2.0 200 ") {
                    true => books.answered += 1,
                    false => books.refused += 1,
                }
            }
        }
        place
    }

    /// The place of the request that this is the answer to: Call-ID and CSeq must be those that are awaited here.
    fn place(&self, message: &[u8]) -> Option<usize> {
        let value = |name: &[u8]| {
            let begin = memmem::find(message, name)? + name.len();
            let end = begin + memchr::memchr(b'\r', &message[begin..])?;
            std::str::from_utf8(&message[begin..end]).ok()
        };
        let (number, rest) = value(b"\r\nCall-ID: ")?.split_once('-')?;
        let (place, sequence) = rest.split_once('-')?;
        let place = place.parse::<usize>().ok()?;
        let asked = self.asked.get(place).filter(|asked| **asked != 0)?;
        let awaited = *asked == u32::from_str_radix(sequence, 16).ok()?
            && self.number == u32::from_str_radix(number, 16).ok()?
            && *asked == value(b"\r\nCSeq: ")?.strip_suffix(" OPTIONS")?.parse::<u32>().ok()?;
        awaited.then_some(place)
    }

    pub fn leave(&mut self) {
        self.leaving = true;
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
    }

    /// Writes what waits, and closes our side where that was the last.
    pub fn send(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.pipe.output)?;
            }
        }
        let written = self.pipe.write();
        if self.leaving && self.pipe.output.is_empty() {
            // Twice does no harm.
            let _ = self.pipe.stream.shutdown(Shutdown::Write);
        }
        written
    }
}

/// An OPTIONS of [`SIZE`] bytes, whatever its numbers are.
fn request(number: u32, place: usize, sequence: u32, output: &mut Vec<u8>) {
    let before = output.len();
    let written = write!(
        output,
        "OPTIONS sip:200@pbx.example.ng SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.7:5060;branch=z9hG4bK{number:08x}{place}{sequence:08x};rport\r\n\
         Max-Forwards: 70\r\nFrom: \"Ada\" <sip:100@pbx.example.ng>;tag={number:08x}\r\nTo: <sip:200@pbx.example.ng>\r\n\
         Call-ID: {number:08x}-{place}-{sequence:08x}\r\nCSeq: {sequence} OPTIONS\r\nContact: <sip:100@192.0.2.7:5060;transport=tcp>\r\n\
         Accept: application/sdp\r\nAllow: INVITE, ACK, CANCEL, BYE, OPTIONS, REFER, NOTIFY\r\nSupported: replaces, outbound\r\n\
         Content-Length: 0\r\nUser-Agent: "
    );
    written.expect("memory takes everything");
    output.resize(before + SIZE - 4, b'x');
    output.extend_from_slice(b"\r\n\r\n");
}

/// Nothing is resumed, whatever tickets come.
pub fn every_handshake_whole(front: SocketAddr) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let (config, name) = tls::client(&ClientTls::default(), front.ip())?;
    let mut config = ClientConfig::clone(&config);
    config.resumption = Resumption::disabled();
    config.dangerous().set_certificate_verifier(Arc::new(Believes));
    Ok((Arc::new(config), name))
}

/// Looks at nothing: what a client does about a certificate is its own work, and takes longer than the server's.
#[derive(Debug)]
struct Believes;

impl ServerCertVerifier for Believes {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 is measured".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
