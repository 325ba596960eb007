//! Who somebody is, and what they may do. A password costs argon2id, whoever guesses: one is verified at a time, a few wait,
//! and who was right is known for some minutes. Each source gets its next turn later than the one before until it was right.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use argon2::Argon2;
use argon2::password_hash::{PasswordVerifier, phc::PasswordHash};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use siphasher::sip128::{Hasher128, SipHasher24};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::{Node, Peer};
use crate::admin::Who;
use crate::config::admin::{Http, Identity, Role, User, base64};

/// Passwords that wait for the one that is verified; more are told to come again.
const QUEUE: usize = 8;
/// So long it is known who was right.
const KNOWN: Duration = Duration::from_secs(5 * 60);
/// From a source's first try to its next; each further one waits twice as long, up to [`LONGEST_DELAY`].
const DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(4);
/// Whoever would wait longer for a turn is told to come again.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// After so long without a try a source begins anew.
const FORGIVEN: Duration = Duration::from_secs(5 * 60);
/// Sources that are remembered; the one whose next turn is the earliest makes room.
const SOURCES: usize = 1024;

/// What HAProxy says to who is not logged in.
const LOG_IN: &str = "<html><body><h1>401 Unauthorized</h1>\nYou need a valid user and password to access this content.\n</body></html>\n";

/// Somebody who was let in.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// `None` where nobody need log in.
    pub user: Option<Arc<str>>,
    pub role: Role,
    pub from: SocketAddr,
}

impl Visitor {
    pub fn may(&self, role: Role) -> bool {
        self.role >= role
    }

    /// For the log.
    pub fn who(&self) -> Who {
        Who::Http { user: self.user.clone().unwrap_or_else(|| "nobody".into()), from: self.from }
    }
}

/// Handlers behind the log-in take it as an argument.
impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        parts.extensions.get::<Self>().cloned().ok_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// Lets in who may come in, and notes who it is.
pub async fn log_in(State(node): State<Arc<Node>>, mut request: Request, next: Next) -> Response {
    let Some(Peer(from)) = request.extensions().get().copied() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let visitor = match node.auth.visitor(request.headers(), from).await {
        Ok(visitor) => visitor,
        Err(refused) => return refused.answer(node.auth.identity()),
    };
    if request.method() == Method::POST && !is_own_page(request.headers()) {
        return (StatusCode::FORBIDDEN, "This was sent by a page of another site.\n").into_response();
    }
    request.extensions_mut().insert(visitor);
    next.run(request).await
}

/// Browsers send the password with what a page of any site makes them send, and say which. Tools say nothing.
fn is_own_page(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match (text("sec-fetch-site"), text(ORIGIN.as_str()), text(HOST.as_str())) {
        (Some(site), ..) => matches!(site, "same-origin" | "none"),
        (None, Some(origin), host) => {
            origin.split_once("://").map(|(_, host)| host).is_some_and(|own| Some(own) == host)
        }
        (None, None, _) => true,
    }
}

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nobody, or not with this password.
    Wrong,
    /// Too many are trying.
    Busy,
}

impl Refused {
    fn answer(self, identity: Identity) -> Response {
        let realm = match identity {
            Identity::Haproxy => "Basic realm=\"HAProxy Statistics\"",
            Identity::Native => "Basic realm=\"Trunkline\"",
        };
        let fresh = (CACHE_CONTROL, "no-cache");
        match self {
            Self::Wrong => {
                let headers = [fresh, (CONTENT_TYPE, "text/html"), (WWW_AUTHENTICATE, realm)];
                (StatusCode::UNAUTHORIZED, headers, LOG_IN).into_response()
            }
            Self::Busy => {
                let text = "Too many passwords are being tried; come again.\n";
                (StatusCode::SERVICE_UNAVAILABLE, [fresh, (RETRY_AFTER, "10")], text).into_response()
            }
        }
    }
}

/// Who may log in, as one configuration has it; what was found out goes with it.
struct Users {
    users: Vec<User>,
    identity: Identity,
    /// Of the hash by which passwords that were right are known: not even their argon2id is kept.
    key: [u8; 16],
    /// Positions in `users`, each until when.
    known: Mutex<HashMap<u128, (usize, Instant)>>,
}

/// The doorkeeper.
pub struct Auth {
    users: ArcSwap<Users>,
    key: [u8; 16],
    turns: Turns,
    one: Arc<Semaphore>,
    queue: Arc<Semaphore>,
    /// Somebody was right: whoever waits with the same password need not be verified.
    right: Notify,
    /// How often argon2id was computed.
    verified: AtomicU64,
    /// How often the users changed.
    changed: AtomicU64,
}

impl Auth {
    /// `key` is random.
    pub fn new(key: [u8; 16]) -> Self {
        Self {
            users: ArcSwap::from_pointee(Users::new(None, key)),
            key,
            turns: Turns::default(),
            one: Arc::new(Semaphore::new(1)),
            queue: Arc::new(Semaphore::new(QUEUE)),
            right: Notify::new(),
            verified: AtomicU64::new(0),
            changed: AtomicU64::new(0),
        }
    }

