//! What is no fault of a configuration and may be a slip all the same: in the text, and in what it names on this node.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use crate::config::{self, Config};
use crate::net::host;

/// One line for each.
pub(super) fn warnings(file: &Path, text: &str, config: &Config) -> Vec<String> {
    let mut lines = config::warnings::of_text(&file.display(), text);
    lines.extend(config::warnings::of_config(config));
    lines.extend(of_key(&config.cluster_key_file));
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
