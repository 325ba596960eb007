//! `/health`: whether this process is alive. `/ready`: whether it should be sent calls. The same report for both; only the
//! status differs. A balancer that restarts because its servers are down helps nobody, so `/health` does not ask for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Node;
use crate::admin::local;
use crate::config::WhenAllDown;
use crate::net::udp::clock;
use crate::state::server::Admin;
use crate::state::snapshot::{Backend, Snapshot};
use crate::state::{Shared, Time};

pub(super) async fn health(State(node): State<Arc<Node>>) -> Response {
    let report = Report::of(&node);
    let alive = report.alive;
    answer(report, alive)
}

pub(super) async fn ready(State(node): State<Arc<Node>>) -> Response {
    let report = Report::of(&node);
    let ready = report.ready;
    answer(report, ready)
}

fn answer(mut report: Report, good: bool) -> Response {
    let all_well = report.components.values().all(|component| component.status == Status::Healthy);
    report.status = match (good, all_well) {
        (false, _) => Status::Unhealthy,
        (true, false) => Status::Degraded,
        (true, true) => Status::Healthy,
    };
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(CACHE_CONTROL, "no-cache")], Json(report)).into_response()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Healthy,
    Degraded,
    Unhealthy,
}

/// One part of the whole.
#[derive(Debug, PartialEq, Serialize)]
struct Component {
    status: Status,
    /// Of what is measured: the checks of a backend's servers.
    latency_ms: Option<f64>,
    error: Option<String>,
}

/// One server's breaker.
#[derive(Debug, PartialEq, Serialize)]
struct Breaker {
    state: &'static str,
    /// Of all new requests to it, the part that failed; `null` before the first.
    failure_rate: Option<f64>,
}

/// What is answered.
#[derive(Debug, Serialize)]
struct Report {
    status: Status,
    components: BTreeMap<String, Component>,
    circuit_breakers: BTreeMap<String, Breaker>,
    #[serde(skip)]
    alive: bool,
    #[serde(skip)]
    ready: bool,
}

impl Report {
    fn of(node: &Node) -> Self {
        let view = &node.view;
        let mut report = Self::look(&view.snapshot(), view.shared(), view.started(), clock());
        let error = view.is_stopping().then(|| "stopping: send calls elsewhere".to_owned());
        report.ready &= error.is_none();
        for backend in &view.picture().backends {
            if let Some(component) = report.components.get_mut(&format!("backend/{}", backend.name)) {
                component.latency_ms = backend.check_time().map(|time| time.as_secs_f64() * 1000.0);
            }
        }
        report.components.insert("process".to_owned(), part(error));
        let refused = node.refused.load(Ordering::Relaxed);
        let door =
            Component { error: (refused > 0).then(|| format!("{refused} connections were not let in")), ..part(None) };
        report.components.insert("http".to_owned(), door);
        report
    }

    fn look(snapshot: &Snapshot, shared: &Shared, started: Time, now: Time) -> Self {
        let mut components = BTreeMap::new();
        let mut alive = true;
        for (worker, error) in local::workers(shared, started, now).enumerate() {
            alive &= error.is_none();
            components.insert(format!("worker-{worker}"), part(error));
        }
        let error = local::control(shared, started, now);
        alive &= error.is_none();
        components.insert("control".to_owned(), part(error));
        let sockets = snapshot.binds.len() + snapshot.relays.len();
        let no_socket = (sockets == 0).then(|| "no address is bound".to_owned());
        components.insert("sockets".to_owned(), part(no_socket));
        let mut takes_calls = false;
        for (at, backend) in snapshot.backends.iter().enumerate() {
            let used = snapshot.frontends.iter().any(|frontend| frontend.config.backends().contains(&at));
            takes_calls |= used && is_usable(backend);
            components.insert(format!("backend/{}", backend.config.name), of_backend(snapshot, backend));
        }
        let breaker = |at: usize| {
            let server = &snapshot.servers[at];
            let counted = server.live.counted();
            let failure_rate = (counted.opened > 0).then(|| counted.failed as f64 / counted.opened as f64);
            (server.name.clone(), Breaker { state: server.state.breaker.word(), failure_rate })
        };
        let with = snapshot.backends.iter().filter(|backend| backend.config.breaker.is_some());
        let servers = with.flat_map(|backend| &backend.config.servers);
        let circuit_breakers = servers.filter_map(|server| snapshot.server(server.id)).map(breaker).collect();
        let ready = alive && sockets > 0 && takes_calls;
        Self { status: Status::Healthy, components, circuit_breakers, alive, ready }
    }
}

/// Healthy where there is no error.
fn part(error: Option<String>) -> Component {
    let status = if error.is_none() { Status::Healthy } else { Status::Unhealthy };
    Component { status, latency_ms: None, error }
}

/// Whether somebody gets its new calls.
fn is_usable(backend: &Backend) -> bool {
    !backend.lacks_servers() || backend.config.when_all_down == WhenAllDown::Forward
}

fn of_backend(snapshot: &Snapshot, backend: &Backend) -> Component {
    let servers = backend.config.servers.iter().filter_map(|server| snapshot.server(server.id));
    let servers: Vec<_> =
        servers.map(|at| &snapshot.servers[at]).filter(|server| server.state.admin != Admin::Leaving).collect();
    let takes = servers.iter().filter(|server| backend.takes_new(server.state)).count();
    // A name without an address is a server that is not there.
    let nameless = backend.config.unresolved().count();
    let all_are_well = nameless == 0 && servers.iter().all(|server| server.state.takes_new());
    let status = match (all_are_well, is_usable(backend)) {
        (true, true) => Status::Healthy,
        (false, true) => Status::Degraded,
        (_, false) => Status::Unhealthy,
    };
    let error =
        (status != Status::Healthy).then(|| format!("{takes} of {} servers take new calls", servers.len() + nameless));
    Component { status, latency_ms: None, error }
}

#[cfg(test)]
mod tests;
