//! The threads of the data path: one per worker, each with a runtime of its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::Socket;
use tokio::io::Interest;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet, LocalSet};
use tokio::time::MissedTickBehavior;

use super::relay::Relay;
use super::socket::Port;
use super::stream::retransmit::STEP;
use super::stream::table::Streams;
use super::stream::{PARCELS, Parcel, serve as stream};
use super::tls::Tls;
use super::udp::{Engine, clock};
use super::{mmsg, socket};
use crate::sip::Transport;
use crate::state::binds::Bind;
use crate::state::{Shared, Snapshot};

/// Batches from one socket before the others have their turn.
const BATCHES_IN_A_ROW: usize = 8;

/// How often a worker looks after itself.
const TICK: Duration = Duration::from_secs(1);

/// When told to stop, workers go on until nothing came to any of them for this long: an answer to what one just forwarded takes
/// a round trip, and may come in by another. At most [`LONGEST_STOP`].
const QUIET: Duration = Duration::from_millis(100);
const LONGEST_STOP: Duration = Duration::from_secs(2);

/// What every worker is given.
#[derive(Clone)]
pub struct Setup {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub shared: Arc<Shared>,
    /// Wakes whoever keeps the health of servers.
    pub woken: Arc<Notify>,
    /// What handshakes need.
    pub tls: Arc<Tls>,
}

/// What a worker does about one of its sockets when the configuration changes: a new one is opened before a snapshot
/// names it and served after; one that goes is shut and drained before, and closed after no snapshot names it any more.
#[derive(Debug)]
pub enum Order {
    Open(Bind, Socket),
    Serve(Bind),
    /// From now on nothing more comes in by it.
    Shut(Bind),
    /// Read what had come.
    Drain(Bind),
    Close(Bind),
    /// The traffic class of the bind changed.
    Mark(Bind),
    /// Serve these sockets of relays too, and close those that no relay of the snapshot names.
    Relay(Vec<Port>),
}

/// What a worker works with. It outlives a panic.
#[derive(Clone)]
struct Rooms {
    engine: Rc<RefCell<Engine>>,
    relay: Rc<RefCell<Relay>>,
}

/// Orders, and whom to tell that they are carried out.
struct Orders {
    orders: Vec<Order>,
    done: oneshot::Sender<()>,
}

/// What comes to a worker from others.
struct Post {
    orders: mpsc::UnboundedReceiver<Orders>,
    parcels: mpsc::Receiver<Parcel>,
}

/// The running workers.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    orders: Vec<mpsc::UnboundedSender<Orders>>,
}

