//! A simulated model server: OpenAI's, Ollama's, Google's and Anthropic's APIs on one port, with text that
//! depends on the question alone, and with faults on request. It thinks nothing; it is there to be routed to.
//!
//! Invariants:
//! - Equal questions have equal answers, whatever model, API or server; a text that was cut is continued to the
//!   same end. [`answer_text`] tells it beforehand.
//! - What a provider would do with a trailing assistant message is done: some continue it, some answer anew.
//! - Nothing here is shared with the clients we test against it (`nhi-llm`).

mod anthropic;
mod ask;
mod control;
mod fault;
mod gemini;
mod http;
mod ollama;
mod openai;
mod refusal;
mod route;
mod script;
mod serve;
mod settings;
mod state;
mod text;

pub use fault::{Fault, On, Set, Span};
pub use settings::{Continues, ModelSettings, ModelsError, NoProvider, Options, Provider};
pub use state::{Cancelled, Counts, Ended, Loaded, Seen};

use crate::server::{SimError, listen};
use state::Shared;
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What a model says to this, as its last question, in so many tokens.
pub fn answer_text(question: &str, tokens: u32) -> String {
    text::answer(question, tokens)
}

/// The same, token by token.
pub fn answer_tokens(question: &str, tokens: u32) -> Vec<String> {
    text::whole(question, text::Form::Text, tokens)
}

/// A running model server. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct Running {
    /// The API: `http://127.0.0.1:PORT`, without a path.
    pub url: String,
    /// The control endpoint: `http://127.0.0.1:PORT`.
    pub control_url: String,
    shared: Arc<Shared>,
    cancelled: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    /// Stops, cuts every connection and waits until they are gone.
    pub async fn stop(self) {
        self.cancelled.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Switches a fault on for all requests for text and vectors; the number clears it.
    pub fn set_fault(&self, fault: Fault) -> u64 {
        self.set_fault_on(fault, On::default())
    }

    /// Switches a fault on for these requests.
    pub fn set_fault_on(&self, fault: Fault, on: On) -> u64 {
        self.shared.with_faults(|faults| faults.set(Set { fault, on }))
    }

    /// Switches a fault off; false when there is none with this number.
    pub fn clear_fault(&self, id: u64) -> bool {
        self.shared.with_faults(|faults| faults.clear(id))
    }

    /// Switches all faults off.
    pub fn clear_faults(&self) {
        self.shared.with_faults(fault::Faults::clear_all);
    }

    /// The counters as they are now.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// The latest requests, the oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen()
    }

    /// Models that are loaded now (requests through Ollama's APIs load them).
    pub fn loaded(&self) -> Vec<Loaded> {
        self.shared.loaded()
    }

    /// Bytes they take of the GPU.
    pub fn vram_bytes(&self) -> u64 {
        self.loaded().iter().map(|loaded| loaded.vram_bytes).sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancelled.cancel();
    }
}

/// Starts a model server.
///
/// # Errors
/// When an address is taken, or the control endpoint would not be on loopback.
pub async fn serve(options: Options) -> Result<Running, SimError> {
    if !options.control_listen.ip().is_loopback() {
        return Err(SimError::ControlNotLoopback { address: options.control_listen });
    }
    let (listener, address) = listen(options.listen).await?;
    let (control_listener, control_address) = listen(options.control_listen).await?;
    let shared = Arc::new(Shared::new(options));
    let (tasks, cancelled) = (TaskTracker::new(), CancellationToken::new());
    let own = Arc::clone(&shared);
    let handler: http::Handler = Arc::new(move |request| Box::pin(serve::answer(Arc::clone(&own), request)));
    tasks.spawn(http::accept(listener, handler, tasks.clone(), cancelled.clone()));
    let own = Arc::clone(&shared);
    let handler: http::Handler =
        Arc::new(move |request| Box::pin(control::answer(Arc::clone(&own), request)));
    tasks.spawn(http::accept(control_listener, handler, tasks.clone(), cancelled.clone()));
    Ok(Running {
        url: format!("http://{address}"),
        control_url: format!("http://{control_address}"),
        shared,
        cancelled,
        tasks,
    })
}
