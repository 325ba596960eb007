//! What a reload removes does not vanish: servers keep their calls until these end, frontends what is in flight.

use super::{Backend, Bind, Config, Frontend, Route, Server};
use crate::sip::token::NameHash;

/// Which of the servers and addresses that are not wanted any more stay for a while.
pub struct Stays<'a> {
    pub server: &'a dyn Fn(NameHash) -> bool,
    pub bind: &'a dyn Fn(&Bind) -> bool,
}

/// The configuration that is wanted, and with it what the one before had and `stays` for a while: servers without
/// weight, and the addresses of frontends.
pub fn with_leaving(wanted: &Config, before: &Config, stays: &Stays<'_>) -> Config {
    let mut config = wanted.clone();
    for backend in &before.backends {
        for server in backend.servers.iter().filter(|server| !has_server(wanted, server.id)) {
            if (stays.server)(server.id) {
                add_server(&mut config, backend, server);
            }
        }
    }
    // A relay has nothing in flight that would end: its sockets go at once, its flows with them. Connections outlive theirs.
    for frontend in before.frontends.iter().filter(|frontend| frontend.is_proxy()) {
        let stays = |bind: &&Bind| !has_bind(wanted, bind) && (stays.bind)(bind);
        let binds: Vec<_> = frontend.binds.iter().filter(stays).copied().collect();
        if binds.is_empty() {
            continue;
        }
        match config.frontends.iter_mut().find(|other| other.id == frontend.id) {
            Some(kept) => kept.binds.extend(binds),
            None => {
                // What is new there meanwhile goes where it always went.
                let mut moved = |backend: usize| add_backend(&mut config, &before.backends[backend]);
                let backend = moved(frontend.backend);
                let of = |route: &Route| Route { backend: moved(route.backend), ..route.clone() };
                let routes = frontend.routes.iter().map(of).collect();
                config.frontends.push(Frontend { binds, backend, routes, leaves: true, ..frontend.clone() });
            }
        }
    }
    config
}

/// Whether a configuration has this server.
pub fn has_server(config: &Config, id: NameHash) -> bool {
    config.backends.iter().any(|backend| backend.servers.iter().any(|server| server.id == id))
}

/// Whether a frontend of a configuration has this address.
pub fn has_bind(config: &Config, bind: &Bind) -> bool {
    config.frontends.iter().any(|frontend| frontend.binds.contains(bind))
}

fn add_server(config: &mut Config, from: &Backend, server: &Server) {
    let at = add_backend(config, from);
    let backend = &mut config.backends[at];
    let region = &from.regions[server.region];
    // Without weight it is chosen by nobody, wherever it stands.
    let region = backend.regions.iter().position(|other| other.id == region.id).unwrap_or_default();
    backend.servers.push(Server { region, weight: 0, ..server.clone() });
}