impl Workers {
    /// Starts a worker for each inner list of sockets: one socket of each bind, in the order of the snapshot's binds.
    ///
    /// # Errors
    /// Where a thread cannot be started.
    pub fn start(setup: &Setup, sockets: Vec<Vec<Socket>>) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (boxes, letters): (Vec<_>, Vec<_>) = sockets.iter().map(|_| mpsc::channel(PARCELS)).unzip();
        let start = |(worker, (sockets, parcels)): (usize, (Vec<Socket>, mpsc::Receiver<Parcel>))| {
            let (setup, stopped, boxes) = (setup.clone(), stopped.clone(), boxes.clone());
            let (sender, orders) = mpsc::unbounded_channel();
            let mut post = Post { orders, parcels };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{worker}"))
                .spawn(move || run(&setup, worker, (sockets, boxes), &stopped, &mut post))?;
            Ok((thread, sender))
        };
        let started = sockets.into_iter().zip(letters).enumerate().map(start).collect::<io::Result<Vec<_>>>()?;
        let (threads, orders) = started.into_iter().unzip();
        Ok(Self { threads, stop, orders })
    }

    /// Gives each worker its orders, and waits until all are carried out. Workers do it between two batches.
    pub async fn tell(&self, mut orders: impl FnMut(usize) -> Vec<Order>) {
        let tell = |(worker, sender): (usize, &mpsc::UnboundedSender<Orders>)| {
            let (done, told) = oneshot::channel();
            // A worker that is gone has said so when it went; its sockets are closed.
            sender.send(Orders { orders: orders(worker), done }).ok().map(|()| told)
        };
        let told: Vec<_> = self.orders.iter().enumerate().filter_map(tell).collect();
        for done in told {
            let _ = done.await;
        }
    }

    /// Gives each worker its sockets of relays, without waiting: for the start.
    pub fn give(&self, ports: Vec<Vec<Port>>) {
        for (sender, ports) in self.orders.iter().zip(ports) {
            // A worker that is gone already relays nothing.
            let _ = sender.send(Orders { orders: vec![Order::Relay(ports)], done: oneshot::channel().0 });
        }
    }

    /// Whether this worker's thread has not ended: one that has holds nothing any more.
    pub fn is_running(&self, worker: usize) -> bool {
        self.threads.get(worker).is_some_and(|thread| !thread.is_finished())
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

/// One worker's life. A panic costs the batch in hand ([`survive`]), and where it is a connection's, or comes with a tick or an
/// order, the worker's connections: its sockets and the calls of the others go on.
fn run(
    setup: &Setup,
    worker: usize,
    (sockets, boxes): (Vec<Socket>, Vec<mpsc::Sender<Parcel>>),
    stopped: &watch::Receiver<bool>,
    post: &mut Post,
) {
    let Setup { snapshot, shared, woken, tls } = setup.clone();
    let relay = match Relay::new(Arc::clone(&snapshot), Arc::clone(&shared), worker, Arc::clone(&woken)) {
        Ok(relay) => Rc::new(RefCell::new(relay)),
        Err(error) => return tracing::error!(worker, %error, "worker cannot start"),
    };
    let engine = Rc::new(RefCell::new(Engine::new(snapshot, shared, worker, sockets, Streams::new(boxes, tls), woken)));
    engine.borrow_mut().streams.engine = Rc::downgrade(&engine);
    let rooms = Rooms { engine, relay };
    loop {
        let served = catch_unwind(AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            LocalSet::new().block_on(&runtime, serve(rooms.clone(), stopped.clone(), post))
        }));
        match served {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(worker, %error, "worker cannot go on");
                return;
            }
            Err(_) => {
                tracing::error!(worker, "the worker panicked: its connections are closed, and it goes on");
                rooms.engine.borrow_mut().recover();
                rooms.relay.borrow_mut().recover();
            }
        }
    }
}

/// Serves all sockets until told to stop and nothing is in flight any more.
async fn serve(
    rooms: Rooms,
    mut stopped: watch::Receiver<bool>,
    Post { orders, parcels }: &mut Post,
) -> io::Result<()> {
    let Rooms { engine, relay } = rooms.clone();
    let mut served = Served { rooms, tasks: JoinSet::new(), by_lane: HashMap::new() };
    served.tasks.spawn_local(serve_relay(Rc::clone(&relay)));
    let binds = engine.borrow_mut().binds();
    binds.iter().for_each(|bind| served.serve(bind));
    let (mut tick, mut step) = (tokio::time::interval(TICK), tokio::time::interval(STEP));
    step.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = step.tick() => {
                survive(&engine, |engine| { engine.retransmit(); true }, Engine::recover);
            }
            _ = tick.tick() => {
                engine.borrow_mut().tick();
                engine.borrow_mut().end_overdue();
                relay.borrow_mut().tick();
            }
            Some(Orders { orders, done }) = orders.recv() => {
                orders.into_iter().for_each(|order| served.carry_out(order));
                // Whoever waits may have gone.
                let _ = done.send(());
            }
            Some(parcel) = parcels.recv() => {
                let mut engine = engine.borrow_mut();
                engine.deliver(parcel);
                // What came meanwhile wakes nobody once more.
                while let Ok(parcel) = parcels.try_recv() {
                    engine.deliver(parcel);
                }
            }
            Some(ended) = served.tasks.join_next() => match ended {
                // A panic is the thread's to catch.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // Its socket was drained.
                Err(_) => {}
                Ok(result) => return result,
            },
            _ = stopped.wait_for(|stop| *stop) => break,
        }
    }
    let (until, mut seen, mut last) = (clock() + LONGEST_STOP, None, clock());
    loop {
        let (received, now) = (engine.borrow().received_by_all(relay.borrow().received()), clock());
        if seen.replace(received) != Some(received) {
            last = now;
        }
        if now >= until || now.since(last) >= QUIET {
            break;
        }
        let pause = tokio::time::sleep(QUIET / 10);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                // Answers cross from worker to worker until the end.
                Some(parcel) = parcels.recv() => engine.borrow_mut().deliver(parcel),
                () = &mut pause => break,
            }
        }
    }
    engine.borrow_mut().streams.stopping = true;
    Ok(())
}