    /// Takes another configuration. Whoever is known stays so where the users are the same.
    pub fn change(&self, http: Option<&Http>) {
        let users = Users::new(http, self.key);
        let now = self.users.load();
        if (&users.users, users.identity) != (&now.users, now.identity) {
            self.users.store(Arc::new(users));
            self.changed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Another number with each change of the users: who was let in before must be asked again.
    pub fn changes(&self) -> u64 {
        self.changed.load(Ordering::Relaxed)
    }

    pub fn identity(&self) -> Identity {
        self.users.load().identity
    }

    /// How often a password was verified since the start.
    pub fn verified(&self) -> u64 {
        self.verified.load(Ordering::Relaxed)
    }

    /// Who sends these headers.
    ///
    /// # Errors
    /// Where they have no password, or a wrong one, or too many are being tried.
    pub async fn visitor(&self, headers: &HeaderMap, from: SocketAddr) -> Result<Visitor, Refused> {
        let users = self.users.load_full();
        if users.users.is_empty() {
            return Ok(Visitor { user: None, role: Role::Viewer, from });
        }
        let (name, password) = credentials(headers).ok_or(Refused::Wrong)?;
        let at = self.verify(&users, from.ip(), name.clone(), password).await.inspect_err(|refused| {
            // Not more often than there are turns.
            if *refused == Refused::Wrong {
                let name: String = name.chars().take(64).collect();
                tracing::warn!(user = ?name, %from, "log-in refused");
            }
        })?;
        let user = &users.users[at];
        Ok(Visitor { user: Some(user.name.as_str().into()), role: user.role, from })
    }

    /// The position of the user whose password this is.
    async fn verify(&self, users: &Arc<Users>, from: IpAddr, name: String, password: String) -> Result<usize, Refused> {
        let mac = users.mac(&name, &password);
        if let Some(at) = users.known(mac) {
            return Ok(at);
        }
        let turn = self.turns.next(from).ok_or(Refused::Busy)?;
        while turn > Instant::now() {
            tokio::select! {
                () = sleep_until(turn) => {}
                () = self.right.notified() => {}
            }
            if let Some(at) = users.known(mac) {
                return Ok(at);
            }
        }
        let queued = Arc::clone(&self.queue).try_acquire_owned().map_err(|_| Refused::Busy)?;
        let alone = Arc::clone(&self.one).acquire_owned().await.map_err(|_| Refused::Busy)?;
        if let Some(at) = users.known(mac) {
            return Ok(at);
        }
        self.verified.fetch_add(1, Ordering::Relaxed);
        let asked = Arc::clone(users);
        // Nothing stops it when whoever asked has left: it has the places until it is done, and then until it is known who was right.
        let find = move || (asked.find(&name, &password), (queued, alone));
        let (found, _places) = tokio::task::spawn_blocking(find).await.map_err(|_| Refused::Busy)?;
        if !Arc::ptr_eq(users, &self.users.load()) {
            // Somebody else may have the name now.
            return Err(Refused::Busy);
        }
        let at = found.ok_or(Refused::Wrong)?;
        users.lock().insert(mac, (at, Instant::now() + KNOWN));
        self.turns.forget(from);
        self.right.notify_waiters();
        Ok(at)
    }
}

impl Users {
    fn new(http: Option<&Http>, key: [u8; 16]) -> Self {
        let users = http.map_or_else(Vec::new, |http| http.users.clone());
        let identity = http.map_or_else(Identity::default, |http| http.identity);
        Self { users, identity, key, known: Mutex::default() }
    }

    /// No name has a colon.
    fn mac(&self, name: &str, password: &str) -> u128 {
        let mut hash = SipHasher24::new_with_key(&self.key);
        std::hash::Hasher::write(&mut hash, format!("{name}:{password}").as_bytes());
        hash.finish128().as_u128()
    }

    /// At most one password of each user is right, so there are no more of them than users.
    fn lock(&self) -> MutexGuard<'_, HashMap<u128, (usize, Instant)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, mac: u128) -> Option<usize> {
        let known = self.lock().get(&mac).copied();
        known.filter(|(_, until)| *until > Instant::now()).map(|(at, _)| at)
    }

    /// Computes argon2id. A name that nobody has costs as much as a wrong password.
    fn find(&self, name: &str, password: &str) -> Option<usize> {
        let named = self.users.iter().position(|user| user.name == name);
        let hash = &self.users.get(named.unwrap_or(0))?.password_hash;
        let hash = PasswordHash::new(hash).ok()?;
        let is_right = Argon2::default().verify_password(password.as_bytes(), &hash).is_ok();
        named.filter(|_| is_right)
    }
}

/// Name and password (RFC 7617).
fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, sent) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let text = String::from_utf8(base64(sent.trim().trim_end_matches('='))?).ok()?;
    let (name, password) = text.split_once(':')?;
    scheme.eq_ignore_ascii_case("basic").then(|| (name.to_owned(), password.to_owned()))
}

/// When each source may try its next password.
#[derive(Default)]
struct Turns(Mutex<HashMap<IpAddr, Turn>>);

#[derive(Clone, Copy)]
struct Turn {
    tries: u32,
    next: Instant,
}

impl Turns {
    /// When this try's turn is; `None` where that is too long to wait for.
    fn next(&self, from: IpAddr) -> Option<Instant> {
        let (mut turns, now, from) = (self.lock(), Instant::now(), source(from));
        if turns.len() >= SOURCES && !turns.contains_key(&from) {
            let oldest = turns.iter().min_by_key(|(_, turn)| turn.next).map(|(from, _)| *from);
            oldest.and_then(|oldest| turns.remove(&oldest));
        }
        let fresh = Turn { tries: 0, next: now };
        let turn = turns.entry(from).or_insert(fresh);
        if turn.next + FORGIVEN < now {
            *turn = fresh;
        }
        let at = turn.next.max(now);
        if at - now > LONGEST_WAIT {
            return None;
        }
        let delay = (DELAY * (1 << turn.tries.min(10))).min(LONGEST_DELAY);
        *turn = Turn { tries: turn.tries + 1, next: at + delay };
        Some(at)
    }

    fn forget(&self, from: IpAddr) {
        self.lock().remove(&source(from));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Turn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever has one IPv6 address has a network of them.
pub(super) fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests;
