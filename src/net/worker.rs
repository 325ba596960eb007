//! The threads of the data path: one per worker, each with a runtime of its own.

use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::Socket;
use tokio::io::Interest;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, LocalSet};

use super::mmsg;
use super::relay::Relay;
use super::socket::Port;
use super::udp::{Engine, clock};
use crate::state::{Shared, Snapshot};

/// Batches from one socket before the others have their turn.
const BATCHES_IN_A_ROW: usize = 8;

/// How often a worker looks after itself.
const TICK: Duration = Duration::from_secs(1);

/// When told to stop, a worker goes on until nothing came for this long: an answer to what it just forwarded takes a
/// round trip. At most [`LONGEST_STOP`].
const QUIET: Duration = Duration::from_millis(100);
const LONGEST_STOP: Duration = Duration::from_secs(2);

/// What every worker is given.
#[derive(Clone)]
pub struct Setup {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub shared: Arc<Shared>,
    /// Wakes whoever keeps the health of servers.
    pub woken: Arc<Notify>,
}

/// The running workers.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    doors: Vec<Door>,
    stop: watch::Sender<bool>,
}

/// The way to a worker's relay.
struct Door {
    ports: mpsc::Sender<Vec<Port>>,
    knock: Arc<Notify>,
}

/// What a worker works with. It outlives a panic.
#[derive(Clone)]
struct Rooms {
    engine: Rc<RefCell<Engine>>,
    relay: Rc<RefCell<Relay>>,
    /// Somebody stands at the relay's door.
    knock: Arc<Notify>,
}

impl Workers {
    /// Starts a worker for each inner list of sockets: one socket of each bind, in the order of the snapshot's binds.
    ///
    /// # Errors
    /// Where a thread cannot be started.
    pub fn start(setup: &Setup, sockets: Vec<Vec<Socket>>) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let start = |(worker, sockets): (usize, Vec<Socket>)| {
            let (setup, stopped) = (setup.clone(), stopped.clone());
            let (ports, door) = mpsc::channel();
            let knock = Arc::new(Notify::new());
            let Setup { snapshot, shared, woken } = setup.clone();
            let knocked = Arc::clone(&knock);
            let thread =
                std::thread::Builder::new().name(format!("worker-{worker}")).spawn(move || {
                    match Relay::new(snapshot, shared, worker, door, woken) {
                        Ok(relay) => run(&setup, worker, sockets, (relay, knocked), &stopped),
                        Err(error) => tracing::error!(worker, %error, "worker cannot start"),
                    }
                })?;
            Ok((thread, Door { ports, knock }))
        };
        let started: Vec<_> = sockets.into_iter().enumerate().map(start).collect::<io::Result<_>>()?;
        let (threads, doors) = started.into_iter().unzip();
        Ok(Self { threads, doors, stop })
    }

    /// Gives sockets of relays to the workers, to each its list. They are closed when the snapshot has no relay on their
    /// address any more.
    pub fn give(&self, ports: Vec<Vec<Port>>) {
        for (door, ports) in self.doors.iter().zip(ports) {
            // A worker that is gone already relays nothing.
            let _ = door.ports.send(ports);
            door.knock.notify_one();
        }
    }

    /// Tells the workers to finish what is in flight, and waits until they have.
    pub fn stop(self) {
        // A worker that is gone already has nobody listening.
        let _ = self.stop.send(true);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker did not end in order");
            }
        }
    }
}

/// One worker's life. A panic costs the batch in hand, not the worker: its sockets and the calls of the others go on.
fn run(
    setup: &Setup,
    worker: usize,
    sockets: Vec<Socket>,
    (relay, knock): (Relay, Arc<Notify>),
    stopped: &watch::Receiver<bool>,
) {
    let Setup { snapshot, shared, woken } = setup.clone();
    let engine = Rc::new(RefCell::new(Engine::new(snapshot, shared, worker, sockets, woken)));
    let rooms = Rooms { engine, relay: Rc::new(RefCell::new(relay)), knock };
    loop {
        let served = catch_unwind(AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            LocalSet::new().block_on(&runtime, serve(rooms.clone(), stopped.clone()))
        }));
        match served {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(worker, %error, "worker cannot go on");
                return;
            }
            Err(_) => {
                tracing::error!(worker, "a message made the worker panic; its batch is lost, the worker goes on");
                rooms.engine.borrow_mut().recover();
                rooms.relay.borrow_mut().recover();
            }
        }
    }
}

/// Serves all sockets until told to stop and nothing is in flight any more.
async fn serve(rooms: Rooms, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let Rooms { engine, relay, knock } = rooms;
    let mut tasks = JoinSet::new();
    tasks.spawn_local(serve_relay(Rc::clone(&relay)));
    let lanes = engine.borrow().lanes();
    for lane in 0..lanes {
        tasks.spawn_local(serve_socket(Rc::clone(&engine), lane));
    }
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                engine.borrow_mut().tick();
                relay.borrow_mut().tick();
            }
            () = knock.notified() => relay.borrow_mut().take_ports(),
            ended = tasks.join_next() => return match ended {
                // A panic is the thread's to catch.
                Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Some(Ok(result)) => result,
                _ => Ok(()),
            },
            _ = stopped.wait_for(|stop| *stop) => break,
        }
    }
    let until = clock() + LONGEST_STOP;
    let mut before = None;
    let received = || engine.borrow().received() + relay.borrow().received();
    while clock() < until && before != Some(received()) {
        before = Some(received());
        tokio::time::sleep(QUIET).await;
    }
    Ok(())
}

/// Serves one socket for ever. Never waits for room to send: a datagram that does not leave is dropped by name.
async fn serve_socket(engine: Rc<RefCell<Engine>>, lane: usize) -> io::Result<()> {
    let socket = mmsg::watch(engine.borrow().socket(lane)?.into())?;
    loop {
        let mut ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        // The readiness is edge-triggered: it may be forgotten only when the queue was found empty. Nothing can have
        // come in between unseen, for this thread also runs the driver that would have noted it.
        if (0..BATCHES_IN_A_ROW).any(|_| engine.borrow_mut().batch(lane)) {
            ready.clear_ready();
        } else {
            tokio::task::yield_now().await;
        }
    }
}

/// Serves the sockets of relays for ever, all of them by one epoll instance, which is watched like a socket.
async fn serve_relay(relay: Rc<RefCell<Relay>>) -> io::Result<()> {
    let watched = mmsg::watch(relay.borrow().watched()?)?;
    loop {
        let mut ready = watched.readable().await?;
        if relay.borrow_mut().turn() {
            ready.clear_ready();
        } else {
            tokio::task::yield_now().await;
        }
    }
}
