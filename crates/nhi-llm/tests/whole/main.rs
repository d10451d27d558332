//! Every kind of backend against a simulated model server that shares no code with it: the same text, the same faults.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

use nhi_llm::{Backend, Chunks, Endpoint, Hints, Kind, LlmError, Options, Reply, Span};
use nhi_model::ai::BackendKind;
use nhi_sim::models::{Ended, Fault, ModelSettings, On, Provider, Running, answer_text, serve};
use nhi_testkit::wait_for;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Kind of backend, path of its base, whose rules hold there.
const BACKENDS: [(BackendKind, &str, Provider); 8] = [
    (BackendKind::Openai, "", Provider::Openai),
    (BackendKind::Openai, "", Provider::Llamacpp),
    (BackendKind::Openai, "", Provider::Vllm),
    (BackendKind::Openai, "/openai/v1", Provider::Groq),
    (BackendKind::Openai, "/compatible-mode/v1", Provider::Dashscope),
    (BackendKind::Ollama, "", Provider::Ollama),
    (BackendKind::Gemini, "", Provider::Gemini),
    (BackendKind::Anthropic, "", Provider::Anthropic),
];

/// Longer than anything takes that is not meant to be slow.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a silence is worth waiting for.
const SHORT: Duration = Duration::from_millis(300);

struct Lab {
    kind: BackendKind,
    provider: Provider,
    server: Running,
    backend: Backend,
}

async fn lab(kind: BackendKind, path: &str, provider: Provider, model: ModelSettings) -> Lab {
    let models = vec![model, ModelSettings::embedding("e")];
    let server = serve(nhi_sim::models::Options::local(provider, models)).await.unwrap();
    let options = Options { first_byte: PATIENCE, stall: PATIENCE, whole: PATIENCE, ..Options::USUAL };
    let endpoint = Endpoint {
        name: "sim".to_owned(),
        kind,
        url: format!("{}{path}", server.url).parse().unwrap(),
        key: None,
        headers: BTreeMap::new(),
        fingerprint: None,
        signer: None,
        options,
    };
    Lab { kind, provider, server, backend: Backend::new(endpoint).unwrap() }
}

fn body(question: &str, stream: bool) -> Map<String, Value> {
    let body = json!({ "model": "m", "max_tokens": 40, "stream": stream, "messages": [{ "role": "user", "content": question }] });
    if let Value::Object(map) = body { map } else { Map::new() }
}

async fn open(lab: &Lab) -> Result<Chunks, LlmError> {
    match lab.backend.chat(body("hello", true), &Hints { num_ctx: Some(4096), ..Hints::default() }).await? {
        Reply::Stream(chunks) => Ok(chunks),
        Reply::Whole(answer) => panic!("{answer:?} is no stream"),
    }
}

async fn stream(lab: &Lab) -> (String, Vec<Map<String, Value>>, Result<(), LlmError>) {
    let mut chunks = match open(lab).await {
        Ok(chunks) => chunks,
        Err(error) => return (String::new(), Vec::new(), Err(error)),
    };
    let (mut text, mut all) = (String::new(), Vec::new());
    while let Some(chunk) = chunks.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => return (text, all, Err(error)),
        };
        let choice = chunk["choices"].get(0);
        text.push_str(
            choice.and_then(|choice| choice.pointer("/delta/content")?.as_str()).unwrap_or_default(),
        );
        all.push(chunk);
    }
    (text, all, Ok(()))
}

#[tokio::test]
async fn the_same_question_has_the_same_answer_everywhere() {
    for (kind, path, provider) in BACKENDS {
        let lab = lab(kind, path, provider, ModelSettings::named("m")).await;
        let expect = answer_text("hello", 40);
        for fault in
            [None, Some(Fault::Chopped { bytes: 3 }), Some(Fault::Comments {}), Some(Fault::NoDone {})]
        {
            lab.server.clear_faults();
            // Of these, only OpenAI's stream can do without its last word.
            if let Some(fault) =
                fault.filter(|fault| *fault != Fault::NoDone {} || kind == BackendKind::Openai)
            {
                lab.server.set_fault(fault);
            }
            let (text, chunks, end) = stream(&lab).await;
            assert_eq!((end, text.as_str()), (Ok(()), expect.as_str()), "{provider:?}");
            let usage = chunks.iter().find_map(|chunk| chunk.get("usage").filter(|usage| usage.is_object()));
            assert!(
                usage.is_some_and(|usage| usage["completion_tokens"].as_u64() > Some(0)),
                "{provider:?} {chunks:?}"
            );
        }
        lab.server.clear_faults();
        let Reply::Whole(whole) = lab.backend.chat(body("hello", false), &Hints::default()).await.unwrap()
        else {
            panic!("a stream nobody asked for")
        };
        assert_eq!(whole["choices"][0]["message"]["content"], expect.as_str(), "{provider:?}");
        assert!(whole["usage"]["total_tokens"].as_u64() > Some(0), "{provider:?}");
        assert_eq!(lab.server.counts().whole, 5, "{provider:?}");
        assert_eq!(lab.server.counts().truncated, 0);
        assert!(
            lab.backend
                .models()
                .await
                .unwrap()
                .iter()
                .any(|model| model.name.trim_end_matches(":latest") == "m"),
            "{provider:?}"
        );
    }
}

