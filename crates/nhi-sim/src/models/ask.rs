//! A request, whatever API it came through, and the answer of a simulated model to it. Pure: no pace, no
//! faults, no JSON of any API.

use super::{
    settings::{Continues, ModelSettings, Provider},
    text::{self, Form},
};
use serde_json::{Map, Value, json};

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    System,
    User,
    Assistant,
    Tool,
}

/// One message.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) role: Role,
    pub(crate) text: String,
    pub(crate) images: usize,
    /// `partial: true`, DashScope's mark of an answer that is to go on.
    pub(crate) is_partial: bool,
    /// It calls tools.
    pub(crate) calls: bool,
}

/// A tool that may be called.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) schema: Value,
}

/// Whether it is to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// When the last message names it.
    Auto,
    Never,
    Any,
    Named(String),
}

/// A request for text.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) model: String,
    pub(crate) is_stream: bool,
    pub(crate) turns: Vec<Turn>,
    pub(crate) tools: Vec<Tool>,
    pub(crate) choice: Choice,
    pub(crate) form: Form,
    pub(crate) tokens_max: Option<u32>,
    /// A stream is to end with its usage, where that must be asked for.
    pub(crate) wants_usage: bool,
    /// vLLM's `continue_final_message` without `add_generation_prompt`.
    pub(crate) goes_on: bool,
    /// Ollama's `options.num_ctx`.
    pub(crate) num_ctx: Option<u32>,
    /// Ollama's `keep_alive`, seconds; negative: for ever.
    pub(crate) keep_alive_s: Option<i64>,
}

impl Ask {
    /// An empty request for a model.
    pub(crate) fn of(model: String) -> Self {
        Self {
            model,
            is_stream: false,
            turns: Vec::new(),
            tools: Vec::new(),
            choice: Choice::Auto,
            form: Form::Text,
            tokens_max: None,
            wants_usage: false,
            goes_on: false,
            num_ctx: None,
            keep_alive_s: None,
        }
    }

    /// What is asked: the last thing a user or a tool said, tools after it included.
    fn question(&self) -> String {
        let from = self.turns.iter().rposition(|turn| turn.role == Role::User).unwrap_or(0);
        let said = self.turns.iter().skip(from).filter(|turn| matches!(turn.role, Role::User | Role::Tool));
        said.map(|turn| turn.text.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// The beginning of the answer, when the request has one and the model takes it for that.
    fn head(&self, continues: Continues) -> Option<&str> {
        let last = self.turns.last().filter(|turn| turn.role == Role::Assistant && !turn.calls)?;
        let is_taken = match continues {
            Continues::Prefill => true,
            Continues::Partial => last.is_partial,
            Continues::Final => self.goes_on,
            Continues::Never | Continues::Refuses => false,
        };
        is_taken.then_some(last.text.as_str())
    }

    /// Tokens of the prompt: each message costs four more.
    pub(crate) fn prompt_tokens(&self) -> u32 {
        let turns = self.turns.iter().map(|turn| text::tokens_of(&turn.text).saturating_add(4));
        let tools = self.tools.iter().map(|tool| text::tokens_of(&tool.schema.to_string()).saturating_add(8));
        turns.chain(tools).fold(0, u32::saturating_add)
    }

    fn called(&self) -> Option<&Tool> {
        if self.turns.last().is_some_and(|turn| turn.role != Role::User) {
            return None;
        }
        let asked = self.question();
        match &self.choice {
            Choice::Never => None,
            Choice::Any => {
                self.tools.iter().find(|tool| asked.contains(&tool.name)).or_else(|| self.tools.first())
            }
            Choice::Named(name) => self.tools.iter().find(|tool| tool.name == *name),
            Choice::Auto => self.tools.iter().find(|tool| asked.contains(&tool.name)),
        }
    }
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: Value,
}

/// A token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    Reason(String),
    Text(String),
    Call(Call),
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
    Tools,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) question: String,
    /// What the request had of it already.
    pub(crate) head: String,
    pub(crate) items: Vec<Item>,
    pub(crate) finish: Finish,
    pub(crate) prompt_tokens: u32,
    /// The prompt was cut without a word, as Ollama does.
    pub(crate) is_truncated: bool,
}

impl Answer {
    /// Its text, without the head.
    pub(crate) fn text(&self) -> String {
        self.collect(|item| if let Item::Text(text) = item { Some(text.as_str()) } else { None })
    }

