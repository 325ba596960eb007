//! Our own SIP load: clients that call, servers that answer, and a flood.
//!
//! It drives the demo, the end-to-end tests and the benchmarks, over UDP, TCP and TLS; the flood over UDP. It is a peer of the balancer on the wire and
//! knows nothing of its inside: what it shares with it are the parser ([`crate::sip`]) and the batched system calls
//! ([`crate::net::mmsg`]).
//!
//! | part | who | what it watches |
//! |---|---|---|
//! | [`generator`] | clients, also behind NAT, also phones that are called back; open loop | every call ends in one column of the [`ledger`] |
//! | [`answerer`] | one or many servers, whose behaviour can be switched while they run | requests for calls that a server does not have: *misdirected* |
//! | [`flood`] | requests at the speed of one core, and [`sink`]s that echo them | sent = answered + refused + lost |
//!
//! The calls are one state machine for both ends ([`call`], with [`caller`] and [`callee`]): bytes and time in, bytes
//! out, no sockets. [`crowd`] holds the clients' calls, [`server`] those of one server; [`generator`] and [`answerer`]
//! are the loops around them. What carries the messages are [`datagrams`] or [`connections`] for clients, a socket or
//! [`streams`] for servers. Memory is bounded: by the limit of calls, of registrations, of sockets.
//!
//! RFC 3261 §12 (dialogs), §13 (INVITE), §17 (transactions and their timers), RFC 3327 (Path), RFC 3581 (rport). Left
//! out on purpose: authentication, reliable provisional responses, forking (the first 2xx wins), strict routers, DNS.
//!
//! Reading order: [`plan`] (what shall happen), [`call`], [`crowd`], [`generator`]; [`args`] for the command line.

pub mod answerer;
pub mod args;
pub mod books;
pub mod call;
pub mod callee;
pub mod caller;
pub mod calls;
pub mod command;
pub mod compose;
pub mod connections;
pub mod crowd;
pub mod datagrams;
pub mod dialog;
pub mod flood;
pub mod flood_ledger;
pub mod generator;
pub mod ids;
pub mod json;
pub mod ledger;
pub mod lossy;
pub mod outgoing;
pub mod plan;
pub mod registrar;
pub mod report;
pub mod server;
pub mod sink;
pub mod socket;
pub mod stream;
pub mod streams;
pub mod tls;
pub mod transaction;
pub mod values;
pub mod view;

pub use answerer::{AnswerReport, Answerer, AnswererOptions, Listen};
pub use args::{AnswerArgs, CallArgs, FloodArgs, LoadCommand, run};
pub use connections::{Carrier, ClientTls, Connected, Sharing, StreamOptions};
pub use crowd::Habits;
pub use flood::{Flood, FloodOptions, FloodReport};
pub use generator::{Generator, GeneratorOptions};
pub use ledger::Ledger;
pub use lossy::Weather;
pub use plan::{Mix, Scenario, Timers};
pub use report::{CallReport, Report};
pub use server::Manner;
pub use tls::ServerTls;
pub use view::{Behaviour, ServerView};

#[cfg(test)]
mod tests;
