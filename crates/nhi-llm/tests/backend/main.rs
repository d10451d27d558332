//! Backends against real HTTP servers that say what the real ones say.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod anthropic;
mod faults;
mod gemini;
mod ollama;
mod openai;
mod server;
mod trust;
mod unload;
