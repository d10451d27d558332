//! What goes wrong at the first backend, and what has to become of the request: every cell of the wall, written down.

use nhi_model::ai::BackendKind;
use nhi_sim::models::{Fault, Provider, Span};

/// What a caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The whole answer of the first backend: what it did is harmless.
    Untouched,
    /// The whole answer of the second one, as if there were no first.
    Unseen,
    /// The whole answer, begun by the first one and ended by the second: nothing missing, nothing twice.
    Continued,
    /// This status, with an error in the dialect's shape.
    Refused(u16),
    /// 503, or 504 where the machine's resolver of names does not answer in time.
    Unreached,
    /// The whole answer of the first backend, which is longer than others.
    Longer,
    /// It has all the tokens that were asked for, and says that it ended by that limit.
    Limited,
    /// What was read so far is right; then comes an error in the dialect's shape, and a connection that breaks off where
    /// that error could be taken for one more piece.
    Broken,
}

/// What the first backend is.
#[derive(Clone, Debug)]
pub(crate) enum First {
    /// A server that does this.
    Does(Vec<Fault>),
    /// The same, and it points to a server that must not be asked.
    Redirects,
    /// A port nobody listens at.
    Closed,
    /// A name that there is not.
    Nowhere,
}

/// One row: plain and streamed, with a healthy second backend and without one.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) first: First,
    /// Whose words the first backend has, and what it is configured as.
    pub(crate) provider: Provider,
    pub(crate) kind: BackendKind,
    pub(crate) plain: [Outcome; 2],
    pub(crate) stream: [Outcome; 2],
    /// Too much to move for every front in every run.
    pub(crate) is_heavy: bool,
}

use Outcome::{Broken, Continued, Limited, Longer, Refused, Unreached, Unseen, Untouched};

impl Case {
    /// A fault that shows before the first token, plain and streamed.
    fn early(name: &'static str, fault: Fault, status: u16) -> Self {
        Self::of(name, vec![fault], [Unseen, Refused(status)], [Unseen, Refused(status)])
    }

    /// A fault in the middle of a stream; a plain answer is spoiled by it.
    fn late(name: &'static str, fault: Fault) -> Self {
        Self::of(name, vec![fault], [Unseen, Refused(503)], [Continued, Broken])
    }

    /// What every reader has to bear.
    fn harmless(name: &'static str, fault: Fault) -> Self {
        Self::of(name, vec![fault], [Untouched; 2], [Untouched; 2])
    }

    fn of(name: &'static str, faults: Vec<Fault>, plain: [Outcome; 2], stream: [Outcome; 2]) -> Self {
        let (first, kind) = (First::Does(faults), BackendKind::Openai);
        Self { name, first, provider: Provider::Llamacpp, kind, plain, stream, is_heavy: false }
    }

    fn first(name: &'static str, first: First) -> Self {
        Self { first, ..Self::early(name, Fault::Dropped {}, 503) }
    }

    fn by(self, provider: Provider, kind: BackendKind) -> Self {
        Self { provider, kind, ..self }
    }

    fn limited(name: &'static str, per: Span, provider: Provider, kind: BackendKind) -> Self {
        Self::early(name, Fault::RateLimited { per, retry_after_s: None }, 429).by(provider, kind)
    }
}

/// Tokens before a fault in the middle; an answer has sixty.
pub(crate) const MIDDLE: u32 = 20;

/// All rows.
pub(crate) fn cases() -> Vec<Case> {
    let mut all = vec![
        Case::first("nobody listens", First::Closed),
        Case {
            plain: [Unseen, Unreached],
            stream: [Unseen, Unreached],
            ..Case::first("no such host", First::Nowhere)
        },
        Case::first("redirect to elsewhere", First::Redirects),
        Case::early("closed without an answer", Fault::Dropped {}, 503),
    ];
    all.extend(limits());
    all.extend(statuses());
    all.extend(bodies());
    all.extend(breaks());
    all.extend(endless());
    all.extend(oddities());
    all
}

fn limits() -> Vec<Case> {
    let (minute, day) = (Span::Minute, Span::Day);
    vec![
        Case::limited("429 of a minute, OpenAI", minute, Provider::Openai, BackendKind::Openai),
        Case::limited("429 of a day, OpenAI", day, Provider::Openai, BackendKind::Openai),
        Case::limited("429 of a minute, Groq", minute, Provider::Groq, BackendKind::Openai),
        Case::limited("429 of a day, Groq", day, Provider::Groq, BackendKind::Openai),
        Case::limited("429 of a minute, DashScope", minute, Provider::Dashscope, BackendKind::Openai),
        Case::limited("403 of a day, DashScope", day, Provider::Dashscope, BackendKind::Openai),
        Case::limited("429 of a minute, Google's OpenAI mode", minute, Provider::Gemini, BackendKind::Openai),
        Case::limited("429 of a day, Google", day, Provider::Gemini, BackendKind::Gemini),
        Case::limited("429, Anthropic", minute, Provider::Anthropic, BackendKind::Anthropic),
        Case::limited("429, Ollama", day, Provider::Ollama, BackendKind::Ollama),
    ]
}

