//! Addresses of model servers, and how each kind is asked and told: against a small real HTTP server with a script.

use super::{Backend, Server};
use crate::gpu::book::Loaded;
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Answers `METHOD PATH` with a body, or 404.
type Script = &'static [(&'static str, &'static str)];

/// A server, and what it was asked: line and body, one text each.
struct Scripted {
    backend: Backend,
    asked: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

impl Scripted {
    async fn start(server: Server, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = Backend::new(server, &format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, mut task) = (asked.clone(), JoinSet::new());
        task.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let line = answer(stream, script).await;
                log.lock().unwrap().push(line);
            }
        });
        Self { backend, asked, _task: task }
    }

    async fn loaded(&self) -> Vec<String> {
        let loaded: Vec<Loaded> = self.backend.loaded().await.unwrap().unwrap();
        loaded.into_iter().map(|model| model.name).collect()
    }

    /// Has it let go of everything; what it was asked for that.
    async fn unload(&self) -> Vec<String> {
        self.asked.lock().unwrap().clear();
        self.backend.unload().await.unwrap();
        self.asked.lock().unwrap().clone()
    }
}

/// One connection is one request.
async fn answer(mut stream: TcpStream, script: Script) -> String {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "a request that breaks off");
        let text = String::from_utf8(bytes.clone()).unwrap();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length = head
                .to_lowercase()
                .split_once("content-length: ")
                .map_or(0, |(_, rest)| rest.lines().next().unwrap().parse::<usize>().unwrap());
            break (head.to_owned(), length);
        }
    };
    while bytes.len() < head.len() + 4 + length {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "a request that breaks off");
    }
    let body = String::from_utf8(bytes.split_off(head.len() + 4)).unwrap();
    let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let said = script.iter().find(|(asked, _)| *asked == line).map(|(_, said)| *said);
    let (status, said) = said.map_or(("404 Not Found", "no such place"), |said| ("200 OK", said));
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{said}", said.len());
    stream.write_all(text.as_bytes()).await.unwrap();
    if body.is_empty() { line } else { format!("{line} {body}") }
}

#[tokio::test]
async fn llama_cpp_s_router_is_told_each_model_it_has_in_memory() {
    const MODELS: &str = r#"{"data": [
        {"id": "a/b:Q4", "status": {"value": "loaded"}}, {"id": "cold", "status": {"value": "unloaded"}},
        {"id": "warming", "status": {"value": "loading"}}, {"id": "asleep", "status": {"value": "sleeping"}}]}"#;
    let script: Script = &[("GET /models", MODELS), ("POST /models/unload", r#"{"success": true}"#)];
    let server = Scripted::start(Server::LlamaCpp, script).await;
    assert_eq!(server.loaded().await, ["a/b:Q4", "warming", "asleep"]);
    let asked = [
        "GET /models",
        r#"POST /models/unload {"model":"a/b:Q4"}"#,
        r#"POST /models/unload {"model":"warming"}"#,
        r#"POST /models/unload {"model":"asleep"}"#,
    ];
    assert_eq!(server.unload().await, asked);
}

#[tokio::test]
async fn contexts_are_told_as_each_server_tells_them() {
    const PS: &str =
        r#"{"models": [{"model": "a:8b", "size_vram": 5, "context_length": 8192}, {"model": "b"}]}"#;
    let server = Scripted::start(Server::Ollama, &[("GET /api/ps", PS)]).await;
    let told = |loaded: Vec<Loaded>| -> Vec<Option<u32>> {
        loaded.into_iter().map(|model| model.context_tokens).collect()
    };
    assert_eq!(told(server.backend.loaded().await.unwrap().unwrap()), [Some(8192), None]);

    const MODELS: &str = r#"{"data": [{"id": "a/b:Q4", "status": {"value": "loaded"}},
        {"id": "other", "status": {"value": "loaded"}}]}"#;
    const PROPS: &str = r#"{"default_generation_settings": {"n_ctx": 16384}, "total_slots": 1}"#;
    let script: Script = &[("GET /models", MODELS), ("GET /props?model=a%2Fb%3AQ4&autoload=false", PROPS)];
    let server = Scripted::start(Server::LlamaCpp, script).await;
    let mut loaded = server.backend.loaded().await.unwrap().unwrap();
    server.backend.contexts(&mut loaded).await;
    assert_eq!(told(loaded), [Some(16384), None], "one that does not tell is not guessed at");
}

#[tokio::test]
async fn a_model_that_does_not_let_go_keeps_no_other_in_memory() {
    const PS: &str = r#"{"models": [{"model": "stuck"}, {"model": "willing"}]}"#;
    let server = Scripted::start(Server::Ollama, &[("GET /api/ps", PS)]).await;
    let error = server.backend.unload().await.unwrap_err();
    assert!(error.to_string().contains("/api/generate answered with status 404"), "{error}");
    let asked = server.asked.lock().unwrap().clone();
    for model in ["stuck", "willing"] {
        assert!(asked.iter().any(|line| line.contains(model) && line.contains("keep_alive")), "{asked:?}");
    }
}

#[tokio::test]
async fn llama_swap_is_told_once_for_all() {
    const RUNNING: &str =
        r#"{"running": [{"model": "one", "state": "ready"}, {"model": "two", "state": "starting"}]}"#;
    let script: Script = &[("GET /running", RUNNING), ("GET /unload", "OK")];
    let server = Scripted::start(Server::LlamaSwap, script).await;
    assert_eq!(server.loaded().await, ["one", "two"]);
    assert_eq!(server.unload().await, ["GET /unload"]);
}

#[tokio::test]
async fn a_server_that_does_not_let_go_is_no_success() {
    let server = Scripted::start(Server::LlamaSwap, &[]).await;
    let error = server.backend.unload().await.unwrap_err();
    assert!(error.to_string().contains("/unload answered with status 404"), "{error}");
    // The control: of a server nobody knows how to tell, nothing is asked.
    let other = Scripted::start(Server::Other, &[]).await;
    assert!(other.unload().await.is_empty());
    assert_eq!(other.backend.loaded().await.unwrap(), None);
}

#[test]
fn addresses_of_servers_are_parsed_or_refused() {
    for good in ["http://127.0.0.1:11434", "http://localhost:8080/", "http://[::1]:1"] {
        assert!(Backend::new(Server::Ollama, good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "127.0.0.1:1",
        "https://h:1",
        "http://h",
        "http://h:1/v1",
        "http://a@h:1",
        "http://:1",
        "http://h:99999",
    ] {
        assert!(Backend::new(Server::Ollama, bad).is_err(), "{bad}");
    }
}
