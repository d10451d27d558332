//! Schemathesis over `/openapi.json`: every operation with good and bad input. No answer is a 500, and none is one that the
//! document does not tell of.

use crate::{peer, up::Up};
use serde_json::{Value, json};
use std::{
    fs,
    process::{Command as Plain, Stdio},
    time::Duration,
};
use tokio::process::Command;

/// Longest that all of it may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Examples for each operation: a sample; with `NHI_FULL=1` more.
const EXAMPLES: u32 = 8;
const EXAMPLES_FULL: u32 = 100;

/// What is left out of the first run, and why: a stream of events has no end to compare; sessions and the doors of AI
/// programs have a run of their own; a frozen mesh refuses what comes after; what asks a model waits for one to be free.
/// MCP is not in the document: its own conformance suites are in `mcp`.
const LEFT_OUT: &str = "^(/events|/mcp|/v1/.*|/v1beta/.*|/api/.*|/session|/mesh/act/freeze|/mesh/ai/chat|/mesh/ai/embed|/mesh/ai/submit)$";

/// Sessions, and the doors of AI programs, whose dialects others describe: what is sent here is bad input to them.
const DOORS: &str = "^(/v1/.*|/v1beta/.*|/api/.*|/session)$";

/// No 5xx, no answer of a status, kind or shape that is not described, nothing answered without its credential or with a wrong
/// request, 405 for other methods.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                      unsupported_method,ignored_auth,negative_data_rejection";

/// Asks the paths that a choice leaves, and returns what was said of it.
async fn asked(up: &Up, choice: [&str; 2]) -> String {
    let python = peer::python("schemathesis.txt").await;
    let settings = up.dir().join("schemathesis.toml");
    fs::write(&settings, "[checks.negative_data_rejection]\nexpected-statuses = [\"4xx\"]\n").unwrap();
    // Run as a module, so that no script has to be installed anywhere.
    let start = up.dir().join("schemathesis_run.py");
    fs::write(&start, "from schemathesis.cli import schemathesis\nschemathesis()\n").unwrap();
    let examples = if std::env::var_os("NHI_FULL").is_some() { EXAMPLES_FULL } else { EXAMPLES };
    let mut command: Plain = python.script(&start);
    command
        .args(["--config-file", &settings.display().to_string(), "run", &format!("{}/openapi.json", up.http)])
        .args(["--header", &format!("Authorization: Bearer {}", up.key("owner"))])
        .args(["--checks", CHECKS])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", &examples.to_string()])
        .args(["--seed", "1", "--request-timeout", "60", "--no-color", "--continue-on-failure"])
        .args(choice)
        .current_dir(up.dir())
        .stdin(Stdio::null());
    let run = Command::from(command).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, run).await.expect("it ends").unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n--- nhi up said\n{}", up.log());
    said
}

#[tokio::test]
async fn nothing_asked_in_the_described_way_is_answered_in_an_undescribed_one() {
    let up = Up::start("").await;
    let said = asked(&up, ["--exclude-path-regex", LEFT_OUT]).await;
    assert!(said.contains("Selected:"), "it looked at something:\n{said}");
    let said = asked(&up, ["--include-path-regex", DOORS]).await;
    assert!(said.contains("Selected: 15/"), "three operations of sessions and twelve doors:\n{said}");
    up.stop().await;
}

#[tokio::test]
async fn the_same_request_sent_again_is_done_once_and_a_long_one_is_followed() {
    let up = Up::start("").await;
    // The demo's photos, which runs: a snapshot changes nothing that others need.
    let wish = json!({"intent": {"do": "snapshot", "guest": "206", "name": "before"}});
    let plan = async |id: &str| {
        let (status, body) =
            up.http_with("owner", "POST", "/mesh/act/plan", &wish, &format!("Nhi-Id: {id}\r\n")).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["record"]["plan"].clone()
    };
    let (first, again, other) = (plan("a").await, plan("a").await, plan("b").await);
    assert_eq!(first["id"], again["id"], "the same id is the same request");
    assert_ne!(first["id"], other["id"], "the control: another id is another one");

    let expires = jiff::Timestamp::now() + Duration::from_secs(60);
    let headers = format!("Nhi-Id: c\r\nNhi-Expires: {expires}\r\n");
    let apply = json!({"plan": first["id"], "digest": first["digest"]});
    let (status, body) = up.http_with("owner", "POST", "/mesh/act/apply", &apply, &headers).await;
    assert_eq!(status, 200, "{body}");
    let run = json!({"run": serde_json::from_str::<Value>(&body).unwrap()["run"]});
    let (status, lines) = up.http("owner", "POST", "/mesh/act/run", &run).await;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((status, lines.last()), (200, Some(&json!({"Nhi-End": "done"}))), "{lines:?}");
    assert_eq!(lines[lines.len() - 2]["run"]["state"]["is"], "done", "{lines:?}");
    let (_, events) =
        up.http_with("owner", "POST", "/mesh/act/run", &run, "Accept: text/event-stream\r\n").await;
    assert!(
        events.starts_with("data: {") && events.ends_with("event: end\ndata: {\"Nhi-End\":\"done\"}\n\n"),
        "{events}"
    );
    up.stop().await;
}
