//! What is said to a command.

use tokio::sync::{mpsc, oneshot};

use super::command::{Command, Style, help, weight};
use super::{Request, View, Who, Wish};
use crate::sip::token::NameHash;
use crate::state::server::Admin;

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
        let view = &self.view;
        match command {
            Command::Help => Ok(help()),
            Command::ShowInfo => Ok(view.info()),
            Command::ShowVersion => Ok(format!("{}\n", view.version())),
            Command::ShowLevel => Ok("admin\n".to_owned()),
            Command::ShowBackend => Ok(format!("# name\n{}\n", view.backends().join("\n"))),
            Command::ShowServersState(Some(backend)) if !view.has_backend(&backend) => {
                Err("Can't find backend.".to_owned())
            }
            Command::ShowServersState(backend) => Ok(view.servers_state(backend.as_deref())),
            Command::Status(Style::People) => Ok(view.table().await),
            Command::Status(Style::Json) => Ok(view.json().await),
            Command::ShowCalls(name) => {
                let id = view.server(&name)?.id;
                let calls = view.rows_with_calls().await.iter().find(|row| row.id == id).map_or(0, |row| row.calls);
                Ok(format!("{calls}\n"))
            }
            Command::GetWeight(name) => {
                let row = view.server(&name)?;
                Ok(format!("{} (initial {})\n", row.weight, row.initial))
            }
            Command::SetWeight { server, weight } => self.set_weight(&server, &weight, who).await,
            Command::SetServer { server, what, to } => self.set_server(&server, &what, &to, who).await,
            Command::DisableServer(name) => self.set_admin(view.server(&name)?.id, Admin::Maint, who).await,
            Command::EnableServer(name) => self.set_admin(view.server(&name)?.id, Admin::Ready, who).await,
            Command::Reload => {
                // As HAProxy's master says it.
                Ok(match self.wish(Wish::Reload, who).await {
                    Ok(done) => format!("Success=1\n--\n{done}"),
                    Err(faults) => format!("Success=0\n--\n{faults}"),
                })
            }
            Command::Quit | Command::Prompt | Command::SetTimeout(_) | Command::SetSeverity(_) => Ok(String::new()),
        }
    }

    async fn set_server(&self, name: &str, what: &str, to: &str, who: Who) -> Result<String, String> {
        let row = self.view.server(name)?;
        match (what, to) {
            ("state", "ready") => self.set_admin(row.id, Admin::Ready, who).await,
            ("state", "drain") => self.set_admin(row.id, Admin::Drain, who).await,
            ("state", "maint") => self.set_admin(row.id, Admin::Maint, who).await,
            ("state", _) => Err("'set server <srv> state' expects 'ready', 'drain' and 'maint'.".to_owned()),
            ("weight", weight) => self.set_weight(name, weight, who).await,
            ("breaker", "closed") => self.wish(Wish::CloseBreaker { server: row.id }, who).await,
            ("breaker", _) => Err("'set server <srv> breaker' expects 'closed'.".to_owned()),
            _ => Err("usage: set server <backend>/<server> state | weight | breaker".to_owned()),
        }
    }

    async fn set_weight(&self, name: &str, written: &str, who: Who) -> Result<String, String> {
        let row = self.view.server(name)?;
        let weight = weight(written, row.initial)?;
        self.wish(Wish::Weight { server: row.id, weight }, who).await
    }

    async fn set_admin(&self, server: NameHash, admin: Admin, who: Who) -> Result<String, String> {
        self.wish(Wish::Admin { server, admin }, who).await
    }

    async fn wish(&self, wish: Wish, who: Who) -> Result<String, String> {
        let gone = "Trunkline is stopping.";
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request { who, wish, answer }).await.map_err(|_| gone)?;
        answered.await.map_err(|_| gone)?
    }
}
