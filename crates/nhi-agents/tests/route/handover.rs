//! Another backend after the first word.

use crate::house::{House, backend, ordered, question, quick, server};
use nhi_decide::route::{Guard, Settings};
use nhi_model::ai::{Continues, Outcome};
use nhi_sim::models::{Fault, ModelSettings, On, answer_text};
use serde_json::json;

const QUESTION: &str = "How does a bicycle stay upright?";

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_where_its_backend_broke_off() {
    // Gaps between tokens: what was sent before the cut has been read then.
    let model = || ModelSettings { tokens_per_s: 2_000.0, ..ModelSettings::named("m") };
    let (first, second) = (server(model()).await, server(model()).await);
    let house = House::with(vec![backend("first", &first, "m"), backend("second", &second, "m")]).await;
    let text = answer_text(QUESTION, 60);
    for tokens in [1, 2, 3, 7, 20, 33, 58, 59] {
        first.set_fault_on(Fault::Cut { tokens }, On::times(1));
        let mut body = question(QUESTION, true);
        body["stream_options"] = json!({ "include_usage": true });
        let told = house.read(body).await;
        assert!(told.fault.is_none(), "{tokens}: {:?}", told.fault);
        assert_eq!(told.text(), text, "cut after {tokens}");
        let origin = told.origin();
        assert_eq!(origin.seams.len(), 1, "{tokens}: {origin:?}");
        assert_eq!((origin.provider.as_str(), origin.seams[0].provider.as_str()), ("first", "second"));
        assert_eq!(told.finish(), Some("stop"));
        let usage = &told.chunks.last().unwrap()["usage"];
        assert!(usage["completion_tokens"].as_u64().unwrap() >= 59, "summed over both: {usage}");
        first.clear_faults();
        house.ask(question(QUESTION, false)).await.unwrap();
    }
    let lines = house.ledger(16).await;
    assert_eq!(lines.iter().filter(|line| line.seams == 1 && line.attempts == 2).count(), 8);
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_count_what_was_read() {
    let model = || ModelSettings { tokens_per_s: 2_000.0, ..ModelSettings::named("m") };
    let (first, second) = (server(model()).await, server(model()).await);
    let house = House::with(vec![backend("first", &first, "m"), backend("second", &second, "m")]).await;
    for tokens in [1, 10, 25, 39, 40] {
        first.set_fault_on(Fault::Cut { tokens }, On::times(1));
        let mut body = question(QUESTION, true);
        body["max_tokens"] = json!(40);
        let told = house.read(body).await;
        assert!(told.fault.is_none(), "{tokens}: {:?}", told.fault);
        assert_eq!(told.text(), answer_text(QUESTION, 40), "cut after {tokens}");
        assert_eq!(told.finish(), Some("length"), "cut after {tokens}");
        first.clear_faults();
        house.ask(question(QUESTION, false)).await.unwrap();
    }
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_goes_on_the_end_is_no_end() {
    let model = ModelSettings { tokens_per_s: 2_000.0, ..ModelSettings::named("m") };
    let (first, second) = (server(model).await, quick("m").await);
    let mut never = backend("second", &second, "m");
    never.continues = Some(Continues::Never);
    let house = House::with(vec![backend("first", &first, "m"), never]).await;
    first.set_fault_on(Fault::Cut { tokens: 20 }, On::times(1));
    let told = house.read(question(QUESTION, true)).await;
    let fault = told.fault.as_ref().expect("nobody takes it for an end");
    assert!(told.finish().is_none() && !told.text().is_empty());
    assert_eq!(fault.details["nhi"]["failed"][0]["provider"], "first", "{fault:?}");
    assert_eq!(house.ledger(1).await[0].outcome, Outcome::Failed);
    // The control: before the first word the same backend takes over.
    first.set_fault_on(Fault::Cut { tokens: 0 }, On::times(1));
    assert_eq!(house.read(question(QUESTION, true)).await.text(), answer_text(QUESTION, 60));
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_falls_silent_is_left() {
    let model = ModelSettings { tokens_per_s: 2_000.0, ..ModelSettings::named("m") };
    let (first, second) = (server(model).await, quick("m").await);
    let guard = Guard { stall_s: 1, first_token_s: 1, ..Guard::default() };
    let backends = vec![backend("first", &first, "m"), backend("second", &second, "m")];
    let house = House::new(Settings { guard, ..ordered(backends) }).await;
    house.start().await;
    house.known().await;
    for fault in [Fault::Stall { tokens: 20 }, Fault::Stall { tokens: 0 }] {
        first.set_fault_on(fault, On::times(1));
        let told = house.read(question(QUESTION, true)).await;
        assert_eq!((told.text(), told.fault.is_none()), (answer_text(QUESTION, 60), true));
    }
    house.cx.close().await;
}
