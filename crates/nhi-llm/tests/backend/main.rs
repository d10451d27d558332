//! Backends against real HTTP servers that say what the real ones say.

mod faults;
mod ollama;
mod openai;
mod server;
