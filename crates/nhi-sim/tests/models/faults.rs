//! Every fault, as a client meets it.

use crate::support::{PATIENCE, all, chat, client, control, events, get, post, server, streamed, with_model};
use futures::StreamExt as _;
use nhi_sim::models::{
    Ended, Fault, ModelSettings, On, Options, Provider, Running, Span, answer_text, answer_tokens, serve,
};
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
/// One streaming call of each API.
const STREAMS: [&str; 4] =
    [CHAT, "/v1/messages", "/api/chat", "/v1beta/models/m:streamGenerateContent?alt=sse"];

/// Path, span, status, where it stands, what stands there, and the header.
type Limit = (&'static str, Span, u16, &'static str, &'static str, Option<&'static str>);
const LIMITS: [Limit; 11] = [
    (CHAT, Span::Minute, 429, "/error/code", "rate_limit_exceeded", Some("7")),
    (CHAT, Span::Day, 429, "/error/code", "insufficient_quota", None),
    (
        "/openai/v1/chat/completions",
        Span::Minute,
        429,
        "/error/message",
        "on tokens per minute (TPM)",
        Some("7"),
    ),
    ("/openai/v1/chat/completions", Span::Day, 429, "/error/message", "on tokens per day (TPD)", Some("7")),
    ("/compatible-mode/v1/chat/completions", Span::Minute, 429, "/error/code", "insufficient_quota", None),
    (
        "/compatible-mode/v1/chat/completions",
        Span::Day,
        403,
        "/error/code",
        "AllocationQuota.FreeTierOnly",
        None,
    ),
    (
        "/v1beta/openai/chat/completions",
        Span::Minute,
        429,
        "/0/error/details/0/violations/0/quotaId",
        "PerMinute",
        None,
    ),
    (
        "/v1beta/models/m:generateContent",
        Span::Day,
        429,
        "/error/details/0/violations/0/quotaId",
        "PerDay",
        None,
    ),
    ("/v1beta/models/m:generateContent", Span::Minute, 429, "/error/details/2/retryDelay", "7s", None),
    ("/v1/messages", Span::Minute, 429, "/error/type", "rate_limit_error", Some("7")),
    ("/api/chat", Span::Day, 429, "/error", "daily usage limit", None),
];

