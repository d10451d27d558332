//! The doors of AI programs: every dialect is read into OpenAI's form and written from it, whole and in pieces, and its
//! failures have its own shape. The router behind is the test's own; what it was asked is looked at.

use crate::house::{Answer, House, SOON};
use nhi_bus::service::{Caller, Ending, Frames, Service, Spec};
use nhi_model::{
    ai::{AiModels, AiModelsAsk, Model, ModelRow},
    call::Effect,
    fault::{Fault, FaultCode},
};
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::{
    future::pending,
    sync::{Arc, Mutex},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc};

/// A router that says what it was asked, and then what the last message tells it to.
struct Router {
    house: House,
    asked: Arc<Mutex<Vec<Value>>>,
    /// The traces they belonged to.
    traces: Arc<Mutex<Vec<Option<String>>>>,
    dropped: mpsc::UnboundedReceiver<()>,
}

struct Mark(mpsc::UnboundedSender<()>);

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// What a free-form tool is called with.
const PATCH: &str = "*** Begin Patch\n*** End Patch";
const USAGE: &str = r#"{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}"#;

impl Router {
    async fn open() -> Self {
        let house = House::open().await;
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let traces: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
        let note = traces.clone();
        let note = move |caller: &Caller| {
            note.lock().unwrap().push(caller.trace.map(|trace| trace.trace_id()));
        };
        let (tell, dropped) = mpsc::unbounded_channel();
        let (heard, noted) = (asked.clone(), note.clone());
        let chat = move |caller: Caller, body: Value, frames: Frames| {
            noted(&caller);
            heard.lock().unwrap().push(body.clone());
            answer(body, frames, tell.clone())
        };
        let heard = asked.clone();
        let embed = move |caller: Caller, body: Value| {
            note(&caller);
            heard.lock().unwrap().push(body);
            async { Ok(json!({"data": [{"embedding": [0.5, 1.0]}], "usage": {"prompt_tokens": 2}})) }
        };
        let spec = |endpoint, stream| Spec { endpoint, effect: Effect::Write, description: "", stream };
        let service = Service::new("ai", "1.0.0", "")
            .streaming::<Value, Value, _>(spec("chat", true), chat)
            .endpoint(spec("embed", false), embed)
            .endpoint(
                Spec { endpoint: "models", effect: Effect::Read, description: "", stream: false },
                |_, _: AiModelsAsk| async { Ok(models()) },
            );
        service.start(&house.cx, &house.nats.connect(&house.cx, "route").await).await.unwrap();
        Self { house, asked, traces, dropped }
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.house.post("owner", path, &body.to_string()).await
    }

    /// The body the router got last.
    fn heard(&self) -> Value {
        self.asked.lock().unwrap().last().cloned().expect("the router was asked")
    }
}

fn models() -> AiModels {
    let model = Model { name: "small".to_owned(), context_tokens: Some(4096), ..Model::default() };
    let row = |id: &str, alias, model| ModelRow {
        id: id.to_owned(),
        providers: vec!["pc".to_owned()],
        alias,
        available: true,
        text: String::new(),
        model,
    };
    AiModels { models: vec![row("auto", true, None), row("small:latest", false, Some(model))] }
}

fn chunk(delta: &Value, finish: Option<&str>) -> Value {
    json!({
        "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "small",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        "nhi": {"provider": "pc", "model": "small", "reason": "the GPU is free"},
    })
}

/// The last text of the conversation.
fn wish(body: &Value) -> String {
    let last = body["messages"].as_array().and_then(|messages| messages.last()).cloned().unwrap_or_default();
    match &last["content"] {
        Value::String(text) => text.clone(),
        parts => parts[0]["text"].as_str().unwrap_or_default().to_owned(),
    }
}

