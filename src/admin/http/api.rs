//! What the stats page reads and does: `/api/v1`. What it reads is the picture that everybody reads; what it does goes
//! through the door that commands go through.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::auth::Visitor;
use super::{LONGEST_BODY, Node, read};
use crate::admin::Wish;
use crate::admin::answer::admin;
use crate::admin::command::weight;
use crate::admin::picture::Server;
use crate::config::admin::Role;
use crate::net::udp::clock;
use crate::proxy::stick_key_of;
use crate::sip::token::NameHash;
use crate::state::Snapshot;

/// How often a page that looks on is told.
const BEAT: Duration = Duration::from_secs(1);

/// The header that a page of another site cannot send without being asked for leave first.
const OWN: &str = "x-requested-with";

type Shown = State<Arc<Node>>;

fn fresh(value: impl IntoResponse) -> Response {
    ([(CACHE_CONTROL, "no-store")], value).into_response()
}

/// The picture for one visitor.
pub(super) async fn picture(State(node): Shown, visitor: Visitor) -> Response {
    let text = text_for(&node, &visitor);
    fresh(([(CONTENT_TYPE, "application/json")], text))
}

/// Who looks stands in front of what all see, so that it is written once for all of them.
fn text_for(node: &Node, visitor: &Visitor) -> String {
    let user = json!({"name": visitor.user.as_deref().unwrap_or("nobody"), "role": visitor.role.word()});
    let all = node.view.json();
    format!("{{\"user\":{user},{}", &all[1..])
}

/// Events, one a second, until somebody hangs up or we stop.
pub(super) async fn stream(State(node): Shown, visitor: Visitor) -> Response {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let users = node.auth.changes();
    let body = Body::new(Events { node, visitor, users, beat, said_bye: false });
    fresh(([(CONTENT_TYPE, "text/event-stream")], body))
}

/// A body without an end.
struct Events {
    node: Arc<Node>,
    visitor: Visitor,
    /// The users that let it in ([`super::auth::Auth::changes`]).
    users: u64,
    beat: Interval,
    said_bye: bool,
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        if self.said_bye {
            return Poll::Ready(None);
        }
        if self.beat.poll_tick(cx).is_pending() {
            return Poll::Pending;
        }
        self.said_bye = self.node.view.is_stopping() || self.node.auth.changes() != self.users;
        let text = match self.said_bye {
            true => "event: bye\ndata: {}\n\n".to_owned(),
            false => format!("event: picture\ndata: {}\n\n", text_for(&self.node, &self.visitor)),
        };
        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}

/// The last ten minutes.
pub(super) async fn history(State(node): Shown, _: Visitor) -> Response {
    let seconds = node.view.seconds();
    let curve = |value: &dyn Fn(&crate::admin::picture::second::Second) -> Option<f64>| {
        seconds.history().map(value).collect::<Vec<_>>()
    };
    fresh(Json(json!({
        "step_seconds": 1,
        "until": crate::admin::unix_now(),
        "calls": curve(&|s| Some(s.calls)),
        "active_calls": curve(&|s| Some(s.active_calls)),
        "requests": curve(&|s| Some(s.requests)),
        "p50_ms": curve(&|s| s.p50_ms),
        "p95_ms": curve(&|s| s.p95_ms),
        "p99_ms": curve(&|s| s.p99_ms),
        "failures": curve(&|s| Some(s.failures)),
        "retransmissions": curve(&|s| Some(s.retransmissions)),
        "kernel_drops": curve(&|s| Some(s.kernel_drops)),
    })))
}

/// What happened: all that is remembered, or what came after an event.
pub(super) async fn events(State(node): Shown, _: Visitor, request: Request) -> Response {
    let after = query(&request, "after").and_then(|after| after.parse().ok()).unwrap_or_default();
    fresh(Json(json!({"events": node.view.journal().events_after(after)})))
}

/// Whose a call is.
pub(super) async fn pins(State(node): Shown, _: Visitor, request: Request) -> Response {
    let (view, picture) = (&node.view, node.view.picture());
    let found = query(&request, "find").filter(|call| !call.is_empty()).and_then(|call| view.pin(&call));
    let found = found.map(|(server, confirmed, rest)| {
        json!({"server": server, "confirmed": confirmed, "expires_seconds": rest.map(|rest| rest.as_secs())})
    });
    let stuck: Vec<_> = query(&request, "find").iter().flat_map(|typed| view.stuck(typed)).collect();
    fresh(Json(json!({"found": found, "stuck": stuck, "used": picture.pins.used, "size": picture.pins.size})))
}

/// What could not be read.
pub(super) async fn bad(State(node): Shown, visitor: Visitor) -> Response {
    // Somebody's messages, as they came.
    match visitor.may(Role::Operator) {
        true => fresh(Json(json!({"messages": crate::admin::sip::bad_messages(&node.view)}))),
        false => refused(StatusCode::FORBIDDEN, "Your account may not see messages; an operator may."),
    }
}