fn body(path: &str) -> Value {
    if path.contains("/v1beta/models") {
        return json!({"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]});
    }
    let mut body = chat("Hi", true);
    body["max_tokens"] = json!(100);
    body
}

/// The tokens of a stream of any of them, and all that came.
async fn tokens(running: &Running, path: &str) -> (Vec<String>, String, bool) {
    let (text, broke) = all(post(running, path, &body(path)).await).await;
    let pointers =
        ["/choices/0/delta/content", "/delta/text", "/message/content", "/candidates/0/content/parts/0/text"];
    let lines = text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
    let values = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tokens = values
        .filter_map(|value| {
            pointers.iter().find_map(|pointer| Some(value.pointer(pointer)?.as_str()?.to_owned()))
        })
        .filter(|token| !token.is_empty())
        .collect();
    (tokens, text, broke)
}

#[tokio::test]
async fn a_limit_is_told_in_each_providers_shape() {
    let running = server(Provider::Openai).await;
    let plain = |path: &str| {
        let mut body = body(path);
        if body.get("stream").is_some() {
            body["stream"] = json!(false);
        }
        body
    };
    for (path, per, status, pointer, wanted, header) in LIMITS {
        running.set_fault_on(Fault::RateLimited { per, retry_after_s: Some(7) }, On::times(1));
        let refused = post(&running, path, &plain(path)).await;
        assert_eq!(refused.status(), status, "{path}");
        let told = refused.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(told.as_deref(), header, "{path} {per:?}");
        let body: Value = refused.json().await.unwrap();
        let found = body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        assert!(found.contains(wanted), "{path} {per:?}: {body}");
        // Once only.
        assert_eq!(post(&running, path, &plain(path)).await.status(), 200);
    }
}

#[tokio::test]
async fn refusals_have_each_providers_status() {
    let running = server(Provider::Openai).await;
    let statuses = [
        (Fault::Overloaded {}, [503, 529, 503, 503]),
        (Fault::ServerError {}, [500, 500, 500, 500]),
        (Fault::KeyRefused {}, [401, 401, 401, 400]),
        (Fault::NoModel {}, [404, 404, 404, 404]),
        (Fault::TooLong {}, [400, 400, 400, 400]),
        (Fault::Status { code: 418, body: "{}".to_owned() }, [418; 4]),
        (Fault::Redirect { to: "http://127.0.0.1:1/".to_owned() }, [307; 4]),
        (Fault::WrongType {}, [200; 4]),
        (Fault::EmptyStream {}, [200; 4]),
    ];
    for (fault, wanted) in statuses {
        let id = running.set_fault(fault.clone());
        for (path, wanted) in STREAMS.iter().zip(wanted) {
            let response = post(&running, path, &body(path)).await;
            assert_eq!(response.status(), wanted, "{fault:?} {path}");
            let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
            let (text, broke) = all(response).await;
            assert!(
                !broke && text.is_empty() == (fault == Fault::EmptyStream {}),
                "{fault:?} {path}: {text}"
            );
            assert_eq!(kind.starts_with("text/html"), fault == Fault::WrongType {}, "{path}: {kind}");
        }
        assert!(running.clear_fault(id) && !running.clear_fault(id));
    }
    running.set_fault(Fault::Dropped {});
    let sent = client().post(format!("{}{CHAT}", running.url)).json(&chat("x", false)).send().await;
    assert!(sent.unwrap_err().is_request());
}

#[tokio::test]
async fn a_stream_breaks_where_it_is_told_to() {
    let running = server(Provider::Openai).await;
    let first: Vec<String> = answer_tokens("Hi", 60).into_iter().take(5).collect();
    for path in STREAMS {
        let (all_of_it, _, _) = tokens(&running, path).await;
        assert_eq!(all_of_it.concat(), answer_text("Hi", 60), "the control: {path}");
        let ways = [
            (Fault::Cut { tokens: 5 }, true, ""),
            (Fault::EndsEarly { tokens: 5 }, false, ""),
            (Fault::InBandError { tokens: 5 }, false, "\"error\""),
        ];
        for (fault, breaks, wanted) in ways {
            let id = running.set_fault(fault.clone());
            let (tokens, text, broke) = tokens(&running, path).await;
            assert_eq!((&tokens, broke), (&first, breaks), "{path} {fault:?}: {text}");
            assert!(text.contains(wanted) && !text.contains("[DONE]"), "{path} {fault:?}: {text}");
            assert!(
                !text.contains("\"stop\"") && !text.contains("end_turn") && !text.contains("STOP"),
                "{path}: {text}"
            );
            running.clear_fault(id);
        }
        let id = running.set_fault(Fault::InBandError { tokens: 0 });
        let (none, text, _) = tokens(&running, path).await;
        assert!(
            none.is_empty() && text.lines().filter(|line| line.contains('{')).count() == 1,
            "{path}: {text}"
        );
        running.clear_fault(id);
        let id = running.set_fault(Fault::NoEnd {});
        let (whole, text, broke) = tokens(&running, path).await;
        assert_eq!((whole.len(), broke, text.contains("[DONE]")), (60, false, false), "{path}");
        running.clear_fault(id);
    }
    assert!(running.seen().iter().any(|seen| seen.ended == Ended::Broken && seen.tokens == 5));
}

#[tokio::test]
async fn a_broken_event_and_odd_packets_do_not_change_the_text() {
    let running = server(Provider::Openai).await;
    let wanted = answer_text("Hi", 60);
    for path in STREAMS {
        for fault in [Fault::Garbage { tokens: 3 }, Fault::Chopped { bytes: 3 }, Fault::Comments {}] {
            let id = running.set_fault(fault.clone());
            let (said, text, broke) = tokens(&running, path).await;
            assert_eq!((said.concat(), broke), (wanted.clone(), false), "{path} {fault:?}: {text}");
            running.clear_fault(id);
        }
    }
    running.set_fault(Fault::Garbage { tokens: 3 });
    let (text, _) = all(post(&running, CHAT, &body(CHAT)).await).await;
    assert_eq!(events(&text).iter().filter(|event| event.is_null()).count(), 1, "exactly one: {text}");
    running.clear_faults();
    running.set_fault(Fault::NoDone {});
    let (text, _) = all(post(&running, CHAT, &body(CHAT)).await).await;
    assert!(text.contains("\"finish_reason\":\"stop\"") && !text.contains("[DONE]"), "{text}");
}

#[tokio::test]
async fn whole_answers_break_too() {
    let running = server(Provider::Openai).await;
    let ways = [
        (Fault::Cut { tokens: 5 }, true),
        (Fault::EndsEarly { tokens: 5 }, false),
        (Fault::Garbage { tokens: 0 }, false),
        (Fault::InBandError { tokens: 0 }, false),
    ];
    for (fault, breaks) in ways {
        let id = running.set_fault(fault.clone());
        let (text, broke) = all(post(&running, CHAT, &chat("Hi", false)).await).await;
        assert_eq!(broke, breaks, "{fault:?}");
        let parsed = serde_json::from_str::<Value>(&text);
        assert!(
            parsed.is_ok_and(|value| value["error"].is_object())
                == matches!(fault, Fault::InBandError { .. }),
            "{text}"
        );
        running.clear_fault(id);
    }
}

#[tokio::test]
async fn it_sees_at_once_that_a_client_is_gone() {
    let running = server(Provider::Openai).await;
    for (fault, tokens_max) in [(Fault::Stall { tokens: 4 }, Some(4)), (Fault::Endless {}, None)] {
        running.set_fault_on(fault.clone(), On::times(1));
        let before = running.counts().cancelled.len();
        let mut stream = post(&running, CHAT, &body(CHAT)).await.bytes_stream();
        let mut read = 0;
        while read < tokens_max.unwrap_or(200) {
            let part = stream.next().await.unwrap().unwrap();
            read += String::from_utf8_lossy(&part).matches("\"delta\":{\"content\"").count();
        }
        assert_eq!(running.counts().in_flight, 1, "{fault:?}");
        drop(stream);
        let gone = Instant::now();
        wait_for("the cancellation", PATIENCE, async || running.counts().cancelled.len() > before).await;
        assert!(gone.elapsed() < Duration::from_secs(2), "{fault:?}: {:?}", gone.elapsed());
        let counts = running.counts();
        assert_eq!(counts.in_flight, 0);
        assert!(counts.cancelled[before].tokens as usize >= read, "{counts:?}");
    }
    // Before the first token, plain and streamed.
    running.set_fault(Fault::SlowFirst { ms: 60_000 });
    for is_stream in [false, true] {
        let before = running.counts().cancelled.len();
        let url = format!("{}{CHAT}", running.url);
        let sent =
            client().post(url).json(&chat("Hi", is_stream)).timeout(Duration::from_millis(200)).send().await;
        if let Ok(response) = sent {
            assert!(response.text().await.unwrap_err().is_timeout());
        }
        wait_for("the cancellation", PATIENCE, async || running.counts().cancelled.len() > before).await;
        assert_eq!(running.counts().cancelled[before].tokens, 0);
    }
}

#[tokio::test]
async fn it_is_as_slow_as_it_is_told_to_be() {
    let model = ModelSettings {
        tokens_per_s: 200.0,
        first_token_ms: 30,
        answer_tokens: 20,
        ..ModelSettings::named("m")
    };
    let running = with_model(Provider::Openai, model).await;
    let took = async || {
        let begun = Instant::now();
        let (said, _) = streamed(&running, CHAT, &body(CHAT)).await;
        assert_eq!(said, answer_text("Hi", 20));
        begun.elapsed()
    };
    let own = took().await;
    assert!(own >= Duration::from_millis(30 + 19 * 5), "{own:?}");
    running.set_fault_on(Fault::SlowTokens { ms: 10 }, On::times(1));
    let slower = took().await;
    assert!(slower >= Duration::from_millis(30 + 19 * 15), "{slower:?}");
    running.set_fault_on(Fault::Bursty { tokens: 10, ms: 150 }, On::times(1));
    let bursts = took().await;
    assert!(bursts >= Duration::from_millis(30 + 150), "{bursts:?}");
    // In one piece it takes as long.
    let begun = Instant::now();
    assert_eq!(post(&running, CHAT, &chat("Hi", false)).await.status(), 200);
    assert!(begun.elapsed() >= Duration::from_millis(30 + 19 * 5));
}

#[tokio::test]
async fn a_huge_answer_is_huge() {
    let running = server(Provider::Openai).await;
    running.set_fault(Fault::Huge { bytes: 8 << 20 });
    for is_stream in [true, false] {
        let (text, broke) = all(post(&running, CHAT, &chat("Hi", is_stream)).await).await;
        assert!(!broke && text.len() > 8 << 20, "{}", text.len());
        assert!(text.contains("\"finish_reason\":\"stop\""));
    }
}

#[tokio::test]
async fn the_same_answer_can_come_in_ways_that_readers_do_not_expect() {
    let running = server(Provider::Openai).await;
    let wanted = answer_text("Hi", 60);
    for path in STREAMS {
        let id = running.set_fault(Fault::Noise {});
        let (said, text, _) = tokens(&running, path).await;
        assert_eq!(said.concat(), wanted, "{path}: {text}");
        assert!(text.contains("@@@@") || path == "/api/chat" && text.contains("\n\n"), "{path}: {text}");
        running.clear_fault(id);
        let id = running.set_fault(Fault::NotText { tokens: 3 });
        let bytes = post(&running, path, &body(path)).await.bytes().await.unwrap();
        assert!(std::str::from_utf8(&bytes).is_err(), "{path}");
        running.clear_fault(id);
    }
    running.set_fault_on(Fault::ContentType { is: "image/png".to_owned() }, On::times(1));
    let answer = post(&running, CHAT, &chat("Hi", false)).await;
    assert_eq!(answer.headers()["content-type"], "image/png");
    assert_eq!(answer.json::<Value>().await.unwrap()["choices"][0]["message"]["content"], json!(wanted));
    running.set_fault_on(Fault::OtherForm {}, On::times(2));
    let (whole, _) = all(post(&running, CHAT, &chat("Hi", true)).await).await;
    assert_eq!(serde_json::from_str::<Value>(&whole).unwrap()["object"], "chat.completion");
    let (events, _) = all(post(&running, CHAT, &chat("Hi", false)).await).await;
    assert!(events.starts_with("data: ") && events.contains("[DONE]"), "{events}");
    running.set_fault_on(Fault::NotText { tokens: 0 }, On::times(1));
    let bytes = post(&running, CHAT, &chat("Hi", false)).await.bytes().await.unwrap();
    assert!(std::str::from_utf8(&bytes).is_err());
    running.set_fault(Fault::SlowHeaders { ms: 60_000 });
    let sent = client().post(format!("{}{CHAT}", running.url)).json(&chat("Hi", true));
    assert!(
        sent.timeout(Duration::from_millis(200)).send().await.unwrap_err().is_timeout(),
        "no head at all"
    );
}

#[tokio::test]
async fn a_fault_hits_whom_it_names() {
    let running = server(Provider::Openai).await;
    running.set_fault_on(Fault::ServerError {}, On { after: 1, ..On::times(1) });
    let mut statuses = Vec::new();
    for _ in 0..3 {
        // A look at the models is no request for text and uses none of the times.
        assert!(get(&running, "/v1/models").await["data"].is_array());
        statuses.push(post(&running, CHAT, &chat("x", false)).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 500, 200]);
    running.set_fault_on(Fault::ServerError {}, On::model("e"));
    assert_eq!(post(&running, CHAT, &chat("x", false)).await.status(), 200);
    assert_eq!(post(&running, "/v1/embeddings", &json!({"model": "e", "input": "x"})).await.status(), 500);
    running.set_fault_on(Fault::Overloaded {}, On { path: Some("/v1/models".to_owned()), ..On::default() });
    assert_eq!(client().get(format!("{}/v1/models", running.url)).send().await.unwrap().status(), 503);
}

#[tokio::test]
async fn only_so_many_are_worked_on_and_only_so_many_wait() {
    let mut options = Options::local(Provider::Ollama, vec![ModelSettings::named("m")]);
    (options.parallel, options.queue_max) = (Some(1), 1);
    let running = serve(options).await.unwrap();
    running.set_fault_on(Fault::Stall { tokens: 1 }, On::times(1));
    let working = post(&running, CHAT, &body(CHAT)).await;
    let url = format!("{}{CHAT}", running.url);
    let waiting = tokio::task::JoinSet::from_iter([client().post(&url).json(&chat("x", false)).send()]);
    wait_for("one to wait", PATIENCE, async || running.counts().in_flight == 2).await;
    let refused = post(&running, CHAT, &chat("x", false)).await;
    assert_eq!(refused.status(), 503);
    let told: Value = refused.json().await.unwrap();
    assert_eq!(told["error"]["message"], "server busy, please try again.  maximum pending requests exceeded");
    drop(working);
    let answered = waiting.join_all().await;
    assert_eq!(answered[0].as_ref().unwrap().status(), 200);
    assert_eq!(running.counts().in_flight_max, 3);
}

#[tokio::test]
async fn the_control_endpoint_does_the_same() {
    let running = server(Provider::Openai).await;
    let set = json!({"fault": {"kind": "rate_limited", "per": "day"}, "on": {"times": 1}});
    let id = control(&running, "/fault", &set).await["id"].clone();
    assert_eq!(post(&running, CHAT, &chat("x", false)).await.status(), 429);
    assert_eq!(control(&running, "/fault", &json!({"clear": id})).await, json!({"cleared": [id]}));
    let wrong = control(&running, "/fault", &json!({"fault": {"kind": "weather"}})).await;
    assert!(
        wrong["error"].as_str().unwrap().contains("unknown variant `weather`, expected one of `slow_first`"),
        "{wrong}"
    );
    let (said, _) = streamed(&running, CHAT, &body(CHAT)).await;
    assert_eq!(said, answer_text("Hi", 60));
    let look = async |path: &str| -> Value {
        client().get(format!("{}{path}", running.control_url)).send().await.unwrap().json().await.unwrap()
    };
    let counts = look("/counts").await;
    assert_eq!(
        (&counts["requests"], &counts["refused"], &counts["whole"]),
        (&json!(2), &json!(1), &json!(1))
    );
    assert_eq!(look("/requests").await[1]["ended"], "whole");
    let browser = client().get(&running.control_url).header("origin", "http://x").send().await.unwrap();
    assert_eq!(browser.status(), 403);
    control(&running, "/reset", &json!({})).await;
    assert_eq!(look("/counts").await["requests"], 0);
}
