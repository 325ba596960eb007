//! Which stream connections are open: what every worker may ask about a connection that another worker owns.
//!
//! The one place where workers share a map that changes. It is asked once for each message that goes out over a connection
//! named by a token, and a shard's lock is held for that one look.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

use super::bans::who;
use super::counters::Counter;
use super::lookup::hasher;
use crate::sip::token::NameHash;
use crate::sip::{ConnectionId, Transport};

/// An open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub transport: Transport,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub frontend: NameHash,
    /// Whose it is, where we opened it to a server.
    pub server: Option<NameHash>,
}

/// All of them.
#[derive(Debug)]
pub struct Connections {
    open: DashMap<ConnectionId, Connection, ahash::RandomState>,
    /// Those that we opened to whoever is no server, by where they lead.
    peers: DashMap<(Transport, SocketAddr), ConnectionId, ahash::RandomState>,
    /// How many there are of each frontend and source.
    sources: DashMap<(NameHash, IpAddr), u32, ahash::RandomState>,
    /// How many of clients have an open file, those that are closing among them, and how many may have one.
    taken: AtomicUsize,
    room: AtomicUsize,
}

impl Default for Connections {
    fn default() -> Self {
        // Numbers and addresses that are open: nobody outside chooses the one, and the other is limited by source.
        Self {
            open: DashMap::with_hasher(hasher()),
            peers: DashMap::with_hasher(hasher()),
            sources: DashMap::with_hasher(hasher()),
            taken: AtomicUsize::new(0),
            room: AtomicUsize::new(usize::MAX),
        }
    }
}

impl Connections {
    /// Notes an open connection, or one that is being opened. It is not counted for its source; [`Connections::admit`] does
    /// that before.
    pub fn insert(&self, id: ConnectionId, connection: Connection) {
        self.open.insert(id, connection);
    }

    /// Notes that it leads to somebody who is no server, and was opened by us.
    pub fn insert_peer(&self, id: ConnectionId, connection: Connection) {
        self.insert(id, connection);
        self.peers.insert((connection.transport, connection.remote), id);
    }

    /// A client's connection takes so many open files.
    pub fn take_room(&self, files: usize) {
        self.taken.fetch_add(files, Ordering::Relaxed);
    }

    /// It is gone, its files too.
    pub fn give_room_back(&self, files: usize) {
        self.taken.fetch_sub(files, Ordering::Relaxed);
    }

    /// A connection is closing: it is no way any more.
    pub fn close(&self, id: ConnectionId) {
        if let Some((_, connection)) = self.open.remove(&id) {
            self.peers.remove_if(&(connection.transport, connection.remote), |_, other| *other == id);
        }
    }

    /// The connection that we opened to somebody who is no server.
    pub fn peer(&self, transport: Transport, remote: SocketAddr) -> Option<ConnectionId> {
        self.peers.get(&(transport, remote)).map(|id| *id)
    }

    /// What is known of a connection, if it is open.
    pub fn get(&self, id: ConnectionId) -> Option<Connection> {
        self.open.get(&id).map(|connection| *connection)
    }

    /// Lets so many be open at once.
    pub fn set_room(&self, room: usize) {
        self.room.store(room, Ordering::Relaxed);
    }

    /// Whether one more of a client may be opened.
    pub fn has_room(&self) -> bool {
        self.taken.load(Ordering::Relaxed) < self.room.load(Ordering::Relaxed)
    }

    /// Counts a client's connection, unless there are so many of its frontend's source already.
    pub fn admit(&self, frontend: NameHash, remote: SocketAddr, most: u32) -> bool {
        let mut count = self.sources.entry((frontend, who(remote.ip()))).or_default();
        let admitted = *count < most;
        *count += u32::from(admitted);
        admitted
    }

    /// A connection that was admitted has ended.
    pub fn release(&self, frontend: NameHash, remote: SocketAddr) {
        let key = (frontend, who(remote.ip()));
        self.sources.remove_if_mut(&key, |_, count| {
            *count = count.saturating_sub(1);
            *count == 0
        });
    }
}

macro_rules! ends {
    ($($(#[$doc:meta])* $name:ident = $word:literal;)*) => {
        /// Why a connection ended, or was not let in: the same word everywhere.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum End { $($(#[$doc])* $name,)* }

        impl End {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

ends! {
    /// The other end closed it.
    Closed = "closed";
    /// The other end reset it, or the network did.
    Broken = "broken";
    /// It could not be opened.
    Refused = "refused";
    /// It could not be opened: the process had no open file left for it.
    NoFiles = "no_files";
    /// It could not be opened: the address that it leaves by is not this node's now.
    NoPlace = "no_place";
    /// From a network in `deny`, from an address that nothing can be sent to, or from no server where only servers are
    /// spoken to.
    Denied = "denied";
    /// More often than `per_source_rate` of a relay, or `per_source_connection_rate`.
    RateLimited = "rate_limited";
    /// Its source is banned.
    Banned = "banned";
    /// There was no server for it, or all had their limit for too long.
    NoServer = "no_server";
    ServersFull = "servers_full";
    /// More than `max_connections` or than there are open files for, or more than `max_connections_per_source`.
    TooMany = "too_many";
    TooManyOfSource = "too_many_of_source";
    /// More handshakes of TLS under way than a worker may have, or a source beside all others; one that took too long, and
    /// one that failed.
    TooManyHandshakes = "too_many_handshakes";
    SlowHandshake = "slow_handshake";
    BadHandshake = "bad_handshake";
    /// More often than `per_source_handshake_rate`.
    TooManyHandshakesOfSource = "too_many_handshakes_of_source";
    /// The buffers of the worker's connections were full.
    NoRoom = "no_room";
    /// From a network in `accept_proxy`, and without a whole header of the PROXY protocol in time; and with one from another
    /// network.
    NoProxyHeader = "no_proxy_header";
    ForgedProxyHeader = "forged_proxy_header";
    /// What it sent is not SIP, or its end cannot be told.
    NotSip = "not_sip";
    NotFramed = "not_framed";
    /// A message, or the first byte of the first one, took too long.
    SlowMessage = "slow_message";
    /// What was written to it stood still.
    SlowReader = "slow_reader";
    Idle = "idle";
    /// The address that it came to is not in the configuration any more.
    Unbound = "unbound";
    /// It was open when this process ended.
    Stopped = "stopped";
    /// A fault of ours while it was served.
    Panicked = "panicked";
}

/// One counter per [`End`].
#[derive(Debug)]
pub struct EndCounters([Counter; End::ALL.len()]);

impl Default for EndCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl EndCounters {
    pub fn of(&self, end: End) -> &Counter {
        &self.0[end as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What closes is no way any more, but has its file until it is gone.
    #[test]
    fn a_closing_connection_still_takes_room() {
        let connections = Connections::default();
        let id = ConnectionId::new(std::num::NonZeroU32::MIN, 1);
        let connection = Connection {
            transport: Transport::Tcp,
            local: ([10, 0, 0, 1], 5060).into(),
            remote: ([10, 0, 0, 2], 40_000).into(),
            frontend: NameHash(1),
            server: None,
        };
        connections.set_room(1);
        connections.insert(id, connection);
        assert!(connections.has_room() && connections.get(id) == Some(connection));
        connections.take_room(1);
        connections.close(id);
        assert!(!connections.has_room() && connections.get(id).is_none());
        connections.give_room_back(1);
        assert!(connections.has_room());
    }
}