#[tokio::test]
async fn every_fault_is_a_typed_error_after_the_text_that_came() {
    // Beside each other: every one waits out two time limits.
    let all = BACKENDS.map(|(kind, path, provider)| every_fault(kind, path, provider));
    futures::future::join_all(all).await;
}

async fn every_fault(kind: BackendKind, path: &str, provider: Provider) {
    let minute = Fault::RateLimited { per: nhi_sim::models::Span::Minute, retry_after_s: None };
    let mut lab = lab(kind, path, provider, ModelSettings::named("m")).await;
    let expect = answer_text("hello", 40);
    for (fault, tokens, wanted) in [
        (Fault::Cut { tokens: 7 }, true, Kind::Cut),
        (Fault::EndsEarly { tokens: 7 }, true, Kind::Cut),
        (Fault::NoEnd {}, true, Kind::Cut),
        (Fault::Garbage { tokens: 7 }, true, Kind::Garbage),
        (Fault::Stall { tokens: 7 }, true, Kind::Stalled),
        (Fault::EmptyStream {}, false, Kind::Cut),
        (Fault::Stall { tokens: 0 }, false, Kind::Timeout),
        (Fault::Dropped {}, false, Kind::Cut),
        (Fault::WrongType {}, false, Kind::Garbage),
        (Fault::Redirect { to: "http://127.0.0.1:1/".to_owned() }, false, Kind::Redirected),
        (Fault::Overloaded {}, false, Kind::Overloaded),
        (Fault::ServerError {}, false, Kind::Server),
        (Fault::KeyRefused {}, false, Kind::KeyRefused),
        (Fault::NoModel {}, false, Kind::NoModel),
        (Fault::TooLong {}, false, Kind::TooLong),
        (minute.clone(), false, Kind::RateLimited(Span::Minute)),
    ] {
        lab.server.clear_faults();
        lab.server.set_fault(fault.clone());
        let mut endpoint = lab.backend.endpoint().clone();
        endpoint.options.stall = if matches!(fault, Fault::Stall { .. }) { SHORT } else { PATIENCE };
        endpoint.options.first_byte = if fault == (Fault::Stall { tokens: 0 }) { SHORT } else { PATIENCE };
        lab.backend = Backend::new(endpoint).unwrap();
        let (text, _, end) = stream(&lab).await;
        let error = end.unwrap_err();
        // Some servers do not say of which span their limit is.
        let vague = matches!((wanted, error.kind), (Kind::RateLimited(_), Kind::RateLimited(Span::Unknown)))
            && matches!(provider, Provider::Llamacpp | Provider::Vllm | Provider::Ollama);
        // A first event without a text may come before the silence.
        let begun = wanted == Kind::Timeout && error.kind == Kind::Stalled;
        assert!(vague || begun || error.kind == wanted, "{provider:?} {fault:?}: {:?} {error}", error.kind);
        assert_eq!(!text.is_empty(), tokens, "{provider:?} {fault:?}: {text}");
        assert!(expect.starts_with(&text), "{provider:?} {fault:?}: {text}");
    }
    lab.server.clear_faults();
    assert_eq!(stream(&lab).await.2, Ok(()), "{provider:?} is well again");
}

#[tokio::test]
async fn limits_of_a_day_are_told_apart() {
    for (kind, path, provider) in BACKENDS {
        if matches!(provider, Provider::Llamacpp | Provider::Vllm | Provider::Anthropic) {
            continue; // They have none, or say the same for both.
        }
        let lab = lab(kind, path, provider, ModelSettings::named("m")).await;
        lab.server.set_fault(Fault::RateLimited { per: nhi_sim::models::Span::Day, retry_after_s: None });
        let error = stream(&lab).await.2.unwrap_err();
        assert_eq!(error.kind, Kind::RateLimited(Span::Day), "{provider:?}: {error}");
    }
}

