//! Servers that speak OpenAI and let go of models each in a way of its own: llama.cpp's router and llama-swap.

use crate::server::{Server, whole};
use nhi_llm::{Kind, Loaded};
use nhi_model::ai::BackendKind;
use serde_json::{Value, json};

fn named(names: &[&str]) -> Vec<Loaded> {
    names.iter().map(|name| Loaded { name: (*name).to_owned(), ..Loaded::default() }).collect()
}

/// What was posted where.
fn posted(server: &Server) -> Vec<(String, Value)> {
    let posts = server.seen().into_iter().filter(|seen| seen.line.starts_with("POST"));
    posts.map(|seen| (seen.line.split(' ').nth(1).unwrap().to_owned(), seen.body)).collect()
}

#[tokio::test]
async fn llama_cpp_s_router_is_told_each_model_it_has_in_memory() {
    let server = Server::start(|seen| match seen.line.as_str() {
        "GET /v1/models HTTP/1.1" => {
            let rows = json!({ "data": [
                { "id": "a/b", "status": { "value": "loaded" } },
                { "id": "cold", "status": { "value": "unloaded" } },
                { "id": "warming", "status": { "value": "loading" } },
            ] });
            whole("200 OK", "", &rows.to_string())
        }
        "POST /models/unload HTTP/1.1" => whole("200 OK", "", "{\"success\":true}"),
        _ => whole(
            "404 Not Found",
            "",
            "{\"error\":{\"code\":404,\"message\":\"File Not Found\",\"type\":\"not_found_error\"}}",
        ),
    })
    .await;
    let backend = server.backend(BackendKind::Openai);
    assert_eq!(backend.loaded().await.unwrap(), named(&["a/b", "warming"]));
    backend.unload(None).await.unwrap();
    let path = "/models/unload".to_owned();
    let told = ["a/b", "warming"].map(|name| (path.clone(), json!({ "model": name })));
    assert_eq!(posted(&server), told);
}

#[tokio::test]
async fn llama_swap_is_told_in_its_own_way() {
    let server = Server::start(|seen| {
        let path = seen.line.split(' ').nth(1).unwrap();
        match path {
            "/running" => {
                let rows = json!({ "running": [{ "model": "org/a b", "state": "ready" }] });
                whole("200 OK", "", &rows.to_string())
            }
            path if path.starts_with("/api/models/unload/") => whole("200 OK", "", "OK"),
            _ => whole("404 Not Found", "", "404 page not found"),
        }
    })
    .await;
    let backend = server.backend(BackendKind::Openai);
    assert_eq!(backend.loaded().await.unwrap(), named(&["org/a b"]));
    backend.unload(None).await.unwrap();
    let paths: Vec<String> = posted(&server).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["/models/unload", "/api/models/unload/org%2Fa%20b"]);
}

#[tokio::test]
async fn a_server_that_cannot_let_go_says_so() {
    let server = Server::start(|_| whole("404 Not Found", "", "{\"detail\":\"Not Found\"}")).await;
    let error = server.backend(BackendKind::Openai).unload(Some("m")).await.unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported, "{error}");
}
