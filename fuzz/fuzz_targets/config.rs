//! Any text as a configuration, and as a key file: it is read, or every fault has a place in the text and can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline::config::{Config, Faults, key};

fn check(text: &str, faults: &Faults) {
    assert!(!faults.is_empty());
    let mut before = 0;
    for fault in faults.iter() {
        assert!(fault.at <= text.len() && text.is_char_boundary(fault.at), "{fault:?}");
        assert!(fault.at >= before && !fault.what.is_empty(), "{fault:?}");
        before = fault.at;
    }
}

fuzz_target!(|text: &str| {
    match Config::parse(text) {
        Ok(config) => {
            assert!(!config.frontends.is_empty() && !config.backends.is_empty());
            for frontend in &config.frontends {
                assert!(!frontend.binds.is_empty() && frontend.backend < config.backends.len());
            }
            for backend in &config.backends {
                // A server that is a name has no address until it is resolved.
                assert!(!(backend.servers.is_empty() && backend.names.is_empty()) && !backend.regions.is_empty());
                assert!(backend.servers.iter().all(|server| server.region < backend.regions.len()));
            }
        }
        Err(faults) => {
            check(text, &faults);
            assert!(!faults.render("file", text).to_string().is_empty());
        }
    }
    if let Err(faults) = key::parse(text) {
        assert!(!faults.is_empty());
        let shown = faults.render_secret("file", text).to_string();
        // Whatever a secret may be, no line of the file is shown.
        assert!(text.lines().filter(|line| line.len() > 40).all(|line| !shown.contains(line)));
    }
});
