//! MCP clients and test programs of others against the real gateway: the Python client goes an agent's whole way over HTTP
//! and stdio, the conformance suite and the Inspector judge what is on the wire. What the suite asks of fixtures is asked of
//! fixtures of ours on the same library and transport.
//!
//! The suite and the Inspector need npm; without it they say so and pass, and CI has it.

mod fixtures;
mod node;

use crate::{peer::Peer, up::Up};
use node::Node;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Scenarios that ask for nothing but what any server has.
const WITHOUT_FIXTURES: &[&str] = &[
    "server-initialize",
    "server-session-lifecycle",
    "ping",
    "tools-list",
    "resources-list",
    "prompts-list",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
    "caching",
    "http-header-validation",
    "sep-2164-resource-not-found",
    "input-required-result-unsupported-methods",
    "input-required-result-ignore-extra-params",
    "input-required-result-missing-input-response",
    "input-required-result-validate-input",
];
/// What an agent costs whoever lists its tools, tokens at four bytes each. docs/mcp.md tells of it.
const TOKENS_MAX: usize = 4_000;

/// A demo with an agent, a viewer and an operator.
async fn demo() -> Up {
    let up = Up::start("").await;
    for (name, role) in [("aider", "agent"), ("eye", "viewer"), ("anna", "operator")] {
        up.nhi(&["auth", "add", name, "--role", role]).await;
    }
    up
}

/// The agent's whole way; a person approves between.
async fn walk(up: &Up, start: &Value, version: &str) {
    let mut agent = Peer::start("mcp_client.py", "mcp.txt").await;
    agent.say(start).await;
    let listed: Value = agent.hear().await;
    let tools: BTreeSet<&str> =
        listed["tools"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(
        tools.is_superset(&BTreeSet::from(["lab_state", "guest_plan", "plan_apply", "ai_chat"])),
        "{listed}"
    );
    let kept_back = ["approve", "reject", "confirm", "freeze", "thaw", "auth"];
    assert!(!tools.iter().any(|tool| kept_back.iter().any(|word| tool.contains(word))), "{listed}");
    assert_eq!(listed["version"], version, "{listed}");
    let seen: Value = agent.hear().await;
    assert!(seen["guests"].as_array().unwrap().contains(&json!("staging")), "{seen}");
    let context: Value = agent.hear().await;
    assert!(context["text"].as_str().unwrap().starts_with("# Global context"), "{context}");
    let prompt: Value = agent.hear().await;
    assert!(prompt["text"].as_str().unwrap().contains("Shut down staging"), "{prompt}");

    let refused: Value = agent.hear().await;
    assert_eq!(refused["failed"], true, "{refused}");
    assert!(refused["text"].as_str().unwrap().contains("[ourselves]"), "{refused}");
    let planned: Value = agent.hear().await;
    let who: Vec<&str> =
        planned["waiting"]["who"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(who, ["anna", "owner"], "{planned}");
    let early: Value = agent.hear().await;
    assert_eq!(early["failed"], true, "{early}");
    assert!(early["text"].as_str().unwrap().contains("[needs-approval]"), "{early}");

    let (plan, digest) = (planned["plan"].as_str().unwrap(), planned["digest"].as_str().unwrap());
    up.nhi(&["--as", "anna", "plan", "approve", plan, "--digest", digest, "--confirm-name", "staging"]).await;
    agent.say(&json!("approved")).await;
    let applied: Value = agent.hear().await;
    assert_eq!((&applied["failed"], &applied["state"]), (&json!(false), &json!("done")), "{applied}");
    let told = applied["told"].as_array().unwrap();
    assert!(told.iter().any(|said| said.as_str().unwrap().starts_with("step 1:")), "{applied}");
}

#[tokio::test]
async fn an_agent_looks_is_refused_and_carries_out_what_a_person_approved() {
    let up = demo().await;
    let start = json!({"url": format!("{}/mcp", up.http), "key": up.key("aider")});
    walk(&up, &start, "2026-07-28").await;
    up.stop().await;
}

#[tokio::test]
async fn the_same_way_goes_over_stdio() {
    let up = demo().await;
    let mut command = up.command();
    command.args(["--as", "aider", "mcp"]);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    walk(&up, &json!({ "command": words }), "2026-07-28").await;
    // Whose rights the program shall have is said, or nothing begins.
    let output = up.command().arg("mcp").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    up.stop().await;
}

#[tokio::test]
async fn the_suite_and_the_inspector_find_nothing_at_the_real_server() {
    let node = match Node::prepare().await {
        Ok(node) => node,
        Err(why) => return eprintln!("{why}"),
    };
    let up = demo().await;
    let url = format!("{}/mcp", up.http);
    let key = up.key("aider");
    for scenario in WITHOUT_FIXTURES {
        // With sessions and without; one that one of them does not have passes.
        for version in ["2025-11-25", "2026-07-28"] {
            // Some of its requests are made without what stands behind the `?`, some without the preloaded header.
            let arguments = ["--scenario", *scenario, "--spec-version", version];
            node.conformance(&format!("{url}?key={key}"), &key, &arguments).await;
        }
    }
    for who in ["aider", "eye"] {
        let listed = node.inspector(&url, &up.key(who), &["--strict", "--method", "tools/list"]).await;
        let listed: Value = serde_json::from_str(&listed).unwrap_or_else(|error| panic!("{error}: {listed}"));
        let tokens = listed.to_string().len() / 4;
        assert!((500..TOKENS_MAX).contains(&tokens), "{who} lists {tokens} tokens");
    }
    up.stop().await;
}

#[tokio::test]
async fn the_suite_finds_at_fixtures_only_what_is_known() {
    let node = match Node::prepare().await {
        Ok(node) => node,
        Err(why) => return eprintln!("{why}"),
    };
    let url = fixtures::serve().await;
    let baseline = node.file("fixtures-baseline.yml");
    node.conformance(&url, "none", &["--suite", "active", "--expected-failures", &baseline]).await;
}
