//! The threads of the data path: one per worker, each with a runtime of its own.

use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::Socket;
use tokio::io::Interest;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, LocalSet};

use super::mmsg;
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
    stop: watch::Sender<bool>,
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
            std::thread::Builder::new()
                .name(format!("worker-{worker}"))
                .spawn(move || run(&setup, worker, sockets, &stopped))
        };
        let threads = sockets.into_iter().enumerate().map(start).collect::<io::Result<_>>()?;
        Ok(Self { threads, stop })
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
fn run(setup: &Setup, worker: usize, sockets: Vec<Socket>, stopped: &watch::Receiver<bool>) {
    let Setup { snapshot, shared, woken } = setup.clone();
    let engine = Rc::new(RefCell::new(Engine::new(snapshot, shared, worker, sockets, woken)));
    loop {
        let served = catch_unwind(AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            LocalSet::new().block_on(&runtime, serve(Rc::clone(&engine), stopped.clone()))
        }));
        match served {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(worker, %error, "worker cannot go on");
                return;
            }
            Err(_) => {
                tracing::error!(worker, "a message made the worker panic; its batch is lost, the worker goes on");
                engine.borrow_mut().recover();
            }
        }
    }
}

/// Serves all sockets until told to stop and nothing is in flight any more.
async fn serve(engine: Rc<RefCell<Engine>>, mut stopped: watch::Receiver<bool>) -> io::Result<()> {
    let mut tasks = JoinSet::new();
    let lanes = engine.borrow().lanes();
    for lane in 0..lanes {
        tasks.spawn_local(serve_socket(Rc::clone(&engine), lane));
    }
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = tick.tick() => engine.borrow_mut().tick(),
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
    while clock() < until && before != Some(engine.borrow().received()) {
        before = Some(engine.borrow().received());
        tokio::time::sleep(QUIET).await;
    }
    Ok(())
}

/// Serves one socket for ever. Never waits for room to send: a datagram that does not leave is dropped by name.
async fn serve_socket(engine: Rc<RefCell<Engine>>, lane: usize) -> io::Result<()> {
    let socket = mmsg::watch(engine.borrow().socket(lane)?)?;
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
