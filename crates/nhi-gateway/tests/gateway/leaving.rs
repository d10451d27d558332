//! A cookie whose session is over opens no door, whichever: the doors are read from the router itself, so that a new one
//! is tried as well. Long answers that were under way are looked at beside their own doors.

use crate::{
    house::{House, SOON},
    session::{Browser, sign_in},
};
use nhi_model::identity::Role;
use nhi_testkit::wait_for;
use std::collections::BTreeSet;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const SOURCE: &str = include_str!("../../src/lib.rs");
/// What is there for whoever comes: a cookie makes no difference.
const OPEN: &[(&str, &str)] = &[
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/.well-known/oauth-protected-resource"),
    ("GET", "/.well-known/oauth-protected-resource/mcp"),
    ("GET", "/api/version"),
    ("POST", "/session"),
];
/// Sessions of one identity at once, fewer than one may have.
const EACH: usize = 12;

type Door = (&'static str, String);

/// Every path of the router with every method it takes.
fn doors() -> Vec<Door> {
    let (_, router) = SOURCE.split_once("fn router(").unwrap();
    let (routes, _) = router.split_once(".fallback(").unwrap();
    let mut doors = Vec::new();
    for route in routes.split(".route(").skip(1) {
        let (path, methods) = route.split_once(',').unwrap();
        let path = match path.trim() {
            "mcp::METADATA_PATH" => "/.well-known/oauth-protected-resource",
            path => path.strip_prefix('"').and_then(|path| path.strip_suffix('"')).unwrap(),
        };
        let path =
            path.replace("{service}/{endpoint}", "kettle/tell").replace("{*call}", "small:generateContent");
        assert!(path.starts_with('/') && !path.contains('{'), "{path}: what is to be asked there?");
        let takes = |method: &str| methods.contains(&format!("{method}(")) || methods.contains("any(");
        let methods = ["get", "post", "put", "patch", "delete"].into_iter().filter(|method| takes(method));
        let before = doors.len();
        doors.extend(methods.map(|method| (told(method), path.clone())));
        assert!(doors.len() > before, "{path} takes no method that is known here: {route}");
    }
    for other in [".nest(", ".merge(", ".route_service(", ".nest_service("] {
        assert!(!routes.contains(other), "{other}…) may have doors that are not tried");
    }
    doors
}

fn told(method: &str) -> &'static str {
    match method {
        "get" => "GET",
        "post" => "POST",
        "put" => "PUT",
        "patch" => "PATCH",
        _ => "DELETE",
    }
}

/// The status of an answer; the answer may never end.
async fn status(house: &House, (method, path): &Door, browser: Option<&Browser>) -> u16 {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\n", house.addr.port());
    if let Some(Browser { cookie, csrf }) = browser {
        head.push_str(&format!("Cookie: {cookie}\r\nX-Nhi-Csrf: {csrf}\r\n"));
    }
    head.push_str("Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n");
    let mut stream = TcpStream::connect(house.addr).await.unwrap();
    stream.write_all(format!("{head}Content-Length: 2\r\n\r\n{{}}").as_bytes()).await.unwrap();
    let mut line = [0; "HTTP/1.1 200".len()];
    let read = tokio::time::timeout(SOON, stream.read_exact(&mut line)).await;
    read.unwrap_or_else(|_| panic!("{method} {path} is not answered")).unwrap();
    str::from_utf8(&line[9..]).unwrap().parse().unwrap()
}

fn is_open((method, path): &Door) -> bool {
    OPEN.contains(&(*method, path.as_str()))
}

#[tokio::test]
async fn whoever_signed_out_finds_every_door_shut() {
    let house = House::open().await;
    let doors = doors();
    for door in &doors {
        let browser = sign_in(&house, "owner").await;
        assert_ne!(status(&house, door, Some(&browser)).await, 401, "the control: {door:?}");
        let out = ("DELETE", "/session".to_owned());
        let left = status(&house, &out, Some(&browser)).await;
        assert!(left == 204 || *door == out, "{left}");
        let after = status(&house, door, Some(&browser)).await;
        let stranger = if is_open(door) { status(&house, door, None).await } else { 401 };
        assert_eq!(after, stranger, "{door:?}");
    }
    let paths: BTreeSet<&str> = doors.iter().map(|(_, path)| path.as_str()).collect();
    for kind in ["/mcp", "/events", "/mesh", "/mesh/kettle/tell", "/session", "/metrics", "/openapi.json"] {
        assert!(paths.contains(kind), "the router was read: {paths:?}");
    }
    for (method, path) in OPEN {
        assert!(doors.contains(&(method, (*path).to_owned())), "{path} is a door");
    }
    house.close().await;
}

#[tokio::test]
async fn whoever_was_revoked_finds_every_door_shut() {
    let house = House::open().await;
    let doors: Vec<Door> = doors().into_iter().filter(|door| !is_open(door)).collect();
    let mut browsers = Vec::new();
    let shares: Vec<(String, &[Door])> =
        doors.chunks(EACH).enumerate().map(|(n, doors)| (format!("agent-{n}"), doors)).collect();
    for (who, _) in &shares {
        house.nats.add(who, Role::Agent).await;
    }
    for (who, doors) in &shares {
        // Each door meets a cookie that no other has refused before.
        for door in *doors {
            browsers.push((door, sign_in(&house, who).await));
        }
    }
    let owner = sign_in(&house, "owner").await;
    let whoami = ("GET", "/session".to_owned());
    for (_, browser) in &browsers {
        assert_eq!(status(&house, &whoami, Some(browser)).await, 200, "the control: it is a session");
    }
    for (who, _) in &shares {
        house.nats.revoke(who).await;
    }
    for (door, browser) in &browsers {
        // nats-server closes the connection at once, which takes its time to be seen here.
        wait_for(&format!("{door:?} to be shut"), SOON, async || {
            match status(&house, door, Some(browser)).await {
                401 => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }
    assert_eq!(status(&house, &whoami, Some(&owner)).await, 200, "the control: others stay");
    house.close().await;
}