async fn answer(body: Value, frames: Frames, tell: mpsc::UnboundedSender<()>) -> Result<Ending, Fault> {
    let (wish, stream) = (wish(&body), body["stream"] == json!(true));
    // The last tool that was offered.
    let tool = body["tools"].as_array().and_then(|tools| tools.last()).map(|tool| tool["function"].clone());
    let name = tool.as_ref().map_or(json!("add"), |tool| tool["name"].clone());
    let takes_text = tool.is_some_and(|tool| tool["parameters"]["properties"]["input"].is_object());
    let arguments = if takes_text { json!({"input": PATCH}).to_string() } else { r#"{"a":1}"#.to_owned() };
    let function = json!({"name": name, "arguments": arguments});
    let call = json!({"index": 0, "id": "t1", "type": "function", "function": function});
    let usage: Value = serde_json::from_str(USAGE).unwrap();
    if wish == "refuse" {
        let fault = Fault::new(FaultCode::TooMany, "all quotas are gone", "wait");
        return Err(fault.with("retry_after_s", 30));
    }
    if !stream {
        let message = match wish.as_str() {
            "tool" => json!({"role": "assistant", "content": null, "tool_calls": [call]}),
            _ => json!({"role": "assistant", "content": "Hello"}),
        };
        let finish = if wish == "tool" { "tool_calls" } else { "stop" };
        return Ending::whole(&json!({
            "id": "c1", "object": "chat.completion", "model": "small", "usage": usage,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "nhi": {"provider": "pc", "model": "small", "reason": "the GPU is free"},
        }));
    }
    for text in ["Hel", "lo"] {
        if wish != "tool" {
            frames.send_json(&chunk(&json!({"content": text}), None)).await.unwrap();
        }
    }
    match wish.as_str() {
        "break" => return Err(Fault::new(FaultCode::Unavailable, "the backend broke off", "ask again")),
        "hang" => {
            let _mark = Mark(tell);
            return pending().await;
        }
        "tool" => frames.send_json(&chunk(&json!({"tool_calls": [call]}), None)).await.unwrap(),
        _ => {}
    }
    let finish = if wish == "tool" { "tool_calls" } else { "stop" };
    frames.send_json(&chunk(&json!({}), Some(finish))).await.unwrap();
    frames.send_json(&json!({"id": "c1", "choices": [], "usage": usage})).await.unwrap();
    Ok(Ending::Done)
}

/// Each door with a request that says `wish`, plain or streamed.
fn doors(wish: &str, stream: bool) -> Vec<(&'static str, Value)> {
    let user = json!([{"role": "user", "content": wish}]);
    let gemini = match stream {
        true => "/v1beta/models/auto:streamGenerateContent?alt=sse",
        false => "/v1beta/models/auto:generateContent",
    };
    vec![
        ("/v1/chat/completions", json!({"model": "auto", "messages": user, "stream": stream})),
        ("/v1/responses", json!({"model": "auto", "input": wish, "stream": stream})),
        ("/v1/messages", json!({"model": "auto", "max_tokens": 9, "messages": user, "stream": stream})),
        ("/api/chat", json!({"model": "auto", "messages": user, "stream": stream})),
        ("/api/generate", json!({"model": "auto", "prompt": wish, "stream": stream})),
        (gemini, json!({"contents": [{"role": "user", "parts": [{"text": wish}]}]})),
    ]
}

/// What each dialect has at the end of a stream that ended well, and in a failure.
const MARKS: [(&str, &str, &str); 6] = [
    ("/v1/chat/completions", "data: [DONE]", r#""type":"server_error""#),
    ("/v1/responses", "event: response.completed", "event: response.failed"),
    ("/v1/messages", "event: message_stop", r#""type":"overloaded_error""#),
    ("/api/chat", r#""done":true"#, r#"{"error":"the backend broke off"#),
    ("/api/generate", r#""done":true"#, r#"{"error":"the backend broke off"#),
    ("/v1beta", r#""finishReason":"STOP""#, r#""status":"UNAVAILABLE""#),
];

fn marks(path: &str) -> (&'static str, &'static str) {
    let found = MARKS.iter().find(|(start, ..)| path.starts_with(start)).unwrap();
    (found.1, found.2)
}

#[tokio::test]
async fn every_door_asks_in_the_form_of_the_mesh_and_answers_in_its_own() {
    let router = Router::open().await;
    for (path, body) in doors("hello", false) {
        let got = router.post(path, &body).await;
        assert_eq!(got.status, 200, "{path}: {got:?}");
        assert!(
            got.head.contains("x-nhi-provider: pc") && got.head.contains("x-nhi-reason: the gpu"),
            "{got:?}"
        );
        let (heard, told) = (router.heard(), got.json());
        assert_eq!((wish(&heard), &heard["model"]), ("hello".to_owned(), &json!("auto")), "{path}");
        let (text, tokens) = match path {
            "/v1/chat/completions" => ("/choices/0/message/content", "/usage/completion_tokens"),
            "/v1/responses" => ("/output/0/content/0/text", "/usage/output_tokens"),
            "/v1/messages" => ("/content/0/text", "/usage/output_tokens"),
            "/api/chat" => ("/message/content", "/eval_count"),
            "/api/generate" => ("/response", "/eval_count"),
            _ => ("/candidates/0/content/parts/0/text", "/usageMetadata/candidatesTokenCount"),
        };
        assert_eq!(told.pointer(text), Some(&json!("Hello")), "{path}: {told}");
        assert_eq!(told.pointer(tokens), Some(&json!(3)), "{path}: {told}");
    }
    router.house.close().await;
}

#[tokio::test]
async fn every_door_streams_and_marks_its_end_and_only_then() {
    let router = Router::open().await;
    for (path, body) in doors("hello", true) {
        let got = router.post(path, &body).await;
        let (end, failure) = marks(path);
        assert_eq!(got.status, 200, "{path}: {got:?}");
        assert!(got.head.contains("x-nhi-model: small"), "{got:?}");
        for piece in ["Hel", "\"lo\"", end] {
            assert!(got.body.contains(piece), "{path}: no {piece} in {}", got.body);
        }
        assert!(got.body.ends_with("0\r\n\r\n") && !got.body.contains(failure), "{path}: {}", got.body);
    }
    // The control: what breaks off has the failure, no end, and a connection that breaks off as well. Programs that
    // speak Responses have the failure as an event of its own, and throw it away when the connection breaks.
    for (path, body) in doors("break", true) {
        let got = router.post(path, &body).await;
        let (end, failure) = marks(path);
        assert!(got.body.contains("Hel") && got.body.contains(failure), "{path}: {}", got.body);
        let is_whole = path == "/v1/responses";
        assert!(!got.body.contains(end), "{path}: {}", got.body);
        assert_eq!(got.body.ends_with("0\r\n\r\n"), is_whole, "{path}: {}", got.body);
    }
    router.house.close().await;
}

#[tokio::test]
async fn tool_calls_reach_every_dialect_whole() {
    let router = Router::open().await;
    for stream in [false, true] {
        for (path, body) in doors("tool", stream) {
            let got = router.post(path, &body).await;
            assert_eq!(got.status, 200, "{path}: {got:?}");
            assert!(got.body.contains("add"), "{path}: {}", got.body);
            let is_object = got.body.contains(r#"{"a":1}"#);
            let is_text = got.body.contains(r#"{\"a\":1}"#);
            assert!(is_object || is_text, "{path}, streamed {stream}: {}", got.body);
        }
    }
    router.house.close().await;
}

#[tokio::test]
async fn failures_have_the_dialects_shape_and_say_when_to_come_again() {
    let router = Router::open().await;
    for (path, body) in doors("refuse", true) {
        let got = router.post(path, &body).await;
        assert_eq!(got.status, 429, "{path}: {got:?}");
        assert!(got.head.contains("retry-after: 30"), "{path}: {got:?}");
        assert!(got.body.contains("all quotas are gone"), "{path}: {}", got.body);
    }
    let wrong = [
        ("/v1/chat/completions", "{", "/error/type"),
        ("/v1/chat/completions", r#"{"stream": 1}"#, "/error/type"),
        ("/v1/responses", r#"{"model": 7, "input": ""}"#, "/error/type"),
        ("/v1/messages", r#"{"model": "a", "messages": [], "max_tokens": "9"}"#, "/error/type"),
        ("/api/chat", r#"{"messages": []}"#, "/error"),
        ("/api/generate", r#"{"model": "a", "prompt": "x", "raw": true}"#, "/error"),
        ("/v1beta/models/a:generateContent", r#"{"contents": {}}"#, "/error/status"),
        ("/v1beta/models/a:generateContent", "\u{fffd}", "/error/status"),
    ];
    for (path, body, place) in wrong {
        let got = router.house.post("owner", path, body).await;
        assert_eq!(got.status, 400, "{path}: {got:?}");
        assert!(got.json().pointer(place).is_some_and(Value::is_string), "{path}: {}", got.body);
    }
    // Nobody was asked for any of these.
    assert_eq!(router.asked.lock().unwrap().len(), doors("", true).len());
    for (path, _) in doors("", false) {
        let got = router.house.send("POST", path, &[("x-api-key", "sk-unknown")], "{}").await;
        assert_eq!(got.status, 401, "{path}: {got:?}");
        assert!(!got.body.contains("sk-unknown"), "{path}: {}", got.body);
    }
    router.house.close().await;
}

const PICTURE: &str = "iVBORw0KGgo=";

/// A conversation with a picture, a tool and its result, as the mesh carries it.
fn conversation() -> Value {
    let data = format!("data:image/png;base64,{PICTURE}");
    json!([
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "what is this"},
                                     {"type": "image_url", "image_url": {"url": data}}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "add", "arguments": "{\"a\":1}"}}]},
        {"role": "tool", "tool_call_id": "t1", "content": "2"},
        {"role": "user", "content": "go on"},
    ])
}

fn tool() -> Value {
    json!([{"type": "function",
        "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}])
}

#[tokio::test]
async fn anthropics_conversations_come_through_unharmed() {
    let router = Router::open().await;
    let thought = json!({"type": "thinking", "thinking": "hm", "signature": "sig"});
    let body = json!({
        "model": "auto", "max_tokens": 50, "system": "be brief", "top_k": 5, "stop_sequences": ["END"],
        "tools": [{"name": "add", "description": "adds", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "what is this"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}}]},
            {"role": "assistant", "content": [
                thought, {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "2"},
                                         {"type": "text", "text": "go on"}]}],
    });
    assert_eq!(router.post("/v1/messages", &body).await.status, 200);
    let heard = router.heard();
    assert_eq!(heard["tools"], tool());
    assert_eq!((&heard["top_k"], &heard["stop"]), (&json!(5), &json!(["END"])));
    assert_eq!((&heard["tool_choice"], &heard["parallel_tool_calls"]), (&json!("required"), &json!(false)));
    let mut expected = conversation();
    expected[2]["extra_content"] = json!({"anthropic": {"thinking": [thought]}});
    assert_eq!(heard["messages"], expected);
    router.house.close().await;
}

#[tokio::test]
async fn googles_conversations_come_through_unharmed() {
    let router = Router::open().await;
    let picture = json!({"inlineData": {"mimeType": "image/png", "data": PICTURE}});
    let call =
        json!({"functionCall": {"id": "t1", "name": "add", "args": {"a": 1}}, "thoughtSignature": "sig"});
    let function = json!({"name": "add", "description": "adds", "parameters": {"type": "OBJECT"}});
    let body = json!({
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "contents": [
            {"role": "user", "parts": [{"text": "what is this"}, picture]},
            {"role": "model", "parts": [call]},
            {"role": "user", "parts": [{"functionResponse": {"name": "add", "response": {"r": 2}}}]},
            {"role": "user", "parts": [{"text": "go on"}]}],
        "tools": [{"functionDeclarations": [function]}],
        "generationConfig": {"maxOutputTokens": 50, "stopSequences": ["END"], "topK": 5},
    });
    assert_eq!(router.post("/v1beta/models/auto:generateContent", &body).await.status, 200);
    let mut expected = conversation();
    expected[3]["content"] = json!("{\"r\":2}");
    expected[2]["tool_calls"][0]["extra_content"] = json!({"google": {"thought_signature": "sig"}});
    let heard = router.heard();
    assert_eq!((&heard["messages"], &heard["tools"]), (&expected, &tool()));
    assert_eq!(
        (&heard["max_tokens"], &heard["top_k"], &heard["stop"]),
        (&json!(50), &json!(5), &json!(["END"]))
    );
    router.house.close().await;
}

#[tokio::test]
async fn conversations_of_responses_come_through_unharmed() {
    let router = Router::open().await;
    let body = json!({
        "model": "auto", "instructions": "be brief", "store": false,
        "tools": [{"type": "function", "name": "add", "description": "adds", "parameters": {"type": "object"}}],
        "input": [
            {"role": "user", "content": [
                {"type": "input_text", "text": "what is this"},
                {"type": "input_image", "image_url": format!("data:image/png;base64,{PICTURE}")}]},
            {"type": "function_call", "call_id": "t1", "name": "add", "arguments": "{\"a\":1}"},
            {"type": "function_call_output", "call_id": "t1", "output": "2"},
            {"role": "user", "content": "go on"}],
    });
    assert_eq!(router.post("/v1/responses", &body).await.status, 200);
    let heard = router.heard();
    assert_eq!((&heard["messages"], &heard["tools"]), (&conversation(), &tool()));
    assert_eq!(heard.get("store"), None, "nothing is kept here");
    router.house.close().await;
}

/// The last event of this kind in a stream.
fn event(body: &str, kind: &str) -> Value {
    let mut events = body.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok());
    let found = events.rfind(|event: &Value| event["type"] == json!(kind));
    found.unwrap_or_else(|| panic!("no {kind} in {body}"))
}

#[tokio::test]
async fn tools_of_responses_are_functions_for_models_and_come_back_as_they_were_offered() {
    let router = Router::open().await;
    let long = "list_everything_there_is_in_the_whole_house_and_in_its_garden";
    let space = |name: &str| {
        json!({"type": "namespace", "name": "mcp__lab", "description": "the lab",
        "tools": [{"type": "function", "name": name, "description": "looks", "parameters": {"type": "object"}}]})
    };
    let patch = json!({"type": "custom", "name": "apply_patch", "description": "edits"});
    let call = |name: &str, space: Option<&str>| {
        let call = json!({"type": "function_call", "call_id": "t1", "name": name, "arguments": r#"{"a":1}"#});
        let space = space.map(|space| ("namespace".to_owned(), json!(space)));
        Value::Object(call.as_object().unwrap().clone().into_iter().chain(space).collect())
    };
    let patched = json!({"type": "custom_tool_call", "call_id": "t1", "name": "apply_patch", "input": PATCH});
    let plain = json!({"type": "function", "name": "add"});
    for (tool, called) in [
        (space("state"), call("state", Some("mcp__lab"))),
        (space(long), call(long, Some("mcp__lab"))),
        (patch, patched),
        (plain.clone(), call("add", None)),
    ] {
        let ask = |input: Value, stream: bool| json!({"model": "auto", "input": input, "stream": stream, "tools": [plain, tool]});
        // What was called, as the program compares it.
        let known = |item: &Value| {
            let mut item = item.as_object().unwrap().clone();
            item.retain(|field, _| !matches!(field.as_str(), "id" | "status"));
            Value::Object(item)
        };
        let whole = router.post("/v1/responses", &ask(json!("tool"), false)).await;
        assert_eq!((whole.status, known(&whole.json()["output"][0])), (200, called.clone()), "{whole:?}");
        let name = router.heard()["tools"][1]["function"]["name"].clone();
        assert!(
            name.as_str()
                .is_some_and(|name| name.len() <= 64 && router.heard()["tools"][1]["type"] == "function")
        );
        let got = router.post("/v1/responses", &ask(json!("tool"), true)).await.body;
        for (kind, place) in [("output_item.done", "/item"), ("completed", "/response/output/0")] {
            let event = event(&got, &format!("response.{kind}"));
            assert_eq!(known(event.pointer(place).unwrap()), called, "{event}");
        }
        // Next time the call stands in the conversation, under the name the model knows.
        let kind = format!("{}_output", called["type"].as_str().unwrap());
        let result = json!({"type": kind, "call_id": "t1", "output": "done"});
        let got = router.post("/v1/responses", &ask(json!([called, result]), false)).await;
        assert_eq!(got.status, 200, "{got:?}");
        let heard = router.heard()["messages"].clone();
        assert_eq!(heard[0]["tool_calls"][0]["function"]["name"], name);
        assert_eq!(heard[1], json!({"role": "tool", "tool_call_id": "t1", "content": "done"}));
    }
    router.house.close().await;
}

#[tokio::test]
async fn ollamas_conversations_come_through_unharmed() {
    let router = Router::open().await;
    let body = json!({
        "model": "auto", "stream": false, "tools": tool(), "format": "json", "options": {"num_predict": 50, "top_k": 5},
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "what is this", "images": [PICTURE]},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]},
            {"role": "tool", "tool_name": "add", "content": "2"},
            {"role": "user", "content": "go on"}],
    });
    assert_eq!(router.post("/api/chat", &body).await.status, 200);
    let mut expected = conversation();
    expected[2]["content"] = json!("");
    expected[2]["tool_calls"][0]["id"] = json!("call_1");
    expected[3]["tool_call_id"] = json!("call_1");
    let heard = router.heard();
    assert_eq!((&heard["messages"], &heard["tools"]), (&expected, &tool()));
    assert_eq!(
        (&heard["max_tokens"], &heard["response_format"]),
        (&json!(50), &json!({"type": "json_object"}))
    );
    router.house.close().await;
}

#[tokio::test]
async fn what_is_not_known_passes_through_openais_door() {
    let router = Router::open().await;
    let body = json!({"model": "auto", "messages": [{"role": "user", "content": "x", "odd": 1}], "logit_bias": {"5": 1}});
    let secret = router.house.seed("owner");
    let bearer = format!("Bearer {secret}");
    let headers = [("Authorization", bearer.as_str()), ("x-nhi-privacy", "home"), ("x-nhi-project", "lab")];
    let got = router.house.send("POST", "/v1/chat/completions", &headers, &body.to_string()).await;
    assert_eq!(got.status, 200, "{got:?}");
    let mut heard = router.heard();
    assert_eq!(heard["nhi"].take(), json!({"privacy": "home", "project": "lab"}));
    heard.as_object_mut().unwrap().remove("nhi");
    assert_eq!(heard, body);
    router.house.close().await;
}

#[tokio::test]
async fn what_keeps_a_request_at_home_gets_through_every_door() {
    let router = Router::open().await;
    let bearer = format!("Bearer {}", router.house.seed("owner"));
    let mut all = doors("hello", false);
    all.push(("/v1/embeddings", json!({"model": "auto", "input": "a"})));
    all.push(("/api/embed", json!({"model": "auto", "input": "a"})));
    for (path, mut body) in all {
        let headers = [("Authorization", bearer.as_str()), ("x-nhi-privacy", "home")];
        for given in [json!({"project": "diary"}), Value::Null] {
            body["nhi"] = given.clone();
            let got = router.house.send("POST", path, &headers, &body.to_string()).await;
            assert_eq!(got.status, 200, "{path}: {got:?}");
            let heard = &router.heard()["nhi"];
            assert_eq!((&heard["privacy"], &heard["project"]), (&json!("home"), &given["project"]), "{path}");
        }
        // The control: what cannot be read is no permission.
        let unreadable = [("Authorization", bearer.as_str()), ("x-nhi-project", "Büro")];
        let got = router.house.send("POST", path, &unreadable, &body.to_string()).await;
        assert_eq!(got.status, 400, "{path}: {got:?}");
    }
    router.house.close().await;
}

#[tokio::test]
async fn models_are_listed_as_each_program_expects() {
    let router = Router::open().await;
    let bearer = format!("Bearer {}", router.house.seed("owner"));
    let auth = ("Authorization", bearer.as_str());
    let openai = router.house.send("GET", "/v1/models", &[auth], "").await.json();
    assert_eq!((&openai["object"], &openai["data"][0]["id"]), (&json!("list"), &json!("auto")));
    let anthropic =
        router.house.send("GET", "/v1/models", &[auth, ("anthropic-version", "2023-06-01")], "").await;
    assert_eq!(anthropic.json()["data"][1]["type"], json!("model"));
    let tags = router.house.send("GET", "/api/tags", &[auth], "").await.json();
    assert_eq!(tags["models"][1]["name"], json!("small:latest"));
    assert_eq!(tags["models"][1]["digest"].as_str().map(str::len), Some(64));
    let show = router.post("/api/show", &json!({"model": "small"})).await.json();
    assert_eq!(show["model_info"]["nhi.context_length"], json!(4096));
    assert_eq!(router.post("/api/show", &json!({"model": "other"})).await.status, 404);
    let embedded = router.post("/api/embed", &json!({"model": "auto", "input": ["a"]})).await.json();
    assert_eq!((&embedded["embeddings"], &embedded["prompt_eval_count"]), (&json!([[0.5, 1.0]]), &json!(2)));
    let embedded = router.post("/v1/embeddings", &json!({"model": "auto", "input": "a"})).await.json();
    assert_eq!(embedded["data"][0]["embedding"], json!([0.5, 1.0]));
    router.house.close().await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_work() {
    let mut router = Router::open().await;
    for (path, body) in doors("hang", true) {
        let mut stream = TcpStream::connect(router.house.addr).await.unwrap();
        let (seed, body) = (router.house.seed("owner"), body.to_string());
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {seed}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        wait_for("the first piece", SOON, async || {
            let mut buffer = [0; 4096];
            if let Ok(bytes) = stream.try_read(&mut buffer) {
                read.extend_from_slice(&buffer[..bytes]);
            }
            String::from_utf8_lossy(&read).contains("Hel").then_some(())
        })
        .await;
        drop(stream);
        tokio::time::timeout(SOON, router.dropped.recv()).await.unwrap().unwrap();
    }
    router.house.close().await;
}

#[tokio::test]
async fn a_trace_goes_along_through_every_door() {
    let router = Router::open().await;
    let bearer = format!("Bearer {}", router.house.seed("owner"));
    let body = json!({"model": "auto", "messages": [{"role": "user", "content": "hello"}], "input": "x"});
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{id}-00f067aa0ba902b7-01");
    for (path, told, expected) in [
        ("/v1/chat/completions", parent.as_str(), Some(id)),
        ("/api/chat", parent.as_str(), Some(id)),
        ("/v1/embeddings", parent.as_str(), Some(id)),
        // The control: what is no trace is none.
        ("/v1/chat/completions", "x", None),
    ] {
        let headers = [("Authorization", bearer.as_str()), ("Traceparent", told)];
        let answer = router.house.send("POST", path, &headers, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let last = router.traces.lock().unwrap().last().cloned().flatten();
        assert_eq!(last.as_deref(), expected, "{path}");
    }
    router.house.close().await;
}