/// The sockets that are being read, each by a task.
struct Served {
    rooms: Rooms,
    tasks: JoinSet<io::Result<()>>,
    by_lane: HashMap<usize, AbortHandle>,
}

impl Served {
    fn serve(&mut self, bind: &Bind) {
        let (engine, lane) = (Rc::clone(&self.rooms.engine), usize::from(bind.lane));
        let task = match bind.transport {
            Transport::Udp => self.tasks.spawn_local(serve_socket(engine, lane)),
            Transport::Tcp | Transport::Tls => self.tasks.spawn_local(stream::listen(engine, lane)),
        };
        if let Some(before) = self.by_lane.insert(lane, task) {
            before.abort();
        }
    }

    fn leave(&mut self, bind: &Bind) {
        if let Some(task) = self.by_lane.remove(&usize::from(bind.lane)) {
            task.abort();
        }
    }

    fn carry_out(&mut self, order: Order) {
        let (lane, engine) = (|bind: &Bind| usize::from(bind.lane), Rc::clone(&self.rooms.engine));
        match order {
            Order::Relay(ports) => self.rooms.relay.borrow_mut().take(ports),
            Order::Open(bind, socket) => engine.borrow_mut().open(&bind, socket),
            Order::Serve(bind) => self.serve(&bind),
            Order::Shut(bind) => {
                if let Err(error) = socket::shut(&engine.borrow().socket(lane(&bind)), &bind) {
                    tracing::warn!(address = %bind.address, %error, "what comes before it is closed may be lost");
                }
            }
            Order::Drain(bind) => {
                self.leave(&bind);
                if bind.transport == Transport::Udp {
                    engine.borrow_mut().drain(lane(&bind));
                }
            }
            Order::Close(bind) => {
                // After a panic it is served again.
                self.leave(&bind);
                engine.borrow_mut().close(lane(&bind));
            }
            Order::Mark(bind) => {
                if let Err(error) = socket::mark(&engine.borrow().socket(lane(&bind)), &bind) {
                    tracing::warn!(address = %bind.address, %error, "the traffic class could not be changed");
                }
            }
        }
    }
}

/// A batch, of which a panic costs nothing but itself: what it left half-done must be gone before another task of this worker
/// puts its own datagrams into the same slots. False after a panic, for there may be more to do.
fn survive<T>(room: &RefCell<T>, batch: impl FnOnce(&mut T) -> bool, recover: impl FnOnce(&mut T)) -> bool {
    catch_unwind(AssertUnwindSafe(|| batch(&mut room.borrow_mut()))).unwrap_or_else(|_| {
        tracing::error!("a message made the worker panic; its batch is lost, the worker goes on");
        recover(&mut room.borrow_mut());
        false
    })
}

/// Serves one socket for ever. Never waits for room to send: a datagram that does not leave is dropped by name.
async fn serve_socket(engine: Rc<RefCell<Engine>>, lane: usize) -> io::Result<()> {
    let socket = mmsg::watch(engine.borrow().socket(lane))?;
    loop {
        let mut ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        // The readiness is edge-triggered: it may be forgotten only when the queue was found empty. Nothing can have
        // come in between unseen, for this thread also runs the driver that would have noted it.
        if (0..BATCHES_IN_A_ROW).any(|_| survive(&engine, |engine| engine.batch(lane), Engine::recover)) {
            ready.clear_ready();
        } else {
            tokio::task::yield_now().await;
        }
    }
}

/// Serves the sockets of relays for ever, all of them by one epoll instance, which is watched like a socket.
async fn serve_relay(relay: Rc<RefCell<Relay>>) -> io::Result<()> {
    let watched = mmsg::watch(Rc::new(relay.borrow().watched()?))?;
    loop {
        let mut ready = watched.readable().await?;
        if survive(&relay, Relay::turn, Relay::recover) {
            ready.clear_ready();
        } else {
            tokio::task::yield_now().await;
        }
    }
}
