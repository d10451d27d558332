//! Where a backend is and how it may be spoken to. Nothing here opens a connection.

use nhi_model::ai::BackendKind;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};
use url::Url;
use zeroize::Zeroizing;

/// Makes the value of the header `Nhi-Relay` from the method and the path with its query, as both stand in the request
/// line. It is called once for each request: a relay takes no value twice.
pub type Signer = Arc<dyn Fn(&str, &str) -> String + Send + Sync>;

/// One backend.
#[derive(Clone)]
pub struct Endpoint {
    /// Its name in configuration; it opens each error's message.
    pub name: String,
    /// What it speaks.
    pub kind: BackendKind,
    /// Its base: `https://api.groq.com/openai/v1`, `http://127.0.0.1:11434`. Without a path the usual one of its kind
    /// is taken.
    pub url: Url,
    /// What it is shown as.
    pub key: Option<Key>,
    /// Headers for each request.
    pub headers: BTreeMap<String, String>,
    /// SHA-256 of the only certificate that is believed; absent: the authorities this machine knows.
    pub fingerprint: Option<[u8; 32]>,
    /// Present where it stands behind a machine's relay.
    pub signer: Option<Signer>,
    /// How long to wait, how much to take.
    pub options: Options,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("url", &self.url.as_str())
            .field("key", &self.key)
            // Values of headers may be keys.
            .field("headers", &self.headers.keys())
            .field("fingerprint", &self.fingerprint.is_some())
            .field("signer", &self.signer.is_some())
            .field("options", &self.options)
            .finish()
    }
}

/// A key; wiped from memory when dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<String>);

impl Key {
    /// Takes it over; white space around it is a mistake of copying.
    pub fn new(text: String) -> Self {
        let text = Zeroizing::new(text);
        Self(Zeroizing::new(text.trim().to_owned()))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// How long to wait, how much to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The fields a request may have; absent: what is known of the provider, else any.
    pub fields: Option<BTreeSet<String>>,
    /// To a connection.
    pub connect: Duration,
    /// From sending the request to the first event of a stream.
    pub first_byte: Duration,
    /// Between two events of a stream, or two pieces of a body.
    pub stall: Duration,
    /// From sending the request to the end of an answer that is not streamed.
    pub whole: Duration,
    /// Bytes of an answer, or of all events of a stream.
    pub answer_bytes_max: usize,
}

impl Options {
    /// What suits most: a model of 32B on a home GPU takes up to two minutes for loading and a long prompt; an answer
    /// of 100,000 tokens, each in an event of its own, has less than 32 MiB.
    pub const USUAL: Self = Self {
        fields: None,
        connect: Duration::from_secs(5),
        first_byte: Duration::from_secs(120),
        stall: Duration::from_secs(60),
        whole: Duration::from_secs(600),
        answer_bytes_max: 32 * 1024 * 1024,
    };
}

/// What the router knows and a request cannot say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Tokens of context to load an Ollama model with; absent: Ollama's own default, which cuts silently.
    pub num_ctx: Option<u32>,
    /// How long Ollama keeps the model after this request.
    pub keep_alive: Option<Duration>,
    /// Tokens of the answer where the backend wants a figure (Anthropic) and the request has none.
    pub output_tokens_max: Option<u32>,
}
