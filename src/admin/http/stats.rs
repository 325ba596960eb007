//! GET of the stats page and of what HAProxy's tools ask for there: CSV, typed lines, JSON.

use std::sync::Arc;

use axum::http::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::options::{Format, Options};
use super::{Node, fresh};
use crate::admin::haproxy::{dump, stat};
use crate::admin::{metrics, page};

/// How often HAProxy's pages ask to be asked for again, where nobody says otherwise: a page with scripts goes on by itself.
const REFRESH: &str = "10";

/// What the options ask for.
pub(super) fn show(node: &Arc<Node>, options: &Options) -> Response {
    let picture = node.view.picture();
    let wanted = stat::Wanted {
        up: options.up,
        no_maint: options.no_maint,
        scope: (!options.scope.is_empty()).then(|| options.scope.clone()),
        ..stat::Wanted::default()
    };
    let rows = || stat::rows(&picture, &wanted);
    let (kind, text) = match options.format {
        Format::Html => return page(page::render(&picture, node.view.identity())),
        Format::Csv => ("text/plain", dump::stat(&rows(), dump::Format::Plain)),
        Format::Typed => ("text/plain", dump::stat(&rows(), dump::Format::Typed)),
        Format::Json => ("application/json", dump::stat(&rows(), dump::Format::Json)),
        Format::JsonSchema => ("application/json", dump::SCHEMA.to_owned()),
    };
    let mut headers = fresh(kind);
    if !options.no_refresh {
        headers.insert(HeaderName::from_static("refresh"), HeaderValue::from_static(REFRESH));
    }
    (headers, text).into_response()
}

fn page(text: String) -> Response {
    let mut headers = fresh("text/html; charset=utf-8");
    guard(&mut headers);
    (headers, text).into_response()
}

/// What browsers must not do with what is sent.
fn guard(headers: &mut HeaderMap) {
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
}

/// The bundle's script.
pub(super) async fn script(headers: HeaderMap) -> Response {
    asset(&headers, "text/javascript; charset=utf-8", page::SCRIPT)
}

/// The bundle's style.
pub(super) async fn style(headers: HeaderMap) -> Response {
    asset(&headers, "text/css; charset=utf-8", page::STYLE)
}

/// A part of the bundle: it is another one with another version of the program alone.
fn asset(asked: &HeaderMap, kind: &'static str, text: &'static str) -> Response {
    let tag = format!("\"{:016x}\"", crate::config::fingerprint(text));
    let mut headers = fresh(kind);
    guard(&mut headers);
    let Ok(value) = HeaderValue::from_str(&tag) else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    headers.insert(HeaderName::from_static("etag"), value);
    match asked.get("if-none-match").is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, text).into_response(),
    }
}

/// `/metrics`
pub(super) fn scrape(node: &Arc<Node>) -> Response {
    (fresh(metrics::CONTENT_TYPE), node.view.metrics()).into_response()
}
