//! Whether this process itself is well: what keepalived asks (`trunkline check-local`), and systemd's watchdog. Servers that
//! are down, or a network, are no fault of it: the other node of a pair would find them just the same, and no node would
//! have the address.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::View;
use super::runtime_socket::RuntimeSocket;
use crate::net::udp::clock;
use crate::state::{Shared, Time};

/// A worker looks after itself once a second. One that did not for so long stands still.
const STANDS_STILL: Duration = Duration::from_secs(5);

/// Servers are looked at four times a second by who carries out changes too. A reload with a thousand servers keeps it for
/// seconds; one that did not look for so long leaves dead servers their calls.
const LOOKS_AT_NOBODY: Duration = Duration::from_secs(30);

/// Where it is asked: beside the runtime socket.
pub fn socket(runtime_socket: &Path) -> PathBuf {
    runtime_socket.with_extension("check")
}

/// What is said where nothing is wrong.
pub const WELL: &str = "well\n";

/// What is wrong with each worker, in their order.
pub(super) fn workers(shared: &Shared, started: Time, now: Time) -> impl Iterator<Item = Option<String>> {
    shared.workers.each().map(move |counters| {
        let silent = now.since(Time(counters.turned.get()).max(started));
        (silent > STANDS_STILL).then(|| format!("stands still for {} s", silent.as_secs()))
    })
}

/// What is wrong with who looks at servers.
pub(super) fn control(shared: &Shared, started: Time, now: Time) -> Option<String> {
    let silent = now.since(Time(shared.looked.get()).max(started));
    (silent > LOOKS_AT_NOBODY).then(|| format!("looks at no server for {} s", silent.as_secs()))
}

/// What is wrong with this process, a line each.
pub fn faults(view: &View) -> Vec<String> {
    let (shared, started, now) = (view.shared(), view.started(), clock());
    let of_workers = workers(shared, started, now).enumerate();
    let of_workers = of_workers.filter_map(|(worker, fault)| Some(format!("worker {worker} {}\n", fault?)));
    of_workers.chain(control(shared, started, now).map(|fault| format!("control {fault}\n"))).collect()
}

/// What a pair's other node is chosen by: faults, and that this process is about to end.
fn told(view: &View) -> String {
    let mut lines = faults(view);
    lines.extend(view.is_stopping().then(|| "stopping\n".to_owned()));
    if lines.is_empty() { WELL.to_owned() } else { lines.concat() }
}

impl RuntimeSocket {
    /// Tells whoever connects what is wrong with this process, for ever. It has a socket of its own, because those of
    /// commands may all be in use.
    pub async fn tell_faults(self, view: View) {
        loop {
            match self.accept().await {
                // So few bytes always find room; whoever went already hears nothing.
                Ok(stream) => drop(stream.into_std().and_then(|mut stream| stream.write_all(told(&view).as_bytes()))),
                Err(error) => {
                    tracing::warn!(%error, "the socket of local checks accepts nobody for a second");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}
