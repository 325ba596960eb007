//! A thousand connections at once, servers that die and come back, clients that vanish: each request is answered once, to
//! the client that asked. TRUNKLINE_SEED begins another storm.

mod support;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::core::config;
use support::workers::{free_port, prepare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use trunkline::net::worker::Workers;
use trunkline::state::Reason;

const CLIENTS: usize = 1_000;
const ROUNDS: usize = 8;
const SERVERS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(30);

/// A small generator: the same seed, the same storm.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// All that is known of requests: who asked, and how often they were answered.
#[derive(Default)]
struct Book {
    /// By Call-ID: whether the connection that asked is there.
    asked: HashMap<String, bool>,
    answered: HashSet<String>,
    statuses: HashMap<String, usize>,
}

impl Book {
    fn answer(&mut self, message: &str, call: &str) {
        assert!(self.asked.contains_key(call), "invented: {message}");
        assert!(self.answered.insert(call.to_owned()), "twice: {message}");
        *self.statuses.entry(message[8..11].to_owned()).or_default() += 1;
    }
}

type Shared = Arc<Mutex<Book>>;

fn call_of(message: &str) -> String {
    let line = message.split("\r\n").find(|line| line.starts_with("Call-ID: ")).expect("a Call-ID");
    line["Call-ID: ".len()..].to_owned()
}

/// The next message without a body; `None` at the end of the connection.
async fn next(stream: &mut TcpStream, begun: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = begun.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = begun.split_off(end + 4);
            return Some(String::from_utf8(std::mem::replace(begun, rest)).unwrap());
        }
        if stream.read_buf(begun).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

fn request(method: &str, call: &str, trap: SocketAddr) -> String {
    format!(
        "{method} sip:100@sim.example SIP/2.0\r\nVia: SIP/2.0/TCP {trap};branch=z9hG4bK{call}\r\n\
         From: <sip:a@sim.example>;tag={call}\r\nTo: <sip:100@sim.example>\r\nCall-ID: {call}\r\n\
         CSeq: 1 {method}\r\nContact: <sip:a@192.168.1.2>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
}

async fn client(number: usize, seed: u64, balancer: SocketAddr, trap: SocketAddr, book: Shared) {
    let mut dice = Dice(seed ^ (number as u64) << 20);
    let (mut generation, mut begun) = (0, Vec::new());
    let mut stream = TcpStream::connect(balancer).await.unwrap();
    for round in 0..ROUNDS {
        let mut waiting = HashSet::new();
        let mut all = String::new();
        for n in 0..=dice.below(4) {
            let call = format!("{number}-{generation}-{round}-{n}");
            all += &request(["OPTIONS", "INVITE"][dice.below(2) as usize], &call, trap);
            book.lock().unwrap().asked.insert(call.clone(), true);
            waiting.insert(call);
        }
        // In two pieces, cut anywhere.
        let (one, other) = all.split_at(dice.below(all.len() as u64) as usize);
        stream.write_all(one.as_bytes()).await.unwrap();
        sleep(Duration::from_millis(dice.below(5))).await;
        stream.write_all(other.as_bytes()).await.unwrap();
        if dice.below(10) == 0 {
            book.lock().unwrap().asked.extend(waiting.into_iter().map(|call| (call, false)));
            (stream, begun, generation) = (TcpStream::connect(balancer).await.unwrap(), Vec::new(), generation + 1);
            continue;
        }
        while !waiting.is_empty() {
            let answer = timeout(PATIENCE, next(&mut stream, &mut begun)).await;
            let answer = answer.unwrap_or_else(|_| panic!("no answer to {waiting:?}")).expect("the connection lives");
            let call = call_of(&answer);
            assert!(waiting.remove(&call), "not for {number}, which waits for {waiting:?}: {answer}");
            book.lock().unwrap().answer(&answer, &call);
        }
    }
    // Nothing more comes.
    sleep(Duration::from_millis(300)).await;
    assert!(begun.is_empty() && stream.try_read(&mut [0; 100]).is_err(), "somebody's answer came to {number}");
}

/// Where answers go whose client has vanished.
async fn serve_trap(listener: TcpListener, book: Shared) {
    let mut tasks = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let book = Arc::clone(&book);
        tasks.spawn(async move {
            let mut begun = Vec::new();
            while let Some(answer) = next(&mut stream, &mut begun).await {
                let (call, mut book) = (call_of(&answer), book.lock().unwrap());
                book.answer(&answer, &call);
                assert!(!book.asked[&call], "its client is there: {answer}");
            }
        });
        while let Some(ended) = tasks.try_join_next() {
            ended.unwrap();
        }
    }
}

/// Answers after a moment, and dies now and then.
async fn server(number: usize, seed: u64, address: SocketAddr) {
    let mut dice = Dice(seed ^ 77 ^ number as u64);
    loop {
        let listener = TcpListener::bind(address).await.unwrap();
        let until = Duration::from_millis(300 + dice.below(1500));
        let mut alive = JoinSet::new();
        let serve = async {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut dice = Dice(dice.below(1 << 30));
                alive.spawn(async move {
                    let mut begun = Vec::new();
                    while let Some(request) = next(&mut stream, &mut begun).await {
                        if dice.below(8) == 0 {
                            sleep(Duration::from_millis(dice.below(20))).await;
                        }
                        let answer = support::calls::response(&request, "200 OK", &["Contact: <sip:pbx@127.0.0.1>"]);
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        };
        let _ = timeout(until, serve).await;
        drop((alive, listener));
        sleep(Duration::from_millis(50 + dice.below(150))).await;
    }
}

#[test]
fn each_request_of_a_thousand_connections_is_answered_once_to_whoever_asked() {
    let seed = std::env::var("TRUNKLINE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(4);
    println!("TRUNKLINE_SEED={seed}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (outside, port) = ("127.188.1.1", free_port("127.188.1.1"));
    let servers: Vec<SocketAddr> = (1..=SERVERS)
        .map(|number| format!("127.188.3.{number}"))
        .map(|ip| SocketAddr::new(ip.parse().unwrap(), free_port(&ip)))
        .collect();
    let mut text = format!(
        "[[frontend]]\nname = \"f\"\nbind = \"tcp://{outside}:{port}\"\ninside = \"127.188.2.1\"\nbackend = \"b\"\n\
         limits = {{ max_connections_per_source = 10000 }}\n\
         [[backend]]\nname = \"b\"\ncheck = {{ type = \"none\" }}\n"
    );
    for (number, address) in servers.iter().enumerate() {
        text += &format!("[[backend.server]]\nname = \"s{number}\"\naddress = \"tcp://{address}\"\n");
    }
    let (setup, sockets) = prepare(&config(&text), 4, 100_000);
    let workers = Workers::start(&setup, sockets).unwrap();
    let balancer = SocketAddr::new(outside.parse().unwrap(), port);
    let book = Shared::default();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let trap = listener.local_addr().unwrap();
        let trapped = tokio::spawn(serve_trap(listener, Arc::clone(&book)));
        for (number, address) in servers.iter().enumerate() {
            tokio::spawn(server(number, seed, *address));
        }
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(client(number, seed, balancer, trap, Arc::clone(&book)));
        }
        let mut failed = 0;
        while let Some(ended) = clients.join_next().await {
            failed += usize::from(ended.is_err());
        }
        let live = &setup.snapshot.load().frontends[0].live;
        let named = |reason: &Reason| (live.sum(|live| live.reasons.of(*reason)), reason.word());
        let reasons: Vec<_> = Reason::ALL.iter().map(named).filter(|(count, _)| *count > 0).collect();
        assert_eq!(failed, 0, "{reasons:?} {:?}", book.lock().unwrap().statuses);
        assert!(!trapped.is_finished(), "an answer to a client that vanished was wrong");
    });
    let book = book.lock().unwrap();
    println!("{} asked, {:?}", book.asked.len(), book.statuses);
    // Both ways of a request's life were seen.
    assert!(book.statuses["200"] > CLIENTS && book.statuses["503"] > 10, "{:?}", book.statuses);
    drop(book);
    runtime.shutdown_background();
    support::process::wait_for("all to be forgotten", || setup.snapshot.load().frontends[0].open_connections() == 0);
    workers.stop();
}
