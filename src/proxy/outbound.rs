//! Requests that servers send: to the client whose flow our token names, else to where the request says (docs/rules.md 20).

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use crate::sip::token::{Branch, Direction, Sealed, SealedIn, Way};
use crate::sip::{ConnectionId, FlowToken, Side, Transport, Uri};
use crate::state::Reason;
use crate::state::binds::Bind;

use super::request::Identity;
use super::route::Routed;
use super::{Case, Datagram, Hop, Passage, Peer, Verdict, may_send_to, stamp, unspecified};

/// Where a server's request goes.
struct Target<'a> {
    /// Position of the frontend that it leaves from.
    frontend: usize,
    hop: Hop,
    /// What the client is told of us.
    side: Cow<'a, Side>,
    /// What our Record-Route keeps of the way.
    flow: FlowToken,
    nat: bool,
}

impl<'a> Case<'a> {
    /// A server's request to a client. Only a configured server comes here: nobody else makes us send to other places.
    pub(super) fn forward_to_client(
        &mut self,
        identity: &Identity<'_>,
        routed: &Routed,
        server: usize,
    ) -> Result<Verdict, Reason> {
        let (received, snapshot) = (self.received, self.snapshot);
        let sender = &snapshot.servers[server];
        let target = self.target(routed)?;
        let home = self.home(identity)?;
        if target.hop.datagram().is_none() {
            self.fit_for_stream()?;
        }
        let frontend = &snapshot.frontends[target.frontend];
        // What a client was told of another client's address is nobody's business.
        if let Some(name) = &frontend.config.source_header {
            // Where a client takes another line end than we do, it has seen no more than its server sent.
            let _ = stamp::cut_source_header(self.edits, received.bytes, received.message, name);
        }
        self.edits.insert(received.message.head);
        let own_via = stamp::OwnVia {
            branch: Branch { direction: Direction::ToClient, server: sender.id, transaction: identity.transaction },
            call: identity.call,
            way: Way { frontend: self.frontend.config.id, flow: home, stick: None },
            time: self.send_time(),
        };
        own_via.put(self.edits, &target.side, &snapshot.keys);
        if frontend.config.record_route && self.wants_record_route() {
            let sealed = Sealed {
                stands_in: SealedIn::RecordRoute,
                server: sender.id,
                frontend: frontend.config.id,
                flow: target.flow,
                nat: target.nat,
            };
            let inside = match frontend.egress(server) {
                Some(egress) => Cow::Borrowed(&egress.side),
                None => Cow::Owned(Side::of(received.flow.transport, received.flow.local)),
            };
            stamp::record_route(self.edits, &sealed, identity.call, &snapshot.keys, &target.side, &inside);
        }
        stamp::count_hop(self.edits, received.message);
        stamp::receive_via(self.edits, identity.via, identity.source, false);
        self.fits()?;
        self.own_call(identity.call, server);
        Ok(Verdict::Forward {
            to: target.hop,
            end: received.message.end as usize,
            passage: Passage::RequestToClient {
                server,
                frontend: target.frontend,
                method: self.method,
                transaction: identity.transaction,
            },
        })
    }

    /// The sender owns a call that it opens; one that is another server's stays there (it came to the sender through
    /// that one, and the caller's CANCEL must find it).
    fn own_call(&mut self, call: u64, server: usize) {
        let id = self.snapshot.servers[server].id;
        match self.memory.shared.pins.look(call, self.now) {
            (Some(pin), _) if pin.server != id => {}
            (Some(pin), _) if pin.confirmed => self.touch_pin(pin),
            (pin, seen) => self.open_pin(call, Some(seen), server, pin.is_none(), false),
        }
    }

