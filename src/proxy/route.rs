//! What is ours in Route and Request-URI: taken off, and read for its token (RFC 3261 §16.4, §16.6 item 6).

use std::net::SocketAddr;

use crate::sip::edit::Edits;
use crate::sip::header::Address;
use crate::sip::lines::find;
use crate::sip::message::Value;
use crate::sip::name::Name;
use crate::sip::parser::is_request_uri;
use crate::sip::token::{SEALED_LEN_MIN, Sealed, SealedIn, TokenError};
use crate::sip::{Span, Uri};
use crate::state::{Reason, Snapshot};

use super::Received;

/// The most Route values where they must be rewritten for a strict router; six proxies are many.
const MAX_VALUES: usize = 16;

/// A request's way so far as it is written in it.
#[derive(Clone, Copy, Debug)]
pub struct Routed {
    /// The token of our Record-Route or Path.
    pub token: Option<Sealed>,
    /// The next Route that is not ours.
    pub next: Option<Span>,
    /// The Request-URI that leaves.
    pub request_uri: Span,
}

/// What a Route value or the Request-URI is to us.
enum Whose {
    Ours(Option<Sealed>),
    Another,
}

/// Takes off what is ours and says what is left. `path` says whether a Path token counts: only servers may use one.
///
/// # Errors
/// [`Reason::ForgedToken`], or [`Reason::TooLarge`] where a strict router's rewriting does not fit.
pub fn take_own(
    received: Received<'_>,
    call: u64,
    path: bool,
    snapshot: &Snapshot,
    edits: &mut Edits,
) -> Result<Routed, Reason> {
    let (bytes, message) = (received.bytes, received.message);
    let request_uri = message.request_uri().unwrap_or_default();
    if !message.has(Name::Route) && is_plain(bytes, request_uri) {
        return Ok(Routed { token: None, next: None, request_uri });
    }
    let reader = Reader { bytes, call, path, came_to: received.flow.local, snapshot };
    // A strict router before us put our Record-Route into the Request-URI and the real one at the end of Route.
    let uri = Uri::parse(bytes, request_uri);
    if let Some(token) = uri.as_ref().map_or(Ok(None), |uri| reader.own_token(uri))?
        && message.has(Name::Route)
    {
        return reader.undo_strict(received, Pass { token: Some(token), ..Pass::default() }, edits);
    }
    let mut routed = Routed { token: None, next: None, request_uri };
    if message.has(Name::Route) {
        (routed.token, routed.next) = reader.take_prefix(received, edits)?;
        if routed.next.is_some_and(|next| is_strict(bytes, next)) {
            edits.clear();
            return reader.rewrite(received, Pass::default(), None, edits);
        }
    }
    if let Some(uri) = uri.filter(|uri| uri.params < uri.end) {
        reader.strip_maddr(&uri, edits);
    }
    Ok(routed)
}

/// Whether a URI cannot hold anything of ours: no room for a token, and no parameters. So are nearly all outside a dialog.
fn is_plain(bytes: &[u8], uri: Span) -> bool {
    uri.len() < SEALED_LEN_MIN && find(bytes, uri.start as usize, uri.end as usize, b';').is_none()
}

/// Whether a route names a strict router: a URI without `lr` (RFC 2543).
fn is_strict(bytes: &[u8], uri: Span) -> bool {
    Uri::parse(bytes, uri).is_some_and(|uri| uri.param(bytes, b"lr").is_none())
}

/// What was taken off of one pass through us.
#[derive(Default)]
struct Pass {
    token: Option<Sealed>,
    /// The URI that the token stood in first, and whether it stood in a second one.
    first: Option<Span>,
    is_pair: bool,
}

impl Pass {
    /// Whether one more value of ours belongs to it; it is of it then. A pair carries one token, each for its side. Where a
    /// server sent a client's request on through us, to that client or to another one, and did not record itself, the other
    /// pass is still to come, and its values are for the next time (RFC 3261 §16.4, RFC 5658). A server names each pass anew.
    fn takes(&mut self, found: Option<Sealed>, uri: Span, reader: &Reader<'_>) -> bool {
        let Some(found) = found else { return true };
        let is_first = self.token.is_none();
        let text = |uri: Span| uri.of(reader.bytes);
        let is_other_side = || !self.is_pair && self.first.is_none_or(|first| text(first) != text(uri));
        let belongs = is_first || reader.path || self.token == Some(found) && is_other_side();
        self.is_pair |= belongs && !is_first;
        self.token = self.token.or(Some(found));
        self.first = self.first.or(Some(uri));
        belongs
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    call: u64,
    path: bool,
    came_to: SocketAddr,
    snapshot: &'a Snapshot,
}

impl Reader<'_> {
    /// The token in a URI's user part, if it is a valid one of ours.
    fn own_token(&self, uri: &Uri) -> Result<Option<Sealed>, Reason> {
        match self.whose(uri)? {
            Whose::Ours(token) => Ok(token),
            Whose::Another => Ok(None),
        }
    }

    /// Ours is a valid token, or our host and port (docs/rules.md 6). Under a key that we hold no longer the token is nothing
    /// and the pin decides; a wrong MAC under one that we hold was made by somebody.
    fn whose(&self, uri: &Uri) -> Result<Whose, Reason> {
        let token = uri.user.map(|user| Sealed::open(user.of(self.bytes), self.call, &self.snapshot.keys));
        match token {
            Some(Ok(token)) if token.stands_in == SealedIn::RecordRoute || self.path => Ok(Whose::Ours(Some(token))),
            Some(Ok(_)) => Ok(Whose::Ours(None)),
            _ if !self.snapshot.means_us(uri, self.bytes, self.came_to) => Ok(Whose::Another),
            Some(Err(TokenError::Forged)) => Err(Reason::ForgedToken),
            _ => Ok(Whose::Ours(None)),
        }
    }

