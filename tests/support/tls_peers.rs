//! `openssl` as a peer: a client in front of an accept loop of ours, and a server behind a connection of ours.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader as AsyncBufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use trunkline::config::Config;
use trunkline::net::tls::{News, Tls, server_name};
use trunkline::sip::token::NameHash;

use super::process::{DEADLINE, spawn};

/// What the accept loop saw of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub alpn: Option<String>,
    /// Certificates in the client's chain.
    pub chain: usize,
}

/// An accept loop for one frontend: greets, then says again what it hears, until it hears "end".
pub struct Door {
    pub address: SocketAddr,
    handshakes: Receiver<Result<Seen, String>>,
    _runtime: Runtime,
}

impl Door {
    pub fn open(tls: &Arc<Tls>, frontend: &str) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, handshakes) = channel();
        let (tls, frontend) = (Arc::clone(tls), NameHash::of(frontend));
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (config, sender) = (tls.server_config(frontend).expect("a frontend with TLS"), sender.clone());
                tokio::spawn(async move {
                    let stream = match TlsAcceptor::from(config).accept(tcp).await {
                        Ok(stream) => stream,
                        Err(error) => return sender.send(Err(error.to_string())),
                    };
                    let session = stream.get_ref().1;
                    let alpn = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
                    let chain = session.peer_certificates().map_or(0, <[_]>::len);
                    let sent = sender.send(Ok(Seen { alpn, chain }));
                    let mut stream = AsyncBufReader::new(stream);
                    let _ = stream.write_all(b"welcome\n").await;
                    let mut line = String::new();
                    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) && line != "end\n" {
                        let _ = stream.write_all(format!("again {line}").as_bytes()).await;
                        line.clear();
                    }
                    let _ = stream.shutdown().await;
                    sent
                });
            }
        });
        Self { address, handshakes, _runtime: runtime }
    }

    /// A client comes, shakes hands and goes: what it says of it, and what the loop saw.
    pub fn visit(&self, options: &[&str]) -> (String, Result<Seen, String>) {
        let mut client = Client::start(self.address, options);
        client.say("end");
        (client.rest(), self.handshake())
    }

    /// The next handshake, however it ended.
    pub fn handshake(&self) -> Result<Seen, String> {
        self.handshakes.recv_timeout(DEADLINE).expect("somebody shook hands")
    }
}

/// `openssl s_client`.
pub struct Client {
    child: Child,
    lines: Receiver<String>,
    said: String,
}

impl Client {
    pub fn start(address: SocketAddr, options: &[&str]) -> Self {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-connect", &address.to_string(), "-showcerts"])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(&mut command).expect("openssl is there: tests/setup installs it");
        let (sender, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
            });
        }
        Self { child, lines, said: String::new() }
    }

    pub fn say(&mut self, line: &str) {
        // Whoever was turned away hears nothing.
        let _ = writeln!(self.child.stdin.as_mut().unwrap(), "{line}");
    }

    /// Waits until it has printed a line that holds this: that line.
    pub fn hear(&mut self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|_| panic!("no line with {text:?}; it said:\n{}", self.said));
            self.said += &format!("{line}\n");
            if line.contains(text) {
                return line;
            }
        }
    }

    /// All that it said, once it has ended.
    pub fn rest(mut self) -> String {
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            self.said += &format!("{line}\n");
        }
        std::mem::take(&mut self.said)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `openssl s_server`, which says back in reverse what it hears.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    pub fn start(chain: &PathBuf, key: &PathBuf, options: &[&str]) -> Self {
        let mut command = Command::new("openssl");
        command
            .args(["s_server", "-accept", "127.0.0.1:0", "-rev", "-verify_return_error"])
            .arg("-cert")
            .arg(chain)
            .arg("-key")
            .arg(key)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = spawn(&mut command).expect("openssl is there: tests/setup installs it");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.starts_with("ACCEPT ")).expect("it listens");
        let address = line["ACCEPT ".len()..].parse().unwrap();
        // It must not block on what it prints.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks at the files and takes what is good.
pub fn looked(tls: &Tls) -> Vec<News> {
    tls.take(tls.look())
}

/// Connects to a server of a configuration as its backend does, and hears whether it is heard.
pub fn connect(tls: &Tls, config: &Config, server: usize, address: SocketAddr) -> Result<(), String> {
    let backend = &config.backends[0];
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let dialogue = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = server_name(&backend.servers[server]).expect("a tls:// server");
        let connector = TlsConnector::from(tls.client_config(&backend.name).expect("a backend with TLS"));
        let mut stream = AsyncBufReader::new(connector.connect(name, tcp).await.map_err(|error| error.to_string())?);
        stream.write_all(b"abc\n").await.map_err(|error| error.to_string())?;
        let mut line = String::new();
        stream.read_line(&mut line).await.map_err(|error| error.to_string())?;
        if line == "cba\n" { Ok(()) } else { Err(format!("heard {line:?}")) }
    };
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), dialogue).await }).expect("in time")
}
