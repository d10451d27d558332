//! What goes wrong with a backend, in the words a router decides by. It says nothing of what to do then.

use std::{fmt, time::Duration};

/// How much of what a backend says is repeated.
const MESSAGE_CHARS_MAX: usize = 400;

/// A backend did not answer, or not to the end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LlmError {
    /// What sort of failure.
    pub kind: Kind,
    /// The HTTP status, or the one told inside a stream.
    pub status: Option<u16>,
    /// One line for people; never a key.
    pub message: String,
    /// How long the backend asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// What sort of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// No connection, or its certificate is not believed.
    Connect,
    /// No connection in time.
    ConnectTimeout,
    /// Nothing came in time.
    Timeout,
    /// It began and then fell silent.
    Stalled,
    /// Asked too often, or for too much, in this span of time.
    RateLimited(Span),
    /// It is too busy, or still loads.
    Overloaded,
    /// The machine's relay says that its GPU is taken.
    GpuTaken,
    /// It refuses the key, or wants money.
    KeyRefused,
    /// It does not have that model.
    NoModel,
    /// The request does not fit into the model's context.
    TooLong,
    /// It refuses the request as it is.
    BadRequest,
    /// It failed.
    Server,
    /// The answer ended before its end.
    Cut,
    /// It said something that is no answer.
    Garbage,
    /// The answer is larger than allowed.
    TooLarge,
    /// It points elsewhere; nobody follows.
    Redirected,
    /// It cannot do that at all.
    Unsupported,
}

/// In which span of time a limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Span {
    /// A minute, or a few.
    Minute,
    /// A day, or until somebody pays.
    Day,
    /// It does not tell.
    Unknown,
}

impl Kind {
    /// The word for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect-timeout",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::RateLimited(Span::Minute) => "rate-limited-minute",
            Self::RateLimited(Span::Day) => "rate-limited-day",
            Self::RateLimited(Span::Unknown) => "rate-limited",
            Self::Overloaded => "overloaded",
            Self::GpuTaken => "gpu-taken",
            Self::KeyRefused => "key-refused",
            Self::NoModel => "no-model",
            Self::TooLong => "too-long",
            Self::BadRequest => "bad-request",
            Self::Server => "server",
            Self::Cut => "cut",
            Self::Garbage => "garbage",
            Self::TooLarge => "too-large",
            Self::Redirected => "redirected",
            Self::Unsupported => "unsupported",
        }
    }

    /// Whether the request may have arrived.
    pub const fn was_sent(self) -> bool {
        !matches!(self, Self::Connect | Self::ConnectTimeout)
    }

    /// What it did, in words for whoever asked; and whether its own words say more than these.
    const fn plain(self) -> (&'static str, bool) {
        match self {
            Self::Connect => ("could not be reached", false),
            Self::ConnectTimeout => ("could not be reached in time", false),
            Self::Timeout => ("did not answer in time", false),
            Self::Stalled => ("fell silent in the middle of its answer", false),
            Self::RateLimited(Span::Minute) => ("was asked too often for the moment", true),
            Self::RateLimited(Span::Day) => ("has reached its limit of the day", true),
            Self::RateLimited(Span::Unknown) => ("was asked too often", true),
            Self::Overloaded => ("has too much to do", true),
            Self::GpuTaken => ("runs on a GPU that is taken", false),
            Self::KeyRefused => ("refused our key", false),
            Self::NoModel => ("is not there", true),
            Self::TooLong => ("has no room for so long a request", true),
            Self::BadRequest => ("refused the request", true),
            Self::Server => ("failed", true),
            Self::Cut => ("broke off before the end of its answer", false),
            Self::Garbage => ("sent something that is no answer", false),
            Self::TooLarge => ("sent more than an answer may have", false),
            Self::Redirected => ("points to another address, where nobody follows", false),
            Self::Unsupported => ("cannot do what was asked", true),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl LlmError {
    /// One sentence for whoever asked, who knows neither HTTP nor the backend: what `who` did and, where the backend itself
    /// says more, its words.
    pub fn plain(&self, who: &str) -> String {
        let words = self.message.strip_prefix("backend ").and_then(|rest| rest.split_once(": "));
        let Some((_, words)) = words else { return format!("{who}: {}", self.message) };
        match self.kind.plain() {
            (what, true) if !words.starts_with("HTTP ") => format!("{who} {what}: {words}"),
            (what, _) => format!("{who} {what}"),
        }
    }

    /// Of what this crate itself says; a backend's words go through `refusal`.
    pub(crate) fn new(kind: Kind, message: impl AsRef<str>) -> Self {
        Self { kind, status: None, message: clean(message.as_ref()), retry_after: None }
    }
}

/// One line without control characters, cut to a length that a person reads.
pub(crate) fn clean(text: &str) -> String {
    let mut line = String::new();
    let mut count = 0;
    let mut space = false;
    for char in text.chars() {
        if char.is_whitespace() || char.is_control() {
            space = true;
            continue;
        }
        if count >= MESSAGE_CHARS_MAX - 2 {
            line.push('…');
            break;
        }
        if space && !line.is_empty() {
            line.push(' ');
            count += 1;
        }
        space = false;
        line.push(char);
        count += 1;
    }
    line
}
