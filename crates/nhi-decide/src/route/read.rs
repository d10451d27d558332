//! Reads a request: what is asked for, what it needs, how long it is, how far it may go. It changes nothing in it.

use super::{Alias, LIMIT_FIELDS, Settings, intent, refuse, shipped, tokens};
use nhi_model::{
    ai::{Intent, ORIGIN_FIELD, Priority, Privacy},
    identity::IdentityName,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Longest name of a model, characters.
const MODEL_CHARS_MAX: usize = 200;
/// Longest name of a project, characters: it becomes part of keys.
const PROJECT_CHARS_MAX: usize = 64;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Who asks.
    pub caller: IdentityName,
    /// The alias or model, as written; `auto` where nothing is.
    pub asked: String,
    /// What the answer takes.
    pub needs: Needs,
    /// Tokens of the prompt, rather too many than too few.
    pub prompt_tokens: u32,
    /// Tokens the answer may have, where the request says so.
    pub output_tokens: Option<u32>,
    /// How far it may go: the strictest of what request, alias, caller and project say.
    pub privacy: Privacy,
    /// Its class.
    pub priority: Priority,
    /// What it is about.
    pub intent: Intent,
    /// For which project.
    pub project: Option<String>,
    /// Whether the answer comes in pieces.
    pub stream: bool,
    /// A number of the conversation's beginning: equal ones begin equally.
    pub prefix: u64,
    /// The head of the last question, for a judge; see [`intent::question`].
    pub question: String,
}

/// What the answer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Tools can be called.
    pub tools: bool,
    /// Images are shown.
    pub vision: bool,
    /// The answer is to be JSON.
    pub json: bool,
    /// Vectors are wanted, no text.
    pub embeds: bool,
}

/// Why a body is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct BadRequest {
    /// Where in the body: `messages[2].role`.
    pub field: String,
    /// What is wrong and what to write instead.
    pub what: String,
}

impl BadRequest {
    fn new(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self { field: field.into(), what: what.into() }
    }
}

/// The field `nhi` of a request: what OpenAI's format has no word for.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wishes {
    privacy: Privacy,
    priority: Option<Priority>,
    project: Option<String>,
}

/// Reads a body of `ai.chat` (with `messages`) or `ai.embed` (with `input`).
///
/// # Errors
/// [`BadRequest`] names the field. Whether the model is known is not asked here.
pub fn read(
    body: &Map<String, Value>,
    caller: &IdentityName,
    settings: &Settings,
) -> Result<Ask, BadRequest> {
    let asked = model(body, &settings.guard.default)?;
    let wishes = wishes(body)?;
    if let Some(project) = &wishes.project {
        known(project, settings)?;
    }
    let embeds = !body.contains_key("messages") && body.contains_key("input");
    let messages = if embeds { input(body)? } else { messages(body)? };
    let alias = alias(settings, &asked);
    let question = intent::question(messages);
    let caller_settings = settings.caller(caller);
    let project_settings = wishes.project.as_ref().and_then(|project| settings.projects.get(project));
    let privacy = [
        Some(wishes.privacy),
        alias.map(|alias| alias.privacy),
        // Whoever gives `private` another order has not said that it may leave home.
        shipped::alias(&asked).map(|alias| alias.privacy),
        caller_settings.map(|caller| caller.privacy),
        project_settings.map(|project| project.privacy),
    ];
    let priority = wishes.priority.or(alias.and_then(|alias| alias.priority)).unwrap_or_default();
    let best = caller_settings.and_then(|caller| caller.priority);
    Ok(Ask {
        caller: caller.clone(),
        needs: Needs { embeds, ..needs(body, messages) },
        prompt_tokens: tokens::of_body(body),
        output_tokens: output_tokens(body)?,
        privacy: privacy.into_iter().flatten().max().unwrap_or_default(),
        priority: best.map_or(priority, |best| priority.max(best)),
        intent: alias.and_then(|alias| alias.intent).unwrap_or_else(|| intent::of_conversation(messages)),
        project: wishes.project,
        stream: flag(body, "stream")?,
        prefix: prefix(messages),
        question,
        asked,
    })
}

