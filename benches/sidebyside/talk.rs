//! Talk: clients of SIP over TCP and TLS, and servers over TCP that answer them. One process is all of both, so that it
//! has one core and the balancer the other; to be cheap, it knows no more of SIP than its own messages.

mod ends;

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use memchr::memmem;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, SockRef, Socket, Type};

use ends::{Books, Client, Pipe, every_handshake_whole};

/// The word on the command line that makes this program talk.
pub const WORD: &str = "talk";

/// How long answers, and the ends of connections, are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is read at once.
const READ: usize = 64 * 1024;

/// What the clients do.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Connections at a time.
    pub connections: usize,
    /// Requests in flight on each; none: the connection is closed as soon as it is there.
    pub flight: usize,
    /// Whether every answer is followed by the next request. Without it a connection is closed after the last answer, and
    /// the next one opened when the other end has closed it too.
    pub stays: bool,
    pub tls: bool,
}

impl Manner {
    /// As it stands on the command line.
    pub fn words(self) -> [String; 4] {
        let Self { connections, flight, stays, tls } = self;
        [connections.to_string(), flight.to_string(), stays.to_string(), tls.to_string()]
    }
}

enum End {
    Listener(TcpListener),
    Server(Pipe),
    Client(Box<Client>),
}

struct Talk {
    manner: Manner,
    from: Vec<Ipv4Addr>,
    front: SocketAddr,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    epoll: Epoll,
    ends: Vec<Option<End>>,
    /// Places in `ends` for new ones. What is closed meanwhile joins them after the events at hand: those may name it.
    free: Vec<usize>,
    closed: Vec<usize>,
    clients: usize,
    books: Books,
    stopping: bool,
    scratch: Vec<u8>,
}

/// Arguments: clients' addresses with commas between them, the balancer's, milliseconds, a [`Manner`], servers' addresses.
pub fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [from, front, time, connections, flight, stays, tls, servers @ ..] = arguments else {
        return Err("too few arguments".into());
    };
    let manner =
        Manner { connections: connections.parse()?, flight: flight.parse()?, stays: stays.parse()?, tls: tls.parse()? };
    let (front, time) = (front.parse::<SocketAddr>()?, Duration::from_millis(time.parse()?));
    let mut talk = Talk {
        manner,
        from: from.split(',').map(str::parse).collect::<Result<_, _>>()?,
        front,
        tls: if manner.tls { Some(every_handshake_whole(front)?) } else { None },
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
        ends: Vec::new(),
        free: Vec::new(),
        closed: Vec::new(),
        clients: 0,
        books: Books::default(),
        stopping: false,
        scratch: vec![0; READ],
    };
    for server in servers {
        let listener = TcpListener::bind(server).map_err(|error| format!("{server}: {error}"))?;
        listener.set_nonblocking(true)?;
        // Whoever is let in by it inherits that.
        SockRef::from(&listener).set_tcp_nodelay(true)?;
        talk.add(End::Listener(listener))?;
    }
    let seconds = talk.drive(time)?.as_secs_f64();
    let Books { sent, answered, refused, wrong, opened, closed, tickets, agreed } = talk.books;
    println!(
        "{{\"sent\":{sent},\"answered\":{answered},\"refused\":{refused},\"wrong\":{wrong},\"opened\":{opened},\
         \"closed\":{closed},\"tickets\":{tickets},\"seconds\":{seconds},\"agreed\":\"{agreed}\"}}"
    );
    Ok(())
}

impl Talk {
    /// Talks for so long, and until everybody has left; says how long that was.
    fn drive(&mut self, time: Duration) -> Result<Duration, Box<dyn Error>> {
        let start = Instant::now();
        for _ in 0..self.manner.connections {
            self.connect()?;
        }
        let mut events = vec![EpollEvent::empty(); 256];
        loop {
            let passed = start.elapsed();
            if passed >= time && !self.stopping {
                self.stopping = true;
                self.leave_all();
            }
            if self.clients == 0 || passed >= time + PATIENCE {
                return Ok(passed);
            }
            let count = self.epoll.wait(&mut events, EpollTimeout::from(10u8))?;
            for event in &events[..count] {
                self.turn(event.data() as usize)?;
            }
            self.free.append(&mut self.closed);
        }
    }

    fn add(&mut self, end: End) -> Result<usize, Box<dyn Error>> {
        let at = self.free.pop().unwrap_or_else(|| {
            self.ends.push(None);
            self.ends.len() - 1
        });
        let event = EpollEvent::new(EpollFlags::EPOLLIN, at as u64);
        match &end {
            End::Listener(listener) => self.epoll.add(listener, event),
            End::Server(pipe) => self.epoll.add(&pipe.stream, event),
            End::Client(client) => self.epoll.add(&client.pipe.stream, event),
        }?;
        self.ends[at] = Some(end);
        Ok(at)
    }

