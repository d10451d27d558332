//! Makes one stream of the pieces several backends give: start-up chunks are held until there is something to read, calls
//! of tools until they are whole, and where another backend takes over nothing is missing and nothing comes twice. It
//! asks nobody and knows no time.

mod overlap;
mod tools;

pub use self::overlap::Diverged;

use self::{overlap::Overlap, tools::Tools};
use nhi_model::ai::{Failed, ORIGIN_FIELD, Origin, Seam};
use serde_json::{Map, Value, json};

/// Chunks held before the first that says something: Azure sends two, nobody sends many.
const HELD_CHUNKS_MAX: usize = 64;
/// Bytes of such chunks.
const HELD_BYTES_MAX: usize = 256 * 1024;
/// A piece this long is still one token, characters.
const PIECE_CHARS_MAX: usize = 16;
/// Tokens of one answer, or of its prompt, that a backend is believed: no model has a longer context.
const TOKENS_MAX: u64 = 10_000_000;
/// Fields of a delta that carry what a model thinks before it speaks.
const THOUGHTS: [&str; 2] = ["reasoning_content", "reasoning"];

/// A chunk of a stream, or a whole answer.
pub type Json = Map<String, Value>;

/// What a backend says it counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub input: u64,
    pub output: u64,
}

/// One stream to one caller.
#[derive(Debug)]
pub struct Weave {
    /// What the caller asked for, and reads as the model's name.
    asked: String,
    wants_usage: bool,
    /// Of the first chunk; all that follow have the same.
    id: Option<Value>,
    created: Option<Value>,
    origin: Origin,
    /// What the caller has read.
    text: String,
    /// Where each piece of it ends, and how many tokens are told until there.
    pieces: Vec<(usize, u32)>,
    is_open: bool,
    held: Vec<Json>,
    held_bytes: usize,
    finish: Option<Json>,
    usage: Option<Json>,
    tools: Tools,
    overlap: Overlap,
    /// The answer has several choices, which nobody can go on with.
    is_plural: bool,
    /// Characters of this attempt, read or not: a measure where the backend does not count.
    chars: u64,
    /// What attempts before this one counted.
    before: Tokens,
    counted: Option<Tokens>,
}

impl Weave {
    /// A stream nobody has said anything in.
    pub fn new(asked: &str, wants_usage: bool, origin: Origin) -> Self {
        Self {
            asked: asked.to_owned(),
            wants_usage,
            id: None,
            created: None,
            origin,
            text: String::new(),
            pieces: Vec::new(),
            is_open: false,
            held: Vec::new(),
            held_bytes: 0,
            finish: None,
            usage: None,
            tools: Tools::default(),
            overlap: Overlap::none(),
            is_plural: false,
            chars: 0,
            before: Tokens::default(),
            counted: None,
        }
    }

    /// What the caller has read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Tokens of the text up to a byte, by the pieces it came in: nearly every backend sends a piece for each token.
    pub fn tokens_until(&self, byte: usize) -> u32 {
        let whole = self.pieces.partition_point(|(end, _)| *end <= byte);
        whole.checked_sub(1).map_or(0, |last| self.pieces[last].1)
    }

    fn piece(&mut self, new: &str) {
        let chars = new.chars().count();
        // Longer than a word: several tokens in one piece.
        let tokens = if chars <= PIECE_CHARS_MAX { chars.min(1) } else { chars.div_ceil(4) };
        let before = self.pieces.last().map_or(0, |(_, tokens)| *tokens);
        let tokens = before.saturating_add(u32::try_from(tokens).unwrap_or(u32::MAX));
        self.pieces.push((self.text.len(), tokens));
    }

    /// Whether the caller has anything, so that a failure can no longer be told as one.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether another backend can take over at all.
    pub const fn can_change(&self) -> bool {
        !self.is_open || !self.is_plural
    }

    /// Whether a call of a tool is being put together.
    pub fn has_tools(&self) -> bool {
        !self.tools.is_empty()
    }

