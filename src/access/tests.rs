use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::header::AUTHORIZATION;

use super::hashing::MAX_WAITING;
use super::*;

/// Access rights with the users ann (password `right`) and ci (the returned token).
fn access() -> (Arc<Access>, String) {
    let (token, line) = token_line("ci").unwrap();
    let hash = bcrypt::hash("right", 4).unwrap();
    let users: Users = format!("ann:{hash}\n{line}\n").parse().unwrap();
    (Arc::new(Access::new(Some(users), Vec::new(), Readers::Authenticated).unwrap()), token)
}

fn login(user: &str, password: &str) -> HeaderMap {
    header(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
}

fn header(value: &str) -> HeaderMap {
    HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
}

fn user(name: &str) -> Result<Identity, Refusal> {
    Ok(Identity::User(name.into()))
}

fn address(n: u8) -> Option<IpAddr> {
    Some(IpAddr::from([127, 0, 0, n]))
}

#[tokio::test]
async fn each_way_to_prove_a_user_is_accepted() {
    let (access, token) = access();
    for (headers, expected) in [
        (HeaderMap::new(), Ok(Identity::Anonymous)),
        (login("ann", "right"), user("ann")),
        (login("ci", &token), user("ci")),
        (header(&format!("Bearer {token}")), user("ci")),
        (login("ann", "wrong"), Err(Refusal::WrongCredentials)),
        (login("Ann", "right"), Err(Refusal::WrongCredentials)),
        (login("ci", ""), Err(Refusal::WrongCredentials)),
        (login("ci", "right"), Err(Refusal::WrongCredentials)),
        (login("ann", &token), Err(Refusal::WrongCredentials)),
        (login("eve", "right"), Err(Refusal::WrongCredentials)),
        (header(&format!("Bearer {token}x")), Err(Refusal::WrongCredentials)),
        (header("Bearer right"), Err(Refusal::WrongCredentials)),
        (header("Bearer "), Err(Refusal::WrongCredentials)),
    ] {
        // Again: from the memory.
        for _ in 0..2 {
            assert_eq!(access.identify(&headers, None).await, expected, "{headers:?}");
        }
    }
}

#[tokio::test]
async fn an_unknown_user_is_hashed_too() {
    let (access, _) = access();
    let hashing = access.verifier.as_ref().unwrap().hashing();
    let mut hashes = 0;
    for (headers, more) in [
        (login("ann", "wrong"), 1),
        (login("eve", "wrong"), 1),
        (login("ci", "wrong"), 1),
        (login("ann", "right"), 1),
        // Remembered.
        (login("ann", "right"), 0),
        (login("ann", "wrong"), 0),
        (login("eve", "wrong"), 0),
        (header("Bearer 0123456789012345678901234567890123456789"), 0),
    ] {
        let _ = access.identify(&headers, None).await;
        hashes += more;
        assert_eq!(hashing.hashes(), hashes, "{headers:?}");
    }
}

#[tokio::test]
async fn a_storm_of_wrong_passwords_stops_no_verified_user() {
    let (access, token) = access();
    let hashing = access.verifier.as_ref().unwrap().hashing();
    assert_eq!(access.identify(&login("ann", "right"), address(1)).await, user("ann"));
    let storm: Vec<_> = (0..2 * MAX_WAITING)
        .map(|n| {
            let access = Arc::clone(&access);
            tokio::spawn(async move { access.identify(&login("ann", &n.to_string()), address(2)).await })
        })
        .collect();
    // The runtime of this test has one thread, so every question is asked before the next line goes on.
    tokio::task::yield_now().await;
    assert!(hashing.waiting() > 0 && hashing.waiting() <= MAX_WAITING);
    let before = hashing.hashes();
    for headers in [login("ann", "right"), login("ci", &token), header(&format!("Bearer {token}"))] {
        // Without waiting: the future is ready when it is polled for the first time.
        let mut identified = std::pin::pin!(access.identify(&headers, address(2)));
        let polled =
            std::future::poll_fn(|context| std::task::Poll::Ready(identified.as_mut().poll(context)));
        assert!(matches!(polled.await, std::task::Poll::Ready(Ok(Identity::User(_)))), "{headers:?}");
    }
    // Another address does not wait for the whole queue.
    assert_eq!(access.identify(&login("eve", "wrong"), address(1)).await, Err(Refusal::WrongCredentials));
    assert!(hashing.hashes() - before <= 4 + MAX_WAITING as u64 / 8, "{} {before}", hashing.hashes());
    let (mut wrong, mut busy) = (0, 0);
    for one in storm {
        match one.await.unwrap() {
            Err(Refusal::WrongCredentials) => wrong += 1,
            Err(Refusal::Busy) => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(busy > 0 && wrong > 0, "{wrong} {busy}");
}

#[tokio::test]
async fn a_replaced_password_counts_at_once() {
    let (access, token) = access();
    let cell = AccessCell::new(Arc::into_inner(access).unwrap());
    assert_eq!(cell.load().identify(&login("ann", "right"), None).await, user("ann"));
    let users: Users = format!("ann:{}\n", bcrypt::hash("new", 4).unwrap()).parse().unwrap();
    cell.replace(Access::new(Some(users), Vec::new(), Readers::Authenticated).unwrap());
    for headers in [login("ann", "right"), header(&format!("Bearer {token}"))] {
        assert_eq!(cell.load().identify(&headers, None).await, Err(Refusal::WrongCredentials), "{headers:?}");
    }
    assert_eq!(cell.load().identify(&login("ann", "new"), None).await, user("ann"));
}

#[test]
fn a_refusal_says_whether_a_login_would_help() {
    let readers = |names: &[&str]| Readers::of(names.iter().copied());
    let rule = |patterns: &str, names: &[&str]| AccessRule {
        patterns: Patterns::parse(patterns).ignoring_case(),
        readers: readers(names),
    };
    let rules = vec![rule("a.example", &["ann"]), rule("b.example", &["anyone"])];
    let access = Access::new(None, rules, readers(&[])).unwrap();
    let (nobody, ann, bob) =
        (Identity::Anonymous, Identity::User("ann".into()), Identity::User("bob".into()));
    let forbidden =
        |user: &str, what: &str| Err(Refusal::Forbidden { user: user.into(), what: what.to_owned() });
    for (module, of_nobody, of_ann, of_bob) in [
        (Some("a.example/x"), Err(Refusal::Unauthenticated), Ok(()), forbidden("bob", "a.example/x")),
        (Some("b.example/x"), Ok(()), Ok(()), Ok(())),
        (
            Some("c.example/x"),
            Err(Refusal::Unauthenticated),
            forbidden("ann", "c.example/x"),
            forbidden("bob", "c.example/x"),
        ),
        (None, Ok(()), Ok(()), Ok(())),
    ] {
        assert_eq!(access.check(&nobody, module), of_nobody);
        assert_eq!(access.check(&ann, module), of_ann);
        assert_eq!(access.check(&bob, module), of_bob);
    }
    let closed = Access::new(None, vec![rule("a.example", &["ann"])], readers(&[])).unwrap();
    assert_eq!(closed.check(&nobody, None), Err(Refusal::Unauthenticated));
    assert_eq!(closed.check(&ann, None), Ok(()));
    assert_eq!(closed.check(&bob, None), forbidden("bob", "modules of this proxy"));
}
