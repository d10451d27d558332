//! `nhi sim models`, as clap types.

use clap::Args;
use nhi_sim::models::Provider;
use std::{net::SocketAddr, path::PathBuf};

/// A simulated model server: OpenAI's, Ollama's, Google's and Anthropic's APIs on one port.
#[derive(Clone, Debug, Args)]
pub(crate) struct Models {
    /// Address to listen on; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:11434")]
    pub listen: SocketAddr,
    /// Address of the control endpoint (loopback)
    #[arg(long, default_value = "127.0.0.1:11435")]
    pub control: SocketAddr,
    /// Whose rules hold below /v1: openai, llamacpp, vllm, groq, dashscope, gemini, anthropic or ollama
    #[arg(long, value_name = "NAME", default_value = "ollama")]
    pub provider: Provider,
    /// A JSON list of models instead of the demo's
    #[arg(long, value_name = "FILE")]
    pub models: Option<PathBuf>,
    /// Environment variable with the only key that is taken
    #[arg(long, value_name = "VARIABLE")]
    pub key_env: Option<String>,
    /// Requests worked on at a time; the others wait
    #[arg(long, value_name = "N")]
    pub parallel: Option<std::num::NonZeroUsize>,
    /// Requests that may wait before one is refused
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub queue_max: usize,
}