#[tokio::test]
async fn an_error_in_the_stream_is_an_error_and_an_endless_one_has_a_limit() {
    for (kind, path, provider) in BACKENDS {
        let lab = lab(kind, path, provider, ModelSettings::named("m")).await;
        lab.server.set_fault_on(Fault::InBandError { tokens: 5 }, On::times(1));
        let (text, _, end) = stream(&lab).await;
        let error = end.unwrap_err();
        assert!(
            !text.is_empty() && matches!(error.kind, Kind::Server | Kind::Overloaded),
            "{provider:?}: {error}"
        );
        let mut endpoint = lab.backend.endpoint().clone();
        endpoint.options.answer_bytes_max = 30_000;
        lab.server.set_fault(Fault::Endless {});
        let small = Lab { backend: Backend::new(endpoint).unwrap(), ..lab };
        assert_eq!(stream(&small).await.2.unwrap_err().kind, Kind::TooLarge, "{provider:?}");
        wait_for("the server to see that nobody listens", PATIENCE, async || {
            let counts = small.server.counts();
            (!counts.cancelled.is_empty()).then_some(()).ok_or(counts)
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_learns_at_once_that_nobody_listens() {
    let slow = ModelSettings { tokens_per_s: 20.0, answer_tokens: 10_000, ..ModelSettings::named("m") };
    for (kind, path, provider) in BACKENDS {
        let lab = lab(kind, path, provider, slow.clone()).await;
        let mut chunks = open(&lab).await.unwrap();
        assert!(chunks.next().await.unwrap().is_ok());
        drop(chunks);
        wait_for("the cancellation", PATIENCE, async || {
            let counts = lab.server.counts();
            (counts.cancelled.len() == 1).then_some(()).ok_or(counts)
        })
        .await;
        assert_eq!(lab.server.seen().last().unwrap().ended, Ended::Cancelled, "{provider:?} {:?}", lab.kind);
        assert_eq!(lab.provider, provider);
    }
}

/// The conversation so far, answered once in pieces and once whole: both have to be the same.
async fn answered(lab: &Lab, messages: &[Value]) -> Value {
    let schema = json!({ "type": "object", "properties": { "at": { "type": "string" } } });
    let tool = json!({ "type": "function", "function": { "name": "look_around", "parameters": schema } });
    let mut request = body("", false);
    request.insert("messages".to_owned(), messages.into());
    request.insert("tools".to_owned(), json!([tool]));
    let Reply::Whole(whole) = lab.backend.chat(request.clone(), &Hints::default()).await.unwrap() else {
        panic!("a stream nobody asked for")
    };
    request.insert("stream".to_owned(), true.into());
    let Reply::Stream(mut chunks) = lab.backend.chat(request, &Hints::default()).await.unwrap() else {
        panic!("no stream")
    };
    let mut all = Vec::new();
    while let Some(chunk) = chunks.next().await {
        all.push(chunk.unwrap());
    }
    let streamed = nhi_llm::assembled(all);
    let plain = |answer: &Map<String, Value>| {
        let mut choice = answer["choices"][0].clone();
        // Each answer has ids of its own.
        for call in
            choice.pointer_mut("/message/tool_calls").and_then(Value::as_array_mut).into_iter().flatten()
        {
            call["id"] = Value::Null;
        }
        (
            choice["message"]["content"].clone(),
            choice["message"]["tool_calls"].clone(),
            choice["finish_reason"].clone(),
        )
    };
    assert_eq!(plain(&streamed), plain(&whole), "{:?}", lab.provider);
    streamed["choices"][0].clone()
}

#[tokio::test]
async fn a_tool_is_called_and_answered_everywhere() {
    let mut answers = Vec::new();
    let google = [(BackendKind::Openai, "/v1beta/openai", Provider::Gemini)];
    for (kind, path, provider) in BACKENDS.into_iter().chain(google) {
        let lab = lab(kind, path, provider, ModelSettings::named("m")).await;
        let mut messages = vec![json!({ "role": "user", "content": "use look_around" })];
        let called = answered(&lab, &messages).await;
        let call = &called["message"]["tool_calls"][0];
        assert_eq!(
            (&called["finish_reason"], &call["function"]["name"]),
            (&json!("tool_calls"), &json!("look_around")),
            "{provider:?}"
        );
        let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["at"].is_string(), "{provider:?} {arguments}");
        messages.push(called["message"].clone());
        messages.push(json!({ "role": "tool", "tool_call_id": call["id"], "content": "a cat" }));
        let end = answered(&lab, &messages).await;
        assert_eq!(end["finish_reason"], "length", "{provider:?}");
        // Gemini and Anthropic wrap a tool's answer, so their question is another one.
        if matches!(kind, BackendKind::Openai | BackendKind::Ollama) {
            answers.push((arguments, end["message"]["content"].clone()));
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:#?}");
}

#[tokio::test]
async fn ollama_says_what_it_has_loaded_and_lets_go_of_it() {
    let lab = lab(BackendKind::Ollama, "", Provider::Ollama, ModelSettings::named("m")).await;
    assert_eq!(lab.backend.loaded().await.unwrap(), []);
    stream(&lab).await.2.unwrap();
    let loaded = lab.backend.loaded().await.unwrap();
    assert_eq!((loaded.len(), loaded[0].context_tokens, loaded[0].partly_on_cpu), (1, Some(4096), false));
    lab.backend.unload(None).await.unwrap();
    assert_eq!(lab.backend.loaded().await.unwrap(), []);
    assert_eq!(lab.server.vram_bytes(), 0);
}

#[tokio::test]
async fn embeddings_are_the_same_shape_everywhere() {
    for (kind, path, provider) in BACKENDS {
        if kind == BackendKind::Anthropic {
            continue;
        }
        let lab = lab(kind, path, provider, ModelSettings::named("m")).await;
        let ask = json!({ "model": "e", "input": ["a", "b"] });
        let Value::Object(ask) = ask else { unreachable!() };
        let got = lab.backend.embed(ask).await.unwrap();
        assert_eq!(got["data"][1]["embedding"].as_array().map(Vec::len), Some(16), "{provider:?}");
    }
}
