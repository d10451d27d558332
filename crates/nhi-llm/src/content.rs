//! Reads the messages of a `chat.completions` body for backends that want them otherwise. It writes nobody's form.

use crate::{decoder::Fault, error::Kind};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A part of a message.
#[derive(Debug, PartialEq)]
pub(crate) enum Part<'a> {
    Text {
        text: &'a str,
        part: Option<&'a Map<String, Value>>,
    },
    /// `data` is base64.
    Data {
        mime: &'a str,
        data: &'a str,
        image: bool,
    },
    Url(&'a str),
}

/// The parts of a message's content.
pub(crate) fn parts(message: &Map<String, Value>) -> Result<Vec<Part<'_>>, Fault> {
    match message.get("content") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![Part::Text { text, part: None }]),
        Some(Value::Array(list)) => list.iter().map(part).collect(),
        Some(_) => Err(wrong("a message's content is neither text nor a list of parts")),
    }
}

fn part(value: &Value) -> Result<Part<'_>, Fault> {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default();
    match kind {
        "text" | "input_text" | "output_text" | "refusal" => {
            let text = value.get("text").or_else(|| value.get("refusal")).and_then(Value::as_str);
            let text = text.ok_or_else(|| wrong("a part of type text has no text"))?;
            Ok(Part::Text { text, part: value.as_object() })
        }
        "image_url" => {
            let url = value.get("image_url");
            let url = url.and_then(|url| url.as_str().or_else(|| url.get("url")?.as_str()));
            let url = url.ok_or_else(|| wrong("a part of type image_url has no url"))?;
            if !url.starts_with("data:") {
                return Ok(Part::Url(url));
            }
            let (mime, data) = data_url(url)?;
            Ok(Part::Data { mime, data, image: true })
        }
        "file" => {
            let data = value.pointer("/file/file_data").and_then(Value::as_str);
            let data =
                data.ok_or_else(|| unable("a file that is only named cannot be sent to this backend"))?;
            let (mime, data) = data_url(data)?;
            Ok(Part::Data { mime, data, image: false })
        }
        other => Err(unable(&format!("a part of type {other:?} cannot be sent to this backend"))),
    }
}

fn data_url(url: &str) -> Result<(&str, &str), Fault> {
    let rest = url.strip_prefix("data:").unwrap_or(url);
    let (mime, data) = rest.split_once(";base64,").ok_or_else(|| wrong("a data: url is not base64"))?;
    Ok((mime.split(';').next().unwrap_or_default(), data))
}

/// The text of a message, its parts joined; anything else in it is refused.
pub(crate) fn text(message: &Map<String, Value>) -> Result<String, Fault> {
    parts(message)?.into_iter().try_fold(String::new(), |mut text, part| match part {
        Part::Text { text: more, .. } => {
            text.push_str(more);
            Ok(text)
        }
        Part::Data { .. } | Part::Url(_) => Err(unable("only text can be said in this role")),
    })
}

/// What the model was thinking, as one of the two names has it.
pub(crate) fn reasoning(message: &Map<String, Value>) -> Option<&str> {
    let names = ["reasoning_content", "reasoning"];
    names.iter().find_map(|name| message.get(*name)?.as_str()).filter(|text| !text.is_empty())
}

/// A tool call in a message.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) arguments: Value,
    /// All of it.
    pub(crate) raw: &'a Value,
}

/// The tool calls of a message.
pub(crate) fn calls(message: &Map<String, Value>) -> Result<Vec<Call<'_>>, Fault> {
    let list = message.get("tool_calls").and_then(Value::as_array);
    list.into_iter().flatten().map(call).collect()
}

fn call(raw: &Value) -> Result<Call<'_>, Fault> {
    let name = raw.pointer("/function/name").and_then(Value::as_str);
    let name = name.ok_or_else(|| wrong("a tool call has no function name"))?;
    let arguments = match raw.pointer("/function/arguments") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(Value::String(text)) if text.trim().is_empty() => Value::Object(Map::new()),
        Some(Value::String(text)) => serde_json::from_str(text)
            .map_err(|_| wrong(&format!("the arguments of a call of {name} are not JSON")))?,
        Some(other) => other.clone(),
    };
    if !arguments.is_object() {
        return Err(wrong(&format!("the arguments of a call of {name} are no JSON object")));
    }
    let id = raw.get("id").and_then(Value::as_str).unwrap_or_default();
    Ok(Call { id, name, arguments, raw })
}