    fn whose_value(&self, value: &Value) -> Result<(Whose, Span), Reason> {
        let uri = Address::parse(self.bytes, value.span).map(|address| address.uri).unwrap_or(value.span);
        let whose = match Uri::parse(self.bytes, uri) {
            Some(parsed) => self.whose(&parsed)?,
            None => Whose::Another,
        };
        Ok((whose, uri))
    }

    /// Cuts our values at the front of Route; returns their token, and the URI of the first that is not ours.
    fn take_prefix(&self, received: Received<'_>, edits: &mut Edits) -> Result<(Option<Sealed>, Option<Span>), Reason> {
        let mut pass = Pass::default();
        // The line that is being emptied, and where its first value begins.
        let mut emptied: Option<(Span, u16)> = None;
        for value in received.message.values(self.bytes, Name::Route) {
            if let Some((line, _)) = emptied.filter(|(line, _)| *line != value.line) {
                edits.replace(line);
                emptied = None;
            }
            match self.whose_value(&value)? {
                (Whose::Ours(found), uri) if pass.takes(found, uri, self) => {
                    emptied.get_or_insert((value.line, value.span.start));
                }
                (_, uri) => {
                    if let Some((_, start)) = emptied {
                        edits.replace(Span { start, end: value.span.start });
                    }
                    return Ok((pass.token, Some(uri)));
                }
            }
        }
        if let Some((line, _)) = emptied {
            edits.replace(line);
        }
        Ok((pass.token, None))
    }

    /// RFC 3261 §16.4: the last Route value is the real Request-URI.
    #[cold]
    fn undo_strict(&self, received: Received<'_>, pass: Pass, edits: &mut Edits) -> Result<Routed, Reason> {
        let last = received.message.values(self.bytes, Name::Route).last().ok_or(Reason::Malformed)?;
        let request_uri = Address::parse(self.bytes, last.span).map(|address| address.uri).unwrap_or(last.span);
        self.rewrite(received, pass, Some(request_uri), edits)
    }

    /// Writes Route and Request-URI anew where a strict router is before us (`real_uri` is the last value) or behind us
    /// (RFC 3261 §16.6 item 6: the next value becomes the Request-URI, and that becomes the last value).
    #[cold]
    fn rewrite(
        &self,
        received: Received<'_>,
        mut pass: Pass,
        real_uri: Option<Span>,
        edits: &mut Edits,
    ) -> Result<Routed, Reason> {
        let mut kept = [Span::default(); MAX_VALUES];
        let (mut count, mut in_front) = (0, true);
        for value in received.message.values(self.bytes, Name::Route) {
            if in_front
                && let (Whose::Ours(found), uri) = self.whose_value(&value)?
                && pass.takes(found, uri, self)
            {
                continue;
            }
            in_front = false;
            *kept.get_mut(count).ok_or(Reason::TooLarge)? = value.span;
            count += 1;
        }
        if real_uri.is_some() {
            count = count.saturating_sub(1);
        }
        let before = received.message.request_uri().unwrap_or_default();
        let mut request_uri = real_uri.unwrap_or(before);
        let mut values = &kept[..count];
        let uri_of = |value: &Span| Address::parse(self.bytes, *value).map(|address| address.uri).unwrap_or(*value);
        let next = values.first().map(uri_of);
        let strict = next.filter(|next| is_strict(self.bytes, *next));
        let mut pushed = None;
        if let Some(next) = strict {
            pushed = Some(request_uri);
            request_uri = next;
            values = &values[1..];
        }
        // It is written into the start line.
        if !is_request_uri(self.bytes, request_uri) {
            return Err(Reason::Malformed);
        }
        if request_uri != before {
            edits.replace(before).put(request_uri.of(self.bytes));
        }
        for (index, line) in received.message.lines(Name::Route).enumerate() {
            edits.replace(line.span);
            if index == 0 {
                for value in values {
                    edits.put(b"Route: ").put(value.of(self.bytes)).put(b"\r\n");
                }
                if let Some(uri) = pushed {
                    edits.put(b"Route: <").put(uri.of(self.bytes)).put(b">\r\n");
                }
            }
        }
        Ok(Routed { token: pass.token, next, request_uri })
    }

    /// RFC 3261 §16.4: a `maddr` that is ours goes, with the port and transport that it stood for.
    fn strip_maddr(&self, uri: &Uri, edits: &mut Edits) {
        let Some(maddr) = uri.param(self.bytes, b"maddr") else { return };
        let ours = maddr
            .value
            .and_then(|value| crate::sip::text::parse_ip(value.of(self.bytes)))
            .map(|ip| SocketAddr::new(ip, uri.port_or_default(self.bytes)))
            .is_some_and(|address| address == self.came_to || self.snapshot.is_own(&address));
        if !ours {
            return;
        }
        edits.replace(Span { start: uri.host.end, end: uri.params as u16 });
        for param in [Some(maddr), uri.param(self.bytes, b"transport")].into_iter().flatten() {
            let start = param.name.start - 1;
            edits.replace(Span { start, end: param.value.unwrap_or(param.name).end });
        }
    }
}
