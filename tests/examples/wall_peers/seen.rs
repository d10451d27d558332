//! What became of one request at a product, as its client sees it: read more leniently than our own answers are, so that only
//! what no client could tell from an answer counts against it.

use crate::wire::Came;
use serde_json::Value;
use std::fmt;

/// Answers of this length are longer on purpose.
const LONG_BYTES_MIN: usize = 1 << 20;

/// What a client has in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// All of the text and a good end; whether the second backend was asked.
    Whole { has_second: bool },
    /// A status that says no.
    Refused(u16),
    /// Some tokens (nothing of plain answers), then an error event; whether `[DONE]` follows it.
    Error { tokens: Option<usize>, is_done: bool },
    /// Some tokens, then the connection breaks, without a word.
    Cut { tokens: Option<usize> },
    /// Some tokens and a clean end, with or without a reason, or a body that is no answer with a good status: as if that were all.
    Lie { tokens: Option<usize>, what: &'static str },
    /// Nothing more, until the client went away.
    Waits { tokens: Option<usize> },
    /// It went where a redirect pointed.
    Followed,
    /// It does not start before such a backend.
    Absent,
}

impl Seen {
    /// Whether it looks like a good answer and is none.
    pub(crate) const fn is_lie(&self) -> bool {
        matches!(self, Self::Lie { .. } | Self::Followed)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole { has_second: false } => write!(f, "whole"),
            Self::Whole { has_second: true } => write!(f, "whole, by the second"),
            Self::Refused(status) => write!(f, "error {status}"),
            Self::Error { tokens, is_done: false } => write!(f, "{}error", part(*tokens)),
            Self::Error { tokens, is_done: true } => write!(f, "{}error, `[DONE]`", part(*tokens)),
            Self::Cut { tokens } => write!(f, "{}connection breaks", part(*tokens)),
            Self::Lie { tokens, what } => write!(f, "**{}{what}**", part(*tokens)),
            Self::Waits { tokens } => write!(f, "{}waits", part(*tokens)),
            Self::Absent => write!(f, "does not start"),
            Self::Followed => write!(f, "**follows it**"),
        }
    }
}

/// How much of a stream came.
fn part(tokens: Option<usize>) -> String {
    tokens.map_or_else(String::new, |tokens| format!("{tokens} of 60, "))
}

/// The parts of an answer.
#[derive(Debug, Default)]
struct Parts {
    text: String,
    pieces: usize,
    has_error: bool,
    is_done: bool,
    is_finished: bool,
    is_odd: bool,
}

/// Reads an answer.
pub(crate) fn of(stream: bool, came: &Came, expected: &str, has_second: bool, has_followed: bool) -> Seen {
    if has_followed {
        return Seen::Followed;
    }
    if came.status >= 400 {
        return Seen::Refused(came.status);
    }
    let parts = if stream { events(&came.text()) } else { whole(&came.text()) };
    // Of a plain answer, and of one with another text, a number would say nothing.
    let is_damaged = !expected.starts_with(&parts.text);
    let tokens = (stream && !is_damaged).then_some(parts.pieces);
    // Two rows have megabytes behind the text; a character more is a damaged text.
    let is_long = parts.text.len() >= LONG_BYTES_MIN && parts.text.starts_with(expected);
    let is_all = (parts.text == expected || is_long) && parts.is_finished && !parts.has_error;
    match () {
        () if came.status == 0 && came.is_late => Seen::Waits { tokens },
        () if came.status == 0 => Seen::Cut { tokens },
        () if is_all && !came.is_late => Seen::Whole { has_second },
        () if came.is_late => Seen::Waits { tokens },
        () if parts.has_error => Seen::Error { tokens, is_done: parts.is_done },
        () if !came.is_whole => Seen::Cut { tokens },
        () if parts.text == expected => Seen::Lie { tokens, what: "clean end without a reason" },
        () if parts.is_odd && parts.text.is_empty() => {
            Seen::Lie { tokens, what: "passes on what is no answer" }
        }
        () if is_damaged => Seen::Lie { tokens, what: "damaged, said to be whole" },
        () if parts.is_finished => Seen::Lie { tokens, what: "said to be whole" },
        () => Seen::Lie { tokens, what: "clean end" },
    }
}

fn whole(text: &str) -> Parts {
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return Parts { is_odd: true, ..Parts::default() };
    };
    let content = value.pointer("/choices/0/message/content").and_then(Value::as_str);
    Parts {
        text: content.unwrap_or_default().to_owned(),
        pieces: usize::from(content.is_some()),
        has_error: value.get("error").is_some_and(|error| !error.is_null()),
        is_finished: value.pointer("/choices/0/finish_reason").is_some_and(Value::is_string),
        is_odd: content.is_none(),
        is_done: false,
    }
}

fn events(text: &str) -> Parts {
    let mut parts = Parts::default();
    for line in text.lines() {
        let Some(data) = line.strip_prefix("data:").map(str::trim) else {
            parts.is_odd |= !line.is_empty() && !line.starts_with([':', 'e']);
            continue;
        };
        if data == "[DONE]" {
            parts.is_done = true;
            continue;
        }
        let Ok(value) = serde_json::from_str::<Value>(data) else {
            parts.is_odd = true;
            continue;
        };
        parts.has_error |= value.get("error").is_some_and(|error| !error.is_null());
        let content = value.pointer("/choices/0/delta/content").and_then(Value::as_str).unwrap_or_default();
        parts.pieces += usize::from(!content.is_empty());
        parts.text.push_str(content);
        parts.is_finished |= value.pointer("/choices/0/finish_reason").is_some_and(Value::is_string);
    }
    parts
}