/// The name of the tool that each id of a call is for.
pub(crate) fn call_names(messages: &[Value]) -> BTreeMap<&str, &str> {
    let calls = messages.iter().filter_map(|message| message.get("tool_calls")?.as_array()).flatten();
    calls
        .filter_map(|call| Some((call.get("id")?.as_str()?, call.pointer("/function/name")?.as_str()?)))
        .collect()
}

/// The messages of a request.
pub(crate) fn messages(request: &Map<String, Value>) -> Result<&[Value], Fault> {
    let messages = request.get("messages").and_then(Value::as_array);
    messages.map(Vec::as_slice).ok_or_else(|| wrong("the request has no list of messages"))
}

/// A message and its role.
pub(crate) fn role(message: &Value) -> Result<(&str, &Map<String, Value>), Fault> {
    let message = message.as_object().ok_or_else(|| wrong("a message is no object"))?;
    let role = message.get("role").and_then(Value::as_str);
    Ok((role.ok_or_else(|| wrong("a message has no role"))?, message))
}

/// The tools that may be called: none where the request says so.
pub(crate) fn tools(request: &Map<String, Value>) -> &[Value] {
    if request.get("tool_choice").is_some_and(|choice| choice == "none") {
        return &[];
    }
    request.get("tools").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Which tool has to be called.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MustCall<'a> {
    Nothing,
    Any,
    This(&'a str),
}

/// What `tool_choice` says.
pub(crate) fn must_call(request: &Map<String, Value>) -> MustCall<'_> {
    match request.get("tool_choice") {
        Some(Value::String(word)) if word == "required" || word == "any" => MustCall::Any,
        Some(choice) => {
            choice.pointer("/function/name").and_then(Value::as_str).map_or(MustCall::Nothing, MustCall::This)
        }
        None => MustCall::Nothing,
    }
}

/// What the answer has to be.
#[derive(Debug, PartialEq)]
pub(crate) enum Format<'a> {
    Text,
    Json,
    Schema(&'a Value),
}

/// What `response_format` says.
pub(crate) fn format(request: &Map<String, Value>) -> Format<'_> {
    let Some(format) = request.get("response_format") else { return Format::Text };
    match format.get("type").and_then(Value::as_str) {
        Some("json_object") => Format::Json,
        Some("json_schema") => {
            let schema = format.pointer("/json_schema/schema").or_else(|| format.get("schema"));
            schema.map_or(Format::Json, Format::Schema)
        }
        _ => Format::Text,
    }
}

/// Tokens of the answer, by either name.
pub(crate) fn output_tokens_max(request: &Map<String, Value>) -> Option<u64> {
    ["max_completion_tokens", "max_tokens"].iter().find_map(|name| request.get(*name)?.as_u64())
}

/// Where to stop, as a list.
pub(crate) fn stops(request: &Map<String, Value>) -> Option<Value> {
    match request.get("stop")? {
        Value::String(text) => Some(vec![text.as_str()].into()),
        list @ Value::Array(_) => Some(list.clone()),
        _ => None,
    }
}

/// Several answers at once are OpenAI's alone.
pub(crate) fn one_choice(request: &Map<String, Value>) -> Result<(), Fault> {
    match request.get("n").and_then(Value::as_u64) {
        None | Some(0 | 1) => Ok(()),
        Some(count) => Err(unable(&format!("{count} answers at once cannot be had of this backend"))),
    }
}

/// The name of the model.
pub(crate) fn model(request: &Map<String, Value>) -> Result<&str, Fault> {
    request.get("model").and_then(Value::as_str).ok_or_else(|| wrong("the request has no model"))
}

pub(crate) fn wrong(what: &str) -> Fault {
    Fault::Refused(Kind::BadRequest, what.to_owned())
}

pub(crate) fn unable(what: &str) -> Fault {
    Fault::Refused(Kind::Unsupported, what.to_owned())
}
