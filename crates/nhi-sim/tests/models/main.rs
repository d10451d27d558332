//! The simulated model server, asked over real sockets by a real HTTP client: one module for each API, one for
//! faults, one for the promise that a cut text is continued to the same end.

mod anthropic;
mod continuing;
mod faults;
mod gemini;
mod ollama;
mod openai;
mod support;