    /// Whether this attempt's backend has said that its answer is whole: [`Self::end`] is what is left to do, whatever
    /// becomes of the connection.
    pub const fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Characters this attempt gave.
    pub const fn chars(&self) -> u64 {
        self.chars
    }

    /// What this attempt's backend counted, when it told.
    pub const fn counted(&self) -> Option<Tokens> {
        self.counted
    }

    /// The attempt has failed: what it began and nobody has read is forgotten. `tokens` is what it took.
    pub fn broke(&mut self, failed: Failed, tokens: Tokens) {
        self.origin.failed.push(failed);
        self.forget_attempt(tokens);
    }

    /// Counts what an attempt took, and forgets all it gave that nobody has read.
    fn forget_attempt(&mut self, tokens: Tokens) {
        self.before = self.before.and(tokens);
        self.held.clear();
        self.held_bytes = 0;
        self.finish = None;
        self.usage = None;
        self.tools = Tools::default();
        self.counted = None;
        self.chars = 0;
    }

    /// Another attempt begins. What it says first is held against `repeats`, the end of what was read already, which it
    /// is asked to say again; `must` when anything else means that it goes another way.
    pub fn resume(&mut self, provider: &str, model: &str, reason: &str, repeats: &str, must: bool) {
        if self.is_open {
            let at = self.text.chars().count() as u64;
            let seam = Seam { at, provider: provider.to_owned(), model: model.to_owned() };
            self.origin.seams.push(seam);
            self.overlap = Overlap::new(repeats, must, &self.text);
        } else {
            provider.clone_into(&mut self.origin.provider);
            model.clone_into(&mut self.origin.model);
            reason.clone_into(&mut self.origin.reason);
        }
    }

    /// The last attempt that began went another way before it added anything to the text: its seam is none, and what it
    /// put together beside the text is forgotten. What it took still counts.
    pub fn forget_seam(&mut self) {
        self.origin.seams.pop();
        self.forget_attempt(self.took());
    }

    /// Takes a chunk, and gives those the caller may read now.
    ///
    /// # Errors
    /// [`Diverged`] when it does not go on where the text ends.
    pub fn take(&mut self, mut chunk: Json) -> Result<Vec<Json>, Diverged> {
        self.dress(&mut chunk);
        self.count(&chunk);
        let choices = chunk.get_mut("choices").and_then(Value::as_array_mut);
        let Some(choices) = choices.filter(|choices| !choices.is_empty()) else {
            if chunk.get("usage").is_some_and(Value::is_object) {
                self.usage = Some(chunk);
                return Ok(Vec::new());
            }
            return Ok(self.hold(chunk, false));
        };
        let is_other = |choice: &Value| choice.get("index").and_then(Value::as_u64).unwrap_or(0) > 0;
        if choices.len() > 1 || choices.iter().any(is_other) {
            self.is_plural = true;
        }
        if self.is_plural {
            return Ok(self.hold(chunk, true));
        }
        let Some(choice) = choices.first_mut().and_then(Value::as_object_mut) else {
            return Ok(self.hold(chunk, false));
        };
        let ends = choice.get("finish_reason").is_some_and(|reason| !reason.is_null());
        let mut says = false;
        let mut is_bare = false;
        if let Some(delta) = choice.get_mut("delta").and_then(Value::as_object_mut) {
            (says, is_bare) = self.read(delta)?;
        }
        if ends {
            let left = self.overlap.finish()?;
            return Ok(self.finish(chunk, says, left));
        }
        // What was said again, or belongs to a tool's call that is not whole, leaves nothing to send.
        if is_bare && (self.is_open || self.has_tools()) {
            return Ok(Vec::new());
        }
        Ok(self.hold(chunk, says))
    }

