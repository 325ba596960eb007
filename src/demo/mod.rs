//! `trunkline demo`: a whole cluster on loopback, balanced before one's eyes, and a region that dies and comes back.

mod screen;
mod script;
mod stage;

use std::io::{self, IsTerminal, Read};
use std::time::Duration;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::load::args::{call_rate, duration};
use crate::load::{CallReport, Ledger};
use crate::net::udp::clock;
use screen::Screen;
use script::{Event, Script};
use stage::{REGIONS, Stage};

/// How often the picture is renewed.
const TICK: Duration = Duration::from_millis(100);

/// `trunkline demo`
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// How long new calls start [default: until q or SIGINT].
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    length: Option<Duration>,
    /// New calls per second.
    #[arg(long, value_name = "RATE", default_value = "1000", value_parser = call_rate)]
    rate: f64,
    /// What happens when [default: keys; where nobody can press one, `3s kill lagos, 6s revive lagos`].
    #[arg(long, value_name = "TIME kill|revive REGION, ...", value_parser = Script::parse)]
    script: Option<Script>,
}

/// Plays. True means that no call was lost.
///
/// # Errors
/// What the system refused.
pub fn run(args: DemoArgs) -> Result<bool, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start a runtime: {error}"))?;
    let keyboard = Keyboard::take();
    let played = runtime.block_on(play(args, keyboard.is_some()));
    drop(keyboard);
    let (report, shares) = played?;
    screen::say(&screen::summary(&report, shares));
    Ok(lost_nothing(&report.total()))
}

/// A call that is established on a server when that one is killed is stranded: nobody could have kept it. Everything
/// else must have been answered.
fn lost_nothing(total: &Ledger) -> bool {
    total.started > 0 && total.balances() && total.lost + total.refused_total() == 0
}

async fn play(args: DemoArgs, keys: bool) -> Result<(CallReport, [u64; REGIONS.len()]), String> {
    let listen = |kind| signal(kind).map_err(|error| format!("cannot wait for signals: {error}"));
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (mut stage, mut balancer) = Stage::start(args.rate, args.length.unwrap_or(Duration::MAX)).await?;
    let mut script = match args.script {
        Some(script) => script,
        None if keys => Script::default(),
        None => Script::parse(Script::USUAL)?,
    };
    let (mut screen, mut pressed, mut tick) = (Screen::new(), read_keys(keys), tokio::time::interval(TICK));
    let begin = clock();
    let (mut leaving, mut told) = (false, false);
    {
        let serve = balancer.serve();
        tokio::pin!(serve);
        while !stage.is_finished() {
            let key = tokio::select! {
                () = &mut serve => None,
                _ = tick.tick() => None,
                Some(key) = pressed.recv() => Some(key),
                _ = term.recv() => Some(b'q'),
                _ = int.recv() => Some(b'q'),
            };
            let elapsed = clock().since(begin);
            if matches!(key, Some(b'q' | CONTROL_C)) {
                if leaving {
                    stage.abort()
                } else {
                    stage.last_call()
                }
                leaving = true;
            }
            let struck = key.and_then(|key| event_of(key, &stage));
            for event in script.due(elapsed).chain(struck) {
                let (at, done) = match event {
                    Event::Kill(at) => (at, "killed: its servers' sockets are closed"),
                    Event::Revive(at) => (at, "revived"),
                };
                stage.play(event);
                screen.event(elapsed, &format!("{} {done}", REGIONS[at].name));
            }
            let over = leaving || args.length.is_some_and(|length| elapsed >= length);
            if over && !std::mem::replace(&mut told, over) {
                screen.event(elapsed, "no new calls; those that go on come to their end");
            }
            let note = match (over, keys) {
                (true, _) => "waiting for the last calls    q: hang up",
                (false, true) => "1 2 3: kill or revive lagos, abuja, asaba    q: end",
                (false, false) => "",
            };
            screen.show(&stage, elapsed, note);
        }
    }
    let shares = screen::balanced(&stage);
    balancer.stop().await;
    Ok((stage.end()?, shares))
}

/// What a key does: 1 is the first region.
fn event_of(key: u8, stage: &Stage) -> Option<Event> {
    let at = usize::from(key.checked_sub(b'1')?);
    Some(if *stage.killed.get(at)? { Event::Revive(at) } else { Event::Kill(at) })
}

/// Keys as they are pressed, where somebody can press one. The thread ends with the process: a key that nobody presses
/// cannot be waited for.
fn read_keys(wanted: bool) -> mpsc::Receiver<u8> {
    let (sender, keys) = mpsc::channel(16);
    if wanted {
        std::thread::spawn(move || {
            for key in io::stdin().lock().bytes().map_while(Result::ok) {
                if sender.blocking_send(key).is_err() {
                    break;
                }
            }
        });
    }
    keys
}

/// ^C as a key.
const CONTROL_C: u8 = 3;

/// The terminal without echo, signals and waiting for Enter; as it was before when this is dropped.
struct Keyboard(Termios);

impl Keyboard {
    /// `None` where stdin or stderr is no terminal.
    fn take() -> Option<Self> {
        if !io::stderr().is_terminal() {
            return None;
        }
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
