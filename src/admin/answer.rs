//! What is said to a command.

use std::fmt::Write;

use tokio::sync::{mpsc, oneshot};

use super::command::{About, Command, Style, help, weight};
use super::haproxy::{dump, info, servers, stat};
use super::journal::{Change, Kind};
use super::picture::{Picture, Server};
use super::{Request, View, Who, Wish, people, sip};
use crate::sip::token::NameHash;
use crate::state::server::{Admin, Health, Rest};

/// Who answers: what it shows, and who carries out what it cannot.
#[derive(Clone)]
pub struct Answerer {
    pub view: View,
    pub requests: mpsc::Sender<Request>,
}

impl Answerer {
    /// The answer to a command that is not about the connection itself; empty where something was done.
    ///
    /// # Errors
    /// Why it was not done, in HAProxy's words.
    pub async fn answer(&self, command: Command, who: Who) -> Result<String, String> {
        let picture = self.view.picture();
        let server = |name: &str| picture.server(name);
        match command {
            Command::SetWeight { server: name, weight } => self.set_weight(server(&name)?, &weight, who).await,
            Command::SetServer { server: name, what, to } => self.set_server(server(&name)?, &what, &to, who).await,
            Command::SetMaxCalls { server: name, most } => {
                let server = server(&name)?.id;
                let most = most.parse().map_err(|_| match most.starts_with(|c: char| c.is_ascii_digit()) {
                    true => "Trailing garbage in maxconn string",
                    false => "maxconn string empty or preceded by garbage",
                })?;
                self.wish(Wish::MaxCalls { server, most: Some(most) }, who).await.map(quiet)
            }
            Command::SetCheck { server: name, on } => {
                self.wish(Wish::Check { server: server(&name)?.id, on }, who).await.map(quiet)
            }
            Command::ClearTable { table, key } => {
                let key = key.map(|key| sip::key(&self.view, &table, &key)).transpose()?;
                self.wish(Wish::ClearTable { backend: table, key }, who).await
            }
            Command::DisableServer(name) => self.set_admin(server(&name)?.id, Admin::Maint, who).await.map(quiet),
            Command::EnableServer(name) => self.set_admin(server(&name)?.id, Admin::Ready, who).await.map(quiet),
            Command::Put { server: name, state } => {
                let admin = admin(state).unwrap_or_default();
                self.set_admin(server(&name)?.id, admin, who).await
            }
            Command::Unban(source) => {
                let source = source.parse().map_err(|_| format!("\"{source}\" is no IP address."))?;
                self.wish(Wish::Unban { source }, who).await
            }
            Command::CloseBreaker(name) => self.wish(Wish::CloseBreaker { server: server(&name)?.id }, who).await,
            Command::Elsewhere { about, why } => {
                look_up(&picture, &about)?;
                Err(why.to_owned())
            }
            Command::Already(name) => server(&name).map(|_| String::new()),
            Command::ClearCounters { all } => {
                self.view.clear_counters(all);
                if all {
                    self.view.journal().records().clear();
                }
                let which = if all { "all counters" } else { "maximum values" };
                let (from, to) = (which.to_owned(), "cleared".to_owned());
                let change = Change { kind: Kind::Admin, of: "", what: "counters", from, to };
                self.view.journal().changed(&who, &change, format!("{which} cleared"));
                Ok(String::new())
            }
            // As HAProxy's master says it.
            Command::Reload => Ok(match self.wish(Wish::Reload, who).await {
                Ok(done) => format!("Success=1\n--\n{done}"),
                Err(faults) => format!("Success=0\n--\n{faults}"),
            }),
            shown => self.show(&picture, shown),
        }
    }

    /// What changes nothing.
    fn show(&self, picture: &Picture, command: Command) -> Result<String, String> {
        let identity = self.view.identity();
        let known = |name: Option<String>| match name.map(|name| picture.backend(&name)) {
            None => Ok(None),
            Some(Some(backend)) => Ok(Some(backend.name.as_str())),
            Some(None) => Err("Can't find backend.".to_owned()),
        };
        Ok(match command {
            Command::Help(word) => help(word.as_deref()),
            Command::ShowInfo(format) => info::info(picture, identity, format),
            Command::ShowStat { proxy, mut wanted, format } => {
                if let Some(name) = proxy {
                    wanted.iid = Some(picture.proxy(&name).ok_or("No such proxy.")?);
                }
                dump::stat(&stat::rows(picture, &wanted), format)
            }
            Command::ShowVersion => format!("{}\n", info::version(identity)),
            Command::ShowBackend => {
                picture.backends.iter().fold("# name\n".to_owned(), |text, backend| text + &backend.name + "\n")
            }
            Command::ShowServersState(backend) => servers::state(picture, known(backend)?),
            Command::ShowServersConn(backend) => servers::connections(picture, known(backend)?),
            Command::ShowTable { table, key, server } => {
                sip::table(&self.view, picture, table.as_deref(), (key.as_deref(), server))?
            }
            Command::ShowErrors(proxy) => {
                // A number is not looked up there either, whatever it is.
                let is_known =
                    |name: &String| picture.proxy(name).is_some() || name.parse().is_ok_and(|iid: i64| iid != 0);
                if !proxy.as_ref().is_none_or(is_known) {
                    return Err("No such proxy.".to_owned());
                }
                sip::errors(&self.view)
            }
            Command::Events { after, style: Style::People } => sip::events(&self.view, after),
            Command::Events { after, style: Style::Json } => sip::events_json(&self.view, after),
            Command::ShowSchema => dump::SCHEMA.to_owned(),
            Command::ShowSessions | Command::Calls => sip::calls(picture),
            Command::Split => sip::split(picture),
            Command::Bans => sip::bans(&self.view),
            Command::Breakers => sip::breakers(picture),
            Command::ShowActivity => sip::activity(picture),
            Command::ShowResolvers => "Resolvers section default\n".to_owned(),
            Command::ShowSockets => "# socket lvl processes\nruntime_socket admin all\n".to_owned(),
            Command::ShowEnvironment => {
                // A value may be a secret.
                std::env::vars_os().fold(String::new(), |mut text, (name, _)| {
                    let _ = writeln!(text, "{}=...", name.to_string_lossy());
                    text
                })
            }
            Command::ShowNothing(text) => text.to_owned(),
            Command::Status(Style::People) => people::table(picture),
            Command::Status(Style::Json) => people::json(picture),
            Command::ShowCalls(name) => format!("{}\n", picture.server(&name)?.calls),
            Command::GetWeight(name) => {
                let row = picture.server(&name)?;
                format!("{} (initial {})\n", row.weight, row.initial)
            }
            _ => String::new(),
        })
    }

