//! Who is measured: a command and its configuration for each, as good as we know how to write it.

use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use super::BALANCER_CORE;
use super::forwarder;
use super::process::{Program, free};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contestant {
    Trunkline,
    /// Trunkline once more: what differs from the first is noise.
    TrunklineAgain,
    Bare,
    Nginx,
    Kamailio,
}

/// In the order of a round: Trunkline first and last.
pub const ALL: [Contestant; 5] = {
    use Contestant::{Bare, Kamailio, Nginx, Trunkline, TrunklineAgain};
    [Trunkline, Bare, Nginx, Kamailio, TrunklineAgain]
};

/// A contestant that runs.
pub struct Running {
    pub program: Program,
    /// Where clients send to.
    pub front: SocketAddr,
}

impl Contestant {
    pub fn name(self) -> &'static str {
        match self {
            Self::Trunkline => "Trunkline",
            Self::TrunklineAgain => "Trunkline again",
            Self::Bare => "bare forwarder",
            Self::Nginx => "nginx",
            Self::Kamailio => "Kamailio",
        }
    }

    /// Starts it, on addresses and in a folder of its own, and waits until it listens.
    pub fn start(self, servers: &[SocketAddr], folder: &Path) -> Result<Running, Box<dyn Error>> {
        let folder = folder.join(self.name().replace(' ', "-"));
        fs::create_dir_all(&folder)?;
        let at = self as u8;
        let front = free(Ipv4Addr::new(127, 0, 2, 81 + at))?;
        // The same port on another address: a socket for servers beside the one for clients.
        let inside = SocketAddr::new(Ipv4Addr::new(127, 0, 2, 91 + at).into(), front.port());
        let command = match self {
            Self::Trunkline | Self::TrunklineAgain => trunkline(front, inside, servers, &folder),
            Self::Bare => bare(front, inside, servers),
            Self::Nginx => nginx(front, servers, &folder),
            Self::Kamailio => kamailio(front, servers, &folder),
        }?;
        let mut program = Program::start(self.name(), &command, Stdio::null(), BALANCER_CORE, &folder)?;
        program.listens_on(front)?;
        Ok(Running { program, front })
    }
}

/// For each server one text.
pub fn each(servers: &[SocketAddr], write: impl Fn(usize, &SocketAddr) -> String) -> String {
    servers.iter().enumerate().map(|(n, server)| write(n + 1, server)).collect()
}

fn trunkline(
    front: SocketAddr,
    inside: SocketAddr,
    servers: &[SocketAddr],
    folder: &Path,
) -> Result<Command, Box<dyn Error>> {
    let servers =
        each(servers, |n, at| format!("[[backend.server]]\nname = \"server-{n}\"\naddress = \"udp://{at}\"\n"));
    let text = format!(
        "[[frontend]]\nname = \"sip\"\nmode = \"proxy\"\nbind = \"udp://{front}\"\ninside = \"{}\"\nbackend = \"b\"\n\
         [[backend]]\nname = \"b\"\ncheck = {{ type = \"none\" }}\n{servers}",
        inside.ip(),
    );
    trunkline_with(&text, folder)
}

/// Trunkline with one worker, and these frontends and backends.
pub fn trunkline_with(text: &str, folder: &Path) -> Result<Command, Box<dyn Error>> {
    let key = folder.join("cluster.key");
    let text = format!("[global]\nworkers = 1\ncluster_key_file = \"{}\"\n{text}", key.display());
    let file = folder.join("trunkline.toml");
    fs::write(&file, text)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command.args(["run", "-c"]).arg(file);
    Ok(command)
}

fn bare(front: SocketAddr, inside: SocketAddr, servers: &[SocketAddr]) -> Result<Command, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(forwarder::WORD).args([front, inside].iter().chain(servers).map(SocketAddr::to_string));
    Ok(command)
}

/// UDP by nginx: a client's address and port decide, whatever is in the datagrams; every answer ends the wait for it.
/// The larger buffers keep a burst whole.
fn nginx(front: SocketAddr, servers: &[SocketAddr], folder: &Path) -> Result<Command, Box<dyn Error>> {
    let servers = each(servers, |_, at| format!(" server {at};"));
    let stream = format!(
        "  upstream servers {{ hash $remote_addr$remote_port consistent;{servers} }}\n\
         \x20 server {{\n    listen {front} udp rcvbuf=4m sndbuf=4m;\n    proxy_pass servers;\n\
         \x20   proxy_responses 1;\n    proxy_timeout 10s;\n  }}\n"
    );
    nginx_with(&stream, folder)
}

/// nginx with one worker and this in its `stream`.
pub fn nginx_with(stream: &str, folder: &Path) -> Result<Command, Box<dyn Error>> {
    let text = format!(
        "daemon off;\nworker_processes 1;\npid {}/nginx.pid;\nerror_log stderr error;\n\
         load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nevents {{ worker_connections 16384; }}\n\
         stream {{\n{stream}}}\n",
        folder.display(),
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(folder).args(["-e", "stderr", "-c"]).arg(file);
    Ok(command)
}

/// Kamailio as little as it can be: a server by the hash of the Call-ID, no transaction, nothing logged.
fn kamailio(front: SocketAddr, servers: &[SocketAddr], folder: &Path) -> Result<Command, Box<dyn Error>> {
    let list = folder.join("dispatcher.list");
    fs::write(&list, each(servers, |_, at| format!("1 sip:{at}\n")))?;
    let text = format!(
        "debug=-1\nlog_stderror=yes\nmaxbuffer=4194304\nchildren=1\ndisable_tcp=yes\nauto_aliases=no\ndns=no\n\
         rev_dns=no\nuse_dns_cache=off\nserver_signature=no\nlisten=udp:{front}\nloadmodule \"dispatcher.so\"\n\
         modparam(\"dispatcher\", \"list_file\", \"{}\")\n\
         request_route {{\n    if (!ds_select_dst(\"1\", \"0\")) exit;\n    forward();\n}}\n",
        list.display(),
    );
    let file = folder.join("kamailio.cfg");
    fs::write(&file, text)?;
    let mut command = Command::new("/usr/sbin/kamailio");
    command.arg("-f").arg(file).args(["-DD", "-E", "-m", "64", "-w"]).arg(folder).arg("-Y").arg(folder);
    Ok(command)
}
