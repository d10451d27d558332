//! Backends against real HTTP servers that say what the real ones say.

mod anthropic;
mod faults;
mod gemini;
mod ollama;
mod openai;
mod server;
