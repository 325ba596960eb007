//! The form of HAProxy's stats page: `s=one&s=two&action=drain&b=pbx`, answered by a redirect that says what came of it.
//! `b` is a backend's name, or `#` and its number as the CSV has it.
//!
//! What HAProxy can do to a server and Trunkline cannot is answered as HAProxy answers for a server that has nothing of the
//! kind: agent checks, checks that are turned off at run time, sessions to shut down, the health of a server that nobody
//! checks. Nothing was done, so `NONE`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};

use super::auth::Visitor;
use super::options::Options;
use super::{Node, Unread, fresh, read};
use crate::admin::Wish;
use crate::admin::picture::look::numbers;
use crate::admin::picture::numbered;
use crate::config::admin::Role;
use crate::sip::token::NameHash;
use crate::state::Snapshot;
use crate::state::server::{Admin, Health, Rest};

/// What fits into HAProxy's buffer beside the head (tune.bufsize less tune.maxrewrite); a longer form is `EXCD`.
const LONGEST: usize = 15_360;
/// HAProxy's `LINESIZE`, with the sign before: a longer field is `ERRP`.
const LONGEST_FIELD: usize = 2_047;

/// What came of a form, in HAProxy's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All was done; a part; nothing, for there was nobody to do it to.
    Done,
    Part,
    None,
    /// A field is wrong, or no server is of this name.
    Wrong,
    TooLong,
    Denied,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Done => "DONE",
            Self::Part => "PART",
            Self::None => "NONE",
            Self::Wrong => "ERRP",
            Self::TooLong => "EXCD",
            Self::Denied => "DENY",
        }
    }

    /// Of so many servers that were named and could be changed, so many were.
    fn of(named: usize, changed: usize) -> Self {
        match (named, changed) {
            (0, _) => Self::None,
            (_, 0) => Self::Wrong,
            (named, changed) if named == changed => Self::Done,
            _ => Self::Part,
        }
    }
}

/// Reads the form, does what it says, and sends the browser back to the page.
pub(super) async fn post(node: &Arc<Node>, visitor: &Visitor, options: &Options, body: Body) -> Response {
    let outcome = match visitor.may(Role::Operator) {
        false => Outcome::Denied,
        true => match read(body, LONGEST).await {
            Ok(text) => submit(node, visitor, &text).await,
            Err(Unread::TooLong) => Outcome::TooLong,
            Err(Unread::TooSlow) => return StatusCode::REQUEST_TIMEOUT.into_response(),
            Err(Unread::Broken) => return StatusCode::BAD_REQUEST.into_response(),
        },
    };
    let mut location = format!("/stats;st={}", outcome.word());
    location += if options.up { ";up" } else { "" };
    if !options.scope.is_empty() {
        location += &format!("?scope={}", options.scope);
    }
    (StatusCode::SEE_OTHER, fresh("text/plain"), [(LOCATION, location)]).into_response()
}

async fn submit(node: &Node, visitor: &Visitor, text: &[u8]) -> Outcome {
    let (backend, action, servers) = match Form::parse(text, |name| find(&node.view.snapshot(), name)) {
        Ok(Form { backend: Some(backend), action: Some(action), servers }) => (backend, action, servers),
        Ok(_) => return Outcome::None,
        Err(outcome) => return outcome,
    };
    let (mut named, mut changed) = (0, 0);
    for name in servers {
        match server(&node.view.snapshot(), backend, &name).map(|server| action.wish(server)) {
            None => named += 1,
            Some(None) => {}
            Some(Some(wanted)) => {
                named += 1;
                changed += usize::from(node.wish(visitor, wanted).await.is_ok());
            }
        }
    }
    Outcome::of(named, changed)
}

/// The position of a backend by its name or by `#` and its number.
fn find(snapshot: &Snapshot, name: &str) -> Option<usize> {
    match numbered(name) {
        Some(number) => numbers(snapshot).1.iter().position(|iid| *iid == number),
        None => snapshot.backends.iter().position(|backend| backend.config.name == name),
    }
}

/// A server of a backend as the form sees it.
#[derive(Clone, Copy, Debug)]
struct Named {
    id: NameHash,
    admin: Admin,
    is_checked: bool,
}

fn server(snapshot: &Snapshot, backend: usize, name: &str) -> Option<Named> {
    let of = &snapshot.backends.get(backend)?.config;
    let id = of.servers.iter().find(|server| server.name == name)?.id;
    Some(Named { id, admin: snapshot.servers[snapshot.server(id)?].state.admin, is_checked: of.check.is_some() })
}

/// What the form's button says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// As said, whatever it is now.
    Set(Admin),
    /// The words of old: from the second to the first, and nothing to whom that is not so.
    Disable,
    Enable,
    Stop,
    Start,
    /// As if a check had found it so.
    Health(Health),
    /// HAProxy's alone.
    Nothing,
}

