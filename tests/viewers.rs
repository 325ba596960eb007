//! Whoever looks takes nothing from whoever calls: fifty viewers, a scrape each second and 500 slow clients beside 2,000
//! calls a second, and no message is lost.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use support::http::{admin, get};
use support::process::wait_for;
use support::regions::{Net, ROUND, SERVERS, answer, stop};
use trunkline::load::{Generator, Timers};

const RATE: f64 = 2_000.0;
const VIEWERS: usize = 50;
const SLOW: usize = 500;

/// A connection from one of the addresses of the clients: one source may have only so many.
fn connect(n: usize, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 82, 20 + (n % 50) as u8], 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.into()
}

#[test]
fn no_message_is_lost_while_many_look_on() {
    let (net, starts) = (Net(82), 10_000_u64.next_multiple_of(ROUND));
    let addresses = net.servers();
    let named: Vec<_> = SERVERS.iter().map(|(name, _)| *name).zip(addresses).collect();
    let servers = answer(&named, Timers::default());
    // Slow clients have a listener of their own to crowd, and none of them keeps viewers out.
    let (at, crowded) = (net.free(3), net.free(4));
    let admin = admin(at).replace(&format!("health = \"{at}\""), &format!("health = \"{crowded}\""));
    let check = "check = { type = \"none\" }";
    let (balancer, to) = net.balance_by(["udp", "udp"], &addresses, [&admin, check, ""]);
    let number = || {
        let picture: Value = serde_json::from_str(&get(at, "/api/v1/picture")).unwrap();
        (picture["number"].as_u64().unwrap(), picture["made_at"].as_f64().unwrap())
    };
    let (seen, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let slow: Vec<_> = (0..SLOW)
        .map(|n| {
            let mut stream = connect(n, crowded);
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: edge\r\nX-Slow: ").unwrap();
            stream
        })
        .collect();
    let first = number();
    let calls = std::thread::scope(|scope| {
        for viewer in 0..VIEWERS {
            let (seen, over) = (&seen, &over);
            scope.spawn(move || {
                let mut stream = connect(viewer, at);
                stream.write_all(b"GET /api/v1/stream HTTP/1.1\r\nHost: edge\r\n\r\n").unwrap();
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    seen.fetch_add(usize::from(line == "event: picture"), Ordering::Relaxed);
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert!(get(at, "/metrics").contains("haproxy_process_uptime_seconds"));
                #[allow(clippy::disallowed_methods, reason = "a scrape each second is what is tried")]
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        wait_for("every viewer to see something", || seen.load(Ordering::Relaxed) >= VIEWERS);
        let calls = Generator::start(net.callers(to, starts, RATE)).unwrap().finish().unwrap();
        over.store(true, Ordering::Relaxed);
        calls
    });
    let last = number();
    let answered = stop(servers);
    assert!(calls.succeeded() && calls.total().answered == starts, "{calls}\n{answered}");
    let most = ((last.1 - first.1) / 0.25).floor() as u64;
    println!(
        "{calls}\n{} pictures in {:.1} s, seen {} times",
        last.0 - first.0,
        last.1 - first.1,
        seen.load(Ordering::Relaxed)
    );
    assert!(last.0 - first.0 <= most, "{} pictures in {:.1} s", last.0 - first.0, last.1 - first.1);
    assert!(seen.load(Ordering::Relaxed) >= VIEWERS * 3);
    drop(slow);
    balancer.stop();
}
