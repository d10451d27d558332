//! What can go wrong with a simulated model server, and for which requests. Pure.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// What a limit counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// A minute: it passes by itself.
    Minute,
    /// A day: nothing helps but waiting.
    Day,
}

/// Something that goes wrong. Counts of tokens are of this answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The first token takes this much longer.
    SlowFirst {
        /// Milliseconds.
        ms: u64,
    },
    /// Each token takes this much longer.
    SlowTokens {
        /// Milliseconds.
        ms: u64,
    },
    /// So many tokens at once, then a pause.
    Bursty {
        /// Tokens of a burst.
        tokens: u32,
        /// Milliseconds of the pause.
        ms: u64,
    },
    /// The connection breaks after so many tokens; a whole answer breaks in its middle.
    Cut {
        /// Tokens before.
        tokens: u32,
    },
    /// Nothing more comes after so many tokens, and the connection stays.
    Stall {
        /// Tokens before.
        tokens: u32,
    },
    /// The answer has no end; a whole one never comes.
    Endless {},
    /// 429, in the words of the provider.
    RateLimited {
        /// What is used up.
        per: Span,
        /// Seconds it says to wait, where the provider says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u64>,
    },
    /// Too much to do: 503, or what the provider sends then.
    Overloaded {},
    /// 500.
    ServerError {},
    /// The key is refused.
    KeyRefused {},
    /// The model is not there.
    NoModel {},
    /// The prompt is too long.
    TooLong {},
    /// After so many tokens an event is no JSON; then it goes on. A whole answer is no JSON.
    Garbage {
        /// Tokens before.
        tokens: u32,
    },
    /// A page of HTML with status 200.
    WrongType {},
    /// The answer as it is, said to be something else.
    ContentType {
        /// What it is said to be.
        is: String,
    },
    /// In one piece where a stream is asked for, as a stream where it is not.
    OtherForm {},
    /// Not even a status comes for so long.
    SlowHeaders {
        /// Milliseconds.
        ms: u64,
    },
    /// After so many tokens comes a byte that is no UTF-8; then it goes on. A whole answer has it too.
    NotText {
        /// Tokens before.
        tokens: u32,
    },
    /// Lines between the events that no reader knows and every reader has to skip.
    Noise {},
    /// The text has at least so many bytes.
    Huge {
        /// Bytes.
        bytes: u64,
    },
    /// 307 to somewhere else.
    Redirect {
        /// Where.
        to: String,
    },
    /// Status 200, then after so many tokens an error in the stream, in the words of the provider.
    InBandError {
        /// Tokens before.
        tokens: u32,
    },
    /// Status 200 and nothing.
    EmptyStream {},
    /// All of the text, but nothing says that it ended: no finish reason, no usage, no `[DONE]`.
    NoEnd {},
    /// Finish reason and usage come, `[DONE]` does not.
    NoDone {},
    /// A clean end after so many tokens, without saying that it is one.
    EndsEarly {
        /// Tokens before.
        tokens: u32,
    },
    /// The stream leaves in packets of so many bytes, whatever they cut.
    Chopped {
        /// Bytes of each.
        bytes: u32,
    },
    /// Comments of the server between the events, where the stream has such.
    Comments {},
    /// The connection closes without an answer.
    Dropped {},
    /// Any other status and body.
    Status {
        /// The status.
        code: u16,
        /// The body.
        #[serde(default)]
        body: String,
    },
}

/// Which requests a fault is for: all that ask for text or vectors, when nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct On {
    /// The model they ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A part of the path. It reaches every other request too, such as the list of models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether they ask for a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// So many go through first.
    pub after: u32,
    /// So many are hit; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

impl On {
    /// The next so many requests.
    pub fn times(times: u32) -> Self {
        Self { times: Some(times), ..Self::default() }
    }

    /// All requests for a model.
    pub fn model(name: &str) -> Self {
        Self { model: Some(name.to_owned()), ..Self::default() }
    }

    fn takes(&mut self, request: &About<'_>) -> bool {
        let fits = self.model.as_deref().is_none_or(|wanted| request.model == Some(wanted))
            && self.path.as_deref().map_or(request.generates, |part| request.path.contains(part))
            && self.stream.is_none_or(|wanted| request.is_stream == wanted);
        if !fits {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        match &mut self.times {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

/// What a fault looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) path: &'a str,
    pub(crate) model: Option<&'a str>,
    pub(crate) is_stream: bool,
    pub(crate) generates: bool,
}

/// A fault that is on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// What goes wrong.
    pub fault: Fault,
    /// For which requests; what is left of its numbers.
    #[serde(default)]
    pub on: On,
}

/// Faults that are on, by number, in the order they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    list: BTreeMap<u64, Set>,
    last: u64,
}

impl Faults {
    pub(crate) fn set(&mut self, set: Set) -> u64 {
        self.last += 1;
        self.list.insert(self.last, set);
        self.last
    }

