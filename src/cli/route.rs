//! `trunkline route`: which server a new call or a relay's new flow would go to, and why.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use super::runtime;
use crate::balance::Algorithm;
use crate::config::{Backend, Config, Frontend, StickOn};
use crate::net::host;
use crate::proxy::explain;
use crate::proxy::relay::source_key;
use crate::run::{StartError, read_config, read_keys, with_addresses};
use crate::state::Snapshot;
use crate::state::snapshot::Ingredients;

/// What it is asked about.
#[derive(Debug, clap::Args)]
pub struct Asked {
    /// The Call-ID, or whatever the backend sticks by. Where the source decides, give that.
    #[arg(long, required_unless_present_any = ["source", "port"])]
    call_id: Option<String>,
    /// The client's address.
    #[arg(long)]
    source: Option<IpAddr>,
    /// The port of a relay's range that a datagram comes to.
    #[arg(long)]
    port: Option<u16>,
    /// The backend, where it is not the first frontend's.
    #[arg(long)]
    backend: Option<String>,
}

/// `trunkline route`
pub fn route(file: &Path, asked: &Asked) -> ExitCode {
    match find_route(file, asked) {
        Ok((server, why)) => {
            eprint!("{why}");
            println!("{server}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprint!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether some or all of what goes to a backend goes where its source says: the flows of relays, and everything with
/// `stick = { on = "source" }`.
fn goes_by_source(config: &Config, backend: usize) -> (bool, bool) {
    let stick = config.backends[backend].stick.as_ref();
    let sticks = stick.is_some_and(|stick| matches!(stick.on, StickOn::Source { .. }));
    let mut frontends = config.frontends.iter().filter(|frontend| frontend.backends().contains(&backend));
    let relays = |frontend: &Frontend| !frontend.is_proxy();
    let some = sticks || frontends.clone().any(relays);
    (some, some && (sticks || frontends.all(relays)))
}

/// The server's name, and the reasons as lines.
fn find_route(file: &Path, asked: &Asked) -> Result<(String, String), StartError> {
    let source = asked.source;
    let file = read_config(file)?;
    let config = match file.queries().count() {
        0 => file,
        _ => runtime()?.block_on(with_addresses(&file)),
    };
    let Some(keys) = read_keys(&config.cluster_key_file)? else {
        let path = config.cluster_key_file.display();
        return Err(StartError::Config(format!(
            "{path}: there is no cluster key, and without it no call has a server; `trunkline run` makes one\n"
        )));
    };
    let position = match &asked.backend {
        None => config.frontends[0].backend,
        Some(name) => config.backends.iter().position(|backend| backend.name == *name).ok_or_else(|| {
            let names: Vec<_> = config.backends.iter().map(|backend| backend.name.as_str()).collect();
            StartError::Config(format!("there is no backend \"{name}\"; the backends are {}\n", names.join(", ")))
        })?,
    };
    let (host, states) = (host::ask(&config, 0), std::collections::HashMap::new());
    let snapshot =
        Snapshot::build(&Ingredients { config: &config, keys, host: &host, states: &states, workers: 1 }, None);
    if snapshot.backends[position].has_parts() {
        return find_owner(&snapshot, position, asked.port);
    }
    let (some_by_source, all_by_source) = goes_by_source(&config, position);
    let (key, of) = match (&asked.call_id, source) {
        (call_id, Some(ip)) if all_by_source || some_by_source && call_id.is_none() => {
            (source_key(ip, &snapshot.backends[position], &snapshot), format!("source {ip}"))
        }
        (Some(_), None) if all_by_source => {
            let name = &config.backends[position].name;
            return Err(StartError::Config(format!("what is new goes to \"{name}\" by its source: give --source\n")));
        }
        (Some(call_id), _) => (snapshot.keys.call(call_id.as_bytes()), format!("\"{call_id}\"")),
        (None, Some(_)) => {
            let name = &config.backends[position].name;
            let error = format!("calls of \"{name}\" do not go by their source: give --call-id beside it\n");
            return Err(StartError::Config(error));
        }
        (None, None) => {
            let name = &config.backends[position].name;
            let error = format!("no server of \"{name}\" has `ports`: give --call-id, or --source for a relay\n");
            return Err(StartError::Config(error));
        }
    };
    let backend = &config.backends[position];
    let unresolved: String = backend.without_address().map(|line| line + "\n").collect();
    let found = explain(&snapshot, position, key, source)
        .ok_or_else(|| StartError::Config(unresolved.clone() + "no server of this backend has a weight\n"))?;
    let server = &snapshot.servers[found.server];
    let region_name =
        |id: u32| backend.regions.iter().find(|region| region.id.0 == id).map_or("?", |region| region.name.as_str());
    let mut why = unresolved + &format!("key {key:016x} of {of}, with every server up\n");
    if let Some(id) = found.preferred {
        why += &format!(
            "region {} because it prefers clients from {}\n",
            region_name(id),
            source.map_or(String::new(), |ip| ip.to_string())
        );
    } else if let Some(id) = found.by_weight {
        let weights: Vec<_> =
            backend.regions.iter().map(|region| format!("{} {}", region.name, region.weight)).collect();
        why += &format!("region {} by weight ({})\n", region_name(id), weights.join(", "));
    }
    why += &explain_algorithm(backend, &snapshot, &found.candidates);
    why += &format!("server {} at {}\n", server.name, server.address);
    Ok((server.name.clone(), why))
}

/// What the algorithm does with a key, as far as it can be said without knowing what runs now.
fn explain_algorithm(backend: &Backend, snapshot: &Snapshot, candidates: &[usize]) -> String {
    let server = |at: &usize| {
        let server = &snapshot.servers[*at];
        let weight = backend.servers.iter().find(|other| other.id == server.id).map_or(0, |other| other.weight);
        match server.max_calls {
            0 => format!("{} (weight {weight})", server.name),
            max => format!("{} (weight {weight}, max_calls {max})", server.name),
        }
    };
    let among = candidates.iter().map(server).collect::<Vec<_>>().join(", ");
    let rule = match backend.balance {
        Algorithm::Hash => return "balance hash: the key decides\n".into(),
        Algorithm::RoundRobin => "turn by turn among",
        Algorithm::LeastConn => "the fewest calls for its weight among",
        Algorithm::LeastTransactions => "about the fewest open transactions for its weight among",
        Algorithm::Random2 => "of the key's two candidates the one with fewer calls for its weight:",
        Algorithm::First => "the first that has less than its max_calls of",
    };
    format!("balance {}: {rule} {among}; below, where the first call of all goes\n", backend.balance.word())
}

/// The server whose a relay's port is.
fn find_owner(snapshot: &Snapshot, backend: usize, port: Option<u16>) -> Result<(String, String), StartError> {
    let backend = &snapshot.backends[backend];
    let name = &backend.config.name;
    let error = |text: String| StartError::Config(text + "\n");
    let port = port.ok_or_else(|| error(format!("a port decides in backend \"{name}\": give --port")))?;
    let owner =
        backend.owner(port).ok_or_else(|| error(format!("port {port} is no server's in backend \"{name}\"")))?;
    let server = &snapshot.servers[owner];
    let part = server.ports.map_or(String::new(), |ports| ports.to_string());
    let (name, to) = (&server.name, SocketAddr::new(server.address.ip(), port));
    Ok((name.clone(), format!("port {port} is in {part}, the part of {name}\nserver {name} at {to}\n")))
}