fn statuses() -> Vec<Case> {
    let (anthropic, ollama) = (BackendKind::Anthropic, BackendKind::Ollama);
    vec![
        Case::early("401", Fault::KeyRefused {}, 503),
        Case::early("404, the model is gone", Fault::NoModel {}, 503),
        Case::early("400, the prompt is too long", Fault::TooLong {}, 400),
        Case::early("500", Fault::ServerError {}, 503),
        Case::early("503", Fault::Overloaded {}, 503),
        Case::early("529, Anthropic", Fault::Overloaded {}, 503).by(Provider::Anthropic, anthropic),
        Case::early("503, Ollama's queue is full", Fault::Overloaded {}, 503).by(Provider::Ollama, ollama),
        Case::early("204, nothing", Fault::Status { code: 204, body: String::new() }, 503),
    ]
}

fn bodies() -> Vec<Case> {
    let status = |body: &str| Fault::Status { code: 200, body: body.to_owned() };
    vec![
        Case::early("200, a page of HTML", Fault::WrongType {}, 503),
        Case::early("200, an empty body", Fault::EmptyStream {}, 503),
        Case::early("200, {}", status("{}"), 503),
        Case::early("200, an error in the body", status(r#"{"error":{"message":"Compute error."}}"#), 503),
        Case::early("200, no JSON", Fault::Garbage { tokens: 0 }, 503),
        Case::early("200, bytes that are no text", Fault::NotText { tokens: 0 }, 503),
        Case::early("200, an error first", Fault::InBandError { tokens: 0 }, 503),
        Case::early("cut before the first token", Fault::Cut { tokens: 0 }, 503),
        Case::early("a clean end before the first token", Fault::EndsEarly { tokens: 0 }, 503),
    ]
}

fn breaks() -> Vec<Case> {
    let tokens = MIDDLE;
    vec![
        Case::late("cut in the middle", Fault::Cut { tokens }),
        Case::late("a clean end in the middle", Fault::EndsEarly { tokens }),
        Case::late("an error in the middle", Fault::InBandError { tokens }),
        Case::late("an error in the middle, Anthropic", Fault::InBandError { tokens })
            .by(Provider::Anthropic, BackendKind::Anthropic),
        Case::late("an error in the middle, Google", Fault::InBandError { tokens })
            .by(Provider::Gemini, BackendKind::Gemini),
        Case::late("an error in the middle, Ollama", Fault::InBandError { tokens })
            .by(Provider::Ollama, BackendKind::Ollama),
        Case::late("an event that is no JSON", Fault::Garbage { tokens }),
        Case::late("a byte that is no text", Fault::NotText { tokens }),
        Case::of("all of the text, but no end", vec![Fault::NoEnd {}], [Untouched; 2], [Continued, Broken]),
    ]
}

/// Faults that only a limit ends.
fn endless() -> Vec<Case> {
    let late = [Unseen, Refused(504)];
    let huge = |bytes: u64| vec![Fault::Huge { bytes }];
    let slowly = vec![Fault::Endless {}, Fault::SlowTokens { ms: 50 }];
    vec![
        Case::of("not even a status", vec![Fault::SlowHeaders { ms: 600_000 }], late, late),
        Case::of("silence before the first token", vec![Fault::Stall { tokens: 0 }], late, late),
        Case::of("a first token that takes forever", vec![Fault::SlowFirst { ms: 600_000 }], late, late),
        Case::of("silence in the middle", vec![Fault::Stall { tokens: MIDDLE }], late, [Continued, Broken]),
        Case::of("it never ends", slowly, late, [Broken; 2]),
        Case {
            is_heavy: true,
            // A message of the bus has 8 MB at most; pieces pass.
            ..Case::of("9 MB of text", huge(9 << 20), [Refused(413); 2], [Longer; 2])
        },
        Case {
            is_heavy: true,
            ..Case::of("100 MB of text", huge(100 << 20), [Unseen, Refused(503)], [Limited; 2])
        },
    ]
}

fn oddities() -> Vec<Case> {
    let is = "application/octet-stream".to_owned();
    vec![
        Case::of("the other form", vec![Fault::OtherForm {}], [Unseen, Refused(503)], [Untouched; 2]),
        Case::harmless("another content type", Fault::ContentType { is }),
        Case::harmless("no [DONE]", Fault::NoDone {}),
        Case::harmless("comments between the events", Fault::Comments {}),
        Case::harmless("lines nobody knows", Fault::Noise {}),
        Case::harmless("packets of three bytes", Fault::Chopped { bytes: 3 }),
    ]
}