    pub(crate) fn clear(&mut self, id: u64) -> bool {
        self.list.remove(&id).is_some()
    }

    pub(crate) fn clear_all(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.list).into_keys().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Set)> {
        self.list.iter().map(|(id, set)| (*id, set))
    }

    /// All that goes wrong with this request, together; counts it against `times` and `after`.
    pub(crate) fn effects(&mut self, request: &About<'_>) -> Effects {
        let mut effects = Effects::default();
        for set in self.list.values_mut() {
            if set.on.takes(request) {
                effects.add(&set.fault);
            }
        }
        effects
    }
}

/// What stands in the place of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Instead {
    RateLimited { per: Span, retry_after_s: Option<u64> },
    Overloaded,
    ServerError,
    KeyRefused,
    NoModel,
    TooLong,
    Html,
    Redirect { to: String },
    Empty,
    Dropped,
    Status { code: u16, body: String },
}

/// Where a stream ends before its end, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breaks {
    Cut,
    Stall,
    Error,
    Ends,
}

/// All faults of one request, added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Effects {
    pub(crate) instead: Option<Instead>,
    pub(crate) first: Duration,
    pub(crate) each: Duration,
    pub(crate) burst: Option<(u32, Duration)>,
    /// The first place where it breaks.
    pub(crate) breaks: Option<(u32, Breaks)>,
    pub(crate) garbage: Option<u32>,
    pub(crate) endless: bool,
    pub(crate) bytes_min: u64,
    pub(crate) no_end: bool,
    pub(crate) no_done: bool,
    pub(crate) chopped: Option<u32>,
    pub(crate) comments: bool,
    pub(crate) noise: bool,
    /// Before the status.
    pub(crate) silence: Duration,
    pub(crate) not_text: Option<u32>,
    pub(crate) content_type: Option<String>,
    pub(crate) other_form: bool,
}

impl Effects {
    fn add(&mut self, fault: &Fault) {
        match fault {
            Fault::SlowFirst { ms } => self.first += Duration::from_millis(*ms),
            Fault::SlowTokens { ms } => self.each += Duration::from_millis(*ms),
            Fault::Bursty { tokens, ms } => self.burst = Some(((*tokens).max(1), Duration::from_millis(*ms))),
            Fault::Cut { tokens } => self.breaks_at(*tokens, Breaks::Cut),
            Fault::Stall { tokens } => self.breaks_at(*tokens, Breaks::Stall),
            Fault::InBandError { tokens } => self.breaks_at(*tokens, Breaks::Error),
            Fault::EndsEarly { tokens } => self.breaks_at(*tokens, Breaks::Ends),
            Fault::Endless {} => self.endless = true,
            Fault::Garbage { tokens } => self.garbage = Some(*tokens),
            Fault::Huge { bytes } => self.bytes_min = self.bytes_min.max(*bytes),
            Fault::NoEnd {} => self.no_end = true,
            Fault::NoDone {} => self.no_done = true,
            Fault::Chopped { bytes } => self.chopped = Some((*bytes).max(1)),
            Fault::Comments {} => self.comments = true,
            Fault::Noise {} => self.noise = true,
            Fault::SlowHeaders { ms } => self.silence += Duration::from_millis(*ms),
            Fault::NotText { tokens } => self.not_text = Some(*tokens),
            Fault::ContentType { is } => self.content_type = Some(is.clone()),
            Fault::OtherForm {} => self.other_form = true,
            Fault::RateLimited { per, retry_after_s } => {
                self.answers(Instead::RateLimited { per: *per, retry_after_s: *retry_after_s });
            }
            Fault::Overloaded {} => self.answers(Instead::Overloaded),
            Fault::ServerError {} => self.answers(Instead::ServerError),
            Fault::KeyRefused {} => self.answers(Instead::KeyRefused),
            Fault::NoModel {} => self.answers(Instead::NoModel),
            Fault::TooLong {} => self.answers(Instead::TooLong),
            Fault::WrongType {} => self.answers(Instead::Html),
            Fault::Redirect { to } => self.answers(Instead::Redirect { to: to.clone() }),
            Fault::EmptyStream {} => self.answers(Instead::Empty),
            Fault::Dropped {} => self.answers(Instead::Dropped),
            Fault::Status { code, body } => self.answers(Instead::Status { code: *code, body: body.clone() }),
        }
    }

    fn answers(&mut self, instead: Instead) {
        self.instead.get_or_insert(instead);
    }

    fn breaks_at(&mut self, tokens: u32, how: Breaks) {
        if self.breaks.is_none_or(|(earlier, _)| tokens < earlier) {
            self.breaks = Some((tokens, how));
        }
    }
}