    /// Keeps a chunk that ends the answer until all figures are there. What it says besides goes out by itself at once,
    /// with what the overlap had left: it is in the text already, and whoever takes over goes on behind it.
    fn finish(&mut self, mut chunk: Json, says: bool, left: String) -> Vec<Json> {
        if !says && left.is_empty() {
            self.finish = Some(chunk);
            return Vec::new();
        }
        let mut last_words = chunk.clone();
        last_words.remove("usage");
        if let Some(choice) = first_choice(&mut last_words) {
            choice.insert("finish_reason".to_owned(), Value::Null);
            if !left.is_empty() {
                self.text.push_str(&left);
                self.piece(&left);
                choice.insert("delta".to_owned(), json!({ "content": left }));
            }
        }
        if let Some(choice) = first_choice(&mut chunk) {
            choice.insert("delta".to_owned(), json!({}));
            choice.remove("logprobs");
        }
        self.finish = Some(chunk);
        self.hold(last_words, true)
    }

    /// Reads a delta, takes out of it what is not to be sent, and says whether it says something, and whether nothing is
    /// left of it.
    fn read(&mut self, delta: &mut Json) -> Result<(bool, bool), Diverged> {
        let is_resumed = !self.origin.seams.is_empty();
        if is_resumed {
            delta.remove("role");
        }
        let mut says = false;
        for name in THOUGHTS {
            let Some(thought) = delta.get(name).and_then(Value::as_str) else { continue };
            self.chars += thought.chars().count() as u64;
            if is_resumed {
                delta.remove(name);
            } else if !thought.is_empty() {
                says = true;
            }
        }
        if let Some(Value::Array(calls)) = delta.remove("tool_calls") {
            self.chars += self.tools.take(calls);
        }
        if let Some(content) = delta.get("content").and_then(Value::as_str) {
            self.chars += content.chars().count() as u64;
            let new = self.overlap.take(content)?;
            if new.is_empty() && is_resumed {
                delta.remove("content");
            } else {
                says |= !new.is_empty();
                self.text.push_str(&new);
                self.piece(&new);
                delta.insert("content".to_owned(), Value::String(new));
            }
        }
        let is_empty = |value: &Value| value.is_null() || value.as_str() == Some("");
        Ok((says, delta.values().all(is_empty)))
    }

    /// The chunks that are left when the backend has said all.
    pub fn end(&mut self) -> Vec<Json> {
        let mut out = std::mem::take(&mut self.held);
        if let Some(calls) = self.tools.whole() {
            let mut chunk = self.finish.clone().or_else(|| out.first().cloned()).unwrap_or_default();
            chunk.remove("usage");
            let choice = json!([{ "index": 0, "delta": { "tool_calls": calls }, "finish_reason": null }]);
            chunk.insert("choices".to_owned(), choice);
            out.push(chunk);
        }
        let sum = self.sum();
        let mut finish = self.finish.take();
        if let Some(finish) = &mut finish {
            sum.write_into(finish);
        }
        out.extend(finish);
        if self.wants_usage {
            let mut last = self.usage.take().unwrap_or_else(|| self.bare_usage());
            sum.write_into(&mut last);
            out.push(last);
        }
        let origin = json!(self.origin);
        if let Some(first) = out.first_mut().filter(|_| !self.is_open) {
            first.insert(ORIGIN_FIELD.to_owned(), origin.clone());
        }
        let from = out.len().saturating_sub(if self.wants_usage { 2 } else { 1 });
        for last in out.iter_mut().skip(from) {
            last.insert(ORIGIN_FIELD.to_owned(), origin.clone());
        }
        self.is_open = true;
        out
    }

    /// The same where the text has reached the limit of its tokens and nobody is asked any more.
    pub fn end_by_limit(&mut self) -> Vec<Json> {
        let mut chunk = self.bare_usage();
        chunk.remove("usage");
        chunk.insert("choices".to_owned(), json!([{ "index": 0, "delta": {}, "finish_reason": "length" }]));
        self.finish = Some(chunk);
        self.end()
    }

    /// What all attempts took together; the last one's prompt holds the text of those before it, so nothing is left out.
    fn sum(&self) -> Tokens {
        self.before.and(self.took())
    }

    /// What this attempt took, as far as is known.
    fn took(&self) -> Tokens {
        self.counted.unwrap_or_else(|| Tokens { input: 0, output: self.chars.div_ceil(4) })
    }

