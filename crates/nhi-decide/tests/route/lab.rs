//! A house with a PC, a small server and three clouds, and how to ask in it.

use nhi_decide::route::{BackendWorld, Decision, Settings, World, decide, read};
use nhi_model::{
    Timestamp,
    ai::{LostWhy, Model},
    gpu::Light,
};
use serde_json::{Map, Value, json};

pub(crate) const NOW: &str = "2026-07-01T12:00:00Z";

pub(crate) fn now() -> Timestamp {
    NOW.parse().unwrap()
}

pub(crate) fn later(seconds: i64) -> Timestamp {
    now() + jiff::SignedDuration::from_secs(seconds)
}

/// The PC's models stay home, except the one Ollama passes on.
pub(crate) const FILE: &str = r#"
[[backend]]
name = "pc"
kind = "ollama"
url = "http://127.0.0.1:11500"
home = true
gpu = "gaming-pc"
models = [
  { name = "qwen2.5:14b", context_tokens = 32768 },
  { name = "llama3.1:8b", context_tokens = 131072 },
  { name = "qwen2.5:3b", context_tokens = 32768 },
  { name = "gpt-oss:120b-cloud", context_tokens = 131072 },
]

[[backend]]
name = "nas"
kind = "openai"
url = "http://192.168.1.9:8080/v1"
home = true
models = [{ name = "smollm", context_tokens = 4096, tools = false, output_tokens_max = 2048 }]
continues = "prefill"

[[backend]]
name = "groq"
kind = "openai"
url = "https://api.groq.com/openai/v1"
api_key_env = "GROQ_API_KEY"
models = ["llama-3.3-70b-versatile"]
privacy = "no-training"

[[backend]]
name = "gemini-flash"
kind = "gemini"
url = "https://generativelanguage.googleapis.com"
api_key_env = "GOOGLE_API_KEY"
models = [{ name = "gemini-2.0-flash", vision = true, context_tokens = 1000000 }]
quality = 8.0

[[backend]]
name = "qwen_cloud"
kind = "openai"
url = "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"
api_key_env = "DASHSCOPE_API_KEY"
models = [{ name = "qwen-max", price = { input = 1.6, output = 6.4 } }]
"#;

pub(crate) fn settings() -> Settings {
    with("")
}

/// The house with more lines. They come first: what is no table must.
pub(crate) fn with(more: &str) -> Settings {
    toml::from_str(&format!("{FILE}\n{more}")).unwrap()
}

/// All is well: the GPU is green, keys are there, the servers told their models.
pub(crate) fn world(settings: &Settings) -> World {
    let mut world = World::default();
    for backend in &settings.backends {
        let told = |name: &String| Model { name: name.clone(), ..Model::default() };
        let known = BackendWorld {
            has_key: true,
            light: backend.gpu.is_some().then_some(Ok(Light::Green)),
            models: backend.models.iter().map(|model| told(&model.name)).collect(),
            ..BackendWorld::default()
        };
        world.backends.insert(backend.name.clone(), known);
    }
    world
}

pub(crate) fn backend<'w>(world: &'w mut World, name: &str) -> &'w mut BackendWorld {
    world.backends.get_mut(name).unwrap()
}

pub(crate) fn body(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no body"),
    }
}

/// A question to an alias or a model.
pub(crate) fn question(model: &str, text: &str) -> Map<String, Value> {
    body(json!({"model": model, "messages": [{"role": "user", "content": text}]}))
}

pub(crate) fn asked(settings: &Settings, world: &World, request: &Map<String, Value>) -> Decision {
    let ask = read(request, &"aider".parse().unwrap(), settings).unwrap();
    let decision = decide(now(), settings, world, &ask);
    assert_eq!(decision.routed.order.len(), decision.picks.len());
    let sentences = decision.routed.order.iter().map(|choice| &choice.reason);
    for text in sentences.chain(decision.routed.lost.iter().map(|lost| &lost.text)) {
        assert!(!text.is_empty() && !text.contains('\n') && !text.ends_with('.'), "{text:?} is no sentence");
    }
    decision
}

/// `backend/model` in order.
pub(crate) fn order(decision: &Decision) -> Vec<String> {
    decision.routed.order.iter().map(|choice| format!("{}/{}", choice.provider, choice.model)).collect()
}

/// Backends in order.
pub(crate) fn who(decision: &Decision) -> Vec<&str> {
    decision.routed.order.iter().map(|choice| choice.provider.as_str()).collect()
}

/// Why this backend's model lost, and when that may be otherwise.
pub(crate) fn why(decision: &Decision, provider: &str, model: &str) -> Option<LostWhy> {
    let lost = &decision.routed.lost;
    lost.iter().find(|lost| lost.provider == provider && lost.model == model).map(|lost| lost.why)
}
