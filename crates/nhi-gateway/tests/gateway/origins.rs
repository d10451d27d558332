//! Requests that a web page of somebody else can cause: refused by their head, on every path, before anything of them
//! is read or believed. Each has the same request without its fault as control.

use crate::house::House;
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Every kind of path: open ones, a call, ones that are not there.
const PATHS: &[(&str, &str)] = &[
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("POST", "/mesh/kettle/tell"),
    ("GET", "/"),
    ("POST", "/v1/chat/completions"),
    ("OPTIONS", "/mesh/kettle/tell"),
    ("DELETE", "/nowhere"),
];

/// What such a page can make a browser send, and what is wrong with it.
const ATTACKS: &[(&str, &str)] = &[
    ("dns rebinding", "Host: evil.example:8000\r\n"),
    ("dns rebinding to a number", "Host: 203.0.113.9\r\n"),
    ("a name that looks like ours", "Host: localhost.evil.example\r\n"),
    ("no host", ""),
    ("two hosts", "Host: localhost\r\nHost: evil.example\r\n"),
    ("evil origin", "Host: localhost\r\nOrigin: https://evil.example\r\n"),
    ("another port of this machine", "Host: localhost:8000\r\nOrigin: http://localhost:3000\r\n"),
    ("sandboxed page", "Host: localhost\r\nOrigin: null\r\n"),
    ("no origin, but a browser on another site", "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n"),
    ("no origin, same site, other host", "Host: localhost\r\nSec-Fetch-Site: same-site\r\n"),
];

/// What must pass.
const GOOD: &[&str] = &[
    "Host: localhost\r\n",
    "Host: 127.0.0.1:8000\r\n",
    "Host: [::1]:8000\r\n",
    "Host: nhi.lan\r\n",
    "Host: localhost:8000\r\nOrigin: http://localhost:8000\r\nSec-Fetch-Site: same-origin\r\n",
    "Host: localhost\r\nOrigin: https://pages.example\r\nSec-Fetch-Site: cross-site\r\n",
    "Host: localhost\r\nSec-Fetch-Site: none\r\n",
];

#[tokio::test]
async fn other_sites_are_refused_on_every_path() {
    let house = House::open().await;
    let key = format!("Authorization: Bearer {}\r\n", house.seed("owner"));
    for (method, path) in PATHS {
        for (what, head) in ATTACKS {
            let request = format!("{method} {path} HTTP/1.1\r\n{head}{key}Connection: close\r\n\r\n");
            let answer = house.raw(&request).await;
            assert_eq!(answer.status, 403, "{what} on {method} {path}: {answer:?}");
            assert_eq!(answer.code(), "forbidden", "{what}");
        }
        for head in GOOD {
            let answer =
                house.raw(&format!("{method} {path} HTTP/1.1\r\n{head}{key}Connection: close\r\n\r\n")).await;
            assert_ne!(answer.status, 403, "{head} on {method} {path}: {answer:?}");
        }
    }
    assert_eq!(house.metric("nhi_gateway_refused_total").await as usize, PATHS.len() * ATTACKS.len());
    house.close().await;
}

#[tokio::test]
async fn a_form_of_another_site_reaches_nothing() {
    let house = House::open().await;
    let key = house.seed("owner");
    let basic = format!("Basic {}", STANDARD.encode(format!("x:{key}")));
    for kind in ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"] {
        // A browser that remembers Basic credentials sends them along with a form.
        let headers = [("Content-Type", kind), ("Authorization", basic.as_str())];
        let answer = house.send("POST", "/mesh/kettle/tell", &headers, "").await;
        assert_eq!(answer.status, 403, "{kind}: {answer:?}");
    }
    assert_eq!(house.metric("nhi_gateway_connections").await, 0, "no credential was looked at");
    let headers = [("Content-Type", "application/json"), ("X-Api-Key", key.as_str())];
    let answer = house.send("POST", "/mesh/kettle/tell", &headers, "").await;
    assert_ne!(answer.status, 403, "the control: {answer:?}");
    assert_eq!(house.metric("nhi_gateway_connections").await, 1);
    house.close().await;
}

#[tokio::test]
async fn the_refusal_comes_before_the_body() {
    let house = House::open().await;
    // The body never comes; whoever waited for it would never answer.
    let request = |host: &str| {
        format!(
            "POST /mesh/kettle/tell HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\nContent-Type: application/json\r\n\r\n"
        )
    };
    let answer = house.raw(&request("evil.example")).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    house.close().await;
}

#[tokio::test]
async fn a_full_url_as_target_must_agree() {
    let house = House::open().await;
    let ask = async |target: &str, host: &str| {
        house.raw(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await.status
    };
    assert_eq!(ask("http://localhost/healthz", "localhost").await, 200);
    assert_eq!(ask("http://evil.example/healthz", "localhost").await, 403);
    assert_eq!(ask("http://localhost/healthz", "evil.example").await, 403);
    house.close().await;
}

#[tokio::test]
async fn an_allowed_page_may_ask_and_read_and_no_other() {
    let house = House::open().await;
    let key = format!("Bearer {}", house.seed("owner"));
    let asking = [
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type,x-stainless-os"),
    ];
    let allowed = ("Origin", "https://pages.example");
    let with = |first: (&'static str, &'static str)| [&[first][..], &asking].concat();

    let permission = house.send("OPTIONS", "/mesh/kettle/tell", &with(allowed), "").await;
    assert_eq!(permission.status, 204, "{permission:?}");
    for line in [
        "access-control-allow-origin: https://pages.example",
        "access-control-allow-methods: get, post",
        "access-control-allow-headers: authorization,content-type,x-stainless-os",
        "vary: origin",
    ] {
        assert!(permission.head.contains(line), "{line}: {permission:?}");
    }
    assert!(!permission.head.contains("allow-credentials"), "{permission:?}");

    let headers = [allowed, ("Authorization", key.as_str()), ("Sec-Fetch-Site", "cross-site")];
    let answer = house.send("POST", "/mesh/kettle/tell", &headers, "{}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("access-control-allow-origin: https://pages.example"), "{answer:?}");
    // A page that may call may also read why it failed.
    let failed = house.send("POST", "/mesh/kettle/refuse", &headers, "{}").await;
    assert!(failed.status == 409 && failed.head.contains("access-control-allow-origin"), "{failed:?}");

    for page in ["https://evil.example", "null"] {
        let refused = house.send("OPTIONS", "/mesh/kettle/tell", &with(("Origin", page)), "").await;
        assert_eq!((refused.status, refused.code().as_str()), (403, "forbidden"), "{refused:?}");
        let told = refused.json()["error"].to_string();
        assert!(told.contains(page) && told.contains("`origins` in [http]"), "{told}");
        assert!(!refused.head.contains("access-control"), "{refused:?}");
    }
    // Nobody else is told anything: not our own pages, not programs.
    let own = format!("http://localhost:{}", house.addr.port());
    for headers in [&[][..], &[("Origin", own.as_str())]] {
        let headers = [headers, &[("Authorization", key.as_str())]].concat();
        let answer = house.send("POST", "/mesh/kettle/tell", &headers, "{}").await;
        assert!(answer.status == 200 && !answer.head.contains("access-control"), "{answer:?}");
    }
    house.close().await;
}
