//! Programs that others wrote, against ours: a Proxmox API (fakepve), its client (proxmoxer), a NATS client (nats-py), the libraries
//! of AI programs (openai, anthropic, ollama, google-genai), llama.cpp. And what becomes of a request when its backend fails.
//! Each runs as a process of its own, installed at a pinned version and hash; none of them is part of this project.
//! Beside them our own `nhi`, as the process a plan is rehearsed in.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it is, its helpers too")]

mod acting;
mod dashboard;
mod extending;
mod handover;
mod house;
mod mcp;
mod mesh;
mod mesh_client;
mod models;
mod openapi;
mod operator;
mod peer;
mod proxmox;
mod rehearsal;
mod simulator;
mod traces;
mod up;
mod wall;
