//! One backend, or another one before anything was read.

use crate::house::{House, SOON, backend, ordered, question, quick, server};
use futures::{StreamExt as _, stream};
use nhi_bus::call::{CallError, Frame, call};
use nhi_model::{
    ai::{AiModels, AiModelsAsk, BackendKind, Outcome, Provider, Routed},
    key::Key,
};
use nhi_sim::models::{Fault, ModelSettings, On, Options, Provider as Words, Span, answer_text, serve};
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Instant};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_who_gave_it() {
    let home = quick("small").await;
    let house = House::with(vec![backend("pc", &home, "small")]).await;
    let answer = house.ask(question("What is a heron?", false)).await.unwrap();
    let text = answer_text("What is a heron?", 60);
    assert_eq!(answer["choices"][0]["message"]["content"], text);
    assert_eq!((&answer["model"], &answer["nhi"]["provider"]), (&json!("auto"), &json!("pc")));
    assert_eq!(answer["nhi"]["model"], "small");
    let told = house.read(question("What is a heron?", true)).await;
    assert_eq!((told.text(), told.finish(), told.fault.is_none()), (text, Some("stop"), true));
    for place in [0, told.chunks.len() - 1] {
        assert_eq!(told.chunks[place]["nhi"]["provider"], "pc");
    }
    assert!(
        told.chunks.iter().all(|chunk| !chunk["choices"].as_array().unwrap().is_empty()),
        "nobody asked for usage"
    );
    let provider: Provider =
        house.view.read().records[&Key::provider("pc")].stored.typed(&Key::provider("pc")).unwrap();
    assert!(provider.home && provider.models[0].name == "small", "{provider:?}");
    let lines = house.ledger(2).await;
    assert!(lines.iter().all(|line| line.outcome == Outcome::Done && line.output_tokens == 60), "{lines:?}");
    let usage = house.usage().await;
    let row = &usage.rows[0];
    assert_eq!((row.of.as_str(), row.requests, row.failed, row.cancelled), ("pc/small", 2, 0, 0));
    assert_eq!((row.latency.count, row.latency.counts.iter().sum::<u64>()), (2, 2), "{row:?}");
    assert_eq!(row.latency.sum_ms, lines.iter().map(|line| line.duration_ms).sum::<u64>());
    assert_eq!(row.tasks.values().sum::<u64>(), 2, "{row:?}");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_of_many_requests_are_written_together() {
    const REQUESTS: usize = 200;
    let home = quick("small").await;
    let house = House::with(vec![backend("pc", &home, "small")]).await;
    let begun = Instant::now();
    let asked = (0..REQUESTS).map(|n| house.ask(question(&format!("What is {n}?"), false)));
    let answers: Vec<_> = stream::iter(asked).buffer_unordered(16).collect().await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let lines = house.ledger(REQUESTS).await;
    let different: BTreeSet<&str> = lines.iter().map(|line| line.id.as_str()).collect();
    assert_eq!((lines.len(), different.len()), (REQUESTS, REQUESTS));
    let messages = house.pages().await.last().map_or(0, |page| page.last);
    // One at once, and then ten a second.
    let most = (2 + begun.elapsed().as_millis() / 100).min(REQUESTS as u128 / 2);
    assert!(u128::from(messages) <= most, "{messages} messages of the ledger, at most {most}");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ollama_tells_of_a_model_counts_for_its_name_without_a_tag() {
    let model = ModelSettings::named("llama3:latest");
    let ollama = serve(Options::local(Words::Ollama, vec![model])).await.unwrap();
    let mut pc = backend("pc", &ollama, "llama3");
    (pc.kind, pc.url) = (BackendKind::Ollama, ollama.url.clone());
    let house = House::new(ordered(vec![pc])).await;
    house.start().await;
    wait_for("the configured model to have what was told of it", SOON, async || {
        let state = house.view.read();
        let models =
            state.records.get(&Key::provider("pc")).map(|entry| entry.stored.record["models"].clone());
        let is_told = models.as_ref().is_some_and(|models| models[0]["billions"].is_number());
        if is_told { Ok(()) } else { Err(models) }
    })
    .await;
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_is_noticed_by_the_backend() {
    let home =
        server(ModelSettings { tokens_per_s: 20.0, answer_tokens: 2_000, ..ModelSettings::named("slow") })
            .await;
    let house = House::with(vec![backend("pc", &home, "slow")]).await;
    let mut times_ms = Vec::new();
    for n in 0..50 {
        let mut frames = house.open(question("Tell me everything.", true)).await;
        assert!(matches!(frames.next().await.unwrap().unwrap(), Frame::Part(_)));
        assert_eq!(home.counts().cancelled.len(), n, "the control: it goes on while somebody reads");
        let before = jiff::Timestamp::now().as_millisecond();
        drop(frames);
        let cancelled =
            wait_for("the backend to notice", SOON, async || home.counts().cancelled.get(n).cloned()).await;
        times_ms.push(cancelled.at_ms - before);
    }
    times_ms.sort_unstable();
    println!("p50 {} ms, p99 {} ms of {}", times_ms[25], times_ms[49], times_ms.len());
    assert!(times_ms[49] < 1_000, "{times_ms:?}");
    let lines = house.ledger(50).await;
    assert_eq!(lines[0].outcome, Outcome::Cancelled);
    assert!(lines[0].output_tokens > 0 && lines[0].estimated, "{lines:?}");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_before_the_first_word_stay_unseen() {
    let (first, second) = (quick("m").await, quick("m").await);
    let house = House::with(vec![backend("first", &first, "m"), backend("second", &second, "m")]).await;
    let text = answer_text("Why?", 60);
    let faults = [
        Fault::ServerError {},
        Fault::Dropped {},
        Fault::EmptyStream {},
        Fault::Garbage { tokens: 0 },
        Fault::InBandError { tokens: 0 },
        Fault::WrongType {},
        Fault::Redirect { to: "http://127.0.0.1:1/".to_owned() },
        Fault::Status { code: 400, body: "no".to_owned() },
    ];
    for fault in faults {
        for is_stream in [true, false] {
            // One that closes a kept connection is asked once more.
            first.set_fault_on(fault.clone(), On::times(2));
            let told = if is_stream {
                let told = house.read(question("Why?", true)).await;
                assert!(told.fault.is_none(), "{fault:?}: {:?}", told.fault);
                (told.text(), told.origin())
            } else {
                let answer = house.ask(question("Why?", false)).await.unwrap();
                let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
                (text, serde_json::from_value(answer["nhi"].clone()).unwrap())
            };
            assert_eq!((told.0.as_str(), told.1.provider.as_str()), (text.as_str(), "second"), "{fault:?}");
            assert_eq!((told.1.failed.len(), told.1.seams.len()), (1, 0), "{fault:?}");
            first.clear_faults();
            // A success makes it forgotten that it failed.
            assert_eq!(house.ask(question("Why?", false)).await.unwrap()["nhi"]["provider"], "first");
        }
    }
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_left_is_told_in_one_sentence() {
    let house = House::with(Vec::new()).await;
    let fault = house.ask(question("Hello?", false)).await.unwrap_err();
    assert_eq!(fault.code, "unavailable");
    assert!(fault.message.contains("[[ai.backend]]") && fault.message.contains("nhi.toml"), "{fault}");
    house.cx.close().await;

    let only = serve(Options::local(Words::Groq, vec![ModelSettings::named("m")])).await.unwrap();
    let house = House::with(vec![backend("only", &only, "m")]).await;
    only.set_fault(Fault::RateLimited { per: Span::Minute, retry_after_s: Some(7) });
    let told = house.read(question("Hello?", true)).await;
    let fault = told.fault.unwrap();
    assert_eq!((fault.code.as_str(), &fault.details["retry_after_s"]), ("too-many", &json!(7)), "{fault:?}");
    assert!(told.chunks.is_empty());
    let unknown = json!({ "model": "smal", "messages": [{ "role": "user", "content": "?" }] });
    let fault = house.ask(unknown).await.unwrap_err();
    assert_eq!((fault.code.as_str(), fault.status()), ("unknown-model", 404), "{fault}");
    for (bad, field) in [
        (json!({}), "messages"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": "hello" }), "messages"),
        (json!({ "messages": [{ "role": "user", "content": 7 }] }), "messages[0].content"),
        (json!({ "messages": [{ "role": "user", "content": "?" }], "max_tokens": -1 }), "max_tokens"),
    ] {
        let fault = house.ask(bad).await.unwrap_err();
        assert_eq!((fault.code.as_str(), &fault.details["field"]), ("bad-request", &json!(field)));
    }
    let lines = house.ledger(2).await;
    assert_eq!((lines[0].outcome, lines[1].outcome), (Outcome::Failed, Outcome::Refused));
    let reason = lines[0].reason.as_str();
    assert!(reason.starts_with("too-many; only: ") && reason.len() < 40, "names and kinds alone: {reason}");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_happen_is_told_without_asking() {
    let (first, second) = (quick("big").await, quick("small").await);
    let settings = ordered(vec![backend("first", &first, "big"), backend("second", &second, "small")]);
    let house = House::new(settings).await;
    house.start().await;
    house.known().await;
    let asked = first.counts().by_model.len();
    let routed: Routed = call(&house.aider, "ai", "route", &question("Why?", false)).await.unwrap();
    assert_eq!(routed.order[0].provider, "first");
    let body = json!({ "model": "small", "messages": [{ "role": "user", "content": "?" }] });
    let routed: Routed = call(&house.aider, "ai", "route", &body).await.unwrap();
    assert_eq!((routed.order.len(), routed.lost[0].provider.as_str()), (1, "first"));
    assert_eq!(first.counts().by_model.len(), asked, "nobody was asked");
    let models: AiModels = call(&house.aider, "ai", "models", &AiModelsAsk {}).await.unwrap();
    let row = |id: &str| models.models.iter().find(|row| row.id == id).unwrap();
    assert!(row("auto").alias && row("auto").available && row("small").providers == ["second"]);
    let bad = call::<_, Value>(&house.aider, "ai", "route", &json!({ "messages": 1 })).await;
    assert!(matches!(bad, Err(CallError::Fault { .. })), "{bad:?}");
    house.cx.close().await;
}
