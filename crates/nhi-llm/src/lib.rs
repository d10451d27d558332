//! Model backends: OpenAI-compatible servers, Ollama, Gemini, Anthropic, each spoken to in its own words and read back
//! as OpenAI's `chat.completions`. It chooses no backend and retries nothing.
//!
//! Invariants:
//! - A key is in no error, no `Debug`, no log line, and goes to no other host than the endpoint's: no redirect is
//!   followed.
//! - Dropping a call, or the [`Chunks`] of an answer, closes the connection: the backend learns at once that nobody
//!   listens any more.
//! - A stream ends with a chunk that has a `finish_reason`, or with an error: never with neither.
//! - No answer grows memory without limit: bodies, events and whole streams have a size limit; nothing is decompressed.
//! - What a backend tells and nobody here knows stays in the answer; what a request has and the backend does not know is
//!   dropped only where that provider is known to refuse it.

mod anthropic;
mod backend;
mod body;
mod chunks;
mod completion;
mod content;
mod decoder;
mod embeddings;
mod endpoint;
mod error;
mod gemini;
mod http;
mod ollama;
mod openai;
mod provider;
mod refusal;
mod tls;

pub mod lines;
pub mod ndjson;
pub mod sse;

pub use backend::{Backend, Loaded, Reply};
pub use chunks::Chunks;
pub use completion::assembled;
pub use endpoint::{Endpoint, Hints, Key, Options, Signer};
pub use error::{Kind, LlmError, Span};
pub use provider::continues;

#[cfg(test)]
mod tests;
