//! The tools of a Responses request as the functions that models know: those of a namespace get a name of both, a
//! free-form tool takes its text as `input`. What a model calls is named again as the program named it. It reads no
//! conversation.

use super::super::{Object, pieces::ToolCall, typed, unsupported, wrong};
use nhi_model::fault::Fault;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Longest name of a function.
const NAME_BYTES_MAX: usize = 64;
/// What stays of a tool's own name where both together are too long; the namespace has the rest.
const OWN_BYTES_MAX: usize = 40;
/// An underline and eight digits.
const MARK_BYTES: usize = 9;

/// A tool as the program named it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tool {
    namespace: Option<String>,
    name: String,
    is_free_form: bool,
}

/// What was offered, by the function's name: only what is more than a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Offered(BTreeMap<String, Tool>);

impl Offered {
    /// Reads the tools, and tells the functions in their order.
    pub(super) fn read(tools: Vec<Object>) -> Result<(Self, Vec<Value>), Fault> {
        let text = |tool: &Object, field: &str| tool.get(field).and_then(Value::as_str).map(str::to_owned);
        // A name that is made must be none that a tool has by itself.
        let mut taken: BTreeSet<String> = tools.iter().filter_map(|tool| text(tool, "name")).collect();
        let (mut offered, mut functions) = (Self::default(), Vec::new());
        for mut tool in tools {
            if tool.get("type").and_then(Value::as_str) != Some("namespace") {
                functions.extend(offered.function(tool, None)?);
                continue;
            }
            let namespace = text(&tool, "name").ok_or_else(|| wrong("a namespace of tools has no name"))?;
            let Some(Value::Array(inner)) = tool.remove("tools") else {
                return Err(wrong(&format!("the namespace {namespace} has no list of tools")));
            };
            // What is said of all of them stands at the first one: a function has no other place for it.
            let mut of_all = text(&tool, "description").filter(|said| !said.trim().is_empty());
            for tool in inner {
                let Value::Object(mut tool) = tool else {
                    return Err(wrong(&format!("a tool of the namespace {namespace} is no object")));
                };
                let Some(name) = text(&tool, "name") else {
                    return Err(wrong(&format!("a tool of the namespace {namespace} has no name")));
                };
                if let Some(of_all) = of_all.take() {
                    let own = text(&tool, "description").unwrap_or_default();
                    let said = format!("{own}\n\nOf all tools of {namespace}: {of_all}");
                    tool.insert("description".to_owned(), said.trim_start().into());
                }
                let plain = joined(&namespace, &name);
                let function = if taken.contains(&plain) { marked(&namespace, &name) } else { plain };
                taken.insert(function.clone());
                functions.extend(offered.function(tool, Some((namespace.clone(), function)))?);
            }
        }
        Ok((offered, functions))
    }

    /// One tool as a function; nothing where it is left out. `within` has the namespace and the name that was made.
    fn function(
        &mut self,
        mut tool: Object,
        within: Option<(String, String)>,
    ) -> Result<Option<Value>, Fault> {
        let name = tool.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let is_free_form = match tool.remove("type").as_ref().and_then(Value::as_str) {
            Some("function") => false,
            Some("custom") => true,
            // Programs offer these beside their own functions and do well without.
            Some("web_search" | "web_search_preview" | "image_generation" | "local_shell") => {
                return Ok(None);
            }
            kind => return Err(unsupported(&typed("a tool", kind))),
        };
        if is_free_form && name.is_empty() {
            return Err(wrong("a free-form tool has no name"));
        }
        let (namespace, function) = within.map_or((None, name.clone()), |(space, made)| (Some(space), made));
        if is_free_form {
            tool = of_text(&tool);
        }
        if is_free_form || namespace.is_some() {
            tool.insert("name".to_owned(), function.as_str().into());
            self.0.insert(function, Tool { namespace, name, is_free_form });
        }
        Ok(Some(json!({ "type": "function", "function": tool })))
    }

    /// The function's name of a tool that the program calls so; also of one that it no longer offers.
    pub(super) fn function_of(&self, namespace: Option<&str>, name: &str) -> String {
        let Some(space) = namespace else { return name.to_owned() };
        let is_it = |tool: &Tool| tool.namespace.as_deref() == namespace && tool.name == name;
        let found = self.0.iter().find(|(_, tool)| is_it(tool)).map(|(function, _)| function.clone());
        found.unwrap_or_else(|| joined(space, name))
    }

    /// A call as the program knows it.
    pub(super) fn item(&self, call: &ToolCall, status: &str) -> Value {
        let tool = self.0.get(&call.name);
        let mut item = match tool.filter(|tool| tool.is_free_form) {
            Some(tool) => json!({
                "id": format!("ctc_{}", call.id), "type": "custom_tool_call", "status": status, "call_id": call.id,
                "name": tool.name, "input": text_of(&call.arguments),
            }),
            None => json!({
                "id": format!("fc_{}", call.id), "type": "function_call", "status": status, "call_id": call.id,
                "name": tool.map_or(&call.name, |tool| &tool.name), "arguments": call.arguments,
            }),
        };
        if let Some(namespace) = tool.and_then(|tool| tool.namespace.as_deref()) {
            item["namespace"] = namespace.into();
        }
        item
    }
}

/// A free-form tool as a function of one text.
fn of_text(tool: &Object) -> Object {
    let mut what = "The whole input of the tool, as it is.".to_owned();
    let grammar = |field: &str| tool.get("format")?.get(field)?.as_str();
    if let Some(definition) = grammar("definition") {
        let syntax = grammar("syntax").unwrap_or_default();
        what.push_str(&format!(" It follows this grammar ({syntax}):\n{definition}"));
    }
    let parameters = json!({
        "type": "object", "properties": { "input": { "type": "string", "description": what } },
        "required": ["input"], "additionalProperties": false,
    });
    let description = tool.get("description").map(|said| ("description".to_owned(), said.clone()));
    description.into_iter().chain([("parameters".to_owned(), parameters)]).collect()
}

