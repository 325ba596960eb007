//! What is no fault of a configuration and may be a slip all the same: in the text, and in what it names on this node.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use crate::config::{self, Config};
use crate::net::host;

/// Ports for checks, the DNS, and whatever else the node asks from.
const PORTS_OF_OTHERS: usize = 2_000;

/// One line for each.
pub(super) fn warnings(file: &Path, text: &str, config: &Config) -> Vec<String> {
    let mut lines = config::warnings::of_text(&file.display(), text);
    lines.extend(config::warnings::of_config(config));
    lines.extend(of_key(&config.cluster_key_file));
    lines.extend(host::ephemeral_ports().and_then(|ports| of_ports(config, ports)));
    for frontend in &config.frontends {
        let absent = |ip: &std::net::IpAddr| !ip.is_unspecified() && !host::has(*ip);
        let mut ips: Vec<_> = frontend.binds.iter().map(|bind| bind.address.ip()).filter(absent).collect();
        ips.dedup();
        let name = &frontend.name;
        lines.extend(ips.iter().map(|ip| {
            format!("{ip} is not on this node now: frontend \"{name}\" hears nothing there until it is (a floating address?)")
        }));
    }
    for at in config.http.iter().flat_map(|http| http.listeners().into_keys()) {
        let ip = at.ip();
        if !ip.is_unspecified() && !host::has(ip) {
            lines.push(format!(
                "{ip} is not on this node now: nobody reaches {at} of [admin] until it is (a floating address?)"
            ));
        }
    }
    lines
}

/// Each flow of a relay has a port of its own. Where flows may take them all, checks and the DNS have none to ask from.
fn of_ports(config: &Config, ports: usize) -> Option<String> {
    let flows = config.open_files(1).flows;
    (flows > 0 && flows + PORTS_OF_OTHERS > ports).then(|| {
        format!(
            "relays may have {flows} flows, each with a port of its own, and the kernel has {ports} for them and for all others: \
             checks may find none; lower `max_flows` in [frontend.limits], or widen net.ipv4.ip_local_port_range"
        )
    })
}

/// Whoever reads the key can steer calls; and without one there must be a place for it.
fn of_key(path: &Path) -> Option<String> {
    let name = path.display();
    match fs::metadata(path) {
        Ok(found) if found.permissions().mode() & 0o007 != 0 => {
            Some(format!("{name}: others may read it, and whoever has it can steer calls: `chmod o= {name}`"))
        }
        Ok(_) => None,
        Err(_) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let writable = access(folder, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
            (!writable).then(|| {
                let is_there = folder.is_dir();
                let folder = folder.display();
                let why = if is_there {
                    format!("this user may make none in {folder}")
                } else {
                    format!("the directory {folder} is not there to make one in")
                };
                format!("{name}: there is no cluster key, and {why}: a start as this user would fail")
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_that_may_take_every_port_are_told() {
        let relay = |n: usize, flows: usize| {
            format!(
                "[[frontend]]\nname = \"r{n}\"\nmode = \"relay\"\nbind = \"udp://127.0.0.1:{n}\"\nbackend = \"b\"\n\
                 [frontend.limits]\nmax_flows = {flows}\n"
            )
        };
        let server =
            "[[backend]]\nname = \"b\"\n[[backend.server]]\nname = \"s\"\naddress = \"udp://127.0.0.2:7000\"\n";
        let told = |flows: [usize; 2]| {
            let text = relay(7_001, flows[0]) + &relay(7_002, flows[1]) + server;
            of_ports(&Config::good(&text), 28_232)
        };
        assert_eq!(told([10_000, 10_000]), None);
        assert!(told([10_000, 17_000]).is_some_and(|line| line.contains("27000 flows") && line.contains("28232")));
        let proxy =
            "[[frontend]]\nname = \"f\"\nbind = \"udp://127.0.0.1:5060\"\nbackend = \"b\"\n".to_owned() + server;
        assert_eq!(of_ports(&Config::good(&proxy), 1_000), None, "a proxy has no flows");
    }
}
