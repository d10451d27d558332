//! An answer as what happens on the wire: bytes, pauses, breaks. Pure; who sends it is in `http`.

use super::{
    ask::{Answer, Finish, Item},
    fault::{Breaks, Effects},
    settings::ModelSettings,
    state::Ended,
    text::Words,
};
use serde_json::Value;
use std::{collections::VecDeque, fmt, time::Duration};

/// The bytes before a cut are given this long to leave: a server throws its buffer away with the connection.
const FLUSH: Duration = Duration::from_millis(5);
/// A byte that stands nowhere in UTF-8 is put where this character was written.
const NO_CHARACTER: &str = "\u{fffd}";
/// Fields of server-sent events that mean nothing here, and one that there is not.
const NOISE: &str = "retry: 3000\nid: 7\nweather: fine\n@@@@ what is this\n\n";
/// Large pieces: a hundred megabytes of single words would take minutes.
const HUGE_WORDS: usize = 4096;
const HUGE_WORD: &str = " huge";
/// Where they stand in a whole answer; no answer has this character of itself.
const HUGE_PLACE: &str = "\u{e000}";

/// What an answer took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) prompt: u32,
    pub(crate) answer: u32,
    /// Tokens of these that were thought only.
    pub(crate) reasoning: u32,
    /// Whether the model tells.
    pub(crate) is_told: bool,
    pub(crate) load_ms: u64,
    pub(crate) first_ms: u64,
    pub(crate) rest_ms: u64,
}

/// The end of a stream, as far as it comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) finish: Finish,
    pub(crate) usage: Usage,
    /// The mark after everything, where the API has one.
    pub(crate) done: bool,
}

/// How an API writes an answer. One for each answer: it may remember what it wrote.
pub(crate) trait Writer: fmt::Debug + Send + Sync {
    /// The content type of its stream.
    fn content_type(&self) -> &'static str;
    /// What comes before the first token.
    fn open(&mut self, answer: &Answer) -> Vec<String>;
    /// A token.
    fn item(&mut self, item: &Item) -> Vec<String>;
    /// What comes after the last one.
    fn close(&mut self, end: End) -> Vec<String>;
    /// An error in the stream.
    fn error(&self) -> Vec<String>;
    /// An event that is none.
    fn garbage(&self) -> String;
    /// What a client has to skip.
    fn comment(&self) -> Option<&'static str>;
    /// The answer in one piece.
    fn whole(&self, answer: &Answer, end: End) -> Value;
}

/// What happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bytes, and how many tokens are in them.
    Send(Vec<u8>, u32),
    Wait(Duration),
    Stall,
    Cut,
    /// The last one, unless it is one of the two before.
    End(Ended),
}

/// A whole answer that breaks in its middle. An error stands in its place, where APIs have that.
pub(crate) fn half_of(how: Breaks, text: &str, error: &Value) -> Vec<Step> {
    let half: String = text.chars().take(text.chars().count() / 2).collect();
    let send = Step::Send(half.into_bytes(), 0);
    match how {
        Breaks::Cut => vec![send, Step::Wait(FLUSH), Step::Cut],
        Breaks::Stall => vec![send, Step::Stall],
        Breaks::Ends => vec![send, Step::End(Ended::Broken)],
        Breaks::Error => vec![Step::Send(error.to_string().into_bytes(), 0), Step::End(Ended::Broken)],
    }
}

/// Stands where [`huge`] puts its text.
pub(crate) fn huge_place() -> Item {
    Item::Text(HUGE_PLACE.to_owned())
}

/// A whole answer with text of at least so many bytes more in it, made while it is sent.
pub(crate) fn huge(bytes: u64, text: &str) -> impl Iterator<Item = Step> + use<> {
    let (before, after) = text.split_once(HUGE_PLACE).unwrap_or((text, ""));
    let piece = HUGE_WORD.repeat(HUGE_WORDS).into_bytes();
    let pieces = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(piece.len());
    let (before, after) = (before.as_bytes().to_vec(), after.as_bytes().to_vec());
    std::iter::once(Step::Send(before, 0))
        .chain(std::iter::repeat_n(Step::Send(piece, 1), pieces))
        .chain([Step::Send(after, 0), Step::End(Ended::Whole)])
}

/// Stands where [`spoiled`] puts its byte.
pub(crate) fn no_character() -> Item {
    Item::Text(NO_CHARACTER.to_owned())
}

/// An answer with a byte that is no UTF-8.
pub(crate) fn spoiled(text: String) -> Vec<u8> {
    let Some(at) = text.find(NO_CHARACTER) else { return text.into_bytes() };
    let mut bytes = text.into_bytes();
    bytes.splice(at..at + NO_CHARACTER.len(), [0xff]);
    bytes
}

/// How fast a model answers, faults included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) first: Duration,
    pub(crate) each: Duration,
    pub(crate) burst: Option<(u32, Duration)>,
}

impl Pace {
    pub(crate) fn of(model: &ModelSettings, load: Duration, effects: &Effects) -> Self {
        let own = if model.tokens_per_s > 0.0 {
            Duration::try_from_secs_f64(1.0 / model.tokens_per_s).unwrap_or_default()
        } else {
            Duration::ZERO
        };
        Self {
            first: load + Duration::from_millis(model.first_token_ms) + effects.first,
            each: own + effects.each,
            burst: effects.burst,
        }
    }