impl Action {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "ready" => Self::Set(Admin::Ready),
            "drain" => Self::Set(Admin::Drain),
            "maint" => Self::Set(Admin::Maint),
            "disable" => Self::Disable,
            "enable" => Self::Enable,
            "stop" => Self::Stop,
            "start" => Self::Start,
            "hrunn" => Self::Health(Health::Up),
            "hnolb" => Self::Health(Health::Resting(Rest::Check)),
            "hdown" => Self::Health(Health::Down),
            "shutdown" | "dhlth" | "ehlth" | "dagent" | "eagent" | "arunn" | "adown" => Self::Nothing,
            _ => return None,
        })
    }

    /// What is wished for a server; `None`: nothing.
    fn wish(self, Named { id, admin: now, is_checked }: Named) -> Option<Wish> {
        let admin = match self {
            Self::Set(admin) => Some(admin),
            Self::Disable => (now != Admin::Maint).then_some(Admin::Maint),
            Self::Enable => (now == Admin::Maint).then_some(Admin::Ready),
            Self::Stop => (now != Admin::Drain).then_some(Admin::Drain),
            Self::Start => (now == Admin::Drain).then_some(Admin::Ready),
            Self::Health(health) => return is_checked.then_some(Wish::Health { server: id, health }),
            Self::Nothing => None,
        };
        admin.map(|admin| Wish::Admin { server: id, admin })
    }
}

/// The fields of a form that count.
#[derive(Debug, Default, PartialEq, Eq)]
struct Form {
    /// Its position.
    backend: Option<usize>,
    action: Option<Action>,
    servers: Vec<String>,
}

impl Form {
    /// Reads from the end, as HAProxy does: the last `b` and the last `action` count, and whatever is wrong before them.
    /// What stands before a field that cannot be decoded is not read.
    fn parse(text: &[u8], backend: impl Fn(&str) -> Option<usize>) -> Result<Self, Outcome> {
        let mut form = Self::default();
        for field in text.rsplit(|b| *b == b'&') {
            if field.len() > LONGEST_FIELD {
                return Err(Outcome::Wrong);
            }
            let end = field.iter().position(|b| *b == b'=').unwrap_or(field.len());
            let (key, value) = (&field[..end], field.get(end + 1..).unwrap_or_default());
            let (Some(key), Some(value)) = (decode(key), decode(value)) else { break };
            match key.as_str() {
                "b" if form.backend.is_none() => form.backend = Some(backend(&value).ok_or(Outcome::Wrong)?),
                "action" if form.action.is_none() => form.action = Some(Action::of(&value).ok_or(Outcome::Wrong)?),
                "s" => form.servers.push(value),
                _ => {}
            }
        }
        Ok(form)
    }
}

/// Decodes `+` and `%41`; ends where a zero octet stands, as a text of C does. `None` where it is no text so written.
pub(super) fn decode(written: &[u8]) -> Option<String> {
    let (mut text, mut rest) = (Vec::with_capacity(written.len()), written);
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let octet = match first {
            b'+' => b' ',
            b'%' => {
                let digit = |at: usize| rest.get(at).and_then(|b| char::from(*b).to_digit(16));
                let octet = (digit(0)? << 4 | digit(1)?) as u8;
                rest = &rest[2..];
                octet
            }
            octet => *octet,
        };
        if octet == 0 {
            break;
        }
        text.push(octet);
    }
    // Names of backends and servers are plain letters: whatever is none of them finds nobody.
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Form, Outcome> {
        Form::parse(text.as_bytes(), |name| ["pbx", "#7"].iter().position(|known| *known == name))
    }

    #[test]
    fn the_last_of_each_counts_and_servers_are_all_that_stand_there() {
        let form = parse("s=one&s=t%77o&action=maint&action=ready&b=nobody&b=pbx&s=th+ree&x=y&s").unwrap();
        assert_eq!((form.backend, form.action), (Some(0), Some(Action::Set(Admin::Ready))));
        assert_eq!(form.servers, ["", "th ree", "two", "one"]);
        assert_eq!(parse("").unwrap(), Form::default());
        assert_eq!(parse("s=one%4&action=ready&b=%23%37").unwrap().servers, [""; 0], "what cannot be decoded ends it");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for text in ["s=one&action=ready&b=nobody", "s=one&action=bogus&b=pbx", "action=READY&b=pbx"] {
            assert_eq!(parse(text), Err(Outcome::Wrong), "{text}");
        }
        let long = |octets: usize| format!("s={}&action=ready&b=pbx", "x".repeat(octets - 2));
        assert!(parse(&long(LONGEST_FIELD)).is_ok());
        assert_eq!(parse(&long(LONGEST_FIELD + 1)), Err(Outcome::Wrong));
        let count = |named, changed| Outcome::of(named, changed).word();
        assert_eq!([count(0, 0), count(2, 0), count(2, 1), count(2, 2)], ["NONE", "ERRP", "PART", "DONE"]);
    }

    proptest! {
        #[test]
        fn any_form_is_read(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Form::parse(&text, |_| None);
        }

        #[test]
        fn what_is_encoded_comes_out_as_it_went_in(text in "[ -~]{0,40}") {
            let encoded: String = text.bytes().map(|b| format!("%{b:02X}")).collect();
            prop_assert_eq!(decode(encoded.as_bytes()), Some(text));
        }
    }
}