/// The position of a backend, added without its servers where it is not wanted any more.
fn add_backend(config: &mut Config, backend: &Backend) -> usize {
    config.backends.iter().position(|other| other.name == backend.name).unwrap_or_else(|| {
        config.backends.push(Backend { servers: Vec::new(), names: Vec::new(), leaves: true, ..backend.clone() });
        config.backends.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[[frontend]]
name = "sip"
bind = ["udp://127.0.0.1:5060", "udp://127.0.0.1:5070"]
backend = "b"

[[frontend]]
name = "guests"
bind = "udp://127.0.0.1:5080"
backend = "c"

[[backend]]
name = "b"

[[backend.server]]
name = "one"
address = "udp://127.0.0.2:5060"

[[backend.server]]
name = "two"
address = "udp://127.0.0.3:5060"

[[backend]]
name = "c"

[[backend.server]]
name = "three"
address = "udp://127.0.0.4:5060"
"#;

    fn merge(wanted: &Config, before: &Config, stays: bool) -> Config {
        with_leaving(wanted, before, &Stays { server: &|_| stays, bind: &|_| stays })
    }

    fn names(config: &Config) -> Vec<String> {
        let of = |backend: &Backend| {
            let server = |server: &Server| format!("{}/{} {}", backend.name, server.name, server.weight);
            backend.servers.iter().map(server).collect::<Vec<_>>()
        };
        config.backends.iter().flat_map(of).collect()
    }

    fn frontends(config: &Config) -> Vec<(&str, usize)> {
        config.frontends.iter().map(|frontend| (frontend.name.as_str(), frontend.binds.len())).collect()
    }

    /// Without server two, frontend guests and backend c; port 5070 is another frontend's now.
    fn less() -> Config {
        let (head, _) = TEXT.split_once("[[backend.server]]\nname = \"two\"").unwrap();
        let (sip, rest) = head.split_once("[[frontend]]\nname = \"guests\"").unwrap();
        let sip = sip.replace(", \"udp://127.0.0.1:5070\"", "").replace("\"sip\"", "\"new\"");
        Config::good(&(sip + rest.split_once("backend = \"c\"\n").unwrap().1))
    }

    #[test]
    fn what_is_removed_stays_without_weight_and_with_the_addresses_that_nobody_wants() {
        let merged = merge(&less(), &Config::good(TEXT), true);
        assert_eq!(names(&merged), ["b/one 100", "b/two 0", "c/three 0"]);
        assert_eq!(frontends(&merged), [("new", 1), ("sip", 1), ("guests", 1)]);
        assert_eq!(merged.frontends[1].binds[0].address.port(), 5070, "5060 is the new frontend's");
        assert_eq!(merged.backends[merged.frontends[2].backend].name, "c");
        assert_eq!(merge(&less(), &merged, true), merged, "what leaves goes on leaving");
        let leaves: Vec<_> = merged.frontends.iter().map(|of| of.leaves).collect();
        assert_eq!(
            (leaves, merged.backends[0].leaves, merged.backends[1].leaves),
            (vec![false, true, true], false, true)
        );
        let one_address_less = Config::good(&TEXT.replace(", \"udp://127.0.0.1:5070\"", ""));
        assert_eq!(frontends(&merge(&one_address_less, &Config::good(TEXT), true)), [("sip", 2), ("guests", 1)]);
    }

    #[test]
    fn what_leaves_goes_by_its_rules_to_the_backends_of_before() {
        let route = |method: &str, backend: &str| {
            format!("\n[[frontend.route]]\nmethods = [\"{method}\"]\nbackend = \"{backend}\"\n")
        };
        let rules = route("REGISTER", "b") + &route("MESSAGE", "c");
        let with_routes = TEXT.replacen("backend = \"c\"\n", &("backend = \"c\"\n".to_owned() + &rules), 1);
        // Another backend stands first now, and that of MESSAGE goes with the frontend.
        let other = "[[backend]]\nname = \"a\"\n[[backend.server]]\nname = \"x\"\naddress = \"udp://127.0.0.9:5060\"\n";
        let (head, tail) = TEXT.split_once("[[frontend]]\nname = \"guests\"").unwrap();
        let (_, tail) = tail.split_once("backend = \"c\"\n").unwrap();
        let (tail, _) = tail.split_once("[[backend]]\nname = \"c\"").unwrap();
        let wanted = Config::good(&format!("{head}{other}{tail}"));
        let merged = merge(&wanted, &Config::good(&with_routes), true);
        let guests = merged.frontends.iter().find(|frontend| frontend.name == "guests").unwrap();
        let name = |at: usize| merged.backends[at].name.as_str();
        let rules: Vec<_> = guests.routes.iter().map(|rule| (rule.methods[0].as_str(), name(rule.backend))).collect();
        assert_eq!((rules, name(guests.backend)), (vec![("REGISTER", "b"), ("MESSAGE", "c")], "c"));
        assert_eq!(merge(&wanted, &merged, true), merged);
    }

    #[test]
    fn what_has_left_is_gone_and_what_comes_back_is_as_it_is_written() {
        let merged = merge(&less(), &Config::good(TEXT), true);
        assert_eq!(merge(&less(), &merged, false), less());
        assert_eq!(merge(&Config::good(TEXT), &merged, true), Config::good(TEXT));
    }
}
