//! The door for browsers and for tools that speak HTTP/1.
//!
//! ```text
//! listen    who is let in, and for how long       an accept loop for each address of [admin]
//! auth      who it is, and what they may          Basic, argon2id, roles
//! options   what /stats;csv;up... asks for        by substring, as HAProxy reads it
//! form      the buttons of the stats page         HAProxy's POST and its answers
//! health    /health and /ready
//! stats     the page, CSV, /metrics                what everybody may read
//! api       /api/v1                                what the page reads and does
//! ```
//! A route is a line in [`router`]. What is behind the log-in takes a [`Visitor`]; what changes something goes
//! through [`Request`](super::Request), like a command.

mod api;
pub mod auth;
mod form;
mod health;
mod listen;
mod options;
mod stats;

pub use listen::{Doors, Prepared};

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::auth::{Auth, Visitor};
use self::options::Options;
use super::answer::Answerer;
use super::{View, Wish};
use crate::config::admin::Serves;

/// The longest body: orders are short.
pub const LONGEST_BODY: usize = 64 * 1024;
/// Whoever needs longer for one is slow on purpose.
const BODY_TIME: Duration = Duration::from_secs(10);

/// What answers are made from.
pub struct Node {
    pub view: View,
    /// To the one who writes snapshots.
    pub requests: mpsc::Sender<super::Request>,
    pub auth: Auth,
    /// Connections that were not let in.
    pub refused: AtomicU64,
}

impl Node {
    /// `key` is random: it hides what is remembered of passwords.
    pub fn new(view: &View, requests: &mpsc::Sender<super::Request>, key: [u8; 16]) -> Self {
        Self { view: view.clone(), requests: requests.clone(), auth: Auth::new(key), refused: AtomicU64::new(0) }
    }

    /// Has something done, as a command does.
    async fn wish(&self, visitor: &Visitor, wish: Wish) -> Result<String, String> {
        Answerer { view: self.view.clone(), requests: self.requests.clone() }.wish(wish, visitor.who()).await
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What one listener answers. What it serves by a key of its own needs no log-in; what it serves as a part of `stats` does,
/// where there are users.
fn router(serves: Serves, node: &Arc<Node>) -> Router {
    let health = || Router::new().route("/health", get(health::health)).route("/ready", get(health::ready));
    let metrics = || Router::new().route("/metrics", get(async |State(node): State<Arc<Node>>| stats::scrape(&node)));
    let mut open = Router::new();
    let mut locked = page_routes().fallback(stats);
    match (serves.health, serves.stats) {
        (true, _) => open = open.merge(health()),
        (false, true) => locked = locked.merge(health()),
        _ => {}
    }
    match (serves.metrics, serves.stats) {
        (true, _) => open = open.merge(metrics()),
        (false, true) => locked = locked.merge(metrics()),
        _ => {}
    }
    if serves.stats {
        open = open.merge(locked.layer(middleware::from_fn_with_state(Arc::clone(node), auth::log_in)));
    }
    open.with_state(Arc::clone(node))
}

/// What the page is made of, and reads.
fn page_routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/stats/page.js", get(stats::script))
        .route("/stats/page.css", get(stats::style))
        .route("/api/v1/picture", get(api::picture))
        .route("/api/v1/stream", get(api::stream))
        .route("/api/v1/history", get(api::history))
        .route("/api/v1/events", get(api::events))
        .route("/api/v1/pins", get(api::pins))
        .route("/api/v1/bad", get(api::bad))
        .route("/api/v1/configuration", get(api::configuration))
        .route("/api/v1/server", post(api::server))
        .route("/api/v1/reload", post(api::reload))
}

/// `/stats` and whatever begins so; what has a route of its own does not come here.
async fn stats(State(node): State<Arc<Node>>, visitor: Visitor, request: Request) -> Response {
    let uri = request.uri().path_and_query().map_or("/", |uri| uri.as_str());
    let Some(options) = Options::of(uri) else {
        return match uri {
            "/" => (StatusCode::SEE_OTHER, [(LOCATION, "/stats")]).into_response(),
            _ => (StatusCode::NOT_FOUND, "There is nothing here; the stats page is at /stats.\n").into_response(),
        };
    };
    match *request.method() {
        Method::GET | Method::HEAD => stats::show(&node, &options),
        Method::POST => form::post(&node, &visitor, &options, request.into_body()).await,
        _ => (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD, POST")]).into_response(),
    }
}

/// The headers of what is made anew for each who asks.
fn fresh(content_type: &'static str) -> HeaderMap {
    let [cache, kind] = ["no-cache", content_type].map(HeaderValue::from_static);
    HeaderMap::from_iter([(CACHE_CONTROL, cache), (CONTENT_TYPE, kind)])
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unread {
    TooLong,
    TooSlow,
    /// It was cut off, or is no body.
    Broken,
}

/// Reads a body of at most so many octets.
async fn read(mut body: Body, most: usize) -> Result<Vec<u8>, Unread> {
    if body.size_hint().lower() > most as u64 {
        return Err(Unread::TooLong);
    }
    let whole = async {
        let mut text = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
            if text.len() + data.len() > most {
                return Err(Unread::TooLong);
            }
            text.extend_from_slice(&data);
        }
        Ok(text)
    };
    timeout(BODY_TIME, whole).await.unwrap_or(Err(Unread::TooSlow))
}
