//! The other end of the runtime socket, for the command line.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::follow::FOLLOWS;

/// A reload waits for every worker; none takes longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// What only shows something is answered in milliseconds.
pub const PATIENCE_TO_LOOK: Duration = Duration::from_secs(3);

/// Whoever looks every second does not wait longer for one look.
const SOON: Duration = Duration::from_secs(2);

/// Connects; whatever is read or written then has as long.
///
/// # Errors
/// Where nobody listens there, or takes no connection within this time: `WouldBlock`.
pub fn connect(socket: &Path, patience: Duration) -> io::Result<UnixStream> {
    let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // It is the limit of connect(2) too: a process that hangs lets nobody in once its queue is full.
    stream.set_write_timeout(Some(patience))?;
    stream.set_read_timeout(Some(patience))?;
    stream.connect(&SockAddr::unix(socket)?)?;
    Ok(OwnedFd::from(stream).into())
}

/// Says one command and returns its answer, without the empty line behind it.
///
/// # Errors
/// Where nobody answers, with what to do.
pub fn ask(socket: &Path, command: &str) -> Result<String, String> {
    ask_within(PATIENCE, socket, command)
}

/// The same for whoever has less patience.
///
/// # Errors
/// Where nobody answers, with what to do.
pub fn ask_within(patience: Duration, socket: &Path, command: &str) -> Result<String, String> {
    let at = socket.display();
    let mut stream = connect(socket, patience).map_err(|error| nobody(socket, &error))?;
    let mut answer = String::new();
    let asked = stream.write_all(format!("{command}\n").as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
    asked.map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => format!("{at}: no answer within {} s: it hangs, or was stopped", patience.as_secs()),
        _ => format!("{at}: no answer: {error}"),
    })?;
    whole(socket, &answer)
}

/// The same for whoever asks again soon: it waits for two seconds at most, and can be given up at any time.
///
/// # Errors
/// Where nobody answers, with what to do.
pub async fn ask_soon(socket: &Path, command: &str) -> Result<String, String> {
    let asked = async {
        let mut stream = tokio::net::UnixStream::connect(socket).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };
    match timeout(SOON, asked).await {
        Ok(Ok(answer)) => whole(socket, &answer),
        Ok(Err(error)) => Err(nobody(socket, &error)),
        Err(_) => Err(format!("{}: somebody listens there, and says nothing", socket.display())),
    }
}

/// Says one command, and hands over each line of its answer as it comes, until the answer ends or nobody takes it.
///
/// # Errors
/// Where nobody answers, with what to do; and the first line where it is a refusal.
pub fn hear(socket: &Path, command: &str, mut line: impl FnMut(&str) -> io::Result<()>) -> Result<(), String> {
    let mut stream = UnixStream::connect(socket).map_err(|error| nobody(socket, &error))?;
    stream.write_all(format!("{command}\n").as_bytes()).map_err(|error| nobody(socket, &error))?;
    let (mut lines, mut text) = (BufReader::new(stream), String::new());
    let mut heard = 0;
    while lines.read_line(&mut text).is_ok_and(|read| read > 0) {
        match text.trim_end() {
            "" => {}
            refusal if heard == 0 && !refusal.ends_with(FOLLOWS) => return Err(refusal.to_owned()),
            _ if line(&text).is_err() => return Ok(()),
            _ => heard += 1,
        }
        text.clear();
    }
    Ok(())
}

fn nobody(socket: &Path, error: &io::Error) -> String {
    let at = socket.display();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => format!(
            "{at}: no Trunkline listens there; is it running? -c names its configuration, whose `runtime_socket` counts, \
             and --socket the socket itself; was `runtime_socket` changed in the file since it started? Then name the old one"
        ),
        ErrorKind::PermissionDenied => format!("{at}: {error}; its owner, its group and root may use it"),
        // Its queue of connections is full.
        ErrorKind::WouldBlock => format!("{at}: somebody listens there, and takes no connection"),
        _ => format!("{at}: {error}"),
    }
}

/// An answer without the empty line behind it.
fn whole(socket: &Path, answer: &str) -> Result<String, String> {
    let cut = || format!("{}: the answer was cut off", socket.display());
    answer.strip_suffix('\n').map(str::to_owned).ok_or_else(cut)
}
