//! Passwords without sockets; time stands still unless somebody waits.

use argon2::password_hash::PasswordHasher;
use argon2::{Algorithm, Params, Version};

use super::*;

/// As cheap as argon2id may be.
fn hash(password: &str) -> String {
    let cheap = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    cheap.hash_password(password.as_bytes()).unwrap().to_string()
}

fn user(name: &str, password: &str, role: Role) -> User {
    User { name: name.to_owned(), password_hash: hash(password), role }
}

fn http(users: Vec<User>) -> Http {
    Http { stats: None, health: None, metrics: None, users, identity: Identity::Haproxy }
}

fn auth() -> (Auth, Http) {
    let auth = Auth::new([7; 16]);
    let users = http(vec![user("ada", "secret", Role::Admin), user("tv", "look", Role::Viewer)]);
    auth.change(Some(&users));
    (auth, users)
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

/// `Authorization` as a browser sends it.
fn basic(name: &str, password: &str) -> HeaderMap {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = format!("{name}:{password}");
    let mut encoded = String::new();
    for three in text.as_bytes().chunks(3) {
        let bits = three.iter().fold(0u32, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - three.len()));
        encoded.extend((0..=three.len()).map(|at| char::from(LETTERS[(bits >> (18 - 6 * at) & 63) as usize])));
        encoded.extend((three.len()..3).map(|_| '='));
    }
    headers(&[("authorization", &format!("Basic {encoded}"))])
}

fn from(n: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, n], 40_000))
}

/// Asks once.
async fn ask(auth: &Auth, name: &str, password: &str, n: u8) -> Result<Role, Refused> {
    auth.visitor(&basic(name, password), from(n)).await.map(|visitor| visitor.role)
}

