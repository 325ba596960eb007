//! The other end of the runtime socket, for the command line.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A reload waits for every worker; none takes longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says one command and returns its answer, without the empty line behind it.
///
/// # Errors
/// Where nobody answers, with what to do.
pub fn ask(socket: &Path, command: &str) -> Result<String, String> {
    let at = socket.display();
    let mut stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => format!(
            "{at}: no Trunkline listens there; is it running? -c names its configuration, whose `runtime_socket` counts, \
             and --socket the socket itself"
        ),
        ErrorKind::PermissionDenied => format!("{at}: {error}; its owner, its group and root may use it"),
        _ => format!("{at}: {error}"),
    })?;
    let mut answer = String::new();
    let asked = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.write_all(format!("{command}\n").as_bytes()))
        .and_then(|()| stream.read_to_string(&mut answer));
    asked.map_err(|error| format!("{at}: no answer: {error}"))?;
    match answer.strip_suffix('\n') {
        Some(answer) => Ok(answer.to_owned()),
        None => Err(format!("{at}: the answer was cut off")),
    }
}
