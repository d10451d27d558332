//! Whatever a caller or a backend says, the translations give an answer or an error: they never fall over.

use crate::{
    anthropic, completion,
    decoder::Decoder,
    endpoint::{Hints, Options},
    gemini,
    lines::Event,
    ollama, openai,
    provider::Provider,
};
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
};
use serde_json::{Map, Value};
use std::collections::VecDeque;

/// Words that are looked for.
const WORDS: &str = "text user assistant tool system image_url data:a/b;base64,AA== {} [] stop error tool_use thinking \
    message_start content_block_start content_block_delta message_delta message_stop content_block_stop \
    input_json_delta json_schema STOP 2026-01-31T12:00:00Z";
/// Names of fields that are looked for.
const NAMES: &str = "type role content text id name index messages model tool_calls function arguments choices delta \
    message finish_reason usage candidates parts functionCall args inlineData finishReason \
    usageMetadata content_block stop_reason input done error tools tool_choice response_format \
    json_schema schema output_config extra_content google anthropic thinking thought_signature stop n \
    options image_url url tool_call_id created_at logprobs reasoning_effort generationConfig \
    thoughtSignature partial_json signature models data capabilities details parameter_size model_info \
    parameters";

fn one_of(words: &'static str) -> impl Strategy<Value = String> + Clone {
    prop::sample::select(words.split(' ').map(str::to_owned).collect::<Vec<_>>())
}

/// JSON out of the words that are looked for, in places where they may not belong.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        Just(Value::from("")),
        any::<bool>().prop_map(Value::from),
        (0_u64..4).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        one_of(WORDS).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(one_of(NAMES), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn request() -> impl Strategy<Value = Map<String, Value>> {
    let part = btree_map(
        one_of("tools tool_choice response_format stop output_config options generationConfig metadata"),
        json(),
        0..4,
    );
    (part, vec(json(), 0..4)).prop_map(|(mut fields, mut messages)| {
        for message in messages.iter_mut().filter_map(Value::as_object_mut) {
            message.entry("role").or_insert_with(|| "assistant".into());
        }
        fields.insert("model".to_owned(), "gemini-3".into());
        fields.insert("messages".to_owned(), messages.into());
        fields.into_iter().collect()
    })
}

fn decoders() -> [Decoder; 4] {
    [
        Decoder::Openai(openai::Decoder::new(&Map::new())),
        Decoder::Ollama(ollama::Decoder::default()),
        Decoder::Gemini(gemini::Decoder::default()),
        Decoder::Anthropic(anthropic::Decoder::default()),
    ]
}

proptest! {
    #[test]
    fn any_request_is_said_or_refused(request in request()) {
        let hints = Hints::default();
        let _ = ollama::request(request.clone(), &hints);
        let _ = anthropic::request(&request, &hints);
        let _ = gemini::request(&request);
        for provider in [Provider::Openai, Provider::Groq, Provider::Google, Provider::Other] {
            let said = openai::request(request.clone(), provider, &Options::USUAL);
            prop_assert_eq!(&said["model"], "gemini-3");
        }
    }

    #[test]
    fn any_answer_is_read_or_refused(events in vec(json(), 0..6)) {
        for mut decoder in decoders() {
            let mut chunks = VecDeque::new();
            for event in &events {
                let event = Event { name: None, data: event.to_string() };
                let _ = decoder.take(&event, &mut chunks);
                if let Ok(Value::Object(answer)) = serde_json::from_str(&event.data) {
                    let [_, _, _, _] = decoders().map(|mut decoder| decoder.whole(answer.clone()).is_ok());
                    let _ = (openai::models(&answer), openai::who(&answer), ollama::loaded(&answer));
                    let _ = (gemini::models(&answer), anthropic::models(&answer), ollama::rows(&answer));
                    let _ = openai::chunks_of(answer);
                }
            }
            // What is called an end has a reason to be one.
            if decoder.end(&mut chunks).is_ok() {
                let whole = completion::assembled(chunks);
                let reason = whole["choices"].get(0).and_then(|choice| choice.get("finish_reason"));
                prop_assert!(reason.is_some_and(|reason| !reason.is_null()));
            }
        }
    }
}