    fn bare_usage(&self) -> Json {
        let mut chunk = Json::new();
        chunk.insert("object".to_owned(), json!("chat.completion.chunk"));
        chunk.insert("choices".to_owned(), json!([]));
        chunk.insert("usage".to_owned(), json!({}));
        chunk.insert("id".to_owned(), self.id.clone().unwrap_or_default());
        chunk.insert("created".to_owned(), self.created.clone().unwrap_or_default());
        chunk.insert("model".to_owned(), json!(self.asked));
        chunk
    }

    /// All chunks have the first one's id and the name that was asked for.
    fn dress(&mut self, chunk: &mut Json) {
        for (field, first) in [("id", &mut self.id), ("created", &mut self.created)] {
            match (&*first, chunk.get(field)) {
                (Some(first), _) => drop(chunk.insert(field.to_owned(), first.clone())),
                (None, Some(own)) => *first = Some(own.clone()),
                (None, None) => {}
            }
        }
        chunk.insert("model".to_owned(), Value::String(self.asked.clone()));
        chunk.remove(ORIGIN_FIELD);
    }

    fn count(&mut self, chunk: &Json) {
        if let Some(tokens) = chunk.get("usage").and_then(Tokens::read) {
            self.counted = Some(tokens);
        }
    }

    /// Keeps a chunk back until one says something; gives all that may go.
    fn hold(&mut self, mut chunk: Json, says: bool) -> Vec<Json> {
        if self.is_open {
            return vec![chunk];
        }
        self.held_bytes += approximate_bytes(&chunk);
        let is_full = self.held.len() + 1 >= HELD_CHUNKS_MAX || self.held_bytes > HELD_BYTES_MAX;
        if !says && !is_full {
            self.held.push(chunk);
            return Vec::new();
        }
        self.is_open = true;
        let mut out = std::mem::take(&mut self.held);
        let first = out.first_mut().unwrap_or(&mut chunk);
        first.insert(ORIGIN_FIELD.to_owned(), json!(self.origin));
        out.push(chunk);
        out
    }
}

impl Tokens {
    /// Reads OpenAI's `usage`. A figure beyond any model's is taken for the largest there can be.
    pub fn read(usage: &Value) -> Option<Self> {
        let number = |name: &str| usage.get(name).and_then(Value::as_u64).map(|told| told.min(TOKENS_MAX));
        let input = number("prompt_tokens")?;
        Some(Self { input, output: number("completion_tokens").unwrap_or(0) })
    }

    /// Both together.
    const fn and(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
        }
    }

    /// Writes the figures over those of a chunk that has some; what else stands there stays.
    fn write_into(self, chunk: &mut Json) {
        if let Some(usage) = chunk.get_mut("usage").and_then(Value::as_object_mut) {
            usage.insert("prompt_tokens".to_owned(), json!(self.input));
            usage.insert("completion_tokens".to_owned(), json!(self.output));
            usage.insert("total_tokens".to_owned(), json!(self.input.saturating_add(self.output)));
        }
    }
}

/// Characters in the texts of an answer, a measure where the backend does not count.
pub fn chars_of(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.chars().count() as u64,
        Value::Array(items) => items.iter().map(chars_of).sum(),
        Value::Object(fields) => {
            let texts = ["content", "reasoning_content", "arguments", "message", "function", "tool_calls"];
            texts.iter().filter_map(|name| fields.get(*name)).map(chars_of).sum()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

fn first_choice(chunk: &mut Json) -> Option<&mut Json> {
    chunk.get_mut("choices")?.as_array_mut()?.first_mut()?.as_object_mut()
}

/// Size of what can be long in a chunk.
fn approximate_bytes(chunk: &Json) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::String(text) => text.len() + 4,
            Value::Array(items) => items.iter().map(of).sum::<usize>() + 2,
            Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + 4 + of(value)).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        }
    }
    chunk.iter().map(|(name, value)| name.len() + 4 + of(value)).sum()
}

#[cfg(test)]
mod tests;