    /// How long before this token.
    fn before(&self, index: u32) -> Duration {
        match self.burst {
            _ if index == 0 => Duration::ZERO,
            Some((tokens, pause)) if index.is_multiple_of(tokens) => pause,
            Some(_) => Duration::ZERO,
            None => self.each,
        }
    }

    /// How long so many tokens take after the first.
    pub(crate) fn rest(&self, tokens: u32) -> Duration {
        (1..tokens).map(|index| self.before(index)).sum()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Start,
    Tokens,
    End,
}

/// A stream from its first byte to its end.
#[derive(Debug)]
pub(crate) struct Script {
    writer: Box<dyn Writer>,
    answer: Answer,
    /// More text after the answer's own.
    beyond: Words,
    effects: Effects,
    pace: Pace,
    end: End,
    sent: u32,
    bytes: u64,
    /// `None`: nothing more comes but the steps that are left.
    phase: Option<Phase>,
    steps: VecDeque<Step>,
}

impl Script {
    pub(crate) fn new(
        writer: Box<dyn Writer>,
        answer: Answer,
        effects: Effects,
        pace: Pace,
        usage: Usage,
    ) -> Self {
        let beyond = Words::of(&format!("{}\n…", answer.question));
        let end = End { finish: answer.finish, usage, done: !effects.no_done };
        let phase = Some(Phase::Start);
        Self { writer, answer, beyond, effects, pace, end, sent: 0, bytes: 0, phase, steps: VecDeque::new() }
    }

    fn send(&mut self, events: Vec<String>, tokens: u32) {
        let mut text = events.concat();
        if let (true, Some(comment)) = (self.effects.comments, self.writer.comment()) {
            text.insert_str(0, comment);
        }
        if let (true, Some(comment)) = (self.effects.noise, self.writer.comment()) {
            // A reader of lines skips empty ones, and no others.
            text.insert_str(0, if comment == "\n" { comment } else { NOISE });
        }
        let is_spoiled = self.effects.not_text == Some(self.sent) && self.phase == Some(Phase::Tokens);
        let bytes = if is_spoiled { spoiled(text) } else { text.into_bytes() };
        if bytes.is_empty() {
            return;
        }
        let Some(size) = self.effects.chopped else {
            return self.steps.push_back(Step::Send(bytes, tokens));
        };
        let chunks = bytes.chunks(size as usize).collect::<Vec<_>>();
        for (index, chunk) in chunks.iter().enumerate() {
            let is_last = index + 1 == chunks.len();
            self.steps.push_back(Step::Send(chunk.to_vec(), if is_last { tokens } else { 0 }));
            // Without a pause the packets would be put together again.
            self.steps.push_back(Step::Wait(Duration::ZERO));
        }
    }

    /// The next token; `None` at the end of the answer.
    fn item(&mut self) -> Option<Item> {
        if let Some(item) = self.answer.items.get(self.sent as usize) {
            return Some(item.clone());
        }
        if self.effects.endless {
            return self.beyond.next().map(|piece| Item::Text(piece.to_owned()));
        }
        if self.bytes < self.effects.bytes_min {
            return Some(Item::Text(HUGE_WORD.repeat(HUGE_WORDS)));
        }
        None
    }

    fn token(&mut self) {
        if let Some((tokens, how)) = self.effects.breaks
            && self.sent >= tokens
        {
            return self.breaks(how);
        }
        if self.effects.garbage == Some(self.sent) {
            self.effects.garbage = None;
            let garbage = self.writer.garbage();
            return self.send(vec![garbage], 0);
        }
        if self.effects.not_text == Some(self.sent) {
            let events = self.writer.item(&no_character());
            self.send(events, 0);
            self.effects.not_text = None;
            return;
        }
        let Some(item) = self.item() else {
            self.phase = Some(Phase::End);
            return;
        };
        let wait = self.pace.before(self.sent);
        if !wait.is_zero() {
            self.steps.push_back(Step::Wait(wait));
        }
        self.sent += 1;
        let events = self.writer.item(&item);
        self.bytes += events.iter().map(|event| event.len() as u64).sum::<u64>();
        self.send(events, 1);
    }

    fn breaks(&mut self, how: Breaks) {
        self.phase = None;
        match how {
            Breaks::Cut => {
                self.steps.push_back(Step::Wait(FLUSH));
                self.steps.push_back(Step::Cut);
            }
            Breaks::Stall => self.steps.push_back(Step::Stall),
            Breaks::Error => {
                let events = self.writer.error();
                self.send(events, 0);
                self.steps.push_back(Step::End(Ended::Broken));
            }
            Breaks::Ends => self.steps.push_back(Step::End(Ended::Broken)),
        }
    }
}

impl Iterator for Script {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Some(step);
            }
            match self.phase? {
                Phase::Start => {
                    self.phase = Some(Phase::Tokens);
                    if !self.pace.first.is_zero() {
                        self.steps.push_back(Step::Wait(self.pace.first));
                    }
                    if self.effects.breaks != Some((0, Breaks::Error)) {
                        let events = self.writer.open(&self.answer);
                        self.send(events, 0);
                    }
                }
                Phase::Tokens => self.token(),
                Phase::End => {
                    self.phase = None;
                    if !self.effects.no_end {
                        self.end.usage.answer = self.sent;
                        let events = self.writer.close(self.end);
                        self.send(events, 0);
                    }
                    let ended = if self.effects.no_end { Ended::Broken } else { Ended::Whole };
                    self.steps.push_back(Step::End(ended));
                }
            }
        }
    }
}