/// Asks at the same time, once for each.
async fn ask_all(
    auth: &Arc<Auth>,
    asked: impl Iterator<Item = (&'static str, String, u8)>,
) -> Vec<Result<Role, Refused>> {
    let mut tasks = tokio::task::JoinSet::new();
    for (name, password, n) in asked {
        let auth = Arc::clone(auth);
        tasks.spawn(async move { ask(&auth, name, &password, n).await });
    }
    tasks.join_all().await
}

#[tokio::test(start_paused = true)]
async fn who_was_right_is_known_for_some_minutes() {
    let (auth, _) = auth();
    assert_eq!(auth.visitor(&HeaderMap::new(), from(1)).await.unwrap_err(), Refused::Wrong);
    assert_eq!(auth.verified(), 0, "nothing was tried");
    for _ in 0..5 {
        assert_eq!(ask(&auth, "ada", "secret", 1).await, Ok(Role::Admin));
        assert_eq!(ask(&auth, "tv", "look", 2).await, Ok(Role::Viewer));
    }
    assert_eq!(auth.verified(), 2);
    assert_eq!(ask(&auth, "ada", "look", 3).await, Err(Refused::Wrong));
    assert_eq!(ask(&auth, "nobody", "secret", 4).await, Err(Refused::Wrong));
    assert_eq!(auth.verified(), 4, "a name that nobody has costs as much");
    tokio::time::advance(KNOWN).await;
    assert_eq!(ask(&auth, "ada", "secret", 1).await, Ok(Role::Admin));
    assert_eq!(auth.verified(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_guesses_waits_longer_each_time() {
    let (auth, _) = auth();
    let begin = Instant::now();
    let mut turns = Vec::new();
    for n in 0..8 {
        assert_eq!(ask(&auth, "ada", &format!("guess-{n}"), 1).await, Err(Refused::Wrong));
        turns.push((Instant::now() - begin).as_millis());
    }
    assert_eq!(turns, [0, 250, 750, 1_750, 3_750, 7_750, 11_750, 15_750]);
    // Another source does not wait for this one, and one that was right begins anew.
    let before = Instant::now();
    assert_eq!(ask(&auth, "ada", "secret", 2).await, Ok(Role::Admin));
    assert_eq!(ask(&auth, "tv", "wrong", 2).await, Err(Refused::Wrong));
    assert_eq!(Instant::now(), before);
}

#[tokio::test(start_paused = true)]
async fn guesses_at_the_same_time_take_turns_too() {
    let (auth, _) = auth();
    let auth = Arc::new(auth);
    let answers = ask_all(&auth, (0..40).map(|n| ("ada", format!("guess-{n}"), 1))).await;
    let busy = answers.iter().filter(|answer| **answer == Err(Refused::Busy)).count();
    assert_eq!((auth.verified(), busy), (6, 34), "as many as have a turn within ten seconds");
    assert!(answers.iter().all(Result::is_err));
}

#[tokio::test(start_paused = true)]
async fn guesses_from_everywhere_are_verified_one_after_the_other() {
    let (auth, _) = auth();
    let auth = Arc::new(auth);
    let held = auth.one.acquire().await.unwrap();
    let all_wait = async {
        // Time goes on when nobody has anything to do.
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(held);
    };
    let (answers, ()) = tokio::join!(ask_all(&auth, (0..100).map(|n| ("ada", "guess".to_owned(), n))), all_wait);
    let busy = answers.iter().filter(|answer| **answer == Err(Refused::Busy)).count();
    assert_eq!((auth.verified(), busy), (QUEUE as u64, 100 - QUEUE));
}

/// What is computed cannot be stopped, so whoever asked and left has the turn until it is done.
#[test]
fn who_asked_and_left_has_the_turn_until_it_is_done() {
    // One thread computes, and is kept busy until there was time to look.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_time().build().unwrap();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    runtime.spawn_blocking(move || wait.recv());
    runtime.block_on(async {
        let auth = Arc::new(auth().0);
        let asked = Arc::clone(&auth);
        let who_leaves = tokio::spawn(async move { ask(&asked, "ada", "guess", 1).await });
        while auth.verified() == 0 {
            tokio::task::yield_now().await;
        }
        who_leaves.abort();
        assert!(who_leaves.await.unwrap_err().is_cancelled());
        let free = || (auth.one.available_permits(), auth.queue.available_permits());
        assert_eq!(free(), (0, QUEUE - 1));
        drop(go_on);
        assert_eq!(ask(&auth, "ada", "secret", 2).await, Ok(Role::Admin), "the next one, when it is done");
        assert_eq!(free(), (1, QUEUE));
    });
}

#[tokio::test(start_paused = true)]
async fn a_browser_with_many_requests_is_verified_once() {
    let (auth, _) = auth();
    let (auth, begin) = (Arc::new(auth), Instant::now());
    let answers = ask_all(&auth, (0..6).map(|_| ("ada", "secret".to_owned(), 1))).await;
    assert_eq!(answers, [Ok(Role::Admin); 6]);
    assert_eq!((auth.verified(), Instant::now() - begin), (1, Duration::ZERO), "nobody waited for a turn");
}

#[tokio::test(start_paused = true)]
async fn other_users_count_at_once_and_the_same_ones_stay_known() {
    let (auth, users) = auth();
    assert_eq!(ask(&auth, "ada", "secret", 1).await, Ok(Role::Admin));
    auth.change(Some(&Http { stats: Some(from(1)), ..users.clone() }));
    assert_eq!(ask(&auth, "ada", "secret", 1).await, Ok(Role::Admin));
    assert_eq!(auth.verified(), 1);
    let mut fewer = users.clone();
    fewer.users[0].role = Role::Viewer;
    auth.change(Some(&fewer));
    assert_eq!(ask(&auth, "ada", "secret", 1).await, Ok(Role::Viewer));
    fewer.users.remove(0);
    auth.change(Some(&fewer));
    assert_eq!(ask(&auth, "ada", "secret", 1).await, Err(Refused::Wrong));
    auth.change(None);
    let visitor = auth.visitor(&HeaderMap::new(), from(1)).await.unwrap();
    assert_eq!((visitor.user, visitor.role), (None, Role::Viewer), "without users everybody may look");
}

#[tokio::test(start_paused = true)]
async fn sources_are_forgotten_before_there_are_too_many() {
    let turns = Turns::default();
    let ip = |n: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(n));
    for _ in 0..5 {
        turns.next(ip(1)).unwrap();
    }
    (2..5_000).for_each(|n| assert!(turns.next(ip(n)).is_some()));
    assert_eq!(turns.lock().len(), SOURCES);
    assert!(turns.next(ip(1)).unwrap() > Instant::now(), "who has to wait longest is remembered longest");
    tokio::time::advance(FORGIVEN + LONGEST_WAIT).await;
    assert_eq!(turns.next(ip(1)), Some(Instant::now()));
    let v6 = |n: u128| IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8 << 96 | n));
    assert!(turns.next(v6(1)).unwrap() < turns.next(v6(2)).unwrap(), "a network of IPv6 is one source");
}

#[test]
fn only_the_own_page_may_post() {
    for (own, sent) in [
        (true, &[("host", "edge:8404")][..]),
        (true, &[("host", "edge:8404"), ("origin", "http://edge:8404")]),
        (true, &[("host", "edge:8404"), ("origin", "http://evil"), ("sec-fetch-site", "same-origin")]),
        (true, &[("sec-fetch-site", "none")]),
        (false, &[("host", "edge:8404"), ("origin", "http://edge:80")]),
        (false, &[("host", "edge:8404"), ("origin", "null")]),
        (false, &[("origin", "http://evil")]),
        (false, &[("host", "edge:8404"), ("origin", "http://edge:8404"), ("sec-fetch-site", "cross-site")]),
        (false, &[("host", "edge:8404"), ("sec-fetch-site", "same-site")]),
    ] {
        assert_eq!(is_own_page(&headers(sent)), own, "{sent:?}");
    }
}

#[test]
fn credentials_are_read_as_browsers_write_them() {
    for (name, password) in [("ada", "secret"), ("ada", "a:b"), ("", ""), ("ü", "ß")] {
        assert_eq!(credentials(&basic(name, password)), Some((name.to_owned(), password.to_owned())));
    }
    for sent in ["", "Basic", "Basic !!!!", "Basic YWRh", "Bearer YWRhOnNlY3JldA==", "Basic /////w=="] {
        assert_eq!(credentials(&headers(&[("authorization", sent)])), None, "{sent}");
    }
    assert!(credentials(&headers(&[("authorization", "bASIC  YWRhOnNlY3JldA")])).is_some());
}