    /// The next hop: the flow in our token where that is a connection or only the flow reaches the client, else the next
    /// Route or the Request-URI.
    fn target(&mut self, routed: &Routed) -> Result<Target<'a>, Reason> {
        let (bytes, snapshot) = (self.received.bytes, self.snapshot);
        let uri = Uri::parse(bytes, routed.next.unwrap_or(routed.request_uri)).ok_or(Reason::UnknownTarget);
        let written = uri.as_ref().ok().and_then(|uri| stamp::target(bytes, uri));
        let transport = uri.as_ref().map_or(Transport::Udp, |uri| transport_of(bytes, uri));
        // What nobody here speaks is tried by datagrams; but what is to be secret is not sent in clear (RFC 3261 §26.2.2).
        let speaks = written.is_some_and(|address| self.first_frontend(transport, address).is_some());
        let secure = transport == Transport::Tls;
        let transport = if speaks || secure { transport } else { Transport::Udp };
        let Some(token) = routed.token else {
            uri?;
            return self.as_written(None, transport, written.ok_or(Reason::UnknownTarget)?);
        };
        // A name, or ourselves, says nothing about where the client is.
        let elsewhere = written.filter(|address| *address != self.received.flow.local && !snapshot.is_own(address));
        let elsewhere = elsewhere.filter(|_| !token.nat);
        let (local, flow) = match token.flow {
            FlowToken::Connection(id) => {
                // The dialog of a trunk that closes what is idle goes on by a new one (RFC 3261 §18.1.1). Of a phone that has
                // registered the registrar should hear that its flow is gone.
                let may_open = token.stands_in == SealedIn::RecordRoute && transport == Transport::Tcp;
                return match (self.over(id, &token), elsewhere.filter(|_| may_open)) {
                    (Err(Reason::FlowGone), Some(address)) => self
                        .as_written(snapshot.frontend(token.frontend), transport, address)
                        .map_err(|reason| match reason {
                            Reason::NoSocket | Reason::BadDestination => Reason::FlowGone,
                            reason => reason,
                        }),
                    (found, _) => found,
                };
            }
            FlowToken::Ends { local, remote } => (local, remote),
        };
        // A called client behind NAT that never registered: its Contact was not known when its token was sealed.
        let is_hidden = |address: &SocketAddr| {
            token.stands_in == SealedIn::RecordRoute
                && routed.next.is_none()
                && stamp::is_private(address.ip())
                && !stamp::is_private(flow.ip())
        };
        let elsewhere = elsewhere.filter(|address| !is_hidden(address));
        let frontend = snapshot
            .frontend(token.frontend)
            .or_else(|| self.first_frontend(Transport::Udp, flow))
            .ok_or(Reason::NoSocket)?;
        let to = match elsewhere.filter(|address| (transport, *address) != (Transport::Udp, flow)) {
            Some(address) => (transport, self.allowed(address, frontend)?),
            None => (Transport::Udp, flow),
        };
        match self.towards(frontend, to, local, token.nat) {
            // A Contact of a family or a transport that we do not speak: the flow reaches the client nevertheless.
            Err(Reason::NoSocket) => self.towards(frontend, (Transport::Udp, flow), local, token.nat),
            found => found,
        }
    }

    /// To where the request itself says, from this frontend or the first that speaks so.
    fn as_written(
        &mut self,
        frontend: Option<usize>,
        transport: Transport,
        address: SocketAddr,
    ) -> Result<Target<'a>, Reason> {
        let first = |transport| self.first_frontend(transport, address);
        let frontend = frontend.or_else(|| first(transport)).or_else(|| first(Transport::Udp));
        let frontend = frontend.ok_or(Reason::NoSocket)?;
        let remote = self.allowed(address, frontend)?;
        self.towards(frontend, (transport, remote), SocketAddr::new(unspecified(remote), 0), false)
    }

    /// The client's connection, which alone reaches it; where that is gone the server should know (RFC 5626 §5.3.1).
    fn over(&self, id: ConnectionId, token: &Sealed) -> Result<Target<'a>, Reason> {
        let snapshot = self.snapshot;
        let connection = self.memory.shared.connections.get(id).ok_or(Reason::FlowGone)?;
        let named = snapshot.frontend(connection.frontend);
        let bind = match named {
            Some(frontend) => snapshot.bind_for(frontend, connection.transport, &connection.local),
            // Its address is another frontend's since.
            None => snapshot.bind_at(connection.transport, &connection.local, |_| false),
        };
        let bind = bind.ok_or(Reason::FlowGone)?;
        let frontend = named.unwrap_or(usize::from(snapshot.binds[bind].frontend));
        let side = snapshot.outer_side(bind, connection.local);
        Ok(Target { frontend, hop: Hop::Connection(id), side, flow: token.flow, nat: token.nat })
    }

    /// The first frontend that speaks to clients by the transport and the family. By an `inside` address servers alone are
    /// spoken to.
    fn first_frontend(&self, transport: Transport, remote: SocketAddr) -> Option<usize> {
        let fits = |bind: &&Bind| {
            let of = &self.snapshot.frontends[usize::from(bind.frontend)].config.binds;
            let is_written = || of.iter().any(|of| (of.transport, of.address) == (bind.transport, bind.address));
            bind.transport == transport && bind.address.is_ipv4() == remote.is_ipv4() && is_written()
        };
        let bind = self.snapshot.binds.iter().find(fits)?;
        Some(bind.frontend as usize)
    }

    /// To an address, from a frontend.
    fn towards(
        &mut self,
        frontend: usize,
        (transport, remote): (Transport, SocketAddr),
        local: SocketAddr,
        nat: bool,
    ) -> Result<Target<'a>, Reason> {
        let snapshot = self.snapshot;
        match transport {
            Transport::Udp => {
                let datagram = self.datagram(frontend, local, remote)?;
                let side = snapshot.outer_side(datagram.bind, datagram.local);
                let flow = FlowToken::Ends { local: datagram.local, remote };
                Ok(Target { frontend, hop: Hop::Datagram(datagram), side, flow, nat })
            }
            Transport::Tcp => {
                let hop = self.connect_to(remote, frontend)?;
                let (id, bind) = match hop {
                    Hop::Peer(Peer { id, bind, .. }) => (id, Some(bind)),
                    Hop::Connection(id) => (id, snapshot.bind_for(frontend, transport, &local)),
                    _ => return Err(Reason::NoSocket),
                };
                let bind = bind.ok_or(Reason::NoSocket)?;
                let at = &snapshot.binds[bind];
                let side = snapshot.outer_side(bind, at.host.unwrap_or(at.address));
                Ok(Target { frontend, hop, side, flow: FlowToken::Connection(id), nat })
            }
            // Nobody there has a certificate that we could ask for.
            Transport::Tls if may_send_to(&remote, snapshot) => Err(Reason::UnknownTarget),
            Transport::Tls => Err(Reason::BadDestination),
        }
    }

    /// Leaves from `local` where we have it, else from the frontend's first bind of the family.
    fn datagram(&self, frontend: usize, local: SocketAddr, remote: SocketAddr) -> Result<Datagram, Reason> {
        let snapshot = self.snapshot;
        if !may_send_to(&remote, snapshot) {
            return Err(Reason::BadDestination);
        }
        let like = |bind: &Bind| bind.transport == Transport::Udp && bind.address.is_ipv4() == remote.is_ipv4();
        let at = snapshot
            .bind_for(frontend, Transport::Udp, &local)
            .filter(|at| like(&snapshot.binds[*at]))
            .or_else(|| snapshot.binds.iter().position(|bind| bind.frontend as usize == frontend && like(bind)));
        let at = at.ok_or(Reason::NoSocket)?;
        let bind = &snapshot.binds[at];
        let local = match (bind.is_wildcard(), bind.serves(Transport::Udp, &local)) {
            (false, _) => bind.address,
            (true, true) => local,
            (true, false) => bind.host.unwrap_or(bind.address),
        };
        Ok(Datagram { bind: at, local, remote })
    }

    /// Whether what a message says may be followed: a registered Contact must not turn us against the inside.
    fn allowed(&self, address: SocketAddr, frontend: usize) -> Result<SocketAddr, Reason> {
        // ::ffff:127.0.0.1 is 127.0.0.1 to whoever receives it.
        let ip = address.ip().to_canonical();
        let local_only = match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
        };
        let inside = local_only || ip.is_multicast() || self.snapshot.is_own_ip(ip) || self.snapshot.is_server_ip(ip);
        match inside && !self.snapshot.frontends[frontend].send_to.contains(ip) {
            true => Err(Reason::ForbiddenTarget),
            false => Ok(address),
        }
    }
}

/// How a URI wants to be reached (RFC 3263 §4.1): what it says, else by datagrams.
fn transport_of(bytes: &[u8], uri: &Uri) -> Transport {
    let written = uri.param(bytes, b"transport").and_then(|param| param.value);
    match written.map(|value| value.of(bytes)) {
        _ if uri.is_tls(bytes) => Transport::Tls,
        Some(value) if value.eq_ignore_ascii_case(b"tcp") => Transport::Tcp,
        _ => Transport::Udp,
    }
}
