//! Sessions as browsers have them: what a cookie opens, what it does not open without more, and when it opens nothing.

use crate::house::{Answer, House, SOON};
use nhi_bus::keys::Seed;
use nhi_model::identity::Role;
use nhi_testkit::wait_for;
use serde_json::json;

/// Somebody who is signed in.
pub(crate) struct Browser {
    pub(crate) cookie: String,
    pub(crate) csrf: String,
}

pub(crate) async fn sign_in(house: &House, who: &str) -> Browser {
    let answer = house.send("POST", "/session", &[], &json!({"key": house.seed(who)}).to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    assert_eq!(told["name"], who);
    Browser { cookie: cookie(&answer), csrf: told["csrf"].as_str().unwrap().to_owned() }
}

/// What a browser would send back.
fn cookie(answer: &Answer) -> String {
    // The head is in small letters; the id is not.
    let head = answer.raw_head.lines().find(|line| line.to_ascii_lowercase().starts_with("set-cookie: "));
    head.unwrap()["set-cookie: ".len()..].split(';').next().unwrap().to_owned()
}

impl Browser {
    async fn send(&self, house: &House, method: &str, path: &str, more: &[(&str, &str)]) -> Answer {
        let mut headers = vec![("Cookie", self.cookie.as_str())];
        headers.extend_from_slice(more);
        let body = if method == "POST" { "{}" } else { "" };
        house.send(method, path, &headers, body).await
    }

    async fn is_in(&self, house: &House) -> bool {
        self.send(house, "GET", "/session", &[]).await.status == 200
    }
}

#[tokio::test]
async fn a_key_is_exchanged_for_a_cookie_that_is_the_caller() {
    let house = House::open().await;
    let answer = house.send("POST", "/session", &[], &json!({"key": house.seed("owner")}).to_string()).await;
    let head = answer.head.lines().find(|line| line.starts_with("set-cookie")).unwrap();
    for word in ["nhi-session=", "; httponly", "; samesite=strict", "; path=/", "; max-age=43200"] {
        assert!(head.contains(word), "{word}: {head}");
    }
    assert!(!head.contains("secure"), "plain HTTP on loopback: {head}");
    assert!(cookie(&answer).len() >= "nhi-session=".len() + 43, "256 bits");
    let told = answer.json();
    assert_eq!((&told["name"], &told["role"]), (&json!("owner"), &json!("owner")));
    let browser = Browser { cookie: cookie(&answer), csrf: told["csrf"].as_str().unwrap().to_owned() };
    let again = browser.send(&house, "GET", "/session", &[]).await;
    assert_eq!((again.status, again.json()), (200, told));
    let csrf = [("x-nhi-csrf", browser.csrf.as_str())];
    let answer = browser.send(&house, "POST", "/mesh/kettle/tell", &csrf).await;
    assert_eq!((answer.status, &answer.json()["caller"]), (200, &json!("owner")), "{answer:?}");
    house.close().await;
}

#[tokio::test]
async fn a_cookie_alone_changes_nothing() {
    let house = House::open().await;
    let (browser, other) = (sign_in(&house, "owner").await, sign_in(&house, "owner").await);
    for csrf in ["", "x", other.csrf.as_str()] {
        let answer = browser.send(&house, "POST", "/mesh/kettle/tell", &[("x-nhi-csrf", csrf)]).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{csrf:?}: {answer:?}");
    }
    let answer = browser.send(&house, "POST", "/mesh/kettle/tell", &[]).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert_eq!(browser.send(&house, "DELETE", "/session", &[]).await.status, 403, "nor signs anybody out");
    let csrf = ("x-nhi-csrf", browser.csrf.as_str());
    let own = format!("http://localhost:{}", house.addr.port());
    for (origin, status) in [
        // The control: with what its own pages send it works.
        (own.as_str(), 200),
        ("http://evil.example", 403),
        ("null", 403),
        // A page that may call brings a key of its own; the cookie of ours is not its.
        ("https://pages.example", 401),
    ] {
        let answer = browser.send(&house, "POST", "/mesh/kettle/tell", &[csrf, ("Origin", origin)]).await;
        assert_eq!(answer.status, status, "{origin}: {answer:?}");
    }
    // A name that was made to point here reaches nothing, whatever the cookie.
    let rebound = format!(
        "GET /session HTTP/1.1\r\nHost: evil.example\r\nCookie: {}\r\nConnection: close\r\n\r\n",
        browser.cookie
    );
    assert_eq!(house.raw(&rebound).await.status, 403);
    // Whoever brings a key is that key's, and a bad one is not saved by a cookie.
    let answer =
        browser.send(&house, "POST", "/mesh/kettle/tell", &[csrf, ("Authorization", "Bearer x")]).await;
    assert_eq!(answer.status, 401, "{answer:?}");
    house.close().await;
}

#[tokio::test]
async fn a_session_that_is_over_opens_nothing_again() {
    let house = House::open().await;
    house.nats.add("aider", Role::Agent).await;
    let (first, second) = (sign_in(&house, "owner").await, sign_in(&house, "owner").await);
    let answer = first.send(&house, "DELETE", "/session", &[("x-nhi-csrf", &first.csrf)]).await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert!(answer.head.contains("max-age=0"), "{answer:?}");
    // Replayed, with everything that was ever known of it.
    let answer = first.send(&house, "POST", "/mesh/kettle/tell", &[("x-nhi-csrf", &first.csrf)]).await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{answer:?}");
    assert!(!first.is_in(&house).await && second.is_in(&house).await, "the control");

    // Signing in again ends what the browser had before.
    let body = json!({"key": house.seed("owner")}).to_string();
    let answer = house.send("POST", "/session", &[("Cookie", &second.cookie)], &body).await;
    let third = Browser { cookie: cookie(&answer), csrf: String::new() };
    assert!(!second.is_in(&house).await && third.is_in(&house).await);

    let agent = sign_in(&house, "aider").await;
    assert!(agent.is_in(&house).await);
    house.nats.revoke("aider").await;
    wait_for("the revoked session to be over", SOON, async || !agent.is_in(&house).await).await;
    assert!(third.is_in(&house).await, "the control");
    house.close().await;
}

#[tokio::test]
async fn what_is_no_sign_in_opens_no_session_and_is_not_repeated() {
    let house = House::open().await;
    let (stranger, owner) = (Seed::generate(), house.seed("owner"));
    let long = json!({"key": "S".repeat(5_000)}).to_string();
    for (body, status) in [
        (json!({"key": stranger.expose()}).to_string(), 401),
        (json!({"key": format!("{owner}X")}).to_string(), 401),
        (json!({"key": ""}).to_string(), 401),
        (json!(owner).to_string(), 400),
        (json!({"key": owner, "more": 1}).to_string(), 400),
        (format!("{{\"key\":\"{owner}"), 400),
        (long, 400),
    ] {
        let answer = house.send("POST", "/session", &[], &body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        let is_told = [owner.as_str(), stranger.expose()].iter().any(|key| answer.body.contains(&key[..20]));
        assert!(!answer.head.contains("set-cookie") && !is_told, "{answer:?}");
    }
    let twice = sign_in(&house, "owner").await;
    let cookies = format!("{}; nhi-session=x", twice.cookie);
    let answer = house.send("GET", "/session", &[("Cookie", &cookies)], "").await;
    assert_eq!(answer.status, 401, "with two nobody knows which is whose");
    let answer = house.send("GET", "/session", &[("Cookie", "nhi-session=x")], "").await;
    assert_eq!(answer.status, 401);
    house.close().await;
}

#[tokio::test]
async fn one_identity_cannot_fill_the_sessions() {
    let house = House::open().await;
    let mut browsers = Vec::new();
    for _ in 0..17 {
        browsers.push(sign_in(&house, "owner").await);
    }
    assert!(!browsers[0].is_in(&house).await, "the one that was not used for longest made room");
    assert!(browsers[1].is_in(&house).await && browsers[16].is_in(&house).await, "the control");
    house.close().await;
}