/// The alias of this name: the configuration's, else the shipped one.
fn alias<'s>(settings: &'s Settings, name: &str) -> Option<&'s Alias> {
    settings.aliases.get(name).or_else(|| shipped::alias(name))
}

impl Ask {
    /// The alias it asks for; `None`: a model.
    pub fn alias<'s>(&self, settings: &'s Settings) -> Option<&'s Alias> {
        alias(settings, &self.asked)
    }

    /// Tokens of prompt and answer together.
    pub fn tokens(&self, settings: &Settings) -> u32 {
        let answer = if self.needs.embeds { 0 } else { self.answer_tokens(settings) };
        self.prompt_tokens.saturating_add(answer)
    }

    /// Tokens the answer may have, said or assumed.
    pub fn answer_tokens(&self, settings: &Settings) -> u32 {
        self.output_tokens.unwrap_or(settings.guard.answer_tokens)
    }

    /// What was made of the request, as words.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![match self.intent {
            Intent::Coding => "coding".to_owned(),
            Intent::Simple => "simple".to_owned(),
        }];
        let Needs { tools, vision, json, embeds } = self.needs;
        for (is, word) in [(tools, "tools"), (vision, "vision"), (json, "json"), (embeds, "embedding")] {
            if is {
                words.push(word.to_owned());
            }
        }
        words.push(match self.priority {
            Priority::Autocomplete => "autocomplete".to_owned(),
            Priority::Chat => "chat".to_owned(),
            Priority::Bulk => "bulk".to_owned(),
        });
        match self.privacy {
            Privacy::Any => {}
            Privacy::NoTraining => words.push("no-training".to_owned()),
            Privacy::Home => words.push("stays home".to_owned()),
        }
        words.extend(self.project.as_ref().map(|project| format!("project {project}")));
        words.push(format!("~{} tokens", self.prompt_tokens));
        words
    }
}

fn model(body: &Map<String, Value>, default: &str) -> Result<String, BadRequest> {
    match body.get("model") {
        None | Some(Value::Null) => Ok(default.to_owned()),
        Some(Value::String(name)) if name.trim().is_empty() => Ok(default.to_owned()),
        Some(Value::String(name)) if name.chars().count() > MODEL_CHARS_MAX => {
            Err(BadRequest::new("model", format!("longer than {MODEL_CHARS_MAX} characters")))
        }
        Some(Value::String(name)) if name.chars().any(char::is_control) => {
            Err(BadRequest::new("model", "has a control character"))
        }
        Some(Value::String(name)) => Ok(name.trim().to_owned()),
        Some(other) => Err(wrong("model", "a name", other)),
    }
}

fn wishes(body: &Map<String, Value>) -> Result<Wishes, BadRequest> {
    match body.get(ORIGIN_FIELD) {
        None | Some(Value::Null) => Ok(Wishes::default()),
        Some(value) => Wishes::deserialize(value).map_err(|error| {
            BadRequest::new(ORIGIN_FIELD, format!("{error}; it may have privacy, priority and project"))
        }),
    }
}

/// A project that nobody configured has no rules. Where another one's keep it from leaving, this name may be that one's
/// with a letter wrong, so it is refused instead of sent anywhere.
fn known(project: &str, settings: &Settings) -> Result<(), BadRequest> {
    const FIELD: &str = "nhi.project";
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if project.is_empty() || project.len() > PROJECT_CHARS_MAX || !project.bytes().all(is_safe) {
        let what = format!("expected 1 to {PROJECT_CHARS_MAX} letters, digits, '.', '_' and '-'");
        return Err(BadRequest::new(FIELD, what));
    }
    let is_strict = settings.projects.values().any(|project| project.privacy > Privacy::Any);
    if !is_strict || settings.projects.contains_key(project) {
        return Ok(());
    }
    let near = refuse::near(project, settings.projects.keys().cloned());
    let hint = if near.is_empty() {
        "add [ai.project.<id>] to nhi.toml, or leave it out".to_owned()
    } else {
        format!("did you mean {}?", near.join(", "))
    };
    Err(BadRequest::new(FIELD, format!("no project is called so, and some may not leave home; {hint}")))
}