/// The text in force, without secrets.
pub(super) async fn configuration(State(node): Shown, visitor: Visitor) -> Response {
    if !visitor.may(Role::Operator) {
        return refused(StatusCode::FORBIDDEN, "Your account may not see the configuration; an operator may.");
    }
    let hash = format!("{:016x}", node.view.picture().node.configuration);
    fresh(Json(json!({"hash": hash, "text": node.view.configuration()})))
}

/// The value of a key in the query, decoded.
fn query(request: &Request, key: &str) -> Option<String> {
    let fields = request.uri().query()?.split('&').filter_map(|field| field.split_once('='));
    let value = fields.into_iter().find(|(name, _)| *name == key)?.1;
    super::form::decode(value.as_bytes())
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, [(CACHE_CONTROL, "no-store")], Json(json!({"error": why}))).into_response()
}

/// What is done to a server.
#[derive(Deserialize)]
struct Order {
    backend: String,
    server: String,
    r#do: String,
    weight: Option<String>,
}

/// Why nothing is done for this visitor, or for a page that is not ours.
fn refusal(visitor: &Visitor, headers: &HeaderMap, role: Role) -> Option<Response> {
    let needed = if role == Role::Admin { "an admin" } else { "an operator" };
    let why = match (headers.contains_key(OWN), visitor.may(role)) {
        (true, true) => return None,
        (true, false) => format!("Your account is a {}'s: this needs {needed}.", visitor.role.word()),
        (false, _) => "Only the stats page itself changes something here.".to_owned(),
    };
    Some(refused(StatusCode::FORBIDDEN, &why))
}

/// Does something to a server.
pub(super) async fn server(State(node): Shown, visitor: Visitor, request: Request) -> Response {
    if let Some(refusal) = refusal(&visitor, request.headers(), Role::Operator) {
        return refusal;
    }
    let body = read(request.into_body(), LONGEST_BODY).await.ok();
    let Some(order) = body.and_then(|body| serde_json::from_slice::<Order>(&body).ok()) else {
        return refused(StatusCode::BAD_REQUEST, "This is no order: {\"backend\", \"server\", \"do\", \"weight\"}.");
    };
    let picture = node.view.picture();
    let found = picture.server(&format!("{}/{}", order.backend, order.server));
    let wish = match found.map_err(|error| (StatusCode::NOT_FOUND, error)).and_then(|of| wish(&order, of)) {
        Ok(wish) => wish,
        Err((status, why)) => return refused(status, &why),
    };
    done(node.wish(&visitor, wish).await, StatusCode::CONFLICT)
}

fn wish(order: &Order, of: &Server) -> Result<Wish, (StatusCode, String)> {
    let server = of.id;
    match (order.r#do.as_str(), &order.weight) {
        ("weight", Some(written)) => weight(written, of.initial)
            .map(|weight| Wish::Weight { server, weight })
            .map_err(|why| (StatusCode::BAD_REQUEST, why)),
        ("close-breaker", _) => Ok(Wish::CloseBreaker { server }),
        (state, _) => admin(state)
            .map(|admin| Wish::Admin { server, admin })
            .ok_or((StatusCode::BAD_REQUEST, "\"do\" is ready, drain, maint, weight or close-breaker.".to_owned())),
    }
}

/// Reads the configuration again.
pub(super) async fn reload(State(node): Shown, visitor: Visitor, request: Request) -> Response {
    if let Some(refusal) = refusal(&visitor, request.headers(), Role::Admin) {
        return refusal;
    }
    done(node.wish(&visitor, Wish::Reload).await, StatusCode::UNPROCESSABLE_ENTITY)
}

fn done(outcome: Result<String, String>, refusal: StatusCode) -> Response {
    match outcome {
        Ok(said) => fresh(Json::<Value>(json!({"said": said}))),
        Err(why) => refused(refusal, &why),
    }
}

impl crate::admin::View {
    /// To whom what was typed sticks: an address, a user, a header's value, in each backend that sticks by such.
    fn stuck(&self, typed: &str) -> Vec<Value> {
        let (snapshot, now) = (self.snapshot(), clock());
        let of = |backend: &crate::state::snapshot::Backend| {
            let (table, stick) = backend.stick()?;
            let stuck = table.find(stick_key_of(stick, typed, &snapshot)?, now)?;
            Some(json!({
                "backend": backend.config.name, "confirmed": stuck.confirmed,
                "server": name_of(&snapshot, stuck.server),
                "expires_seconds": stuck.rest(now).map(|rest| rest.as_secs()),
            }))
        };
        snapshot.backends.iter().filter_map(of).collect()
    }

    /// The server of a call, whether its pin is confirmed, and how long it lives without being used.
    fn pin(&self, call_id: &str) -> Option<(String, bool, Option<Duration>)> {
        let snapshot = self.snapshot();
        let pin = self.shared().pins.find(snapshot.keys.call(call_id.as_bytes()), clock())?;
        Some((name_of(&snapshot, pin.server).to_owned(), pin.confirmed, pin.rest(clock())))
    }
}

fn name_of(snapshot: &Snapshot, server: NameHash) -> &str {
    snapshot.server_name(server).unwrap_or("one that is gone")
}