    /// One more client, with everything that it asks at first.
    fn connect(&mut self) -> Result<(), Box<dyn Error>> {
        self.books.opened += 1;
        let number = self.books.opened as u32;
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        let from = self.from[number as usize % self.from.len()];
        socket.bind(&SocketAddr::new(from.into(), 0).into())?;
        match socket.connect(&self.front.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(error.into()),
            // Over loopback it is there already, unless the balancer's queue is full.
            _ => {}
        }
        if self.manner.stays {
            socket.set_tcp_nodelay(true)?;
        }
        let tls = self.tls.as_ref().map(|(config, name)| ClientConnection::new(Arc::clone(config), name.clone()));
        let mut client = Box::new(Client {
            pipe: Pipe::of(socket.into()),
            tls: tls.transpose()?,
            number,
            asked: vec![0; self.manner.flight],
            next: 0,
            leaving: false,
        });
        (0..self.manner.flight).for_each(|place| client.ask(place, &mut self.books));
        client.send()?;
        let waits = !client.pipe.output.is_empty();
        let at = self.add(End::Client(client))?;
        self.clients += 1;
        if waits { self.await_room(at, true) } else { Ok(()) }
    }

    /// Wants to be told when there is room to write, or no more.
    fn await_room(&self, at: usize, waits: bool) -> Result<(), Box<dyn Error>> {
        let stream = match &self.ends[at] {
            Some(End::Client(client)) => &client.pipe.stream,
            Some(End::Server(pipe)) => &pipe.stream,
            _ => return Ok(()),
        };
        let flags = if waits { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        Ok(self.epoll.modify(stream, &mut EpollEvent::new(flags, at as u64))?)
    }

    /// Something can be done.
    fn turn(&mut self, at: usize) -> Result<(), Box<dyn Error>> {
        let Some(mut end) = self.ends[at].take() else { return Ok(()) };
        let waited = end.waits();
        let open = match &mut end {
            End::Listener(listener) => {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    self.add(End::Server(Pipe::of(stream)))?;
                }
                true
            }
            End::Server(pipe) => pipe.serve(&mut self.scratch).is_ok_and(|open| open),
            End::Client(client) => match self.listen(client) {
                Ok(true) => true,
                outcome => {
                    let in_order = outcome.is_ok() && client.leaving;
                    self.books.closed += u64::from(in_order);
                    if let Some(tls) = &client.tls {
                        self.books.tickets += u64::from(tls.tls13_tickets_received());
                    }
                    false
                }
            },
        };
        if open {
            let waits = end.waits();
            self.ends[at] = Some(end);
            return if waits == waited { Ok(()) } else { self.await_room(at, waits) };
        }
        let was_client = matches!(end, End::Client(_));
        drop(end);
        self.closed.push(at);
        self.clients -= usize::from(was_client);
        if was_client && !self.stopping && !self.manner.stays { self.connect() } else { Ok(()) }
    }

    /// Reads what came for a client, and goes on; false where the other end has closed.
    fn listen(&mut self, client: &mut Client) -> io::Result<bool> {
        let open = client.read(&mut self.scratch)?;
        let mut begun = std::mem::take(&mut client.pipe.begun);
        let mut at = 0;
        while let Some(len) = memmem::find(&begun[at..], b"\r\n\r\n") {
            let message = &begun[at..at + len + 2];
            at += len + 4;
            let Some(place) = client.answered(message, &mut self.books) else { continue };
            if self.manner.stays && !self.stopping {
                client.ask(place, &mut self.books);
            }
        }
        begun.drain(..at);
        client.pipe.begun = begun;
        let ready = client.tls.as_ref().is_none_or(|tls| !tls.is_handshaking());
        if ready && !client.leaving && client.asked.iter().all(|asked| *asked == 0) {
            self.note_agreement(client);
            client.leave();
        }
        client.send()?;
        Ok(open)
    }

    fn note_agreement(&mut self, client: &Client) {
        let Some(tls) = client.tls.as_ref().filter(|_| self.books.agreed.is_empty()) else { return };
        let suite = tls.negotiated_cipher_suite().map(|suite| suite.suite());
        let exchange = tls.negotiated_key_exchange_group().map(|group| group.name());
        self.books.agreed = format!("{suite:?} {exchange:?}").replace("Some(", "").replace(')', "");
    }

    /// Who has nothing in flight leaves now, the others with their last answer.
    fn leave_all(&mut self) {
        for end in self.ends.iter_mut().flatten() {
            if let End::Client(client) = end
                && client.asked.iter().all(|asked| *asked == 0)
                && client.tls.is_none()
            {
                client.leave();
                let _ = client.send();
            }
        }
    }
}

impl End {
    fn waits(&self) -> bool {
        match self {
            Self::Listener(_) => false,
            Self::Server(pipe) => !pipe.output.is_empty(),
            Self::Client(client) => !client.pipe.output.is_empty(),
        }
    }
}