fn messages(body: &Map<String, Value>) -> Result<&[Value], BadRequest> {
    let list = match body.get("messages") {
        None | Some(Value::Null) => {
            return Err(BadRequest::new("messages", "is missing: send at least one message"));
        }
        Some(Value::Array(list)) if list.is_empty() => {
            return Err(BadRequest::new("messages", "is empty: send at least one message"));
        }
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong("messages", "a list", other)),
    };
    for (index, message) in list.iter().enumerate() {
        let field = |name: &str| format!("messages[{index}]{name}");
        let Value::Object(message) = message else {
            return Err(wrong(&field(""), "an object with role and content", message));
        };
        match message.get("role") {
            Some(Value::String(role)) if !role.is_empty() => {}
            None => {
                return Err(BadRequest::new(field(".role"), "is missing: write user, assistant or system"));
            }
            Some(other) => return Err(wrong(&field(".role"), "user, assistant, system or tool", other)),
        }
        match message.get("content") {
            None | Some(Value::Null | Value::String(_) | Value::Array(_)) => {}
            Some(other) => return Err(wrong(&field(".content"), "a text or a list of parts", other)),
        }
    }
    Ok(list)
}

fn input(body: &Map<String, Value>) -> Result<&[Value], BadRequest> {
    match body.get("input") {
        Some(Value::String(_)) => Ok(&[]),
        Some(Value::Array(list)) if list.is_empty() => {
            Err(BadRequest::new("input", "is empty: send at least one text"))
        }
        Some(Value::Array(_)) => Ok(&[]),
        None => Err(BadRequest::new("input", "is missing: send a text or a list of texts")),
        Some(other) => Err(wrong("input", "a text or a list of texts", other)),
    }
}

fn output_tokens(body: &Map<String, Value>) -> Result<Option<u32>, BadRequest> {
    for field in LIMIT_FIELDS {
        match body.get(field) {
            None | Some(Value::Null) => {}
            Some(value) => {
                let number = value.as_u64().filter(|number| *number > 0);
                let number = number.and_then(|number| u32::try_from(number).ok());
                return number.map(Some).ok_or_else(|| wrong(field, "a whole number from 1 on", value));
            }
        }
    }
    Ok(None)
}

fn flag(body: &Map<String, Value>, field: &str) -> Result<bool, BadRequest> {
    match body.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(is)) => Ok(*is),
        Some(other) => Err(wrong(field, "true or false", other)),
    }
}

/// Says what stands there by its sort alone: the value may be somebody's text.
fn wrong(field: &str, expected: &str, found: &Value) -> BadRequest {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "this number",
        Value::String(_) => "this text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    BadRequest::new(field, format!("expected {expected}, not {found}"))
}

fn needs(body: &Map<String, Value>, messages: &[Value]) -> Needs {
    let filled = |field: &str| body.get(field).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let parts = messages.iter().filter_map(|message| message.get("content")?.as_array()).flatten();
    let vision = parts
        .filter_map(|part| part.get("type")?.as_str())
        .any(|kind| matches!(kind, "image_url" | "image" | "input_image"));
    let format = body.get("response_format").and_then(|format| format.get("type")).and_then(Value::as_str);
    let json = matches!(format, Some("json_object" | "json_schema"));
    Needs { tools: filled("tools") || filled("functions"), vision, json, embeds: false }
}

/// Messages that begin a conversation and stay: what an agent says of itself and the first question.
const PREFIX_MESSAGES: usize = 2;

/// Why not a digest? It names a warm slot and decides nothing; equal builds give equal numbers, and no more is needed.
fn prefix(messages: &[Value]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for message in messages.iter().take(PREFIX_MESSAGES) {
        message.to_string().hash(&mut hasher);
    }
    hasher.finish()
}
