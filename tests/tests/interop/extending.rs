//! The service of docs/extending.md, exactly as it stands there: it registers in the whole mesh and is called through all
//! doors, by whom it may be.

use crate::{peer, up::Up};
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command as Plain, Stdio},
    time::Duration,
};
use tokio::process::{Child, Command};

const SOON: Duration = Duration::from_secs(60);
/// Longest the example may be: it is meant to be read.
const LINES_MAX: usize = 30;

/// The Python of the page.
fn example() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/extending.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```python\n").expect("the page has an example");
    let (example, _) = rest.split_once("```").expect("the example ends");
    assert!(example.lines().count() <= LINES_MAX, "{} lines", example.lines().count());
    example.to_owned()
}

async fn start(up: &Up) -> Child {
    let script = up.dir().join("kettle.py");
    fs::write(&script, example()).unwrap();
    let mut command: Plain = peer::python(peer::PACKAGES).await.script(&script);
    command.env("NATS_URL", &up.nats).env("NHI_KEY_FILE", up.dir().join("kettle.nk"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Command::from(command).kill_on_drop(true).spawn().unwrap()
}

#[tokio::test]
async fn a_service_somebody_else_wrote_is_called_through_all_doors() {
    let up = Up::start("").await;
    let key = up.dir().join("kettle.nk");
    up.nhi(&["auth", "add", "kettle", "--role", "service", "--out", key.to_str().unwrap()]).await;
    up.nhi(&["auth", "add", "aider", "--role", "agent"]).await;
    let _kettle = start(&up).await;
    let ask = json!({"celsius": 80});
    let boiled = json!({"celsius": 80, "for": "owner"});

    // `nhi call`
    let called = wait_for("the kettle to register", SOON, async || {
        let listed = up.nhi(&["call"]).await;
        if listed.contains("kettle") { Ok(()) } else { Err(listed) }
    });
    called.await;
    let told: Value =
        serde_json::from_str(&up.nhi(&["call", "kettle", "boil", &ask.to_string()]).await).unwrap();
    assert_eq!(told, boiled);

    // A bare NATS request.
    let options = async_nats::ConnectOptions::with_nkey(up.key("owner")).custom_inbox_prefix("_INBOX_owner");
    let client = options.connect(&up.nats).await.unwrap();
    let answer = client.request("nhi.kettle.boil.owner", ask.to_string().into()).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&answer.payload).unwrap(), boiled);

    // REST, and its place in the document.
    let (status, body) = up.http("owner", "POST", "/mesh/kettle/boil", &ask).await;
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()), (200, boiled));
    let (status, body) = up.http("owner", "POST", "/mesh/kettle/boil", &json!({"celsius": "hot"})).await;
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &problem["error"]["code"], &problem["status"]),
        (400, &"bad-request".into(), &400.into()),
        "{body}"
    );
    let described = wait_for("the kettle in /openapi.json", SOON, async || {
        let (_, document) = up.http("owner", "GET", "/openapi.json", &Value::Null).await;
        let document: Value = serde_json::from_str(&document).unwrap();
        let boil = document["paths"]["/mesh/kettle/boil"]["post"].clone();
        if boil.is_object() {
            Ok((boil, document["components"]["schemas"]["Boil"].clone()))
        } else {
            Err(boil)
        }
    })
    .await;
    assert_eq!(described.0["x-nhi-effect"], "write");
    assert_eq!(described.1["required"], json!(["celsius"]), "its own schema");

    // MCP, as a tool.
    let body = mcp_call(&up, json!({"name": "kettle_boil", "arguments": ask})).await;
    assert!(body.contains(r#""structuredContent":{"celsius":80,"for":"owner"}"#), "{body}");

    // The control: an AI agent may not until it is granted, and then it is known by its own name.
    let (status, body) = up.http("aider", "POST", "/mesh/kettle/boil", &ask).await;
    assert_eq!(status, 403, "{body}");
    up.nhi(&["auth", "grant", "aider", "kettle.boil"]).await;
    wait_for("the grant to count", SOON, async || {
        let (status, body) = up.http("aider", "POST", "/mesh/kettle/boil", &ask).await;
        if status == 200 && body.contains("aider") { Ok(()) } else { Err(body) }
    })
    .await;
    up.stop().await;
}

/// `tools/call` of the owner in a session of its own.
async fn mcp_call(up: &Up, params: Value) -> String {
    let accept = "Accept: application/json, text/event-stream\r\n";
    let hello = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"},
        },
    });
    let (head, body) = up.exchange("owner", "POST", "/mcp", &hello, accept).await;
    let session = head.lines().find_map(|line| line.strip_prefix("mcp-session-id: "));
    let session = session.unwrap_or_else(|| panic!("no session: {head}\n{body}"));
    let headers = format!("{accept}Mcp-Session-Id: {session}\r\n");
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    up.http_with("owner", "POST", "/mcp", &ready, &headers).await;
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params});
    let (status, body) = up.http_with("owner", "POST", "/mcp", &call, &headers).await;
    assert_eq!(status, 200, "{body}");
    body
}