/// The arguments of a call of a free-form tool.
pub(super) fn arguments_of(text: &str) -> String {
    json!({ "input": text }).to_string()
}

/// The text a free-form tool is called with. Where a model did not do as it was told, the tool gets what it said: its
/// own refusal is the best answer.
fn text_of(arguments: &str) -> String {
    let input = match serde_json::from_str::<Value>(arguments) {
        Ok(Value::String(text)) => Some(text),
        Ok(Value::Object(mut arguments)) => match arguments.remove("input") {
            Some(Value::String(text)) => Some(text),
            Some(_) | None => None,
        },
        Ok(_) | Err(_) => None,
    };
    input.unwrap_or_else(|| arguments.to_owned())
}

const fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// The name of both.
fn joined(namespace: &str, name: &str) -> String {
    let whole = format!("{namespace}__{name}");
    let fits = whole.len() <= NAME_BYTES_MAX && whole.bytes().all(is_allowed);
    if fits { whole } else { marked(namespace, name) }
}

/// The name of both, shortened to what a function's name may be, with a mark that only these two have. The same every
/// time, for a conversation names its calls again.
fn marked(namespace: &str, name: &str) -> String {
    let digest = Sha256::digest(format!("{namespace}\0{name}"));
    let digits: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let readable = |text: &str, most: usize| -> String {
        let allowed = |c: char| u8::try_from(c).is_ok_and(is_allowed);
        text.chars().map(|c| if allowed(c) { c } else { '_' }).take(most).collect()
    };
    let own = readable(name, OWN_BYTES_MAX);
    let space = readable(namespace, NAME_BYTES_MAX - MARK_BYTES - "__".len() - own.len());
    format!("{space}__{own}_{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(tools: &Value) -> (Offered, Vec<String>) {
        let tools = serde_json::from_value(tools.clone()).unwrap();
        let (offered, functions) = Offered::read(tools).unwrap();
        let name = |function: &Value| function["function"]["name"].as_str().unwrap().to_owned();
        (offered, functions.iter().map(name).collect())
    }

    fn called(name: &str, arguments: &str) -> ToolCall {
        ToolCall {
            id: "t1".to_owned(),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
            ..ToolCall::default()
        }
    }

    #[test]
    fn a_name_that_is_made_is_short_of_its_own_and_finds_back() {
        let long = "list_everything_there_is_in_the_whole_house_and_in_its_garden".to_owned();
        let tool = |name: &str| json!({"type": "function", "name": name});
        let space = |name: &str, tools: &[&str]| {
            let tools: Vec<Value> = tools.iter().map(|name| tool(name)).collect();
            json!({"type": "namespace", "name": name, "tools": tools})
        };
        let (first, second) = (format!("{long}_1"), format!("{long}_2"));
        // Last what would have the same name as another one.
        let tools = json!([
            tool("lab__state"),
            space("mcp__lab", &["state", &first, &second, "öl"]),
            space("lab", &["state"]),
            space("a", &["b__c"]),
            space("a__b", &["c"]),
        ]);
        let (offered, names) = offered(&tools);
        assert_eq!(names[..2], ["lab__state", "mcp__lab__state"]);
        let all: BTreeSet<&String> = names.iter().collect();
        assert_eq!(all.len(), 8, "{names:?}");
        assert!(names.iter().all(|name| name.len() <= 64 && name.bytes().all(is_allowed)), "{names:?}");
        let pairs = [
            ("mcp__lab", "state"),
            ("mcp__lab", &first),
            ("mcp__lab", &second),
            ("mcp__lab", "öl"),
            ("lab", "state"),
            ("a", "b__c"),
            ("a__b", "c"),
        ];
        for ((namespace, name), function) in pairs.into_iter().zip(&names[1..]) {
            let item = offered.item(&called(function, "{}"), "completed");
            assert_eq!((&item["namespace"], &item["name"]), (&json!(namespace), &json!(name)), "{function}");
            assert_eq!(&offered.function_of(Some(namespace), name), function);
        }
        // A conversation names calls of tools that are no longer there.
        assert_eq!(Offered::default().function_of(Some("mcp__lab"), &first), names[2]);
        // The control: a function of its own keeps its name, and has no namespace.
        let item = offered.item(&called("lab__state", "{}"), "completed");
        assert_eq!((item.get("namespace"), &item["name"]), (None, &json!("lab__state")));
    }

    #[test]
    fn a_free_form_tool_gets_its_text_whatever_the_model_made_of_it() {
        let tool = json!([{"type": "custom", "name": "apply_patch", "description": "edits", "format":
            {"type": "grammar", "syntax": "lark", "definition": "start: line+"}}]);
        let (offered, functions) = Offered::read(serde_json::from_value(tool).unwrap()).unwrap();
        let told = functions[0]["function"]["parameters"]["properties"]["input"]["description"].to_string();
        assert!(told.contains("start: line+"), "{told}");
        assert_eq!(functions[0]["function"]["description"], json!("edits"));
        let patch = "*** Begin Patch\n\"a\"";
        for (arguments, input) in [
            (arguments_of(patch), patch),
            (json!(patch).to_string(), patch),
            (patch.to_owned(), patch),
            (r#"{"patch":"a"}"#.to_owned(), r#"{"patch":"a"}"#),
        ] {
            let item = offered.item(&called("apply_patch", &arguments), "completed");
            assert_eq!((&item["type"], &item["input"]), (&json!("custom_tool_call"), &json!(input)));
        }
    }
}