    /// What was thought before.
    pub(crate) fn reasoning(&self) -> String {
        self.collect(|item| if let Item::Reason(text) = item { Some(text.as_str()) } else { None })
    }

    fn collect<'a>(&'a self, pick: impl Fn(&'a Item) -> Option<&'a str>) -> String {
        self.items.iter().filter_map(pick).collect()
    }

    /// Its calls.
    pub(crate) fn calls(&self) -> impl Iterator<Item = &Call> {
        self.items.iter().filter_map(|item| if let Item::Call(call) = item { Some(call) } else { None })
    }

    /// Its tokens.
    pub(crate) fn tokens(&self) -> u32 {
        u32::try_from(self.items.len()).unwrap_or(u32::MAX)
    }
}

/// Why a model does not answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Unfit {
    TooLong { tokens: u32, limit: u32 },
    NoTools,
    NoVision,
    NoPrefill,
    EmbedsOnly,
    EndsInSpace,
}

/// The answer of a model.
pub(crate) fn answer(
    ask: &Ask,
    model: &ModelSettings,
    provider: Provider,
    context: u32,
) -> Result<Answer, Unfit> {
    if model.embeds {
        return Err(Unfit::EmbedsOnly);
    }
    if !model.tools && !ask.tools.is_empty() {
        return Err(Unfit::NoTools);
    }
    if !model.vision && ask.turns.iter().any(|turn| turn.images > 0) {
        return Err(Unfit::NoVision);
    }
    let continues = model.continues.unwrap_or_else(|| provider.continues());
    let ends_with_answer = ask.turns.last().is_some_and(|turn| turn.role == Role::Assistant && !turn.calls);
    if continues == Continues::Refuses && ends_with_answer {
        return Err(Unfit::NoPrefill);
    }
    let head = ask.head(continues).unwrap_or_default().to_owned();
    if provider == Provider::Anthropic && head.ends_with(char::is_whitespace) {
        return Err(Unfit::EndsInSpace);
    }
    let (mut prompt_tokens, mut is_truncated) = (ask.prompt_tokens(), false);
    if prompt_tokens > context {
        // Ollama alone says nothing and forgets the beginning.
        if provider != Provider::Ollama {
            return Err(Unfit::TooLong { tokens: prompt_tokens, limit: context });
        }
        (prompt_tokens, is_truncated) = (context, true);
    }
    let question = ask.question();
    let done =
        Answer { question, head, items: Vec::new(), finish: Finish::Stop, prompt_tokens, is_truncated };
    if let Some(tool) = ask.called() {
        let call = Call { name: tool.name.clone(), arguments: arguments(&tool.schema, &done.question) };
        return Ok(Answer { items: vec![Item::Call(call)], finish: Finish::Tools, ..done });
    }
    Ok(limited(done, ask, model))
}

fn limited(mut answer: Answer, ask: &Ask, model: &ModelSettings) -> Answer {
    if model.reasoning_tokens > 0 && answer.head.is_empty() {
        let thought = text::whole(&format!("{}?", answer.question), Form::Text, model.reasoning_tokens);
        answer.items.extend(thought.into_iter().map(Item::Reason));
    }
    let rest = text::rest(&answer.question, ask.form, model.answer_tokens, &answer.head);
    answer.items.extend(rest.into_iter().map(Item::Text));
    if let Some(limit) = ask.tokens_max
        && answer.tokens() > limit
    {
        answer.items.truncate(limit as usize);
        answer.finish = Finish::Length;
    }
    answer
}

/// Arguments that fit a tool's schema and depend on the question alone.
fn arguments(schema: &Value, question: &str) -> Value {
    let properties = schema.get("properties").and_then(Value::as_object);
    let named: Map<String, Value> = properties
        .into_iter()
        .flatten()
        .map(|(name, property)| (name.clone(), argument(property, &format!("{question}/{name}"))))
        .collect();
    Value::Object(named)
}

fn argument(schema: &Value, seed: &str) -> Value {
    if let Some(first) = schema.get("enum").and_then(Value::as_array).and_then(|list| list.first()) {
        return first.clone();
    }
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or("string").to_ascii_lowercase();
    match kind.as_str() {
        "integer" | "number" => json!(text::tokens_of(seed)),
        "boolean" => json!(true),
        "array" => json!([argument(schema.get("items").unwrap_or(&Value::Null), seed)]),
        "object" => arguments(schema, seed),
        _ => json!(text::answer(seed, 3)),
    }
}