    async fn set_server(&self, row: &Server, what: &str, to: &str, who: Who) -> Result<String, String> {
        let elsewhere = "Addresses are changed in the configuration; a reload loses nothing.";
        match (what, to) {
            ("state", to) => {
                let admin = admin(to).ok_or("'set server <srv> state' expects 'ready', 'drain' and 'maint'.")?;
                self.set_admin(row.id, admin, who).await.map(quiet)
            }
            ("health", to) => {
                let health = health(to).ok_or("'set server <srv> health' expects 'up', 'stopping', or 'down'.")?;
                if row.check.is_none() && !row.state.unchecked {
                    return Err("health checks are not enabled on this server.".to_owned());
                }
                self.wish(Wish::Health { server: row.id, health }, who).await
            }
            ("weight", weight) => self.set_weight(row, weight, who).await,
            ("breaker", "closed") => self.wish(Wish::CloseBreaker { server: row.id }, who).await,
            ("breaker", _) => Err("'set server <srv> breaker' expects 'closed'.".to_owned()),
            ("agent" | "agent-send", _) => Err("agent checks are not enabled on this server.".to_owned()),
            ("agent-addr" | "agent-port", _) => Err("agent checks are not enabled on this server".to_owned()),
            ("check-addr" | "check-port", _) if row.check.is_none() => {
                Err("health checks are not enabled on this server".to_owned())
            }
            ("addr", "") => Err("set server <b>/<s> addr requires an address and optionally a port.".to_owned()),
            ("fqdn", "") => Err("set server <b>/<s> fqdn requires a FQDN.".to_owned()),
            ("addr" | "fqdn" | "check-addr" | "check-port" | "ssl", _) => Err(elsewhere.to_owned()),
            _ => Err("usage: set server <backend>/<server> addr | agent | agent-addr | agent-port | agent-send | \
                      check-addr | check-port | fqdn | health | ssl | state | weight"
                .to_owned()),
        }
    }

    async fn set_weight(&self, row: &Server, written: &str, who: Who) -> Result<String, String> {
        let weight = weight(written, row.initial)?;
        self.wish(Wish::Weight { server: row.id, weight }, who).await.map(quiet)
    }

    async fn set_admin(&self, server: NameHash, admin: Admin, who: Who) -> Result<String, String> {
        self.wish(Wish::Admin { server, admin }, who).await
    }

    /// Has it done, and says what came of it.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn wish(&self, wish: Wish, who: Who) -> Result<String, String> {
        let gone = "Trunkline is stopping.";
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request { who, wish, answer }).await.map_err(|_| gone)?;
        let answered = answered.await.map_err(|_| gone)?;
        // Whoever asks next sees what came of it.
        self.view.is_stale();
        answered
    }
}

/// What a command is about that is not done here must be there.
///
/// # Errors
/// Where it is not, in HAProxy's words.
fn look_up(picture: &Picture, about: &About) -> Result<(), String> {
    let is_there = |there: bool, or: &str| if there { Ok(()) } else { Err(or.to_owned()) };
    match about {
        About::Process => Ok(()),
        About::Server(name) => picture.server(name).map(drop),
        About::Frontend(name) if name.is_empty() => Err("A frontend name is expected.".to_owned()),
        About::Frontend(name) => {
            is_there(picture.frontends.iter().any(|frontend| frontend.name == *name), "No such frontend.")
        }
        About::Table(name) => {
            is_there(picture.backend(name).is_some_and(|backend| backend.stick.is_some()), "No such table")
        }
    }
}

/// HAProxy's tools take anything but an empty line for a failure; the log has the warnings.
fn quiet(_: String) -> String {
    String::new()
}

/// The state of a word.
pub fn admin(word: &str) -> Option<Admin> {
    [Admin::Ready, Admin::Drain, Admin::Maint].into_iter().find(|admin| admin.word() == word)
}

fn health(word: &str) -> Option<Health> {
    match word {
        "up" => Some(Health::Up),
        "stopping" => Some(Health::Resting(Rest::Check)),
        "down" => Some(Health::Down),
        _ => None,
    }
}
